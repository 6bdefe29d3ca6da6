//! Sections of Golomb codes behind right hashes.
#![no_main]

use std::sync::LazyLock;

use compression::{Codec, Indices, Quantizer};
use compression_fuzz::{Case, cases, checked, choose, on_one_thread};
use libfuzzer_sys::fuzz_target;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| cases([1, 64, 500].map(|k| Codec::top_k(k, Quantizer::Sign2, Indices::Golomb))));

fuzz_target!(init: on_one_thread(), |data: &[u8]| {
    let (case, data) = choose(&CASES, data);
    checked(&case.resealed(data), &case.format);
});
