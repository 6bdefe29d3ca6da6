//! `sign2`: a chunk's scale code names two magnitudes, a value's 2-bit code picks one of them and a sign.
//!
//! The magnitudes of scale code `c` ≥ 1 are `LOW[p] / 64 * 2^o` and `HIGH[p] / 64 * 2^o` with `p = (c - 1) % 10` and
//! `o = (c - 1) / 10 - 20`; code 0 is a chunk of zeros. All magnitudes are exact in f32. The ten pairs per octave were fitted so that the
//! squared error on the selected values is small at once for Gaussian, Laplace and Student t data and for the nearly
//! constant values that error feedback produces (wide pairs are for heavy tails, the pair with a zero for sparse chunks).

use crate::floor::Floor;
use crate::floor::encode::{PAIRS, Pairs, pair_errors};

/// The pairs of one octave, in 64ths.
const OCTAVE: [(u16, u16); 10] = [(0, 98), (64, 94), (66, 80), (74, 97), (83, 99), (87, 128), (87, 194), (96, 117), (103, 128), (113, 147)];
/// The octave of scale codes 1 to 10.
pub(super) const LOWEST_OCTAVE: i32 = -20;
/// The octave of scale codes 241 to 250.
pub(super) const HIGHEST_OCTAVE: i32 = 4;
/// The largest scale code; higher ones are reserved.
pub(crate) const MAX_SCALE: u8 = ((HIGHEST_OCTAVE - LOWEST_OCTAVE + 1) * OCTAVE.len() as i32) as u8;

/// Octaves below the largest value's own in which the encoder looks for a pair.
const SEARCHED_OCTAVES: i32 = 6;
/// The encoder compares candidates in fixed point: a value of the largest value's octave has 12 significant bits.
pub(super) const FIXED_BITS: i32 = 11;

/// The sign bit of a code.
const NEGATIVE: u8 = 2;

/// What each (scale code, value code) decodes to: `[low, high, -low, -high]`. Reserved scale codes decode to zeros and are never
/// accepted; so is code 2 where `low` is zero.
pub static SIGN2: [[f32; 4]; 256] = table();

const fn table() -> [[f32; 4]; 256] {
    let mut table = [[0.0; 4]; 256];
    let mut code = 1;
    while code <= MAX_SCALE as usize {
        let (low, high) = OCTAVE[(code - 1) % OCTAVE.len()];
        let unit = power_of_two((code as i32 - 1) / OCTAVE.len() as i32 + LOWEST_OCTAVE - 6);
        let (low, high) = (low as f32 * unit, high as f32 * unit);
        table[code] = [low, high, -low, -high];
        code += 1;
    }
    table
}

/// 2^exponent for a normal f32.
pub(super) const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// The floor of log2 of a positive normal value; below -126 for zero and subnormals.
pub(super) fn octave(magnitude: f32) -> i32 {
    (magnitude.to_bits() >> 23) as i32 - 127
}

/// What the encoder compares, in fixed point: code 0 as a pair of zeros, then the pairs of the searched octaves, the lowest octave first.
/// What is left is zeros again, which never beat code 0.
static CANDIDATES: Pairs = candidates();

const fn candidates() -> Pairs {
    let mut candidates = Pairs { low: [0; PAIRS], high: [0; PAIRS] };
    let mut i = 0;
    while i < SEARCHED_OCTAVES as usize * OCTAVE.len() {
        let (low, high) = OCTAVE[i % OCTAVE.len()];
        let below_top = SEARCHED_OCTAVES - 1 - (i / OCTAVE.len()) as i32;
        let shift = FIXED_BITS - 6 - below_top;
        candidates.low[i + 1] = (low as u32) << shift;
        candidates.high[i + 1] = (high as u32) << shift;
        i += 1;
    }
    candidates
}

/// The scale code with the least squared error on a chunk's selected values, in the encoder's fixed point; ties go to the lower code.
///
/// With `e` = the octave of the largest magnitude, at most 4: the values become `u = min(4095, trunc(|v| * 2^(11-e)))`; candidates are the
/// codes of octaves e-5 to e and code 0, and the error of a pair is the sum of `min(|u-low|, |u-high|)^2` with the pair in the same
/// units. Everything after the truncation is integer, so the order of the sum is free. A chunk whose largest magnitude is
/// below 2^-20 has code 0.
pub(crate) fn choose_scale(floor: Floor, selected: &[f32], fixed: &mut Vec<u16>) -> u8 {
    let largest = selected.iter().map(|v| v.abs().to_bits()).fold(0, u32::max);
    let top = octave(f32::from_bits(largest)).min(HIGHEST_OCTAVE);
    if top < LOWEST_OCTAVE {
        return 0;
    }
    let unit = power_of_two(FIXED_BITS - top);
    fixed.clear();
    fixed.extend(selected.iter().map(|v| (v.abs() * unit).min(((2 << FIXED_BITS) - 1) as f32) as u16));
    let mut errors = [0; PAIRS];
    pair_errors(floor, fixed, &CANDIDATES, &mut errors);
    // The code of candidate i ≥ 1 is base + i; octaves below the lowest one have none.
    let base = (top - SEARCHED_OCTAVES + 1 - LOWEST_OCTAVE) * OCTAVE.len() as i32;
    let mut best = 0;
    for i in 1 + (-base).max(0) as usize..PAIRS {
        if errors[i] < errors[best] {
            best = i;
        }
    }
    if best == 0 { 0 } else { (base + best as i32) as u8 }
}

/// The 2-bit code of a value under a scale code: bit 0 is set from the middle of the two magnitudes upwards, bit 1 for values below zero
/// unless they decode to zero.
pub(crate) fn code(scale: u8, value: f32) -> u8 {
    let [low, high, ..] = SIGN2[usize::from(scale)];
    let magnitude = u8::from(scale != 0 && value.abs() >= (low + high) * 0.5);
    let decodes_to_zero = SIGN2[usize::from(scale)][usize::from(magnitude)] == 0.0;
    if value < 0.0 && !decodes_to_zero { magnitude | NEGATIVE } else { magnitude }
}

#[cfg(test)]
#[path = "sign2_tests.rs"]
mod tests;
