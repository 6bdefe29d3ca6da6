//! `tributary pull`: download a run's newest snapshot, checked against its log.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use checkpoints::{Form, Offer, Pull, Pulled, Run, SnapshotManifest, TokenizerSource, describe, offers};
use clap::{Args, ValueEnum};
use dataset::Tokenizer;
use protocol::{Digest, Hotkey, RunId, Signed};
use serde::Serialize;
use storage::{Access, Bucket};

use crate::{cli::RunArgs, context, output, snapshot};

/// How often the download says how far it is.
const TELL: Duration = Duration::from_secs(10);

/// Options of `tributary pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
A snapshot is kept only if a validator with permit signed it, its record is on the chain, and all hashes and the root hold.
What its losses were worth is another question: `tributary verify` replays the whole log.

Each MiB is checked as it comes, from whichever validator or mirror gives it. Started again, the command goes on where it ended.
The bf16 form is half as large; that it is the rounded state is what the validator signed, the log does not say it.

Examples:
  tributary pull --run https://example.org/RUN_ID --chain ledger:ledger.sqlite --out model
  tributary export --run https://example.org/RUN_ID --snapshot model --out model-hf
  tributary pull --run https://example.org/RUN_ID --chain ledger:ledger.sqlite --form bf16 --out model-hf")]
pub struct PullArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The snapshot after this many rounds. By default the newest.
    #[arg(long, value_name = "N")]
    round: Option<u64>,
    /// f32: the state itself, under checkpoints/ROUND. bf16: a folder that `transformers` loads.
    #[arg(long, value_enum, default_value_t = FormArg::F32)]
    form: FormArg,
    /// Where else the snapshot lies, such as a content network's copy of a validator's bucket; asked first. May be given several times.
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// Where it goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// [`Form`] as an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormArg {
    /// 4 bytes per element, bit for bit.
    F32,
    /// 2 bytes per element, rounded to nearest.
    Bf16,
}

/// Runs the command.
pub async fn run(args: PullArgs) -> Result<()> {
    let run = context::open_run(&args.run, None).await?;
    let mut mirrors = Vec::new();
    for url in &args.mirror {
        mirrors.push(run.stores().open(url, Access::Trusted)?);
    }
    let offers = offers(&run, args.round).await?;
    let mut refused = None;
    for offer in &offers {
        let others = offers.iter().filter(|other| other.round == offer.round && other.validator != offer.validator);
        let buckets = [&mirrors[..], std::slice::from_ref(&offer.bucket)].concat();
        let buckets: Vec<Bucket> = buckets.into_iter().chain(others.map(|other| other.bucket.clone())).collect();
        match pull(&args, &run, offer, &buckets).await {
            Ok(report) => {
                output::report(&report, args.json);
                return Ok(());
            }
            Err(error) => {
                let told = context::one_line(&error);
                tracing::warn!(round = offer.round, validator = %offer.validator, error = told, "trying the next snapshot");
                refused.get_or_insert(error);
            }
        }
    }
    let none = snapshot::none_public(args.round);
    Err(refused.map_or_else(|| anyhow!(none.clone()), |first| first.context(none.clone())))
}

/// Downloads what `offer` promises from any of `mirrors`.
async fn pull(args: &PullArgs, run: &Run, offer: &Offer, mirrors: &[Bucket]) -> Result<Report> {
    let snapshot = offer.check(run).await?;
    let layout = run.manifest.state_layout();
    let (form, folder) = match args.form {
        FormArg::F32 => (Form::F32, args.out.join(format!("checkpoints/{:08}", offer.round))),
        FormArg::Bf16 => (Form::Bf16, args.out.clone()),
    };
    let pull = Pull { mirrors, snapshot: &snapshot, expected: offer.expected(run, &layout), form, folder: &folder };
    let (progress, start) = (pull.size(), Instant::now());
    tokio::select! {
        done = pull.run(&progress) => done?,
        () = tell(&progress, mirrors.len(), start) => {}
    }
    if form == Form::Bf16 {
        complete_folder(run, &snapshot.value, &folder).await?;
    }
    Ok(Report::new(run.id, &snapshot, &progress, start, args))
}

/// Says to standard error, from time to time, how far it is.
async fn tell(progress: &Pulled, mirrors: usize, start: Instant) {
    loop {
        tokio::time::sleep(TELL).await;
        let [done, found] = [&progress.done, &progress.found].map(|count| count.load(Ordering::Relaxed));
        let rate = (done - found) as f64 / start.elapsed().as_secs_f64();
        let (done, total) = (output::bytes(done), output::bytes(progress.total));
        eprintln!("{done} of {total} from {mirrors} mirror(s), {} per second", output::bytes(rate as u64));
    }
}

/// Adds configuration and tokenizer to the tensors.
async fn complete_folder(run: &Run, snapshot: &SnapshotManifest, folder: &Path) -> Result<()> {
    let tokenizer = snapshot::tokenizer(&run.folder, &run.manifest).await.context("the run's tokenizer")?;
    let source = match &tokenizer {
        Tokenizer::Bytes => TokenizerSource::Bytes,
        other => TokenizerSource::Json { json: other.json().unwrap_or_default(), end_of_text: other.end_of_text() },
    };
    Ok(describe(snapshot.shards(Form::Bf16), Form::Bf16, &run.manifest.model, source, folder)?)
}

#[derive(Debug, Serialize)]
struct Report {
    run: RunId,
    round: u64,
    form: Form,
    root: Digest,
    record: Digest,
    validator: Hotkey,
    bytes: u64,
    /// Of an earlier download.
    found: u64,
    seconds: f64,
    folder: PathBuf,
}

impl Report {
    fn new(run: RunId, snapshot: &Signed<SnapshotManifest>, progress: &Pulled, start: Instant, args: &PullArgs) -> Self {
        let SnapshotManifest { anchor, root, .. } = &snapshot.value;
        Self {
            run,
            round: anchor.round,
            form: if args.form == FormArg::F32 { Form::F32 } else { Form::Bf16 },
            root: *root,
            record: anchor.record,
            validator: snapshot.signer,
            bytes: progress.total,
            found: progress.found.load(Ordering::Relaxed),
            seconds: start.elapsed().as_secs_f64(),
            folder: args.out.clone(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, root, validator, bytes, found, folder, form, .. } = self;
        let earlier = if *found == 0 { String::new() } else { format!(" ({} of an earlier download)", output::bytes(*found)) };
        writeln!(f, "snapshot after {round} rounds, {}{earlier}, in {}", output::bytes(*bytes), folder.display())?;
        let rounded = if *form == Form::Bf16 { ", rounded to bf16 by whom it is signed" } else { "" };
        write!(f, "root       {root}{rounded}\nsigned by  {validator}")
    }
}
