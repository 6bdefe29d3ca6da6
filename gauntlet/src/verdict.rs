//! What follows from entries, as pure functions: words for people, contradictions, and whom to check.

use std::collections::BTreeSet;

use protocol::{
    Digest, Judge, Refusal,
    score::{Entry, Outcome, Standing, Trial},
};

/// Devices differ in a loss's last digits even on equal sequences: by this share of the loss at most.
const DEVICE: f64 = 1e-4;
/// What is below this part of a bound is clearly within it.
const MARGIN: f64 = 0.9;
/// Combined standard errors by which two devices' gains on the same sequences differ at most.
const SAME_GAIN: f64 = 0.5;
/// By how much two standard errors of the same sequences differ at most, as a factor.
const SAME_ERROR: f64 = 1.5;
/// The same of different numbers of sequences, which may be few.
const OTHER_ERROR: f64 = 5.0;

/// What was found, in words.
pub(crate) fn in_words(entry: &Entry) -> String {
    match &entry.outcome {
        Outcome::Refused(refusal) => format!("refused: {refusal}"),
        Outcome::Unmeasured => "sound, not measured".to_owned(),
        Outcome::Measured { assigned, random, .. } => format!(
            "gain {:+.4} on its own data, {:+.4} ± {:.4} on random{}",
            assigned.gain(),
            random.gain(),
            random.std_error,
            if random.gain() <= 0.0 { ": harmful" } else { "" }
        ),
    }
}

/// Where `own` contradicts `theirs`, in words. `alike`: both know the same payloads of the round, and so the same median norms.
pub(crate) fn contradiction(theirs: &Entry, own: &Entry, judge: &Judge, alike: bool) -> Option<String> {
    let apart = |t, o| other_gain(t, o, if alike { SAME_GAIN } else { judge.z }, judge.z);
    match (&theirs.outcome, &own.outcome) {
        (Outcome::Refused(refusal @ (Refusal::Copy { .. } | Refusal::Outlier { .. })), own) => {
            clearly_not(refusal, own, judge).then(|| format!("refused in the sheet ({refusal}), sound here"))
        }
        (Outcome::Measured { random: t, assigned: ta, .. }, Outcome::Measured { random: o, assigned: oa, .. }) => {
            let trials = [("random", t, o), ("assigned", ta, oa)];
            let gains = trials.iter().find_map(|(name, t, o)| Some(format!("{name} {}", apart(t, o)?)));
            gains.or_else(|| trials.iter().find_map(|(name, t, o)| Some(format!("{name} {}", other_error(t, o)?))))
        }
        (Outcome::Refused(Refusal::LossNotFinite), Outcome::Unmeasured) => None,
        (Outcome::Refused(refusal), Outcome::Measured { .. } | Outcome::Unmeasured) => {
            Some(format!("refused in the sheet ({refusal}), sound here"))
        }
        (Outcome::Measured { .. } | Outcome::Unmeasured, Outcome::Refused(refusal)) if refusal.is_fact() => {
            Some(format!("sound in the sheet, refused here: {refusal}"))
        }
        (Outcome::Measured { .. } | Outcome::Unmeasured, Outcome::Refused(refusal @ Refusal::Copy { percent, .. })) => {
            // beyond what different parts of payloads may show
            let clearly = f64::from(*percent) / 100.0 > 1.0 - (1.0 - judge.overlap) * MARGIN;
            clearly.then(|| format!("sound in the sheet, refused here: {refusal}"))
        }
        _ => None,
    }
}

/// Whose line in a sheet is furthest from what its owner's past lets one expect: a lie that changes much is looked at. The unit is the
/// round's typical gain; whoever is refused gained nothing. Nobody is known to be surprising who was never measured.
pub(crate) fn most_surprising(entries: &[Entry], standing: &Standing) -> Option<u16> {
    let mut gains: Vec<f64> = entries.iter().filter_map(|e| e.outcome.gain()).collect();
    gains.sort_by(f64::total_cmp);
    let median = gains.get(gains.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
    let relative = |e: &Entry| match e.outcome.gain() {
        Some(gain) if median > 0.0 => gain / median,
        Some(gain) => gain.signum(),
        None => 0.0,
    };
    let surprise = |e: &&Entry| {
        let expected = standing.of(e.uid).filter(|s| s.hotkey == e.hotkey && s.measured > 0)?.gain;
        Some((relative(e) - expected).abs())
    };
    let visible = entries.iter().filter(|e| !e.outcome.refusal().is_some_and(Refusal::is_of_envelope));
    let surprises = visible.filter_map(|e| Some((surprise(&e)?, e.uid)));
    surprises.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, uid)| uid)
}

/// Whether a payload refused by comparison is none of that kind here, by a margin: validators compare different parts of payloads.
fn clearly_not(refusal: &Refusal, own: &Outcome, judge: &Judge) -> bool {
    match (refusal, own) {
        (Refusal::Copy { .. }, Outcome::Measured { overlap, .. }) => *overlap < judge.overlap * MARGIN,
        (Refusal::Outlier { .. }, Outcome::Measured { norm, .. }) => *norm < judge.outlier * MARGIN,
        _ => false,
    }
}

/// Where the gains are further apart than errors allow. Own figures only: a sheet must not widen the bounds of its own check.
/// `same` and `z` are the combined standard errors allowed on the same sequences and on others.
fn other_gain(theirs: &Trial, own: &Trial, same: f64, z: f64) -> Option<String> {
    let error = combined_error(theirs, own);
    // as many tokens are the same sequences, which follow from the chain: chance has no part in the difference
    let errors = if theirs.tokens == own.tokens { same } else { z };
    let apart = (theirs.gain() - own.gain()).abs();
    let (theirs, ours) = (theirs.gain(), own.gain());
    (apart > errors * error && apart > DEVICE * own.before.abs())
        .then(|| format!("gain {theirs:.5} in the sheet, {ours:.5} measured here, combined standard error {error:.5}"))
}

/// Theirs counts up to what the own one would be on as many tokens: a lead that claimed a huge one could not be contradicted.
fn combined_error(theirs: &Trial, own: &Trial) -> f64 {
    let scale = (own.tokens as f64 / theirs.tokens.max(1) as f64).sqrt();
    theirs.std_error.min(own.std_error * scale).hypot(own.std_error)
}

/// Where their standard error is not that of the same sequences, or of as many others. Evidence and entry depend on it.
fn other_error(theirs: &Trial, own: &Trial) -> Option<String> {
    if own.std_error <= 0.0 || own.std_error >= f64::MAX || theirs.tokens == 0 {
        return None;
    }
    let ratio = theirs.std_error * (theirs.tokens as f64).sqrt() / (own.std_error * (own.tokens as f64).sqrt());
    let most = if theirs.tokens == own.tokens { SAME_ERROR } else { OTHER_ERROR };
    let fits = (1.0 / most..=most).contains(&ratio);
    (!fits).then(|| format!("standard error {:.5} in the sheet, {:.5} measured here", theirs.std_error, own.std_error))
}

/// The few uids that a validator measures when another leads. `secret` is its own: the lead makes its sheet after the seed is known, and
/// must not know whose figures are looked at.
pub(crate) fn spot_checks(uids: &[u16], seed: &Digest, secret: &[u8; 32], count: usize) -> BTreeSet<u16> {
    let mut drawn: Vec<(Digest, u16)> =
        uids.iter().map(|uid| (Digest::derive("tributary 2026 spot check v1", &[&seed.0, secret, &uid.to_le_bytes()]), *uid)).collect();
    drawn.sort_unstable();
    drawn.into_iter().take(count).map(|(_, uid)| uid).collect()
}

#[cfg(test)]
mod tests {
    use protocol::{Hotkey, score::MinerScore};

    use super::*;

    fn entry(outcome: Outcome) -> Entry {
        Entry { uid: 1, hotkey: Hotkey([1; 32]), payload: Digest::default(), outcome }
    }

    fn trial(gain: f64, std_error: f64) -> Trial {
        Trial { before: 2.0, after: 2.0 - gain, std_error, tokens: 64 }
    }

    fn measured(assigned: Trial, random: Trial) -> Entry {
        entry(Outcome::Measured { assigned, random, work: 1.0, norm: 1.0, overlap: 0.0 })
    }

    #[test]
    fn figures_further_apart_than_z_errors_contradict() {
        let own = measured(trial(0.2, 0.01), trial(0.1, 0.01));
        let fewer = |gain: f64| Trial { tokens: 60, ..trial(gain, 0.01) };
        let says = |assigned: f64, random: f64| contradiction(&measured(fewer(assigned), fewer(random)), &own, &Judge::default(), true);
        assert_eq!(says(0.2, 0.1), None);
        assert_eq!(says(0.2, 0.1 + 0.05), None, "within 4 · √2 · 0.01");
        assert!(says(0.2, 0.1 + 0.06).is_some_and(|words| words.starts_with("random gain 0.16000 in the sheet")));
        assert!(says(0.2 - 0.06, 0.1).is_some_and(|words| words.starts_with("assigned")));
    }

    #[test]
    fn a_sheet_cannot_make_itself_uncontradictable() {
        let own = measured(trial(0.2, 0.01), trial(0.1, 0.01));
        // gains as they are, and errors that would make or break the evidence
        for std_error in [0.001, 0.1] {
            assert!(
                contradiction(&measured(trial(0.2, std_error), trial(0.1, 0.01)), &own, &Judge::default(), true)
                    .is_some_and(|w| w.contains("standard error"))
            );
        }
        for std_error in [1.0, f64::MAX] {
            assert!(contradiction(&measured(trial(0.2, std_error), trial(0.5, std_error)), &own, &Judge::default(), true).is_some());
        }
        let huge = Trial { before: 1e9, after: 1e9 - 0.5, std_error: 0.01, tokens: 64 };
        assert!(contradiction(&measured(trial(0.2, 0.01), huge), &own, &Judge::default(), true).is_some());
    }

    #[test]
    fn the_last_digits_of_two_devices_contradict_nothing() {
        let own = measured(trial(0.2, 0.0), trial(0.1, 0.0));
        assert_eq!(contradiction(&measured(trial(0.2, 0.0), trial(0.1 + 1e-5, 0.0)), &own, &Judge::default(), true), None);
        assert!(contradiction(&measured(trial(0.2, 0.0), trial(0.1 + 1e-3, 0.0)), &own, &Judge::default(), true).is_some());
    }

    #[test]
    fn a_refusal_contradicts_a_measurement_only_where_bytes_prove_it() {
        let sound = measured(trial(0.2, 0.01), trial(0.1, 0.01));
        let refused = |refusal| entry(Outcome::Refused(refusal));
        assert!(contradiction(&refused(Refusal::NotRevealed), &sound, &Judge::default(), true).is_some());
        assert!(contradiction(&sound, &refused(Refusal::WrongOwner), &Judge::default(), true).is_some());
        assert_eq!(contradiction(&sound, &refused(Refusal::Missing), &Judge::default(), true), None);
        assert_eq!(contradiction(&refused(Refusal::Missing), &refused(Refusal::WrongOwner), &Judge::default(), true), None);
    }

    #[test]
    fn spot_checks_are_few_fair_and_unforeseeable() {
        let uids: Vec<u16> = (0..10).collect();
        let drawn = |seed: u8, me: u8| spot_checks(&uids, &Digest([seed; 32]), &[me; 32], 3);
        assert_eq!(drawn(1, 1), drawn(1, 1));
        assert_ne!(drawn(1, 1), drawn(1, 2), "another validator checks others");
        let mut all: Vec<u16> = (0..60).flat_map(|seed| drawn(seed, 1)).collect();
        assert_eq!(all.len(), 180);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all, uids, "everybody's turn comes");
        assert_eq!(spot_checks(&uids[..2], &Digest([1; 32]), &[1; 32], 3).len(), 2);
    }

    fn of(uid: u16, outcome: Outcome) -> Entry {
        Entry { uid, hotkey: Hotkey([uid as u8; 32]), ..entry(outcome) }
    }

    #[test]
    fn the_same_sequences_leave_little_room_and_other_ones_what_chance_may_do() {
        let own = measured(trial(0.2, 0.01), trial(0.1, 0.01));
        let says = |tokens: u64, alike: bool| {
            let random = Trial { tokens, ..trial(0.12, 0.01) };
            contradiction(&measured(trial(0.2, 0.01), random), &own, &Judge::default(), alike).is_some()
        };
        assert!(says(64, true), "by more than half of √2 · 0.01");
        assert!(!says(60, true), "within 4 · √2 · 0.01");
        assert!(!says(64, false), "where payloads are clipped otherwise");
    }

    #[test]
    fn comparisons_near_their_bounds_contradict_nobody() {
        let (judge, refusal) = (Judge::default(), Refusal::Copy { uid: 3, round: 1, percent: 71 });
        let says = |overlap: f64, norm: f64, refusal: Refusal| {
            let Outcome::Measured { assigned, random, work, .. } = measured(trial(0.2, 0.01), trial(0.1, 0.01)).outcome else { panic!() };
            let own = entry(Outcome::Measured { assigned, random, work, norm, overlap });
            contradiction(&entry(Outcome::Refused(refusal)), &own, &judge, true).is_some()
        };
        assert_eq!([0.69, 0.6].map(|overlap| says(overlap, 1.0, refusal.clone())), [false, true]);
        assert_eq!([2.9, 2.0].map(|norm| says(0.0, norm, Refusal::Outlier { percent: 301 })), [false, true]);
        assert_eq!(contradiction(&entry(Outcome::Refused(refusal)), &entry(Outcome::Unmeasured), &judge, true), None, "not measured here");
        let sound = measured(trial(0.2, 0.01), trial(0.1, 0.01));
        let copy = |percent: u32, round: u64| entry(Outcome::Refused(Refusal::Copy { uid: 3, round, percent }));
        assert_eq!(
            [71, 72, 75, 90].map(|percent| contradiction(&sound, &copy(percent, 5), &judge, true).is_some()),
            [false, false, true, true]
        );
    }

    #[test]
    fn the_line_that_changes_most_is_looked_at() {
        let known = |uid: u16, gain: f64, measured: u32| MinerScore { gain, measured, ..MinerScore::new(uid, Hotkey([uid as u8; 32])) };
        let standing =
            Standing { miners: vec![known(1, 1.0, 5), known(2, 1.0, 5), known(3, 0.1, 5), known(4, 0.0, 0)], ..Standing::default() };
        let says = |gain: f64| measured(trial(gain, 0.01), trial(gain, 0.01)).outcome;
        let surprise = |outcomes: [Outcome; 4]| {
            let entries: Vec<Entry> = (1..).zip(outcomes).map(|(uid, outcome)| of(uid, outcome)).collect();
            most_surprising(&entries, &standing)
        };
        let usual = [says(0.1), says(0.11), says(0.01), says(9.0)];
        let with = |place: usize, outcome: Outcome| {
            let mut outcomes = usual.clone();
            outcomes[place] = outcome;
            surprise(outcomes)
        };
        assert_eq!(with(1, says(-0.1)), Some(2), "an honest miner that is said to harm");
        assert_eq!(with(0, Outcome::Refused(Refusal::NotRevealed)), Some(1), "or to be late");
        assert_eq!(with(2, says(0.5)), Some(3), "a favourite; the newcomer surprises nobody");
        assert_ne!(with(0, Outcome::Refused(Refusal::WrongRound)), Some(1), "what the envelope shows needs no check");
        assert_eq!(most_surprising(&[], &standing), None);
    }
}
