//! Payloads as streams of sections, in bounded memory.
//!
//! A payload is: header; for each section u32 length, BLAKE3 of its body, body; the sections' u32 lengths again; u64 length of the whole payload;
//! closing hash. The closing hash is BLAKE3 over the header and each section's length and hash, so that all is covered and nothing is hashed twice.

use std::io::{self, Read, Write};
use std::sync::Arc;

use crate::error::PayloadError;
use crate::format::Format;
use crate::header::{FIXED_BYTES, Header, codecs_bytes, header_bytes};
use crate::section::{self, Decoded};

/// Bytes of a BLAKE3 hash.
pub(crate) const HASH_BYTES: usize = 32;
/// Bytes before a section's body: its length and hash.
pub(crate) const FRAME_BYTES: usize = 4 + HASH_BYTES;
/// Bytes of the footer besides the sections' lengths: the payload's length and the closing hash.
const CLOSING_BYTES: usize = 8 + HASH_BYTES;

/// Why a payload cannot be read from a stream.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream fails.
    #[error("the payload's bytes cannot be read")]
    Io(#[from] io::Error),
    /// Its bytes are refused.
    #[error(transparent)]
    Payload(#[from] PayloadError),
}

/// The fewest and the most bytes of a payload of this format; the same unless indices are Golomb codes.
pub fn payload_len(format: &Format) -> std::ops::RangeInclusive<u64> {
    let sections = (0..format.sections()).map(|section| format.section_wire_bytes(section));
    let [least, most] = sections.fold([0, 0], |[a, b], bytes| [a + bytes.start(), b + bytes.end()]);
    around(format) + least..=around(format) + most
}

/// The bytes that a payload of this format is expected to have, if the selected elements lie at random.
pub fn typical_payload_len(format: &Format) -> u64 {
    let bytes: u64 = (0..format.sections()).map(|section| format.typical_section_bytes(section)).sum();
    around(format) + bytes
}

/// Bytes of a payload besides its sections' bodies.
fn around(format: &Format) -> u64 {
    (header_bytes(format) + format.sections() * (FRAME_BYTES + 4) + CLOSING_BYTES) as u64
}

/// What the closing hash and the footer are made of.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    hasher: blake3::Hasher,
    lengths: Vec<u8>,
    /// Bytes of the payload so far.
    bytes: u64,
}

impl Closing {
    pub fn new(header: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(header);
        Self { hasher, lengths: Vec::new(), bytes: header.len() as u64 }
    }

    /// Takes note of a section: its frame is a length and a hash.
    pub fn section(&mut self, frame: &[u8; FRAME_BYTES]) {
        self.hasher.update(frame);
        let (length, _) = split_frame(frame);
        self.lengths.extend(length.to_le_bytes());
        self.bytes += FRAME_BYTES as u64 + u64::from(length);
    }

    /// The footer.
    pub fn footer(self) -> Vec<u8> {
        let mut footer = self.lengths;
        let total = self.bytes + (footer.len() + CLOSING_BYTES) as u64;
        footer.extend(total.to_le_bytes());
        footer.extend(self.hasher.finalize().as_bytes());
        footer
    }

    /// Why `found` is not the footer.
    pub fn check(self, found: &[u8]) -> Result<(), PayloadError> {
        let expected = self.footer();
        let hash = expected.len() - HASH_BYTES;
        if found[..hash] != expected[..hash] {
            return Err(PayloadError::Footer);
        }
        if found[hash..] == expected[hash..] { Ok(()) } else { Err(PayloadError::Hash) }
    }

    /// Bytes of the whole payload, if no section follows.
    pub fn total(&self) -> u64 {
        self.bytes + (self.lengths.len() + CLOSING_BYTES) as u64
    }
}

/// Length and hash of a section.
pub(crate) fn split_frame(frame: &[u8; FRAME_BYTES]) -> (u32, [u8; HASH_BYTES]) {
    let [l0, l1, l2, l3, hash @ ..] = *frame;
    (u32::from_le_bytes([l0, l1, l2, l3]), hash)
}

pub(crate) fn frame(body: &[u8]) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    frame[4..].copy_from_slice(blake3::hash(body).as_bytes());
    frame
}

/// Whether a section's body has the hash of its frame.
pub(crate) fn check_hash(section: usize, frame: &[u8; FRAME_BYTES], body: &[u8]) -> Result<(), PayloadError> {
    if *blake3::hash(body).as_bytes() == split_frame(frame).1 { Ok(()) } else { Err(PayloadError::SectionHash { section }) }
}

/// Whether a section may be as long as its frame says.
pub(crate) fn check_length(format: &Format, section: usize, frame: &[u8; FRAME_BYTES]) -> Result<usize, PayloadError> {
    let allowed = format.section_wire_bytes(section);
    let (length, _) = split_frame(frame);
    let found = u64::from(length);
    if allowed.contains(&found) {
        return Ok(length as usize);
    }
    Err(PayloadError::SectionLength { section, least: *allowed.start(), most: *allowed.end(), found })
}

/// Writes a payload section by section.
#[derive(Debug)]
pub(crate) struct PayloadWriter<W> {
    write: W,
    closing: Closing,
}

impl<W: Write> PayloadWriter<W> {
    /// Writes the header.
    pub fn new(mut write: W, format: &Format, header: &Header) -> io::Result<Self> {
        let header = header.write(format);
        write.write_all(&header)?;
        Ok(Self { write, closing: Closing::new(&header) })
    }

    /// Writes the next section.
    pub fn section(&mut self, frame: &[u8; FRAME_BYTES], body: &[u8]) -> io::Result<()> {
        self.closing.section(frame);
        self.write.write_all(frame)?;
        self.write.write_all(body)
    }

    /// Writes the footer.
    pub fn finish(mut self) -> io::Result<W> {
        self.write.write_all(&self.closing.footer())?;
        Ok(self.write)
    }
}

/// A section of a payload, checked, as [`PayloadReader::next_section`] gives it.
#[derive(Clone, Debug)]
pub struct Section {
    pub(crate) format: Arc<Format>,
    pub(crate) number: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Section {
    /// The tensors of which it holds chunks: number in the layout, number of the first chunk, number of chunks.
    pub fn parts(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        self.format.parts(self.number).iter().map(|part| (part.tensor, part.first_chunk, part.grid.chunks()))
    }

    /// Calls `sent(tensor, position in the tensor, value)` for everything sent, in order.
    pub fn for_each_sent(&self, mut sent: impl FnMut(usize, usize, f32)) {
        section::for_each_place(&self.format, self.number, &self.bytes, &mut Decoded::default(), |part, place, indices, values| {
            for (&index, &value) in indices.iter().zip(values).filter(|&(_, &value)| value != 0.0) {
                sent(part.tensor, part.start() + place.chunk.position(index.into()), value);
            }
        });
    }
}

/// Reads a payload from a stream, one section in memory at a time, each checked before it is given out.
#[derive(Debug)]
pub struct PayloadReader<R> {
    read: Counted<R>,
    format: Arc<Format>,
    header: Header,
    closing: Closing,
    next: usize,
}

impl<R: Read> PayloadReader<R> {
    /// Reads and checks the header of a payload that must be of this format.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn new(read: R, format: Arc<Format>) -> Result<Self, ReadError> {
        let mut read = Counted { read, bytes: 0, hasher: blake3::Hasher::new() };
        let mut bytes = vec![0; FIXED_BYTES];
        let filled = read.fill(&mut bytes)?;
        bytes.truncate(filled);
        let codecs = codecs_bytes(&bytes);
        bytes.resize(filled + codecs, 0);
        let codecs = read.fill(&mut bytes[filled..])?;
        bytes.truncate(filled + codecs);
        let header = Header::read(&bytes, &format)?;
        Ok(Self { read, header, closing: Closing::new(&bytes), format, next: 0 })
    }

    /// Whose payload it is and what it is based on.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// BLAKE3 of all bytes read so far; after the last section, the payload's.
    pub fn digest(&self) -> [u8; 32] {
        *self.read.hasher.finalize().as_bytes()
    }

    /// The next section; `None` after the last one, when footer and end of the stream have been checked too.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn next_section(&mut self) -> Result<Option<Section>, ReadError> {
        if self.next == self.format.sections() {
            return self.finish().map(|()| None);
        }
        let number = self.next;
        let mut frame = [0; FRAME_BYTES];
        self.read.exact(&mut frame)?;
        let mut body = vec![0; check_length(&self.format, number, &frame)?];
        self.read.exact(&mut body)?;
        check_hash(number, &frame, &body)?;
        let bytes = section::read(&self.format, number, &body)?;
        self.closing.section(&frame);
        self.next += 1;
        Ok(Some(Section { format: self.format.clone(), number, bytes }))
    }

    fn finish(&mut self) -> Result<(), ReadError> {
        let expected = self.closing.total();
        let mut footer = vec![0; self.closing.lengths.len() + CLOSING_BYTES];
        self.read.exact(&mut footer)?;
        self.closing.clone().check(&footer)?;
        if self.read.fill(&mut [0])? == 0 { Ok(()) } else { Err(PayloadError::Trailing { expected }.into()) }
    }
}

/// A stream that knows what was read of it.
#[derive(Debug)]
struct Counted<R> {
    read: R,
    bytes: u64,
    hasher: blake3::Hasher,
}

impl<R: Read> Counted<R> {
    /// Fills as much of `bytes` as there is.
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes += filled as u64;
        self.hasher.update(&bytes[..filled]);
        Ok(filled)
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), ReadError> {
        if self.fill(bytes)? == bytes.len() { Ok(()) } else { Err(PayloadError::Truncated { found: self.bytes }.into()) }
    }
}
