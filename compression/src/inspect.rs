//! What a payload's bytes say of themselves, layout or not, and up to where: for people who ask why a file is refused.

use std::io::{self, Read};

use crate::error::PayloadError;
use crate::format::{Form, Format, Part};
use crate::header::{Outline, read_bytes};
use crate::indices::bits::BitWriter;
use crate::scales::ScaleCoder;
use crate::stream::{Closing, Counted, FRAME_BYTES, HASH_BYTES, ReadError, Section, split_frame};

/// Bytes of a body that are in memory at once.
const RUN: u64 = 1 << 16;

/// A payload's bytes as far as they explain themselves.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The header, if it can be read.
    pub outline: Option<Outline>,
    /// The sections, up to the first that is cut short.
    pub frames: Vec<Frame>,
    /// Bytes of the whole stream.
    pub bytes: u64,
    /// BLAKE3 of all of them, the payload's name in records.
    pub digest: [u8; HASH_BYTES],
    /// The first thing for which these bytes are no payload of any layout.
    ///
    /// Without one they may still be refused: lengths and contents of sections can only be checked against a [`Format`].
    pub refusal: Option<PayloadError>,
}

/// A section as its frame tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where its body starts in the payload.
    pub offset: u64,
    /// Bytes of its body.
    pub length: u32,
    /// Those that are there.
    pub present: u64,
    /// The BLAKE3 hash that its body must have.
    pub hash: [u8; HASH_BYTES],
    /// Whether it has it.
    pub intact: bool,
}

/// What a section of a format holds. The bits of its body besides codes and [`Section::scale_bits`] are indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionPlan {
    /// The tensors of which it holds chunks: number in the layout, number of the first chunk, number of chunks.
    pub parts: Vec<(usize, usize, usize)>,
    /// Values of all chunks.
    pub values: u64,
    /// Bytes of value codes.
    pub code_bytes: u64,
}

impl Format {
    /// What section number `section` holds.
    ///
    /// # Panics
    /// If there is no such section.
    pub fn plan(&self, section: usize) -> SectionPlan {
        let parts = self.parts(section);
        let sum = |size: fn(&Part) -> usize| parts.iter().map(|part| size(part) as u64).sum();
        SectionPlan {
            parts: parts.iter().map(|part| (part.tensor, part.first_chunk, part.grid.chunks())).collect(),
            values: sum(|part| part.grid.sum(|elements| part.codec.chunk_k(elements))),
            code_bytes: sum(|part| part.head_bytes(Form::Wire)[2]),
        }
    }
}

impl Section {
    /// Bits that scale codes, or the reference quantizer's tables, take in the payload, rounded up to bytes.
    pub fn scale_bits(&self) -> u64 {
        let (mut scales, mut stream, mut bytes) = (ScaleCoder::default(), BitWriter::default(), 0);
        for part in self.format.parts(self.number) {
            bytes += part.head_bytes(Form::Wire)[..2].iter().sum::<usize>();
            if part.codec.is_golomb() && part.has_scales() {
                part.places(Form::Memory, part.offset).for_each(|place| scales.write(self.bytes[place.scale], &mut stream));
            }
        }
        8 * (bytes + stream.finish().len()) as u64
    }
}

impl Outline {
    /// Reads the header that starts a stream, and nothing behind it.
    ///
    /// # Errors
    /// [`ReadError`] if the stream fails or starts with no payload's header.
    pub fn read_from(read: impl Read) -> Result<Self, ReadError> {
        Ok(Self::read(&read_bytes(read)?)?)
    }
}

/// Walks through a stream to its end, whatever it holds.
///
/// # Errors
/// Only if the stream fails; what is wrong with its bytes is in [`Inspection::refusal`].
pub fn inspect(read: impl Read) -> io::Result<Inspection> {
    let mut walk = Walk { read: Counted::new(read), outline: None, frames: Vec::new(), refusal: None };
    match walk.payload() {
        Ok(()) => {}
        Err(ReadError::Payload(refusal)) => walk.refuse(refusal),
        Err(ReadError::Io(error)) => return Err(error),
    }
    while !walk.take(RUN)?.is_empty() {}
    let Walk { read, outline, frames, refusal } = walk;
    Ok(Inspection { outline, frames, bytes: read.bytes, digest: read.digest(), refusal })
}

/// The state of [`inspect`].
struct Walk<R> {
    read: Counted<R>,
    outline: Option<Outline>,
    frames: Vec<Frame>,
    refusal: Option<PayloadError>,
}

impl<R: Read> Walk<R> {
    /// Up to `count` bytes, fewer only at the stream's end.
    fn take(&mut self, count: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read.by_ref().take(count).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Takes note of a refusal, unless there was one before.
    fn refuse(&mut self, refusal: PayloadError) {
        self.refusal.get_or_insert(refusal);
    }

    fn truncated(&self) -> ReadError {
        PayloadError::Truncated { found: self.read.bytes }.into()
    }

    /// Header, sections and footer; an error is a fault behind which nothing can be told apart.
    fn payload(&mut self) -> Result<(), ReadError> {
        let header = read_bytes(&mut self.read)?;
        let outline = Outline::read(&header)?;
        let sections = outline.sections;
        self.outline = Some(outline);
        let mut closing = Closing::new(&header);
        for section in 0..sections as usize {
            let frame = self.take(FRAME_BYTES as u64)?;
            let frame = frame.as_array().ok_or_else(|| self.truncated())?;
            self.body(section, frame)?;
            closing.section(frame);
        }
        let expected = closing.total();
        let footer = self.take(expected - self.read.bytes)?;
        if self.read.bytes < expected {
            return Err(self.truncated());
        }
        if let Err(fault) = closing.check(&footer) {
            self.refuse(fault);
        }
        if self.take(1)?.is_empty() { Ok(()) } else { Err(PayloadError::Trailing { expected }.into()) }
    }

    fn body(&mut self, section: usize, frame: &[u8; FRAME_BYTES]) -> Result<(), ReadError> {
        let (length, hash) = split_frame(frame);
        if length == 0 {
            return Err(PayloadError::SectionLength { section, least: 1, most: u32::MAX.into(), found: 0 }.into());
        }
        let offset = self.read.bytes;
        let end = offset + u64::from(length);
        let mut hasher = blake3::Hasher::new();
        while self.read.bytes < end {
            let run = self.take(RUN.min(end - self.read.bytes))?;
            if run.is_empty() {
                break;
            }
            hasher.update(&run);
        }
        let intact = *hasher.finalize().as_bytes() == hash;
        self.frames.push(Frame { offset, length, present: self.read.bytes - offset, hash, intact });
        if self.read.bytes < end {
            return Err(self.truncated());
        }
        if !intact {
            self.refuse(PayloadError::SectionHash { section });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::test_data::Random;
    use crate::{Codec, ErrorFeedback, Header, Indices, Layout, Payload, PayloadReader, Quantizer, TensorSpec, encode};

    /// A payload of two sections and its format.
    fn payload(codec: Codec) -> (Vec<u8>, Arc<Format>) {
        let layout = Arc::new(Layout::new(vec![TensorSpec::new("a", &[64, 64 * 1024]), TensorSpec::new("b", &[100])]).unwrap());
        let format = Arc::new(Format::uniform(layout.clone(), codec).unwrap());
        let mut random = Random::new(1);
        let gradient: Vec<Vec<f32>> = layout.tensors().iter().map(|t| (0..t.len()).map(|_| random.gaussian() as f32).collect()).collect();
        let header = Header { run: [1; 32], round: 2, hotkey: [3; 32], base_root: [4; 32] };
        (encode(&format, &header, &mut ErrorFeedback::zeros(&layout), &gradient, 0.0).unwrap(), format)
    }

    fn small() -> (Vec<u8>, Arc<Format>) {
        payload(Codec::top_k(4, Quantizer::Sign1, Indices::Golomb))
    }

    #[test]
    fn a_good_payload_is_explained_to_its_last_byte() {
        for indices in [Indices::Packed12, Indices::EliasFano, Indices::Golomb] {
            for quantizer in [Quantizer::Sign2, Quantizer::Sign1, Quantizer::Reference] {
                let (bytes, format) = payload(Codec::top_k(64, quantizer, indices));
                let Inspection { outline, frames, bytes: length, digest, refusal } = inspect(&bytes[..]).unwrap();
                assert_eq!((refusal, length, digest), (None, bytes.len() as u64, *blake3::hash(&bytes).as_bytes()));
                assert_eq!(outline, Some(Outline::read(&bytes).unwrap()));
                assert_eq!((frames.len(), format.sections()), (2, 2));
                let mut reader = PayloadReader::new(&bytes[..], format.clone()).unwrap();
                for (section, frame) in frames.iter().enumerate() {
                    let body = &bytes[frame.offset as usize..][..frame.length as usize];
                    assert!(frame.intact && frame.present == u64::from(frame.length) && *blake3::hash(body).as_bytes() == frame.hash);
                    let plan = format.plan(section);
                    let values = plan.parts.iter().map(|&(tensor, first, chunks)| {
                        (first..first + chunks)
                            .map(|chunk| format.codecs()[tensor].chunk_k(format.grid(tensor).chunk(chunk).elements()))
                            .sum::<usize>()
                    });
                    assert_eq!(plan.values, values.sum::<usize>() as u64);
                    let scale_bits = reader.next_section().unwrap().unwrap().scale_bits();
                    let chunks: u64 = plan.parts.iter().map(|part| part.2 as u64).sum();
                    match (quantizer, indices) {
                        (Quantizer::Reference, _) => assert_eq!(scale_bits, 128 * plan.parts.len() as u64),
                        // the first of a section may be far from what it is compared with
                        (_, Indices::Golomb) => assert!((chunks..4 * chunks + 24).contains(&scale_bits)),
                        _ => assert_eq!(scale_bits, 8 * chunks),
                    }
                    assert!(scale_bits + 8 * plan.code_bytes < 8 * u64::from(frame.length));
                }
            }
        }
    }

    #[test]
    fn every_cut_is_told() {
        let (bytes, _) = small();
        let starts = inspect(&bytes[..]).unwrap().frames;
        for end in (0..400).chain(bytes.len() - 400..bytes.len()) {
            let cut = inspect(&bytes[..end]).unwrap();
            assert_eq!(cut.refusal, Some(PayloadError::Truncated { found: end as u64 }));
            let begun = starts.iter().filter(|frame| frame.offset as usize <= end).count();
            assert_eq!((cut.bytes, cut.frames.len()), (end as u64, begun));
        }
    }

    #[test]
    fn every_flipped_bit_is_told_and_the_rest_is_explained() {
        let (bytes, format) = small();
        let frames = inspect(&bytes[..]).unwrap().frames;
        for at in (0..300).chain(bytes.len() - 300..bytes.len()) {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            let found = inspect(&bad[..]).unwrap();
            assert!(found.refusal.is_some() && Payload::parse(&bad, &format).is_err(), "byte {at}");
            assert_eq!(found.bytes, bytes.len() as u64);
        }
        let mut bad = bytes.clone();
        bad[frames[0].offset as usize] ^= 1;
        let found = inspect(&bad[..]).unwrap();
        assert_eq!(found.refusal, Some(PayloadError::SectionHash { section: 0 }));
        assert_eq!(found.frames.iter().map(|frame| frame.intact).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn what_follows_a_payload_is_told() {
        let (bytes, _) = small();
        let long = inspect(&[&bytes[..], &[0; 70_000]].concat()[..]).unwrap();
        assert_eq!(long.refusal, Some(PayloadError::Trailing { expected: bytes.len() as u64 }));
        assert_eq!(long.bytes, bytes.len() as u64 + 70_000);
    }

    #[test]
    fn a_header_is_read_alone() {
        let (bytes, _) = small();
        let mut rest = &bytes[..];
        let outline = Outline::read_from(&mut rest).unwrap();
        assert_eq!(bytes.len() - rest.len(), outline.bytes());
        assert!(matches!(Outline::read_from(&bytes[..100]), Err(ReadError::Payload(PayloadError::Truncated { found: 100 }))));
    }
}
