//! `tributary chain simulate`: who earns what over days, as a table and a plot.

use std::{
    fmt::{self, Display},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use chain::{
    RAO_PER_TAO,
    simulation::{Day, History, Role, Scenario},
};
use clap::Args;
use serde::Serialize;

use crate::output::{self, Table};

/// The scenario without `--config`.
const EXAMPLE: &str = include_str!("../../chain/economy.toml");
/// The longest run, in days.
const MOST_DAYS: u64 = 36_500;

/// Options of `tributary chain simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The scenario; by default the built-in chain/economy.toml.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// How many days of 7,200 blocks.
    #[arg(long, default_value_t = 30)]
    days: u64,
    /// Draw prices and earnings.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print JSON: every day, and who earned what.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &SimulateArgs) -> Result<()> {
    ensure!((1..=MOST_DAYS).contains(&args.days), "--days is {}; it must be 1 to {MOST_DAYS}", args.days);
    let history = match &args.config {
        None => History::of(&Scenario::parse(EXAMPLE)?, args.days)?,
        Some(path) => simulate(path, args.days).with_context(|| path.display().to_string())?,
    };
    if let Some(path) = &args.plot {
        super::plot::draw(path, &history).map_err(|e| anyhow!("drawing {}: {e}", path.display()))?;
    }
    output::report(&Shown(history), args.json);
    Ok(())
}

fn simulate(path: &Path, days: u64) -> Result<History> {
    let text = std::fs::read_to_string(path)?;
    Ok(History::of(&Scenario::parse(&text)?, days)?)
}

/// A run, for people and for programs.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown(History);

impl Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let history = &self.0;
        if let (Some(first), Some(last)) = (history.days.first(), history.days.last()) {
            let (created, exist, next) = (tao(last.issued - first.issued), tao(last.issued), tao(last.block_emission));
            writeln!(f, "{} days: {created} TAO created, {exist} exist, the next block may create {next}\n", last.day)?;
            writeln!(f, "{}\n", pools(history, first, last))?;
        }
        write!(f, "{}\n\n{}", roles(history), participants(history))
    }
}

/// Rao as TAO or alpha.
fn tao(rao: u64) -> String {
    format!("{:.3}", rao as f64 / RAO_PER_TAO as f64)
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn pools(history: &History, first: &Day, last: &Day) -> Table {
    let mut table = Table::new(1, &["subnet", "price before", "price after", "TAO in pool", "alpha in pool", "alpha in all"]);
    for ((name, before), after) in history.subnets.iter().zip(&first.subnets).zip(&last.subnets) {
        let prices = [before.price, after.price].map(|price| format!("{price:.6}"));
        table.row([name.clone()].into_iter().chain(prices).chain([after.tao, after.alpha, after.issued].map(tao)));
    }
    table
}

fn roles(history: &History) -> Table {
    let mut table = Table::new(1, &["role", "alpha", "worth TAO", "share"]);
    let all: u64 = history.earnings.iter().map(|earning| earning.tao).sum();
    for role in Role::ALL {
        let (alpha, worth) = history.total(role);
        let share = if all == 0 { 0.0 } else { worth as f64 / all as f64 };
        table.row([role.name().to_owned(), tao(alpha), tao(worth), percent(share)]);
    }
    table
}

fn participants(history: &History) -> Table {
    let mut table = Table::new(3, &["subnet", "participant", "role", "alpha", "worth TAO", "share"]);
    for earning in &history.earnings {
        let names = [earning.subnet.clone(), earning.participant.clone(), earning.role.name().to_owned()];
        table.row(names.into_iter().chain([tao(earning.alpha), tao(earning.tao), percent(earning.share)]));
    }
    table
}
