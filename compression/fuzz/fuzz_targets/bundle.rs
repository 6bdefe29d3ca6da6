//! Any bytes, and damaged bundles, as a bundle of at most four payloads.
#![no_main]

use std::sync::LazyLock;

use compression::{Payload, bundle_len, encode_bundle, parse_bundle};
use compression_fuzz::{Case, checked, choose, damaged, mixed_cases, on_one_thread};
use libfuzzer_sys::fuzz_target;

/// A case with its bundle of two payloads.
static CASES: LazyLock<(Vec<Case>, Vec<Vec<u8>>)> = LazyLock::new(|| {
    let cases = mixed_cases();
    let bundle = |case: &Case| {
        let payload = Payload::parse(&case.payload, &case.format).expect("the encoder wrote it");
        encode_bundle(&[&payload, &payload]).expect("one payload twice")
    };
    let bundles = cases.iter().map(bundle).collect();
    (cases, bundles)
});

fuzz_target!(init: on_one_thread(), |data: &[u8]| {
    let (cases, bundles) = &*CASES;
    let (case, rest) = choose(cases, data);
    let bytes = match data.first() {
        Some(128..) => rest.to_vec(),
        first => damaged(&bundles[usize::from(*first.unwrap_or(&0)) % cases.len()], rest),
    };
    let Ok(payloads) = parse_bundle(&bytes, &case.format, 4) else { return };
    assert!(bytes.len() as u64 <= bundle_len(&case.format, payloads.len()));
    assert!(encode_bundle(&payloads.iter().collect::<Vec<_>>()).is_ok_and(|again| again == bytes));
    for payload in &payloads {
        let alone = checked(&payload.to_bytes(), &case.format).expect("a bundle's payload stands alone");
        assert_eq!((alone.digest(), alone.header()), (payload.digest(), payload.header()));
    }
});
