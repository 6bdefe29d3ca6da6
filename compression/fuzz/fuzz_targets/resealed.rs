//! Sections of every codec, also mixed, behind right hashes.
#![no_main]

use std::sync::LazyLock;

use compression_fuzz::{Case, checked, choose, mixed_cases, on_one_thread};
use libfuzzer_sys::fuzz_target;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(mixed_cases);

fuzz_target!(init: on_one_thread(), |data: &[u8]| {
    let (case, data) = choose(&CASES, data);
    checked(&case.resealed(data), &case.format);
});
