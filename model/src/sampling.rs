//! Text from the model.

use crate::{Llama, ModelError};

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and two multiplications per number, enough for sampling.
struct SplitMix(u64);

impl SplitMix {
    /// Uniform in [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Llama {
    /// Up to `count` tokens that continue `prompt`, which is not repeated. Temperature 0 takes the likeliest token; above 0, tokens are drawn
    /// from softmax(logits / temperature), the same ones for the same seed. Ends early at `stop`, which is not returned.
    /// Only the last `sequence_length` tokens are looked at.
    ///
    /// # Errors
    /// For an empty prompt, a token outside the vocabulary, or a temperature that is negative or not finite.
    pub fn generate(&self, prompt: &[u32], count: usize, temperature: f64, seed: u64, stop: Option<u32>) -> Result<Vec<u32>, ModelError> {
        if prompt.is_empty() {
            return Err(ModelError::Empty);
        }
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(ModelError::Temperature(temperature));
        }
        let mut random = SplitMix(seed);
        let mut tokens = prompt.to_vec();
        for _ in 0..count {
            let window = &tokens[tokens.len().saturating_sub(self.network.architecture.sequence_length)..];
            let next = pick(&self.logits_from(window, window.len() - 1)?, temperature, &mut random);
            if Some(next) == stop {
                break;
            }
            tokens.push(next);
        }
        Ok(tokens.split_off(prompt.len()))
    }
}

/// A token drawn by its logit; `logits` is not empty.
fn pick(logits: &[f32], temperature: f64, random: &mut SplitMix) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
    if temperature == 0.0 {
        return best as u32;
    }
    let weight = |logit: &f32| ((f64::from(*logit) - f64::from(logits[best])) / temperature).exp();
    let mut left = random.uniform() * logits.iter().map(weight).sum::<f64>();
    let drawn = logits.iter().position(|logit| {
        left -= weight(logit);
        left < 0.0
    });
    drawn.unwrap_or(best) as u32
}
