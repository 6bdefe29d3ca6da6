//! Sections of group maxima behind right hashes.
#![no_main]

use std::sync::LazyLock;

use compression::{Codec, Group, Quantizer};
use compression_fuzz::{Case, cases, checked, choose, on_one_thread};
use libfuzzer_sys::fuzz_target;

static CASES: LazyLock<Vec<Case>> =
    LazyLock::new(|| cases([Group::G16, Group::G32, Group::G64].map(|group| Codec::group_max(group, Quantizer::Sign2))));

fuzz_target!(init: on_one_thread(), |data: &[u8]| {
    let (case, data) = choose(&CASES, data);
    checked(&case.resealed(data), &case.format);
});
