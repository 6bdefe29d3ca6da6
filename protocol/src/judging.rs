//! The manifest's sections `judge` and `pay`: how contributions are measured, chosen and paid.

use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// Which payloads are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeMode {
    /// Every payload is measured before it may enter a record.
    All,
    /// A sample of `sample` payloads per round; see [`crate::score::sample`].
    Sampled,
}

/// How contributions are measured and chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Judge {
    /// Which payloads are measured.
    pub mode: JudgeMode,
    /// Payloads measured per round where `mode` is `sampled`, besides those of miners on probation.
    pub sample: u32,
    /// Where `mode` is `sampled`: the largest share of a record's payloads that were not measured.
    pub unmeasured: f64,
    /// Sequences of each payload's own assignment that it is tried on.
    pub assigned: u32,
    /// Sequences of the random batch that all payloads of a round are tried on.
    pub random: u32,
    /// Share c of the outer learning rate at which a payload is tried.
    pub step: f32,
    /// A payload of a miner without standing must gain more than this share of the round's median gain on random data.
    pub floor: f64,
    /// A miner has standing once its mean gain, relative to the rounds' medians, is at least this.
    pub trust: f64,
    /// Measurements before a miner can have standing.
    pub probation: u32,
    /// A payload's norm is refused beyond this multiple of the round's median norm.
    pub outlier: f64,
    /// A payload that has this share of its positions in common with an earlier one is refused as a copy.
    pub overlap: f64,
    /// Rounds back in which an earlier one is looked for.
    pub history: u32,
    /// Payloads per record at most, G.
    pub top: u32,
    /// Payloads per round that a validator measures for itself when another leads.
    pub spot_checks: u32,
    /// Another validator's gain is contradicted beyond this many combined standard errors, where both did not measure the same sequences.
    pub z: f64,
    /// Rounds for which a lead whose testimony was contradicted is checked in full.
    pub distrust: u32,
    /// How it is found out whether a miner trains on its assignment.
    pub computation: Computation,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            mode: JudgeMode::All,
            sample: 8,
            unmeasured: 0.5,
            assigned: 16,
            random: 32,
            step: 0.2,
            floor: 0.1,
            trust: 0.5,
            probation: 4,
            outlier: 3.0,
            overlap: 0.7,
            history: 3,
            top: 20,
            spot_checks: 2,
            z: 4.0,
            distrust: 20,
            computation: Computation::default(),
        }
    }
}

/// How it is found out whether a miner trains on its assignment: by its gains on assigned and on random data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "test", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Computation {
    /// A sequential probability-ratio test on the standardized difference of the two gains.
    Sequential {
        /// The log odds stay within ± this, so that a change of behaviour shows within rounds.
        #[serde(default = "Computation::default_cap")]
        cap: f64,
    },
    /// The deployed reference's moving average of signs.
    Average {
        /// Weight of the newest sign.
        #[serde(default = "Computation::default_rate")]
        rate: f64,
        /// An average below this pays nothing.
        #[serde(default = "Computation::default_floor")]
        floor: f64,
        /// Measurements before `floor` counts.
        #[serde(default = "Computation::default_rounds")]
        rounds: u32,
    },
}

impl Computation {
    /// The deployed reference's parameters.
    pub const REFERENCE: Self = Self::Average { rate: 0.05, floor: 0.1, rounds: 10 };

    pub(crate) fn default_cap() -> f64 {
        7.0
    }
    pub(crate) fn default_rate() -> f64 {
        0.05
    }
    fn default_floor() -> f64 {
        0.1
    }
    fn default_rounds() -> u32 {
        10
    }
}

impl Default for Computation {
    fn default() -> Self {
        Self::Sequential { cap: Self::default_cap() }
    }
}

/// What a miner's work is worth, before proof of computation and penalties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rating {
    /// Its mean gain relative to the rounds' medians, times the share of a round's full work that it claims.
    #[default]
    Gain,
    /// The reference's LossRating: Plackett–Luce, μ − 3σ.
    LossRating,
}

/// How measured work is paid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pay {
    /// What is paid for.
    pub rating: Rating,
    /// Payment ∝ score^power.
    pub power: f64,
    /// Share of the weight that goes to the owner's uid 0 (burnt).
    pub burn: f64,
    /// Share of what is not burnt that goes to the reserves: the miners that follow the best `judge.top`.
    pub reserve: f64,
    /// How many reserves are paid.
    pub reserves: u32,
    /// A score is multiplied by this for each round in a row without a valid payload, and is nothing from the third on.
    pub missing: f64,
    /// A score is multiplied by this while most of the last 8 measurements show no gain.
    pub negative: f64,
}

impl Default for Pay {
    fn default() -> Self {
        Self { rating: Rating::Gain, power: 2.0, burn: 0.0, reserve: 0.25, reserves: 10, missing: 0.75, negative: 0.25 }
    }
}

impl Judge {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let err = |field, problem: String| Err(ConfigError::new("judge", field, problem));
        // a standard error needs two sequences
        let counts = [("assigned", self.assigned, 2), ("random", self.random, 2), ("top", self.top, 1), ("sample", self.sample, 1)];
        if let Some((field, value, least)) = counts.into_iter().find(|(_, value, least)| !(*least..=4096).contains(value)) {
            return err(field, format!("{value} is not between {least} and 4096"));
        }
        if self.history > 64 {
            return err("history", format!("{} rounds of payloads are more than anybody keeps; at most 64", self.history));
        }
        let shares = [("floor", self.floor), ("step", f64::from(self.step)), ("overlap", self.overlap)];
        if let Some((field, value)) = shares.into_iter().find(|(_, value)| !(*value > 0.0 && *value <= 1.0)) {
            return err(field, format!("{value} is not above 0 and at most 1"));
        }
        if !(0.0..=1.0).contains(&self.unmeasured) {
            return err("unmeasured", format!("{} is not between 0 and 1", self.unmeasured));
        }
        let positive = [("z", self.z), ("trust", self.trust), ("outlier", self.outlier)];
        if let Some((field, value)) = positive.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            return err(field, format!("{value} is not a positive number"));
        }
        if self.outlier <= 1.0 {
            return err("outlier", format!("{} would refuse half of all payloads; it must be above 1", self.outlier));
        }
        self.computation.validate()
    }
}

impl Computation {
    fn validate(&self) -> Result<(), ConfigError> {
        let err = |problem: String| Err(ConfigError::new("judge", "computation", problem));
        match *self {
            Self::Sequential { cap } if !(cap.is_finite() && cap > 0.0) => err(format!("cap = {cap} is not a positive number")),
            Self::Average { rate, .. } if !(rate > 0.0 && rate <= 1.0) => err(format!("rate = {rate} is not above 0 and at most 1")),
            Self::Average { floor, .. } if !(floor > 0.0 && floor <= 1.0) => err(format!("floor = {floor} is not above 0 and at most 1")),
            _ => Ok(()),
        }
    }
}

impl Pay {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let err = |field, problem: String| Err(ConfigError::new("pay", field, problem));
        if !(self.power.is_finite() && self.power > 0.0) {
            return err("power", format!("{} is not a positive number", self.power));
        }
        let shares = [("burn", self.burn), ("reserve", self.reserve), ("missing", self.missing), ("negative", self.negative)];
        match shares.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            Some((field, value)) => err(field, format!("{value} is not between 0 and 1")),
            None => Ok(()),
        }
    }
}
