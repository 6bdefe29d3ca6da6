//! What payloads say: the values that were selected, in the bytes that the format describes, however they are read or written.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::frames::Frames;
use common::{
    BETA, HEADER, Random, SHAPES, Trickle, bits, codec, codecs, formats, layout, mix, mixed, payload, payload_bytes, spec, uniform,
};
use compression::{
    Codec, CodedChunk, ErrorFeedback, Format, Group, Header, Indices, LayoutError, Payload, PayloadError, PayloadReader, Quantizer, SIGN1,
    SIGN2, Section, Select, encode, encode_to, footer_len, payload_len, section_ranges,
};
use proptest::prelude::*;

/// Encodes one round and checks all that holds for every payload.
fn check_round(format: &Arc<Format>, before: &[Vec<f32>], gradient: &[Vec<f32>]) {
    let start = ErrorFeedback::from_tensors(format.layout(), before.to_vec()).unwrap();
    let (mut feedback, mut again) = (start.clone(), start);
    let bytes = encode(format, &HEADER, &mut feedback, gradient, BETA).unwrap();
    assert!(encode_to(Vec::new(), format, &HEADER, &mut again, gradient, BETA).unwrap() == bytes);
    assert_eq!(bits(again.tensors()), bits(feedback.tensors()));
    let payload = Payload::parse(&bytes, format).unwrap();
    check_bytes(&payload, &bytes);
    check_streams(&payload, &bytes);
    let wanted = accumulated(before, gradient);
    check_selection(&payload, &wanted);
    check_feedback(&payload, &wanted, &feedback);
}

/// `a = beta * e + pseudo-gradient`.
fn accumulated(before: &[Vec<f32>], gradient: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let add = |(e, g): (&Vec<f32>, &Vec<f32>)| e.iter().zip(g).map(|(e, g)| BETA * e + g).collect();
    before.iter().zip(gradient).map(add).collect()
}

/// Length, digest and header are right, and the bytes are those that the format describes.
fn check_bytes(payload: &Payload, bytes: &[u8]) {
    let format = payload.format();
    let lengths = payload_len(format);
    assert!(lengths.contains(&(bytes.len() as u64)), "{} bytes, not {lengths:?}", bytes.len());
    let is_golomb = |codec: &Codec| matches!(codec.select, Select::TopK { indices: Indices::Golomb, .. });
    assert!(lengths.start() == lengths.end() || format.codecs().iter().any(is_golomb));
    assert_eq!(payload.header(), &HEADER);
    assert_eq!(payload.digest(), *blake3::hash(bytes).as_bytes());
    assert!(payload.to_bytes() == bytes);
    assert!(payload.write(Vec::new()).unwrap() == bytes);
    assert!(spec::payload_bytes(format, &HEADER, &spec::chunks_of(payload)) == bytes, "{:?}", format.codecs());
}

/// Read from a stream, in large or small portions, it is the same.
fn check_streams(payload: &Payload, bytes: &[u8]) {
    let format = payload.format();
    let sections: Vec<&[u8]> = (0..format.sections()).map(|section| payload.section(section)).collect();
    for streamed in [Payload::read(bytes, format).unwrap(), Payload::read(Trickle::new(bytes), format).unwrap()] {
        assert_eq!((streamed.header(), streamed.digest()), (payload.header(), payload.digest()));
        assert!((0..format.sections()).map(|section| streamed.section(section)).eq(sections.iter().copied()));
    }
    let mut reader = PayloadReader::new(bytes, format.clone()).unwrap();
    assert_eq!(reader.header(), &HEADER);
    let mut dense: Vec<Vec<f32>> = format.layout().tensors().iter().map(|t| vec![0.0; t.len()]).collect();
    let mut parts = Vec::new();
    while let Some(section) = reader.next_section().unwrap() {
        parts.push(section.parts().collect::<Vec<_>>());
        section.for_each_sent(|tensor, position, value| dense[tensor][position] = value);
    }
    assert_eq!(reader.digest(), payload.digest());
    assert_eq!(parts, spec::sections(format));
    assert_eq!(bits(&dense), bits(&payload.to_dense()));
}

/// The indices to send of one chunk, by sorting.
fn selected(codec: &Codec, values: &[f32]) -> Vec<usize> {
    let by_magnitude = |a: &usize, b: &usize| values[*b].abs().total_cmp(&values[*a].abs()).then(a.cmp(b));
    let mut order: Vec<usize> = (0..values.len()).collect();
    match codec.select {
        Select::TopK { .. } => {
            order.sort_by(by_magnitude);
            order.truncate(codec.chunk_k(values.len()));
            order.sort_unstable();
            order
        }
        Select::GroupMax { group } => {
            order.chunks(group.elements()).map(|group| *group.iter().min_by(|a, b| by_magnitude(a, b)).unwrap()).collect()
        }
    }
}

/// The lowest indices that can be sent.
fn lowest(codec: &Codec, elements: usize) -> Vec<usize> {
    match codec.select {
        Select::TopK { .. } => (0..codec.chunk_k(elements)).collect(),
        Select::GroupMax { group } => (0..elements).step_by(group.elements()).collect(),
    }
}

/// Every chunk names the elements that its codec selects, with the value nearest to each.
fn check_selection(payload: &Payload, wanted: &[Vec<f32>]) {
    for (tensor, (codec, wanted)) in payload.format().codecs().iter().zip(wanted).enumerate() {
        for number in 0..payload.format().grid(tensor).chunks() {
            let coded = payload.chunk(tensor, number);
            let values: Vec<f32> = (0..coded.chunk.elements()).map(|index| wanted[coded.chunk.position(index)]).collect();
            let sent = coded.values();
            let is_zero = coded.scale == 0 && codec.quantizer != Quantizer::Reference;
            let expected = if is_zero { lowest(codec, values.len()) } else { selected(codec, &values) };
            assert!(sent.iter().map(|&(index, _)| index).eq(expected), "{codec}: tensor {tensor} chunk {number}");
            for &(index, value) in &sent {
                assert!(is_nearest(&coded, values[index], value), "{codec}: {} became {value}", values[index]);
            }
        }
        let all: Vec<_> = payload.values(tensor).collect();
        assert_eq!(all.len(), (0..payload.format().grid(tensor).chunks()).map(|c| payload.chunk(tensor, c).values().len()).sum::<usize>());
    }
}

/// Whether a value was quantized as its chunk's scale code says; the reference has tests of its own.
fn is_nearest(coded: &CodedChunk<'_>, value: f32, sent: f32) -> bool {
    let scale = usize::from(coded.scale);
    let magnitude = match coded.codec.quantizer {
        Quantizer::Reference => return true,
        Quantizer::Sign1 => SIGN1[scale][0],
        Quantizer::Sign2 => {
            let [low, high, ..] = SIGN2[scale];
            if value.abs() >= (low + high) / 2.0 { high } else { low }
        }
    };
    sent == if value < 0.0 { -magnitude } else { magnitude }
}

/// What was sent is gone from the error feedback, to the bit, and comes back when it is absorbed.
fn check_feedback(payload: &Payload, wanted: &[Vec<f32>], feedback: &ErrorFeedback) {
    let dense = payload.to_dense();
    let mut absorbed = feedback.clone();
    absorbed.absorb(payload).unwrap();
    for tensor in 0..wanted.len() {
        let after = feedback.tensors()[tensor].iter().zip(&absorbed.tensors()[tensor]);
        for (i, ((&a, &v), (&e, &back))) in wanted[tensor].iter().zip(&dense[tensor]).zip(after).enumerate() {
            assert_eq!(e.to_bits(), (a - v).to_bits(), "tensor {tensor} element {i}");
            assert_eq!(back.to_bits(), if v == 0.0 { e.to_bits() } else { (e + v).to_bits() });
            let is_exact = (0.5..=2.0).contains(&(a / v));
            assert!(!is_exact || back == a);
        }
    }
}

/// A round of random values times `scale`.
fn check_random_round(format: &Arc<Format>, seed: u64, scale: f32) {
    let mut random = Random(seed);
    let mut draw = || -> Vec<Vec<f32>> {
        let tensors = random.tensors(format.layout()).into_iter();
        tensors.map(|t| t.into_iter().map(|v| v * scale).collect()).collect()
    };
    check_round(format, &draw(), &draw());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn payloads_say_what_was_selected_and_the_rest_stays(
        rows in 1usize..140, cols in 1usize..140, run in 1usize..9000, k in prop_oneof![1u16..=200, 1u16..=4096],
        picks in [0usize..18, 0usize..18, 0usize..18], seed: u64, exponent in -30i32..12,
    ) {
        let shapes: [&[usize]; 3] = [&[rows, cols], &[run], &[2, cols.div_ceil(2), rows]];
        check_random_round(&mixed(&shapes, &picks.map(|pick| codecs(k)[pick])), seed, 2f32.powi(exponent));
    }
}

/// One of 4096: the widest low part that Elias-Fano codes have.
#[test]
fn single_indices_of_full_chunks() {
    for (seed, codec) in codecs(1).into_iter().enumerate() {
        check_random_round(&uniform(&[&[64, 128], &[1]], codec), seed as u64, 1.0);
    }
}

#[test]
fn every_codec_keeps_its_word() {
    for (seed, format) in formats(300).iter().chain(&formats(64)).enumerate() {
        check_random_round(format, seed as u64, 0.01);
    }
}

/// Bands of one small chunk, so that a section ends inside the tensor, and two bands of more chunks than a section has otherwise.
#[test]
fn payloads_of_several_sections() {
    let shapes: [&[usize]; 4] = [&[10], &[2 * 1100, 1], &[3, 9], &[2, 64 * 1030]];
    let narrow = |codec: &Codec| Codec { select: codec.select, quantizer: Quantizer::Reference };
    for (seed, codec) in codecs(200).iter().enumerate() {
        // The reference's chunks of 2203 elements, a prime, are single elements.
        let format = mixed(&[shapes[0], &[2203], shapes[2], shapes[3]], &[*codec, narrow(codec), *codec, *codec]);
        assert!(format.sections() >= 4, "{}", format.sections());
        check_random_round(&format, seed as u64, 1.0);
    }
    let format = uniform(&[&[64 * 1100, 1]], codec(64));
    assert_eq!((format.sections(), format.sections_of(0)), (2, 0..2));
    check_random_round(&format, 9, 1.0);
}

/// Small chunks of every codec; k = 800 sends six of the first and 58 of the second.
fn small(codec: Codec) -> Arc<Format> {
    uniform(&[&[5, 7], &[300]], codec)
}

/// Flips a bit or replaces, removes or adds a byte of a section.
fn edit(random: &mut Random, body: &mut Vec<u8>) {
    let at = random.below(body.len());
    match random.below(8) {
        0 => body.truncate(body.len() - 1),
        1 => body.push(random.bits() as u8),
        2..5 => body[at] = random.bits() as u8,
        _ => body[at] ^= 1 << random.below(8),
    }
}

#[test]
fn accepted_bytes_encode_to_themselves() {
    let formats = codecs(800).into_iter().map(small).chain([mixed(&[&[5, 7], &[300]], &[codecs(800)[6], codecs(64)[13]])]);
    for format in formats {
        let (mut random, mut accepted) = (Random(5), 0);
        for seed in 0..40 {
            let frames = Frames::split(&payload_bytes(&format, seed));
            for _ in 0..40 {
                let mut edited = frames.clone();
                (0..=random.below(2)).for_each(|_| edit(&mut random, &mut edited.bodies[0]));
                let bytes = edited.join();
                if let Ok(payload) = Payload::parse(&bytes, &format) {
                    check_bytes(&payload, &bytes);
                    accepted += usize::from(edited.bodies != frames.bodies);
                }
            }
        }
        assert!((50..1500).contains(&accepted), "{:?}: {accepted}", format.codecs());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), pick in 0usize..18) {
        let format = small(codecs(800)[pick]);
        prop_assert!(Payload::parse(&bytes, &format).is_err());
        prop_assert!(Payload::read(&bytes[..], &format).is_err());
        let framed = Frames { header: Frames::split(&payload_bytes(&format, 1)).header, bodies: vec![bytes] }.join();
        if let Ok(payload) = Payload::parse(&framed, &format) {
            check_bytes(&payload, &framed);
        }
    }
}

#[test]
fn a_zero_chunk_has_one_encoding() {
    for codec in codecs(64).into_iter().filter(|codec| codec.quantizer != Quantizer::Reference) {
        let format = uniform(&[&[64, 64]], codec);
        let gradient = vec![vec![1e-9; 4096]];
        let mut feedback = ErrorFeedback::zeros(format.layout());
        let bytes = encode(&format, &HEADER, &mut feedback, &gradient, BETA).unwrap();
        assert_eq!(feedback.tensors(), gradient);
        let payload = Payload::parse(&bytes, &format).unwrap();
        assert!(payload.values(0).eq(lowest(&codec, 4096).into_iter().map(|i| (0, i, 0.0))), "{codec}");
    }
}

#[test]
fn sparse_chunks_send_no_noise() {
    for indices in [Indices::Packed12, Indices::EliasFano, Indices::Golomb] {
        let format = uniform(&[&[64, 64]], Codec::top_k(64, Quantizer::Sign2, indices));
        let mut gradient = vec![vec![0.0; 4096]];
        (gradient[0][100], gradient[0][4000]) = (0.5, -0.5);
        let bytes = encode(&format, &HEADER, &mut ErrorFeedback::zeros(format.layout()), &gradient, BETA).unwrap();
        let dense = Payload::parse(&bytes, &format).unwrap().to_dense();
        let sent: Vec<usize> = (0..4096).filter(|&i| dense[0][i] != 0.0).collect();
        assert_eq!(sent, [100, 4000]);
        assert!(dense[0][100] == -dense[0][4000] && (0.3..0.7).contains(&dense[0][100]));
    }
}

#[test]
fn huge_values_are_sent_capped() {
    for (quantizer, range) in [(Quantizer::Sign2, 16.0..49.0), (Quantizer::Sign1, 16.0..49.0), (Quantizer::Reference, 64.0..64.1)] {
        let format = uniform(&[&[2]], Codec::top_k(4096, quantizer, Indices::Packed12));
        let mut feedback = ErrorFeedback::zeros(format.layout());
        let bytes = encode(&format, &HEADER, &mut feedback, &[vec![3e38, -3e38]], BETA).unwrap();
        let dense = Payload::parse(&bytes, &format).unwrap().to_dense();
        assert!(dense[0][0] == -dense[0][1] && range.contains(&dense[0][0]), "{quantizer:?} {dense:?}");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let format = uniform(&[&[64 * 1100, 1], &[300, 40]], Codec::top_k(500, Quantizer::Sign2, Indices::Golomb));
    let encoded = [1, 8].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| payload_bytes(&format, 3))
    });
    assert!(encoded[0] == encoded[1]);
}

#[test]
fn absorbing_a_payload_for_other_tensors_is_refused() {
    let mut feedback = ErrorFeedback::zeros(&layout(&[&[8]]));
    let other = payload(&uniform(&[&[9]], codec(64)), 1);
    assert!(matches!(feedback.absorb(&other), Err(LayoutError::Data { expected: 9, found: 8, .. })));
}

#[test]
fn the_shapes_of_the_tests_need_every_kind_of_chunk() {
    let format = uniform(&SHAPES, codec(64));
    let chunk = |tensor: usize, number| format.grid(tensor).chunk(number);
    assert_eq!((chunk(0, 3).height, chunk(0, 3).width, chunk(2, 1).elements()), (6, 1, 904));
    assert!(mix().codecs().iter().all(|a| mix().codecs().iter().filter(|b| a == *b).count() == 1));
    let group = Codec::group_max(Group::G32, Quantizer::Sign1);
    assert_eq!(group.chunk_k(10), 1);
}

/// A tensor is read from the footer and its own sections alone.
#[test]
fn a_tensor_is_read_alone() {
    for indices in [Indices::Golomb, Indices::EliasFano] {
        let format = uniform(&[&[70, 65], &[64 * 1030, 64], &[300]], Codec::top_k(4, Quantizer::Sign1, indices));
        let bytes = payload_bytes(&format, 5);
        let dense = Payload::parse(&bytes, &format).unwrap().to_dense();
        let footer = &bytes[bytes.len() - footer_len(&format)..];
        let ranges = section_ranges(&format, footer).unwrap();
        assert!(format.sections_of(1).len() > 1);
        for (tensor, expected) in dense.iter().enumerate() {
            let mut found = vec![0.0; expected.len()];
            for number in format.sections_of(tensor) {
                let range = ranges[number].start as usize..ranges[number].end as usize;
                let section = Section::parse(&bytes[range.clone()], &format, number).unwrap();
                section.for_each_sent(|t, position, value| {
                    if t == tensor {
                        found[position] = value;
                    }
                });
                let refusal = |range: std::ops::Range<usize>| Section::parse(&bytes[range], &format, number).unwrap_err();
                assert!(matches!(refusal(range.start..range.end - 1), PayloadError::Truncated { .. }));
                assert!(matches!(refusal(range.start..range.end + 1), PayloadError::Trailing { .. }));
                let mut damaged = bytes[range.clone()].to_vec();
                damaged[40] ^= 1;
                assert_eq!(Section::parse(&damaged, &format, number).unwrap_err(), PayloadError::SectionHash { section: number });
            }
            assert_eq!(&found, expected);
        }
        assert_eq!(section_ranges(&format, &footer[1..]), Err(PayloadError::Footer));
        assert_eq!(section_ranges(&format, &footer[..3]), Err(PayloadError::Footer));
        let mut long = footer.to_vec();
        long[3] = 0xFF;
        assert!(matches!(section_ranges(&format, &long), Err(PayloadError::SectionLength { section: 0, .. })));
        let mut total = footer.to_vec();
        total[footer.len() - 40] ^= 1;
        assert_eq!(section_ranges(&format, &total), Err(PayloadError::Footer));
    }
}

/// One tile of 32 elements of which three are sent.
#[test]
fn the_worked_example_of_the_readme_is_true() {
    let tensor = compression::TensorSpec::new("w", &[4, 8]);
    let layout = Arc::new(compression::Layout::new(vec![tensor]).unwrap());
    let format = Arc::new(Format::uniform(layout.clone(), Codec::top_k(384, Quantizer::Sign2, Indices::Golomb)).unwrap());
    let header = Header { run: [0x11; 32], round: 5, hotkey: [0x22; 32], base_root: [0x33; 32] };
    let mut gradient = vec![vec![0.01; 32]];
    (gradient[0][3], gradient[0][6], gradient[0][29]) = (0.5, -0.625, 0.75);
    let bytes = encode(&format, &header, &mut ErrorFeedback::zeros(&layout), &gradient, BETA).unwrap();
    let payload = Payload::parse(&bytes, &format).unwrap();
    assert_eq!(payload.values(0).collect::<Vec<_>>(), [(0, 3, 0.578125), (0, 6, -0.578125), (0, 29, 0.7578125)]);
    let readme = include_str!("../README.md");
    let example = readme.split("```").nth(1).unwrap();
    let listed: String = example.lines().filter_map(|line| line.split_once(" | ")).map(|(hex, _)| hex).collect();
    assert_eq!(listed.split_whitespace().collect::<String>(), common::hex(&bytes));
    assert!(readme.contains(&common::hex(&payload.digest())), "{}", common::hex(&payload.digest()));
}
