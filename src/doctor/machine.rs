//! What this machine is, and what its processors do.

use std::fs;
use std::num::NonZero;
use std::thread;

use anyhow::{Context as _, Result};
use model::{Device, ModelError, probe};
use protocol::{Architecture, Manifest};
use serde::Serialize;

/// FLOP of a training step per parameter and token: two for the forward pass, four for the backward pass.
pub const FLOP: f64 = 6.0;
/// A run's own step is measured if its FLOP take no longer than so many seconds of a product.
const CHEAP: f64 = 0.2;
/// Where the system says how much memory a container may have.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// A machine and its processors.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// As the system calls it.
    pub cpu: String,
    /// What this process may use.
    pub cores: usize,
    /// Cores' worth of work that was waiting or running in the minute before.
    pub load: f64,
    /// Threads that tensor work was measured with on the CPU.
    pub threads: u16,
    /// Of the host, or of the container that this runs in.
    pub memory_bytes: u64,
    /// What the CPU does.
    pub rates: Rates,
    /// In the driver's order.
    pub gpus: Vec<Gpu>,
    /// Why there is no GPU, if there is none.
    pub no_gpu: Option<String>,
}

/// A CUDA device.
#[derive(Debug, Serialize)]
pub struct Gpu {
    /// Its name for `--devices`.
    pub device: String,
    /// As the driver calls it.
    pub name: String,
    /// Such as `sm_90`.
    pub architecture: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// What it does; `None` if it cannot be used.
    pub rates: Option<Rates>,
    /// Why it cannot.
    pub problem: Option<String>,
}

/// What a device does in a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Bytes read and written by a copy in its memory.
    pub copy_bytes: f64,
    /// Of a large square product: f32 on the CPU, bf16 on CUDA.
    pub product_flops: f64,
    /// Of inner steps of the probe's model, at 6 FLOP per parameter and token.
    pub step_flops: f64,
}

/// How fast a run's tokens are trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pace {
    /// By all devices that train.
    pub tokens_per_second: f64,
    /// Whether it is that of steps of the run's own model; if not, it follows from the probe's.
    pub measured: bool,
}

impl Machine {
    /// Looks at the machine and measures each device, GPUs first: libtorch settles at its first work whether CUDA exists.
    pub fn measure(threads: Option<u16>) -> Result<Self> {
        let (cores, load) = (thread::available_parallelism().map_or(1, NonZero::get), load());
        let gpus: Vec<Gpu> = kernels::devices().into_iter().enumerate().map(|(index, info)| Gpu::measure(index, &info)).collect();
        let no_gpu = gpus.is_empty().then(|| why_none().map_or_else(|| "the driver shows none".into(), |error| error.to_string()));
        let all = u16::try_from(cores).unwrap_or(u16::MAX);
        let (rates, threads) = cpu(threads.map_or_else(|| vec![1, all], |threads| vec![threads.max(1)])).context("measuring the CPU")?;
        Ok(Self { cpu: Device::Cpu.device_name(), cores, load, threads, memory_bytes: memory()?, rates, gpus, no_gpu })
    }

    /// Whether other work took so much of the CPU that figures are lower than they could be.
    pub fn is_busy(&self) -> bool {
        self.load > 0.5 * self.cores as f64
    }

    /// Devices that can train: every GPU that can be used, else the CPU.
    pub fn workers(&self) -> Vec<(Device, Rates)> {
        let usable = self.gpus.iter().enumerate().filter_map(|(index, gpu)| Some((Device::Cuda(index), gpu.rates?)));
        let gpus: Vec<_> = usable.collect();
        if gpus.is_empty() { vec![(Device::Cpu, self.rates)] } else { gpus }
    }

    /// Bytes of the GPUs that can be used; 0 if there is none.
    pub fn gpu_bytes(&self) -> u64 {
        self.gpus.iter().filter(|gpu| gpu.rates.is_some()).map(|gpu| gpu.memory_bytes).sum()
    }

    /// How fast this machine trains on a run's tokens: measured where one device trains and a micro-batch is cheap.
    pub fn pace(&self, manifest: &Manifest) -> Pace {
        let (model, sequences) = (&manifest.model, manifest.inner.micro_batch);
        let per_token = FLOP * manifest.layout().parameters() as f64;
        let workers = self.workers();
        if let [(device, rates)] = workers[..]
            && per_token * f64::from(sequences) * model.sequence_length as f64 <= CHEAP * rates.product_flops
            && let Ok(tokens_per_second) = probe::step_rate(model, sequences, device)
        {
            return Pace { tokens_per_second, measured: true };
        }
        let step_flops: f64 = workers.iter().map(|(_, rates)| rates.step_flops).sum();
        Pace { tokens_per_second: step_flops / per_token, measured: false }
    }
}

impl Gpu {
    fn measure(index: usize, info: &kernels::DeviceInfo) -> Self {
        let device = Device::Cuda(index);
        let measured = Rates::measure(device);
        Self {
            device: device.to_string(),
            name: info.name.clone(),
            architecture: info.arch.to_string(),
            memory_bytes: info.memory as u64,
            problem: measured.as_ref().err().map(ToString::to_string),
            rates: measured.ok(),
        }
    }
}

impl Rates {
    fn measure(device: Device) -> Result<Self, ModelError> {
        Self::beside(step_flops(device)?, device)
    }

    /// What a device does beside inner steps.
    fn beside(step_flops: f64, device: Device) -> Result<Self, ModelError> {
        Ok(Self { copy_bytes: probe::copy_rate(device)?, product_flops: probe::product_rate(device)?, step_flops })
    }
}

/// What the CPU does with so many of `threads` with which inner steps are fastest: threads of one operation wait actively for one another, so
/// that more of them are slower where other work runs.
fn cpu(mut threads: Vec<u16>) -> Result<(Rates, u16), ModelError> {
    threads.dedup();
    let mut best = (0.0, 1);
    for threads in threads {
        model::set_threads(threads);
        let step_flops = step_flops(Device::Cpu)?;
        if step_flops > best.0 {
            best = (step_flops, threads);
        }
    }
    let (step_flops, threads) = best;
    model::set_threads(threads);
    Ok((Rates::beside(step_flops, Device::Cpu)?, threads))
}

/// FLOP per second of the probe model's inner steps.
fn step_flops(device: Device) -> Result<f64, ModelError> {
    let (shape, sequences) = shape(device);
    let parameters: usize = shape.tensors().iter().map(|(spec, _)| spec.len()).sum();
    Ok(FLOP * parameters as f64 * probe::step_rate(&shape, sequences, device)?)
}

/// The probe's model and micro-batch: two layers, wide enough to be as efficient as a run's and small enough for seconds.
fn shape(device: Device) -> (Architecture, u32) {
    let narrow = Architecture {
        vocab_size: 4096,
        hidden_size: 768,
        layers: 2,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        intermediate_size: 2048,
        sequence_length: 256,
        rope_theta: 1e4,
        norm_eps: 1e-5,
        tied_embeddings: true,
        init_std: 0.02,
    };
    let wide = || Architecture {
        vocab_size: 32_768,
        hidden_size: 2048,
        heads: 32,
        kv_heads: 8,
        intermediate_size: 8192,
        sequence_length: 2048,
        ..narrow.clone()
    };
    if device == Device::Cpu { (narrow, 1) } else { (wide(), 2) }
}

/// Load of the last minute; 0 if the system says none.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// What libtorch or the driver says against the first GPU.
fn why_none() -> Option<ModelError> {
    probe::copy_rate(Device::Cuda(0)).err()
}

/// Bytes of memory: what the machine has, or less where a container is given less.
fn memory() -> Result<u64> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let total = total_of(&text).with_context(|| format!("{path} says no MemTotal"))?;
    let limits = LIMITS.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    Ok(limits.fold(total, u64::min))
}

/// The bytes in meminfo's `MemTotal:  24000000 kB`.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn memory_is_read_as_the_system_writes_it() {
        assert_eq!(total_of("MemTotal:       24689212 kB\nMemFree:  1 kB\n"), Some(24_689_212 * 1024));
        assert_eq!([total_of(""), total_of("MemTotal: many"), total_of("MemFree: 1 kB")], [None; 3]);
        assert!(memory().unwrap() > 0);
    }

    #[test]
    fn the_probes_models_are_models() {
        for device in [Device::Cpu, Device::Cuda(0)] {
            shape(device).0.validate().unwrap();
        }
    }

    fn machine(gpus: Vec<Gpu>) -> Machine {
        let rates = Rates { copy_bytes: 1e10, product_flops: 1e6, step_flops: 1e11 };
        Machine { cpu: "CPU".into(), cores: 2, load: 0.0, threads: 2, memory_bytes: 1 << 34, rates, gpus, no_gpu: None }
    }

    fn gpu(step_flops: Option<f64>) -> Gpu {
        let rates = step_flops.map(|step_flops| Rates { copy_bytes: 1e12, product_flops: 1e6, step_flops });
        Gpu { device: "cuda".into(), name: "GPU".into(), architecture: "sm_90".into(), memory_bytes: 80, rates, problem: None }
    }

    #[test]
    fn gpus_that_work_train_together_and_else_the_cpu() {
        let manifest = Manifest::draft(protocol::RunConfig::parse(include_str!("../../configs/150m.toml")).unwrap()).unwrap();
        let per_token = FLOP * manifest.layout().parameters() as f64;
        for (gpus, workers, bytes, flops) in
            [(vec![], 1, 0, 1e11), (vec![gpu(None)], 1, 0, 1e11), (vec![gpu(Some(1e14)), gpu(None), gpu(Some(3e14))], 2, 160, 4e14)]
        {
            let machine = machine(gpus);
            let pace = machine.pace(&manifest);
            assert_eq!((machine.workers().len(), machine.gpu_bytes()), (workers, bytes));
            assert_eq!(pace, Pace { tokens_per_second: flops / per_token, measured: false });
        }
        assert_eq!(machine(vec![gpu(None), gpu(Some(1.0))]).workers()[0].0, Device::Cuda(1));
        assert!(!machine(vec![]).is_busy() && Machine { load: 1.5, ..machine(vec![]) }.is_busy());
    }
}
