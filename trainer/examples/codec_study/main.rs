//! Compares codecs by loss at equal bytes, and measures what real pseudo-gradients are like.
//!
//! One process simulates one run without chain, storage or judging: R miners with a shared θ, their own inner optimizers and their own
//! error feedback; what they send is coded by one variant, and everything of it is merged. A miner's data depend on seed, miner
//! and round alone, so that runs differ by their variant only.

mod coding;
mod comparison;
mod curves;
mod figures;
mod report;
mod selection;
mod simulation;
mod sizes;
mod statistics;
mod tables;
mod wire;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, ValueEnum};
use model::Device;

use crate::{coding::Variant, report::Report, simulation::Simulation, sizes::IndexCode};

/// Compares codecs by loss at equal bytes.
#[derive(Debug, Parser)]
enum Command {
    /// Simulates a run under one codec.
    Run(Box<RunArgs>),
    /// Prints runs side by side, as Markdown.
    Report(ReportArgs),
}

/// What to run.
#[derive(Debug, Args)]
struct RunArgs {
    /// The run's config; its sections model, inner, outer and compression count.
    #[arg(long, value_name = "FILE", default_value = "configs/demo.toml")]
    config: PathBuf,
    /// A data set, made by `tributary data prepare`.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// `dense`, or values and selection: none, sign1, sign2 or reference, then k and a number (kN: as many as cost the bytes of
    /// sign2-k64) or gmax16, gmax32, gmax64. So `sign2-k64`, `sign1-kN`, `none-gmax32`.
    #[arg(long, value_name = "NAME")]
    variant: String,
    /// How the indices of a top-k are written.
    #[arg(long, value_enum, default_value_t = IndexCode::Golomb)]
    indices: IndexCode,
    /// Chooses initial weights and data.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Rounds.
    #[arg(long, value_name = "N", default_value_t = 40)]
    rounds: u64,
    /// Miners, R.
    #[arg(long, value_name = "N", default_value_t = 4)]
    miners: u8,
    /// Inner steps per round, H, instead of the config's.
    #[arg(long, value_name = "N")]
    inner_steps: Option<u32>,
    /// Rounds from one measurement of the held-out loss to the next.
    #[arg(long, value_name = "N", default_value_t = 5)]
    eval_every: u64,
    /// Held-out sequences that are measured.
    #[arg(long, value_name = "N", default_value_t = 256)]
    eval_sequences: u64,
    /// Whether every round's payloads are taken apart.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    stats: Switch,
    /// Where the miners' β·e + g of three rounds go, as safetensors.
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Where the report goes, as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// cpu, cuda, or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: Device,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// What to print.
#[derive(Debug, Args)]
struct ReportArgs {
    /// The runs' reports; those that say `skip` are passed over.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the held-out curves go, as SVG.
    #[arg(long, value_name = "FILE")]
    curves: Option<PathBuf>,
    /// The variant whose figures are printed.
    #[arg(long, value_name = "NAME", default_value = "sign2-k64")]
    statistics: String,
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Run(args) => run(&args),
        Command::Report(args) => report(&args),
    }
}

fn run(args: &RunArgs) -> Result<()> {
    // several runs share a machine
    model::set_threads(1);
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let variant = Variant::parse(&args.variant, args.indices).with_context(|| format!("no variant is called {:?}", args.variant))?;
    let mut report = Report::new(&args.variant, args.seed, args.indices);
    Simulation::new(args, variant)?.run(&mut report)?;
    match &args.out {
        Some(path) => std::fs::write(path, report.to_json()).with_context(|| path.display().to_string()),
        None => {
            println!("{}", report.to_json());
            Ok(())
        }
    }
}

fn report(args: &ReportArgs) -> Result<()> {
    let (reports, skipped) = comparison::read(&args.files)?;
    skipped.iter().for_each(|path| eprintln!("{}: skipped, not counted", path.display()));
    let comparisons = comparison::compare(reports)?;
    let texts: Vec<String> = comparisons.iter().map(|comparison| tables::markdown(comparison, &args.statistics)).collect();
    print!("{}", texts.join("\n"));
    args.curves.as_ref().map_or(Ok(()), |path| curves::draw(path, &comparisons))
}
