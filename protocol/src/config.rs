//! A run as its launcher types it: TOML with defaults. [`crate::Manifest::resolve`] turns it into what all nodes agree on.

use compression::{Codec, Group};
use serde::{Deserialize, Serialize};

use crate::{Architecture, Judge, Pay, Retention};

/// One rule that a config or a manifest breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[{section}] {field}: {problem}")]
pub struct ConfigError {
    /// Table of the TOML file.
    pub section: &'static str,
    /// Key within the table.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(section: &'static str, field: &'static str, problem: impl Into<String>) -> Self {
        Self { section, field, problem: problem.into() }
    }
}

/// A number that may change at given rounds: piecewise constant, `[[round, value], …]` or a plain number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Schedule {
    /// The same value in every round.
    Constant(f32),
    /// From each round on, its value; the first round is 0, rounds ascend.
    Steps(Vec<(u64, f32)>),
}

impl Schedule {
    /// The value in force in `round`.
    pub fn at(&self, round: u64) -> f32 {
        match self {
            Self::Constant(value) => *value,
            Self::Steps(steps) => steps.iter().rev().find(|(from, _)| *from <= round).map_or(0.0, |(_, v)| *v),
        }
    }

    pub(crate) fn problem(&self) -> Option<String> {
        let steps = match self {
            Self::Constant(value) => &[(0, *value)][..],
            Self::Steps(steps) => steps,
        };
        if steps.first().is_none_or(|(round, _)| *round != 0) {
            return Some("the first step must be at round 0".into());
        }
        if steps.windows(2).any(|w| w[0].0 >= w[1].0) {
            return Some("the steps' rounds must ascend".into());
        }
        steps.iter().find(|(_, v)| !(v.is_finite() && *v > 0.0)).map(|(r, v)| format!("{v} at round {r} is not a positive number"))
    }
}

/// A config file, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// What people call the run.
    pub name: String,
    /// The transformer.
    pub model: Architecture,
    /// Where its tokens come from.
    pub data: DataConfig,
    /// Inner optimizer.
    pub inner: Inner,
    /// Outer step.
    #[serde(default)]
    pub outer: Outer,
    /// What miners send.
    #[serde(default)]
    pub compression: Compression,
    /// Lengths of a round's phases.
    pub round: RoundTimes,
    /// How contributions are measured.
    #[serde(default)]
    pub judge: Judge,
    /// How measured work is paid.
    #[serde(default)]
    pub pay: Pay,
    /// Snapshots.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// How long buckets keep what is in them.
    #[serde(default)]
    pub retention: Retention,
}

impl RunConfig {
    /// Reads a config file's text.
    ///
    /// # Errors
    /// The TOML parser's message, which names line, column and key.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

/// The run's tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// `bytes`, or the name of a Hugging Face tokenizer whose `tokenizer.json` lies beside the shards.
    pub tokenizer: String,
    /// What the tokens are, for people; launch records the data set's digest.
    #[serde(default)]
    pub source: String,
}

/// AdamW with linear warm-up and cosine decay, H steps per round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inner {
    /// Inner steps per round, H.
    pub steps: u32,
    /// Sequences per inner step and miner.
    pub batch: u32,
    /// Sequences per forward pass; gradients accumulate up to `batch`.
    pub micro_batch: u32,
    /// Peak learning rate.
    pub lr: f64,
    /// Inner steps of linear warm-up.
    pub warmup: u32,
    /// Inner steps from the peak to the end of the cosine.
    pub decay: u32,
    /// Final learning rate as a share of the peak.
    #[serde(default = "Inner::default_floor")]
    pub floor: f64,
    /// First-moment decay.
    #[serde(default = "Inner::default_beta1")]
    pub beta1: f64,
    /// Second-moment decay.
    #[serde(default = "Inner::default_beta2")]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[serde(default = "Inner::default_eps")]
    pub eps: f64,
    /// Decoupled weight decay, on tensors of two and more dimensions.
    #[serde(default = "Inner::default_decay")]
    pub weight_decay: f64,
    /// Gradient norm is clipped to this.
    #[serde(default = "Inner::default_clip")]
    pub clip: f64,
}

impl Inner {
    fn default_floor() -> f64 {
        0.1
    }
    fn default_beta1() -> f64 {
        0.9
    }
    fn default_beta2() -> f64 {
        0.95
    }
    fn default_eps() -> f64 {
        1e-8
    }
    fn default_decay() -> f64 {
        0.1
    }
    fn default_clip() -> f64 {
        1.0
    }

    /// Learning rate of inner step `step` (0-based, counted over the whole run).
    pub fn lr_at(&self, step: u64) -> f64 {
        if step < u64::from(self.warmup) {
            return self.lr * (step + 1) as f64 / f64::from(self.warmup);
        }
        let progress = ((step - u64::from(self.warmup)) as f64 / f64::from(self.decay)).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.lr * (self.floor + (1.0 - self.floor) * cosine)
    }
}

/// θ ← θ − lr · merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outer {
    /// Outer learning rate α.
    pub lr: Schedule,
    /// Over whom a coordinate's mean is taken.
    pub merge: Merge,
    /// How the merged update is compressed again before it is taken; what is lost stays in the state's residual. Off by default: what it
    /// costs in loss has not been measured yet.
    pub resparsify: Option<Coding>,
}

impl Default for Outer {
    fn default() -> Self {
        Self { lr: Schedule::Constant(1.0), merge: Merge::Senders, resparsify: None }
    }
}

/// Over whom a coordinate's mean is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Merge {
    /// The payloads that sent the coordinate (as deployed).
    Senders,
    /// All payloads of the record (as in the paper).
    All,
}

/// What miners send, and how their error feedback lives on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compression {
    /// How tensors of two and more dimensions are coded.
    pub matrices: Coding,
    /// How token embedding and output matrix are coded, if not like the other matrices.
    pub embeddings: Option<Coding>,
    /// How 1-D tensors are coded, if not like matrices.
    pub vectors: Option<Coding>,
    /// Error-feedback decay β.
    pub beta: f32,
    /// Whether a miner whose payload was not applied puts it back into its error feedback. Off by default: while leads apply nobody's, all
    /// would gather the same step over and over and then take it many times at once.
    pub reabsorb: bool,
}

impl Default for Compression {
    fn default() -> Self {
        Self { matrices: Coding::default(), embeddings: None, vectors: None, beta: 0.95, reabsorb: false }
    }
}

/// How tensors are coded: which elements are sent, and how. The README of `compression` has the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "select", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Coding {
    /// The largest k of each chunk of 4096.
    TopK {
        /// Values kept of each chunk.
        #[serde(default = "Coding::default_k")]
        k: u16,
        /// How a kept value is written.
        #[serde(default)]
        quantizer: Quantizer,
        /// How the kept positions are written.
        #[serde(default)]
        indices: Indices,
    },
    /// The largest of each group of consecutive elements.
    GroupMax {
        /// Elements of a group: 16, 32 or 64.
        group: u16,
        /// How a kept value is written.
        #[serde(default)]
        quantizer: Quantizer,
    },
}

impl Default for Coding {
    fn default() -> Self {
        Self::TopK { k: Self::default_k(), quantizer: Quantizer::default(), indices: Indices::default() }
    }
}

impl Coding {
    /// With one bit per value it costs what 64 cost with two, and gave the lower loss (docs/compression.md).
    fn default_k() -> u16 {
        72
    }

    /// The codec it stands for, or why there is none.
    pub(crate) fn codec(&self) -> Result<Codec, &'static str> {
        match *self {
            Self::TopK { k, .. } if k == 0 || k > 4096 => Err("k must be 1 to 4096 values per chunk"),
            Self::TopK { k, quantizer, indices } => Ok(Codec::top_k(k, quantizer.into(), indices.into())),
            Self::GroupMax { group, quantizer } => {
                let group = Group::of(group).ok_or("group must be 16, 32 or 64 elements")?;
                Ok(Codec::group_max(group, quantizer.into()))
            }
        }
    }
}

/// How a kept value is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantizer {
    /// Sign and one of two magnitudes under a per-chunk scale: 2 bits.
    Sign2,
    /// Sign under a per-chunk scale: 1 bit.
    #[default]
    Sign1,
    /// The deployed reference's four values per tensor: 2 bits.
    Reference,
}

impl From<Quantizer> for compression::Quantizer {
    fn from(quantizer: Quantizer) -> Self {
        match quantizer {
            Quantizer::Sign2 => Self::Sign2,
            Quantizer::Sign1 => Self::Sign1,
            Quantizer::Reference => Self::Reference,
        }
    }
}

/// How the kept positions are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Indices {
    /// Ascending, 12 bits each.
    Packed12,
    /// Elias-Fano: 8 bits each at k = 64, any chunk found at once.
    EliasFano,
    /// Golomb codes of the gaps: 7.44 bits each at k = 64.
    #[default]
    Golomb,
}

impl From<Indices> for compression::Indices {
    fn from(indices: Indices) -> Self {
        match indices {
            Indices::Packed12 => Self::Packed12,
            Indices::EliasFano => Self::EliasFano,
            Indices::Golomb => Self::Golomb,
        }
    }
}

/// Lengths of a round's phases in blocks; see [`crate::round`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundTimes {
    /// From a record (or the start) to the next close.
    pub train: u64,
    /// The last blocks of `train`, in which miners no longer train but upload.
    #[serde(default = "RoundTimes::default_upload")]
    pub upload: u64,
    /// From the close to the last moment at which a key counts.
    pub reveal: u64,
    /// From there to the end of the first lead's time for the record.
    pub judge: u64,
    /// Length of a lead's own span, for the seal list and for the record.
    pub span: u64,
    /// Whether the first lead may close as soon as every uid of the previous record has sealed.
    #[serde(default)]
    pub early_close: bool,
}

impl RoundTimes {
    fn default_upload() -> u64 {
        1
    }
}

/// When snapshots are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// A public snapshot each this many rounds.
    pub every: u64,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 10 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::test_data::SMALL;

    #[test]
    fn a_schedule_holds_each_value_until_the_next_step() {
        let steps = Schedule::Steps(vec![(0, 1.0), (3, 0.5), (9, 0.25)]);
        let at: Vec<f32> = [0, 2, 3, 8, 9, u64::MAX].map(|round| steps.at(round)).to_vec();
        assert_eq!(at, [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]);
        assert_eq!(Schedule::Constant(0.7).at(5), 0.7);
    }

    #[test]
    fn the_inner_rate_rises_to_its_peak_and_falls_along_a_cosine_to_its_floor() {
        let inner = RunConfig::parse(SMALL).unwrap().inner;
        let at = |step| inner.lr_at(step) / inner.lr;
        assert!((at(0) - 0.1).abs() < 1e-12 && (at(9) - 1.0).abs() < 1e-12 && (at(10) - 1.0).abs() < 1e-12);
        assert!((at(60) - 0.55).abs() < 1e-12, "half way between peak and floor");
        assert!((at(110) - 0.1).abs() < 1e-12 && at(110) == at(u64::MAX));
        assert!((10..109).all(|step| at(step) > at(step + 1)));
        assert_eq!(Inner { warmup: 0, ..inner.clone() }.lr_at(0), inner.lr);
    }

    #[test]
    fn typing_errors_are_named() {
        let error = RunConfig::parse(&SMALL.replace("warmup = 10", "warm_up = 10")).unwrap_err().to_string();
        assert!(error.contains("warm_up") && error.contains("line"), "{error}");
        assert!(RunConfig::parse("name = 3").is_err());
        let plain = RunConfig::parse(&SMALL.replace("lr = [[0, 1.0], [50, 0.7]]", "lr = 1")).unwrap();
        assert_eq!(plain.outer.lr, Schedule::Constant(1.0));
    }
}
