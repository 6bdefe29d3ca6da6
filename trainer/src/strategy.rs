//! What a miner does with its round. All but `Honest` exist to be caught, in the demo and in tests.

use std::str::FromStr;

/// How a miner makes its pseudo-gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Trains.
    #[default]
    Honest,
    /// Sends noise whose norm is that of honest work, and claims all sequences.
    Noise,
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "honest" => Ok(Self::Honest),
            "noise" => Ok(Self::Noise),
            _ => Err(format!("{s:?} is not a strategy; known are honest and noise")),
        }
    }
}

/// A pseudo-gradient of noise: uniform signs, magnitudes up to an AdamW step's worth of `lr` in each of `steps` steps.
pub(crate) fn noise(lengths: impl Iterator<Item = usize>, lr: f64, steps: u32, seed: u64) -> Vec<Vec<f32>> {
    let mut state = seed | 1;
    let bound = lr * f64::from(steps).sqrt();
    let mut draw = move || {
        // xorshift64*: noise needs no better
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let uniform = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64;
        ((2.0 * uniform - 1.0) * bound) as f32
    };
    lengths.map(|len| (0..len).map(|_| draw()).collect()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn strategies_are_known_by_name() {
        assert_eq!("honest".parse(), Ok(Strategy::default()));
        assert_eq!("noise".parse(), Ok(Strategy::Noise));
        assert!("lazy".parse::<Strategy>().unwrap_err().contains("honest and noise"));
    }

    #[test]
    fn noise_has_the_asked_shape_a_bound_and_no_direction() {
        let drawn = noise([1000, 0, 500].into_iter(), 0.01, 16, 7);
        assert_eq!(drawn.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 0, 500]);
        let all = drawn.concat();
        assert!(all.iter().all(|x| x.abs() <= 0.04) && all.iter().any(|x| x.abs() > 0.035));
        let mean = all.iter().sum::<f32>() / 1500.0;
        assert!(mean.abs() < 0.003, "{mean}");
        assert_ne!(drawn, noise([1000, 0, 500].into_iter(), 0.01, 16, 9));
    }
}
