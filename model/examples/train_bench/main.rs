//! Inner steps per second beside PyTorch's, on the same device in the same run, and the share of the device's own product rate.
//!
//!     train_bench [1b|tiny] [DEVICE] [SEQUENCES]      # 1b cuda:0 8
//!
//! `1b` is the shape of configs/1b.toml, sequences of 2048 tokens. `pytorch.py` beside this file does the same steps, eager and compiled, run by `python3`
//! (set PYTHON for another one) where that has torch; set PYTORCH to its path if it lies elsewhere. One inner step here is one micro-batch.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use model::{Device, probe};
use protocol::Architecture;

/// Tokens per second, by name.
type Rates = Vec<(String, f64)>;

fn architecture(name: &str) -> Architecture {
    let tiny = Architecture {
        vocab_size: 257,
        hidden_size: 128,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        intermediate_size: 352,
        sequence_length: 128,
        rope_theta: 500_000.0,
        norm_eps: 1e-5,
        tied_embeddings: true,
        init_std: 0.02,
    };
    match name {
        "tiny" => tiny,
        "1b" => Architecture {
            vocab_size: 128_256,
            hidden_size: 2048,
            layers: 16,
            heads: 32,
            kv_heads: 8,
            head_dim: 64,
            intermediate_size: 8192,
            sequence_length: 2048,
            ..tiny
        },
        other => panic!("there is no shape {other}: 1b or tiny"),
    }
}

/// The shape as pytorch.py reads it.
fn json(a: &Architecture) -> String {
    format!(
        "{{\"vocab_size\":{},\"hidden_size\":{},\"layers\":{},\"heads\":{},\"kv_heads\":{},\"head_dim\":{},\"intermediate_size\":{},\
         \"sequence_length\":{},\"rope_theta\":{:?},\"norm_eps\":{:?},\"tied_embeddings\":{}}}",
        a.vocab_size,
        a.hidden_size,
        a.layers,
        a.heads,
        a.kv_heads,
        a.head_dim,
        a.intermediate_size,
        a.sequence_length,
        a.rope_theta,
        a.norm_eps,
        a.tied_embeddings
    )
}

/// What pytorch.py measures; nothing, and why, where it does not run.
fn pytorch(architecture: &Architecture, sequences: u32, device: &str) -> Rates {
    let path = std::env::var("PYTORCH").unwrap_or_else(|_| "model/examples/train_bench/pytorch.py".into());
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let output = match Command::new(python).args([path, json(architecture), sequences.to_string(), device.into()]).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => {
            eprintln!("no PyTorch: {}", String::from_utf8_lossy(&output.stderr).trim());
            return Rates::new();
        }
        Err(error) => {
            eprintln!("no PyTorch: python3 does not run ({error})");
            return Rates::new();
        }
    };
    let number = |name: &str| {
        let (_, rest) = output.split_once(&format!("\"{name}\": "))?;
        rest.split([',', '}']).next()?.trim().parse().ok()
    };
    let parameters: f64 = number("parameters").unwrap();
    assert_eq!(parameters, architecture.tensors().iter().map(|(spec, _)| spec.len()).sum::<usize>() as f64, "another model");
    ["eager", "compiled"].iter().filter_map(|name| Some((format!("PyTorch, {name}"), number(name)?))).collect()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.into());
    let (shape, name, sequences) = (architecture(&next("1b")), next("cuda:0"), next("8").parse().unwrap());
    let device: Device = name.parse().unwrap();
    let ours = probe::step_rate(&shape, sequences, device).unwrap();
    let products = probe::product_rate(device).unwrap();
    let parameters = shape.tensors().iter().map(|(spec, _)| spec.len()).sum::<usize>() as f64;
    println!(
        "{parameters:.4e} parameters, {sequences} sequences of {} tokens on {name}; products at {:.3} TFLOP/s",
        shape.sequence_length,
        products / 1e12
    );
    let rates = [vec![("tributary".into(), ours)], pytorch(&shape, sequences, &name)].concat();
    for (what, rate) in rates {
        let share = 6.0 * parameters * rate / products;
        println!("{what:<20} {rate:>12.0} tokens/s   6ND {:>5.1} % of the products   tributary is {:.2} x", 100.0 * share, ours / rate);
    }
}
