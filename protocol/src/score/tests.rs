#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{
    rating::{MU, SIGMA},
    trial::MAX_REASON,
    *,
};
use crate::{Computation, Hotkey, JudgeMode, Keypair, Rating, Refusal, Signed};

fn key(uid: u16) -> Hotkey {
    Hotkey([uid as u8; 32])
}

fn trial(gain: f64) -> Trial {
    Trial { before: 2.0, after: 2.0 - gain, std_error: 0.01, tokens: 1024 }
}

fn measured(uid: u16, assigned: f64, random: f64) -> Entry {
    let outcome = Outcome::Measured { assigned: trial(assigned), random: trial(random), work: 1.0, norm: 1.0, overlap: 0.0 };
    Entry { uid, hotkey: key(uid), payload: Digest::of(&uid.to_le_bytes()), outcome }
}

fn refused(uid: u16, refusal: Refusal) -> Entry {
    Entry { outcome: Outcome::Refused(refusal), ..measured(uid, 0.0, 0.0) }
}

fn known(uid: u16, mu: f64, sigma: f64) -> MinerScore {
    MinerScore { mu, sigma, ..MinerScore::new(uid, key(uid)) }
}

fn paid(uid: u16, score: f64) -> MinerScore {
    MinerScore { score, ..MinerScore::new(uid, key(uid)) }
}

fn standing(miners: &[MinerScore]) -> Standing {
    Standing { miners: miners.to_vec(), ..Standing::default() }
}

fn advance(previous: &[MinerScore], entries: &[Entry], judge: &Judge, pay: &Pay) -> Vec<MinerScore> {
    standing(previous).advance(entries, judge, pay).miners
}

fn sheet(entries: Vec<Entry>, previous: &[MinerScore]) -> ScoreSheet {
    let standing = standing(previous).advance(&entries, &Judge::default(), &Pay::default());
    ScoreSheet { run: Digest::of(b"run"), round: 3, seal_list: Digest::of(b"list"), entries, standing }
}

fn follows(sheet: &ScoreSheet) -> bool {
    sheet.follows(&Standing::default(), &Judge::default(), &Pay::default())
}

fn selected(sheet: &ScoreSheet, top: u32) -> Vec<u16> {
    sheet.select(&Judge { top, ..Judge::default() }, &Pay::default()).iter().map(|e| e.uid).collect()
}

/// After `rounds` rounds with the same entries.
fn after(rounds: u32, entries: &[Entry], judge: &Judge) -> Vec<MinerScore> {
    (0..rounds).fold(Standing::default(), |before, _| before.advance(entries, judge, &Pay::default())).miners
}

const S: f64 = 25.0 / 3.0;
const FIVE: [(f64, f64); 5] = [(31.5, 2.5), (25.0, S), (18.25, 4.0), (27.0, 6.5), (22.0, 1.25)];

type Game = (&'static [(f64, f64)], &'static [u8], &'static [(f64, f64)]);

/// Priors, ranks (1 is best) and posteriors, made with PyPI's openskill 6.2.0:
/// `PlackettLuce(mu=25, sigma=25/3, beta=7, kappa=1e-4, tau=0.1).rate(teams, ranks=ranks)`.
#[rustfmt::skip]
const OPENSKILL: &[Game] = &[
    (&[(25.0, S); 2], &[1, 2], &[
        (27.256209212552754, 8.166896460213735), (22.743790787447246, 8.166896460213735)]),
    (&[(25.0, S); 3], &[1, 2, 3], &[
        (27.456249477209283, 8.253534696231965), (25.61406236930232, 8.162139691070465), (21.929688153488396, 8.162139691070465)]),
    (&[(25.0, S); 3], &[1, 1, 2], &[
        (25.61406236930232, 8.253534696231965), (25.61406236930232, 8.253534696231965), (23.77187526139536, 8.253534696231965)]),
    (&[(30.0, 2.0), (22.0, 5.0)], &[1, 1], &[
        (29.9393843551316, 2.001256984626226), (22.37805418407947, 4.952488204210357)]),
    (&FIVE, &[3, 1, 5, 2, 4], &[
        (31.471221035224065, 2.5002195477080016), (27.8578659870469, 8.282318675033613), (17.425549645687465, 3.989262421004095),
        (28.102775945031073, 6.456234360850223), (21.982467987460176, 1.2538669836498757)]),
    (&FIVE, &[2, 1, 2, 4, 4], &[
        (31.462032523419456, 2.5008775909298957), (27.8578659870469, 8.282318675033613), (18.40306238804987, 3.9966937143021783),
        (25.798415854181453, 6.426379354400073), (21.974510490213532, 1.2539015466725292)]),
];

#[test]
fn ratings_equal_openskill() {
    for (priors, ranks, posteriors) in OPENSKILL {
        let previous: Vec<MinerScore> = priors.iter().zip(1..).map(|(&(mu, sigma), uid)| known(uid, mu, sigma)).collect();
        let entries: Vec<Entry> = ranks.iter().zip(1..).map(|(&rank, uid)| measured(uid, 0.0, 1.0 - 0.1 * f64::from(rank))).collect();
        let scores = advance(&previous, &entries, &Judge::default(), &Pay::default());
        for (score, (mu, sigma)) in scores.iter().zip(*posteriors) {
            assert!((score.mu - mu).abs() < 1e-9 && (score.sigma - sigma).abs() < 1e-9, "{ranks:?}: {score:?}, expected {mu} {sigma}");
        }
    }
}

#[test]
fn a_round_with_one_measured_payload_rates_nobody() {
    let scores = after(1, &[measured(1, 0.2, 0.1), refused(2, Refusal::Missing)], &Judge::default());
    assert!(scores.iter().all(|s| (s.mu, s.sigma) == (MU, SIGMA)));
    assert_eq!((scores[0].measured, scores[1].measured, scores[1].missed), (1, 0, 1));
}

#[test]
fn paired_trials_have_mean_and_standard_error_per_token() {
    let found = Trial::paired(&[20.0, 40.0, 60.0], &[10.0, 36.0, 59.0], 10);
    assert_eq!((found.before, found.after, found.tokens), (4.0, 3.5, 30));
    // differences 1.0, 0.4, 0.1 per token: deviation √0.21, over √3
    assert!((found.std_error - (0.21f64 / 3.0).sqrt()).abs() < 1e-12, "{found:?}");
    assert_eq!(Trial::paired(&[1.0], &[0.5], 1).std_error, f64::MAX);
}

#[test]
fn missing_rounds_cost_more_and_more_and_work_makes_up_for_them() {
    let (judge, pay) = (Judge::default(), Pay::default());
    let mut scores = after(3, &[measured(1, 0.2, 0.1), measured(2, 0.2, 0.1)], &judge);
    let full = scores[0].score;
    assert!(full > 0.0);
    for (missed, left) in [(1, 0.75), (2, 0.5625), (3, 0.0), (4, 0.0)] {
        // refused and absent are the same
        let entries = if missed % 2 == 0 { vec![] } else { vec![refused(1, Refusal::WrongRoot)] };
        scores = advance(&scores, &entries, &judge, &pay);
        assert_eq!(scores[0].missed, missed);
        // what was not done is not worked either
        let left = left * 0.9f64.powi(missed as i32);
        assert!((scores[0].score - left * full).abs() < 1e-12, "{missed}: {}", scores[0].score);
    }
    let mut kept = Vec::new();
    for _ in 0..30 {
        scores = advance(&scores, &[measured(1, 0.2, 0.1), measured(2, 0.2, 0.1)], &judge, &pay);
        kept.push(scores[0].score);
    }
    assert_eq!(scores[0].missed, 0);
    assert!(kept[0] < 0.75 * full && kept.is_sorted() && kept[29] > 0.98 * full, "{kept:?}");
}

#[test]
fn payloads_without_a_gain_cost_pay_until_there_is_one() {
    let (judge, pay) = (Judge::default(), Pay::default());
    let round = |gain: f64| [measured(1, gain + 0.1, gain), measured(2, 0.2, 0.1), measured(3, 0.2, 0.1)];
    let mut scores = after(8, &round(0.1), &judge);
    let mut kept = Vec::new();
    for gain in [-0.1, -0.1, -0.1, 0.1, -0.1, -0.1, 0.1] {
        scores = advance(&scores, &round(gain), &judge, &pay);
        kept.push(scores[0].kept(&pay));
    }
    // three in a row pay nothing; more than four of eight a quarter
    assert_eq!(kept, [1.0, 1.0, 0.0, 1.0, 1.0, 0.25, 0.25]);
    assert_eq!(scores[1].kept(&pay), 1.0);
}

#[test]
fn relative_gain_is_a_mean_that_becomes_a_moving_average() {
    let judge = Judge::default();
    let round = |gain: f64| [measured(1, 0.5, gain), measured(2, 0.5, 0.1), measured(3, 0.5, 0.1)];
    let mut scores = Vec::new();
    for (gain, mean) in [(0.2, 2.0), (0.1, 1.5), (0.0, 1.0), (0.9, 1.25), (-9.0, 0.6)] {
        scores = advance(&scores, &round(gain), &judge, &Pay::default());
        assert!((scores[0].gain - mean).abs() < 1e-12, "{} after {gain}", scores[0].gain);
    }
    let settled = after(40, &round(0.1), &judge);
    let next = advance(&settled, &round(0.2), &judge, &Pay::default());
    assert!((next[0].gain - 1.1).abs() < 1e-12);
    // where most did harm there is nothing to compare with
    let harm = [measured(1, 0.1, 0.3), measured(2, 0.1, -0.3), measured(3, 0.1, -0.4)];
    assert_eq!(advance(&settled, &harm, &judge, &Pay::default())[0].gain, settled[0].gain);
}

/// A round in which uid 1's gains lie `z` standard errors apart and all others' `typical`.
fn tested(z: f64, typical: f64) -> Vec<Entry> {
    let apart = |uid, z: f64| measured(uid, 0.1 + z * 0.01 * 2f64.sqrt(), 0.1);
    (2..6).map(|uid| apart(uid, typical)).chain([apart(1, z)]).collect()
}

#[test]
fn the_log_odds_of_training_grow_by_the_likelihood_ratio() {
    let judge = Judge::default();
    let first = Standing::default().advance(&tested(1.5, 1.5), &judge, &Pay::default());
    // half-way from 0.5 to the median
    assert!((first.effect - 1.0).abs() < 1e-9 && first.tested == 1);
    // δz − δ²/2
    assert!((first.miners[0].evidence - 1.0).abs() < 1e-9, "{:?}", first.miners[0]);
    let mut standing = first;
    for _ in 0..40 {
        standing = standing.advance(&tested(0.0, 1.5), &judge, &Pay::default());
    }
    assert!((standing.effect - 1.5).abs() < 1e-3);
    assert_eq!((standing.of(1).unwrap().evidence, standing.of(2).unwrap().evidence), (-7.0, 7.0));
    let (free, honest) = (standing.of(1).unwrap(), standing.of(2).unwrap());
    assert!(free.trains() < 1e-3 && honest.trains() > 0.999);
    assert!((free.score / honest.score).powf(2.0) < 1e-5, "equal gains, unequal pay");
    // nobody is beyond recovery, and one round decides nothing
    let once = standing.advance(&tested(1e9, 1.5), &judge, &Pay::default());
    assert!((once.of(1).unwrap().evidence + 4.0).abs() < 1e-9);
    let later = (0..12).fold(standing, |s, _| s.advance(&tested(1.5, 1.5), &judge, &Pay::default()));
    assert!(later.of(1).unwrap().trains() > 0.99);
}

#[test]
fn what_is_claimed_and_not_trained_is_paid_less_than_what_is_trained_and_not_claimed() {
    let judge = Judge::default();
    let claim = |entry: Entry, share: f64| {
        let Outcome::Measured { assigned, random, norm, overlap, .. } = entry.outcome else { panic!() };
        Entry { outcome: Outcome::Measured { assigned, random, work: share, norm, overlap }, ..entry }
    };
    // uid 1 shows half the advantage and claims all; uid 2 shows all of it and claims half; the others do the full work
    let mut round = tested(1.5, 3.0);
    round.sort_by_key(|e| e.uid);
    round[1] = claim(round[1].clone(), 0.5);
    let standing = (0..30).fold(Standing::default(), |s, _| s.advance(&round, &judge, &Pay::default()));
    let [over, half, full] = [1, 2, 3].map(|uid| standing.of(uid).unwrap());
    assert!(over.trains() > 0.99 && half.trains() > 0.99, "both train");
    assert!((half.score / full.score - 0.5).abs() < 1e-3, "{half:?}");
    assert!(over.score < half.score, "{} {}", over.score, half.score);
    assert!(over.score > 0.05 * full.score);
    // one round is too short to tell
    let first = Standing::default().advance(&round, &judge, &Pay::default());
    assert!(first.of(1).unwrap().score > 0.5 * first.of(3).unwrap().score);
}

#[test]
fn the_references_test_is_a_moving_average_of_signs() {
    let judge = Judge { computation: Computation::Average { rate: 0.5, floor: 0.5, rounds: 2 }, ..Judge::default() };
    let (own, tie, random) = ([measured(1, 0.2, 0.1)], [measured(1, 0.1, 0.1)], [measured(1, 0.1, 0.2)]);
    let mut scores = after(2, &own, &judge);
    assert_eq!((scores[0].signs, scores[0].score), (0.75, 0.75));
    scores = advance(&scores, &random, &judge, &Pay::default());
    // below the floor, and measured often enough for it to count
    assert_eq!((scores[0].signs, scores[0].score), (-0.125, 0.0));
    // a tie shows no computation either
    scores = advance(&scores, &tie, &judge, &Pay::default());
    assert_eq!(scores[0].signs, -0.5625);
    let lax = Judge { computation: Computation::Average { rate: 0.5, floor: 0.5, rounds: 9 }, ..Judge::default() };
    let scores = advance(&after(2, &own, &lax), &random, &lax, &Pay::default());
    assert_eq!(scores[0].score, 0.0, "below zero nothing is paid in any case");
}

#[test]
fn a_rating_by_plackett_luce_is_paid_where_the_manifest_says_so() {
    let pay = Pay { rating: Rating::LossRating, ..Pay::default() };
    let round = [measured(1, 0.5, 0.3), measured(2, 0.5, 0.2), measured(3, 0.5, 0.1)];
    let standing = (0..20).fold(Standing::default(), |s, _| s.advance(&round, &Judge::default(), &pay));
    let scores: Vec<f64> = standing.miners.iter().map(|s| s.score).collect();
    assert!((scores[0] - standing.miners[0].ordinal() * standing.miners[0].trains()).abs() < 1e-9);
    assert!(scores[0] > scores[1] && scores[1] > scores[2]);
}

#[test]
fn a_uid_that_changed_hands_starts_anew_and_a_hotkey_that_moved_does_not() {
    let previous = [known(1, 30.0, 3.0), known(2, 20.0, 3.0)];
    let entry = Entry { hotkey: key(9), ..refused(1, Refusal::Missing) };
    let scores = advance(&previous, &[entry], &Judge::default(), &Pay::default());
    assert_eq!((scores[0].hotkey, scores[0].mu), (key(9), MU));
    assert_eq!((scores[1].hotkey, scores[1].mu), (key(2), 20.0));
    // 1's hotkey moves onto uid 2, whose earlier owner is gone
    let entry = Entry { hotkey: key(1), ..refused(2, Refusal::Missing) };
    let scores = advance(&previous, &[entry], &Judge::default(), &Pay::default());
    assert_eq!(scores.iter().map(|s| (s.uid, s.hotkey, s.mu)).collect::<Vec<_>>(), [(2, key(1), 30.0)]);
}

#[test]
fn selection_leaves_out_the_useless_and_takes_the_best_in_order_of_uid() {
    let entries = vec![
        measured(1, 0.2, 0.10),
        measured(2, 0.2, 0.30),
        measured(3, 0.2, -0.1),
        refused(4, Refusal::Missing),
        measured(5, 0.2, 0.20),
        measured(6, 0.2, 0.0),
    ];
    let sheet = sheet(entries, &[]);
    assert_eq!(selected(&sheet, 20), [1, 2, 5]);
    assert_eq!(selected(&sheet, 2), [2, 5]);
    assert_eq!(selected(&sheet, 1), [2]);
}

#[test]
fn who_has_standing_need_not_beat_the_floor_but_must_not_harm() {
    let judge = Judge { probation: 3, floor: 0.5, ..Judge::default() };
    let gains = |fourth: f64| [0.4, 0.4, 0.4, fourth].iter().zip(1..).map(|(gain, uid)| measured(uid, 0.5, *gain)).collect::<Vec<_>>();
    let verdict = |past: f64, rounds: u32, now: f64| {
        let before = standing(&after(rounds, &gains(past), &judge));
        let entries = gains(now);
        let sheet = ScoreSheet { standing: before.advance(&entries, &judge, &Pay::default()), entries, ..sheet(vec![], &[]) };
        let verdict = sheet.verdicts(&judge, &Pay::default()).pop().unwrap().1;
        match verdict {
            Verdict::Applied => true,
            Verdict::Useless { .. } => false,
            other => panic!("{other:?}"),
        }
    };
    assert!(verdict(0.4, 5, 0.1), "below the floor of 0.2, but known for better");
    assert!(verdict(0.4, 5, -0.009), "within one standard error of nothing");
    assert!(!verdict(0.4, 5, -0.011), "harmful, whatever the past");
    assert!(!verdict(0.4, 1, 0.1), "known for too short");
    assert!(!verdict(0.1, 5, 0.1), "never known for better");
    assert!(verdict(0.1, 1, 0.21) && !verdict(0.1, 5, 0.21), "by chance, once it was measured often");
    assert!(verdict(0.1, 5, 0.23));
}

#[test]
fn who_rates_below_the_best_is_a_reserve_in_order() {
    let sheet = sheet([0.1, 0.3, 0.2, 0.4].iter().zip(1..).map(|(g, uid)| measured(uid, 0.5, *g)).collect(), &[]);
    let judge = Judge { top: 2, ..Judge::default() };
    let verdicts: Vec<Verdict<'_>> = sheet.verdicts(&judge, &Pay::default()).into_iter().map(|(_, v)| v).collect();
    assert_eq!(verdicts, [Verdict::Reserve(1), Verdict::Applied, Verdict::Reserve(0), Verdict::Applied]);
}

fn unmeasured(uid: u16) -> Entry {
    Entry { outcome: Outcome::Unmeasured, ..measured(uid, 0.0, 0.0) }
}

#[test]
fn unmeasured_payloads_enter_by_standing_and_up_to_a_share() {
    let judge = Judge { mode: JudgeMode::Sampled, unmeasured: 0.5, ..Judge::default() };
    let known: Vec<Entry> = (1..6).map(|uid| measured(uid, 0.5, 0.1 + f64::from(uid) * 0.01)).collect();
    let before = standing(&after(6, &known, &judge));
    let entries = vec![measured(1, 0.5, 0.1), measured(2, 0.5, 0.1), unmeasured(3), unmeasured(4), unmeasured(5), unmeasured(6)];
    let sheet = ScoreSheet { standing: before.advance(&entries, &judge, &Pay::default()), entries, ..sheet(vec![], &[]) };
    let applied: Vec<u16> = sheet.select(&judge, &Pay::default()).iter().map(|e| e.uid).collect();
    assert_eq!(applied, [1, 2, 4, 5], "two beside two measured ones, the best; 6 is not known at all");
    let verdicts = sheet.verdicts(&judge, &Pay::default());
    assert_eq!((&verdicts[2].1, &verdicts[5].1), (&Verdict::Unmeasured, &Verdict::Unmeasured));
    // an unmeasured round is neither a gain nor an absence
    let (was, is) = (before.of(3).unwrap(), sheet.standing.of(3).unwrap());
    assert_eq!((is.gain, is.evidence, is.measured, is.missed, is.since), (was.gain, was.evidence, was.measured, 0, 1));
}

#[test]
fn the_sample_is_fixed_by_the_seed_and_reaches_everybody() {
    let judge = Judge { mode: JudgeMode::Sampled, sample: 4, probation: 2, ..Judge::default() };
    let listed: Vec<(u16, Hotkey)> = (0..20).map(|uid| (uid, key(uid))).collect();
    assert_eq!(sample(&listed, &Standing::default(), &Digest([1; 32]), &judge).len(), 20, "all are new");
    assert_eq!(sample(&listed, &Standing::default(), &Digest([1; 32]), &Judge::default()).len(), 20, "all are measured by default");
    let entries = |chosen: &std::collections::BTreeSet<u16>| -> Vec<Entry> {
        (0..20).map(|uid| if chosen.contains(&uid) { measured(uid, 0.2, 0.1) } else { unmeasured(uid) }).collect()
    };
    let all: std::collections::BTreeSet<u16> = (0..20).collect();
    let mut standing = (0..2).fold(Standing::default(), |s, _| s.advance(&entries(&all), &judge, &Pay::default()));
    let mut again = 0;
    for round in 0u8..60 {
        let seed = Digest([round; 32]);
        let chosen = sample(&listed, &standing, &seed, &judge);
        assert_eq!(chosen.len(), 4);
        assert_eq!(chosen, sample(&listed, &standing, &seed, &judge));
        again += chosen.iter().filter(|uid| standing.of(**uid).unwrap().since == 0).count();
        standing = standing.advance(&entries(&chosen), &judge, &Pay::default());
        assert!(standing.miners.iter().all(|s| s.since <= 2 * 20 / 4), "measured within 2·⌈20/4⌉ rounds");
        let mut sheet = ScoreSheet { entries: entries(&chosen), ..sheet(vec![], &[]) };
        let before =
            Standing { miners: standing.miners.iter().map(|s| MinerScore { measured: 9, ..s.clone() }).collect(), ..standing.clone() };
        let due = sample(&listed, &before, &seed, &judge);
        sheet.entries = entries(&due);
        assert!(sheet.measures_sample(&before, &seed, &judge));
        let skipped = *due.iter().next().unwrap();
        sheet.entries[skipped as usize] = unmeasured(skipped);
        assert!(!sheet.measures_sample(&before, &seed, &judge));
    }
    assert!(again > 0, "nobody is safe after a measurement");
}

#[test]
fn equal_ratings_go_to_the_lower_uid() {
    let sheet = sheet(vec![measured(3, 0.2, 0.1), measured(5, 0.2, 0.1), measured(8, 0.2, 0.1)], &[]);
    assert_eq!(selected(&sheet, 2), [3, 5]);
}

#[test]
fn a_gain_far_below_the_median_is_luck() {
    let judge = Judge { floor: 0.2, ..Judge::default() };
    let entries = |last| vec![measured(1, 0.2, 0.1), measured(2, 0.2, 0.1), measured(3, 0.2, last)];
    assert!((useful_gain(&entries(0.03), &judge) - 0.02).abs() < 1e-12);
    assert_eq!(selected(&sheet(entries(0.03), &[]), 9), [1, 2, 3]);
    assert_eq!(selected(&sheet(entries(0.004), &[]), 9), [1, 2]);
    // where most do harm, none of them counts as useful
    assert_eq!(useful_gain(&[measured(1, 0.0, -1.0), measured(2, 0.0, -2.0)], &judge), 0.0);
    assert_eq!(useful_gain(&[], &judge), 0.0);
}

fn weights(scores: &[MinerScore], pay: &Pay, owner: u16) -> Vec<(u16, u16)> {
    super::weights(scores, &Judge::default(), pay, owner)
}

#[test]
fn weights_follow_the_power_of_scores() {
    let pay = Pay::default();
    assert_eq!(weights(&[paid(1, 2.0), paid(2, 1.0), paid(3, 0.0)], &pay, 0), [(1, 65_535), (2, 16_384)]);
    // any power stays finite, and only the best is left
    assert_eq!(weights(&[paid(1, 60.0), paid(2, 59.0)], &Pay { power: 1e6, ..pay.clone() }, 0), [(1, 65_535)]);
    assert_eq!(weights(&[], &pay, 4), [(4, 65_535)]);
    assert_eq!(weights(&[paid(1, 0.0), paid(2, -1.0)], &pay, 4), [(4, 65_535)]);
}

#[test]
fn reserves_share_what_is_set_apart_for_them() {
    let judge = Judge { top: 2, ..Judge::default() };
    let pay = Pay { reserve: 0.2, reserves: 2, ..Pay::default() };
    let scores: Vec<MinerScore> = [4.0, 4.0, 2.0, 2.0, 1.0].iter().zip(1..).map(|(score, uid)| paid(uid, *score)).collect();
    // 0.4 each to the best two, 0.1 each to the reserves, nothing to the fifth
    assert_eq!(super::weights(&scores, &judge, &pay, 0), [(1, 65_535), (2, 65_535), (3, 16_384), (4, 16_384)]);
    assert_eq!(super::weights(&scores[..2], &judge, &pay, 0), [(1, 65_535), (2, 65_535)]);
    // a single one has one reserve's part
    assert_eq!(super::weights(&scores[..3], &judge, &pay, 0), [(1, 65_535), (2, 65_535), (3, 14_563)]);
}

#[test]
fn the_burnt_share_goes_to_the_owner() {
    let pay = Pay { power: 1.0, burn: 0.5, ..Pay::default() };
    assert_eq!(weights(&[paid(1, 1.0), paid(2, 1.0)], &pay, 0), [(0, 65_535), (1, 32_768), (2, 32_768)]);
    // the owner may mine too
    assert_eq!(weights(&[paid(0, 1.0), paid(2, 1.0)], &pay, 0), [(0, 65_535), (2, 21_845)]);
    assert_eq!(weights(&[paid(1, 1.0)], &Pay { burn: 1.0, ..pay }, 0), [(0, 65_535)]);
}

#[test]
fn a_sheet_whose_figures_were_touched_does_not_follow() {
    let good = sheet(vec![measured(1, 0.2, 0.1), measured(2, 0.2, 0.3), refused(3, Refusal::Missing)], &[]);
    assert!(follows(&good));
    let touch: [fn(&mut ScoreSheet); 19] = [
        |s| s.standing.miners[0].mu *= 1.001,
        |s| s.standing.miners[0].sigma += 0.01,
        |s| s.standing.miners[0].signs = 1.0,
        |s| s.standing.miners[1].score = 1e308,
        |s| s.standing.miners[1].score = f64::NAN,
        |s| s.standing.effect += 1e-3,
        |s| s.standing.tested += 1,
        |s| s.standing.miners[0].gain += 1e-3,
        |s| s.standing.miners[0].work -= 1e-3,
        |s| s.standing.miners[0].advantage += 1e-3,
        |s| s.standing.miners[0].evidence -= 1e-3,
        |s| s.standing.miners[0].negative = 1,
        |s| s.standing.miners[1].measured += 1,
        |s| s.standing.miners[2].missed = 0,
        |s| s.standing.miners[2].score = 1e-9,
        |s| s.standing.miners[2].hotkey = key(7),
        |s| s.standing.miners.truncate(2),
        |s| s.standing.miners.push(paid(9, 1.0)),
        |s| s.standing.miners.swap(0, 1),
    ];
    for (index, touch) in touch.iter().enumerate() {
        let mut bad = good.clone();
        touch(&mut bad);
        assert!(!follows(&bad), "change {index}");
    }
    // nor one that differs in the last bit
    let mut near = good;
    near.standing.miners[0].mu = f64::from_bits(near.standing.miners[0].mu.to_bits() + 1);
    assert!(!follows(&near));
}

#[test]
fn a_sheet_reads_back_to_the_last_bit() {
    let entries =
        vec![measured(1, 1.0 / 3.0, 0.1), refused(2, Refusal::Malformed("chunk 3".into())), measured(7, 1e-300, f64::MIN_POSITIVE)];
    let signed = Signed::new(sheet(entries, &[]), &Keypair::from_seed(&[1; 32]));
    assert_eq!(Signed::<ScoreSheet>::parse(signed.to_bytes()), Ok(signed));
}

#[test]
fn impossible_figures_and_unprintable_words_are_refused() {
    let refuses = |entry: Entry| {
        let bytes = sheet(vec![entry], &[]).encode();
        matches!(ScoreSheet::decode(&bytes), Err(DocumentError::Body(_)))
    };
    let with = |random: Trial| Entry {
        outcome: Outcome::Measured { assigned: trial(0.1), random, work: 1.0, norm: 1.0, overlap: 0.0 },
        ..measured(1, 0.0, 0.0)
    };
    assert!(!refuses(with(trial(0.1))));
    assert!(refuses(with(Trial { before: 1e308, after: -1e308, ..trial(0.0) })), "an infinite gain");
    assert!(refuses(with(Trial { before: f64::NAN, ..trial(0.0) })));
    assert!(refuses(with(Trial { after: f64::INFINITY, ..trial(0.0) })));
    assert!(refuses(with(Trial { std_error: -1.0, ..trial(0.0) })));
    assert!(refuses(refused(1, Refusal::Envelope("\u{1b}[2J".into()))));
    assert!(refuses(refused(1, Refusal::Malformed("x".repeat(MAX_REASON + 1)))));
    assert!(!refuses(refused(1, Refusal::Malformed("x".repeat(MAX_REASON)))));
    // numbers that no f64 holds are no JSON that is read
    let huge = String::from_utf8(sheet(vec![measured(1, 0.2, 0.1)], &[]).encode()).unwrap().replace("0.01", "1e999");
    assert!(ScoreSheet::decode(huge.as_bytes()).is_err());
}

#[test]
fn huge_figures_neither_panic_nor_reach_the_scores() {
    let huge = |uid, before| Entry {
        outcome: Outcome::Measured { assigned: trial(0.1), random: Trial { before, ..trial(0.0) }, work: 1.0, norm: 1.0, overlap: 0.0 },
        ..measured(uid, 0.0, 0.0)
    };
    for figure in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -f64::MAX] {
        let sheet = sheet(vec![measured(1, 0.2, 0.1), huge(2, figure), huge(3, figure), measured(4, 0.2, 0.2)], &[]);
        let _ = selected(&sheet, 3);
        let _ = weights(&sheet.standing.miners, &Pay::default(), 0);
        if ScoreSheet::decode(&sheet.encode()).is_ok() {
            assert!(sheet.standing.miners.iter().all(|s| s.mu.is_finite() && s.score.is_finite()), "{figure}");
        }
    }
}

#[test]
fn the_largest_sheet_fits_its_cap() {
    let long = |x: f64| -x * 1.234_567_890_123_456_7e-300;
    let figures = Trial { before: long(1.0), after: long(2.0), std_error: -long(3.0), tokens: u64::MAX };
    let outcome = Outcome::Measured { assigned: figures, random: figures, work: -long(4.0), norm: long(5.0), overlap: long(6.0) };
    let entry = |uid| Entry { outcome: outcome.clone(), ..measured(60_000 + uid, 0.0, 0.0) };
    let score = |uid| MinerScore {
        uid: 60_000 + uid,
        hotkey: Hotkey([255; 32]),
        mu: long(1.0),
        sigma: long(2.0),
        gain: long(3.0),
        work: long(8.0),
        evidence: long(5.0),
        advantage: long(9.0),
        signs: long(6.0),
        measured: u32::MAX,
        missed: u32::MAX,
        since: u32::MAX,
        negative: u8::MAX,
        score: long(4.0),
    };
    let neurons = 0..crate::MAX_NEURONS as u16;
    let sheet = ScoreSheet {
        entries: neurons.clone().map(entry).collect(),
        standing: Standing { effect: long(7.0), tested: u32::MAX, miners: neurons.map(score).collect() },
        ..sheet(vec![], &[])
    };
    let bytes = Signed::new(sheet, &Keypair::from_seed(&[1; 32])).to_bytes().len() as u64;
    assert!(bytes <= ScoreSheet::CAP, "{bytes}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn scores_stay_in_bounds_and_order(gains in prop::collection::vec(prop::option::of((-3.0f64..3.0, -3.0f64..3.0)), 1..12), rounds in 1u32..6) {
        let entries: Vec<Entry> = gains.iter().zip(0..).map(|(gain, uid)| match gain {
            Some((assigned, random)) => measured(uid, *assigned, *random),
            None => refused(uid, Refusal::Missing),
        }).collect();
        let scores = after(rounds, &entries, &Judge::default());
        prop_assert!(scores.is_sorted_by(|a, b| a.uid < b.uid));
        prop_assert!(scores.iter().all(|s| s.sigma > 0.0 && s.score >= 0.0 && s.gain.abs() <= 2.0 && s.evidence.abs() <= 7.0 && s.signs.abs() <= 1.0 && s.mu.is_finite()));
        let set = weights(&scores, &Pay::default(), 99);
        prop_assert_eq!(set.iter().map(|(_, w)| *w).max(), Some(u16::MAX));
        prop_assert!(set.is_sorted_by(|a, b| a.0 < b.0));
        // a larger gain never ends below a smaller one from the same start
        let rated: Vec<(f64, f64)> = entries.iter().zip(&scores).filter_map(|(e, s)| Some((e.outcome.gain()?, s.mu))).collect();
        for (a, b) in rated.iter().flat_map(|a| rated.iter().map(move |b| (a, b))) {
            prop_assert!(a.0 <= b.0 || a.1 >= b.1, "{:?} {:?}", a, b);
        }
    }
}
