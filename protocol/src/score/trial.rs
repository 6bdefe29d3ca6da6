//! What was found of one payload.

use serde::{Deserialize, Serialize};

use crate::{Digest, Hotkey, Refusal};

/// Bytes of a refusal's own words at most.
pub(super) const MAX_REASON: usize = 512;

/// Loss before and after trying one payload on one batch, in nats per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Mean loss of the base state.
    pub before: f64,
    /// Mean loss with the payload.
    pub after: f64,
    /// Standard error of the mean difference, over sequences.
    pub std_error: f64,
    /// Tokens measured.
    pub tokens: u64,
}

impl Trial {
    /// LossScore: what the payload gains, in nats per token.
    pub fn gain(&self) -> f64 {
        self.before - self.after
    }

    fn is_sound(&self) -> bool {
        self.before.is_finite() && self.after.is_finite() && self.gain().is_finite() && self.std_error.is_finite() && self.std_error >= 0.0
    }

    /// From per-sequence summed losses of the same sequences of `length` tokens.
    pub fn paired(before: &[f64], after: &[f64], length: usize) -> Self {
        let (n, per) = (before.len() as f64, length as f64);
        let mean = |v: &[f64]| v.iter().sum::<f64>() / (n * per);
        let (before_mean, after_mean) = (mean(before), mean(after));
        let gain = before_mean - after_mean;
        let squares: f64 = before.iter().zip(after).map(|(b, a)| square((b - a) / per - gain)).sum();
        let std_error = if before.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { f64::MAX };
        Self { before: before_mean, after: after_mean, std_error, tokens: (before.len() * length) as u64 }
    }
}

/// What became of one entry of the seal list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Not judged, and why.
    Refused(Refusal),
    /// Sound, and not in this round's sample.
    Unmeasured,
    /// Judged.
    Measured {
        /// On sequences of the miner's own assignment.
        assigned: Trial,
        /// On the round's random batch.
        random: Trial,
        /// Share of a round's full work that the envelope says was trained, above 0 and at most 1.
        work: f64,
        /// The payload's norm, relative to the round's median.
        norm: f64,
        /// The largest share of its positions that it has in common with another payload of this round or the rounds before.
        overlap: f64,
    },
}

impl Outcome {
    /// The gain on random data, if measured.
    pub fn gain(&self) -> Option<f64> {
        match self {
            Self::Measured { random, .. } => Some(random.gain()),
            Self::Refused(_) | Self::Unmeasured => None,
        }
    }

    /// The share of a round's full work that is claimed, if measured.
    pub fn work(&self) -> Option<f64> {
        match self {
            Self::Measured { work, .. } => Some(*work),
            Self::Refused(_) | Self::Unmeasured => None,
        }
    }

    /// By how many standard errors the gain on assigned data exceeds that on random data, if measured and if there is an error to compare
    /// with: about N(0, 1) for whoever did not train on the assigned data.
    pub fn advantage(&self) -> Option<f64> {
        let Self::Measured { assigned, random, .. } = self else { return None };
        let z = (assigned.gain() - random.gain()) / (square(assigned.std_error) + square(random.std_error)).sqrt();
        z.is_finite().then_some(z)
    }

    /// The reason, if refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Measured { .. } | Self::Unmeasured => None,
        }
    }

    /// Whether its figures are finite and its words few and printable.
    pub(super) fn is_sound(&self) -> bool {
        match self {
            Self::Measured { assigned, random, work, norm, overlap } => {
                assigned.is_sound() && random.is_sound() && (0.0..=1.0).contains(work) && norm.is_finite() && overlap.is_finite()
            }
            Self::Unmeasured => true,
            Self::Refused(refusal) => refusal.words().is_none_or(|w| w.len() <= MAX_REASON && !w.contains(char::is_control)),
        }
    }
}

/// One line of a score sheet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The miner.
    pub uid: u16,
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// BLAKE3 of the payload, as in its envelope.
    pub payload: Digest,
    /// What was found.
    pub outcome: Outcome,
}

/// The lower median of the entries' gains on random data; `None` where nothing was measured.
pub(super) fn median_gain(entries: &[Entry]) -> Option<f64> {
    lower_median(entries.iter().filter_map(|e| e.outcome.gain()))
}

pub(super) fn lower_median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

fn square(x: f64) -> f64 {
    x * x
}
