//! A payload: parsed once, checked completely, then read as values.

use std::sync::Arc;

use rayon::prelude::*;

use crate::chunk::Chunk;
use crate::codec::{Codec, Sections, sections};
pub use crate::header::{HEADER_BYTES, Header};
use crate::layout::Layout;
use crate::pack;
use crate::quantize::{MAX_SCALE, SIGN2};

/// Bytes of the BLAKE3 hash that closes a payload.
pub(crate) const HASH_BYTES: usize = 32;

/// Why bytes are not a payload of the expected layout and codec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Fewer bytes than layout and codec make.
    #[error("payload has {found} bytes, this run's have {expected}: cut short")]
    Truncated {
        /// By layout and codec.
        expected: u64,
        /// Given.
        found: u64,
    },
    /// More bytes than layout and codec make.
    #[error("payload has {found} bytes, this run's have {expected}: trailing bytes")]
    Trailing {
        /// By layout and codec.
        expected: u64,
        /// Given.
        found: u64,
    },
    /// Not a payload at all.
    #[error("payload does not start with its magic bytes")]
    Magic,
    /// A format version this build does not know.
    #[error("payload has format version {0}, this build reads version 1")]
    Version(u16),
    /// A reserved quantizer byte.
    #[error("payload names the unknown quantizer {0}")]
    Quantizer(u8),
    /// A reserved index code byte.
    #[error("payload names the unknown index code {0}")]
    Indices(u8),
    /// A `k` outside 1 to 4096.
    #[error("payload has k = {0}, it must be 1 to 4096")]
    K(u16),
    /// Another codec than the run's.
    #[error("payload is coded as {found:?}, this run codes as {expected:?}")]
    Codec {
        /// The run's.
        expected: Codec,
        /// The payload's.
        found: Codec,
    },
    /// Reserved header bytes that are not zero.
    #[error("payload's reserved header bytes are not zero")]
    Reserved,
    /// Another number of tensors than the run's.
    #[error("payload has {found} tensors, this run has {expected}")]
    Tensors {
        /// The run's.
        expected: usize,
        /// The payload's.
        found: u32,
    },
    /// Other tensors than the run's.
    #[error("payload is for other tensors than this run's: its layout digest differs")]
    Layout,
    /// A length field that contradicts layout and codec.
    #[error("payload says it has {found} bytes, this run's have {expected}")]
    Length {
        /// By layout and codec.
        expected: u64,
        /// By the header.
        found: u64,
    },
    /// The closing hash is not that of the bytes before it.
    #[error("payload's closing hash does not match its bytes: damaged on the way")]
    Hash,
    /// A reserved scale code.
    #[error("tensor {tensor}, chunk {chunk}: scale code {code} is reserved")]
    Scale {
        /// Number of the tensor in the layout.
        tensor: usize,
        /// Number of the chunk in the tensor.
        chunk: usize,
        /// The code.
        code: u8,
    },
    /// A chunk of scale code 0 whose codes are not all zero or whose indices are not 0, 1, 2, ...
    #[error("tensor {tensor}, chunk {chunk}: an all-zero chunk must have zero codes and the lowest indices")]
    ZeroChunk {
        /// Number of the tensor in the layout.
        tensor: usize,
        /// Number of the chunk in the tensor.
        chunk: usize,
    },
    /// A sign on a value that decodes to zero.
    #[error("tensor {tensor}, chunk {chunk}: a value of zero has a negative sign")]
    NegativeZero {
        /// Number of the tensor in the layout.
        tensor: usize,
        /// Number of the chunk in the tensor.
        chunk: usize,
    },
    /// Indices that do not strictly ascend.
    #[error("tensor {tensor}, chunk {chunk}: indices must strictly ascend")]
    Order {
        /// Number of the tensor in the layout.
        tensor: usize,
        /// Number of the chunk in the tensor.
        chunk: usize,
    },
    /// An index beyond the chunk's end.
    #[error("tensor {tensor}, chunk {chunk}: index {index} is outside its {elements} elements")]
    Index {
        /// Number of the tensor in the layout.
        tensor: usize,
        /// Number of the chunk in the tensor.
        chunk: usize,
        /// The index.
        index: u16,
        /// Elements of the chunk.
        elements: usize,
    },
    /// Unused bits of a last byte that are not zero.
    #[error("tensor {tensor}, chunk {chunk}: padding bits must be zero")]
    Padding {
        /// Number of the tensor in the layout.
        tensor: usize,
        /// Number of the chunk in the tensor.
        chunk: usize,
    },
}

/// A checked payload: one miner's compressed pseudo-gradient for one round.
#[derive(Clone, Debug)]
pub struct Payload {
    bytes: Vec<u8>,
    header: Header,
    layout: Arc<Layout>,
    codec: Codec,
    sections: Vec<Sections>,
}

/// One chunk of a payload.
#[derive(Clone, Copy, Debug)]
pub struct CodedChunk<'a> {
    /// Where the chunk lies in its tensor.
    pub chunk: Chunk,
    /// Its scale code, 0 to 250.
    pub scale: u8,
    k: usize,
    codes: &'a [u8],
    indices: &'a [u8],
}

impl<'a> CodedChunk<'a> {
    /// The value codes, in index order.
    pub fn codes(&self) -> impl Iterator<Item = u8> + use<'a> {
        let codes = self.codes;
        (0..self.k).map(move |j| pack::code(codes, j))
    }

    /// The indices within the chunk, ascending.
    pub fn indices(&self) -> impl Iterator<Item = u16> + use<'a> {
        let indices = self.indices;
        (0..self.k).map(move |j| pack::index(indices, j))
    }

    /// (index within the chunk, value) of every selected element, by ascending index; a value of zero counts as not sent.
    pub fn values(&self) -> impl Iterator<Item = (usize, f32)> + use<'a> {
        let magnitudes = &SIGN2[usize::from(self.scale)];
        self.indices().zip(self.codes()).map(move |(index, code)| (usize::from(index), magnitudes[usize::from(code)]))
    }
}

impl Payload {
    /// Checks every byte of a payload that must have this layout and codec.
    ///
    /// Who made it and what it is based on is in [`Payload::header`], for the caller to compare.
    ///
    /// # Errors
    /// [`PayloadError`] says what is wrong, at the first place found.
    pub fn parse(bytes: Vec<u8>, layout: &Arc<Layout>, codec: &Codec) -> Result<Self, PayloadError> {
        let header = Header::read(&bytes, layout, codec)?;
        let (content, hash) = bytes.split_at(bytes.len() - HASH_BYTES);
        if *blake3::hash(content).as_bytes() != hash {
            return Err(PayloadError::Hash);
        }
        let payload = Self { header, layout: layout.clone(), codec: *codec, sections: sections(layout, codec), bytes };
        payload.check_chunks()?;
        Ok(payload)
    }

    fn check_chunks(&self) -> Result<(), PayloadError> {
        let tensors = self.sections.par_iter().enumerate();
        tensors.try_for_each(|(tensor, s)| {
            let chunks = (0..s.grid.chunks()).into_par_iter().with_min_len(16);
            chunks.try_for_each(|chunk| check_chunk(&self.chunk(tensor, chunk), tensor, chunk))
        })
    }

    /// Whose payload it is and what it is based on.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The tensors it is for.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// How it is coded.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// All bytes, as they were parsed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3 of all bytes, the name under which records and envelopes speak of it.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }

    /// Number of chunks of the layout's tensor number `tensor`.
    pub fn chunks(&self, tensor: usize) -> usize {
        self.sections[tensor].grid.chunks()
    }

    /// Where the scales, codes and indices of tensor number `tensor` start in [`Payload::bytes`].
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn sections(&self, tensor: usize) -> [usize; 3] {
        let s = &self.sections[tensor];
        [s.scales, s.codes, s.indices]
    }

    /// Chunk number `chunk` of tensor number `tensor`, found in constant time.
    ///
    /// # Panics
    /// If there is no such tensor or chunk.
    pub fn chunk(&self, tensor: usize, chunk: usize) -> CodedChunk<'_> {
        let s = &self.sections[tensor];
        let place = s.grid.chunk(chunk);
        let elements = place.elements();
        let codes = s.codes + s.grid.sum_before(chunk, |n| self.codec.code_bytes(n));
        let indices = s.indices + s.grid.sum_before(chunk, |n| self.codec.index_bytes(n));
        CodedChunk {
            chunk: place,
            scale: self.bytes[s.scales + chunk],
            k: self.codec.chunk_k(elements),
            codes: &self.bytes[codes..codes + self.codec.code_bytes(elements)],
            indices: &self.bytes[indices..indices + self.codec.index_bytes(elements)],
        }
    }

    /// (chunk, index within the chunk, value) of everything selected in one tensor, ascending.
    pub fn values(&self, tensor: usize) -> impl Iterator<Item = (usize, usize, f32)> + '_ {
        (0..self.chunks(tensor)).flat_map(move |number| self.chunk(tensor, number).values().map(move |(index, v)| (number, index, v)))
    }

    /// Calls `update(element, value)` for every sent element of tensors in the payload's layout.
    pub(crate) fn for_each_sent(&self, tensors: &mut [Vec<f32>], update: impl Fn(&mut f32, f32) + Sync) {
        tensors.par_iter_mut().zip(&self.sections).enumerate().for_each(|(tensor, (elements, s))| {
            let bands = elements.par_chunks_mut(s.grid.band_elements()).enumerate();
            bands.for_each(|(band, elements)| {
                for tile in 0..s.grid.band_chunks() {
                    let place = s.grid.chunk_in_band(band, tile);
                    let coded = self.chunk(tensor, band * s.grid.band_chunks() + tile);
                    for (index, value) in coded.values().filter(|&(_, value)| value != 0.0) {
                        update(&mut elements[place.position(index)], value);
                    }
                }
            });
        });
    }

    /// The decoded pseudo-gradient: one vector per tensor in layout order, zero where nothing was sent.
    pub fn to_dense(&self) -> Vec<Vec<f32>> {
        let mut dense: Vec<Vec<f32>> = self.layout.tensors().iter().map(|t| vec![0.0; t.len()]).collect();
        self.for_each_sent(&mut dense, |element, value| *element = value);
        dense
    }
}

fn check_chunk(coded: &CodedChunk<'_>, tensor: usize, chunk: usize) -> Result<(), PayloadError> {
    if coded.scale > MAX_SCALE {
        return Err(PayloadError::Scale { tensor, chunk, code: coded.scale });
    }
    if pack::padding(coded.codes, 2 * coded.k) != 0 || pack::padding(coded.indices, 12 * coded.k) != 0 {
        return Err(PayloadError::Padding { tensor, chunk });
    }
    let elements = coded.chunk.elements();
    let mut lowest = 0;
    for index in coded.indices() {
        if index < lowest {
            return Err(PayloadError::Order { tensor, chunk });
        }
        if usize::from(index) >= elements {
            return Err(PayloadError::Index { tensor, chunk, index, elements });
        }
        lowest = index + 1;
    }
    if coded.scale == 0 {
        let zero = coded.codes.iter().all(|&byte| byte == 0) && usize::from(lowest) == coded.k;
        return if zero { Ok(()) } else { Err(PayloadError::ZeroChunk { tensor, chunk }) };
    }
    if SIGN2[usize::from(coded.scale)][0] == 0.0 && coded.codes().any(|code| code == 2) {
        return Err(PayloadError::NegativeZero { tensor, chunk });
    }
    Ok(())
}
