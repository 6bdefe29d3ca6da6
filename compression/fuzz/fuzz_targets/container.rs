//! Any bytes, and damaged payloads, as a payload.
#![no_main]

use std::sync::LazyLock;

use compression::Outline;
use compression_fuzz::{Case, checked, choose, damaged, mixed_cases, on_one_thread, streamed};
use libfuzzer_sys::fuzz_target;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(mixed_cases);

fuzz_target!(init: on_one_thread(), |data: &[u8]| {
    let as_they_are = data.first().is_some_and(|&first| first >= 128);
    let (case, data) = choose(&CASES, data);
    let bytes = if as_they_are { data.to_vec() } else { damaged(&case.payload, data) };
    let outline = Outline::read(&bytes);
    match checked(&bytes, &case.format) {
        Some(payload) => assert_eq!(outline.map(|outline| outline.header).as_ref(), Ok(payload.header())),
        None => assert!(streamed(&bytes, &case.format).is_err()),
    }
});
