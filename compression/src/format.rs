//! Which tensors, and how each is coded: all that the sizes and places inside a payload follow from.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use crate::chunk::{Chunk, Grid};
use crate::codec::{Codec, Quantizer};
use crate::indices::golomb;
use crate::layout::{Layout, TensorSpec};
use crate::quantize::TABLE_BYTES;
use crate::scales::{MAX_SCALE_BITS, TYPICAL_SCALE_BITS};

/// Chunks after which a section is closed.
pub const SECTION_CHUNKS: usize = 1024;
/// The longest row of a tensor, so that a section's length fits into 32 bits.
pub const MAX_ROW: usize = 1 << 24;

/// Why tensors and codecs make no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not one codec per tensor.
    #[error("{codecs} codecs for {tensors} tensors")]
    Count {
        /// Tensors of the layout.
        tensors: usize,
        /// Codecs given.
        codecs: usize,
    },
    /// A `k` outside 1 to 4096.
    #[error("tensor {tensor:?}: k = {k}, it must be 1 to 4096 values per chunk")]
    K {
        /// The tensor's name.
        tensor: String,
        /// The value.
        k: u16,
    },
    /// More changes of codec from one tensor to the next than a header can list.
    #[error("the codec changes {0} times from one tensor to the next, at most {max} times can be told", max = u16::MAX - 1)]
    Changes(usize),
    /// A row of more than [`MAX_ROW`] elements.
    #[error("tensor {tensor:?} has rows of {row} elements, at most {MAX_ROW} can be coded")]
    Row {
        /// The tensor's name.
        tensor: String,
        /// Elements of a row.
        row: usize,
    },
}

/// A layout and one codec per tensor, and how the tensors' chunks are spread over a payload's sections.
///
/// A *band* is the chunks of one row of tiles (one chunk of a 1-D tensor), which cover one contiguous run of elements. Bands, in layout order, fill a
/// *section* until the next one would take it beyond [`SECTION_CHUNKS`] chunks. A section's bands of one tensor are a *part*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    layout: Arc<Layout>,
    codecs: Vec<Codec>,
    parts: Vec<Part>,
    /// Each section's range of `parts`.
    sections: Vec<Range<usize>>,
}

/// Consecutive bands of one tensor in one section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Number of the tensor in the layout.
    pub tensor: usize,
    /// Number of the part's first chunk in the tensor.
    pub first_chunk: usize,
    /// The tensor's codec.
    pub codec: Codec,
    /// The part's bands, their positions counted from the part's first element.
    pub grid: Grid,
    /// Where the part starts in its section's memory.
    pub(crate) offset: usize,
}

impl Part {
    /// Lengths of table, scales and codes: only the reference quantizer has a table, only the others have scale codes, one byte per chunk
    /// unless they are in a payload's stream.
    pub(crate) fn head_bytes(&self, form: Form) -> [usize; 3] {
        let codes = self.grid.sum(|n| self.codec.code_bytes(n));
        match self.codec.quantizer {
            Quantizer::Reference => [TABLE_BYTES, 0, codes],
            _ if form == Form::Wire && self.codec.is_golomb() => [0, 0, codes],
            _ => [0, self.grid.chunks(), codes],
        }
    }

    /// Bytes of the indices without what is in a payload's stream.
    pub(crate) fn index_bytes(&self, form: Form) -> usize {
        self.grid.sum(|n| self.chunk_index_bytes(form, n))
    }

    fn chunk_index_bytes(&self, form: Form, elements: usize) -> usize {
        match form {
            Form::Memory => self.codec.index_bytes(elements),
            Form::Wire => self.codec.wire_index_bytes(elements),
        }
    }

    /// Bytes: table, scales, codes, indices; in a payload without what is in its section's stream.
    pub(crate) fn bytes(&self, form: Form) -> usize {
        self.head_bytes(form).iter().sum::<usize>() + self.index_bytes(form)
    }

    /// The fewest and the most bits in the section's stream.
    fn stream_bits(&self) -> Range<usize> {
        if !self.codec.is_golomb() {
            return 0..0;
        }
        let scales = if self.has_scales() { 1..MAX_SCALE_BITS } else { 0..0 };
        let fewest = self.grid.sum(|n| scales.start + self.codec.chunk_k(n));
        fewest..self.grid.sum(|n| scales.end + golomb::worst_bits(n, self.codec.chunk_k(n)))
    }

    /// The part's first element in its tensor: whole bands come before it.
    pub fn start(&self) -> usize {
        self.first_chunk / self.grid.band_chunks() * self.grid.band_elements()
    }

    /// Whether its chunks have scale codes.
    pub(crate) fn has_scales(&self) -> bool {
        self.codec.quantizer != Quantizer::Reference
    }

    /// Where table, scale codes, value codes and indices start in [`crate::Payload::section`].
    pub fn offsets(&self) -> [usize; 4] {
        self.offsets_from(Form::Memory, self.offset)
    }

    /// Where table, scale codes, value codes and indices start in a part that starts at `start`.
    pub(crate) fn offsets_from(&self, form: Form, start: usize) -> [usize; 4] {
        let [table, scales, codes] = self.head_bytes(form);
        [start, start + table, start + table + scales, start + table + scales + codes]
    }

    /// Where the table lies, if there is one, in a part that starts at `start`.
    pub(crate) fn table(&self, start: usize) -> Option<Range<usize>> {
        (self.codec.quantizer == Quantizer::Reference).then_some(start..start + TABLE_BYTES)
    }

    /// The places of all chunks, in order, in a part that starts at `start`.
    pub(crate) fn places(&self, form: Form, start: usize) -> Places {
        let [_, scale, code, index] = self.offsets_from(form, start);
        let (bands, tiles) = (self.grid.bands(), self.grid.band_chunks());
        let corner = |band, tile| {
            let chunk = self.grid.band_chunk(band, tile);
            let [k, codes, indices] = self.sizes(form, chunk.elements());
            Place { number: 0, chunk, k, scale, codes: 0..codes, indices: 0..indices }
        };
        let corners = [0, bands - 1].map(|band| [0, tiles - 1].map(|tile| corner(band, tile)));
        Places { corners, band_elements: self.grid.band_elements(), size: [bands, tiles], next: [0, 0], scale, code, index }
    }

    /// Number of values, bytes of codes and bytes of indices of a chunk of `elements`.
    fn sizes(&self, form: Form, elements: usize) -> [usize; 3] {
        [self.codec.chunk_k(elements), self.codec.code_bytes(elements), self.chunk_index_bytes(form, elements)]
    }

    /// The place of chunk number `number` in memory, in constant time.
    pub(crate) fn place(&self, number: usize) -> Place {
        let [_, scale, codes, indices] = self.offsets();
        let code = codes + self.grid.sum_before(number, |n| self.codec.code_bytes(n));
        let index = indices + self.grid.sum_before(number, |n| self.codec.index_bytes(n));
        let chunk = self.grid.chunk(number);
        let [k, codes, indices] = self.sizes(Form::Memory, chunk.elements());
        Place { number, chunk, k, scale: scale + number, codes: code..code + codes, indices: index..index + indices }
    }
}

/// How a section is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// In a payload: with Golomb codes, what varies in length is in a stream behind the last part.
    Wire,
    /// In memory: Elias-Fano in the place of Golomb codes and a byte per scale code, so that any chunk can be found.
    Memory,
}

/// Where a chunk's bytes lie in its section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the chunk in its part.
    pub number: usize,
    /// Its elements, their positions counted from the part's first.
    pub chunk: Chunk,
    /// Number of values.
    pub k: usize,
    /// The scale code, unless the quantizer is the reference.
    pub scale: usize,
    pub codes: Range<usize>,
    pub indices: Range<usize>,
}

/// The places of a part's chunks. All but the last of a band are alike, and so are all bands but the last.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The first and the last chunk of the first and of the last band.
    corners: [[Place; 2]; 2],
    band_elements: usize,
    /// Bands, and chunks of a band.
    size: [usize; 2],
    /// Band and chunk of it that come next.
    next: [usize; 2],
    scale: usize,
    code: usize,
    index: usize,
}

impl Iterator for Places {
    type Item = Place;

    #[inline]
    fn next(&mut self) -> Option<Place> {
        let ([bands, tiles], [band, tile]) = (self.size, self.next);
        if band == bands {
            return None;
        }
        self.next = if tile + 1 == tiles { [band + 1, 0] } else { [band, tile + 1] };
        let alike = &self.corners[usize::from(band + 1 == bands)][usize::from(tile + 1 == tiles)];
        let first = self.corners[0][0].chunk.width;
        let number = band * tiles + tile;
        let place = Place {
            number,
            chunk: Chunk { start: band * self.band_elements + tile * first, ..alike.chunk },
            k: alike.k,
            scale: self.scale + number,
            codes: self.code..self.code + alike.codes.end,
            indices: self.index..self.index + alike.indices.end,
        };
        (self.code, self.index) = (place.codes.end, place.indices.end);
        Some(place)
    }
}

impl Format {
    /// The format of a layout with one codec per tensor, in layout order.
    ///
    /// # Errors
    /// [`FormatError`] names what cannot be coded.
    pub fn new(layout: Arc<Layout>, codecs: Vec<Codec>) -> Result<Self, FormatError> {
        if layout.tensors().len() != codecs.len() {
            return Err(FormatError::Count { tensors: layout.tensors().len(), codecs: codecs.len() });
        }
        for (spec, codec) in layout.tensors().iter().zip(&codecs) {
            if let Some(k) = codec.impossible_k() {
                return Err(FormatError::K { tensor: spec.name.clone(), k });
            }
            match spec.shape[..] {
                [_, .., row] if row > MAX_ROW => return Err(FormatError::Row { tensor: spec.name.clone(), row }),
                _ => {}
            }
        }
        let changes = codecs.windows(2).filter(|pair| pair[0] != pair[1]).count();
        if changes >= usize::from(u16::MAX) {
            return Err(FormatError::Changes(changes));
        }
        let (parts, sections) = cut(&layout, &codecs);
        Ok(Self { layout, codecs, parts, sections })
    }

    /// The format of a layout with the same codec for all tensors.
    ///
    /// # Errors
    /// [`FormatError`] names what cannot be coded.
    pub fn uniform(layout: Arc<Layout>, codec: Codec) -> Result<Self, FormatError> {
        let codecs = vec![codec; layout.tensors().len()];
        Self::new(layout, codecs)
    }

    /// The tensors.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Each tensor's codec.
    pub fn codecs(&self) -> &[Codec] {
        &self.codecs
    }

    /// The chunks of tensor number `tensor`.
    pub fn grid(&self, tensor: usize) -> Grid {
        grid(&self.layout.tensors()[tensor], &self.codecs[tensor])
    }

    /// Number of sections.
    pub fn sections(&self) -> usize {
        self.sections.len()
    }

    /// The parts of a section.
    pub fn parts(&self, section: usize) -> &[Part] {
        &self.parts[self.sections[section].clone()]
    }

    /// The section, and the part in it, that hold a chunk of a tensor.
    ///
    /// # Panics
    /// If there is no such tensor or chunk.
    pub(crate) fn find(&self, tensor: usize, chunk: usize) -> (usize, &Part) {
        assert!(chunk < self.grid(tensor).chunks(), "tensor {tensor} has no chunk {chunk}");
        let part = self.parts.partition_point(|part| (part.tensor, part.first_chunk) <= (tensor, chunk)) - 1;
        (self.sections.partition_point(|parts| parts.end <= part), &self.parts[part])
    }

    /// The sections that hold a tensor.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn sections_of(&self, tensor: usize) -> Range<usize> {
        self.find(tensor, 0).0..self.find(tensor, self.grid(tensor).chunks() - 1).0 + 1
    }

    /// The bytes of a section in a payload whose indices are random sets.
    pub(crate) fn typical_section_bytes(&self, section: usize) -> u64 {
        let parts = self.parts(section);
        let fixed: usize = parts.iter().map(|part| part.bytes(Form::Wire)).sum();
        let bits = |part: &Part| -> f64 {
            // Exact enough, and quick for any size: all chunks are taken for as large as the largest.
            let n = part.grid.chunk(0).elements();
            let share = part.grid.elements() as f64 / n as f64;
            let scale = if part.has_scales() { TYPICAL_SCALE_BITS } else { 0.0 };
            if part.codec.is_golomb() { (scale + golomb::typical_bits(n, part.codec.chunk_k(n))) * share } else { 0.0 }
        };
        fixed as u64 + (parts.iter().map(bits).sum::<f64>() / 8.0).ceil() as u64
    }

    /// Bytes of a section in memory.
    pub fn section_bytes(&self, section: usize) -> usize {
        self.parts(section).iter().map(|part| part.bytes(Form::Memory)).sum()
    }

    /// The fewest and the most bytes of a section in a payload; the same unless indices are Golomb codes.
    pub(crate) fn section_wire_bytes(&self, section: usize) -> RangeInclusive<u64> {
        let parts = self.parts(section);
        let fixed: usize = parts.iter().map(|part| part.bytes(Form::Wire)).sum();
        let [fewest, most] = parts.iter().map(Part::stream_bits).fold([0, 0], |[a, b], bits| [a + bits.start, b + bits.end]);
        (fixed + fewest.div_ceil(8)) as u64..=(fixed + most.div_ceil(8)) as u64
    }

    /// The elements of each section's parts.
    pub(crate) fn split<'a, T>(&self, tensors: &'a [Vec<T>]) -> Vec<Vec<&'a [T]>> {
        let mut rest: Vec<&[T]> = tensors.iter().map(Vec::as_slice).collect();
        let mut take = |part: &Part| rest[part.tensor].split_off(..part.grid.elements()).unwrap_or_default();
        self.sections.iter().map(|parts| self.parts[parts.clone()].iter().map(&mut take).collect()).collect()
    }

    /// The elements of each section's parts, to be changed.
    pub(crate) fn split_mut<'a, T>(&self, tensors: &'a mut [Vec<T>]) -> Vec<Vec<&'a mut [T]>> {
        let mut rest: Vec<&mut [T]> = tensors.iter_mut().map(Vec::as_mut_slice).collect();
        let mut take = |part: &Part| rest[part.tensor].split_off_mut(..part.grid.elements()).unwrap_or_default();
        self.sections.iter().map(|parts| self.parts[parts.clone()].iter().map(&mut take).collect()).collect()
    }
}

fn grid(spec: &TensorSpec, codec: &Codec) -> Grid {
    if codec.quantizer == Quantizer::Reference { Grid::reference(&spec.shape) } else { Grid::new(&spec.shape) }
}

/// Parts and sections of all tensors.
fn cut(layout: &Layout, codecs: &[Codec]) -> (Vec<Part>, Vec<Range<usize>>) {
    let (mut parts, mut sections) = (Vec::new(), Vec::new());
    // Chunks and bytes of the open section, and its first part.
    let (mut chunks, mut offset, mut first) = (0, 0, 0);
    for (tensor, (spec, &codec)) in layout.tensors().iter().zip(codecs).enumerate() {
        let whole = grid(spec, &codec);
        let mut band = 0;
        while band < whole.bands() {
            let fitting = (SECTION_CHUNKS - chunks) / whole.band_chunks();
            if fitting == 0 && chunks > 0 {
                sections.push(first..parts.len());
                (chunks, offset, first) = (0, 0, parts.len());
                continue;
            }
            let end = whole.bands().min(band + fitting.max(1));
            let part = Part { tensor, first_chunk: band * whole.band_chunks(), codec, grid: whole.part(band..end), offset };
            chunks = SECTION_CHUNKS.min(chunks + part.grid.chunks());
            offset += part.bytes(Form::Memory);
            parts.push(part);
            band = end;
        }
    }
    sections.push(first..parts.len());
    (parts, sections)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Group, Indices};

    fn layout(shapes: &[&[usize]]) -> Arc<Layout> {
        let spec = |(i, shape): (usize, &&[usize])| TensorSpec::new(format!("t{i}"), shape);
        Arc::new(Layout::new(shapes.iter().enumerate().map(spec).collect()).unwrap())
    }

    #[test]
    fn every_chunk_is_in_one_part_and_found_there() {
        let layout = layout(&[&[130, 70], &[9], &[64, 64 * 1500], &[64 * 700, 64 * 3], &[4096 * 1100]]);
        for codec in [Codec::top_k(64, Quantizer::Sign2, Indices::Golomb), Codec::group_max(Group::G32, Quantizer::Sign1)] {
            let format = Format::uniform(layout.clone(), codec).unwrap();
            for tensor in 0..layout.tensors().len() {
                for chunk in [0, format.grid(tensor).chunks() / 2, format.grid(tensor).chunks() - 1] {
                    let (section, part) = format.find(tensor, chunk);
                    assert!(format.parts(section).contains(part));
                    assert!(part.tensor == tensor && (part.first_chunk..part.first_chunk + part.grid.chunks()).contains(&chunk));
                }
            }
            let chunks = |section| format.parts(section).iter().map(|part| part.grid.chunks()).sum::<usize>();
            let total: usize = (0..format.sections()).map(chunks).sum();
            assert_eq!(total, (0..layout.tensors().len()).map(|t| format.grid(t).chunks()).sum::<usize>());
            let wide = |section: usize| format.parts(section).len() == 1 && format.parts(section)[0].grid.bands() == 1;
            assert!((0..format.sections()).all(|section| chunks(section) <= SECTION_CHUNKS || wide(section)));
            assert_eq!(format.sections_of(2), 1..2);
            let tensors: Vec<Vec<u8>> = layout.tensors().iter().map(|spec| vec![0; spec.len()]).collect();
            let covered: usize = format.split(&tensors).iter().flatten().map(|part| part.len()).sum();
            assert_eq!(covered, layout.parameters());
        }
    }

    #[test]
    fn places_in_order_are_the_places_by_number() {
        let layout = layout(&[&[130, 70], &[9], &[64, 64], &[3, 5000], &[64 * 17, 70], &[4096 * 3], &[4096 * 2 + 1]]);
        for codec in [Codec::top_k(64, Quantizer::Sign2, Indices::Golomb), Codec::top_k(64, Quantizer::Reference, Indices::Packed12)] {
            let format = Format::uniform(layout.clone(), codec).unwrap();
            for part in format.parts(0) {
                let places: Vec<Place> = part.places(Form::Memory, part.offset).collect();
                assert_eq!(places.len(), part.grid.chunks());
                for (number, place) in places.into_iter().enumerate() {
                    assert_eq!(place, part.place(number), "{part:?}");
                }
            }
        }
    }

    #[test]
    fn impossible_formats_are_refused() {
        let codec = Codec::top_k(0, Quantizer::Sign2, Indices::Golomb);
        let refusal = |shape: &[usize], codecs| Format::new(layout(&[shape]), codecs).unwrap_err();
        assert_eq!(refusal(&[5], vec![codec]), FormatError::K { tensor: "t0".into(), k: 0 });
        assert_eq!(refusal(&[5], vec![]), FormatError::Count { tensors: 1, codecs: 0 });
        let row = MAX_ROW + 1;
        assert_eq!(refusal(&[1, row], vec![Codec::group_max(Group::G16, codec.quantizer)]), FormatError::Row { tensor: "t0".into(), row });
    }
}
