//! `tributary check`: is this config a run, and what would it cost?

use std::{fmt, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use protocol::{Manifest, sealed_len};
use serde::Serialize;
use storage::{Bill, Month, Prices};

use crate::{context, output, store::month};

/// Validators that read every payload, unless a command is told otherwise.
pub const VALIDATORS: u32 = 3;
/// Seconds of a block, here and on Subtensor.
pub const BLOCK_SECONDS: u64 = 12;
/// What a node of one and of eight GPUs needs is shown.
const GPUS: [u64; 2] = [1, 8];
/// Bytes per parameter that GPUs share: f32 master weights 4, f32 gradient 4, AdamW's two f32 moments 8.
const TRAINING_BYTES: u64 = 4 + 4 + 8;
/// The same, unless they lie with the host: f32 weights before the inner steps 4, f32 error feedback 4.
const ENCODING_BYTES: u64 = 4 + 4;
/// Bytes per parameter of the copy that is computed with, in bf16. Its layers are whole on each GPU where activations are kept.
const COPY_BYTES: u64 = 2;
/// Logits that exist at once at most, in bf16, whose place their gradients take (`model`).
const LOGITS_AT_ONCE: u64 = 1 << 29;

/// Options of `tributary check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Memory per GPU is 24 bytes per parameter, sharded evenly (f32 weights 4, gradients 4, AdamW moments
8, weights before the inner steps 4, error feedback 4; the last two are the host's with
`mine --offload`), 2 per parameter of the bf16 copy (sharded with `mine --recompute`), and
activations of one micro-batch: 34 bytes per token, layer and unit of hidden size (Korthikanti et
al., arXiv 2205.05198, eq. 1 with flash attention and without recomputation; with it, 34 for one
layer and 2 for each), and at most 1 GiB of logits.

A month is 30 days of whole rounds at the published prices of R2 and S3, all buckets together: what
is stored once retention lets go of as much as comes (after a month, if everything is kept),
requests, and what leaves the stores: each validator reads every payload, each miner and an
aggregator a bundle.

Examples:
  tributary check configs/72b.toml
  tributary check configs/8b.toml --peers 8 --json")]
pub struct CheckArgs {
    /// The run's config, e.g. configs/demo.toml.
    pub config: PathBuf,
    /// Miners whose payloads a round applies. By default as many as the config allows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub peers: Option<u32>,
    /// Validators that read every payload.
    #[arg(long, value_name = "N", default_value_t = VALIDATORS)]
    pub validators: u32,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &CheckArgs) -> Result<()> {
    let manifest = Manifest::draft(context::read_config(&args.config)?).with_context(|| args.config.display().to_string())?;
    output::report(&Costs::of(&manifest, args.peers, args.validators), args.json);
    Ok(())
}

/// What a run asks of those who take part.
#[derive(Debug, PartialEq, Serialize)]
pub struct Costs {
    /// What people call the run.
    pub name: String,
    /// Parameters, embeddings included.
    pub parameters: u64,
    /// Parameters without both tables.
    pub parameters_without_embeddings: u64,
    /// Of a node with one GPU and with eight, at most and at least.
    pub memory_per_gpu: Vec<Memory>,
    /// Miners whose payloads a round applies.
    pub peers: u64,
    /// A typical payload.
    pub payload_bytes: u64,
    /// How many times smaller than the parameters in f32.
    pub ratio_to_f32: f64,
    /// How many times smaller than in bf16.
    pub ratio_to_bf16: f64,
    /// A sealed payload.
    pub up_bytes_per_round: u64,
    /// The sealed payloads of all peers.
    pub down_bytes_per_round: u64,
    /// Tokens that a miner trains on in a round.
    pub tokens_per_miner: u64,
    /// Tokens that all do.
    pub tokens_per_round: u64,
    /// The longest that a round takes with its first leads.
    pub round_blocks: u64,
    /// The same in seconds.
    pub round_seconds: u64,
    /// The longest that a round trains.
    pub training_seconds: u64,
    /// Whether it may be shorter.
    pub early_close: bool,
    /// The state.
    pub snapshot_bytes: u64,
    /// Rounds from snapshot to snapshot.
    pub snapshot_every_rounds: u64,
    /// How long payloads and snapshots are kept; for ever, if there is no number.
    pub kept_rounds: Option<u64>,
    /// Bytes in all buckets together.
    pub stored_bytes: u64,
    /// What stores charge.
    pub month_usd: Vec<Monthly>,
}

/// A month at one store's prices, in US dollars.
#[derive(Debug, PartialEq, Serialize)]
pub struct Monthly {
    /// The store.
    pub store: &'static str,
    /// What it charges.
    #[serde(flatten)]
    pub bill: Bill,
}

/// What `tributary mine` may be told so that GPUs need less memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Saving {
    /// Error feedback and the weights before the inner steps lie with the host.
    pub offload: bool,
    /// Layers are computed again on the way back.
    pub recompute: bool,
}

impl Saving {
    /// All there are, the cheapest first.
    pub const ALL: [Self; 4] = [
        Self { offload: false, recompute: false },
        Self { offload: true, recompute: false },
        Self { offload: false, recompute: true },
        Self { offload: true, recompute: true },
    ];
}

impl fmt::Display for Saving {
    /// As options of `mine`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = [(self.offload, "--offload"), (self.recompute, "--recompute")];
        f.write_str(&options.into_iter().filter_map(|(given, option)| given.then_some(option)).collect::<Vec<_>>().join(" "))
    }
}

/// Bytes on each GPU of a node that trains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// GPUs of the node.
    pub gpus: u64,
    /// What makes it less.
    #[serde(flatten)]
    pub saving: Saving,
    /// Weights, gradients, moments, error feedback.
    pub state_bytes: u64,
    /// Activations of one micro-batch.
    pub activation_bytes: u64,
}

impl Costs {
    /// What follows from a manifest; by default for as many peers as it allows.
    pub fn of(manifest: &Manifest, peers: Option<u32>, validators: u32) -> Self {
        let (model, inner, times, layout) = (&manifest.model, &manifest.inner, &manifest.round, manifest.layout());
        let parameters = layout.parameters() as u64;
        let tables = if model.tied_embeddings { 1 } else { 2 };
        let payload_bytes = compression::typical_payload_len(&manifest.format());
        let residual = residual_bytes(manifest);
        let peers = u64::from(peers.unwrap_or(manifest.judge.top));
        let up = sealed_len(payload_bytes);
        let tokens_per_miner = u64::from(inner.steps).saturating_mul(u64::from(inner.batch)).saturating_mul(model.sequence_length as u64);
        let round_blocks = round_blocks(manifest);
        let rounds = month::rounds(manifest);
        let stored = month::stored(manifest, peers, rounds);
        let moved = Month { stored, ..month::traffic(manifest, peers, validators.into(), rounds) };
        Self {
            name: manifest.name.clone(),
            parameters,
            parameters_without_embeddings: parameters - tables * (model.vocab_size * model.hidden_size) as u64,
            memory_per_gpu: GPUS
                .map(|gpus| [Saving::default(), Saving { offload: true, recompute: true }].map(|saving| Memory::of(manifest, gpus, saving)))
                .concat(),
            peers,
            payload_bytes,
            ratio_to_f32: 4.0 * parameters as f64 / payload_bytes as f64,
            ratio_to_bf16: 2.0 * parameters as f64 / payload_bytes as f64,
            up_bytes_per_round: up,
            down_bytes_per_round: up.saturating_mul(peers),
            tokens_per_miner,
            tokens_per_round: tokens_per_miner.saturating_mul(peers),
            round_blocks,
            round_seconds: round_blocks.saturating_mul(BLOCK_SECONDS),
            training_seconds: (times.train - times.upload).saturating_mul(BLOCK_SECONDS),
            early_close: times.early_close,
            snapshot_bytes: parameters.saturating_mul(4 + residual),
            snapshot_every_rounds: manifest.checkpoints.every,
            kept_rounds: manifest.retention.rounds,
            stored_bytes: stored as u64,
            month_usd: Prices::ALL.map(|prices| Monthly { store: prices.name, bill: prices.bill(&moved) }).into(),
        }
    }
}

impl Memory {
    /// What a run's training takes on each of so many GPUs.
    pub fn of(manifest: &Manifest, gpus: u64, saving: Saving) -> Self {
        let parameters = manifest.layout().parameters() as u64;
        let encoding = if saving.offload { 0 } else { ENCODING_BYTES };
        let copies = if saving.recompute { 1 } else { gpus };
        let state_bytes = parameters.saturating_mul(TRAINING_BYTES + encoding + copies * COPY_BYTES).div_ceil(gpus);
        Self { gpus, saving, state_bytes, activation_bytes: activation_bytes(manifest, saving) }
    }

    /// What it takes on all of them together.
    pub fn total(&self) -> u64 {
        self.state_bytes.saturating_add(self.activation_bytes).saturating_mul(self.gpus)
    }
}

/// Lossy merges leave one more f32 per parameter in the state.
fn residual_bytes(manifest: &Manifest) -> u64 {
    if manifest.outer.resparsify.is_some() { 4 } else { 0 }
}

/// Blocks of the longest round with its first leads.
pub fn round_blocks(manifest: &Manifest) -> u64 {
    let times = &manifest.round;
    times.train.saturating_add(times.reveal).saturating_add(times.judge)
}

/// Bytes that lie with the host if they do not with the GPUs.
pub fn offloaded_bytes(costs: &Costs) -> u64 {
    costs.parameters.saturating_mul(ENCODING_BYTES)
}

/// Activations of one micro-batch; the formula is in the command's help.
fn activation_bytes(manifest: &Manifest, saving: Saving) -> u64 {
    let model = &manifest.model;
    let tokens = u64::from(manifest.inner.micro_batch).saturating_mul(model.sequence_length as u64);
    let layers = model.layers as u64;
    let per_unit = if saving.recompute { 34 + 2 * layers } else { 34 * layers };
    let of_layers = tokens.saturating_mul(per_unit.saturating_mul(model.hidden_size as u64));
    of_layers.saturating_add(2 * tokens.saturating_mul(model.vocab_size as u64).min(LOGITS_AT_ONCE))
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use output::{bytes, count, duration};
        let mut table = output::Table::new(2, &[&self.name, "valid"]);
        let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
        row("parameters", format!("{} ({} without embeddings)", count(self.parameters), count(self.parameters_without_embeddings)));
        for Memory { gpus, saving, state_bytes, activation_bytes } in &self.memory_per_gpu {
            let name = match (saving == &Saving::default(), gpus) {
                (false, _) => format!("  {saving}"),
                (true, 1) => "memory of 1 GPU".to_owned(),
                (true, _) => format!("memory of each of {gpus} GPUs"),
            };
            row(&name, format!("{} and about {} of activations", bytes(*state_bytes), bytes(*activation_bytes)));
        }
        let ratios = format!("f32 / {:.0}, bf16 / {:.0}", self.ratio_to_f32, self.ratio_to_bf16);
        row("payload", format!("{} ({ratios})", bytes(self.payload_bytes)));
        row("miner and round, up", bytes(self.up_bytes_per_round));
        row("miner and round, down", format!("{} ({} payloads)", bytes(self.down_bytes_per_round), self.peers));
        row("tokens per round", format!("{} per miner, {} in all", count(self.tokens_per_miner), count(self.tokens_per_round)));
        let at_most = if self.early_close { "at most " } else { "" };
        let (round, training) = (duration(self.round_seconds), duration(self.training_seconds));
        row("round", format!("{at_most}{} blocks of {BLOCK_SECONDS} s = {round}, training {at_most}{training}", self.round_blocks));
        row("snapshot", format!("{} each {} rounds", bytes(self.snapshot_bytes), self.snapshot_every_rounds));
        let kept = self.kept_rounds.map_or_else(|| "a month's rounds, everything is kept".to_owned(), |rounds| format!("{rounds} rounds"));
        row("stored", format!("{} in all buckets ({kept})", bytes(self.stored_bytes)));
        for Monthly { store, bill } in &self.month_usd {
            let Bill { storage, requests, egress } = bill;
            row(&format!("month on {store}"), format!("{storage:.0} USD stored, {requests:.0} for requests, {egress:.0} for what leaves"));
        }
        table.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn covenant() -> Manifest {
        Manifest::draft(protocol::RunConfig::parse(include_str!("../configs/72b.toml")).unwrap()).unwrap()
    }

    #[test]
    fn covenant_72b_has_the_published_size() {
        let costs = Costs::of(&covenant(), None, 4);
        assert_eq!(costs.parameters, 72_747_327_488);
        assert_eq!(costs.parameters_without_embeddings, 68_452_360_192);
        assert_eq!(costs.tokens_per_miner, 30 * 192 * 2048);
        assert_eq!(costs.tokens_per_round, 20 * 30 * 192 * 2048);
        assert_eq!(costs.down_bytes_per_round, 20 * costs.up_bytes_per_round);
        assert_eq!(costs.memory_per_gpu[2].state_bytes, (24 / 8 + 2) * 72_747_327_488);
        // what configs/72b.toml says of GPUs of 192 GB
        let least = costs.memory_per_gpu[3];
        assert_eq!(least.state_bytes, 18 * 72_747_327_488 / 8);
        assert!(least.total() < 8 * 192_000_000_000, "{least:?}");
        // of each 4096 elements, 64 values of 2 bits and indices of 7.44, and a scale code of about 2
        let chunk_bits = 64.0 * (2.0 + 7.44) + 2.0;
        assert!((costs.ratio_to_f32 - 131_072.0 / chunk_bits).abs() < 1.0, "{}", costs.ratio_to_f32);
    }

    #[test]
    fn fewer_peers_send_less() {
        let costs = Costs::of(&covenant(), Some(3), 4);
        assert_eq!((costs.peers, costs.down_bytes_per_round), (3, 3 * costs.up_bytes_per_round));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut manifest = covenant();
        (manifest.inner.steps, manifest.inner.batch, manifest.inner.micro_batch) = (1 << 24, 1 << 24, 1 << 24);
        manifest.model.sequence_length = 1 << 22;
        manifest.validate().unwrap();
        assert_eq!(Costs::of(&manifest, Some(u32::MAX), u32::MAX).tokens_per_round, u64::MAX);
    }
}
