//! Inner steps per second beside PyTorch's, on the same device in the same run, and the share of the device's own product rate.
//!
//!     train_bench [CONFIG] [DEVICE]      # configs/1b.toml cuda:0
//!
//! On a GPU also what they are without the kernels of this project. The model and the micro-batch are the config's; one inner step here is one
//! micro-batch. `pytorch.py` beside this file does the same steps, eager and compiled, run by `python3` (set PYTHON for another one) where that has torch; set
//! PYTORCH to its path if it lies elsewhere.

use std::error::Error;
use std::process::Command;

use model::{Device, probe};
use protocol::{Architecture, RunConfig};
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Tokens per second, by name.
type Rates = Vec<(String, f64)>;

/// What pytorch.py measures.
fn pytorch(architecture: &Architecture, sequences: u32, device: &str) -> Result<Rates> {
    let path = std::env::var("PYTORCH").unwrap_or_else(|_| "model/examples/train_bench/pytorch.py".into());
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let shape = serde_json::to_string(architecture)?;
    let output = Command::new(python).args([path, shape, sequences.to_string(), device.into()]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(said.trim().to_owned().into());
    }
    eprint!("{said}");
    let found: Value = serde_json::from_slice(&output.stdout)?;
    if found["parameters"].as_f64() != Some(parameters(architecture)) {
        return Err(format!("another model than ours: {found}").into());
    }
    let rate = |name: &&str| Some((format!("PyTorch, {name}"), found[*name].as_f64()?));
    Ok(["eager", "compiled"].iter().filter_map(rate).collect())
}

fn parameters(architecture: &Architecture) -> f64 {
    architecture.tensors().iter().map(|(spec, _)| spec.len()).sum::<usize>() as f64
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.into());
    let (config, name) = (next("configs/1b.toml"), next("cuda:0"));
    let RunConfig { model: shape, inner, .. } = RunConfig::parse(&std::fs::read_to_string(&config)?)?;
    let device: Device = name.parse()?;
    // first, while this process has no memory of the device
    let theirs = pytorch(&shape, inner.micro_batch, &name).unwrap_or_else(|error| {
        eprintln!("no PyTorch: {error}");
        Rates::new()
    });
    let ours = probe::step_rate(&shape, inner.micro_batch, device)?;
    let libtorch = probe::step_rate_of_libtorch(&shape, inner.micro_batch, device)?;
    if libtorch.is_none() && device != Device::Cpu {
        eprintln!("these are libtorch's operations alone: the kernels cannot be loaded, see kernels/README.md");
    }
    let products = probe::product_rate(device)?;
    let (size, sequences, length) = (parameters(&shape), inner.micro_batch, shape.sequence_length);
    println!(
        "{config}: {size:.4e} parameters, {sequences} sequences of {length} tokens on {name}; products at {:.3} TFLOP/s",
        products / 1e12
    );
    let own = [("tributary".to_owned(), Some(ours)), ("by libtorch alone".to_owned(), libtorch)];
    for (what, rate) in own.into_iter().filter_map(|(what, rate)| Some((what, rate?))).chain(theirs) {
        let share = 6.0 * size * rate / products;
        println!("{what:<20} {rate:>12.0} tokens/s   6ND {:>5.1} % of the products   tributary is {:.2} x", 100.0 * share, ours / rate);
    }
    Ok(())
}
