//! What is known of each miner over all rounds, and how a round changes it.

use serde::{Deserialize, Serialize};

use super::{
    computation::{self, FIRST_EFFECT},
    rating::{self, MU, SIGMA},
    trial::{Entry, Outcome, median_gain},
};
use crate::{Hotkey, Judge, Pay, Rating};

/// Weight of the newest round in a miner's mean relative gain and work, once it was measured often.
const GAIN_RATE: f64 = 0.1;
/// A relative gain counts within ± this: one lucky round is not worth a month.
const MOST_GAIN: f64 = 2.0;
/// Rounds in a row, without a valid payload or without a gain, after which nothing is paid.
pub(super) const IN_A_ROW: u32 = 3;

/// What is known of a miner over all rounds so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MinerScore {
    /// Its uid when last seen.
    pub uid: u16,
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// LossRating: mean skill.
    pub mu: f64,
    /// LossRating: its uncertainty.
    pub sigma: f64,
    /// Moving average of its gain on random data over the round's median gain; 1 is the typical miner.
    pub gain: f64,
    /// Moving average of the share of a round's full work that it claims; nothing in rounds without a valid payload.
    pub work: f64,
    /// Log odds that it trains on what it is assigned.
    pub evidence: f64,
    /// Moving average of its advantage on assigned data, in standard errors.
    pub advantage: f64,
    /// The reference's proof of computation μ: moving average of sign(gain on assigned − gain on random data).
    pub signs: f64,
    /// Rounds in which it was measured.
    pub measured: u32,
    /// Rounds in a row without a valid payload.
    pub missed: u32,
    /// Rounds since it was measured.
    pub since: u32,
    /// The last eight measurements, the newest in the lowest bit; 1 where there was no gain.
    pub negative: u8,
    /// PeerScore after penalties: what is paid for.
    pub score: f64,
}

impl MinerScore {
    /// Nothing is known yet.
    pub fn new(uid: u16, hotkey: Hotkey) -> Self {
        let (gain, work, evidence, advantage, signs, score) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        let (measured, missed, since, negative) = (0, 0, 0, 0);
        Self { uid, hotkey, mu: MU, sigma: SIGMA, gain, work, evidence, advantage, signs, measured, missed, since, negative, score }
    }

    /// LossRating's lower bound, μ − 3σ.
    pub fn ordinal(&self) -> f64 {
        self.mu - 3.0 * self.sigma
    }

    /// Probability that it trains on what it is assigned, one half where nothing is known.
    pub fn trains(&self) -> f64 {
        1.0 / (1.0 + libm::exp(-self.evidence))
    }

    /// Whether it has shown useful work often enough to have the benefit of the doubt.
    pub fn has_standing(&self, judge: &Judge) -> bool {
        self.measured >= judge.probation && self.gain >= judge.trust
    }

    /// Whether it was measured more often than that and has not.
    pub fn has_none(&self, judge: &Judge) -> bool {
        self.measured > judge.probation && self.gain < judge.trust
    }

    /// What its work is worth, before proof of computation and penalties: work times gain, of which what exceeds the typical miner's counts
    /// less, since half of that is luck; or the reference's rating.
    pub fn rating(&self, pay: &Pay) -> f64 {
        match pay.rating {
            Rating::Gain => self.work * if self.gain > 1.0 { self.gain.sqrt() } else { self.gain },
            Rating::LossRating => self.ordinal(),
        }
    }

    /// What is left of a score after penalties: for missing rounds, and for payloads without a gain.
    pub fn kept(&self, pay: &Pay) -> f64 {
        let missing = if self.missed >= IN_A_ROW { 0.0 } else { (0..self.missed).fold(1.0, |kept, _| kept * pay.missing) };
        let negative = match (self.negative.trailing_ones() >= IN_A_ROW, self.negative.count_ones() > 4) {
            (true, _) => 0.0,
            (false, true) => pay.negative,
            (false, false) => 1.0,
        };
        missing * negative
    }
}

/// Every miner's scores, and what they were found with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// δ: by how many standard errors a typical miner's gain on assigned data exceeds that on random data.
    pub effect: f64,
    /// Rounds that δ was estimated from.
    pub tested: u32,
    /// Ascending by uid.
    pub miners: Vec<MinerScore>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { effect: FIRST_EFFECT, tested: 0, miners: Vec::new() }
    }
}

impl Standing {
    /// A miner's scores.
    pub fn of(&self, uid: u16) -> Option<&MinerScore> {
        self.miners.iter().find(|s| s.uid == uid)
    }

    /// What part of its claims a miner has trained at most, by its advantage beside the typical miner's.
    pub fn verified(&self, score: &MinerScore) -> f64 {
        computation::verified(score, computation::typical_advantage(&self.miners))
    }

    /// The standing after a round's entries. A uid that changed hands starts anew.
    pub fn advance(&self, entries: &[Entry], judge: &Judge, pay: &Pay) -> Self {
        let taken_over = |s: &&MinerScore| !entries.iter().any(|e| e.uid == s.uid && e.hotkey != s.hotkey);
        let mut miners: Vec<MinerScore> = self.miners.iter().filter(taken_over).cloned().collect();
        for entry in entries {
            match miners.iter_mut().find(|s| s.hotkey == entry.hotkey) {
                Some(score) => score.uid = entry.uid,
                None => miners.push(MinerScore::new(entry.uid, entry.hotkey)),
            }
        }
        miners.sort_by_key(|s| s.uid);
        rating::rate(&mut miners, entries);
        let (effect, tested) = match computation::next_effect(self.effect, self.tested, entries) {
            Some(effect) => (effect, self.tested.saturating_add(1)),
            None => (self.effect, self.tested),
        };
        let median = median_gain(entries).unwrap_or(0.0);
        for score in &mut miners {
            let outcome = entries.iter().find(|e| e.hotkey == score.hotkey).map(|e| &e.outcome);
            count(score, outcome, median);
            if let Some(outcome) = outcome {
                computation::count(score, outcome, effect, &judge.computation);
            }
        }
        let typical = computation::typical_advantage(&miners);
        for score in &mut miners {
            score.score = score.rating(pay).max(0.0) * computation::factor(score, typical, &judge.computation) * score.kept(pay);
        }
        Self { effect, tested, miners }
    }
}

/// Counts a round for a miner: gain, absences, harm. `median` is the round's median gain.
fn count(score: &mut MinerScore, outcome: Option<&Outcome>, median: f64) {
    score.since = score.since.saturating_add(1);
    match outcome {
        None | Some(Outcome::Refused(_)) => {
            score.missed = score.missed.saturating_add(1);
            score.work -= GAIN_RATE * score.work;
            return;
        }
        Some(Outcome::Unmeasured) => {
            score.missed = 0;
            return;
        }
        Some(Outcome::Measured { .. }) => (score.missed, score.since) = (0, 0),
    }
    let Some(Outcome::Measured { random, work, .. }) = outcome else { return };
    let gain = random.gain();
    score.measured = score.measured.saturating_add(1);
    score.negative = score.negative << 1 | u8::from(gain <= 0.0);
    let rate = GAIN_RATE.max(1.0 / f64::from(score.measured));
    score.work += rate * (work - score.work);
    if median > 0.0 {
        score.gain += rate * ((gain / median).clamp(-MOST_GAIN, MOST_GAIN) - score.gain);
    }
}
