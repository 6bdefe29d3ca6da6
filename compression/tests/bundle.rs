//! A record's payloads as one object.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::frames::{Frames, edited};
use common::{BETA, HEADER, Random, codec, formats, mixed, payload, payload_bytes, uniform};
use compression::{
    BundleError, ChunkFault, Codec, ErrorFeedback, Format, Group, IndexFault, Indices, Payload, PayloadError, Quantizer, bundle_len,
    encode, encode_bundle, parse_bundle,
};
use proptest::prelude::*;

/// All elements are hits: the largest differences there are.
#[test]
fn payloads_that_send_everything_make_a_bundle() {
    for indices in [Indices::Packed12, Indices::EliasFano, Indices::Golomb] {
        let format = uniform(&[&[64, 64], &[64, 64]], Codec::top_k(4096, Quantizer::Sign1, indices));
        let (a, b) = (payload(&format, 1), payload(&format, 2));
        let parsed = parse_bundle(&encode_bundle(&[&a, &b]).unwrap(), &format, 2).unwrap();
        assert!(parsed.iter().map(Payload::digest).eq([a.digest(), b.digest()]));
    }
}

#[test]
fn bundles_give_back_the_same_payloads_in_fewer_bytes() {
    for format in formats(100) {
        let payloads: Vec<Payload> = (0..3).map(|seed| payload(&format, seed)).collect();
        for count in 1..=3 {
            let chosen: Vec<&Payload> = payloads[..count].iter().collect();
            let bundle = encode_bundle(&chosen).unwrap();
            assert!(bundle.len() as u64 <= bundle_len(&format, count));
            assert!(bundle.len() < chosen.iter().map(|payload| payload.to_bytes().len()).sum());
            let parsed = parse_bundle(&bundle, &format, 3).unwrap();
            assert!(parsed.iter().map(|p| (p.to_bytes(), p.digest())).eq(chosen.iter().map(|p| (p.to_bytes(), p.digest()))));
        }
    }
}

/// Two payloads in a bundle.
fn pair() -> (Arc<Format>, Payload, Payload) {
    let format = uniform(&[&[70, 70]], codec(64));
    let (a, b) = (payload(&format, 1), payload(&format, 2));
    (format, a, b)
}

#[test]
fn payloads_that_make_no_bundle() {
    let (format, a, _) = pair();
    assert_eq!(encode_bundle(&[]).unwrap_err(), BundleError::Empty);
    assert_eq!(encode_bundle(&vec![&a; 65536]).unwrap_err(), BundleError::TooMany { allowed: 65535, found: 65536 });
    // Round, run and base root.
    for at in [16, 24, 56] {
        let other = edited(&payload_bytes(&format, 2), |frames| frames.header[at] ^= 1);
        let other = Payload::parse(&other, &format).unwrap();
        assert_eq!(encode_bundle(&[&a, &other]).unwrap_err(), BundleError::Mixed(1));
    }
    let other = payload(&uniform(&[&[70, 70]], codec(65)), 1);
    assert_eq!(encode_bundle(&[&a, &a, &other]).unwrap_err(), BundleError::Mixed(2));
}

#[test]
fn bytes_that_are_no_bundle() {
    let (format, a, b) = pair();
    let bundle = encode_bundle(&[&a, &b]).unwrap();
    let refuse = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bundle.clone();
        edit(&mut bytes);
        parse_bundle(&bytes, &format, 2).unwrap_err()
    };
    assert_eq!(refuse(&|b| b[3] = 0), BundleError::Magic);
    assert_eq!(refuse(&|b| b[4] = 3), BundleError::Version(3));
    assert_eq!(refuse(&|b| b[6] = 0), BundleError::Empty);
    assert_eq!(refuse(&|b| b[6] = 3), BundleError::TooMany { allowed: 2, found: 3 });
    assert_eq!(refuse(&|b| b[8] = 0), BundleError::Payload { index: 0, source: PayloadError::Magic });
    // Behind a payload's hotkey and its section's length.
    let scale_of_b = bundle_len(&format, 1) as usize + 32 + 4;
    let source = PayloadError::Chunk { tensor: 0, chunk: 0, fault: ChunkFault::Scale(255) };
    assert_eq!(refuse(&|b| b[scale_of_b] = 255), BundleError::Payload { index: 1, source });
    for length in 0..bundle.len() {
        assert_eq!(refuse(&|b| b.truncate(length)), BundleError::Truncated { found: length as u64 });
    }
    assert_eq!(refuse(&|b| b.push(0)), BundleError::Trailing { expected: bundle.len() as u64 });
}

/// Payloads of pseudo-gradients that have `eighths` eighths of their elements in common.
fn overlapping(format: &Arc<Format>, count: u64, eighths: usize, seed: u64) -> Vec<Payload> {
    let common = Random(seed).tensors(format.layout());
    let payload = |number| {
        let mut random = Random(seed ^ number << 32);
        let mut gradient = common.clone();
        for value in gradient.iter_mut().flatten() {
            let own = random.value();
            *value = if random.below(8) < eighths { *value } else { own };
        }
        let bytes = encode(format, &HEADER, &mut ErrorFeedback::zeros(format.layout()), &gradient, BETA).unwrap();
        Payload::parse(&bytes, format).unwrap()
    };
    (1..=count).map(payload).collect()
}

/// The bytes of a bundle in which every body is as in its payload.
fn plain_len(payloads: &[Payload]) -> usize {
    let frames: Vec<Frames> = payloads.iter().map(|payload| Frames::split(&payload.to_bytes())).collect();
    let bodies: usize = frames.iter().flat_map(|frames| &frames.bodies).map(|body| 4 + body.len()).sum();
    8 + frames[0].header.len() - 32 + 32 * payloads.len() + bodies
}

/// The bundle of these payloads, after a check that it holds them in no more bytes than plain bodies take.
fn checked(format: &Arc<Format>, payloads: &[Payload]) -> Vec<u8> {
    let bundle = encode_bundle(&payloads.iter().collect::<Vec<_>>()).unwrap();
    assert!(bundle.len() <= plain_len(payloads));
    let parsed = parse_bundle(&bundle, format, payloads.len()).unwrap();
    assert!(parsed.iter().map(Payload::to_bytes).eq(payloads.iter().map(Payload::to_bytes)));
    assert!(parsed.iter().map(Payload::digest).eq(payloads.iter().map(Payload::digest)));
    bundle
}

#[test]
fn payloads_that_share_indices_make_a_smaller_bundle() {
    for indices in [Indices::Packed12, Indices::EliasFano, Indices::Golomb] {
        for quantizer in [Quantizer::Sign2, Quantizer::Sign1, Quantizer::Reference] {
            let format = uniform(&[&[192, 128]], Codec::top_k(64, quantizer, indices));
            let size = |eighths| {
                let payloads = overlapping(&format, 4, eighths, 5);
                (checked(&format, &payloads).len() as f64, plain_len(&payloads) as f64)
            };
            let (equal, like, independent) = (size(8), size(7), size(0));
            assert!(equal.0 < 0.6 * equal.1, "{indices:?} {quantizer:?}: {equal:?}");
            assert!(like.0 < 0.75 * like.1, "{indices:?} {quantizer:?}: {like:?}");
            assert!(like.0 / like.1 < independent.0 / independent.1);
        }
    }
}

#[test]
fn group_maxima_have_no_joint_form_to_gain_from() {
    let format = uniform(&[&[70, 70]], Codec::group_max(Group::G32, Quantizer::Sign2));
    let payloads = overlapping(&format, 3, 8, 5);
    assert_eq!(checked(&format, &payloads).len(), plain_len(&payloads));
}

/// The bit of a length that says that the body is in joint form.
const JOINT: u32 = 1 << 31;

/// A bundle in pieces.
#[derive(Clone)]
struct Pieces {
    head: Vec<u8>,
    /// Form and bytes of each body.
    bodies: Vec<(u32, Vec<u8>)>,
}

impl Pieces {
    fn split(bundle: &[u8], payloads: &[Payload]) -> Self {
        let header = Frames::split(&payloads[0].to_bytes()).header;
        let (head, mut rest) = bundle.split_at(8 + header.len() - 32 + 32 * payloads.len());
        let mut bodies = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = u32::from_le_bytes(*length);
            let (body, after) = after.split_at((length & !JOINT) as usize);
            bodies.push((length & JOINT, body.to_vec()));
            rest = after;
        }
        Self { head: head.to_vec(), bodies }
    }

    fn join(&self) -> Vec<u8> {
        let bodies = self.bodies.iter().map(|(form, body)| [&(form | body.len() as u32).to_le_bytes(), &body[..]].concat());
        bodies.fold(self.head.clone(), |bundle, body| [bundle, body].concat())
    }

    /// The bundle with another body number `number`.
    fn with(&self, number: usize, form: u32, body: &[u8]) -> Vec<u8> {
        let mut pieces = self.clone();
        pieces.bodies[number] = (form, body.to_vec());
        pieces.join()
    }
}

/// Refuses the bytes or finds payloads in them that stand alone and make a bundle again.
fn refused_or_in_order(bundle: &[u8], format: &Arc<Format>) -> Result<(), BundleError> {
    for payload in parse_bundle(bundle, format, 5)? {
        let alone = Payload::parse(&payload.to_bytes(), format).unwrap();
        assert_eq!((alone.digest(), alone.header()), (payload.digest(), payload.header()));
    }
    checked(format, &parse_bundle(bundle, format, 5)?);
    Ok(())
}

/// Every flipped bit, cut and stray byte of bodies in joint form, and every body in the form that it has not.
#[test]
fn hostile_joint_bodies_are_refused_or_in_order() {
    let top_k = |quantizer, indices| Codec::top_k(300, quantizer, indices);
    let codecs = [
        top_k(Quantizer::Sign2, Indices::Golomb),
        top_k(Quantizer::Sign1, Indices::EliasFano),
        Codec::group_max(Group::G16, Quantizer::Sign2),
        top_k(Quantizer::Reference, Indices::Packed12),
    ];
    let format = mixed(&[&[15, 24], &[300], &[40], &[12, 20]], &codecs);
    let payloads = overlapping(&format, 3, 7, 1);
    let pieces = Pieces::split(&checked(&format, &payloads), &payloads);
    assert_eq!(pieces.bodies.iter().map(|body| body.0).collect::<Vec<_>>(), [0, JOINT, JOINT]);
    for (number, (form, body)) in pieces.bodies.iter().enumerate() {
        let _ = refused_or_in_order(&pieces.with(number, form ^ JOINT, body), &format);
        for bit in 0..8 * body.len() {
            let mut flipped = body.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = refused_or_in_order(&pieces.with(number, *form, &flipped), &format);
            let _ = refused_or_in_order(&pieces.with(number, form ^ JOINT, &flipped), &format);
        }
        for length in (0..body.len()).filter(|_| *form == JOINT) {
            let refusal = refused_or_in_order(&pieces.with(number, JOINT, &body[..length]), &format).unwrap_err();
            assert!(matches!(refusal, BundleError::Joint { index, section: 0, .. } if index == number), "{refusal:?}");
        }
    }
    let longer = refused_or_in_order(&pieces.with(1, JOINT, &[&pieces.bodies[1].1[..], &[0]].concat()), &format);
    assert_eq!(longer, Err(BundleError::Joint { index: 1, section: 0, fault: IndexFault::Trailing }));
}

#[test]
fn joint_forms_are_refused() {
    /// What two payloads of one chunk say to a second body of scale code, value codes and this stream.
    fn fault(elements: usize, k: u16, head: &[u8], stream: &[u8]) -> Result<(), IndexFault> {
        let format = uniform(&[&[elements]], codec(k));
        let payloads = overlapping(&format, 2, 8, 1);
        let pieces = Pieces::split(&encode_bundle(&[&payloads[0], &payloads[1]]).unwrap(), &payloads);
        match refused_or_in_order(&pieces.with(1, JOINT, &[head, stream].concat()), &format) {
            Err(BundleError::Joint { index: 1, section: 0, fault }) => Err(fault),
            Err(other) => panic!("{other:?}"),
            Ok(()) => Ok(()),
        }
    }
    // Two of eight: h hits of the two that the first payload has, M = 1 if both are, 2 for two misses of six.
    let two = |stream: &[u8]| fault(8, 1024, &[194, 0], stream);
    // z + 1 = 5 for h = 2: two zeros, a one, 01. Then quotients of 0 as a one each.
    assert_eq!(two(&[0b110_1100]), Ok(()));
    assert_eq!(two(&[0b1110_1100]), Err(IndexFault::Padding));
    assert_eq!(two(&[0b110_1100, 0]), Err(IndexFault::Trailing));
    assert_eq!(two(&[0b10_1100]), Err(IndexFault::End));
    assert_eq!(two(&[]), Err(IndexFault::End));
    // h = 3 and h = -1.
    assert_eq!(two(&[0b1_1100]), Err(IndexFault::Count));
    assert_eq!(two(&[0b010]), Err(IndexFault::Count));
    // No hits: misses of ranks 0 and 1, too large a quotient, and a rank behind the last.
    assert_eq!(two(&[0b0_1011]), Ok(()));
    assert_eq!(two(&[0b1_0001]), Err(IndexFault::Range));
    assert_eq!(two(&[0b11_1001]), Err(IndexFault::Range));
    // All six elements are sent: 5 hits leave a miss where there is none.
    assert_eq!(fault(6, 4096, &[194, 0, 0], &[0b1101_1000, 0b1_1111]), Ok(()));
    assert_eq!(fault(6, 4096, &[194, 0, 0], &[0b1011_1000, 0b1111]), Err(IndexFault::Count));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn overlapping_payloads_come_back(pick in 0usize..19, k in 1u16..600, count in 1u64..=5, eighths in 0usize..=8, seed: u64) {
        let format = &formats(k)[pick];
        checked(format, &overlapping(format, count, eighths, seed));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), count: u16) {
        let format = uniform(&[&[3]], codec(64));
        let prefix = [b"TRBB\x02\x00".as_slice(), &count.to_le_bytes(), &bytes].concat();
        prop_assert!(parse_bundle(&prefix, &format, 20).is_err());
    }
}
