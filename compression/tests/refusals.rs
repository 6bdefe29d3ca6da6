//! Every way in which bytes, formats and tensors are refused.
#![allow(clippy::unwrap_used)]

mod common;

use std::io;
use std::sync::Arc;

use common::frames::{Frames, edited};
use common::{BETA, HEADER, Random, SHAPES, Trickle, bits, codec, codecs, layout, mix, mixed, payload_bytes, spec, uniform};
use compression::{
    ChunkFault, Codec, EncodeError, ErrorFeedback, Format, FormatError, Group, IndexFault, Indices, LayoutError, MAX_ROW, Outline, Payload,
    PayloadError, PayloadReader, Quantizer, ReadError, encode, encode_to,
};

/// The one refusal of bytes, whether they lie in memory or come from a stream.
fn refusal(format: &Arc<Format>, bytes: &[u8]) -> PayloadError {
    let refusal = Payload::parse(bytes, format).unwrap_err();
    for streamed in [Payload::read(bytes, format), Payload::read(Trickle::new(bytes), format)] {
        assert!(matches!(streamed.unwrap_err(), ReadError::Payload(same) if same == refusal), "{refusal:?}");
    }
    refusal
}

/// Small formats of every codec, and one of two sections.
fn all_formats() -> Vec<Arc<Format>> {
    // A prime number of elements, which the reference cuts into chunks of one.
    let two_sections = uniform(&[&[1031]], Codec::top_k(64, Quantizer::Reference, Indices::Golomb));
    assert_eq!(two_sections.sections(), 2);
    let small = codecs(800).into_iter().map(|codec| uniform(&[&[5, 7], &[30]], codec));
    small.chain([two_sections]).collect()
}

#[test]
fn truncation_at_every_byte_is_refused() {
    for format in all_formats() {
        let bytes = payload_bytes(&format, 1);
        for length in 0..bytes.len() {
            assert_eq!(refusal(&format, &bytes[..length]), PayloadError::Truncated { found: length as u64 });
        }
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for format in all_formats() {
        let bytes = payload_bytes(&format, 1);
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let parsed = Payload::parse(&flipped, &format).unwrap_err();
            let ReadError::Payload(streamed) = Payload::read(&flipped[..], &format).unwrap_err() else { panic!("bit {bit}") };
            // Only where a section's frame is wrong does a stream's reader come to another fault first.
            assert!(streamed == parsed || matches!(streamed, PayloadError::SectionHash { .. }), "bit {bit}: {parsed:?}, {streamed:?}");
        }
    }
}

#[test]
fn trailing_bytes_are_refused() {
    for format in all_formats() {
        let mut bytes = payload_bytes(&format, 1);
        let expected = bytes.len() as u64;
        bytes.push(0);
        assert_eq!(refusal(&format, &bytes), PayloadError::Trailing { expected });
    }
}

/// The refusal of a payload of one tensor of the shape [2, 3] after an edit and new hashes.
fn edited_refusal(codec: Codec, edit: impl FnOnce(&mut Frames)) -> PayloadError {
    let format = uniform(&[&[2, 3]], codec);
    refusal(&format, &edited(&payload_bytes(&format, 3), edit))
}

#[test]
fn headers_are_refused() {
    let refusal = |at: usize, byte: u8| edited_refusal(codec(2048), |frames| frames.header[at] = byte);
    assert_eq!(refusal(0, b'X'), PayloadError::Magic);
    assert_eq!(refusal(4, 1), PayloadError::Version(1));
    assert_eq!(refusal(5, 1), PayloadError::Version(0x102));
    assert_eq!(refusal(8, 0), PayloadError::CodecRuns);
    assert_eq!(refusal(12, 2), PayloadError::Sections { expected: 1, found: 2 });
    assert_eq!(refusal(88, 0xAA), PayloadError::Layout);
    assert_eq!(refusal(152, 0), PayloadError::CodecRuns);
    assert_eq!(refusal(152, 2), PayloadError::CodecRuns);
    assert_eq!(refusal(156, 1), PayloadError::Codec { tensor: 0, expected: codec(2048), found: Some(codec(2049)) });
    for (at, byte) in [(157, 0), (157, 0x11), (158, 0), (158, 4), (159, 0), (159, 5)] {
        let mut bytes = [0, 8, 1, 1];
        bytes[at - 156] = byte;
        if at == 157 && byte == 0x11 {
            bytes[0] = 0;
        }
        assert_eq!(refusal(at, byte), PayloadError::UnknownCodec(bytes));
    }
    let two_tensors = edited_refusal(codec(2048), |frames| (frames.header[8], frames.header[152]) = (2, 2));
    assert_eq!(two_tensors, PayloadError::Tensors { expected: 1, found: 2 });
}

#[test]
fn codecs_of_other_tensors_are_refused() {
    let [a, b] = [codec(64), codec(65)];
    let shapes: [&[usize]; 3] = [&[4], &[4], &[4]];
    let of = |codecs: [Codec; 3]| mixed(&shapes, &codecs);
    let refusal = |expected: [Codec; 3], found: [Codec; 3]| refusal(&of(expected), &payload_bytes(&of(found), 1));
    assert_eq!(refusal([a, a, b], [a, b, b]), PayloadError::Codec { tensor: 0, expected: a, found: None });
    assert_eq!(refusal([a, b, a], [b, a, b]), PayloadError::Codec { tensor: 0, expected: a, found: Some(b) });
    assert_eq!(refusal([a, b, a], [a, codec(66), a]), PayloadError::Codec { tensor: 1, expected: b, found: Some(codec(66)) });
    assert_eq!(refusal([a, b, a], [a, b, b]), PayloadError::Codec { tensor: 1, expected: b, found: None });
    // A run that only says more of the one before it.
    let bytes = edited(&payload_bytes(&of([a, b, b]), 1), |frames| frames.header.copy_within(156..160, 164));
    assert_eq!(self::refusal(&of([a, b, b]), &bytes), PayloadError::CodecRuns);
}

/// The payload has more, or fewer, runs of codecs than its reader expects.
#[test]
fn another_number_of_codecs_is_refused() {
    let [a, b] = [codec(64), codec(65)];
    let of = |codecs: &[Codec; 6]| mixed(&[&[4][..]; 6], codecs);
    let (one, two, six) = (of(&[a; 6]), of(&[a, b, b, b, b, b]), of(&[a, b, a, b, a, b]));
    let cases = [(&one, &two, 0), (&one, &six, 0), (&two, &one, 0), (&six, &one, 0), (&two, &six, 1), (&six, &two, 1)];
    for (expected, found, tensor) in cases {
        let bytes = payload_bytes(found, 1);
        let header = Outline::read(&bytes).unwrap().bytes();
        // Cut short behind its codecs it is still for other ones, within them it is cut short.
        for bytes in [&bytes, &bytes[..header]] {
            assert_eq!(refusal(expected, bytes), PayloadError::Codec { tensor, expected: [a, b][tensor], found: None });
        }
        assert_eq!(refusal(expected, &bytes[..header - 1]), PayloadError::Truncated { found: header as u64 - 1 });
    }
    let runs = |runs: u16| edited(&payload_bytes(&one, 1), |frames| frames.header[6..8].copy_from_slice(&runs.to_le_bytes()));
    assert_eq!(refusal(&one, &runs(0)), PayloadError::CodecRuns);
    assert_eq!(refusal(&one, &runs(u16::MAX)), PayloadError::Truncated { found: runs(u16::MAX).len() as u64 });
}

#[test]
fn frames_and_footers_are_refused() {
    // Header 160, frame 36, body 7, length 4, total 8, hash 32.
    let format = uniform(&[&[2, 3]], codec(2048));
    let bytes = payload_bytes(&format, 3);
    assert_eq!(bytes.len(), 247);
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        refusal(&format, &bytes)
    };
    assert_eq!(flipped(160), PayloadError::SectionLength { section: 0, least: 7, most: 7, found: 6 });
    assert_eq!(flipped(196), PayloadError::SectionHash { section: 0 });
    assert_eq!(flipped(203), PayloadError::Footer);
    assert_eq!(flipped(207), PayloadError::Footer);
    assert_eq!(flipped(16), PayloadError::Hash);
    assert_eq!(flipped(246), PayloadError::Hash);
    let longer = edited(&bytes, |frames| frames.bodies[0].push(0));
    assert_eq!(refusal(&format, &longer), PayloadError::SectionLength { section: 0, least: 7, most: 7, found: 8 });
    // A stream's reader comes to a section before it comes to the closing hash.
    let mut other_hash = bytes.clone();
    other_hash[164] ^= 1;
    assert_eq!(Payload::parse(&other_hash, &format).unwrap_err(), PayloadError::Hash);
    let streamed = Payload::read(&other_hash[..], &format).unwrap_err();
    assert!(matches!(streamed, ReadError::Payload(PayloadError::SectionHash { section: 0 })));
}

/// The fault of the first chunk of a tensor after its section was changed into `body`.
fn fault(shape: &[usize], codec: Codec, body: &[u8]) -> ChunkFault {
    let format = uniform(&[shape], codec);
    let bytes = edited(&payload_bytes(&format, 3), |frames| frames.bodies[0] = body.to_vec());
    match refusal(&format, &bytes) {
        PayloadError::Chunk { tensor: 0, chunk: 0, fault } => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn scales_and_codes_are_refused() {
    // Scale, three codes of two bits, three indices of twelve bits.
    let fault = |scale, codes, last| fault(&[2, 3], codec(2048), &[scale, codes, 0, 0x30, 0, last, 0]);
    assert_eq!(fault(251, 0b01_10_00, 5), ChunkFault::Scale(251));
    assert_eq!(fault(255, 0, 5), ChunkFault::Scale(255));
    assert_eq!(fault(0, 1, 5), ChunkFault::ZeroChunk);
    assert_eq!(fault(0, 0, 5), ChunkFault::ZeroChunk);
    assert_eq!(fault(194, 0b100_0000, 5), ChunkFault::Padding);
    // Scale code 181 has a lower magnitude of zero; code 2 is "minus low".
    assert_eq!(fault(181, 0b00_10_01, 5), ChunkFault::NegativeZero);
    let sign1 = Codec::top_k(2048, Quantizer::Sign1, Indices::Packed12);
    let fault = |scale, codes| self::fault(&[2, 3], sign1, &[scale, codes, 0, 0x10, 0, 3, 0]);
    assert_eq!(fault(7, 0b1000), ChunkFault::Padding);
    assert_eq!(fault(251, 0), ChunkFault::Scale(251));
    assert_eq!(fault(0, 0), ChunkFault::ZeroChunk);
    let group = Codec::group_max(Group::G16, Quantizer::Sign1);
    assert_eq!(self::fault(&[20], group, &[0, 0, 0x10]), ChunkFault::ZeroChunk);
}

/// Where the lower magnitude is zero, a chunk without a high value would be another form of the chunk of zeros.
#[test]
fn chunks_of_zeros_with_a_scale_are_refused() {
    for indices in [Indices::Packed12, Indices::EliasFano, Indices::Golomb] {
        let format = uniform(&[&[6], &[6]], Codec::top_k(2048, Quantizer::Sign2, indices));
        let payload = |codes: [u8; 3]| {
            let mut tensors = spec::chunks_of(&common::payload(&format, 3));
            (tensors[1][0].scale, tensors[1][0].codes) = (181, codes.to_vec());
            spec::payload_bytes(&format, &HEADER, &tensors)
        };
        for codes in [[1, 0, 0], [0, 3, 0], [3, 1, 3]] {
            assert!(Payload::parse(&payload(codes), &format).is_ok());
        }
        let refused = PayloadError::Chunk { tensor: 1, chunk: 0, fault: ChunkFault::AllZero };
        assert_eq!(refusal(&format, &payload([0, 0, 0])), refused, "{indices:?}");
    }
}

#[test]
fn packed_indices_are_refused() {
    let fault = |indices: [u8; 5]| fault(&[2, 3], codec(2048), &[&[194, 0][..], &indices].concat());
    assert_eq!(fault([0, 0x30, 0, 5, 0x80]), IndexFault::Padding.into());
    assert_eq!(fault([3, 0, 0, 5, 0]), IndexFault::Order.into());
    assert_eq!(fault([3, 0x30, 0, 5, 0]), IndexFault::Order.into());
    assert_eq!(fault([0, 0x30, 0, 6, 0]), IndexFault::Range.into());
}

#[test]
fn elias_fano_indices_are_refused() {
    // Two of eight indices: two low bits each, then a bitmap of four bits.
    let codec = Codec::top_k(1024, Quantizer::Sign2, Indices::EliasFano);
    let fault = |low, bitmap| fault(&[8], codec, &[194, 0, low, bitmap]);
    assert_eq!(fault(0b1_1001, 0b0101), IndexFault::Padding.into());
    assert_eq!(fault(0b1001, 0b1_0001), IndexFault::Padding.into());
    assert_eq!(fault(0b1001, 0b0111), IndexFault::Count.into());
    assert_eq!(fault(0b0101, 0b0011), IndexFault::Order.into());
    assert_eq!(fault(0b1001, 0b1001), IndexFault::Range.into());
}

#[test]
fn golomb_codes_are_refused() {
    // Two of eight indices: value codes, one low bit each, then the stream, where a one is the scale code 100: at most 24 bits.
    let codec = Codec::top_k(1024, Quantizer::Sign2, Indices::Golomb);
    let small = |low: u8, stream: &[u8]| fault(&[8], codec, &[&[0, low][..], stream].concat());
    assert_eq!(small(0b101, &[0b1_0011]), IndexFault::Padding.into());
    assert_eq!(small(0b01, &[0b11_0011]), IndexFault::Padding.into());
    assert_eq!(small(0b01, &[0b11, 1]), IndexFault::Range.into());
    assert_eq!(small(0b11, &[0b10_0011]), IndexFault::Range.into());
    // The scale codes 251 and, of nine bits, 355; and one that the stream is too short for.
    assert_eq!(small(0, &[0, 0b0101_1111, 0b110]), ChunkFault::Scale(251));
    assert_eq!(small(0, &[0, 0xFF, 1]), IndexFault::Scale.into());
    assert_eq!(small(0, &[0]), IndexFault::End.into());
    // 37 of 300: M = 5, low bits of zero, and a stream of at least 38 bits.
    let codec = Codec::top_k(512, Quantizer::Sign2, Indices::Golomb);
    let large = |stream: &[u8]| fault(&[300], codec, &[&[0; 10 + 10], stream].concat());
    assert_eq!(large(&[0x55; 5]), IndexFault::End.into());
    assert_eq!(large(&[0xFF, 0xFF, 0xFF, 0xFF, 0x3F, 0]), IndexFault::Trailing.into());
    assert_eq!(large(&[0xFF, 0xFF, 0xFF, 0xFF, 0x7F]), IndexFault::Padding.into());
}

#[test]
fn group_offsets_are_refused() {
    // A group of 32 and one of eight: two offsets of five bits.
    let fault = |offsets: [u8; 2]| fault(&[40], Codec::group_max(Group::G32, Quantizer::Sign1), &[&[7, 0][..], &offsets].concat());
    assert_eq!(fault([0, 0b100]), IndexFault::Padding.into());
    assert_eq!(fault([0, 0b01]), IndexFault::Range.into());
}

#[test]
fn tables_are_refused() {
    // All six elements are sent, with the codes 0, 1, 2, 0, 0, 0.
    let codec = Codec::top_k(6, Quantizer::Reference, Indices::EliasFano);
    let fault = |table: [f32; 4]| fault(&[2, 3], codec, &[bytes_of(table), vec![0b10_01_00, 0, 0x55, 0x05]].concat());
    for table in [
        [1.0, 2.0, 3.0, 4.0],
        [1.0, 2.0, 3.0, -0.0],
        [1.0, 1.0, 3.0, 0.0],
        [1.0, 3.0, 2.0, 0.0],
        [-1.0, -0.0, 3.0, 0.0],
        [1.0, 2.0, f32::NAN, 0.0],
        [f32::NEG_INFINITY, 2.0, 3.0, 0.0],
        [1.0, 2.0, 64.1, 0.0],
    ] {
        assert_eq!(fault(table), ChunkFault::Table, "{table:?}");
    }
}

fn bytes_of(table: [f32; 4]) -> Vec<u8> {
    table.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The fault is told with its place, which the chunks of other sections come before.
#[test]
fn faults_are_told_with_their_place() {
    let format = uniform(&[&[5], &[64 * 1100, 1]], codec(4096));
    let bytes = payload_bytes(&format, 1);
    let bad_scale = |section: usize, at: usize| edited(&bytes, |frames| frames.bodies[section][at] = 252);
    let fault = ChunkFault::Scale(252);
    assert_eq!(refusal(&format, &bad_scale(0, 0)), PayloadError::Chunk { tensor: 0, chunk: 0, fault });
    assert_eq!(refusal(&format, &bad_scale(1, 2)), PayloadError::Chunk { tensor: 1, chunk: 1023 + 2, fault });
}

/// A stream that breaks.
struct Broken(usize);

impl io::Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::ConnectionReset)?;
        buffer[..1].copy_from_slice(&[0]);
        Ok(1)
    }
}

impl io::Write for Broken {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(buffer.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn broken_streams_are_told() {
    let format = mix();
    let bytes = payload_bytes(&format, 1);
    let payload = Payload::parse(&bytes, &format).unwrap();
    for readable in [0, 100, 160, 190, bytes.len() - 1] {
        let read = Payload::read(io::Read::chain(&bytes[..readable], Broken(0)), &format);
        assert!(matches!(read, Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset));
        let mut feedback = ErrorFeedback::zeros(format.layout());
        let gradient = Random(1).tensors(format.layout());
        let written = encode_to(Broken(readable), &format, &HEADER, &mut feedback, &gradient, BETA);
        assert!(matches!(written.err(), Some(EncodeError::Io(error)) if error.kind() == io::ErrorKind::StorageFull));
        assert_eq!(payload.write(Broken(readable)).err().map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
    }
    assert!(PayloadReader::new(Broken(1), format).is_err());
}

#[test]
fn impossible_formats_are_refused() {
    let refusal = |shapes: &[&[usize]], codecs: Vec<Codec>| Format::new(layout(shapes), codecs).unwrap_err();
    assert_eq!(refusal(&[&[5], &[6]], vec![codec(64)]), FormatError::Count { tensors: 2, codecs: 1 });
    for k in [0, 4097] {
        assert_eq!(refusal(&[&[5], &[6]], vec![codec(64), codec(k)]), FormatError::K { tensor: "t1".into(), k });
    }
    assert_eq!(refusal(&[&[1, MAX_ROW + 1]], vec![codec(64)]), FormatError::Row { tensor: "t0".into(), row: MAX_ROW + 1 });
    let changing: Vec<Codec> = (0..=u16::MAX).map(|tensor| codec(1 + tensor % 2)).collect();
    assert_eq!(refusal(&vec![&[1][..]; 65536], changing.clone()), FormatError::Changes(65535));
    let most = Format::new(layout(&vec![&[1][..]; 65535]), changing[1..].to_vec()).unwrap();
    assert!(Payload::parse(&payload_bytes(&most, 1), &Arc::new(most)).is_ok());
}

#[test]
fn encoding_refusals_leave_the_error_feedback() {
    for format in codecs(64).into_iter().map(|codec| uniform(&SHAPES, codec)) {
        let layout = format.layout();
        let before = Random(1).tensors(layout);
        let good = Random(2).tensors(layout);
        let mut feedback = ErrorFeedback::from_tensors(layout, before.clone()).unwrap();
        let mut refuse = |gradient: &[Vec<f32>]| {
            let refusal = encode(&format, &HEADER, &mut feedback, gradient, BETA).unwrap_err();
            assert_eq!(bits(feedback.tensors()), bits(&before));
            refusal
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 4096, 4999] {
                let mut gradient = good.clone();
                gradient[2][at] = bad;
                assert!(matches!(refuse(&gradient), EncodeError::NonFinite(name) if name == "t2"));
            }
        }
        let count = LayoutError::Count { expected: 4, found: 1 };
        assert!(matches!(refuse(&good[..1]), EncodeError::Layout(error) if error == count));
        let mut short = good.clone();
        short[1].pop();
        assert!(matches!(refuse(&short), EncodeError::Layout(LayoutError::Data { expected: 10, found: 9, .. })));
    }
}

#[test]
fn feedback_that_is_not_finite_or_overflows_is_refused() {
    let format = uniform(&[&[9], &[70, 70]], codec(64));
    for (e, g) in [(f32::NAN, 0.0), (f32::INFINITY, 0.0), (f32::MAX, f32::MAX)] {
        let (mut before, mut gradient) = (Random(1).tensors(format.layout()), Random(2).tensors(format.layout()));
        (before[1][4899], gradient[1][4899]) = (e, g);
        let mut feedback = ErrorFeedback::from_tensors(format.layout(), before.clone()).unwrap();
        let refusal = encode(&format, &HEADER, &mut feedback, &gradient, BETA).unwrap_err();
        assert!(matches!(refusal, EncodeError::NonFinite(name) if name == "t1"));
        assert_eq!(bits(feedback.tensors()), bits(&before));
    }
}
