//! `tributary mine`, `validate` and `aggregate`: one role each, the same code whoever starts it.

use std::{path::PathBuf, sync::Arc};

use aggregator::Aggregator;
use anyhow::{Context as _, Result};
use checkpoints::{Event, Events, Identity, Run, Shutdown};
use clap::Args;
use dataset::Dataset;
use gauntlet::{Validator, ValidatorOptions};
use model::{Activations, Device, Devices};
use trainer::{Miner, MinerOptions, Strategy};

use crate::{
    cli::{KeyArgs, RunArgs},
    context, output, signals,
};

/// What every role needs.
#[derive(Debug, Args)]
pub struct RoleArgs {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// Where this node keeps what it must not lose. One process at a time.
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// This node's own bucket, which others read. By default peers/HOTKEY beside the run's folder.
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,
    /// Threads for tensor work.
    #[arg(long, default_value_t = 1)]
    threads: u16,
    /// Print events as JSON lines.
    #[arg(long)]
    json: bool,
}

/// What the roles that compute losses need: tokens.
#[derive(Debug, Args)]
struct WorkArgs {
    /// The tokenized data set. By default the run's own, downloaded into --home if it is not local.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl WorkArgs {
    /// The run's tokens.
    async fn open(self, node: &Node) -> Result<Arc<Dataset>> {
        context::open_dataset(&node.run, self.data.as_deref(), &node.identity.home).await
    }
}

/// Options of `tributary mine`.
#[derive(Debug, Args)]
pub struct MineArgs {
    #[command(flatten)]
    role: RoleArgs,
    #[command(flatten)]
    work: WorkArgs,
    /// cpu, cuda, or cuda:N; or several GPUs that train together, as in 0,1,2,3. The inner batch must divide by their number. By default the best
    /// device there is.
    #[arg(long, alias = "device", value_name = "DEVICES")]
    devices: Option<Devices>,
    /// Compute each layer again on the way back instead of remembering it: a third more arithmetic, and memory for one layer instead of all.
    #[arg(long)]
    recompute: bool,
    /// Keep error feedback in the host's memory, where the GPUs reach it over the bus, even if they have room: 8 bytes per parameter of theirs less.
    #[arg(long)]
    offload: bool,
    /// What to send: honest work, or noise (to see how a run deals with it).
    #[arg(long, default_value = "honest", hide = true)]
    strategy: Strategy,
}

/// Options of `tributary validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    #[command(flatten)]
    role: RoleArgs,
    #[command(flatten)]
    work: WorkArgs,
    /// cpu, cuda, or cuda:N. By default the best there is.
    #[arg(long)]
    device: Option<Device>,
    /// Held-out sequences to measure after each round that this validator leads.
    #[arg(long, value_name = "N", default_value_t = 32)]
    held_out: usize,
}

/// Options of `tributary aggregate`.
#[derive(Debug, Args)]
pub struct AggregateArgs {
    #[command(flatten)]
    role: RoleArgs,
}

/// A role's surroundings, opened.
struct Node {
    run: Arc<Run>,
    identity: Identity,
    events: Events,
    shutdown: Shutdown,
}

/// Runs a miner until it is stopped.
pub fn mine(args: MineArgs) -> Result<()> {
    let MineArgs { role, work, devices, recompute, offload, strategy } = args;
    role.start(|node| async move {
        let dataset = work.open(&node).await?;
        let devices = devices.unwrap_or_else(|| Device::best().into());
        let activations = if recompute { Activations::Recomputed } else { Activations::Kept };
        let options = MinerOptions { identity: node.identity, dataset, devices, activations, offload, strategy };
        Ok(Miner::start(node.run, options, node.events, node.shutdown).await?.run().await?)
    })
}

/// Runs a validator until it is stopped.
pub fn validate(args: ValidateArgs) -> Result<()> {
    let ValidateArgs { role, work, device, held_out } = args;
    role.start(|node| async move {
        let (dataset, device) = (work.open(&node).await?, device.unwrap_or_else(Device::best));
        let options = ValidatorOptions { identity: node.identity, dataset, device, held_out, distortion: None };
        Ok(Validator::start(node.run, options, node.events, node.shutdown).await?.run().await?)
    })
}

/// Runs an aggregator until it is stopped.
pub fn aggregate(args: AggregateArgs) -> Result<()> {
    args.role.start(|node| async move { Ok(Aggregator::start(node.run, node.identity, node.events, node.shutdown).await?.run().await?) })
}

impl RoleArgs {
    /// Opens what every role needs and runs `role` until it ends or a signal asks for it.
    fn start<F: Future<Output = Result<()>>>(self, role: impl FnOnce(Node) -> F) -> Result<()> {
        let (stopper, shutdown) = signals::stop_on_signals().context("watching for signals")?;
        model::set_threads(self.threads);
        context::block_on(async {
            let keypair = context::open_hotkey(&self.keys)?;
            let run = context::open_run(&self.run, Some(&keypair.hotkey().ss58())).await?;
            let bucket = context::own_bucket(self.bucket.as_deref(), &run, &context::url_of(&self.run.run)?, &keypair)?;
            let identity = Identity { keypair, home: context::expand(&self.home), bucket };
            let (events, mut received) = Events::channel();
            let json = self.json;
            let printer = tokio::spawn(async move {
                while let Some(event) = received.recv().await {
                    // nobody listens any more: whoever started this node is gone
                    if print_event(&event, json).is_err() {
                        stopper.stop();
                    }
                }
            });
            let outcome = role(Node { run, identity, events, shutdown }).await;
            // the role dropped its sender, so the printer ends when all is printed
            printer.await.context("printing events")?;
            outcome
        })
    }
}

fn print_event(event: &Event, json: bool) -> std::io::Result<()> {
    use std::io::Write;
    let line = if json { serde_json::to_string(event).ok() } else { in_words(event) };
    line.map_or(Ok(()), |line| writeln!(std::io::stdout(), "{line}"))
}

/// An event as a line for people; `None` for mere progress.
fn in_words(event: &Event) -> Option<String> {
    Some(match event {
        Event::InnerStep { .. } | Event::Usage { .. } => return None,
        Event::Upload { round, sent, of } => format!("round {round}: {} of {} went up", output::bytes(*sent), output::bytes(*of)),
        Event::Ready { round, uid: Some(uid), hotkey } => format!("ready as uid {uid} ({hotkey}) at round {round}"),
        Event::Ready { round, uid: None, hotkey } => format!("ready ({hotkey}) at round {round}"),
        Event::Sealed { round, loss, tokens, bytes } => {
            let loss = loss.map_or_else(String::new, |l| format!(", loss {l:.4}"));
            format!("round {round}: trained {tokens} tokens{loss}, sealed {bytes} bytes")
        }
        Event::Closed { round, listed } => format!("round {round}: closed with {listed} payloads"),
        Event::Judged { round, uid, verdict, .. } => format!("round {round}: uid {uid}: {verdict}"),
        Event::Stepped { round, root, applied, left_out } => {
            format!("round {round}: applied {applied:?}, left out {left_out:?}, root {}", root.short())
        }
        Event::Scores { round, scores } => {
            let scores: Vec<String> = scores.iter().map(|s| format!("{}: {:.3}", s.uid, s.score)).collect();
            format!("round {round}: scores {}", scores.join(", "))
        }
        Event::Dissent { round, uid, reason } => format!("round {round}: dissent on uid {uid}: {reason}"),
        Event::HeldOut { round, bits_per_byte } => format!("round {round}: held-out loss {bits_per_byte:.4} bits per byte"),
        Event::Weights { weights } => format!("weights set: {weights:?}"),
        Event::Published { round, what, bytes } => format!("round {round}: published {what}, {bytes} bytes"),
        Event::Freed { round, objects, bytes } => {
            format!("round {round}: retention freed {bytes} bytes in {objects} objects of the own bucket")
        }
        Event::Warning { message } => format!("warning: {message}"),
    })
}
