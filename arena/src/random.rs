//! Pseudo-random numbers that follow from a seed. Strategies need no better ones.

use protocol::Digest;

/// xorshift64*.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed and a name, so that no two users of one seed share a stream.
    pub fn new(seed: u64, name: &str) -> Self {
        let digest = Digest::of(&[&seed.to_le_bytes(), name.as_bytes()].concat());
        let word = digest.0.first_chunk().map_or(1, |word| u64::from_le_bytes(*word));
        Self(word | 1)
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from −1 to 1.
    pub fn symmetric(&mut self) -> f64 {
        2.0 * ((self.word() >> 11) as f64 / (1u64 << 53) as f64) - 1.0
    }

    /// A standard normal number (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let uniform = |word: u64| ((word >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let (radius, angle) = (uniform(self.word()), uniform(self.word()));
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// 32 random bytes.
    pub fn key(&mut self) -> [u8; 32] {
        let mut key = [0; 32];
        key.as_chunks_mut::<8>().0.iter_mut().for_each(|part| *part = self.word().to_le_bytes());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_follow_from_seed_and_name() {
        let draw = |seed, name| {
            let mut random = Random::new(seed, name);
            (random.key(), random.below(1000), random.symmetric())
        };
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a").0, draw(2, "a").0);
        assert_ne!(draw(1, "a").0, draw(1, "b").0);
    }

    #[test]
    fn draws_fill_their_ranges() {
        let mut random = Random::new(3, "range");
        let mut seen = [false; 7];
        (0..200).for_each(|_| seen[random.below(7) as usize] = true);
        assert_eq!(seen, [true; 7]);
        let all: Vec<f64> = (0..1000).map(|_| random.symmetric()).collect();
        assert!(all.iter().all(|x| (-1.0..1.0).contains(x)));
        assert!((all.iter().sum::<f64>() / 1000.0).abs() < 0.1);
    }
}
