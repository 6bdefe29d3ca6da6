//! Sections of packed indices and of the reference quantizer behind right hashes.
#![no_main]

use std::sync::LazyLock;

use compression::{Codec, Indices, Quantizer};
use compression_fuzz::{Case, cases, checked, choose, on_one_thread};
use libfuzzer_sys::fuzz_target;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    cases(
        [Quantizer::Sign2, Quantizer::Reference]
            .into_iter()
            .flat_map(|quantizer| [3, 64].map(|k| Codec::top_k(k, quantizer, Indices::Packed12))),
    )
});

fuzz_target!(init: on_one_thread(), |data: &[u8]| {
    let (case, data) = choose(&CASES, data);
    checked(&case.resealed(data), &case.format);
});
