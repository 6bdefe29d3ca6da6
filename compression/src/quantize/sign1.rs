//! `sign1`: a chunk's scale code names one magnitude, a value's 1-bit code its sign.
//!
//! The magnitude of scale code `c` ≥ 1 is `STEPS[p] / 64 * 2^o` with `p = (c - 1) % 10` and `o = (c - 1) / 10 - 20`, ten nearly geometric
//! steps per octave, exact in f32; code 0 is a chunk of zeros.

use super::sign2::{FIXED_BITS, HIGHEST_OCTAVE, LOWEST_OCTAVE, MAX_SCALE, octave, power_of_two};

/// The magnitudes of one octave, in 64ths: 64 * 2^(p/10), rounded.
const STEPS: [u16; 10] = [64, 69, 74, 79, 84, 91, 97, 104, 111, 119];

/// What each (scale code, value code) decodes to: `[magnitude, -magnitude, 0, 0]`, zeros for reserved scale codes.
pub static SIGN1: [[f32; 4]; 256] = table();

const fn table() -> [[f32; 4]; 256] {
    let mut table = [[0.0; 4]; 256];
    let mut code = 1;
    while code <= MAX_SCALE as usize {
        let unit = power_of_two((code as i32 - 1) / STEPS.len() as i32 + LOWEST_OCTAVE - 6);
        let magnitude = STEPS[(code - 1) % STEPS.len()] as f32 * unit;
        table[code] = [magnitude, -magnitude, 0.0, 0.0];
        code += 1;
    }
    table
}

/// The scale code whose magnitude is nearest to the mean of the selected magnitudes, which has the least squared error; the lower of two.
///
/// With `e` = the octave of the largest magnitude, at most 4, the values become `u = min(4095, trunc(|v| * 2^(11-e)))`, and the magnitude m of
/// a code, of any octave from e - 11 to e (as an integer in the same units, rounded down), costs `|k * m - sum of u|`, code 0 costs the
/// sum of u. The code of least cost wins, the lowest among equals. A chunk whose largest magnitude is below 2^-20 has code 0.
pub(crate) fn choose_scale(selected: &[f32]) -> u8 {
    let largest = selected.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    let top = octave(largest).min(HIGHEST_OCTAVE);
    if top < LOWEST_OCTAVE {
        return 0;
    }
    let unit = power_of_two(FIXED_BITS - top);
    let sum: i64 = selected.iter().map(|v| i64::from(((v.abs() * unit) as i32).min((2 << FIXED_BITS) - 1))).sum();
    let cost = |code: i32| {
        if code == 0 {
            return sum;
        }
        let (step, octave) = (STEPS[(code - 1) as usize % STEPS.len()], (code - 1) / STEPS.len() as i32 + LOWEST_OCTAVE);
        let magnitude = i64::from(step) << FIXED_BITS >> (6 + top - octave);
        (selected.len() as i64 * magnitude - sum).abs()
    };
    let lowest = (top - FIXED_BITS).max(LOWEST_OCTAVE) - LOWEST_OCTAVE;
    let highest = top - LOWEST_OCTAVE + 1;
    let codes = lowest * STEPS.len() as i32 + 1..=highest * STEPS.len() as i32;
    std::iter::once(0).chain(codes).min_by_key(|&code| (cost(code), code)).unwrap_or(0) as u8
}

/// The 1-bit code of a value: 1 below zero, unless the chunk decodes to zeros.
pub(crate) fn code(scale: u8, value: f32) -> u8 {
    u8::from(scale != 0 && value < 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magnitudes_ascend_by_less_than_a_tenth() {
        let magnitudes: Vec<f32> = SIGN1[1..=usize::from(MAX_SCALE)].iter().map(|values| values[0]).collect();
        assert!(magnitudes.windows(2).all(|m| m[0] < m[1] && m[1] < m[0] * 1.1));
        assert_eq!((SIGN1[0], SIGN1[251]), ([0.0; 4], [0.0; 4]));
        assert_eq!(SIGN1[201], [1.0, -1.0, 0.0, 0.0]);
    }

    #[test]
    fn the_magnitude_nearest_to_the_mean_is_chosen() {
        for (values, expected) in [(&[1.0f32, -1.0][..], 1.0), (&[0.5; 64], 0.5), (&[1.5, 0.5, -1.0], 1.0), (&[3.0, -1.4, 1.0], 1.859375)] {
            let scale = choose_scale(values);
            assert_eq!(SIGN1[usize::from(scale)][0], expected, "{values:?}");
        }
        assert_eq!((choose_scale(&[0.0; 5]), choose_scale(&[9e-7])), (0, 0));
        assert_eq!(SIGN1[usize::from(choose_scale(&[f32::MAX]))][0], 119.0 / 64.0 * 16.0);
        assert_eq!(choose_scale(&[9.6e-7; 3]), 1);
        assert_eq!(choose_scale(&[9.6e-7, 0.0, 0.0]), 0);
    }

    #[test]
    fn codes_are_signs() {
        assert_eq!([code(7, 1.0), code(7, -1.0), code(7, -0.0), code(0, -1.0)], [0, 1, 0, 0]);
    }
}
