//! `tributary codec merge`: payloads and θ in, the next θ and its root out.

use std::fmt;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use checkpoints::Terms;
use clap::{Args, ValueEnum};
use compression::{Format, Layout, MergeOver, Outline, Payload, Rule, State, Weighted, clip_factors, norms, transition};
use serde::Serialize;

use super::like::{Like, read_manifest};
use super::tensors::{TensorFile, draft_of};
use super::{Hash, counted, keep_apart, open, read_outline, refused};
use crate::output::{self, Table};

/// Options of `tributary codec merge`.
#[derive(Debug, Args)]
#[command(after_help = "\
Takes the transition that every node of a run takes: each payload clipped per tensor to the lower median norm, merged in the order given, \
then θ ← θ - LR * merged. The state root binds θ to its round. Payloads whose base roots are all zero fit any θ.

A run's payloads, transition and root take the run's --manifest. If its merges are lossy, θ's file must also have the residual tensors.

Examples:
  tributary codec merge a.trb b.trb --lr 0.65 --over all --weights 1,0.5 \\
    --theta theta.safetensors --out next.safetensors
  tributary codec merge a.trb b.trb --manifest manifest.json \\
    --theta theta.safetensors --out next.safetensors")]
pub struct MergeArgs {
    /// The record's payloads, in its order.
    #[arg(required = true)]
    payloads: Vec<PathBuf>,
    /// θ before the step.
    #[arg(long, value_name = "FILE")]
    theta: PathBuf,
    /// The manifest.json of the payloads' run: order and codecs of its tensors, and how it merges.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Outer learning rate. By default the manifest's in that round, which the run may have amended.
    #[arg(long, required_unless_present = "manifest")]
    lr: Option<f32>,
    /// Over whom a coordinate's mean is taken. By default as the manifest says, or over senders.
    #[arg(long, value_enum)]
    over: Option<Over>,
    /// One merge weight per payload. By default 1 each.
    #[arg(long, value_name = "W,…", value_delimiter = ',', value_parser = parse_weight)]
    weights: Vec<f32>,
    /// The round of θ, which its root depends on. By default that of the payloads.
    #[arg(long, value_name = "N")]
    round: Option<u64>,
    /// Merge payloads that were measured from another θ.
    #[arg(long)]
    any_base: bool,
    /// Where the next θ goes; may be the file that it came from.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print JSON, with norms and clip factors of every tensor.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Over {
    /// The payloads that sent the coordinate a value other than zero.
    Senders,
    /// All payloads.
    All,
}

fn parse_weight(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|weight: &f32| weight.is_finite() && *weight > 0.0).ok_or_else(|| "a weight is finite and above zero".into())
}

/// Runs the command.
pub fn run(args: MergeArgs) -> Result<()> {
    keep_files_apart(&args)?;
    let weights = if args.weights.is_empty() { vec![1.0; args.payloads.len()] } else { args.weights.clone() };
    ensure!(
        weights.len() == args.payloads.len(),
        "{} for {}: give one each",
        counted(weights.len(), "weight"),
        counted(args.payloads.len(), "payload")
    );
    let record = one_record(&args.payloads)?;
    let (format, rule, mut state) = setting(&args, &record)?;
    let root_before = state.root();
    if !args.any_base {
        check_base(&record.header.base_root, &root_before, &args.theta, state.round)?;
    }
    let payloads = args.payloads.iter().map(|path| read_payload(path, &format)).collect::<Result<Vec<_>>>()?;
    let entries: Vec<_> = payloads.iter().zip(&weights).map(|(payload, &weight)| Weighted { payload, weight }).collect();
    let start = Instant::now();
    transition(&mut state, &entries, &rule)?;
    let seconds = start.elapsed().as_secs_f64();
    draft_of(&args.out, state.layout(), state.tensors())?.keep()?;
    let merged = Merged {
        theta: args.out,
        round: state.round,
        root_before: hex::encode(root_before),
        root_after: hex::encode(state.root()),
        tensors: format.layout().tensors().iter().map(|tensor| tensor.name.clone()).collect(),
        payloads: entries_of(args.payloads, &entries, format.layout()),
        seconds,
    };
    output::report(&merged, args.json);
    Ok(())
}

/// Only θ may be replaced.
fn keep_files_apart(args: &MergeArgs) -> Result<()> {
    let payloads = args.payloads.iter().map(|path| ("a payload", Some(&**path)));
    let others: Vec<_> = payloads.chain([("--manifest", args.manifest.as_deref())]).collect();
    keep_apart("--out", &args.out, &others)
}

/// The payloads' format, the rule, and the state before the step: the run's, or of θ's tensors as they are.
fn setting(args: &MergeArgs, record: &Outline) -> Result<(Arc<Format>, Rule, State)> {
    let theta = TensorFile::open(&args.theta)?;
    let round = args.round.unwrap_or(record.header.round);
    let over = args.over.map(|over| match over {
        Over::Senders => MergeOver::Senders,
        Over::All => MergeOver::All,
    });
    let Some(path) = &args.manifest else {
        let layout = theta.layout().clone();
        let format = Like::Tensors(layout.clone()).format(record).map_err(|error| refused(&args.payloads[0], error))?;
        let lr = args.lr.expect("an option that must be there without a manifest");
        let rule = Rule { lr, over: over.unwrap_or(MergeOver::Senders), resparsify: None };
        return Ok((format, rule, State::new(layout, round, theta.read()?)?));
    };
    let manifest = read_manifest(path)?;
    let by_manifest = Terms::of_manifest(&manifest, round).rule;
    let rule = Rule { lr: args.lr.unwrap_or(by_manifest.lr), over: over.unwrap_or(by_manifest.over), ..by_manifest };
    let layout = manifest.state_layout();
    let tensors = theta.read_like(&layout, "the run")?;
    Ok((manifest.format(), rule, State::new(layout, round, tensors)?))
}

/// The header that the payloads share but for the hotkey.
fn one_record(paths: &[PathBuf]) -> Result<Outline> {
    let first = read_outline(&paths[0])?;
    for path in &paths[1..] {
        let outline = read_outline(path)?;
        let (header, expected) = (&outline.header, &first.header);
        let differs = match () {
            () if header.run != expected.run => "is of another run",
            () if header.round != expected.round => "is of another round",
            () if header.base_root != expected.base_root => "has another base root",
            () if outline.layout_digest != first.layout_digest => "is for other tensors",
            () if outline.runs != first.runs => "is coded in another way",
            () => continue,
        };
        bail!("{} {differs} than {}: a record's payloads have these in common; merge them apart", path.display(), paths[0].display());
    }
    Ok(first)
}

fn check_base(base: &Hash, root: &Hash, theta: &Path, round: u64) -> Result<()> {
    if *base == Hash::default() || base == root {
        return Ok(());
    }
    let (base, root) = (hex::encode(base), hex::encode(root));
    bail!(
        "the payloads were measured from root {base}, {} has root {root} in round {round}; pass their θ, its round with --round, or --any-base",
        theta.display()
    )
}

fn read_payload(path: &Path, format: &Arc<Format>) -> Result<Payload> {
    Payload::read(BufReader::new(open(path)?), format).map_err(|error| refused(path, error))
}

/// What the report says of each payload.
fn entries_of(paths: Vec<PathBuf>, entries: &[Weighted<'_>], layout: &Layout) -> Vec<Entry> {
    let norms: Vec<Vec<f64>> = entries.iter().map(|entry| norms(entry.payload)).collect();
    let mut clips = vec![Vec::new(); entries.len()];
    for tensor in 0..layout.tensors().len() {
        let of_tensor: Vec<f64> = norms.iter().map(|norms| norms[tensor]).collect();
        clips.iter_mut().zip(clip_factors(&of_tensor)).for_each(|(clips, clip)| clips.push(clip));
    }
    let named = paths.into_iter().zip(entries).map(|(path, entry)| (path, hex::encode(entry.payload.header().hotkey), entry.weight));
    let measured = norms.into_iter().zip(clips);
    named
        .zip(measured)
        .map(|((payload, hotkey, weight), (norms, clip_factors))| Entry { payload, hotkey, weight, norms, clip_factors })
        .collect()
}

#[derive(Debug, Serialize)]
struct Merged {
    theta: PathBuf,
    /// Of the next θ.
    round: u64,
    root_before: String,
    root_after: String,
    tensors: Vec<String>,
    payloads: Vec<Entry>,
    /// Of the transition alone.
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Entry {
    payload: PathBuf,
    hotkey: String,
    weight: f32,
    /// By tensor.
    norms: Vec<f64>,
    /// By tensor.
    clip_factors: Vec<f32>,
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(1, &["payload", "weight", "norm", "least clip factor", "clipped tensors"]);
        for entry in &self.payloads {
            let norm = entry.norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt();
            let least = entry.clip_factors.iter().copied().fold(1.0, f32::min);
            let clipped = entry.clip_factors.iter().filter(|&&clip| clip < 1.0).count();
            let clipped = format!("{clipped} of {}", self.tensors.len());
            table.row([
                entry.payload.display().to_string(),
                entry.weight.to_string(),
                format!("{norm:.6}"),
                format!("{least:.6}"),
                clipped,
            ]);
        }
        writeln!(f, "{table}")?;
        writeln!(f, "root before {}", self.root_before)?;
        writeln!(f, "root after  {}", self.root_after)?;
        write!(f, "{}: θ of round {}; merged in {:.3} s", self.theta.display(), self.round, self.seconds)
    }
}
