#![doc = include_str!("../README.md")]

mod bundle;
mod chunk;
mod chunk_encoder;
mod codec;
mod encode;
mod error;
mod floor;
mod format;
mod header;
mod indices;
mod inspect;
mod joint;
mod layout;
mod merge;
mod payload;
mod quantize;
mod scales;
mod section;
mod state;
mod stream;
#[cfg(test)]
mod test_data;

pub use bundle::{BundleError, bundle_len, encode_bundle, parse_bundle};
pub use chunk::{CHUNK_ELEMENTS, Chunk, Grid, TILE};
pub use codec::{Codec, Group, Indices, Quantizer, Select};
pub use encode::{EncodeError, ErrorFeedback, encode, encode_to};
pub use error::{ChunkFault, PayloadError};
pub use floor::Floor;
pub use format::{Format, FormatError, MAX_ROW, Part, SECTION_CHUNKS};
pub use header::{Header, Outline};
pub use indices::IndexFault;
pub use inspect::{Frame, Inspection, SectionPlan, inspect};
pub use layout::{Layout, MAX_NAME, MAX_RANK, TensorSpec};
pub use merge::{MergeOver, Rule, TransitionError, Weighted, check_payloads, check_record, clip_factors, norms, transition, try_step};
pub use payload::{Payload, write_sections};
pub use quantize::{SIGN1, SIGN2};
pub use section::{CodedChunk, Decoded};
pub use state::{LEAF_ELEMENTS, Root, State, check_lengths, root_of_leaves};
pub use stream::{PayloadReader, ReadError, Section, footer_len, payload_len, section_ranges, typical_payload_len};

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
    #[error("tensor {name:?} has the impossible shape {shape:?}; expected 1 to {MAX_RANK} dimensions, none zero")]
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
