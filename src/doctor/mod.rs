//! `tributary doctor`: what this machine does, and which runs it can mine.

mod disk;
mod machine;
mod report;
mod store;
mod verdict;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use protocol::{Manifest, RunConfig};
use storage::{Access, Budget};

use crate::plan::link::Link;
use crate::{check::Costs, cli::LinkArgs, context, output};
use machine::Machine;
use report::Report;
use store::Store;
use verdict::{Means, verdict};

/// The configs that come with the command, by size.
const CONFIGS: [(&str, &str); 5] = [
    ("demo.toml", include_str!("../../configs/demo.toml")),
    ("150m.toml", include_str!("../../configs/150m.toml")),
    ("1b.toml", include_str!("../../configs/1b.toml")),
    ("8b.toml", include_str!("../../configs/8b.toml")),
    ("72b.toml", include_str!("../../configs/72b.toml")),
];

/// Options of `tributary doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
A copy counts bytes read and written. A product is of large square matrices, in f32 on the CPU and in bf16 on a GPU. An inner step is of a small
Llama: forward, backward and AdamW, at 6 FLOP per parameter and token; its part of the product's rate is the efficiency that other models are
taken to have. A run whose own step is cheap is measured itself.

A run can be mined if there is room (on GPUs for the training, as tributary check has it; on the host for what goes to disk and stores, without GPUs
for both; on the disk for the home), one inner step fits into the training time after the last record was applied, and the payload is up before the close, as tributary plan has
it. The share is of the longest round with its first leads: one that closes early is shorter.

Examples:
  tributary doctor
  tributary doctor configs/8b.toml --home /srv/miner --store 's3://alice?endpoint=https://ACCOUNT.r2.cloudflarestorage.com'
  tributary doctor --json")]
pub struct DoctorArgs {
    /// The runs' configs. By default those that come with the command.
    #[arg(value_name = "CONFIG")]
    configs: Vec<PathBuf>,
    /// Where a node would keep what it must not lose: the disk there is measured.
    #[arg(long, value_name = "DIR", default_value = ".")]
    home: PathBuf,
    /// A bucket that you may write, your own or the run's folder: the link to it is measured, with objects that are deleted again.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Miners whose payloads a round applies. By default as many as each config allows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    peers: Option<u32>,
    /// Threads for tensor work on the CPU. By default one, or one per core, whichever is faster.
    #[arg(long, value_name = "N")]
    threads: Option<u16>,
    #[command(flatten)]
    link: LinkArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command. What can be refused comes first.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let manifests = args.manifests()?;
    let home = context::expand(&args.home);
    let disk = disk::measure(&home)?;
    let store = args.measure_store()?;
    let machine = Machine::measure(args.threads)?;
    let means = Means {
        gpus: machine.gpus.iter().filter(|gpu| gpu.rates.is_some()).count() as u64,
        gpu_bytes: machine.gpu_bytes(),
        host_bytes: machine.memory_bytes,
        cores: machine.cores as f64,
        disk: disk.write_bytes_per_second,
        disk_bytes: disk.free_bytes,
        link: link(store.as_ref(), args.link.connections),
    };
    let judge = |manifest: &Manifest| verdict(manifest, &Costs::of(manifest, args.peers, 1), &means, machine.pace(manifest));
    let runs = manifests.iter().map(judge).collect();
    output::report(&Report { machine, home: home.display().to_string(), disk, store, runs }, args.json);
    Ok(())
}

impl DoctorArgs {
    fn manifests(&self) -> Result<Vec<Manifest>> {
        if self.configs.is_empty() {
            let ours = CONFIGS.iter();
            return ours.map(|(name, text)| Manifest::draft(RunConfig::parse(text).context(*name)?).context(*name)).collect();
        }
        let read = |path: &PathBuf| Manifest::draft(context::read_config(path)?).with_context(|| path.display().to_string());
        self.configs.iter().map(read).collect()
    }

    fn measure_store(&self) -> Result<Option<Store>> {
        let Some(address) = &self.store else { return Ok(None) };
        let stores = self.link.stores(Access::Trusted)?;
        context::block_on(store::measure(&stores, address)).context("--store").map(Some)
    }
}

/// The link to a store as it was measured; without one, a link on which everything is there at once.
fn link(store: Option<&Store>, connections: usize) -> Link {
    let budget = Budget::new(Budget::MEMORY, connections, storage::Rates::default());
    match store {
        Some(store) => Link::seen(store.up_bytes_per_second, store.down_bytes_per_second, store.round_trip_seconds, budget),
        None => Link::seen(f64::INFINITY, f64::INFINITY, 0.0, budget),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_the_command_is_a_run() {
        for (name, text) in CONFIGS {
            assert!(RunConfig::parse(text).is_ok_and(|config| Manifest::draft(config).is_ok()), "{name}");
        }
    }
}
