//! Elias-Fano: of each of k ascending indices below n, the l low bits at fixed width, then a bitmap of the high parts.
//!
//! `l` is the largest integer with `k << l <= n`. The bitmap has `k + ((n - 1) >> l) + 1` bits; bit `(index_j >> l) + j` is one for each j.
//! Both parts are whole bytes, so the length follows from n and k: 8 bits per index for 64 of 4096.
//!
//! P. Elias, "Efficient storage and retrieval by content and address of static files", J. ACM 21 (1974); R. M. Fano, "On the number of
//! bits required to implement an associative memory", MIT Project MAC memorandum 61 (1971).

use super::{IndexFault as Fault, bits, packed};
use crate::floor::Floor;
use crate::floor::decode;

/// Width of the low parts for k of n indices, `1 <= k <= n`.
pub fn low_width(n: usize, k: usize) -> u32 {
    // As log2 of their quotient, without dividing.
    let width = n.ilog2() - k.ilog2();
    width - u32::from(k << width > n)
}

/// Bits of the bitmap.
fn bitmap_bits(n: usize, k: usize) -> usize {
    k + ((n - 1) >> low_width(n, k)) + 1
}

/// Bytes of k of n indices, `1 <= k <= n <= 4096`.
pub fn bytes(n: usize, k: usize) -> usize {
    packed::bytes(k, low_width(n, k)) + bitmap_bits(n, k).div_ceil(8)
}

/// Writes strictly ascending indices below n over all of `out`, which has the length that [`bytes`] says.
pub fn encode(floor: Floor, indices: &[u16], n: usize, out: &mut [u8]) {
    decode::elias_fano_code(floor, indices, low_width(n, indices.len()), out);
}

/// Reads `out.len()` indices below n from as many bytes as [`bytes`] says. Bytes that it accepts are the only ones that say these indices.
///
/// # Errors
/// [`Fault::Padding`], [`Fault::Count`], [`Fault::Order`] or [`Fault::Range`], looked for in this order; `out` holds anything then.
#[inline]
pub fn decode(floor: Floor, bytes: &[u8], n: usize, out: &mut [u16]) -> Result<(), Fault> {
    let width = low_width(n, out.len());
    let (low, bitmap) = bytes.split_at(packed::bytes(out.len(), width));
    if !packed::padding_is_zero(low, out.len(), width) || !bits::padding_is_zero(bitmap, bitmap_bits(n, out.len())) {
        return Err(Fault::Padding);
    }
    decode::elias_fano(floor, low, bitmap, width, out)?;
    if out.last().is_some_and(|&last| usize::from(last) < n) { Ok(()) } else { Err(Fault::Range) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_data::{index_set, pick, random};

    fn encoded(indices: &[u16], n: usize) -> Vec<u8> {
        let on = |floor| {
            let mut out = vec![0xFF; bytes(n, indices.len())];
            encode(floor, indices, n, &mut out);
            out
        };
        let expected = on(Floor::SCALAR);
        for floor in Floor::available() {
            assert_eq!(on(floor), expected, "{floor:?}");
        }
        expected
    }

    /// What all floors say.
    fn decoded(bytes: &[u8], n: usize, k: usize) -> Result<Vec<u16>, Fault> {
        let on = |floor| {
            let mut out = vec![0xFFFF; k];
            decode(floor, bytes, n, &mut out).map(|()| out)
        };
        let expected = on(Floor::SCALAR);
        for floor in Floor::available() {
            assert_eq!(on(floor), expected, "{floor:?}");
        }
        expected
    }

    #[test]
    fn lengths_follow_from_the_shape() {
        assert_eq!((bytes(4096, 64), bytes(4096, 1), bytes(4096, 4096), bytes(1, 1)), (64, 2 + 1, 1024, 1));
        for n in 1..=300 {
            for k in 1..=n {
                let width = low_width(n, k);
                assert!(k << width <= n && k << (width + 1) > n);
            }
        }
    }

    #[test]
    fn every_fault_is_told() {
        // n = 8, k = 2: two low bits each in one byte, then a bitmap of 2 + 1 + 1 bits in another.
        assert_eq!(encoded(&[1, 6], 8), [0b1001, 0b0101]);
        assert_eq!(decoded(&[0b1001, 0b0101], 8, 2), Ok(vec![1, 6]));
        assert_eq!(decoded(&[0b1_1001, 0b0101], 8, 2), Err(Fault::Padding));
        assert_eq!(decoded(&[0b1001, 0b1_0001], 8, 2), Err(Fault::Padding));
        assert_eq!(decoded(&[0b1001, 0b0111], 8, 2), Err(Fault::Count));
        assert_eq!(decoded(&[0b1001, 0b0100], 8, 2), Err(Fault::Count));
        assert_eq!(decoded(&[0b0101, 0b0011], 8, 2), Err(Fault::Order));
        assert_eq!(decoded(&[0b0110, 0b0011], 8, 2), Err(Fault::Order));
        assert_eq!(decoded(&[0b1001, 0b1001], 8, 2), Err(Fault::Range));
    }

    #[test]
    fn small_index_sets_have_one_code() {
        for n in 1..=12 {
            for k in 1..=n {
                let length = bytes(n, k);
                // All strings of three bytes take a second: one shape stands for the others.
                if length > 2 && (n, k) != (12, 4) {
                    continue;
                }
                let accepted = (0u32..1 << (8 * length)).filter(|word| {
                    let bytes = &word.to_le_bytes()[..length];
                    let Ok(indices) = decoded(bytes, n, k) else { return false };
                    assert!(indices.is_sorted_by(|a, b| a < b) && indices.iter().all(|&index| usize::from(index) < n));
                    assert_eq!(encoded(&indices, n), bytes, "{indices:?}");
                    true
                });
                let sets = (0..k).fold(1, |sets, j| sets * (n - j) / (j + 1));
                assert_eq!(accepted.count(), sets, "k = {k} of n = {n}");
            }
        }
    }

    #[test]
    fn full_chunks_round_trip_for_every_k() {
        for k in 1..=4096 {
            let indices = pick(4096, k, k as u64, k % 3 == 0);
            assert_eq!(decoded(&encoded(&indices, 4096), 4096, k), Ok(indices));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded((n, indices) in index_set(4096)) {
            prop_assert_eq!(decoded(&encoded(&indices, n), n, indices.len()), Ok(indices));
        }

        #[test]
        fn corrupt_bytes_are_refused_or_another_set((n, indices) in index_set(4096), seed: u64, flips in 1usize..4) {
            let (mut bytes, mut random) = (encoded(&indices, n), random(seed));
            for _ in 0..flips {
                let at = random() as usize % (bytes.len() * 8);
                bytes[at / 8] ^= 1 << (at % 8);
            }
            if let Ok(other) = decoded(&bytes, n, indices.len()) {
                prop_assert_eq!(&encoded(&other, n), &bytes);
            }
            bytes.fill_with(|| random() as u8);
            if let Ok(other) = decoded(&bytes, n, indices.len()) {
                prop_assert_eq!(&encoded(&other, n), &bytes);
            }
        }
    }
}
