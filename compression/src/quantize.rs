//! `sign2`: a chunk's scale code names two magnitudes, a value's 2-bit code picks one of them and a sign.
//!
//! The magnitudes of scale code `c` ≥ 1 are `LOW[p] / 64 * 2^o` and `HIGH[p] / 64 * 2^o` with `p = (c - 1) % 10` and
//! `o = (c - 1) / 10 - 20`; code 0 is a chunk of zeros. All magnitudes are exact in f32. The ten pairs per octave were fitted so that the
//! squared error on the selected values is small at once for Gaussian, Laplace and Student t data and for the nearly
//! constant values that error feedback produces (wide pairs are for heavy tails, the pair with a zero for sparse chunks).

/// The pairs of one octave, in 64ths.
const PAIRS: [(u16, u16); 10] = [(0, 98), (64, 94), (66, 80), (74, 97), (83, 99), (87, 128), (87, 194), (96, 117), (103, 128), (113, 147)];
/// The octave of scale codes 1 to 10.
const LOWEST_OCTAVE: i32 = -20;
/// The octave of scale codes 241 to 250.
const HIGHEST_OCTAVE: i32 = 4;
/// The largest scale code; higher ones are reserved.
pub(crate) const MAX_SCALE: u8 = ((HIGHEST_OCTAVE - LOWEST_OCTAVE + 1) * PAIRS.len() as i32) as u8;

/// Octaves below the largest value's own in which the encoder looks for a pair.
const SEARCHED_OCTAVES: i32 = 6;
/// The encoder compares candidates in fixed point: a value of the largest value's octave has 12 significant bits.
const FIXED_BITS: i32 = 11;

/// The sign bit of a code.
const NEGATIVE: u8 = 2;

/// What each (scale code, value code) decodes to: `[low, high, -low, -high]`. Reserved scale codes decode to zeros and are never
/// accepted; so is code 2 where `low` is zero.
pub static SIGN2: [[f32; 4]; 256] = table();

const fn table() -> [[f32; 4]; 256] {
    let mut table = [[0.0; 4]; 256];
    let mut code = 1;
    while code <= MAX_SCALE as usize {
        let (low, high) = PAIRS[(code - 1) % PAIRS.len()];
        let unit = power_of_two((code as i32 - 1) / PAIRS.len() as i32 + LOWEST_OCTAVE - 6);
        let (low, high) = (low as f32 * unit, high as f32 * unit);
        table[code] = [low, high, -low, -high];
        code += 1;
    }
    table
}

/// 2^exponent for a normal f32.
const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// The floor of log2 of a positive normal value; below -126 for zero and subnormals.
fn octave(magnitude: f32) -> i32 {
    (magnitude.to_bits() >> 23) as i32 - 127
}

/// The scale code with the least squared error on a chunk's selected values, in the encoder's fixed point; ties go to the lower code.
///
/// With `e` = the octave of the largest magnitude, at most 4: the values become `u = min(4095, trunc(|v| * 2^(11-e)))`; candidates are the
/// codes of octaves e-5 to e and code 0, and the error of a pair is the sum of `min(|u-low|, |u-high|)^2` with the pair in the same
/// units. Everything after the truncation is integer, so the order of the sum is free. A chunk whose largest magnitude is
/// below 2^-20 has code 0.
pub(crate) fn choose_scale(selected: &[f32], fixed: &mut Vec<i16>) -> u8 {
    let largest = selected.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    let top = octave(largest).min(HIGHEST_OCTAVE);
    if top < LOWEST_OCTAVE {
        return 0;
    }
    let unit = power_of_two(FIXED_BITS - top);
    fixed.clear();
    fixed.extend(selected.iter().map(|v| ((v.abs() * unit) as i32).min((2 << FIXED_BITS) - 1) as i16));
    let mut best = (u64::MAX, 0);
    for octave in ((top - SEARCHED_OCTAVES + 1).max(LOWEST_OCTAVE)..=top).rev() {
        let shift = FIXED_BITS - 6 - (top - octave);
        for (pair, &(low, high)) in PAIRS.iter().enumerate().rev() {
            let code = (octave - LOWEST_OCTAVE) as usize * PAIRS.len() + pair + 1;
            best = better(best, fixed, (low << shift) as i16, (high << shift) as i16, code as u8);
        }
    }
    better(best, fixed, 0, 0, 0).1
}

/// The better of `best` and the pair (`low`, `high`) of `code`, which is lower than the codes tried before.
fn better(best: (u64, u8), fixed: &[i16], low: i16, high: i16, code: u8) -> (u64, u8) {
    let count = fixed.len() as u64;
    let sum: u64 = fixed.iter().map(|&u| u as u64).sum();
    // All decoded values lie in [low, high], so the error is at least count * (mean's distance from that interval)^2.
    let distance = (low as u64 * count).saturating_sub(sum).max(sum.saturating_sub(high as u64 * count));
    if best.0 != u64::MAX && distance * distance > best.0 * count {
        return best;
    }
    let error = fixed.chunks(64).map(|part| part_error(part, low, high)).sum();
    if error <= best.0 { (error, code) } else { best }
}

/// The error of up to 64 values; each term is below 2^26, so that the sum fits.
fn part_error(part: &[i16], low: i16, high: i16) -> u64 {
    let square = |&u: &i16| {
        let distance = i32::from((u - low).abs().min((u - high).abs()));
        (distance * distance) as u32
    };
    u64::from(part.iter().map(square).sum::<u32>())
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
#[path = "quantize_tests.rs"]
mod tests;
