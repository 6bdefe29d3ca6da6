//! Reproducible data for the tests of this crate.

/// SplitMix64 with the distributions that the tests need.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub fn gaussian(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub fn laplace(&mut self) -> f64 {
        let u = self.uniform() - 0.5;
        -u.signum() * (1.0 - 2.0 * u.abs()).ln()
    }

    pub fn student_t(&mut self, degrees: u32) -> f64 {
        let squares: f64 = (0..degrees).map(|_| self.gaussian().powi(2)).sum();
        self.gaussian() / (squares / f64::from(degrees)).sqrt()
    }
}

use proptest::prelude::*;

/// k of n strictly ascending indices for any `1 <= k <= n <= most`: anywhere, or all in a narrow range.
pub(crate) fn index_set(most: usize) -> impl Strategy<Value = (usize, Vec<u16>)> {
    let n = prop_oneof![Just(most), 1..=most, 1..=most.min(70)];
    let shape = n.prop_flat_map(|n| (Just(n), prop_oneof![1..=n, 1..=n.min(130), Just(n.min(64))]));
    (shape, any::<u64>(), any::<bool>()).prop_map(|((n, k), seed, narrow)| (n, pick(n, k, seed, narrow)))
}

/// k of n indices by Floyd's sampling, from a range of 2 k if `narrow`.
pub(crate) fn pick(n: usize, k: usize, seed: u64, narrow: bool) -> Vec<u16> {
    let mut random = random(seed);
    let range = if narrow { n.min(2 * k) } else { n };
    let first = random() as usize % (n - range + 1);
    let mut picked = std::collections::BTreeSet::new();
    for last in range - k..range {
        let one = random() as usize % (last + 1);
        if !picked.insert(one) {
            picked.insert(last);
        }
    }
    picked.into_iter().map(|index| (first + index) as u16).collect()
}

/// SplitMix64.
pub(crate) fn random(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (seed ^ seed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }
}
