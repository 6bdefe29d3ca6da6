//! A section's bytes: checked and brought into the form in which every chunk can be found, and back.

use std::ops::Range;

use crate::CHUNK_ELEMENTS;
use crate::chunk::Chunk;
use crate::codec::{Codec, INDEX_BITS, Indices, Quantizer, Select};
use crate::error::{ChunkFault, PayloadError};
use crate::floor::{Floor, decode};
use crate::format::{Form, Format, Part, Place};
use crate::indices::bits::{BitReader, BitWriter};
use crate::indices::golomb::{self, Split};
use crate::indices::{IndexFault, elias_fano, packed};
use crate::quantize::{self, MAX_SCALE, reference};
use crate::scales::ScaleCoder;

/// One chunk of a payload.
#[derive(Clone, Copy, Debug)]
pub struct CodedChunk<'a> {
    /// Where the chunk lies in its tensor.
    pub chunk: Chunk,
    /// Its scale code, 0 to 250; 0 with the reference quantizer, which has none.
    pub scale: u8,
    /// How it is coded.
    pub codec: Codec,
    k: usize,
    /// What the codes decode to.
    table: [f32; 4],
    codes: &'a [u8],
    indices: &'a [u8],
}

/// Room for a decoded chunk, kept from one chunk to the next.
#[derive(Clone, Debug)]
pub struct Decoded {
    indices: Vec<u16>,
    values: Vec<f32>,
}

impl Decoded {
    /// Room for other values, as many as a chunk has elements.
    pub(crate) fn values_mut(&mut self, elements: usize) -> &mut [f32] {
        &mut self.values[..elements]
    }
}

impl Default for Decoded {
    fn default() -> Self {
        Self { indices: vec![0; CHUNK_ELEMENTS], values: vec![0.0; CHUNK_ELEMENTS] }
    }
}

impl<'a> CodedChunk<'a> {
    /// The chunk at a place in its section's memory.
    pub(crate) fn new(section: &'a [u8], part: &Part, place: &Place) -> Self {
        let scale = if part.has_scales() { section[place.scale] } else { 0 };
        let table = place_table(section, part, place);
        Self {
            chunk: place.chunk,
            scale,
            codec: part.codec,
            k: place.k,
            table,
            codes: &section[place.codes.clone()],
            indices: &section[place.indices.clone()],
        }
    }

    /// How often each value code occurs, with what it decodes to.
    pub(crate) fn counts(&self) -> [(u64, f32); 4] {
        let mut counts = self.table.map(|value| (0, value));
        self.codes().for_each(|code| counts[usize::from(code)].0 += 1);
        counts
    }

    /// The value codes, in index order.
    pub fn codes(&self) -> impl Iterator<Item = u8> + use<'a> {
        let (codes, width) = (self.codes, self.codec.quantizer.code_bits() as usize);
        (0..self.k).map(move |j| codes[j * width / 8] >> (j * width % 8) & ((1 << width) - 1))
    }

    /// (indices within the chunk, ascending; values): a value of zero counts as not sent.
    pub fn decode<'b>(&self, room: &'b mut Decoded) -> (&'b [u16], &'b [f32]) {
        decode_chunk(self.codec, &self.table, self.codes, self.indices, [self.chunk.elements(), self.k], room)
    }

    /// (index within the chunk, value) of every selected element, by ascending index; a value of zero counts as not sent.
    pub fn values(&self) -> Vec<(usize, f32)> {
        let mut room = Decoded::default();
        let (indices, values) = self.decode(&mut room);
        indices.iter().map(|&index| usize::from(index)).zip(values.iter().copied()).collect()
    }
}

/// How many of a chunk's value codes stand for the higher of its magnitudes.
pub(crate) fn high_magnitudes(quantizer: Quantizer, codes: &[u8]) -> u64 {
    let ones = |word: u64| u64::from((word & 0x5555_5555_5555_5555).count_ones());
    let (words, rest) = codes.as_chunks();
    match quantizer {
        Quantizer::Sign1 => 0,
        _ => {
            words.iter().map(|&word| ones(u64::from_le_bytes(word))).sum::<u64>() + rest.iter().map(|&byte| ones(byte.into())).sum::<u64>()
        }
    }
}

/// Adds the values of the chunk at a place in its section's memory to its elements' sums and weights; a value of zero counts as not sent.
#[inline]
pub(crate) fn add_place(section: &[u8], part: &Part, place: &Place, room: &mut Decoded, [factor, weight]: [f32; 2], sums: &mut [[f32; 2]]) {
    let floor = Floor::best();
    let indices = &mut room.indices[..place.k];
    let valid = decode_indices(floor, part.codec.select, &section[place.indices.clone()], place.chunk.elements(), indices);
    debug_assert_eq!(valid, Ok(()), "checked when the section was read");
    let terms = place_table(section, part, place).map(|value| if value != 0.0 { [factor * value, weight] } else { [0.0; 2] });
    decode::add(floor, indices, &section[place.codes.clone()], part.codec.quantizer.code_bits(), &terms, sums);
}

/// Indices and values of the chunk at a place in its section's memory.
#[inline]
pub(crate) fn decode_place<'b>(section: &[u8], part: &Part, place: &Place, room: &'b mut Decoded) -> (&'b [u16], &'b [f32]) {
    let (codes, indices) = (&section[place.codes.clone()], &section[place.indices.clone()]);
    let size = [place.chunk.elements(), place.k];
    decode_chunk(part.codec, &place_table(section, part, place), codes, indices, size, room)
}

/// Decodes a section's chunks from memory, in order.
#[inline]
pub(crate) fn for_each_place(
    format: &Format,
    number: usize,
    section: &[u8],
    room: &mut Decoded,
    mut each: impl FnMut(&Part, &Place, &[u16], &[f32]),
) {
    for part in format.parts(number) {
        for place in part.places(Form::Memory, part.offset) {
            let (indices, values) = decode_place(section, part, &place, room);
            each(part, &place, indices, values);
        }
    }
}

/// Indices and values of a chunk from its bytes in memory; `size` is its number of elements and of values.
#[inline(always)]
fn decode_chunk<'b>(
    codec: Codec,
    table: &[f32; 4],
    codes: &[u8],
    indices: &[u8],
    [elements, k]: [usize; 2],
    room: &'b mut Decoded,
) -> (&'b [u16], &'b [f32]) {
    let floor = Floor::best();
    let (to, values) = (&mut room.indices[..k], &mut room.values[..k]);
    let valid = decode_indices(floor, codec.select, indices, elements, to);
    debug_assert_eq!(valid, Ok(()), "checked when the section was read");
    decode::values(floor, codes, codec.quantizer.code_bits(), table, values);
    (to, values)
}

/// The table of values of a part that starts at `start`; zeros without the reference quantizer.
fn table(section: &[u8], part: &Part, start: usize) -> [f32; 4] {
    let bytes = part.table(start).map_or(&[][..], |range| &section[range]);
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|code| words.get(code).map_or(0.0, |&word| f32::from_le_bytes(word)))
}

/// What the codes of the chunk at a place in its section's memory decode to.
#[inline(always)]
fn place_table(section: &[u8], part: &Part, place: &Place) -> [f32; 4] {
    match part.codec.quantizer {
        Quantizer::Reference => table(section, part, part.offset),
        quantizer => quantize::scale_table(quantizer, section[place.scale]).copied().unwrap_or_default(),
    }
}

/// Reads the indices of a chunk of `elements` from their form in memory.
#[inline(always)]
pub(crate) fn decode_indices(floor: Floor, select: Select, bytes: &[u8], elements: usize, out: &mut [u16]) -> Result<(), IndexFault> {
    match select {
        Select::TopK { indices: Indices::Packed12, .. } => packed::decode_indices(floor, bytes, INDEX_BITS, elements, out),
        Select::TopK { .. } => elias_fano::decode(floor, bytes, elements, out),
        Select::GroupMax { group } => packed::decode_offsets(floor, bytes, group.bits(), elements, out),
    }
}

/// Writes the ascending indices of a chunk of `elements` in their form in memory.
pub(crate) fn encode_indices(select: Select, indices: &[u16], elements: usize, out: &mut [u8]) {
    match select {
        Select::TopK { indices: Indices::Packed12, .. } => packed::encode(indices.iter().copied(), INDEX_BITS, out),
        Select::TopK { .. } => elias_fano::encode(Floor::best(), indices, elements, out),
        Select::GroupMax { group } => packed::encode(indices.iter().map(|index| index % group.elements() as u16), group.bits(), out),
    }
}

/// The indices that a chunk without values lists: the lowest there are.
pub(crate) fn lowest_indices(select: Select, k: usize) -> impl Iterator<Item = u16> + Clone {
    let step = match select {
        Select::TopK { .. } => 1,
        Select::GroupMax { group } => group.elements(),
    };
    (0..k).map(move |number| (number * step) as u16)
}

/// Checks a section's bytes of a payload and brings them into memory's form.
pub(crate) fn read(format: &Format, section: usize, body: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let allowed = format.section_wire_bytes(section);
    let found = body.len() as u64;
    if !allowed.contains(&found) {
        return Err(PayloadError::SectionLength { section, least: *allowed.start(), most: *allowed.end(), found });
    }
    let parts = format.parts(section);
    let (body, stream) = body.split_at(parts.iter().map(|part| part.bytes(Form::Wire)).sum());
    let mut reader = Reader {
        floor: Floor::best(),
        body,
        stream: BitReader::new(stream),
        scales: ScaleCoder::default(),
        split: ([1, 1], Split::new(1, 1)),
        indices: vec![0; CHUNK_ELEMENTS],
        memory: vec![0; format.section_bytes(section)],
    };
    let mut start = 0;
    for part in parts {
        reader.part(part, start)?;
        start += part.bytes(Form::Wire);
    }
    let last = parts[parts.len() - 1];
    let end = |fault: IndexFault| chunk_error(&last, last.grid.chunks() - 1, fault.into());
    reader.stream.finish().map_err(end)?;
    Ok(reader.memory)
}

/// The ranges of a part's bytes that are the same in memory and, from `wire` on, in a payload: table and scale codes, as far as a payload has
/// them here; value codes; and indices, unless they are Golomb codes.
pub(crate) fn shared_bytes(part: &Part, wire: usize) -> [(Range<usize>, Range<usize>); 3] {
    let (memory, wire) = (part.offsets(), part.offsets_from(Form::Wire, wire));
    let indices = if part.codec.is_golomb() { 0 } else { part.index_bytes(Form::Wire) };
    [(0, wire[2] - wire[0]), (2, wire[3] - wire[2]), (3, indices)]
        .map(|(section, bytes)| (memory[section]..memory[section] + bytes, wire[section]..wire[section] + bytes))
}

/// The refusal of a part's chunk.
fn chunk_error(part: &Part, number: usize, fault: ChunkFault) -> PayloadError {
    PayloadError::Chunk { tensor: part.tensor, chunk: part.first_chunk + number, fault }
}

/// The reading of one section.
struct Reader<'a> {
    floor: Floor,
    body: &'a [u8],
    stream: BitReader<'a>,
    scales: ScaleCoder,
    /// Of Golomb codes, by elements and values of the last chunk: most chunks are alike, and it takes divisions.
    split: ([usize; 2], Split),
    indices: Vec<u16>,
    memory: Vec<u8>,
}

impl Reader<'_> {
    fn part(&mut self, part: &Part, start: usize) -> Result<(), PayloadError> {
        for (to, from) in shared_bytes(part, start) {
            self.memory[to].copy_from_slice(&self.body[from]);
        }
        let [.., lows] = part.offsets_from(Form::Wire, start);
        let (mut lows, mut occurs) = (&self.body[lows..], [false; 4]);
        for place in part.places(Form::Memory, part.offset) {
            self.chunk(part, &place, &mut lows, &mut occurs).map_err(|fault| chunk_error(part, place.number, fault))?;
        }
        if part.codec.quantizer == Quantizer::Reference && !reference::is_canonical(&table(self.body, part, start), occurs) {
            return Err(chunk_error(part, 0, ChunkFault::Table));
        }
        Ok(())
    }

    /// Checks a chunk, all of which is in memory already but what is in the stream and, next in `lows`, the fixed part of Golomb codes.
    fn chunk(&mut self, part: &Part, place: &Place, lows: &mut &[u8], occurs: &mut [bool; 4]) -> Result<(), ChunkFault> {
        let (elements, k) = (place.chunk.elements(), place.k);
        let indices = &mut self.indices[..k];
        if part.codec.is_golomb() {
            if part.has_scales() {
                self.memory[place.scale] = self.scales.read(&mut self.stream)?;
            }
            if self.split.0 != [elements, k] {
                self.split = ([elements, k], Split::new(elements, k));
            }
            let (_, split) = &self.split;
            let low = lows.split_off(..split.low_bytes(k)).unwrap_or_default();
            golomb::decode(self.floor, split, low, &mut self.stream, elements, indices)?;
            elias_fano::encode(self.floor, indices, elements, &mut self.memory[place.indices.clone()]);
        } else {
            decode_indices(self.floor, part.codec.select, &self.memory[place.indices.clone()], elements, indices)?;
        }
        let codes = &self.memory[place.codes.clone()];
        if !packed::padding_is_zero(codes, k, part.codec.quantizer.code_bits()) {
            return Err(ChunkFault::Padding);
        }
        if part.codec.quantizer == Quantizer::Reference {
            (0..k).for_each(|j| occurs[usize::from(codes[j / 4] >> (j % 4 * 2) & 3)] = true);
            return Ok(());
        }
        let scale = self.memory[place.scale];
        if scale > MAX_SCALE {
            return Err(ChunkFault::Scale(scale));
        }
        let lowest = || indices.iter().copied().eq(lowest_indices(part.codec.select, k));
        if scale == 0 && (codes.iter().any(|&byte| byte != 0) || !lowest()) {
            return Err(ChunkFault::ZeroChunk);
        }
        let low_is_zero = scale != 0 && quantize::scale_table(part.codec.quantizer, scale).is_some_and(|table| table[0] == 0.0);
        if low_is_zero && (0..k).any(|j| codes[j / 4] >> (j % 4 * 2) & 3 == 2) {
            return Err(ChunkFault::NegativeZero);
        }
        if low_is_zero && codes.iter().all(|&byte| byte & 0x55 == 0) {
            return Err(ChunkFault::AllZero);
        }
        Ok(())
    }
}

/// The section's bytes in a payload, from those in memory.
pub(crate) fn write(format: &Format, section: usize, memory: &[u8]) -> Vec<u8> {
    let parts = format.parts(section);
    let mut body = vec![0; parts.iter().map(|part| part.bytes(Form::Wire)).sum()];
    let (mut stream, mut scales, mut room) = (BitWriter::default(), ScaleCoder::default(), Decoded::default());
    let mut start = 0;
    for part in parts {
        for (from, to) in shared_bytes(part, start) {
            body[to].copy_from_slice(&memory[from]);
        }
        if part.codec.is_golomb() {
            let [.., lows] = part.offsets_from(Form::Wire, start);
            let mut lows = &mut body[lows..];
            for place in part.places(Form::Memory, part.offset) {
                if part.has_scales() {
                    scales.write(memory[place.scale], &mut stream);
                }
                let (indices, _) = decode_place(memory, part, &place, &mut room);
                let elements = place.chunk.elements();
                let low = lows.split_off_mut(..part.codec.wire_index_bytes(elements)).unwrap_or_default();
                golomb::encode(indices, elements, low, &mut stream);
            }
        }
        start += part.bytes(Form::Wire);
    }
    body.extend(stream.finish());
    body
}
