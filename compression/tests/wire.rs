//! What payloads and bundles say, and every way in which bytes are refused.
#![allow(clippy::unwrap_used)]

mod common;

use common::{HEADER, Random, codec, hex, layout, payload, payload_bytes, reseal};
use compression::{
    BundleError, Codec, EncodeError, ErrorFeedback, Header, Layout, LayoutError, Payload, PayloadError, TensorSpec, bundle_len, encode,
    encode_bundle, parse_bundle, payload_len,
};
use proptest::prelude::*;

/// Bytes of a payload's sections, written from what its public interface says.
fn rewrite(payload: &Payload, header: &[u8]) -> Vec<u8> {
    let bit_stream = |values: Vec<u16>, width: usize| {
        let mut bytes = vec![0u8; (values.len() * width).div_ceil(8)];
        let set = |j: usize, bit: usize| values[j] >> bit & 1 == 1;
        let ones = (0..values.len()).flat_map(|j| (0..width).filter(move |&bit| set(j, bit)).map(move |bit| j * width + bit));
        ones.for_each(|at| bytes[at / 8] |= 1 << (at % 8));
        bytes
    };
    let mut bytes = header.to_vec();
    for tensor in 0..payload.layout().tensors().len() {
        let chunks: Vec<_> = (0..payload.chunks(tensor)).map(|i| payload.chunk(tensor, i)).collect();
        bytes.extend(chunks.iter().map(|c| c.scale));
        bytes.extend(chunks.iter().flat_map(|c| bit_stream(c.codes().map(u16::from).collect(), 2)));
        bytes.extend(chunks.iter().flat_map(|c| bit_stream(c.indices().collect(), 12)));
    }
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn payloads_decode_to_what_was_sent_and_the_rest_stays(
        rows in 1usize..140, cols in 1usize..140, run in 1usize..9000, k in 1u16..=200, seed: u64, exponent in -30i32..12,
    ) {
        let (layout, codec) = (layout(&[&[rows, cols], &[run]]), codec(k));
        let mut random = Random(seed);
        let scale = 2f32.powi(exponent);
        let mut draw = || -> Vec<Vec<f32>> {
            random.tensors(&layout).into_iter().map(|t| t.into_iter().map(|v| v * scale).collect()).collect()
        };
        let (before, gradient) = (draw(), draw());
        let mut feedback = ErrorFeedback::from_tensors(&layout, before.clone()).unwrap();
        let bytes = encode(&codec, &layout, &HEADER, &mut feedback, &gradient, 0.95).unwrap();
        prop_assert_eq!(bytes.len() as u64, payload_len(&layout, &codec));
        let payload = Payload::parse(bytes.clone(), &layout, &codec).unwrap();
        prop_assert_eq!(payload.header(), &HEADER);
        prop_assert_eq!(rewrite(&payload, &bytes[..160]), bytes);
        let decoded = payload.to_dense();
        for (t, e) in feedback.tensors().iter().enumerate() {
            for (i, &after) in e.iter().enumerate() {
                let a = 0.95 * before[t][i] + gradient[t][i];
                prop_assert_eq!(after.to_bits(), (a - decoded[t][i]).to_bits(), "tensor {} element {}", t, i);
                let exact = decoded[t][i] == 0.0 || (0.5..=2.0).contains(&(a / decoded[t][i]));
                prop_assert!(!exact || after + decoded[t][i] == a);
            }
        }
        let mut absorbed = feedback.clone();
        absorbed.absorb(&payload).unwrap();
        for (t, e) in absorbed.tensors().iter().enumerate() {
            prop_assert!(e.iter().enumerate().all(|(i, &e)| e == feedback.tensors()[t][i] + decoded[t][i]));
        }
    }

    #[test]
    fn accepted_bytes_encode_to_themselves(seed: u64, edits in proptest::collection::vec((0usize..400, any::<u8>()), 0..3)) {
        let (layout, codec) = (layout(&[&[5, 7], &[300]]), codec(800));
        let mut bytes = payload_bytes(&layout, &codec, seed);
        let content = bytes.len() - 32;
        edits.iter().for_each(|&(at, byte)| bytes[160 + at % (content - 160)] = byte);
        reseal(&mut bytes);
        if let Ok(payload) = Payload::parse(bytes.clone(), &layout, &codec) {
            prop_assert_eq!(rewrite(&payload, &bytes[..160]), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), count: u16) {
        let layout = layout(&[&[3]]);
        prop_assert!(Payload::parse(bytes.clone(), &layout, &codec(64)).is_err());
        let prefix = [b"TRBB\x01\x00".as_slice(), &count.to_le_bytes(), &bytes].concat();
        prop_assert!(parse_bundle(&prefix, &layout, &codec(64), 20).is_err());
    }
}

/// One tensor of one chunk of 6 elements with 3 selected: header 160, scale, codes (6 bits), indices (36 bits), hash 32.
fn small() -> (std::sync::Arc<Layout>, Codec, Vec<u8>) {
    let layout = std::sync::Arc::new(Layout::new(vec![TensorSpec::new("w", &[2, 3])]).unwrap());
    let codec = codec(2048);
    let header = Header { run: [0x11; 32], round: 5, hotkey: [0x22; 32], base_root: [0x33; 32] };
    let gradient = vec![vec![0.5, -0.01, 0.0, -0.625, 0.02, 0.75]];
    let bytes = encode(&codec, &layout, &header, &mut ErrorFeedback::zeros(&layout), &gradient, 0.95).unwrap();
    (layout, codec, bytes)
}

#[test]
fn the_worked_example_of_the_readme_is_true() {
    let (layout, codec, bytes) = small();
    let payload = Payload::parse(bytes.clone(), &layout, &codec).unwrap();
    println!("{}\n{:?}\n{}", hex(&bytes), payload.values(0).collect::<Vec<_>>(), hex(&payload.digest()));
    assert_eq!(bytes.len(), 199);
    let example = include_str!("../README.md").split("```").nth(1).unwrap();
    let listed: String = example.lines().filter_map(|line| line.split_once(" | ")).map(|(hex, _)| hex).collect();
    assert_eq!(listed.split_whitespace().collect::<String>(), hex(&bytes));
}

#[test]
fn truncation_at_every_byte_is_refused() {
    let (layout, codec, bytes) = small();
    for length in 0..bytes.len() {
        let refusal = Payload::parse(bytes[..length].to_vec(), &layout, &codec).unwrap_err();
        assert_eq!(refusal, PayloadError::Truncated { expected: 199, found: length as u64 });
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let (layout, codec, bytes) = small();
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Payload::parse(flipped, &layout, &codec).is_err(), "bit {bit}");
    }
}

/// The refusal of the small payload after an edit and a new closing hash.
fn refusal(edit: impl FnOnce(&mut Vec<u8>)) -> PayloadError {
    let (layout, codec, mut bytes) = small();
    edit(&mut bytes);
    reseal(&mut bytes);
    Payload::parse(bytes, &layout, &codec).unwrap_err()
}

#[test]
fn header_refusals() {
    assert_eq!(refusal(|b| b[0] = b'X'), PayloadError::Magic);
    assert_eq!(refusal(|b| b[4] = 2), PayloadError::Version(2));
    assert_eq!(refusal(|b| b[8] = 9), PayloadError::Quantizer(9));
    assert_eq!(refusal(|b| b[9] = 0), PayloadError::Indices(0));
    assert_eq!(refusal(|b| b[6..8].fill(0)), PayloadError::K(0));
    assert_eq!(refusal(|b| b[6] = 1), PayloadError::Codec { expected: codec(2048), found: codec(2049) });
    assert_eq!(refusal(|b| b[11] = 1), PayloadError::Reserved);
    assert_eq!(refusal(|b| b[12] = 2), PayloadError::Tensors { expected: 1, found: 2 });
    assert_eq!(refusal(|b| b[96] ^= 1), PayloadError::Layout);
    assert_eq!(refusal(|b| b[16] = 200), PayloadError::Length { expected: 199, found: 200 });
    assert_eq!(refusal(|b| b.push(0)), PayloadError::Trailing { expected: 199, found: 200 });
}

#[test]
fn a_wrong_hash_is_refused() {
    let (layout, codec, mut bytes) = small();
    bytes[160] ^= 1;
    assert_eq!(Payload::parse(bytes, &layout, &codec).unwrap_err(), PayloadError::Hash);
}

#[test]
fn content_refusals() {
    let (tensor, chunk) = (0, 0);
    assert_eq!(refusal(|b| b[160] = 251), PayloadError::Scale { tensor, chunk, code: 251 });
    assert_eq!(refusal(|b| b[160] = 0), PayloadError::ZeroChunk { tensor, chunk });
    assert_eq!(refusal(|b| b[160..162].fill(0)), PayloadError::ZeroChunk { tensor, chunk });
    // Scale code 181 has a lower magnitude of zero; the second code becomes 2, "minus low".
    assert_eq!(refusal(|b| (b[160], b[161]) = (181, 0b00_10_01)), PayloadError::NegativeZero { tensor, chunk });
    assert_eq!(refusal(|b| b[161] |= 0x40), PayloadError::Padding { tensor, chunk });
    assert_eq!(refusal(|b| b[166] |= 0x80), PayloadError::Padding { tensor, chunk });
    let order = PayloadError::Order { tensor, chunk };
    assert_eq!(refusal(|b| b[162..167].copy_from_slice(&[3, 0, 0, 5, 0])), order);
    assert_eq!(refusal(|b| b[162..167].copy_from_slice(&[3, 0x30, 0, 5, 0])), order);
    let index = PayloadError::Index { tensor, chunk, index: 6, elements: 6 };
    assert_eq!(refusal(|b| b[162..167].copy_from_slice(&[0, 0x30, 0, 6, 0])), index);
}

#[test]
fn a_zero_chunk_has_one_encoding() {
    let (layout, codec) = (layout(&[&[64, 64]]), codec(64));
    let gradient = vec![vec![1e-9; 4096]];
    let mut feedback = ErrorFeedback::zeros(&layout);
    let bytes = encode(&codec, &layout, &HEADER, &mut feedback, &gradient, 0.95).unwrap();
    assert_eq!(feedback.tensors(), gradient);
    let payload = Payload::parse(bytes, &layout, &codec).unwrap();
    assert!(payload.values(0).eq((0..64).map(|i| (0, i, 0.0))));
}

#[test]
fn sparse_chunks_send_no_noise() {
    let (layout, codec) = (layout(&[&[64, 64]]), codec(64));
    let mut gradient = vec![vec![0.0; 4096]];
    (gradient[0][100], gradient[0][4000]) = (0.5, -0.5);
    let bytes = encode(&codec, &layout, &HEADER, &mut ErrorFeedback::zeros(&layout), &gradient, 0.95).unwrap();
    let dense = Payload::parse(bytes, &layout, &codec).unwrap().to_dense();
    let sent: Vec<usize> = (0..4096).filter(|&i| dense[0][i] != 0.0).collect();
    assert_eq!(sent, [100, 4000]);
    assert!(dense[0][100] == -dense[0][4000] && (0.3..0.7).contains(&dense[0][100]));
}

#[test]
fn encoding_refusals_leave_the_error_feedback() {
    let layout = layout(&[&[9], &[70, 70]]);
    let before = Random(1).tensors(&layout);
    let mut feedback = ErrorFeedback::from_tensors(&layout, before.clone()).unwrap();
    let mut refuse = |codec: Codec, gradient: &[Vec<f32>]| {
        let refusal = encode(&codec, &layout, &HEADER, &mut feedback, gradient, 0.95).unwrap_err();
        assert_eq!(feedback.tensors(), before);
        refusal
    };
    let good = Random(2).tensors(&layout);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut gradient = good.clone();
        gradient[1][4899] = bad;
        assert_eq!(refuse(codec(64), &gradient), EncodeError::NonFinite("t1".into()));
    }
    assert_eq!(refuse(codec(0), &good), EncodeError::K(0));
    assert_eq!(refuse(codec(4097), &good), EncodeError::K(4097));
    assert_eq!(refuse(codec(64), &good[..1]), EncodeError::Layout(LayoutError::Count { expected: 2, found: 1 }));
}

#[test]
fn huge_values_are_sent_capped() {
    let layout = layout(&[&[2]]);
    let mut feedback = ErrorFeedback::zeros(&layout);
    let bytes = encode(&codec(4096), &layout, &HEADER, &mut feedback, &[vec![3e38, -3e38]], 0.95).unwrap();
    let dense = Payload::parse(bytes, &layout, &codec(4096)).unwrap().to_dense();
    assert!(dense[0][0] == -dense[0][1] && (16.0..49.0).contains(&dense[0][0]), "{dense:?}");
}

#[test]
fn absorbing_a_payload_for_other_tensors_is_refused() {
    let mut feedback = ErrorFeedback::zeros(&layout(&[&[8]]));
    let other = payload(&layout(&[&[9]]), &codec(64), 1);
    assert!(matches!(feedback.absorb(&other), Err(LayoutError::Data { expected: 9, found: 8, .. })));
}

#[test]
fn bundles_give_back_the_same_payloads_in_fewer_bytes() {
    let (layout, codec) = (layout(&[&[70, 70], &[10]]), codec(64));
    let payloads: Vec<Payload> = (0..3).map(|seed| payload(&layout, &codec, seed)).collect();
    for count in 1..=3 {
        let chosen: Vec<&Payload> = payloads[..count].iter().collect();
        let bundle = encode_bundle(&chosen).unwrap();
        assert_eq!(bundle.len() as u64, bundle_len(&layout, &codec, count));
        assert!((bundle.len() as u64) < count as u64 * payload_len(&layout, &codec));
        let parsed = parse_bundle(&bundle, &layout, &codec, 3).unwrap();
        assert!(parsed.iter().map(|p| (p.bytes(), p.digest())).eq(chosen.iter().map(|p| (p.bytes(), p.digest()))));
    }
}

#[test]
fn bundle_refusals() {
    let (layout, codec) = (layout(&[&[70, 70]]), codec(64));
    let (a, b) = (payload(&layout, &codec, 1), payload(&layout, &codec, 2));
    assert_eq!(encode_bundle(&[]).unwrap_err(), BundleError::Empty);
    assert_eq!(encode_bundle(&vec![&a; 65536]).unwrap_err(), BundleError::TooMany { allowed: 65535, found: 65536 });
    let mut other_round = b.bytes().to_vec();
    other_round[24] ^= 1;
    reseal(&mut other_round);
    let other_round = Payload::parse(other_round, &layout, &codec).unwrap();
    assert_eq!(encode_bundle(&[&a, &other_round]).unwrap_err(), BundleError::Mixed(1));

    let bundle = encode_bundle(&[&a, &b]).unwrap();
    let refuse = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bundle.clone();
        edit(&mut bytes);
        parse_bundle(&bytes, &layout, &codec, 2).unwrap_err()
    };
    assert_eq!(refuse(&|b| b[3] = 0), BundleError::Magic);
    assert_eq!(refuse(&|b| b[4] = 3), BundleError::Version(3));
    assert_eq!(refuse(&|b| b[6] = 0), BundleError::Empty);
    assert_eq!(refuse(&|b| b[6] = 3), BundleError::TooMany { allowed: 2, found: 3 });
    let scale_of_b = bundle_len(&layout, &codec, 1) as usize + 32;
    let scale = PayloadError::Scale { tensor: 0, chunk: 0, code: 255 };
    assert_eq!(refuse(&|b| b[scale_of_b] = 255), BundleError::Payload { index: 1, source: scale });
    for length in 0..bundle.len() {
        assert!(matches!(refuse(&|b| b.truncate(length)), BundleError::Length { .. }), "{length}");
    }
    assert!(matches!(refuse(&|b| b.push(0)), BundleError::Length { .. }));
}
