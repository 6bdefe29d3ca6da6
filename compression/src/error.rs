//! Every way in which bytes are refused.

use crate::codec::Codec;
use crate::indices::IndexFault;

/// Why bytes are not a payload of the expected format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Fewer bytes than the payload says it has.
    #[error("payload ends after {found} bytes: cut short")]
    Truncated {
        /// Bytes given.
        found: u64,
    },
    /// Bytes behind the closing hash.
    #[error("payload goes on after its {expected} bytes: trailing bytes")]
    Trailing {
        /// Its length by its sections.
        expected: u64,
    },
    /// Not a payload at all.
    #[error("payload does not start with its magic bytes")]
    Magic,
    /// A format version this build does not know.
    #[error("payload has format version {0}, this build reads version 2")]
    Version(u16),
    /// Codec bytes that are reserved, or a k outside 1 to 4096.
    #[error("payload names the unknown codec {0:02x?}")]
    UnknownCodec([u8; 4]),
    /// Codec runs that are empty, not merged, or not for all tensors.
    #[error("payload's codecs do not add up to its tensors in the shortest way")]
    CodecRuns,
    /// Another codec than the run's.
    #[error("tensor {tensor} must be coded as {expected}; the payload {}", found.map_or("names it for other tensors".into(), |c| format!("has {c}")))]
    Codec {
        /// Number of the first tensor in question.
        tensor: usize,
        /// The run's codec.
        expected: Codec,
        /// The payload's; `None` if only the number of tensors differs.
        found: Option<Codec>,
    },
    /// Another number of tensors than the run's.
    #[error("payload has {found} tensors, expected {expected}")]
    Tensors {
        /// The run's.
        expected: usize,
        /// The payload's.
        found: u32,
    },
    /// Other tensors than the run's.
    #[error("payload is for other tensors: its layout digest differs")]
    Layout,
    /// Another number of sections than the format makes.
    #[error("payload has {found} sections, expected {expected}")]
    Sections {
        /// By format.
        expected: usize,
        /// By the header.
        found: u32,
    },
    /// A section of a length that the format does not allow.
    #[error("section {section} has {found} bytes, expected {least} to {most}")]
    SectionLength {
        /// Number of the section.
        section: usize,
        /// The fewest, by format.
        least: u64,
        /// The most, by format.
        most: u64,
        /// By the payload.
        found: u64,
    },
    /// A section whose bytes do not have its hash.
    #[error("section {section}: its hash does not match its bytes: damaged on the way")]
    SectionHash {
        /// Number of the section.
        section: usize,
    },
    /// A closing list of lengths that is not the sections'.
    #[error("payload's closing lengths are not those of its sections")]
    Footer,
    /// A closing hash that does not fit header and sections.
    #[error("payload's closing hash does not match its header and sections: damaged on the way")]
    Hash,
    /// Content that is refused.
    #[error("tensor {tensor}, chunk {chunk}: {fault}")]
    Chunk {
        /// Number of the tensor in the layout.
        tensor: usize,
        /// Number of the chunk in the tensor; where a whole part is at fault, its first.
        chunk: usize,
        /// What is wrong.
        fault: ChunkFault,
    },
}

/// What is wrong with a chunk, or with a part of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// A reserved scale code.
    #[error("scale code {0} is reserved")]
    Scale(u8),
    /// A chunk of scale code 0 whose codes are not all zero or whose indices are not the lowest.
    #[error("an all-zero chunk must have zero codes and the lowest indices")]
    ZeroChunk,
    /// A chunk of zeros with a scale code other than 0.
    #[error("a chunk whose values are all zero must have scale code 0")]
    AllZero,
    /// A sign on a value that decodes to zero.
    #[error("a value of zero has a negative sign")]
    NegativeZero,
    /// Indices that are none.
    #[error(transparent)]
    Indices(#[from] IndexFault),
    /// Unused bits of the value codes that are not zero.
    #[error("unused bits of the value codes are not zero")]
    Padding,
    /// A table of the reference quantizer with values that are out of range, out of order, or without a code.
    #[error("the table of values is not finite, in range, ascending, and zero where unused")]
    Table,
}
