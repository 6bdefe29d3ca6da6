//! What a run leaves behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    comparison::mean,
    figures::{Class, Figures},
    sizes::IndexCode,
};

/// A measurement of the held-out loss.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Loss {
    /// Rounds done.
    pub round: u64,
    /// Bits per byte of the held-out text.
    pub bits_per_byte: f64,
    /// Mean nats per token of the miners' own training, in the last round.
    pub training: Option<f64>,
}

/// One round's figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoundFigures {
    /// The round.
    pub round: u64,
    /// Figures per class of tensors.
    pub classes: BTreeMap<Class, Figures>,
}

/// A run's report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The variant's name.
    pub variant: String,
    /// Seed of weights and data.
    pub seed: u64,
    /// The code of a top-k's indices.
    pub indices: IndexCode,
    /// Whose run it was; null until it starts.
    pub setting: Option<Setting>,
    /// Values sent of a full chunk.
    pub values_per_chunk: usize,
    /// Mean bytes of a payload.
    pub payload_bytes: f64,
    /// Mean bits of a full chunk, headers spread over all elements.
    pub bits_per_chunk: f64,
    /// How many times less than f32 that is.
    pub ratio: f64,
    /// The held-out loss.
    pub losses: Vec<Loss>,
    /// Means of the figures over the last half of the rounds.
    pub summary: BTreeMap<Class, Figures>,
    /// Every round's figures.
    pub figures: Vec<RoundFigures>,
    /// Seconds of training, coding, evaluation and statistics.
    pub seconds: Seconds,
}

/// What was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The config's name.
    pub config: String,
    /// Elements of θ.
    pub parameters: usize,
    /// R.
    pub miners: u8,
    /// H.
    pub inner_steps: u32,
    /// Sequences per inner step and miner.
    pub batch: u32,
    /// Tokens per sequence.
    pub sequence_length: usize,
    /// β.
    pub beta: f32,
}

/// Where a run's time went.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Seconds {
    /// Inner steps.
    pub train: f64,
    /// Encoding, parsing and merging.
    pub code: f64,
    /// Held-out loss.
    pub evaluate: f64,
    /// Statistics and dumps.
    pub statistics: f64,
}

impl Report {
    /// An empty one.
    pub fn new(variant: &str, seed: u64, indices: IndexCode) -> Self {
        Self {
            variant: variant.to_owned(),
            seed,
            indices,
            setting: None,
            values_per_chunk: 0,
            payload_bytes: 0.0,
            bits_per_chunk: 0.0,
            ratio: 0.0,
            losses: Vec::new(),
            summary: BTreeMap::new(),
            figures: Vec::new(),
            seconds: Seconds::default(),
        }
    }

    /// Fills in what follows from the rest: `bytes` of all payloads of a model of `parameters`.
    pub fn finish(&mut self, bytes: &[f64], parameters: usize) {
        self.payload_bytes = bytes.iter().sum::<f64>() / bytes.len().max(1) as f64;
        self.ratio = 4.0 * parameters as f64 / self.payload_bytes;
        self.bits_per_chunk = 32.0 * compression::CHUNK_ELEMENTS as f64 / self.ratio;
        let late = &self.figures[self.figures.len() / 2..];
        let of = |class| Figures::mean(&late.iter().filter_map(|round| round.classes.get(&class)).collect::<Vec<_>>());
        let classes = late.first().into_iter().flat_map(|round| round.classes.keys().copied());
        self.summary = classes.map(|class| (class, of(class))).collect();
    }

    /// The variant, with its index code where that is not the usual one.
    pub fn name(&self) -> String {
        match self.indices {
            IndexCode::Golomb => self.variant.clone(),
            other => format!("{}, {other}", self.variant),
        }
    }

    /// The held-out loss after the last round; not a number if it never was measured.
    pub fn last_loss(&self) -> f64 {
        self.late_losses(1)
    }

    /// The mean of the last three measurements of the held-out loss.
    pub fn late_loss(&self) -> f64 {
        self.late_losses(3)
    }

    fn late_losses(&self, count: usize) -> f64 {
        mean(&self.losses.iter().rev().take(count).map(|loss| loss.bits_per_byte).collect::<Vec<_>>())
    }

    /// The report's text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("keys are names and numbers are finite or null")
    }
}
