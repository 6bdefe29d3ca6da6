//! `tributary arena`: attacks on the scoring, and what comes of them.

mod bout;
mod report;
mod series;

use std::path::{Path, PathBuf};

use ::arena::suite::{Results, Scale, file, suite};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use dataset::{PrepareOptions, Source, Tokenizer};

use crate::output;

/// Options of `tributary arena`.
#[derive(Debug, Args)]
pub struct ArenaArgs {
    #[command(subcommand)]
    command: ArenaCommand,
}

#[derive(Debug, Subcommand)]
enum ArenaCommand {
    /// Hold all bouts of the suite, or those that are missing, and report.
    Run(RunArgs),
    /// Hold one bout: CLASS=COUNT… of one's own, or one of the suite by its name.
    Bout(bout::BoutArgs),
    /// Make table and plots of a suite's outcomes anew.
    Report(report::ReportArgs),
    /// How often the tests of computation err, by simulation.
    Computation(report::ComputationArgs),
}

/// Options of `tributary arena run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    scale: ScaleArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Where outcomes, tables and plots go. Bouts that are there already are not held again.
    #[arg(long, value_name = "DIR", default_value = "arena-results")]
    out: PathBuf,
    /// Bouts at a time, each in a process of its own that takes about one core.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Hold only this bout; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// How large bouts are.
#[derive(Clone, Debug, Args)]
pub struct ScaleArgs {
    /// Rounds of a bout; by default 30, or 8 in the short form.
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Miners of a bout of the suite; by default 50, or 13 in the short form.
    #[arg(long, value_name = "N")]
    miners: Option<usize>,
    /// What keys and the strategies' random numbers follow from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The short form of the suite: three small bouts.
    #[arg(long)]
    short: bool,
}

impl ScaleArgs {
    fn scale(&self) -> Result<Scale> {
        let Scale { miners, rounds, .. } = if self.short { Scale::SHORT } else { Scale::FULL };
        let (miners, rounds) = (self.miners.unwrap_or(miners), self.rounds.unwrap_or(rounds));
        if miners < 10 || rounds == 0 {
            bail!("the suite needs at least 10 miners and a round");
        }
        Ok(Scale { miners, rounds, seed: self.seed, short: self.short })
    }
}

/// What is trained on.
#[derive(Clone, Debug, Args)]
pub struct DataArgs {
    /// Folder of a data set of bytes, as `tributary data prepare` makes it. By default one of the books, READMEs and doc comments that Rust
    /// has put on this machine.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataArgs {
    /// The data set's folder; one below `folder` is made if none is given.
    fn prepare(&self, folder: &Path) -> Result<PathBuf> {
        if let Some(data) = &self.data {
            return std::path::absolute(data).with_context(|| data.display().to_string());
        }
        let data = std::path::absolute(folder)?.join("data");
        if !data.join("dataset.json").exists() {
            eprintln!("preparing text");
            let mut options = PrepareOptions::new(Source::Machine, crate::data::describe(&[]), Tokenizer::Bytes);
            options.collect.max_bytes = Some(12_000_000);
            dataset::prepare(&options, &data)?;
        }
        Ok(data)
    }
}

/// Runs the command.
pub fn run(args: ArenaArgs) -> Result<()> {
    match args.command {
        ArenaCommand::Run(args) => hold_suite(&args),
        ArenaCommand::Bout(args) => bout::run(args),
        ArenaCommand::Report(args) => report::run(&args),
        ArenaCommand::Computation(args) => report::computation(&args),
    }
}

fn hold_suite(args: &RunArgs) -> Result<()> {
    let scale = args.scale.scale()?;
    let mut bouts = suite(&scale);
    if let Some(unknown) = args.only.iter().find(|name| !bouts.iter().any(|bout| bout.name == **name)) {
        let names: Vec<String> = bouts.into_iter().map(|bout| bout.name).collect();
        bail!("{unknown:?} is no bout of the suite; they are {}", names.join(", "));
    }
    Results::begin(&args.out, scale)?;
    bouts.retain(|bout| (args.only.is_empty() || args.only.contains(&bout.name)) && !file(&args.out, &bout.name).exists());
    if !bouts.is_empty() {
        let data = args.data.prepare(&args.out)?;
        series::hold(&series::Series { scale, data, out: args.out.clone() }, bouts, args.jobs.max(1))?;
    }
    let report = report::write(&args.out, None, report::RUNS)?;
    output::report(&report, args.json);
    Ok(())
}
