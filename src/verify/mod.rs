//! `tributary verify`: replay a run's log from genesis and compare every root.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use checkpoints::{Progress, Replica, RoundLog, Run, Step, Stopwatch, fetch_document, write_snapshot};
use clap::Args;
use protocol::{Digest, ObjectKey, Record, RunId, round::Candidate, score::ScoreSheet};
use serde::Serialize;
use storage::{Access, Bucket};

use crate::{
    cli::{KeyArgs, RunArgs},
    context, output,
};

/// Size of a snapshot's shards, roughly: one request to a store takes at most 5 GB.
const SHARD_BYTES: usize = 1 << 30;

/// Options of `tributary verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Starts from the integers that the genesis tensors are made of, fetches every record with the payloads it applies, checks all its facts,
takes the same steps and compares each root. Fails at the first record that should hold and does not.

Examples:
  tributary verify --run demo/store/RUN_ID
  tributary verify --run https://example.org/RUN_ID --rounds 100 --out model --wallet alice")]
pub struct VerifyArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Stop after this many rounds. By default at the log's end.
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Write the last state as a snapshot, signed by the hotkey, under checkpoints/ROUND.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    keys: KeyArgs,
    /// Print JSON, one line per round and one at the end.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: VerifyArgs) -> Result<()> {
    let run = context::open_run(&args.run, None).await?;
    // before the replay, which may take hours
    let destination = match &args.out {
        Some(folder) => {
            let bucket = Bucket::open(&context::url_of(&folder.display().to_string())?, Access::Own)?;
            Some((bucket, context::open_hotkey(&args.keys)?))
        }
        None => None,
    };
    let mut last = Instant::now();
    let replica = replay(run.clone(), args.rounds, |step| {
        let line = Line::of(step, std::mem::replace(&mut last, Instant::now()).elapsed().as_secs_f64());
        output::report(&line, args.json);
    })
    .await?;
    if let Some((bucket, keypair)) = destination {
        write_snapshot(&bucket, &replica.state, run.id, &replica.anchor, &keypair, SHARD_BYTES).await?;
    }
    let verdict = Verdict { run: run.id, rounds: replica.anchor.round, root: replica.root, snapshot: args.out };
    output::report(&verdict, args.json);
    Ok(())
}

/// Replays the log from genesis, `upto` rounds of it or all; `report` sees every step that holds.
///
/// # Errors
/// At the first record that should hold and does not, and at the first bytes that cannot be had.
pub async fn replay(run: Arc<Run>, upto: Option<u64>, mut report: impl FnMut(&Step)) -> Result<Replica> {
    let head = run.chain.head().await?.number;
    let mut watch = Stopwatch::default();
    let mut replica = Replica::genesis(run)?;
    while upto.is_none_or(|rounds| replica.anchor.round < rounds) {
        match replica.advance(head, &mut watch).await? {
            Progress::Stepped(step) => report(&step),
            Progress::Training(_) | Progress::Pending(..) => break,
            Progress::Closed(..) => match replica.void().first() {
                Some((void, why)) => bail!("round {}: record {} is void: {why}", replica.anchor.round, void.digest),
                None => break,
            },
            Progress::Awaiting(log, candidate, _) => {
                let (round, missing) = (replica.anchor.round, missing(&replica, &log, &candidate).await?);
                bail!("round {round}: {missing} cannot be had; the stores may have removed what is older than they keep");
            }
        }
    }
    Ok(replica)
}

/// Names the bytes without which a committed document cannot be checked.
async fn missing(replica: &Replica, log: &RoundLog, candidate: &Candidate) -> Result<String> {
    let (run, round, lead) = (&replica.run, replica.anchor.round, candidate.lead);
    if log.seal_lists.iter().any(|list| list.digest == candidate.digest) {
        return Ok(format!("seal list {} of {lead}", candidate.digest));
    }
    let Ok(record) = fetch_document::<Record>(run, candidate, &ObjectKey::Record(round)).await else {
        return Ok(format!("record {} of {lead}", candidate.digest));
    };
    let by_sheet = Candidate { digest: record.value.score_sheet, ..candidate.clone() };
    if fetch_document::<ScoreSheet>(run, &by_sheet, &ObjectKey::ScoreSheet(round)).await.is_err() {
        return Ok(format!("score sheet {} of {lead}", by_sheet.digest));
    }
    let mut absent = Vec::new();
    for applied in &record.value.applied {
        let bucket = run.bucket_of(&applied.hotkey).await?;
        let has = async |key: ObjectKey| match &bucket {
            Some(bucket) => bucket.size(&key).await.is_ok_and(|size| size.is_some()),
            None => false,
        };
        if !has(ObjectKey::Payload(round)).await || !has(ObjectKey::PayloadKey(round)).await {
            absent.push(applied.uid.to_string());
        }
    }
    Ok(match &absent[..] {
        [] => format!("a payload of record {} as its envelope describes it", candidate.digest),
        uids => format!("the payloads of uids {} (with their keys, or in a bundle)", uids.join(", ")),
    })
}

/// A round that was replayed.
#[derive(Debug, Serialize)]
struct Line {
    round: u64,
    root: Digest,
    applied: Vec<u16>,
    seconds: f64,
}

impl Line {
    fn of(step: &Step, seconds: f64) -> Self {
        let record = &step.record.value;
        Self { round: record.round, root: record.root, applied: record.applied.iter().map(|a| a.uid).collect(), seconds }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let applied = self.applied.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        write!(f, "round {}  root {}  applied {applied}  {:.2} s", self.round, self.root, self.seconds)
    }
}

#[derive(Debug, Serialize)]
struct Verdict {
    run: RunId,
    rounds: u64,
    root: Digest,
    snapshot: Option<PathBuf>,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "all {} rounds hold; the state after them has root {}", self.rounds, self.root)?;
        self.snapshot.as_ref().map_or(Ok(()), |folder| write!(f, "\nsnapshot in {}", folder.display()))
    }
}
