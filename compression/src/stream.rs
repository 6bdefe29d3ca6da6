//! Payloads as streams of sections, in bounded memory.
//!
//! A payload is: header; for each section u32 length, BLAKE3 of its body, body; the sections' u32 lengths again; u64 length of the whole payload;
//! closing hash. The closing hash is BLAKE3 over the header and each section's length and hash, so that all is covered and nothing is hashed twice.

use std::cmp::Ordering;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use crate::error::PayloadError;
use crate::format::Format;
use crate::header::{Header, header_bytes, read_bytes};
use crate::section::{self, Decoded};

/// Bytes of a BLAKE3 hash.
pub(crate) const HASH_BYTES: usize = 32;
/// Bytes of a section's length.
const LENGTH_BYTES: usize = 4;
/// Bytes before a section's body: its length and hash.
pub(crate) const FRAME_BYTES: usize = LENGTH_BYTES + HASH_BYTES;
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
    (header_bytes(format) + format.sections() * FRAME_BYTES + footer_len(format)) as u64
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

/// Bytes of the footer of every payload of this format, which a ranged read finds at its end.
pub fn footer_len(format: &Format) -> usize {
    format.sections() * LENGTH_BYTES + CLOSING_BYTES
}

/// Where each section lies in a payload that ends in `footer`, with its length and hash in front, for [`Section::parse`].
///
/// # Errors
/// [`PayloadError::Footer`] if this is no footer of the format; [`PayloadError::SectionLength`].
pub fn section_ranges(format: &Format, footer: &[u8]) -> Result<Vec<Range<u64>>, PayloadError> {
    if footer.len() != footer_len(format) {
        return Err(PayloadError::Footer);
    }
    let (lengths, closing) = footer.split_at(format.sections() * LENGTH_BYTES);
    let mut end = header_bytes(format) as u64;
    let place = |(section, &length): (usize, &[u8; LENGTH_BYTES])| {
        let length = allowed_length(format, section, u32::from_le_bytes(length))?;
        let start = end;
        end += (FRAME_BYTES + length) as u64;
        Ok(start..end)
    };
    let ranges = lengths.as_chunks().0.iter().enumerate().map(place).collect::<Result<Vec<_>, PayloadError>>()?;
    let total = end + footer.len() as u64;
    if closing[..8] == total.to_le_bytes() { Ok(ranges) } else { Err(PayloadError::Footer) }
}

/// A section's memory from its body, which must have the hash of its frame.
pub(crate) fn read_body(frame: &[u8; FRAME_BYTES], body: &[u8], format: &Format, section: usize) -> Result<Vec<u8>, PayloadError> {
    if *blake3::hash(body).as_bytes() != split_frame(frame).1 {
        return Err(PayloadError::SectionHash { section });
    }
    section::read(format, section, body)
}

/// Whether a section may be as long as its frame says.
pub(crate) fn check_length(format: &Format, section: usize, frame: &[u8; FRAME_BYTES]) -> Result<usize, PayloadError> {
    allowed_length(format, section, split_frame(frame).0)
}

fn allowed_length(format: &Format, section: usize, length: u32) -> Result<usize, PayloadError> {
    let allowed = format.section_wire_bytes(section);
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
    /// Checks one section's bytes, its length and hash in front; [`Format::sections_of`] and [`section_ranges`] tell which they are for a tensor.
    ///
    /// The closing hash covers the hashes of all sections, so that only a whole payload shows that this one belongs to it.
    ///
    /// # Errors
    /// [`PayloadError`]
    pub fn parse(bytes: &[u8], format: &Arc<Format>, number: usize) -> Result<Self, PayloadError> {
        let truncated = || PayloadError::Truncated { found: bytes.len() as u64 };
        let (frame, body) = bytes.split_first_chunk().ok_or_else(truncated)?;
        let length = check_length(format, number, frame)?;
        match body.len().cmp(&length) {
            Ordering::Less => Err(truncated()),
            Ordering::Greater => Err(PayloadError::Trailing { expected: (FRAME_BYTES + length) as u64 }),
            Ordering::Equal => Self::of_body(frame, body, format, number),
        }
    }

    fn of_body(frame: &[u8; FRAME_BYTES], body: &[u8], format: &Arc<Format>, number: usize) -> Result<Self, PayloadError> {
        Ok(Self { bytes: read_body(frame, body, format, number)?, format: format.clone(), number })
    }

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
        let mut read = Counted::new(read);
        let bytes = read_bytes(&mut read)?;
        let header = Header::read(&bytes, &format)?;
        Ok(Self { read, header, closing: Closing::new(&bytes), format, next: 0 })
    }

    /// Whose payload it is and what it is based on.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// BLAKE3 of all bytes read so far; after the last section, the payload's.
    pub fn digest(&self) -> [u8; 32] {
        self.read.digest()
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
        self.exact(&mut frame)?;
        let mut body = vec![0; check_length(&self.format, number, &frame)?];
        self.exact(&mut body)?;
        let section = Section::of_body(&frame, &body, &self.format, number)?;
        self.closing.section(&frame);
        self.next += 1;
        Ok(Some(section))
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), ReadError> {
        self.read.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => PayloadError::Truncated { found: self.read.bytes }.into(),
            _ => error.into(),
        })
    }

    fn finish(&mut self) -> Result<(), ReadError> {
        let expected = self.closing.total();
        let mut footer = vec![0; footer_len(&self.format)];
        self.exact(&mut footer)?;
        self.closing.clone().check(&footer)?;
        if self.read.by_ref().take(1).read_to_end(&mut Vec::new())? == 0 { Ok(()) } else { Err(PayloadError::Trailing { expected }.into()) }
    }
}

/// A stream that knows what was read of it.
#[derive(Debug)]
pub(crate) struct Counted<R> {
    read: R,
    /// Bytes read so far.
    pub bytes: u64,
    hasher: blake3::Hasher,
}

impl<R> Counted<R> {
    pub fn new(read: R) -> Self {
        Self { read, bytes: 0, hasher: blake3::Hasher::new() }
    }

    /// BLAKE3 of the bytes read so far.
    pub fn digest(&self) -> [u8; HASH_BYTES] {
        *self.hasher.finalize().as_bytes()
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.read.read(bytes)?;
        self.bytes += count as u64;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }
}
