//! `tributary demo`: a whole network on this machine, every role its own process.

mod crew;
mod report;
mod screen;
mod setup;
mod store;
mod story;
mod subtensor;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use checkpoints::Shutdown;
use clap::Args;

use crate::{context, signals};
use crew::{Crew, News};
use screen::Screen;
use setup::Lab;
use store::Store;
use story::Story;

/// Options of `tributary demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where everything goes. An earlier demo there is replaced, unless --resume is given.
    #[arg(long, value_name = "DIR", default_value = "demo")]
    dir: PathBuf,
    /// Go on with the demo in --dir from its last durable round.
    #[arg(long)]
    resume: bool,
    /// Rounds in all.
    #[arg(long, value_name = "N", default_value_t = 100)]
    rounds: u64,
    /// Miners, the cheats among them.
    #[arg(long, value_name = "N", default_value_t = 4)]
    miners: usize,
    /// Miners that upload noise instead of training.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cheats: usize,
    /// Validators.
    #[arg(long, value_name = "N", default_value_t = 2)]
    validators: usize,
    /// Another run config than the built-in configs/demo.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Text to train on: files, folders or globs. By default the books, READMEs and doc comments that Rust has put on this machine.
    #[arg(long, value_name = "PATH")]
    text: Vec<String>,
    /// At most so many bytes of text.
    #[arg(long, value_name = "BYTES", default_value_t = 12_000_000)]
    max_bytes: u64,
    /// Run on a development chain of Subtensor's (ws://…), whose root is //Alice, instead of an embedded ledger. The demo makes a subnet of its own there.
    #[arg(long, value_name = "URL", conflicts_with = "resume")]
    chain: Option<String>,
    /// Where the objects lie: in folders, or on an S3 server of the demo's own, through which every role then goes.
    #[arg(long, value_enum, default_value_t = Store::Folders, conflicts_with = "resume")]
    store: Store,
    /// Let every node's requests to stores suffer the faults of a file such as configs/faults/hostile.toml.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    faults: Option<PathBuf>,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// How long a stopped process may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command.
pub fn run(args: DemoArgs) -> Result<()> {
    if args.cheats >= args.miners || args.validators == 0 || args.rounds == 0 {
        bail!("a demo needs at least one round, one validator and one honest miner");
    }
    let (_, shutdown) = signals::stop_on_signals().context("watching for signals")?;
    context::block_on(async {
        let (lab, server) = if args.resume { Lab::load(&args.dir).await? } else { Lab::create(&args).await? };
        let outcome = tell(&lab, &args, shutdown).await;
        if let Some(server) = server {
            server.stop().await;
        }
        outcome
    })
}

/// Plays what is left to play, and reports.
async fn tell(lab: &Lab, args: &DemoArgs, shutdown: Shutdown) -> Result<()> {
    let mut story = Story::open(lab)?;
    if story.next_round() < args.rounds {
        play(lab, &mut story, args.rounds, args.json, shutdown).await?;
    }
    report::finish(lab, &story, args.json).await
}

/// Runs the network until `rounds` are recorded, or until interrupted.
async fn play(lab: &Lab, story: &mut Story, rounds: u64, quiet: bool, mut shutdown: Shutdown) -> Result<()> {
    let mut crew = Crew::start(lab).await?;
    let mut screen = Screen::new(lab, rounds, quiet);
    let mut interrupted = false;
    while !story.told(rounds) {
        tokio::select! {
            news = crew.next() => match news {
                News::Event(node, event) => {
                    story.hear(node, &event)?;
                    screen.show(node, &event, story);
                }
                News::Gone(node, why) => screen.gone(node, &why),
                News::AllGone(why) => {
                    crew.stop(PATIENCE, story).await;
                    bail!("{why}; the logs are in {}", lab.logs().display());
                }
            },
            () = shutdown.wait() => {
                interrupted = true;
                break;
            }
        }
    }
    screen.close();
    crew.stop(PATIENCE, story).await;
    if interrupted {
        bail!("stopped after {} rounds; go on with `tributary demo --resume --dir {}`", story.next_round(), lab.dir.display());
    }
    Ok(())
}
