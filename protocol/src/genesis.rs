//! Initial tensors from integers alone, so that the genesis root is the same on every machine.
//!
//! Element i of tensor `name` reads bytes 8i..8i+8 of BLAKE3's extendable output over (seed, name) as four little-endian u16
//! a, b, c, d and takes n = a + b + c + d − 131,070, an integer with mean 0 and variance (65,536² − 1)/3: the sum of four uniforms, close to
//! normal. The element is f32(n) · s, one rounded multiplication, where s = f32(std / √((65,536² − 1)/3)), computed in f64.

use compression::State;
use rayon::prelude::*;

use crate::architecture::Init;
use crate::{Digest, Manifest};

const CONTEXT: &str = "tributary 2026 genesis tensor v1";

/// The seed of a run's initial tensors: what identifies the launch, without the genesis root itself.
fn seed(manifest: &Manifest) -> Digest {
    let chain = &manifest.chain;
    Digest::derive(
        "tributary 2026 genesis seed v1",
        &[manifest.name.as_bytes(), &chain.genesis.0, &chain.netuid.to_le_bytes(), &chain.launch_key.0, &chain.start_block.to_le_bytes()],
    )
}

/// The state at round 0.
///
/// # Panics
/// Never for a validated manifest.
pub fn initial_state(manifest: &Manifest) -> State {
    let seed = seed(manifest);
    let tensors = manifest.model.tensors();
    let mut data: Vec<_> = tensors.par_iter().map(|(spec, init)| initial_tensor(&seed, &spec.name, spec.len(), *init)).collect();
    let layout = manifest.state_layout();
    data.extend(layout.tensors()[data.len()..].iter().map(|residual| vec![0.0; residual.len()]));
    State::new(layout, 0, data).expect("the tensors follow the layout")
}

fn initial_tensor(seed: &Digest, name: &str, len: usize, init: Init) -> Vec<f32> {
    let Init::Normal(std) = init else {
        return vec![1.0; len];
    };
    let unit = ((65_536.0f64 * 65_536.0 - 1.0) / 3.0).sqrt();
    let scale = (f64::from(std) / unit) as f32;
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&seed.0).update(name.as_bytes());
    let mut stream = hasher.finalize_xof();
    let mut data = Vec::with_capacity(len);
    let mut block = vec![0u8; 1 << 16];
    while data.len() < len {
        let take = (len - data.len()).min(block.len() / 8);
        stream.fill(&mut block[..take * 8]);
        data.extend(block[..take * 8].as_chunks::<8>().0.iter().map(|b| element(b) as f32 * scale));
    }
    data
}

fn element(bytes: &[u8; 8]) -> i32 {
    let [a, b, c, d, e, f, g, h] = *bytes;
    [[a, b], [c, d], [e, f], [g, h]].into_iter().map(|pair| i32::from(u16::from_le_bytes(pair))).sum::<i32>() - 131_070
}

#[cfg(test)]
#[path = "genesis_tests.rs"]
mod tests;
