//! A record's payloads as one object.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::frames::edited;
use common::{codec, formats, payload, payload_bytes, uniform};
use compression::{BundleError, ChunkFault, Format, Payload, PayloadError, bundle_len, encode_bundle, parse_bundle, payload_len};
use proptest::prelude::*;

#[test]
fn bundles_give_back_the_same_payloads_in_fewer_bytes() {
    for format in formats(100) {
        let payloads: Vec<Payload> = (0..3).map(|seed| payload(&format, seed)).collect();
        for count in 1..=3 {
            let chosen: Vec<&Payload> = payloads[..count].iter().collect();
            let bundle = encode_bundle(&chosen).unwrap();
            let lengths = payload_len(&format);
            assert!(bundle.len() as u64 <= bundle_len(&format, count));
            assert!(lengths.start() != lengths.end() || bundle.len() as u64 == bundle_len(&format, count));
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

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), count: u16) {
        let format = uniform(&[&[3]], codec(64));
        let prefix = [b"TRBB\x02\x00".as_slice(), &count.to_le_bytes(), &bytes].concat();
        prop_assert!(parse_bundle(&prefix, &format, 20).is_err());
    }
}
