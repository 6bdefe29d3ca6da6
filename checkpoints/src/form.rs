//! How a snapshot's elements are written: f32, bit for bit, or rounded to bf16 for consumers.

use compression::{LEAF_ELEMENTS, Layout, Root, TensorSpec};
use half::bf16;
use rayon::prelude::*;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

/// How a snapshot's elements are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// The state itself.
    F32,
    /// The model's tensors rounded to bf16, to nearest, ties to even: half the bytes, for those who do not train on.
    Bf16,
}

impl Form {
    /// Bytes of an element.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// The tensors of a state that are written in this form.
    pub(crate) fn layout(self, layout: &Layout) -> &[TensorSpec] {
        match self {
            Self::F32 => layout.tensors(),
            Self::Bf16 => layout.model(),
        }
    }

    /// What a snapshot's files of this form are called.
    pub(crate) fn file_name(self, index: usize, count: usize) -> String {
        let prefix = if self == Self::F32 { "" } else { "bf16-" };
        format!("{prefix}{}", crate::shards::file_name(index, count))
    }

    /// The file with the hashes of its leaves.
    pub(crate) fn leaves_file(self) -> &'static str {
        match self {
            Self::F32 => "leaves",
            Self::Bf16 => "bf16-leaves",
        }
    }
}

/// Rounds to bf16, little-endian.
pub(crate) fn rounded(elements: &[f32]) -> Vec<u8> {
    elements.iter().flat_map(|element| bf16::from_f32(*element).to_le_bytes()).collect()
}

/// BLAKE3 of each leaf of the tensors rounded to bf16: up to 2¹⁸ elements of one tensor, as in a state's root.
pub(crate) fn rounded_leaves(tensors: &[Vec<f32>]) -> Vec<Root> {
    let leaves: Vec<&[f32]> = tensors.iter().flat_map(|tensor| tensor.chunks(LEAF_ELEMENTS)).collect();
    leaves.par_iter().map(|leaf| *blake3::hash(&rounded(leaf)).as_bytes()).collect()
}
