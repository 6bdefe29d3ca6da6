//! A suite's report: on the screen, and as Markdown with plots.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use ::arena::{
    plots,
    report::{self, ComputationRow, Report},
    suite::Results,
};
use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde::Serialize;

use crate::output::{self, Table};

/// Simulated runs for the tests of computation.
pub const RUNS: u64 = 200;
/// How the plots' names begin.
const PREFIX: &str = "gauntlet";
/// Between these lines of a document lies what is made here.
const MARKERS: [&str; 2] = ["<!-- tributary arena report: begin -->", "<!-- tributary arena report: end -->"];

/// Options of `tributary arena report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The folder of `tributary arena run`.
    #[arg(long, value_name = "DIR", default_value = "arena-results")]
    out: PathBuf,
    /// A document between whose two comments `tributary arena report: begin` and `end` the report goes; plots go beside it. By default report.md in
    /// the folder.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Simulated runs for the tests of computation.
    #[arg(long, value_name = "N", default_value_t = RUNS)]
    runs: u64,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Options of `tributary arena computation`.
#[derive(Debug, Args)]
pub struct ComputationArgs {
    /// Simulated runs.
    #[arg(long, value_name = "N", default_value_t = RUNS)]
    runs: u64,
    /// Print the rates as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `tributary arena report`.
pub fn run(args: &ReportArgs) -> Result<()> {
    output::report(&write(&args.out, args.write.as_deref(), args.runs)?, args.json);
    Ok(())
}

/// Runs `tributary arena computation`.
pub fn computation(args: &ComputationArgs) -> Result<()> {
    output::report(&Computation { runs: args.runs, rows: report::computation(args.runs) }, args.json);
    Ok(())
}

#[derive(Serialize)]
struct Computation {
    runs: u64,
    rows: Vec<ComputationRow>,
}

impl fmt::Display for Computation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&report::computation_table(&self.rows))
    }
}

/// A report and where it went.
#[derive(Serialize)]
pub struct Written {
    document: PathBuf,
    report: Report,
}

/// Makes tables and plots of what `out` holds, into `document` or report.md.
pub fn write(out: &Path, document: Option<&Path>, runs: u64) -> Result<Written> {
    let results = Results::read(out)?;
    let report = Report::of(&results, runs)?;
    let default = out.join("report.md");
    let path = document.unwrap_or(&default);
    let plots = plots::draw(path.parent().unwrap_or(Path::new("")), PREFIX, &results)?;
    let text = report::markdown(&report, &plots);
    let whole = match document {
        Some(path) => between(&fs::read_to_string(path).with_context(|| path.display().to_string())?, &text)
            .ok_or_else(|| anyhow!("{} has no lines {:?} and {:?} to write between; add them", path.display(), MARKERS[0], MARKERS[1]))?,
        None => text,
    };
    fs::write(path, whole).with_context(|| path.display().to_string())?;
    Ok(Written { document: path.to_owned(), report })
}

/// The document with `text` between its markers.
fn between(document: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(MARKERS[0])?;
    let (_, after) = rest.split_once(MARKERS[1])?;
    Some(format!("{before}{}\n\n{text}\n{}{after}", MARKERS[0], MARKERS[1]))
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: Option<f64>| share.map(|share| format!("{:.1}%", 100.0 * share)).unwrap_or_default();
        let mut table = Table::new(1, &["bout", "last applied", "unpaid after", "paid at the end", "in all", "loss"]);
        for row in &self.report.rows {
            let lasted = row.excluded_after.map(|(mean, _)| format!("{mean:.1}")).unwrap_or_default();
            let unpaid = row.unpaid_after.map(|rounds| rounds.to_string()).unwrap_or_default();
            let loss = row.loss.map(|loss| format!("{loss:.3}")).unwrap_or_default();
            table.row([row.bout.clone(), lasted, unpaid, percent(row.at_end), percent(row.cumulative), loss]);
        }
        writeln!(f, "{table}\n")?;
        let mut bars = Table::new(3, &["bar", "", "bout", "measured"]);
        for (bout, check) in self.report.checks() {
            let verdict = match check.passed {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "not held",
            };
            let value = check.value.map(|value| format!("{value:.4}")).unwrap_or_default();
            bars.row([check.bar.clone(), verdict.into(), bout.into(), value]);
        }
        if !self.report.missing.is_empty() {
            writeln!(f, "not held: {}\n", self.report.missing.join(", "))?;
        }
        write!(f, "{bars}\n\nreport  {}", self.document.display())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_what_lies_between_the_markers_is_replaced() {
        let document = format!("by hand\n{}\nold\n{}\nby hand, too\n", MARKERS[0], MARKERS[1]);
        let once = between(&document, "new\n").unwrap();
        assert_eq!(once, format!("by hand\n{}\n\nnew\n\n{}\nby hand, too\n", MARKERS[0], MARKERS[1]));
        assert_eq!(between(&once, "new\n").unwrap(), once);
        assert_eq!(between(&format!("{} {}", MARKERS[1], MARKERS[0]), "new"), None);
    }
}
