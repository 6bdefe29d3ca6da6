//! CPU milliseconds per inner step and per evaluation of a 0.6 M-parameter model on one thread:
//! `cargo run --release -p model --example step_bench`.
#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use model::InnerOptimizer;
use protocol::Architecture;

const STEPS: usize = 100;

fn main() {
    let architecture = Architecture {
        vocab_size: 257,
        hidden_size: 128,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        intermediate_size: 352,
        sequence_length: 128,
        ..common::architecture(true)
    };
    let mut model = common::model(&architecture);
    let mut optimizer = InnerOptimizer::new(&model, &common::inner(8, 8)).unwrap();
    let batch = common::batch(&architecture, 8, 129);
    let tokens = 8.0 * 128.0;
    println!("{} parameters, {tokens} tokens per step", model.parameter_count());
    let step = median_ms(|| _ = optimizer.step(&mut model, &batch).unwrap());
    let evaluation = median_ms(|| drop(model.sequence_losses(&batch).unwrap()));
    println!("inner step {step:.2} ms ({:.0} tokens/s), forward and losses alone {evaluation:.2} ms", tokens / step * 1e3);
}

/// Median CPU time of the process, so that other processes do not count.
fn median_ms(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..STEPS)
        .map(|_| {
            let start = cpu_seconds();
            work();
            (cpu_seconds() - start) * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[STEPS / 2]
}

fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux and `time` is valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
