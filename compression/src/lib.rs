#![doc = include_str!("../README.md")]

mod bundle;
mod chunk;
mod codec;
mod encode;
mod header;
mod layout;
mod merge;
mod pack;
mod payload;
mod quantize;
mod select;
mod state;
#[cfg(test)]
mod test_data;

pub use bundle::{BundleError, bundle_len, encode_bundle, parse_bundle};
pub use chunk::{CHUNK_ELEMENTS, Chunk, Grid, TILE};
pub use codec::{Codec, Indices, Quantizer, payload_len};
pub use encode::{EncodeError, ErrorFeedback, encode};
pub use layout::{Layout, MAX_NAME, MAX_RANK, TensorSpec};
pub use merge::{MergeOver, Rule, TransitionError, Weighted, check_record, clip_factors, norms, transition, try_step};
pub use payload::{CodedChunk, HEADER_BYTES, Header, Payload, PayloadError};
pub use quantize::SIGN2;
pub use state::{LEAF_ELEMENTS, Root, State, check_lengths};

/// Why a layout, or tensors that should fit one, are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No tensors at all.
    #[error("a layout needs at least one tensor")]
    Empty,
    /// A name that is empty or too long.
    #[error("tensor name {0:?} must have 1 to {MAX_NAME} bytes")]
    Name(String),
    /// Two tensors of one name.
    #[error("tensor {0:?} appears twice")]
    Repeated(String),
    /// A shape with a zero, with too many dimensions or too many elements.
    #[error("tensor {name:?} has the impossible shape {shape:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Not as many tensors as the layout has.
    #[error("expected {expected} tensors, found {found}")]
    Count {
        /// Tensors in the layout.
        expected: usize,
        /// Tensors given.
        found: usize,
    },
    /// A tensor whose data is shorter or longer than its shape.
    #[error("tensor {name:?} has {found} elements where its shape has {expected}")]
    Data {
        /// The tensor.
        name: String,
        /// Elements by its shape.
        expected: usize,
        /// Elements given.
        found: usize,
    },
}
