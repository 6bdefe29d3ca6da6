//! A small model with random parameters.
#![allow(dead_code, clippy::unwrap_used)]

use model::{Device, Llama, set_threads};
use protocol::{Architecture, Init, Inner};

/// 2 layers, 4 heads over 2 key heads, 20 tokens of vocabulary, sequences of 16.
pub fn architecture(tied_embeddings: bool) -> Architecture {
    Architecture {
        vocab_size: 20,
        hidden_size: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        intermediate_size: 40,
        sequence_length: 16,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        tied_embeddings,
        init_std: 0.05,
    }
}

/// AdamW with a short warm-up.
pub fn inner(batch: u32, micro_batch: u32) -> Inner {
    Inner {
        steps: 10,
        batch,
        micro_batch,
        lr: 1e-2,
        warmup: 3,
        decay: 1000,
        floor: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 1.0,
    }
}

/// Uniform numbers in [−1, 1) from a 64-bit linear congruential generator.
pub fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// Parameters with the standard deviations that the architecture asks for.
pub fn parameters(architecture: &Architecture, seed: u64) -> Vec<Vec<f32>> {
    let mut noise = noise(seed);
    let mut start = |init| match init {
        Init::Ones => 1.0,
        Init::Normal(std) => std * 3f32.sqrt() * noise(),
    };
    architecture.tensors().into_iter().map(|(spec, init)| (0..spec.len()).map(|_| start(init)).collect()).collect()
}

/// A loaded model on one thread of the CPU.
pub fn model(architecture: &Architecture) -> Llama {
    set_threads(1);
    let mut model = Llama::new(architecture, Device::Cpu).unwrap();
    model.load(&parameters(architecture, 1)).unwrap();
    model
}

/// Sequences whose next token follows from the last two.
pub fn batch(architecture: &Architecture, sequences: usize, length: usize) -> Vec<Vec<u32>> {
    let vocab = architecture.vocab_size as u32;
    let sequence = |start: u32| std::iter::successors(Some((start, start * 3 + 1)), |(a, b)| Some((b % vocab, (a + 2 * b + 1) % vocab)));
    (0..sequences).map(|start| sequence(start as u32).map(|(a, _)| a % vocab).take(length).collect()).collect()
}
