//! `tributary plan`: what a round takes over a given link, which term binds, and what was measured on the same link.

pub mod link;
mod measured;
mod report;
pub mod round;
pub mod size;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use protocol::Manifest;
use storage::{Budget, Rates};

use crate::{
    check::{Costs, VALIDATORS},
    context, output,
};
use link::Link;
use report::Report;
use round::Node;

/// Options of `tributary plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
A model, with its assumptions: every node has this link; a TCP connection carries MSS / RTT · 1.22 / √loss (Mathis et al., 1997), and without losses
what the link carries (pass --loss 0 for BBR, which does not take random losses for congestion); links carry 1448 of 1500 bytes; what is said on
the chain is read when its block is final; a forward pass costs a third of a training step; codec, merge and hash run at the rates of
docs/compression.md on each core. What the exchange measured on the same link is shown beside it, from docs/network.md.

Examples:
  tributary plan configs/72b.toml --up 110 --down 500 --peers 20
  tributary plan configs/8b.toml --up 1000 --down 1000 --loss 0 --json")]
pub struct PlanArgs {
    /// The run's config, e.g. configs/72b.toml.
    config: PathBuf,
    /// Every node's link towards stores, in Mbit/s.
    #[arg(long, value_name = "MBIT/S")]
    up: f64,
    /// Every node's link from stores, in Mbit/s.
    #[arg(long, value_name = "MBIT/S")]
    down: f64,
    /// Miners whose payloads a round applies. By default as many as the config allows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    peers: Option<u32>,
    /// Validators.
    #[arg(long, value_name = "N", default_value_t = VALIDATORS, value_parser = clap::value_parser!(u32).range(1..=4096))]
    validators: u32,
    /// Round trip to the store, in ms.
    #[arg(long, value_name = "MS", default_value_t = 50.0)]
    rtt: f64,
    /// Packets that are lost, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.5)]
    loss: f64,
    /// Connections to stores, as the roles' option of this name.
    #[arg(long, value_name = "N", default_value_t = Budget::CONNECTIONS)]
    connections: usize,
    /// Tokens per second that a node trains on. By default what the config's training time needs.
    #[arg(long, value_name = "N")]
    tokens_per_second: Option<f64>,
    /// Cores of a node's CPU.
    #[arg(long, value_name = "N", default_value_t = 16)]
    cores: u32,
    /// What a node's disk takes, in GB/s.
    #[arg(long, value_name = "GB/S", default_value_t = 5.0)]
    disk: f64,
    /// Blocks after which what is said on the chain is final; 1 on an embedded ledger.
    #[arg(long, value_name = "BLOCKS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    finality: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &PlanArgs) -> Result<()> {
    let manifest = Manifest::draft(context::read_config(&args.config)?).with_context(|| args.config.display().to_string())?;
    args.check()?;
    let costs = Costs::of(&manifest, args.peers, args.validators);
    output::report(&Report::new(&manifest, &costs, &args.link(), &args.node(), args.validators)?, args.json);
    Ok(())
}

impl PlanArgs {
    fn check(&self) -> Result<()> {
        let rate = self.tokens_per_second.unwrap_or(1.0);
        let positive = [
            ("up", self.up),
            ("down", self.down),
            ("rtt", self.rtt),
            ("disk", self.disk),
            ("tokens-per-second", rate),
            ("cores", f64::from(self.cores)),
        ];
        for (name, value) in positive {
            ensure!(value.is_finite() && value > 0.0, "--{name} must be above 0");
        }
        ensure!((0.0..100.0).contains(&self.loss), "--loss must be from 0 to below 100");
        Ok(())
    }

    fn link(&self) -> Link {
        let budget = Budget::new(Budget::MEMORY, self.connections, Rates::default());
        Link { up: self.up, down: self.down, rtt: self.rtt / 1e3, loss: self.loss / 100.0, budget }
    }

    fn node(&self) -> Node {
        let (cores, disk) = (f64::from(self.cores), self.disk * 1e9);
        Node { cores, disk, tokens_per_second: self.tokens_per_second, finality: self.finality }
    }
}
