//! What follows from entries, as pure functions: words for people, contradictions, and whom to check.

use std::collections::BTreeSet;

use protocol::{
    Digest,
    score::{Entry, Outcome, Trial},
};

/// Devices differ in a loss's last digits even on equal sequences: by this share of the loss at most.
const DEVICE: f64 = 1e-4;
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

/// Where `own` contradicts `theirs`, in words.
pub(crate) fn contradiction(theirs: &Entry, own: &Entry, z: f64) -> Option<String> {
    match (&theirs.outcome, &own.outcome) {
        (Outcome::Measured { random: t, assigned: ta, .. }, Outcome::Measured { random: o, assigned: oa, .. }) => {
            let trials = [("random", t, o), ("assigned", ta, oa)];
            let gains = trials.iter().find_map(|(name, t, o)| Some(format!("{name} {}", other_gain(t, o, z)?)));
            gains.or_else(|| trials.iter().find_map(|(name, t, o)| Some(format!("{name} {}", other_error(t, o)?))))
        }
        (Outcome::Refused(refusal), Outcome::Measured { .. } | Outcome::Unmeasured) => {
            Some(format!("refused in the sheet ({refusal}), sound here"))
        }
        (Outcome::Measured { .. } | Outcome::Unmeasured, Outcome::Refused(refusal)) if refusal.is_fact() => {
            Some(format!("sound in the sheet, refused here: {refusal}"))
        }
        _ => None,
    }
}

/// Where the gains are further apart than errors allow. Own figures only: a sheet must not widen the bounds of its own check.
fn other_gain(theirs: &Trial, own: &Trial, z: f64) -> Option<String> {
    let error = combined_error(theirs, own);
    let apart = (theirs.gain() - own.gain()).abs();
    let (theirs, ours) = (theirs.gain(), own.gain());
    (apart > z * error && apart > DEVICE * own.before.abs())
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
    use protocol::{Hotkey, Refusal};

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
        let says = |assigned: f64, random: f64| contradiction(&measured(trial(assigned, 0.01), trial(random, 0.01)), &own, 4.0);
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
                contradiction(&measured(trial(0.2, std_error), trial(0.1, 0.01)), &own, 4.0).is_some_and(|w| w.contains("standard error"))
            );
        }
        for std_error in [1.0, f64::MAX] {
            assert!(contradiction(&measured(trial(0.2, std_error), trial(0.5, std_error)), &own, 4.0).is_some());
        }
        let huge = Trial { before: 1e9, after: 1e9 - 0.5, std_error: 0.01, tokens: 64 };
        assert!(contradiction(&measured(trial(0.2, 0.01), huge), &own, 4.0).is_some());
    }

    #[test]
    fn the_last_digits_of_two_devices_contradict_nothing() {
        let own = measured(trial(0.2, 0.0), trial(0.1, 0.0));
        assert_eq!(contradiction(&measured(trial(0.2, 0.0), trial(0.1 + 1e-5, 0.0)), &own, 4.0), None);
        assert!(contradiction(&measured(trial(0.2, 0.0), trial(0.1 + 1e-3, 0.0)), &own, 4.0).is_some());
    }

    #[test]
    fn a_refusal_contradicts_a_measurement_only_where_bytes_prove_it() {
        let sound = measured(trial(0.2, 0.01), trial(0.1, 0.01));
        let refused = |refusal| entry(Outcome::Refused(refusal));
        assert!(contradiction(&refused(Refusal::NotRevealed), &sound, 4.0).is_some());
        assert!(contradiction(&sound, &refused(Refusal::WrongOwner), 4.0).is_some());
        assert_eq!(contradiction(&sound, &refused(Refusal::Missing), 4.0), None);
        assert_eq!(contradiction(&refused(Refusal::Missing), &refused(Refusal::WrongOwner), 4.0), None);
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
}
