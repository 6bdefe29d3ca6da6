//! Proof of computation: does a miner train on the data it was assigned?
//!
//! Who trained on sequences gains more on them than on random ones. Let z be that difference in standard errors ([`Outcome::advantage`]). Without
//! training on them z is about N(0, 1); with it about N(δ, 1). Each measurement adds the log-likelihood ratio δz − δ²/2 to the miner's log
//! odds (Wald's sequential probability-ratio test, 1945), bounded so that one round cannot decide alone and old merit does not last for ever.
//! δ depends on model, batch and rate, so it is estimated from the miners themselves: the moving average of the rounds' lower median z.

use super::{
    miner::{IN_A_ROW, MinerScore},
    trial::{Entry, Outcome, lower_median},
};
use crate::Computation;

/// δ before the first round. Too small costs a few rounds, too large would count against honest miners.
pub(super) const FIRST_EFFECT: f64 = 0.5;
/// Weight of a round's median z in δ, once there were some.
const EFFECT_RATE: f64 = 0.2;
/// δ at most: beyond it a single measurement decides anyway, and honest miners' z spread wider than 1.
const MOST_EFFECT: f64 = 2.0;
/// What one measurement can add to the log odds at most, either way.
const MOST_EVIDENCE: f64 = 3.0;
/// Weight of a round in a miner's mean advantage, once it was measured often.
const ADVANTAGE_RATE: f64 = 0.05;
/// Measurements that a moving average of that weight is worth, (2 − rate) / rate.
const ADVANTAGE_WINDOW: u32 = 39;
/// An advantage counts within ± this.
const MOST_ADVANTAGE: f64 = 10.0;
/// Standard errors for which a miner has the benefit of the doubt.
const DOUBT: f64 = 2.5;

/// δ with a round's measurements, before which there were `tested` rounds. [`FIRST_EFFECT`] counts like one more.
pub(super) fn next_effect(effect: f64, tested: u32, entries: &[Entry]) -> Option<f64> {
    let median = lower_median(entries.iter().filter_map(|e| e.outcome.advantage()))?;
    let rate = EFFECT_RATE.max(1.0 / (f64::from(tested) + 2.0));
    Some(effect + rate * (median.clamp(0.0, MOST_EFFECT) - effect))
}

/// Counts one measurement; `effect` is δ, this round included.
pub(super) fn count(score: &mut MinerScore, outcome: &Outcome, effect: f64, rule: &Computation) {
    let Outcome::Measured { assigned, random, .. } = outcome else { return };
    if let Some(z) = outcome.advantage() {
        let rate = ADVANTAGE_RATE.max(1.0 / f64::from(score.measured));
        score.advantage += rate * (z.clamp(-MOST_ADVANTAGE, MOST_ADVANTAGE) - score.advantage);
    }
    let (cap, rate) = match *rule {
        Computation::Sequential { cap } => (cap, Computation::default_rate()),
        Computation::Average { rate, .. } => (Computation::default_cap(), rate),
    };
    let ratio = outcome.advantage().map_or(0.0, |z| effect * z - effect * effect / 2.0);
    score.evidence = (score.evidence + ratio.clamp(-MOST_EVIDENCE, MOST_EVIDENCE)).clamp(-cap, cap);
    let sign = if assigned.gain() > random.gain() { 1.0 } else { -1.0 };
    score.signs += rate * (sign - score.signs);
}

/// What part of its claim a miner has trained at most, given the typical miner's mean advantage: its own with [`DOUBT`] standard errors
/// added, relative to that one. Sequences that were claimed and not trained show no advantage.
pub(super) fn verified(score: &MinerScore, typical: f64) -> f64 {
    let measurements = f64::from(score.measured.clamp(1, ADVANTAGE_WINDOW));
    let most = score.advantage + DOUBT / measurements.sqrt();
    if typical > 0.0 { (most / typical).clamp(0.0, 1.0) } else { 1.0 }
}

/// The typical miner's mean advantage.
pub(super) fn typical_advantage(miners: &[MinerScore]) -> f64 {
    lower_median(miners.iter().filter(|s| s.measured > 0 && s.missed < IN_A_ROW).map(|s| s.advantage)).unwrap_or(0.0)
}

/// The factor that a score is multiplied by, 0 to 1. The verified part of a claim counts to the fourth power, since doubt is on the
/// miner's side: who claims twice what it trained must not earn much more than by claiming what it trained.
pub(super) fn factor(score: &MinerScore, typical: f64, rule: &Computation) -> f64 {
    match *rule {
        Computation::Sequential { .. } => {
            let part = verified(score, typical);
            score.trains() * part * part * part * part
        }
        Computation::Average { floor, rounds, .. } if score.measured > rounds && score.signs < floor => 0.0,
        Computation::Average { .. } => score.signs.max(0.0),
    }
}
