//! `tributary store gc`: let go of what a run's retention does not keep, in the own bucket.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use checkpoints::{Freed, Sweep, sweep};
use clap::Args;
use protocol::Keeping;
use serde::Serialize;

use super::retained::Retained;
use crate::{
    cli::{KeyArgs, RunArgs},
    context, output,
};

/// Options of `tributary store gc`.
#[derive(Debug, Args)]
#[command(after_help = "\
Roles do the same by themselves; this is for those who are stopped, or want to see it. What goes follows from the run's manifest ([retention]), from the newest
record that most stake agreed on, and from the snapshots that validators publish; only what is older than the last two of them can go. The
log never goes: seal lists, score sheets, records, countersignatures, envelopes and copies.

Examples:
  tributary store gc --run https://example.org/RUN_ID --chain ledger:ledger.sqlite --wallet alice --bucket s3://alice --dry-run
  tributary store gc --run demo/store/RUN_ID --wallet demo --wallet-path demo/wallets --hotkey miner-1")]
pub struct GcArgs {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// The bucket, as the role was started with. By default peers/HOTKEY beside the run's folder.
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,
    /// Delete nothing, only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, one line per object that goes and one at the end.
    #[arg(long)]
    json: bool,
}

/// An object that goes.
#[derive(Serialize)]
struct Goes<'a> {
    path: &'a str,
    bytes: u64,
    why: Keeping,
}

impl fmt::Display for Goes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}  {}", self.path, output::bytes(self.bytes), self.why)
    }
}

/// What stays, of one kind and for one reason.
#[derive(Serialize)]
struct Stays {
    kind: &'static str,
    why: Keeping,
    #[serde(flatten)]
    size: Freed,
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    bucket: String,
    #[serde(flatten)]
    retained: Retained,
    freed: Freed,
    stays: Vec<Stays>,
}

/// Runs the command.
pub async fn run(args: GcArgs) -> Result<()> {
    let keypair = context::open_hotkey(&args.keys)?;
    let run = context::open_run(&args.run, None).await?;
    let bucket = context::own_bucket(args.bucket.as_deref(), &run, &context::url_of(&args.run.run)?, &keypair)?.join(&run.id.to_string());
    let retained = Retained::read(&run).await?;
    let mode = if args.dry_run { Sweep::DryRun } else { Sweep::Delete };
    let mut stays: BTreeMap<(&'static str, Keeping), Freed> = BTreeMap::new();
    let freed = sweep(&bucket, &retained.keep, mode, |listed, key, why| {
        if why.goes() {
            output::report(&Goes { path: &listed.path, bytes: listed.bytes, why }, args.json);
        } else {
            let size = stays.entry((key.map_or("other", |key| key.kind()), why)).or_default();
            size.objects += 1;
            size.bytes += listed.bytes;
        }
    })
    .await?;
    let stays = stays.into_iter().map(|((kind, why), size)| Stays { kind, why, size }).collect();
    output::report(&Report { dry_run: args.dry_run, bucket: bucket.url().to_owned(), retained, freed, stays }, args.json);
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.bucket, output::wrapped(&self.retained.to_string(), 0, 2))?;
        let mut table = output::Table::new(1, &["stays", "objects", "bytes", ""]);
        for Stays { kind, why, size } in &self.stays {
            table.row([(*kind).to_owned(), size.objects.to_string(), output::bytes(size.bytes), why.to_string()]);
        }
        writeln!(f, "{table}")?;
        let done = if self.dry_run { "would be freed; nothing was deleted" } else { "freed" };
        write!(f, "{} objects, {} {done}", self.freed.objects, output::bytes(self.freed.bytes))
    }
}
