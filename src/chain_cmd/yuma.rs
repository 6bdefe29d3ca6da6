//! `tributary chain yuma`: one epoch of Yuma consensus from plain inputs.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use chain::yuma::{self, Outputs};
use clap::Args;

/// Options of `tributary chain yuma`.
#[derive(Debug, Args)]
pub struct YumaArgs {
    /// The inputs as JSON (chain/README.md has the form).
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Print JSON, bonds included.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &YumaArgs) -> Result<()> {
    let place = || args.input.display().to_string();
    let text = fs::read_to_string(&args.input).with_context(place)?;
    let (inputs, params) = yuma::parse(&text).with_context(place)?;
    let outputs = yuma::epoch(&inputs, &params);
    if args.json {
        say!("{}", serde_json::to_string(&outputs)?);
    } else {
        say!("{}", table(&outputs).trim_end());
    }
    Ok(())
}

/// One line for each uid, then the bonds of each validator that has any.
fn table(outputs: &Outputs) -> String {
    let yes = |flag| if flag { "yes" } else { "no" };
    let mut lines = vec![format!(
        "{:>5} {:>6} {:>6} {:>9} {:>9} {:>9} {:>9} {:>13} {:>18}",
        "uid", "permit", "active", "consensus", "trust", "incentive", "dividends", "validator pay", "emission"
    )];
    for uid in 0..outputs.permit.len() {
        lines.push(format!(
            "{uid:>5} {:>6} {:>6} {:>9} {:>9} {:>9} {:>9} {:>13} {:>18}",
            yes(outputs.permit[uid]),
            yes(outputs.active[uid]),
            outputs.consensus[uid],
            outputs.validator_trust[uid],
            outputs.incentive[uid],
            outputs.dividends[uid],
            outputs.validator_pay[uid],
            outputs.emission[uid]
        ));
    }
    for (uid, row) in outputs.bonds.iter().enumerate().filter(|(_, row)| !row.is_empty()) {
        let bonds: Vec<String> = row.iter().map(|(miner, bond)| format!("{miner}:{bond}")).collect();
        lines.push(format!("bonds of {uid}: {}", bonds.join(" ")));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_example_prints_as_a_table() {
        let (inputs, params) = yuma::parse(include_str!("../../chain/tests/yuma/example.json")).unwrap();
        let table = table(&yuma::epoch(&inputs, &params));
        assert!(
            table.lines().any(|line| line.split_whitespace().eq(["3", "no", "yes", "32767", "0", "32767", "0", "0", "250000000"])),
            "{table}"
        );
        assert!(table.contains("\nbonds of 0: 2:"), "{table}");
    }
}
