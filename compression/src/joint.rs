//! A section of one payload, coded with the help of the same section of payloads before it: miners' indices overlap, above all early in a run.
//!
//! Of each chunk with top-k, a set of indices below n is split into hits, which an earlier payload has too, and misses. With m the number of
//! indices in the union of the earlier ones, the hits are a subset of m ranks, the misses of n - m; either is a Golomb code by its own number.

use std::ops::Range;

use crate::codec::Select;
use crate::format::{Form, Format, Part};
use crate::indices::bits::{BitReader, BitWriter};
use crate::indices::{IndexFault, golomb};
use crate::scales::ScaleCoder;
use crate::section::{Decoded, decode_indices, decode_place, encode_indices, shared_bytes};
use crate::{CHUNK_ELEMENTS, floor::Floor};

const WORDS: usize = CHUNK_ELEMENTS / 64;

/// Which elements of a chunk are in the union.
#[derive(Clone)]
struct Union([u64; WORDS]);

impl Union {
    fn has(&self, index: u16) -> bool {
        self.0[usize::from(index) / 64] >> (index % 64) & 1 == 1
    }

    fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The indices below `elements` that are in the union, and those that are not.
    fn split(&self, elements: usize) -> [Vec<u16>; 2] {
        let (inside, outside) = (0..elements as u16).partition(|&index| self.has(index));
        [inside, outside]
    }
}

/// For each chunk with top-k of one section, the indices that payloads so far list, in order.
pub(crate) struct Unions(Vec<Union>);

impl Unions {
    /// Of no payloads.
    pub fn new(format: &Format, section: usize) -> Self {
        let chunks = format.parts(section).iter().filter(|part| is_joint(part)).map(|part| part.grid.chunks()).sum();
        Self(vec![Union([0; WORDS]); chunks])
    }

    /// Adds the indices of a payload's section.
    pub fn add(&mut self, format: &Format, section: usize, memory: &[u8]) {
        let mut room = Decoded::default();
        let parts = format.parts(section).iter().filter(|part| is_joint(part));
        let places = parts.flat_map(|part| part.places(Form::Memory, part.offset).map(move |place| (part, place)));
        for ((part, place), Union(words)) in places.zip(&mut self.0) {
            let (indices, _) = decode_place(memory, part, &place, &mut room);
            indices.iter().for_each(|&index| words[usize::from(index) / 64] |= 1 << (index % 64));
        }
    }
}

/// The ranks of some of `all`, both ascending.
fn ranks(some: impl Iterator<Item = u16>, all: &[u16]) -> Vec<u16> {
    some.filter_map(|index| all.binary_search(&index).ok()).map(|rank| rank as u16).collect()
}

/// The number of hits of each chunk, written as its difference to the one before.
#[derive(Default)]
struct Hits {
    before: i32,
}

impl Hits {
    fn write(&mut self, hits: usize, stream: &mut BitWriter) {
        let difference = hits as i32 - std::mem::replace(&mut self.before, hits as i32);
        stream.put_signed(difference);
    }

    /// Fails on a number that is not in `possible`.
    fn read(&mut self, possible: std::ops::RangeInclusive<usize>, stream: &mut BitReader<'_>) -> Result<usize, IndexFault> {
        self.before += stream.signed()?;
        usize::try_from(self.before).ok().filter(|hits| possible.contains(hits)).ok_or(IndexFault::Count)
    }
}

/// Whether a part's indices are coded jointly.
fn is_joint(part: &Part) -> bool {
    matches!(part.codec.select, Select::TopK { .. })
}

/// Bytes of the joint form without its stream.
fn fixed_bytes(part: &Part) -> usize {
    let [start, _, _, indices] = part.offsets_from(Form::Wire, 0);
    if is_joint(part) { indices - start } else { part.bytes(Form::Wire) }
}

/// Where these bytes of a part that starts at `start` are in memory and in the joint form.
fn fixed_ranges(part: &Part, start: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    shared_bytes(part, start).into_iter().take(if is_joint(part) { 2 } else { 3 })
}

/// The joint form of a section's `memory`, after the payloads in `unions`.
pub(crate) fn encode(format: &Format, section: usize, unions: &Unions, memory: &[u8]) -> Vec<u8> {
    let (mut body, mut stream) = (Vec::new(), BitWriter::default());
    let (mut scales, mut hits, mut room) = (ScaleCoder::default(), Hits::default(), Decoded::default());
    let mut unions = unions.0.iter();
    for part in format.parts(section) {
        let start = body.len();
        body.resize(start + fixed_bytes(part), 0);
        for (from, to) in fixed_ranges(part, start) {
            body[to].copy_from_slice(&memory[from]);
        }
        for place in part.places(Form::Memory, part.offset).filter(|_| is_joint(part)) {
            if part.codec.is_golomb() && part.has_scales() {
                scales.write(memory[place.scale], &mut stream);
            }
            let Some(union) = unions.next() else { break };
            let [inside, outside] = union.split(place.chunk.elements());
            let (indices, _) = decode_place(memory, part, &place, &mut room);
            let inner = ranks(indices.iter().copied(), &inside);
            hits.write(inner.len(), &mut stream);
            golomb::encode_alone(&inner, inside.len(), &mut stream);
            golomb::encode_alone(&ranks(indices.iter().copied(), &outside), outside.len(), &mut stream);
        }
    }
    body.extend(stream.finish());
    body
}

/// The section's memory from its joint form, after the payloads in `unions`. Everything but the indices is as yet unchecked.
///
/// # Errors
/// [`IndexFault`] if the bytes are no joint form.
pub(crate) fn decode(format: &Format, section: usize, unions: &Unions, body: &[u8]) -> Result<Vec<u8>, IndexFault> {
    let parts = format.parts(section);
    let (fixed, stream) = body.split_at_checked(parts.iter().map(fixed_bytes).sum()).ok_or(IndexFault::End)?;
    let (mut stream, mut scales, mut hits) = (BitReader::new(stream), ScaleCoder::default(), Hits::default());
    let mut unions = unions.0.iter();
    let mut memory = vec![0; format.section_bytes(section)];
    let mut start = 0;
    for part in parts {
        for (to, from) in fixed_ranges(part, start) {
            memory[to].copy_from_slice(&fixed[from]);
        }
        start += fixed_bytes(part);
        for place in part.places(Form::Memory, part.offset).filter(|_| is_joint(part)) {
            if part.codec.is_golomb() && part.has_scales() {
                memory[place.scale] = scales.read(&mut stream)?;
            }
            let Some(union) = unions.next() else { break };
            let indices = read_indices(union, place.chunk.elements(), place.k, &mut hits, &mut stream)?;
            let elements = place.chunk.elements();
            encode_indices(part.codec.select, &indices, elements, &mut memory[place.indices.clone()]);
            debug_assert_eq!(
                decode_indices(Floor::best(), part.codec.select, &memory[place.indices], elements, &mut vec![0; place.k]),
                Ok(())
            );
        }
    }
    stream.finish()?;
    Ok(memory)
}

fn read_indices(union: &Union, elements: usize, k: usize, hits: &mut Hits, stream: &mut BitReader<'_>) -> Result<Vec<u16>, IndexFault> {
    let members = union.len();
    let count = hits.read(k.saturating_sub(elements - members)..=k.min(members), stream)?;
    let [inside, outside] = union.split(elements);
    let mut indices = Vec::with_capacity(k);
    for (count, all) in [(count, inside), (k - count, outside)] {
        let ranks = golomb::decode_alone(count, all.len(), stream)?;
        indices.extend(ranks.into_iter().map(|rank| all[usize::from(rank)]));
    }
    indices.sort_unstable();
    Ok(indices)
}
