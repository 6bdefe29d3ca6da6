//! A payload: parsed once, checked completely, then read as values.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rayon::prelude::*;

use crate::chunk::Chunk;
use crate::error::PayloadError;
use crate::format::Format;
use crate::header::{Header, header_bytes};
use crate::section::{self, CodedChunk, Decoded};
use crate::stream::{Closing, FRAME_BYTES, PayloadReader, PayloadWriter, ReadError, check_length, frame, payload_len, read_body};

/// A checked payload: one miner's compressed pseudo-gradient for one round.
#[derive(Clone, Debug)]
pub struct Payload {
    header: Header,
    format: Arc<Format>,
    /// BLAKE3 of the bytes it was read from.
    digest: [u8; 32],
    /// In memory's form.
    sections: Vec<Vec<u8>>,
}

impl Payload {
    /// Checks every byte of a payload that must be of this format.
    ///
    /// Who made it and what it is based on is in [`Payload::header`], for the caller to compare.
    ///
    /// # Errors
    /// [`PayloadError`] says what is wrong, at the first place found.
    pub fn parse(bytes: &[u8], format: &Arc<Format>) -> Result<Self, PayloadError> {
        Self::parse_named(bytes, *blake3::Hasher::new().update_rayon(bytes).finalize().as_bytes(), format)
    }

    /// [`Payload::parse`] of bytes whose BLAKE3 the caller has computed already.
    ///
    /// # Errors
    /// As [`Payload::parse`].
    pub fn parse_named(bytes: &[u8], digest: [u8; 32], format: &Arc<Format>) -> Result<Self, PayloadError> {
        let header = Header::read(bytes, format)?;
        let found = bytes.len() as u64;
        let (head, mut rest) = bytes.split_at(header_bytes(format));
        let mut closing = Closing::new(head);
        let truncated = PayloadError::Truncated { found };
        let mut framed = Vec::with_capacity(format.sections());
        for section in 0..format.sections() {
            let (frame, after) = rest.split_first_chunk::<FRAME_BYTES>().ok_or_else(|| truncated.clone())?;
            let (body, after) = after.split_at_checked(check_length(format, section, frame)?).ok_or_else(|| truncated.clone())?;
            closing.section(frame);
            framed.push((frame, body));
            rest = after;
        }
        let expected = closing.total();
        match found.cmp(&expected) {
            std::cmp::Ordering::Less => return Err(truncated),
            std::cmp::Ordering::Greater => return Err(PayloadError::Trailing { expected }),
            std::cmp::Ordering::Equal => {}
        }
        closing.check(rest)?;
        let read = |(section, (frame, body)): (usize, (&[u8; FRAME_BYTES], &[u8]))| read_body(frame, body, format, section);
        let sections: Vec<_> = framed.into_par_iter().enumerate().map(read).collect();
        // In order, so that everybody names the same fault.
        let sections = sections.into_iter().collect::<Result<_, _>>()?;
        Ok(Self { header, format: format.clone(), digest, sections })
    }

    /// Reads a payload from a stream that must hold nothing else.
    ///
    /// # Errors
    /// [`ReadError`] if the stream fails or its bytes are refused.
    pub fn read(read: impl Read, format: &Arc<Format>) -> Result<Self, ReadError> {
        let mut reader = PayloadReader::new(read, format.clone())?;
        let mut sections = Vec::with_capacity(format.sections());
        while let Some(section) = reader.next_section()? {
            sections.push(section.bytes);
        }
        Ok(Self { header: *reader.header(), format: format.clone(), digest: reader.digest(), sections })
    }

    /// The payload of a header and checked sections, whose bytes follow from these.
    pub(crate) fn from_sections(header: Header, format: &Arc<Format>, sections: Vec<Coded>) -> Self {
        let hash = || {
            let mut writer = PayloadWriter::new(blake3::Hasher::new(), format, &header)?;
            sections.iter().try_for_each(|section| writer.section(&frame(&section.wire), &section.wire))?;
            writer.finish()
        };
        let digest = *hash().expect("hashing does not fail").finalize().as_bytes();
        Self { header, format: format.clone(), digest, sections: sections.into_iter().map(|section| section.memory).collect() }
    }

    /// Writes the bytes that [`Payload::parse`] reads.
    ///
    /// # Errors
    /// What `write` fails with.
    pub fn write<W: Write>(&self, write: W) -> io::Result<W> {
        write_sections(write, &self.format, &self.header, |section| &self.sections[section])
    }

    /// The bytes that [`Payload::parse`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.write(Vec::with_capacity(*payload_len(&self.format).end() as usize)).expect("writing into memory does not fail")
    }

    pub(crate) fn section_wire(&self, section: usize) -> Vec<u8> {
        section::write(&self.format, section, &self.sections[section])
    }

    /// Whose payload it is and what it is based on.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its tensors and their coding.
    pub fn format(&self) -> &Arc<Format> {
        &self.format
    }

    /// BLAKE3 of all its bytes, the name under which records and envelopes speak of it.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// A section's bytes in memory: of each part table or scale codes, value codes and indices, each chunk's in a place that the format gives.
    pub fn section(&self, section: usize) -> &[u8] {
        &self.sections[section]
    }

    /// Decodes a section's chunks in order: `sent(tensor, chunk, indices within it, values)`; a value of zero counts as not sent.
    ///
    /// # Panics
    /// If there is no such section.
    pub fn for_each_chunk(&self, section: usize, mut sent: impl FnMut(usize, Chunk, &[u16], &[f32])) {
        let bytes = &self.sections[section];
        section::for_each_place(&self.format, section, bytes, &mut Decoded::default(), |part, place, indices, values| {
            sent(part.tensor, Chunk { start: part.start() + place.chunk.start, ..place.chunk }, indices, values);
        });
    }

    /// Chunk number `chunk` of tensor number `tensor`, found in constant time.
    ///
    /// # Panics
    /// If there is no such tensor or chunk.
    pub fn chunk(&self, tensor: usize, chunk: usize) -> CodedChunk<'_> {
        let (section, part) = self.format.find(tensor, chunk);
        let mut coded = CodedChunk::new(&self.sections[section], part, &part.place(chunk - part.first_chunk));
        coded.chunk.start += part.start();
        coded
    }

    /// (chunk, index within the chunk, value) of everything selected in one tensor, ascending.
    pub fn values(&self, tensor: usize) -> impl Iterator<Item = (usize, usize, f32)> + '_ {
        let chunks = 0..self.format.grid(tensor).chunks();
        chunks.flat_map(move |number| self.chunk(tensor, number).values().into_iter().map(move |(index, v)| (number, index, v)))
    }

    /// (element, value) of everything sent, one list per tensor in layout order: elements counted row by row, ascending, and no value zero.
    pub fn sent(&self) -> Vec<Vec<(usize, f32)>> {
        let sections: Vec<_> = (0..self.sections.len()).into_par_iter().map(|section| self.sent_in(section)).collect();
        let mut sent = vec![Vec::new(); self.format.codecs().len()];
        for (section, parts) in sections.into_iter().enumerate() {
            for (part, pairs) in self.format.parts(section).iter().zip(parts) {
                sent[part.tensor].extend(pairs);
            }
        }
        sent
    }

    /// [`Payload::sent`] of a section's parts.
    fn sent_in(&self, section: usize) -> Vec<Vec<(usize, f32)>> {
        let parts = self.format.parts(section);
        let mut sent = vec![Vec::new(); parts.len()];
        self.for_each_chunk(section, |tensor, chunk, indices, values| {
            let pairs = indices.iter().zip(values).filter(|&(_, &value)| value != 0.0);
            // A section has one part of each tensor from its first on.
            sent[tensor - parts[0].tensor].extend(pairs.map(|(&index, &value)| (chunk.position(index.into()), value)));
        });
        // Chunks lie side by side, so that their elements interleave.
        sent.iter_mut().for_each(|pairs| pairs.sort_unstable_by_key(|&(element, _)| element));
        sent
    }

    /// Calls `update(element, value)` for every sent element of tensors in the payload's layout.
    pub(crate) fn for_each_sent(&self, tensors: &mut [Vec<f32>], update: impl Fn(&mut f32, f32) + Sync) {
        let sections = self.format.split_mut(tensors).into_par_iter().zip(&self.sections).enumerate();
        sections.for_each_init(Decoded::default, |room, (section, (mut slices, bytes))| {
            let first = self.format.parts(section)[0].tensor;
            section::for_each_place(&self.format, section, bytes, room, |part, place, indices, values| {
                // A section has one part of each tensor from its first on.
                let elements = &mut slices[part.tensor - first];
                for (&index, &value) in indices.iter().zip(values).filter(|&(_, &value)| value != 0.0) {
                    update(&mut elements[place.chunk.position(index.into())], value);
                }
            });
        });
    }

    /// The decoded pseudo-gradient: one vector per tensor in layout order, zero where nothing was sent.
    pub fn to_dense(&self) -> Vec<Vec<f32>> {
        let mut dense: Vec<Vec<f32>> = self.format.layout().tensors().iter().map(|t| vec![0.0; t.len()]).collect();
        self.for_each_sent(&mut dense, |element, value| *element = value);
        dense
    }
}

/// Writes the payload whose sections are, in memory's form, `section(number)`: valid ones, as of [`Payload::section`] or of an encoder elsewhere.
///
/// # Errors
/// What `write` fails with.
pub fn write_sections<'a, W: Write>(
    write: W,
    format: &Format,
    header: &Header,
    section: impl Fn(usize) -> &'a [u8] + Sync,
) -> io::Result<W> {
    let mut writer = PayloadWriter::new(write, format, header)?;
    for batch in (0..format.sections()).collect::<Vec<_>>().chunks(BATCH) {
        let code = |&number: &usize| {
            let body = section::write(format, number, section(number));
            (frame(&body), body)
        };
        let coded: Vec<_> = batch.par_iter().map(code).collect();
        coded.iter().try_for_each(|(frame, body)| writer.section(frame, body))?;
    }
    writer.finish()
}

/// A section in both its forms.
pub(crate) struct Coded {
    /// As in a payload.
    pub wire: Vec<u8>,
    /// As in memory.
    pub memory: Vec<u8>,
}

/// Sections coded at once before they are written.
pub(crate) const BATCH: usize = 64;
