//! What opens every payload: whose it is, what it is based on, how it is coded.

use std::io::{self, Read};

use crate::codec::{CODEC_BYTES, Codec};
use crate::format::Format;
use crate::{PayloadError, Root};

/// Bytes of the header before its codecs.
const FIXED_BYTES: usize = 152;
/// Bytes of a codec and the number of tensors in a row that it is for.
const RUN_BYTES: usize = 4 + CODEC_BYTES;
/// Where the hotkey stands, the only field in which the payloads of a round differ.
pub(crate) const HOTKEY: std::ops::Range<usize> = 120..152;
pub(crate) const MAGIC: [u8; 4] = *b"TRBP";
/// The format version that this build reads and writes.
pub(crate) const VERSION: u16 = 2;

/// Whose payload it is, and what it is based on. A payload stolen from another miner names its true owner here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Run id.
    pub run: [u8; 32],
    /// The round whose step this payload may become part of.
    pub round: u64,
    /// The miner's public key.
    pub hotkey: [u8; 32],
    /// Root of the state that the pseudo-gradient was measured from.
    pub base_root: Root,
}

impl Header {
    /// The header's bytes in this format.
    pub(crate) fn write(&self, format: &Format) -> Vec<u8> {
        let runs = codec_runs(format.codecs());
        let mut bytes = Vec::with_capacity(header_bytes(format));
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((runs.len() as u16).to_le_bytes());
        bytes.extend((format.layout().tensors().len() as u32).to_le_bytes());
        bytes.extend((format.sections() as u32).to_le_bytes());
        bytes.extend(self.round.to_le_bytes());
        bytes.extend(self.run);
        bytes.extend(self.base_root);
        bytes.extend(format.layout().digest());
        bytes.extend(self.hotkey);
        for (tensors, codec) in runs {
            bytes.extend(tensors.to_le_bytes());
            bytes.extend(codec.to_bytes());
        }
        bytes
    }

    /// Reads the header that starts `bytes` and must be of this format.
    pub(crate) fn read(bytes: &[u8], format: &Format) -> Result<Self, PayloadError> {
        let outline = Outline::read(bytes)?;
        if outline.tensors as usize != format.layout().tensors().len() {
            return Err(PayloadError::Tensors { expected: format.layout().tensors().len(), found: outline.tensors });
        }
        if outline.layout_digest != format.layout().digest() {
            return Err(PayloadError::Layout);
        }
        let (mut tensor, mut runs) = (0, outline.runs.iter());
        for (tensors, expected) in codec_runs(format.codecs()) {
            let found = runs.next().copied();
            if found != Some((tensors, expected)) {
                let found = found.map(|(_, codec)| codec).filter(|codec| *codec != expected);
                return Err(PayloadError::Codec { tensor, expected, found });
            }
            tensor += tensors as usize;
        }
        if outline.sections as usize != format.sections() {
            return Err(PayloadError::Sections { expected: format.sections(), found: outline.sections });
        }
        Ok(outline.header)
    }
}

/// A header as it stands, before it is compared with a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Owner and base.
    pub header: Header,
    /// Number of tensors.
    pub tensors: u32,
    /// Number of sections.
    pub sections: u32,
    /// The layout's digest.
    pub layout_digest: [u8; 32],
    /// Codecs in layout order, each with the number of consecutive tensors that it is for.
    pub runs: Vec<(u32, Codec)>,
}

impl Outline {
    /// Reads the header that starts `bytes`.
    ///
    /// # Errors
    /// [`PayloadError`] if it is no payload's header.
    pub fn read(bytes: &[u8]) -> Result<Self, PayloadError> {
        let Some((head, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
            return Err(PayloadError::Truncated { found: bytes.len() as u64 });
        };
        if field(head, 0) != MAGIC {
            return Err(PayloadError::Magic);
        }
        let version = u16::from_le_bytes(field(head, 4));
        if version != VERSION {
            return Err(PayloadError::Version(version));
        }
        let tensors = u32::from_le_bytes(field(head, 8));
        let runs = rest.get(..codecs_bytes(head)).ok_or(PayloadError::Truncated { found: bytes.len() as u64 })?;
        let header = Header {
            round: u64::from_le_bytes(field(head, 16)),
            run: field(head, 24),
            base_root: field(head, 56),
            hotkey: field(head, HOTKEY.start),
        };
        let sections = u32::from_le_bytes(field(head, 12));
        Ok(Self { header, tensors, sections, layout_digest: field(head, 88), runs: read_runs(runs, tensors)? })
    }

    /// Bytes of the whole header.
    pub fn bytes(&self) -> usize {
        FIXED_BYTES + self.runs.len() * RUN_BYTES
    }
}

/// Bytes that a header has behind its fixed part, by its count of codecs; at most half a megabyte.
fn codecs_bytes(head: &[u8]) -> usize {
    match *head {
        [_, _, _, _, _, _, low, high, ..] => usize::from(u16::from_le_bytes([low, high])) * RUN_BYTES,
        _ => 0,
    }
}

/// The bytes of the header that starts a stream, and nothing behind it; fewer if the stream ends.
pub(crate) fn read_bytes(mut read: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read.by_ref().take(FIXED_BYTES as u64).read_to_end(&mut bytes)?;
    read.take(codecs_bytes(&bytes) as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes of every header of this format.
pub(crate) fn header_bytes(format: &Format) -> usize {
    FIXED_BYTES + codec_runs(format.codecs()).len() * RUN_BYTES
}

/// Each codec with the number of consecutive tensors that it is for; a format has no more than a u16 counts.
fn codec_runs(codecs: &[Codec]) -> Vec<(u32, Codec)> {
    codecs.chunk_by(|a, b| a == b).map(|run| (run.len() as u32, run[0])).collect()
}

/// The codecs, which must differ from one run to the next and be for as many tensors as there are.
fn read_runs(bytes: &[u8], tensors: u32) -> Result<Vec<(u32, Codec)>, PayloadError> {
    let mut runs: Vec<(u32, Codec)> = Vec::with_capacity(bytes.len() / RUN_BYTES);
    let mut rest = tensors;
    for bytes in bytes.as_chunks::<RUN_BYTES>().0 {
        let [t0, t1, t2, t3, c0, c1, c2, c3] = *bytes;
        let codec = Codec::from_bytes([c0, c1, c2, c3]).ok_or(PayloadError::UnknownCodec([c0, c1, c2, c3]))?;
        let count = u32::from_le_bytes([t0, t1, t2, t3]);
        let repeats = runs.last().is_some_and(|(_, last)| *last == codec);
        if count == 0 || count > rest || repeats {
            return Err(PayloadError::CodecRuns);
        }
        rest -= count;
        runs.push((count, codec));
    }
    if rest == 0 && !runs.is_empty() { Ok(runs) } else { Err(PayloadError::CodecRuns) }
}

/// `N` bytes at `at`; every caller's range lies inside the header.
fn field<const N: usize>(head: &[u8; FIXED_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at..at + N]);
    bytes
}
