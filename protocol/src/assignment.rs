//! Which sequences a miner trains on in a round: unpredictable before the round opens, recomputable by anyone after.

use crate::{Digest, Hotkey, RunId};

/// A stream of pseudo-random indices of training sequences.
///
/// Index i = ⌊x·n / 2^64⌋ where x is the i-th little-endian u64 of the BLAKE3 extendable output over the parts below and n the number of training sequences.
#[derive(Clone, Debug)]
pub struct Assignment {
    hasher: blake3::Hasher,
    sequences: u64,
}

impl Assignment {
    /// The data of `hotkey` in the round that opened at the block with hash `open`; `sequences` is the data set's count, at least 1.
    pub fn miner(run: &RunId, open: &Digest, hotkey: &Hotkey, sequences: u64) -> Self {
        Self::new("tributary 2026 assignment v1", &[&run.0, &open.0, &hotkey.0], sequences)
    }

    /// The random batch on which all payloads of a round are compared; `seed` is the hash of the first block after the close.
    pub fn random(run: &RunId, seed: &Digest, sequences: u64) -> Self {
        Self::new("tributary 2026 random batch v1", &[&run.0, &seed.0], sequences)
    }

    fn new(context: &str, parts: &[&[u8]], sequences: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(part);
        }
        Self { hasher, sequences }
    }

    /// `count` indices from the stream's position `from`.
    pub fn indices(&self, from: u64, count: usize) -> Vec<u64> {
        let mut stream = self.hasher.finalize_xof();
        stream.set_position(from * 8);
        let mut word = [0; 8];
        let draw = |_| {
            stream.fill(&mut word);
            ((u128::from(u64::from_le_bytes(word)) * u128::from(self.sequences)) >> 64) as u64
        };
        (0..count).map(draw).collect()
    }

    /// The stream's first `count` different indices, or as many as there are, in the order of their first appearance.
    pub fn distinct(&self, count: usize) -> Vec<u64> {
        let count = count.min(usize::try_from(self.sequences).unwrap_or(usize::MAX));
        let mut found = Vec::with_capacity(count);
        let mut from = 0;
        while found.len() < count {
            for index in self.indices(from, count) {
                if found.len() < count && !found.contains(&index) {
                    found.push(index);
                }
            }
            from += count as u64;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_in_range_reproducible_and_differ_by_miner_and_block() {
        let (run, open) = (Digest::of(b"run"), Digest::of(b"block"));
        let a = Assignment::miner(&run, &open, &Hotkey([1; 32]), 1000);
        let all = a.indices(0, 500);
        assert!(all.iter().all(|&i| i < 1000));
        assert_eq!(a.indices(100, 50), all[100..150]);
        assert_ne!(Assignment::miner(&run, &open, &Hotkey([2; 32]), 1000).indices(0, 500), all);
        assert_ne!(Assignment::miner(&run, &run, &Hotkey([1; 32]), 1000).indices(0, 500), all);
        assert_eq!(Assignment::miner(&run, &open, &Hotkey([1; 32]), 1).indices(0, 3), [0, 0, 0]);
    }

    #[test]
    fn distinct_indices_are_the_streams_without_repetition() {
        let few = Assignment::miner(&Digest::of(b"run"), &Digest::of(b"block"), &Hotkey([1; 32]), 10);
        let mut all = few.distinct(99);
        let stream = few.indices(0, 200);
        assert!(all.is_sorted_by_key(|x| stream.iter().position(|y| y == x)));
        assert_eq!(few.distinct(4), all[..4]);
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn golden_indices() {
        let (run, block) = (Digest([1; 32]), Digest([2; 32]));
        assert_eq!(Assignment::miner(&run, &block, &Hotkey([3; 32]), 1000).indices(0, 4), [43, 284, 147, 625]);
        assert_eq!(Assignment::random(&run, &block, 1000).indices(2, 4), [294, 500, 101, 760]);
    }
}
