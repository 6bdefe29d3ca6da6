//! `tributary chain simulate`: who earns what over days, as a table and a plot.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use chain::{
    RAO_PER_TAO,
    simulation::{Earning, History, Role, Scenario},
};
use clap::Args;

/// The scenario without `--config`.
const EXAMPLE: &str = include_str!("../../configs/economy.toml");
/// The longest run, in days.
const MOST_DAYS: u64 = 36_500;

/// Options of `tributary chain simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The scenario; by default the built-in configs/economy.toml.
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
    if args.json {
        println!("{}", serde_json::to_string(&history)?);
    } else {
        print(&history);
    }
    Ok(())
}

fn simulate(path: &Path, days: u64) -> Result<History> {
    let text = std::fs::read_to_string(path)?;
    Ok(History::of(&Scenario::parse(&text)?, days)?)
}

fn whole(rao: u64) -> f64 {
    rao as f64 / RAO_PER_TAO as f64
}

fn print(history: &History) {
    print_subnets(history);
    println!();
    println!("{:<20} {:>16} {:>16} {:>7}", "role", "alpha", "worth TAO", "share");
    let all: u64 = history.earnings.iter().map(|earning| earning.tao).sum();
    for role in Role::ALL {
        let (alpha, tao) = history.total(role);
        let share = if all == 0 { 0.0 } else { 100.0 * tao as f64 / all as f64 };
        println!("{:<20} {:>16.3} {:>16.3} {share:>6.2}%", role.name(), whole(alpha), whole(tao));
    }
    println!();
    println!("{:<18} {:<20} {:<18} {:>16} {:>16} {:>7}", "subnet", "participant", "role", "alpha", "worth TAO", "share");
    for Earning { subnet, participant, role, alpha, tao, share } in &history.earnings {
        let (role, alpha, tao, share) = (role.name(), whole(*alpha), whole(*tao), 100.0 * share);
        println!("{subnet:<18} {participant:<20} {role:<18} {alpha:>16.3} {tao:>16.3} {share:>6.2}%");
    }
}

fn print_subnets(history: &History) {
    let (Some(first), Some(last)) = (history.days.first(), history.days.last()) else { return };
    let created = whole(last.issued - first.issued);
    println!(
        "{} days: {created:.3} TAO created; {:.3} exist; a block creates {} TAO",
        last.day,
        whole(last.issued),
        whole(last.block_emission)
    );
    println!();
    println!(
        "{:<18} {:>12} {:>12} {:>16} {:>16} {:>16}",
        "subnet", "price before", "price after", "TAO in pool", "alpha in pool", "alpha in all"
    );
    for ((name, before), after) in history.subnets.iter().zip(&first.subnets).zip(&last.subnets) {
        let (tao, alpha, issued) = (whole(after.tao), whole(after.alpha), whole(after.issued));
        println!("{name:<18} {:>12.6} {:>12.6} {tao:>16.3} {alpha:>16.3} {issued:>16.3}", before.price, after.price);
    }
}
