//! What the manifest chooses about the coding of a tensor, and the sizes of a chunk that follow from it.

use crate::chunk::CHUNK_ELEMENTS;
use crate::indices::{elias_fano, golomb, packed};

/// Bits of a packed index.
pub(crate) const INDEX_BITS: u32 = CHUNK_ELEMENTS.ilog2();

/// Which elements of a chunk are sent, and how their places are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// Those of largest magnitude: `k` of a full chunk of 4096, in proportion of a smaller one.
    TopK {
        /// Values of a full chunk, 1 to 4096.
        k: u16,
        /// How the ascending indices are written.
        indices: Indices,
    },
    /// The largest of each run of consecutive elements; its offset in the run takes log2 of the run's length bits.
    GroupMax {
        /// The run's length.
        group: Group,
    },
}

/// Elements of a group of [`Select::GroupMax`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// 16 elements, 4 bits per index, 256 values per full chunk.
    G16,
    /// 32 elements, 5 bits per index, 128 values per full chunk.
    G32,
    /// 64 elements, 6 bits per index, 64 values per full chunk.
    G64,
}

impl Group {
    /// Its number of elements.
    pub fn elements(self) -> usize {
        match self {
            Self::G16 => 16,
            Self::G32 => 32,
            Self::G64 => 64,
        }
    }

    /// The group of that many elements; `None` if there is no such group.
    pub fn of(elements: u16) -> Option<Self> {
        [Self::G16, Self::G32, Self::G64].into_iter().find(|group| group.elements() == usize::from(elements))
    }

    /// Bits of an offset.
    pub(crate) fn bits(self) -> u32 {
        self.elements().ilog2()
    }
}

/// How a chunk's ascending indices are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indices {
    /// 12 bits each.
    Packed12,
    /// Elias-Fano: 8 bits each at k = 64, of one size for all chunks, read at any chunk.
    EliasFano,
    /// Golomb codes of the gaps: 7.44 bits each at k = 64 on uniform sets, where no code can do with less than 7.36.
    Golomb,
}

impl std::fmt::Display for Indices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Packed12 => "packed12",
            Self::EliasFano => "elias-fano",
            Self::Golomb => "golomb",
        })
    }
}

/// How a selected value becomes a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantizer {
    /// A sign and one of two magnitudes, both magnitudes given by the chunk's scale code: 2 bits per value, 8 per chunk.
    Sign2,
    /// A sign, with one magnitude per chunk given by its scale code: 1 bit per value, 8 per chunk.
    Sign1,
    /// The deployed reference: four values per tensor, 2 bits per value, and the reference's own chunks.
    Reference,
}

impl Quantizer {
    /// Bits of a value's code.
    pub fn code_bits(self) -> u32 {
        match self {
            Self::Sign2 | Self::Reference => 2,
            Self::Sign1 => 1,
        }
    }
}

impl std::fmt::Display for Quantizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sign2 => "sign2",
            Self::Sign1 => "sign1",
            Self::Reference => "reference",
        })
    }
}

/// The coding of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec {
    /// Which elements are sent.
    pub select: Select,
    /// How their values are coded.
    pub quantizer: Quantizer,
}

/// Bytes of a codec in a header.
pub(crate) const CODEC_BYTES: usize = 4;

impl Codec {
    /// The codec of these choices.
    pub fn top_k(k: u16, quantizer: Quantizer, indices: Indices) -> Self {
        Self { select: Select::TopK { k, indices }, quantizer }
    }

    /// The codec of these choices.
    pub fn group_max(group: Group, quantizer: Quantizer) -> Self {
        Self { select: Select::GroupMax { group }, quantizer }
    }

    /// Values sent of a chunk of `elements` (1 to 4096).
    ///
    /// Top-k: `max(1, floor(k * elements / 4096))`; with the reference quantizer `min(k, elements)`, rounded down to an even number but
    /// at least 2, where the chunk has them. Group-max: the number of groups, `ceil(elements / group)`.
    pub fn chunk_k(&self, elements: usize) -> usize {
        match (self.select, self.quantizer) {
            (Select::TopK { k, .. }, Quantizer::Reference) => (usize::from(k).min(elements) & !1).max(2).min(elements),
            (Select::TopK { k, .. }, _) => (usize::from(k) * elements / CHUNK_ELEMENTS).clamp(1, elements),
            (Select::GroupMax { group }, _) => elements.div_ceil(group.elements()),
        }
    }

    /// `k` of a top-k outside 1 to 4096.
    pub(crate) fn impossible_k(&self) -> Option<u16> {
        match self.select {
            Select::TopK { k, .. } if !(1..=CHUNK_ELEMENTS).contains(&usize::from(k)) => Some(k),
            _ => None,
        }
    }

    /// Bytes of the value codes of a chunk of `elements`.
    pub fn code_bytes(&self, elements: usize) -> usize {
        packed::bytes(self.chunk_k(elements), self.quantizer.code_bits())
    }

    /// Bits of an index of a chunk of `elements` that are written as they are in memory: with Elias-Fano the low ones, else all.
    pub fn index_bits(&self, elements: usize) -> u32 {
        match self.select {
            Select::TopK { indices: Indices::Packed12, .. } => INDEX_BITS,
            Select::TopK { .. } => elias_fano::low_width(elements, self.chunk_k(elements)),
            Select::GroupMax { group } => group.bits(),
        }
    }

    /// Bytes of the indices of a chunk of `elements` in memory, where every chunk can be found.
    pub fn index_bytes(&self, elements: usize) -> usize {
        let k = self.chunk_k(elements);
        match self.select {
            Select::TopK { indices: Indices::Packed12, .. } => packed::bytes(k, INDEX_BITS),
            Select::TopK { .. } => elias_fano::bytes(elements, k),
            Select::GroupMax { group } => packed::bytes(k, group.bits()),
        }
    }

    /// Bytes of the indices of a chunk of `elements` in a payload, without what a Golomb code puts into its stream.
    pub(crate) fn wire_index_bytes(&self, elements: usize) -> usize {
        if self.is_golomb() { golomb::low_bytes(elements, self.chunk_k(elements)) } else { self.index_bytes(elements) }
    }

    /// Whether the indices take a varying number of bits.
    pub(crate) fn is_golomb(&self) -> bool {
        matches!(self.select, Select::TopK { indices: Indices::Golomb, .. })
    }

    /// Four bytes: k or the group's elements (u16), quantizer, index code.
    pub(crate) fn to_bytes(self) -> [u8; CODEC_BYTES] {
        let (parameter, indices) = match self.select {
            Select::TopK { k, indices: Indices::Packed12 } => (k, 1),
            Select::TopK { k, indices: Indices::EliasFano } => (k, 2),
            Select::TopK { k, indices: Indices::Golomb } => (k, 3),
            Select::GroupMax { group } => (group.elements() as u16, 4),
        };
        let quantizer = match self.quantizer {
            Quantizer::Sign2 => 1,
            Quantizer::Sign1 => 2,
            Quantizer::Reference => 3,
        };
        let [low, high] = parameter.to_le_bytes();
        [low, high, quantizer, indices]
    }

    /// The codec of four bytes; `None` for reserved ones.
    pub(crate) fn from_bytes([low, high, quantizer, indices]: [u8; CODEC_BYTES]) -> Option<Self> {
        let parameter = u16::from_le_bytes([low, high]);
        let select = match indices {
            1 => Select::TopK { k: parameter, indices: Indices::Packed12 },
            2 => Select::TopK { k: parameter, indices: Indices::EliasFano },
            3 => Select::TopK { k: parameter, indices: Indices::Golomb },
            4 => Select::GroupMax { group: Group::of(parameter)? },
            _ => return None,
        };
        let quantizer = match quantizer {
            1 => Quantizer::Sign2,
            2 => Quantizer::Sign1,
            3 => Quantizer::Reference,
            _ => return None,
        };
        let codec = Self { select, quantizer };
        codec.impossible_k().is_none().then_some(codec)
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.select {
            Select::TopK { k, indices } => write!(f, "top-k {k}, {indices}")?,
            Select::GroupMax { group } => write!(f, "group-max {}", group.elements())?,
        }
        write!(f, ", {}", self.quantizer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_is_in_proportion_and_at_least_one() {
        let codec = |k| Codec::top_k(k, Quantizer::Sign2, Indices::Packed12);
        assert_eq!([1, 63, 64, 127, 128, 4095, 4096].map(|n| codec(64).chunk_k(n)), [1, 1, 1, 1, 2, 63, 64]);
        assert_eq!([1, 2, 4096].map(|n| codec(4096).chunk_k(n)), [1, 2, 4096]);
        assert!(codec(1).impossible_k().is_none() && codec(4096).impossible_k().is_none());
        assert_eq!((codec(0).impossible_k(), codec(4097).impossible_k()), (Some(0), Some(4097)));
    }

    #[test]
    fn the_references_k_is_even_and_a_groups_k_is_its_count() {
        let reference = Codec::top_k(64, Quantizer::Reference, Indices::Packed12);
        assert_eq!([1, 2, 3, 63, 64, 4096].map(|n| reference.chunk_k(n)), [1, 2, 2, 62, 64, 64]);
        let groups = Codec::group_max(Group::G32, Quantizer::Sign1);
        assert_eq!([1, 32, 33, 4096].map(|n| groups.chunk_k(n)), [1, 1, 2, 128]);
    }

    #[test]
    fn a_codec_is_called_as_in_configs() {
        let top_k = |quantizer, indices| Codec::top_k(64, quantizer, indices).to_string();
        assert_eq!(top_k(Quantizer::Sign2, Indices::Golomb), "top-k 64, golomb, sign2");
        assert_eq!(top_k(Quantizer::Sign1, Indices::EliasFano), "top-k 64, elias-fano, sign1");
        assert_eq!(top_k(Quantizer::Reference, Indices::Packed12), "top-k 64, packed12, reference");
        assert_eq!(Codec::group_max(Group::G16, Quantizer::Sign2).to_string(), "group-max 16, sign2");
    }

    #[test]
    fn a_codec_is_four_bytes_and_back() {
        for head in 0..=255 {
            for k in [0u16, 1, 16, 32, 33, 64, 4096, 4097] {
                for indices in 0..=6 {
                    let [low, high] = k.to_le_bytes();
                    let bytes = [low, high, head, indices];
                    let possible = (1..=3).contains(&head)
                        && match indices {
                            1..=3 => (1..=4096).contains(&k),
                            4 => [16, 32, 64].contains(&k),
                            _ => false,
                        };
                    let codec = Codec::from_bytes(bytes);
                    assert_eq!(codec.map(Codec::to_bytes), possible.then_some(bytes));
                }
            }
        }
    }
}
