//! What pseudo-gradients and payloads are like: figures per round and class of tensors.

use compression::TensorSpec;
use protocol::Architecture;
use serde::{Deserialize, Serialize};

/// Tensors that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Tables with a row per token.
    Embedding,
    /// Everything else of two dimensions.
    Matrix,
    /// Norms.
    Vector,
}

impl Class {
    /// The class of a tensor.
    pub fn of(spec: &TensorSpec) -> Self {
        match spec {
            s if Architecture::is_embedding(&s.name) => Self::Embedding,
            s if s.shape.len() > 1 => Self::Matrix,
            _ => Self::Vector,
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Embedding => "embedding",
            Self::Matrix => "matrix",
            Self::Vector => "vector",
        })
    }
}

/// Figures of one class in one round. Entropies are of order 0, in bits; what does not apply is null.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Share of the energy of β·e + g in the selected coordinates.
    pub energy_selected: Option<f64>,
    /// Squared error of the sent values over the energy of the selected ones.
    pub quantization_error: Option<f64>,
    /// Standard deviation, within a tensor, of ln(rms of a chunk's selected values).
    pub scale_spread: Option<f64>,
    /// Largest over smallest selected magnitude of a chunk, median.
    pub magnitude_ratio: Option<f64>,
    /// Entropy per index of the gap before it, or of its place in its group; full chunks.
    pub index_entropy: Option<f64>,
    /// Bits per index of the index code; full chunks.
    pub index_bits: Option<f64>,
    /// Bits per index if all sets of indices are equally likely: log2 C(n, k) / k, or log2 of the group; full chunks.
    pub index_uniform: Option<f64>,
    /// Bits per index if the miners' top-k sets are coded jointly: how many sent a coordinate, then which; full chunks.
    pub index_joint: Option<f64>,
    /// Entropy of a value's code, its sign left out.
    pub code_entropy: Option<f64>,
    /// Entropy of a value's sign.
    pub sign_entropy: Option<f64>,
    /// Entropy of a chunk's scale code.
    pub scale_entropy: Option<f64>,
    /// Entropy of the difference of neighbouring chunks' scale codes.
    pub scale_step_entropy: Option<f64>,
    /// Share of one miner's indices that another one sends too.
    pub overlap: Option<f64>,
    /// What that share would be by chance.
    pub overlap_by_chance: Option<f64>,
    /// Share of equal signs where two miners send the same coordinate.
    pub sign_agreement: Option<f64>,
}

impl Figures {
    /// Each figure's mean over the rounds that have it.
    pub fn mean(rounds: &[&Self]) -> Self {
        let mean = |figure: fn(&Self) -> Option<f64>| {
            let known: Vec<f64> = rounds.iter().filter_map(|f| figure(f)).collect();
            ratio(known.iter().sum(), known.len() as f64)
        };
        Self {
            energy_selected: mean(|f| f.energy_selected),
            quantization_error: mean(|f| f.quantization_error),
            scale_spread: mean(|f| f.scale_spread),
            magnitude_ratio: mean(|f| f.magnitude_ratio),
            index_entropy: mean(|f| f.index_entropy),
            index_bits: mean(|f| f.index_bits),
            index_uniform: mean(|f| f.index_uniform),
            index_joint: mean(|f| f.index_joint),
            code_entropy: mean(|f| f.code_entropy),
            sign_entropy: mean(|f| f.sign_entropy),
            scale_entropy: mean(|f| f.scale_entropy),
            scale_step_entropy: mean(|f| f.scale_step_entropy),
            overlap: mean(|f| f.overlap),
            overlap_by_chance: mean(|f| f.overlap_by_chance),
            sign_agreement: mean(|f| f.sign_agreement),
        }
    }
}

/// A share, if there is anything to have a share of.
pub fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}
