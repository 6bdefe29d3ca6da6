//! `reference`: the quantizer of the deployed reference compressor, per tensor, for comparison with it.
//!
//! Over all n selected values v of a tensor: shift = mean(v), c = v - shift, scale = 6/4 of c's standard deviation (1 if that is zero or not
//! finite), code = clamp(round half to even(c / scale + 2), 0, 3). A code decodes to the mean of its c plus the shift.

/// Bytes of a table in a payload.
pub(crate) const TABLE_BYTES: usize = 16;
/// The largest magnitude that a table may hold.
pub(crate) const MAX_MAGNITUDE: f32 = 64.0;

/// A tensor's fitted quantizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reference {
    shift: f32,
    scale: f32,
    /// What the codes decode to, at most [`MAX_MAGNITUDE`] from zero.
    values: [f32; 4],
}

impl Reference {
    /// The quantizer of a tensor's selected values, in order; sums are f64.
    pub fn fit(selected: &[f32]) -> Self {
        let count = selected.len() as f64;
        let shift = (selected.iter().copied().map(f64::from).sum::<f64>() / count) as f32;
        let squares: f64 = selected.iter().map(|v| f64::from(v - shift)).map(|c| c * c).sum();
        let scale = ((squares / (count - 1.0)).sqrt() * 6.0 / 4.0) as f32;
        let scale = if scale.is_finite() && scale != 0.0 { scale } else { 1.0 };
        let mut fitted = Self { shift, scale, values: [0.0; 4] };
        let (mut sums, mut counts) = ([0.0f64; 4], [0.0f64; 4]);
        for &value in selected {
            let bin = usize::from(fitted.bin(value));
            sums[bin] += f64::from(value - shift);
            counts[bin] += 1.0;
        }
        // An empty bin's NaN equals no other bin's value, so that no code stands for it.
        let decoded = |bin: usize| if counts[bin] == 0.0 { f32::NAN } else { (sums[bin] / counts[bin]) as f32 + shift };
        // Adding a positive zero turns -0 into 0, so that a value has one form.
        fitted.values = [0, 1, 2, 3].map(|bin| decoded(bin).clamp(-MAX_MAGNITUDE, MAX_MAGNITUDE) + 0.0);
        fitted
    }

    fn bin(&self, value: f32) -> u8 {
        ((value - self.shift) / self.scale + 2.0).round_ties_even().clamp(0.0, 3.0) as u8
    }

    /// The code of a value: its bin, or the lowest one that decodes to the same.
    pub fn code(&self, value: f32) -> u8 {
        let bin = self.bin(value);
        let decoded = self.values[usize::from(bin)];
        (0..bin).find(|&lower| self.values[usize::from(lower)] == decoded).unwrap_or(bin)
    }

    /// The values of the codes that occur, zero for the others.
    pub fn table(&self, occurs: [bool; 4]) -> [f32; 4] {
        std::array::from_fn(|code| if occurs[code] { self.values[code] } else { 0.0 })
    }
}

/// Whether a table is what [`Reference::table`] can make: finite values in range, ascending over the codes that occur, zero for the rest.
pub(crate) fn is_canonical(table: &[f32; 4], occurs: [bool; 4]) -> bool {
    let mut last = f32::NEG_INFINITY;
    table.iter().zip(occurs).all(|(&value, occurs)| {
        let fits = if occurs {
            value.abs() <= MAX_MAGNITUDE && value > last && value.to_bits() != (-0.0f32).to_bits()
        } else {
            value.to_bits() == 0
        };
        if occurs {
            last = value;
        }
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_and_zeros_have_one_code() {
        for value in [0.0f32, -0.0, 0.25, -7.0] {
            let fitted = Reference::fit(&[value; 10]);
            let code = fitted.code(value);
            assert_eq!((code, fitted.values[usize::from(code)]), (2, value + 0.0));
        }
    }

    #[test]
    fn an_empty_bin_has_no_code() {
        let fitted = Reference::fit(&[-1.0, 1.0, 0.0, 0.0]);
        let codes = [-1.0, 1.0, 0.0].map(|v| fitted.code(v));
        assert_eq!(codes, [1, 3, 2]);
        let occurs = [false, true, true, true];
        assert!(is_canonical(&fitted.table(occurs), occurs));
    }

    #[test]
    fn two_magnitudes_are_kept() {
        let fitted = Reference::fit(&[1.0, -1.0, 1.0, -1.0]);
        assert_eq!([1.0, -1.0].map(|v| fitted.values[usize::from(fitted.code(v))]), [1.0, -1.0]);
        let occurs = [false, true, false, true];
        assert!(is_canonical(&fitted.table(occurs), occurs));
    }

    #[test]
    fn other_tables_are_not_canonical() {
        let all = [true; 4];
        assert!(is_canonical(&[-2.0, -1.0, 0.0, 64.0], all));
        for table in [
            [-2.0, -1.0, -0.0, 1.0],
            [-1.0, -1.0, 0.0, 1.0],
            [0.0, 1.0, 2.0, 65.0],
            [0.0, 1.0, 2.0, f32::NAN],
            [f32::NEG_INFINITY, 0.0, 1.0, 2.0],
        ] {
            assert!(!is_canonical(&table, all), "{table:?}");
        }
        assert!(!is_canonical(&[0.0, 1.0, 2.0, 3.0], [true, true, true, false]));
        assert!(!is_canonical(&[-0.0, 1.0, 2.0, 3.0], [false, true, true, true]));
    }
}
