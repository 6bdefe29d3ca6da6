//! `tributary pull`: download a run's newest snapshot, checked against its log.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use checkpoints::{Replica, offers};
use clap::Args;
use protocol::{Digest, Hotkey, RunId};
use serde::Serialize;
use storage::{Access, Bucket};

use crate::{cli::RunArgs, context, output, snapshot};

/// Options of `tributary pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
A snapshot is kept only if a validator with permit signed it, its record is on the chain, and all hashes and the root hold.
What its losses were worth is another question: `tributary verify` replays the whole log.

Examples:
  tributary pull --run https://example.org/RUN_ID --chain ledger:ledger.sqlite --out model
  tributary export --run https://example.org/RUN_ID --snapshot model --out model-hf")]
pub struct PullArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The snapshot after this many rounds. By default the newest.
    #[arg(long, value_name = "N")]
    round: Option<u64>,
    /// Where the snapshot goes, under checkpoints/ROUND.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: PullArgs) -> Result<()> {
    let run = context::open_run(&args.run, None).await?;
    let out = Bucket::open(&context::url_of(&args.out.display().to_string())?, Access::Own)?;
    let mut refused = None;
    for offer in offers(&run, args.round).await? {
        match offer.read(&run, Some(&out)).await {
            Ok(replica) => {
                let bytes = out.traffic().up;
                output::report(&Pulled::new(&replica, offer.validator, bytes, args.out), args.json);
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(round = offer.round, validator = %offer.validator, %error, "trying the next snapshot");
                refused.get_or_insert(error);
            }
        }
    }
    let none = snapshot::none_public(args.round);
    Err(refused.map_or_else(|| anyhow!(none.clone()), |first| anyhow!(first).context(none.clone())))
}

#[derive(Debug, Serialize)]
struct Pulled {
    run: RunId,
    round: u64,
    root: Digest,
    record: Digest,
    validator: Hotkey,
    bytes: u64,
    folder: PathBuf,
}

impl Pulled {
    fn new(replica: &Replica, validator: Hotkey, bytes: u64, folder: PathBuf) -> Self {
        let anchor = &replica.anchor;
        Self { run: replica.run.id, round: anchor.round, root: replica.root, record: anchor.record, validator, bytes, folder }
    }
}

impl fmt::Display for Pulled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, root, validator, bytes, folder, .. } = self;
        writeln!(f, "snapshot after {round} rounds, {}, in {}", output::bytes(*bytes), folder.display())?;
        write!(f, "root       {root}\nsigned by  {validator}")
    }
}
