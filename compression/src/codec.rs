//! What the manifest chooses about the coding, and the sizes that follow from it.

use crate::chunk::{CHUNK_ELEMENTS, Grid};
use crate::layout::Layout;
use crate::payload::{HASH_BYTES, HEADER_BYTES};

/// How a selected value becomes a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantizer {
    /// A sign and one of two magnitudes, both magnitudes given by the chunk's scale code: 2 bits per value, 8 per chunk.
    Sign2,
}

impl Quantizer {
    /// The byte that stands for it in a payload.
    pub fn wire(self) -> u8 {
        match self {
            Self::Sign2 => 1,
        }
    }

    /// The quantizer of a wire byte; `None` for reserved ones.
    pub fn from_wire(byte: u8) -> Option<Self> {
        (byte == 1).then_some(Self::Sign2)
    }
}

/// How a chunk's ascending indices are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indices {
    /// 12 bits each.
    Packed12,
}

impl Indices {
    /// The byte that stands for it in a payload.
    pub fn wire(self) -> u8 {
        match self {
            Self::Packed12 => 1,
        }
    }

    /// The index code of a wire byte; `None` for reserved ones.
    pub fn from_wire(byte: u8) -> Option<Self> {
        (byte == 1).then_some(Self::Packed12)
    }
}

/// The coding of every tensor of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec {
    /// Values selected in a full chunk of 4096 elements, 1 to 4096.
    pub k: u16,
    /// The value code.
    pub quantizer: Quantizer,
    /// The index code.
    pub indices: Indices,
}

impl Codec {
    /// Whether `k` is one of 1 to 4096.
    pub fn k_is_valid(&self) -> bool {
        (1..=CHUNK_ELEMENTS).contains(&usize::from(self.k))
    }

    /// Values selected in a chunk of `elements`: `max(1, floor(k * elements / 4096))`.
    pub fn chunk_k(&self, elements: usize) -> usize {
        (usize::from(self.k) * elements / CHUNK_ELEMENTS).clamp(1, elements)
    }

    /// Bytes of the value codes of a chunk of `elements`.
    pub(crate) fn code_bytes(&self, elements: usize) -> usize {
        match self.quantizer {
            Quantizer::Sign2 => (2 * self.chunk_k(elements)).div_ceil(8),
        }
    }

    /// Bytes of the indices of a chunk of `elements`.
    pub(crate) fn index_bytes(&self, elements: usize) -> usize {
        match self.indices {
            Indices::Packed12 => (12 * self.chunk_k(elements)).div_ceil(8),
        }
    }
}

/// Where one tensor's three sections lie: scales (one byte per chunk), value codes, indices, without gaps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sections {
    pub grid: Grid,
    pub scales: usize,
    pub codes: usize,
    pub indices: usize,
    pub end: usize,
}

/// Every tensor's sections, in layout order, at offsets from the payload's first byte.
pub(crate) fn sections(layout: &Layout, codec: &Codec) -> Vec<Sections> {
    let mut scales = HEADER_BYTES;
    let place = |tensor: &crate::TensorSpec| {
        let grid = Grid::new(&tensor.shape);
        let codes = scales + grid.chunks();
        let indices = codes + grid.sum(|n| codec.code_bytes(n));
        let end = indices + grid.sum(|n| codec.index_bytes(n));
        Sections { grid, scales: std::mem::replace(&mut scales, end), codes, indices, end }
    };
    layout.tensors().iter().map(place).collect()
}

/// The exact size in bytes of every payload of this layout and codec.
pub fn payload_len(layout: &Layout, codec: &Codec) -> u64 {
    let body_end = sections(layout, codec).last().map_or(HEADER_BYTES, |last| last.end);
    (body_end + HASH_BYTES) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::TensorSpec;

    #[test]
    fn k_is_in_proportion_and_at_least_one() {
        let codec = |k| Codec { k, quantizer: Quantizer::Sign2, indices: Indices::Packed12 };
        assert_eq!([1, 63, 64, 127, 128, 4095, 4096].map(|n| codec(64).chunk_k(n)), [1, 1, 1, 1, 2, 63, 64]);
        assert_eq!([1, 2, 4096].map(|n| codec(4096).chunk_k(n)), [1, 2, 4096]);
        assert!(codec(1).k_is_valid() && codec(4096).k_is_valid());
        assert!(!codec(0).k_is_valid() && !codec(4097).k_is_valid());
    }

    #[test]
    fn reserved_wire_codes_are_refused() {
        for byte in 0..=255 {
            assert_eq!(Quantizer::from_wire(byte).is_some(), byte == Quantizer::Sign2.wire());
            assert_eq!(Indices::from_wire(byte).is_some(), byte == Indices::Packed12.wire());
        }
    }

    #[test]
    fn a_full_tile_at_k_64_costs_113_bytes() {
        let codec = Codec { k: 64, quantizer: Quantizer::Sign2, indices: Indices::Packed12 };
        let layout = Layout::new(vec![TensorSpec::new("w", &[128, 64])]).unwrap();
        assert_eq!(payload_len(&layout, &codec), 160 + 2 * (1 + 16 + 96) + 32);
    }
}
