//! What a device does in a second: bytes copied, products, inner steps. Each figure is the median of several runs, after one that does not
//! count; a run ends when the device is done.

use std::time::{Duration, Instant};

use protocol::{Architecture, Inner};
use tch::{Kind, TchError, Tensor};

use crate::{Device, InnerOptimizer, Llama, ModelError, ffi};

/// Runs of each work, and how long it goes on at least.
const RUNS: usize = 3;
const TIME: Duration = Duration::from_millis(400);

/// Bytes per second that a device reads and writes in its own memory, both counted, while it copies 128 MiB, on CUDA 1 GiB, which few
/// caches hold.
///
/// # Errors
/// [`ModelError::Unavailable`] for a device that cannot be used; if libtorch fails, e.g. for lack of memory.
pub fn copy_rate(device: Device) -> Result<f64, ModelError> {
    let place = device.prepare()?;
    let elements: i64 = if device == Device::Cpu { 1 << 25 } else { 1 << 28 };
    let ones = || Tensor::f_ones([elements], (Kind::Float, place)).map_err(ModelError::torch);
    let (from, mut to) = (ones()?, ones()?);
    let copy = || to.f_copy_(&from).and_then(|()| finish(&to)).map_err(ModelError::torch);
    Ok(2.0 * 4.0 * elements as f64 / median(copy)?)
}

/// FLOP per second of a large square product as the model takes it: in f32 on the CPU, in bf16 on CUDA.
///
/// # Errors
/// As [`copy_rate`].
pub fn product_rate(device: Device) -> Result<f64, ModelError> {
    let place = device.prepare()?;
    let (side, kind) = if device == Device::Cpu { (2048, Kind::Float) } else { (8192, Kind::BFloat16) };
    let random = || Tensor::f_randn([side, side], (kind, place)).map_err(ModelError::torch);
    let (a, b) = (random()?, random()?);
    let multiply = || match device {
        Device::Cpu => ffi::product(&a, &b),
        Device::Cuda(_) => a.f_linear(&b, None::<Tensor>),
    };
    let product = || multiply().and_then(|product| finish(&product)).map_err(ModelError::torch);
    let seconds = tch::no_grad(|| median(product))?;
    Ok(2.0 * (side as f64).powi(3) / seconds)
}

/// Tokens per second of inner steps of a model of this shape, each of one micro-batch of `sequences`: forward, backward and AdamW.
///
/// # Errors
/// As [`Llama::new`] and [`InnerOptimizer::step`].
pub fn step_rate(architecture: &Architecture, sequences: u32, device: Device) -> Result<f64, ModelError> {
    rate_of(Llama::new(architecture, device)?, sequences)
}

/// [`step_rate`] by libtorch alone, to see what this project's kernels are worth; `None` where there are none.
///
/// # Errors
/// As [`step_rate`].
pub fn step_rate_of_libtorch(architecture: &Architecture, sequences: u32, device: Device) -> Result<Option<f64>, ModelError> {
    let mut model = Llama::new(architecture, device)?;
    match model.network.fused.take() {
        Some(_) => rate_of(model, sequences).map(Some),
        None => Ok(None),
    }
}

fn rate_of(mut model: Llama, sequences: u32) -> Result<f64, ModelError> {
    let architecture = model.architecture().clone();
    // a device multiplies zeros with less power, and so faster
    tch::no_grad(|| model.weights.shares.iter_mut().try_for_each(|parameter| parameter.f_normal_(0.0, 0.02).map(drop)))
        .map_err(ModelError::torch)?;
    let mut optimizer = InnerOptimizer::new(&model, &rule(sequences))?;
    let token = |position: usize| (position * 7919 % architecture.vocab_size) as u32;
    let batch = vec![(0..=architecture.sequence_length).map(token).collect(); sequences as usize];
    let seconds = median(|| optimizer.step(&mut model, &batch).map(drop))?;
    Ok(f64::from(sequences) * architecture.sequence_length as f64 / seconds)
}

/// An inner step like any other.
fn rule(sequences: u32) -> Inner {
    Inner {
        steps: 1,
        batch: sequences,
        micro_batch: sequences,
        lr: 1e-4,
        warmup: 0,
        decay: 1000,
        floor: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 1.0,
    }
}

/// Reads an element, for which the device has to be done.
fn finish(tensor: &Tensor) -> Result<(), TchError> {
    tensor.f_double_value(&vec![0; tensor.dim()]).map(drop)
}

/// Median seconds of a work.
fn median(mut work: impl FnMut() -> Result<(), ModelError>) -> Result<f64, ModelError> {
    work()?;
    let (start, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < RUNS || start.elapsed() < TIME {
        let run = Instant::now();
        work()?;
        seconds.push(run.elapsed().as_secs_f64());
    }
    Ok(middle(seconds))
}

/// The median of at least one number, the larger of two.
fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_cpu_copies_multiplies_and_steps() {
        let shape = Architecture {
            vocab_size: 20,
            hidden_size: 8,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            intermediate_size: 8,
            sequence_length: 16,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            tied_embeddings: true,
            init_std: 0.1,
        };
        let rates = [copy_rate(Device::Cpu), product_rate(Device::Cpu), step_rate(&shape, 2, Device::Cpu)];
        assert!(rates.iter().all(|rate| rate.as_ref().is_ok_and(|rate| rate.is_finite() && *rate > 0.0)), "{rates:?}");
    }

    #[test]
    fn a_device_that_is_not_there_is_refused() {
        let far = Device::Cuda(4096);
        for refused in [copy_rate(far), product_rate(far)] {
            assert!(matches!(refused, Err(ModelError::Unavailable { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_median_is_none_of_the_outliers() {
        assert_eq!([vec![3.0], vec![2.0, 1.0], vec![0.3, 9.0, 0.2, 0.1, 0.4]].map(middle), [3.0, 2.0, 0.3]);
        let mut calls = 0;
        median(|| {
            calls += 1;
            Ok(())
        })
        .unwrap();
        assert!(calls > RUNS);
        assert!(matches!(median(|| Err(ModelError::Empty)), Err(ModelError::Empty)));
    }
}
