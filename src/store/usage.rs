//! `tributary store usage`: what a run's buckets hold, what retention would free, and what a month costs.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, anyhow};
use checkpoints::{MOST_SURVEYED, Run, Survey, survey};
use clap::Args;
use protocol::RunId;
use serde::Serialize;
use storage::{Bill, Bucket, Month, Prices};

use super::{month, retained::Retained};
use crate::{cli::RunArgs, context, output};

/// Options of `tributary store usage`.
#[derive(Debug, Args)]
#[command(after_help = "\
Lists the run's folder and the bucket of everybody who has one on the chain. `goes` is what the owner's retention lets go of at the next sweep.

A month is 30 days at the published prices of R2 and S3 (standard storage, without free tiers of storage and requests): what is stored now, what is stored once
retention has swept, and an estimate of requests and of what leaves the stores, if no round closes early: every validator reads every
payload, every miner and the aggregator a bundle. Those who join, and strangers, come on top.

Examples:
  tributary store usage --run demo/store/RUN_ID
  tributary store usage --run https://example.org/RUN_ID --chain wss://NODE --json")]
pub struct UsageArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Objects of one kind in one owner's bucket.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Size {
    objects: u64,
    bytes: u64,
    /// Of these, what retention lets go of.
    goes_objects: u64,
    goes_bytes: u64,
}

impl Size {
    fn add(&mut self, other: &Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.goes_objects += other.goes_objects;
        self.goes_bytes += other.goes_bytes;
    }
}

#[derive(Debug, Serialize)]
struct Owner {
    /// Its address, or `run` for the run's own folder.
    owner: String,
    kinds: BTreeMap<&'static str, Size>,
    /// Why not all of it is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A month at one store's prices, in US dollars.
#[derive(Debug, Serialize)]
struct Cost {
    store: &'static str,
    #[serde(flatten)]
    bill: Bill,
    /// For what is stored once retention has swept.
    storage_swept: f64,
}

#[derive(Debug, Serialize)]
struct Usage {
    run: RunId,
    #[serde(flatten)]
    retained: Retained,
    owners: Vec<Owner>,
    total: Size,
    rounds_per_month: f64,
    egress_bytes_per_month: f64,
    month_usd: Vec<Cost>,
}

/// Runs the command.
pub async fn run(args: UsageArgs) -> Result<()> {
    let run = context::open_run(&args.run, None).await?;
    let usage = Usage::read(&run).await?;
    output::report(&usage, args.json);
    // a store that cannot be listed is not counted, and that must be seen
    match usage.owners.iter().filter(|owner| owner.error.is_some()).count() {
        0 => Ok(()),
        unlisted => Err(anyhow!("{unlisted} of {} buckets are not counted in full, so the figures are too small", usage.owners.len())),
    }
}

impl Usage {
    async fn read(run: &Run) -> Result<Self> {
        let retained = Retained::read(run).await?;
        let mut owners = vec![Owner::read("run".into(), &run.folder, &retained).await];
        let mut buckets: Vec<(String, Bucket)> = run.buckets().await?.into_iter().map(|(hotkey, bucket)| (hotkey.ss58(), bucket)).collect();
        buckets.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (owner, bucket) in buckets {
            owners.push(Owner::read(owner, &bucket, &retained).await);
        }
        let mut total = Size::default();
        owners.iter().flat_map(|owner| owner.kinds.values()).for_each(|size| total.add(size));
        let rounds_per_month = month::rounds(&run.manifest);
        let moved = month::traffic(&run.manifest, retained.miners, retained.validators, rounds_per_month);
        let month_usd = Prices::ALL.map(|prices| Cost::of(&prices, total, moved)).into();
        Ok(Self { run: run.id, retained, owners, total, rounds_per_month, egress_bytes_per_month: moved.egress, month_usd })
    }
}

impl Owner {
    async fn read(owner: String, bucket: &Bucket, retained: &Retained) -> Self {
        let mut kinds: BTreeMap<&'static str, Size> = BTreeMap::new();
        let surveyed = survey(bucket, |listed, key| {
            let why = retained.keep.verdict(key);
            let (goes_objects, goes_bytes) = if why.goes() { (1, listed.bytes) } else { (0, 0) };
            let one = Size { objects: 1, bytes: listed.bytes, goes_objects, goes_bytes };
            kinds.entry(key.map_or("other", |key| key.kind())).or_default().add(&one);
        });
        let error = match surveyed.await {
            Ok(Survey::Whole) => None,
            Ok(Survey::CutOff) => Some(format!("only {MOST_SURVEYED} of its objects were looked at")),
            Err(error) => Some(context::one_line(&error.into())),
        };
        Self { owner, kinds, error }
    }
}

impl Cost {
    fn of(prices: &Prices, total: Size, moved: Month) -> Self {
        let bill = prices.bill(&Month { stored: total.bytes as f64, ..moved });
        let swept = prices.bill(&Month { stored: (total.bytes - total.goes_bytes) as f64, ..Month::default() });
        Self { store: prices.name, bill, storage_swept: swept.storage }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use output::bytes;
        writeln!(f, "run {}\n{}\n", self.run, output::wrapped(&self.retained.to_string(), 0, 2))?;
        let mut table = output::Table::new(2, &["owner", "kind", "objects", "bytes", "goes", "bytes"]);
        let cells = |size: &Size| [size.objects.to_string(), bytes(size.bytes), size.goes_objects.to_string(), bytes(size.goes_bytes)];
        for Owner { owner, kinds, .. } in &self.owners {
            for (kind, size) in kinds {
                table.row([owner.clone(), (*kind).to_owned()].into_iter().chain(cells(size)));
            }
        }
        table.row(["all".to_owned(), String::new()].into_iter().chain(cells(&self.total)));
        writeln!(f, "{table}")?;
        for Owner { owner, error, .. } in &self.owners {
            if let Some(error) = error {
                writeln!(f, "{owner} is not counted in full: {error}")?;
            }
        }
        let (rounds, leaves) = (self.rounds_per_month, bytes(self.egress_bytes_per_month as u64));
        writeln!(f, "\na month of 30 days: {rounds:.0} rounds, {leaves} out of the stores")?;
        let mut costs = output::Table::new(1, &["US dollars", "stored", "once swept", "requests", "out", "in all"]);
        for Cost { store, bill, storage_swept } in &self.month_usd {
            let figures = [bill.storage, *storage_swept, bill.requests, bill.egress, bill.total()].map(|usd| format!("{usd:.2}"));
            costs.row([(*store).to_owned()].into_iter().chain(figures));
        }
        costs.fmt(f)
    }
}
