//! Any bytes, and damaged payloads, as a payload, and what is told about them.
#![no_main]

use std::sync::LazyLock;

use compression::{Outline, inspect};
use compression_fuzz::{Case, checked, choose, damaged, mixed_cases, on_one_thread, streamed};
use libfuzzer_sys::fuzz_target;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(mixed_cases);

fuzz_target!(init: on_one_thread(), |data: &[u8]| {
    let as_they_are = data.first().is_some_and(|&first| first >= 128);
    let (case, data) = choose(&CASES, data);
    let bytes = if as_they_are { data.to_vec() } else { damaged(&case.payload, data) };
    let told = inspect(&bytes[..]).expect("memory does not fail");
    assert_eq!((told.bytes, told.digest), (bytes.len() as u64, *blake3::hash(&bytes).as_bytes()));
    assert_eq!(told.outline, Outline::read(&bytes).ok());
    match checked(&bytes, &case.format) {
        Some(payload) => {
            assert!(told.refusal.is_none() && told.frames.len() == case.format.sections() && told.frames.iter().all(|frame| frame.intact));
            assert_eq!(told.outline.as_ref().map(|outline| &outline.header), Some(payload.header()));
        }
        None => assert!(streamed(&bytes, &case.format).is_err()),
    }
});
