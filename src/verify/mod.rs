//! `tributary verify`: how a run came to be, as deeply as what is left of it allows.

mod log;
mod stock;
mod verdict;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use checkpoints::{Offer, Progress, Replica, RoundLog, Run, RunError, SHARD_BYTES, Step, Stopwatch, fetch_document, write_snapshot};
use clap::{Args, ValueEnum};
use protocol::{Digest, Keep, Keypair, ObjectKey, Record, round::Candidate, score::ScoreSheet};
use serde::Serialize;
use storage::{Access, Bucket};

use crate::{
    cli::{KeyArgs, RunArgs},
    context, output,
};
use log::Log;
use stock::{Holding, Stock};
use verdict::Verdict;

/// Options of `tributary verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
First the whole log is read, without payloads: every seal list, score sheet, record and countersignature, who signed it, what it follows, whose turn it was, and
what the votes made of it. Then as much as possible is replayed: from genesis if all payloads are still there, else from the oldest
snapshot that fits the log and after which all are. A replay fetches the payloads, takes the same steps and compares each root.

The last lines say which of the levels was reached, and which rounds' payloads, bundles and snapshots are gone since the run's retention no
longer keeps them. What it should keep and nobody has is an error.

  signatures  the log alone; nothing is recomputed
  snapshot    the steps after a snapshot, whose own state is taken from the validator that signed it
  genesis     every step, from the integers that the genesis tensors are made of

Examples:
  tributary verify --run demo/store/RUN_ID
  tributary verify --run https://example.org/RUN_ID --level signatures
  tributary verify --run https://example.org/RUN_ID --rounds 100 --out model --wallet alice")]
pub struct VerifyArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Check on this level, and fail if what is left does not allow it. By default the deepest that it allows.
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Replay no further than this many rounds of the run. By default to the log's end.
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Write the last state as a snapshot, signed by the hotkey, under checkpoints/ROUND.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    keys: KeyArgs,
    /// Print JSON, one line per round that is replayed and one at the end.
    #[arg(long)]
    json: bool,
}

/// How deeply a run is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The log alone.
    Signatures,
    /// And every step after a snapshot.
    Snapshot,
    /// And every step.
    Genesis,
}

/// Where a replay begins.
enum Start {
    Genesis,
    Snapshot(Box<Offer>),
}

impl Start {
    fn round(&self) -> u64 {
        match self {
            Self::Genesis => 0,
            Self::Snapshot(offer) => offer.round,
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::Genesis => Level::Genesis,
            Self::Snapshot(_) => Level::Snapshot,
        }
    }
}

/// What was replayed.
struct Replayed {
    start: Start,
    replica: Replica,
}

/// Runs the command.
pub async fn run(args: VerifyArgs) -> Result<()> {
    let run = context::open_run(&args.run, None).await?;
    // before the replay, which may take hours
    let destination = args.destination()?;
    let head = run.chain.head().await?.number;
    let mut found = Found::look(&run, head).await?;
    let upto = args.rounds.unwrap_or(u64::MAX).min(found.log.rounds.len() as u64);
    let (replayed, lost) = replay_deepest(&args, &run, &found, (upto, head)).await?;
    if !lost.is_empty() {
        // what went while the replay was on its way was no longer to be kept, perhaps
        found = Found::look(&run, run.chain.head().await?.number).await?;
    }
    let folder = match (destination, &replayed) {
        (Some((bucket, keypair)), Some(Replayed { replica, .. })) => {
            write_snapshot(&bucket, &replica.state, run.id, &replica.anchor, &keypair, SHARD_BYTES).await?;
            args.out.clone()
        }
        _ => None,
    };
    let verdict = Verdict::new(&run, &found, upto, replayed.as_ref(), &lost).with_snapshot(folder);
    output::report(&verdict, args.json);
    verdict.outcome(args.level, &lost)?;
    match (&args.out, replayed) {
        (Some(folder), None) => bail!("nothing was replayed, so there is no state to write to {}", folder.display()),
        _ => Ok(()),
    }
}

/// What is left of a run.
struct Found {
    log: Log,
    /// Of the payloads of each of its rounds.
    holdings: Vec<Holding>,
    /// What owners who were as far as anybody when the payloads were looked for keep.
    keep: Keep,
}

impl Found {
    /// Reads the log up to block `head`, and looks for the payloads of its rounds.
    async fn look(run: &Arc<Run>, head: u64) -> Result<Self> {
        let log = Log::read(run, head).await?;
        let stock = Stock::take(run, log.rounds.len() as u64).await?;
        let mut holdings = Vec::with_capacity(log.rounds.len());
        for (number, round) in (0..).zip(&log.rounds) {
            holdings.push(stock.holding(number, round).await);
        }
        // the run went on meanwhile, and its owners let go of more
        let keep = log.later(run.chain.head().await?.number).await?.keep();
        Ok(Self { log, holdings, keep })
    }
}

impl VerifyArgs {
    fn destination(&self) -> Result<Option<(Bucket, Keypair)>> {
        let Some(folder) = &self.out else { return Ok(None) };
        let bucket = Bucket::open(&context::url_of(&folder.display().to_string())?, Access::Own)?;
        Ok(Some((bucket, context::open_hotkey(&self.keys)?)))
    }
}

/// Replays from the deepest start that is asked for and that payloads allow, up to round `upto`; and what turned out not to be there on the
/// way.
async fn replay_deepest(
    args: &VerifyArgs,
    run: &Arc<Run>,
    Found { log, holdings, .. }: &Found,
    (upto, head): (u64, u64),
) -> Result<(Option<Replayed>, Vec<Gone>)> {
    let snapshots = log.snapshots.values().flatten().map(|offer| Start::Snapshot(Box::new(offer.clone())));
    let asked = |start: &Start| args.level.is_none_or(|level| level == start.level());
    let whole = |start: &Start| {
        let rounds = holdings.get(start.round() as usize..upto as usize);
        rounds.is_some_and(|rounds| rounds.iter().all(Holding::is_whole))
    };
    let mut lost: Vec<Gone> = Vec::new();
    for start in [Start::Genesis].into_iter().chain(snapshots).filter(|start| asked(start) && whole(start)) {
        if lost.last().is_some_and(|gone| start.round() <= gone.round) {
            continue;
        }
        match replay_from(args, run, &start, (upto, head)).await {
            Ok(Ok(replica)) if replica.anchor.round < upto => bail!(
                "round {}: no record stands when its payloads are looked at, although the log goes on to round {upto} without votes",
                replica.anchor.round
            ),
            Ok(Ok(replica)) => return Ok((Some(Replayed { start, replica }), lost)),
            Ok(Err(gone)) => lost.push(gone),
            // another validator's may do, or a later one
            Err(error) if error.downcast_ref().is_some_and(|error| matches!(error, RunError::Snapshot(_) | RunError::OffChain { .. })) => {
                tracing::warn!(round = start.round(), error = context::one_line(&error), "trying another snapshot");
            }
            Err(error) => return Err(error),
        }
    }
    Ok((None, lost))
}

/// Replays from one start; `Err` within says which payloads turned out not to be there.
async fn replay_from(args: &VerifyArgs, run: &Arc<Run>, start: &Start, (upto, head): (u64, u64)) -> Result<Result<Replica, Gone>> {
    let replica = match start {
        Start::Genesis => Replica::genesis(run.clone())?,
        Start::Snapshot(offer) => offer.read(run).await?,
    };
    let mut last = Instant::now();
    replay_on(replica, Some(upto), head, |step| {
        let line = Line::of(step, std::mem::replace(&mut last, Instant::now()).elapsed().as_secs_f64());
        output::report(&line, args.json);
    })
    .await
}

/// Replays the log from genesis, `upto` rounds of it or all; `report` sees every step that holds.
///
/// # Errors
/// At the first record that should hold and does not, and at the first bytes that cannot be had.
pub async fn replay(run: Arc<Run>, upto: Option<u64>, report: impl FnMut(&Step)) -> Result<Replica> {
    let head = run.chain.head().await?.number;
    match replay_on(Replica::genesis(run)?, upto, head, report).await? {
        Ok(replica) => Ok(replica),
        Err(gone) => bail!("{gone}"),
    }
}

/// Bytes that nobody gives.
struct Gone {
    round: u64,
    what: String,
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "round {}: {} cannot be had; the stores may have removed what is older than they keep", self.round, self.what)
    }
}

async fn replay_on(mut replica: Replica, upto: Option<u64>, head: u64, mut report: impl FnMut(&Step)) -> Result<Result<Replica, Gone>> {
    let mut watch = Stopwatch::default();
    while upto.is_none_or(|rounds| replica.anchor.round < rounds) {
        match replica.advance(head, &mut watch).await? {
            Progress::Stepped(step) => report(&step),
            Progress::Training(_) | Progress::Pending(..) => break,
            Progress::Closed(..) => match replica.void().first() {
                Some((void, why)) => bail!("round {}: record {} is void: {why}", replica.anchor.round, void.digest),
                None => break,
            },
            Progress::Awaiting(log, candidate, _) => {
                let round = replica.anchor.round;
                let what = missing(&replica.run, round, &log, &candidate).await?;
                return Ok(Err(Gone { round, what }));
            }
        }
    }
    Ok(Ok(replica))
}

/// Names the bytes without which a committed document cannot be checked.
async fn missing(run: &Run, round: u64, log: &RoundLog, candidate: &Candidate) -> Result<String> {
    let lead = candidate.lead;
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
