//! What a full chunk costs under each code, for variants that have no payload and for finding the k of equal bytes.

use clap::ValueEnum;
use compression::CHUNK_ELEMENTS;
use serde::{Deserialize, Serialize};

use crate::coding::{Select, Values};

/// How a chunk's ascending indices are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IndexCode {
    /// 12 bits each.
    Packed12,
    /// Low bits, then a unary bitmap of the high ones.
    EliasFano,
    /// Golomb code of the gaps.
    Golomb,
}

impl std::fmt::Display for IndexCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Packed12 => "packed12",
            Self::EliasFano => "elias-fano",
            Self::Golomb => "golomb",
        })
    }
}

impl IndexCode {
    /// Bits of a chunk's indices, or about so many if they are not known yet.
    fn bits(self, n: usize, k: usize, indices: Option<&[u16]>) -> f64 {
        match (self, indices) {
            (Self::Packed12, _) => whole_bytes(12 * k),
            (Self::EliasFano, _) => {
                let low = (n / k).ilog2() as usize;
                whole_bytes(k * low) + whole_bytes(k + ((n - 1) >> low) + 1)
            }
            (Self::Golomb, Some(indices)) => Golomb::new(n, k).bits(indices),
            // the code's distance from the bound, per index, at k = 64 of 4096
            (Self::Golomb, None) => log2_choose(n, k) + 0.0735 * k as f64,
        }
    }
}

/// Bytes of a payload of one codec that are not a chunk's: header and footer, and what stands around each section of up to 1024 chunks.
pub fn frame_bytes(chunks: usize) -> f64 {
    (200 + 40 * chunks.div_ceil(1024)) as f64
}

/// Bits of one chunk of `n` elements in which `k` values are sent. Reference codes have a look-up table per tensor, which is left out here.
pub fn chunk_bits(select: Select, values: Values, indices: IndexCode, n: usize, picked: Option<&[u16]>) -> f64 {
    let k = picked.map_or_else(|| select.count(n), <[u16]>::len);
    let scale = match (select, indices) {
        _ if !values.scaled() => 0.0,
        // about what it takes in the stream as the difference to the chunk before, in the matrices of a training run
        (Select::TopK(_), IndexCode::Golomb) => 2.0,
        _ => 8.0,
    };
    scale + whole_bytes(values.bits() * k) + place_bits(select, indices, n, k, picked)
}

/// Bits of the places of a chunk's `k` values.
pub fn place_bits(select: Select, indices: IndexCode, n: usize, k: usize, picked: Option<&[u16]>) -> f64 {
    match select {
        Select::TopK(_) => indices.bits(n, k, picked),
        Select::GroupMax(group) => whole_bytes(group.ilog2() as usize * k),
    }
}

/// The most values of `values` that fit into the bytes of sign2 at k = 64.
pub fn k_of_equal_bytes(values: Values, indices: IndexCode) -> u16 {
    let cost = |k, values| chunk_bits(Select::TopK(k), values, indices, CHUNK_ELEMENTS, None);
    let budget = cost(64, Values::Sign2);
    (1..=1024).rev().find(|&k| cost(k, values) <= budget).unwrap_or(1)
}

/// log2 of the number of ways to choose `k` of `n`.
pub fn log2_choose(n: usize, k: usize) -> f64 {
    (0..k).map(|i| ((n - i) as f64 / (k - i) as f64).log2()).sum()
}

fn whole_bytes(bits: usize) -> f64 {
    (bits.div_ceil(8) * 8) as f64
}

/// Golomb code with divisor about n·ln 2/k; the remainders in truncated binary, their fixed parts in whole bytes per chunk.
struct Golomb {
    divisor: usize,
    low_bits: usize,
    /// Remainders below this have no extra bit.
    short: usize,
}

impl Golomb {
    fn new(n: usize, k: usize) -> Self {
        let divisor = (177 * n / (256 * k)).max(1);
        let low_bits = divisor.ilog2() as usize;
        Self { divisor, low_bits, short: (2 << low_bits) - divisor }
    }

    fn bits(&self, indices: &[u16]) -> f64 {
        let mut next = 0;
        let mut variable = 0;
        for &index in indices {
            let gap = usize::from(index) - next;
            next = usize::from(index) + 1;
            variable += 1 + gap / self.divisor + usize::from(gap % self.divisor >= self.short);
        }
        whole_bytes(self.low_bits * indices.len()) + variable as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_chunk_at_k_64_costs_what_the_formats_say() {
        let even: Vec<u16> = (0..64).map(|i| i * 64).collect();
        let bits = |code, picked| chunk_bits(Select::TopK(64), Values::Sign2, code, CHUNK_ELEMENTS, picked);
        assert_eq!(bits(IndexCode::Packed12, None), 8.0 * 113.0);
        assert_eq!(bits(IndexCode::EliasFano, None), 8.0 * 81.0);
        // the divisor is 44, so five bits of each remainder, a unary 01 for each gap of 63 and one extra bit for each remainder of 20 or more;
        // the first gap is zero
        assert_eq!(bits(IndexCode::Golomb, Some(&even)), 2.0 + 8.0 * 16.0 + 320.0 + 63.0 * 2.0 + 1.0);
        let offsets = chunk_bits(Select::GroupMax(32), Values::Sign1, IndexCode::Packed12, CHUNK_ELEMENTS, None);
        assert_eq!(offsets, 8.0 * (1.0 + 16.0 + 80.0));
    }

    #[test]
    fn k_of_equal_bytes_is_the_largest_that_fits() {
        assert_eq!(k_of_equal_bytes(Values::Sign2, IndexCode::Packed12), 64);
        assert_eq!(k_of_equal_bytes(Values::Sign1, IndexCode::Packed12), 68);
        assert_eq!(k_of_equal_bytes(Values::Sign1, IndexCode::EliasFano), 72);
    }

    #[test]
    fn ways_to_choose_are_counted() {
        assert!((log2_choose(5, 2) - 10f64.log2()).abs() < 1e-12);
        assert!((log2_choose(4096, 64) / 64.0 - 7.364).abs() < 1e-3);
        assert_eq!(log2_choose(4, 0), 0.0);
    }
}
