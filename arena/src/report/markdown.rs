//! A report as Markdown.

use std::fmt::Write as _;

use super::{Check, ComputationRow, END, LONG_END, Liar, ROUNDS, Report, Row, Spread, UNPAID, Wronged};

/// Every table and plot of a report; `plots` are the names of the plots' files, as [`crate::plots::draw`] returns them.
pub fn markdown(report: &Report, plots: &[String]) -> String {
    let scale = report.scale;
    let mut parts = vec![format!(
        "{} miners and {} rounds per bout unless it says otherwise, seed {}. Bars met: {}.",
        scale.miners,
        scale.rounds,
        scale.seed,
        tally(report)
    )];
    if !report.missing.is_empty() {
        parts.push(format!("Not held: {}.", report.missing.join(", ")));
    }
    parts.push(rows(report));
    parts.extend(report.liar.as_ref().filter(|liar| liar.moved.is_some()).map(liar));
    if !report.work.is_empty() {
        parts.push(work(report));
    }
    parts.push(wronged(&report.wronged));
    if !report.reference.is_empty() {
        parts.push(reference(report));
    }
    parts.push(computation_table(&report.computation));
    parts.extend(plots.iter().map(|plot| format!("![{}]({plot})", plot.trim_end_matches(".svg").replace('-', " "))));
    parts.join("\n\n") + "\n"
}

fn tally(report: &Report) -> String {
    let checks: Vec<&Check> = report.checks().map(|(_, check)| check).collect();
    let count = |passed: Option<bool>| checks.iter().filter(|check| check.passed == passed).count();
    let open = count(None);
    let of = format!("{} of {}", count(Some(true)), checks.len() - open);
    if open == 0 { of } else { format!("{of}, {open} more not yet to be judged") }
}

fn rows(report: &Report) -> String {
    let mut text = String::from(
        "| bout | population | last applied after, mean / longest | unpaid after | paid at the end | paid in all | held-out loss | bar | |\n\
         |---|---|--:|--:|--:|--:|--:|---|---|\n",
    );
    for row in &report.rows {
        let Row { bout, population, .. } = row;
        let lasted = row.excluded_after.map(|(mean, longest)| format!("{mean:.1} / {longest}")).unwrap_or_default();
        let unpaid = match (row.excluded_after, row.unpaid_after) {
            (None, _) => String::new(),
            (_, Some(rounds)) => rounds.to_string(),
            (_, None) => "never".into(),
        };
        let change = row.loss_change.filter(|change| *change != 0.0).map(|change| format!(" ({:+.1} %)", 100.0 * change));
        let loss = row.loss.map(|loss| format!("{loss:.3}")).unwrap_or_default() + &change.unwrap_or_default();
        let (at_end, total) = (percent(row.at_end), percent(row.cumulative));
        let (bars, verdicts) = checks(&row.checks);
        // writing to a string cannot fail
        let _ = writeln!(text, "| {bout} | {population} | {lasted} | {unpaid} | {at_end} | {total} | {loss} | {bars} | {verdicts} |");
    }
    let _ = write!(
        text,
        "\nPaid: what the adversaries are paid, relative to what honest miners in their places are paid in `honest`; at the end is the mean of the last \
         {END} rounds. Unpaid: below {} % of that for good. Rounds are counted from the start. Losses in bits per byte, beside `honest`.",
        100.0 * UNPAID
    );
    text
}

/// Bars and, beside them, what was measured.
fn checks(checks: &[Check]) -> (String, String) {
    let verdict = |check: &Check| {
        let value = check.value.map(|value| figure(check, value)).unwrap_or_default();
        match check.passed {
            Some(true) => format!("{value} met"),
            Some(false) => format!("**{value} missed**"),
            None => "not held".into(),
        }
    };
    let join = |of: &dyn Fn(&Check) -> String| checks.iter().map(of).collect::<Vec<_>>().join("; ");
    (join(&|check| check.bar.clone()), join(&verdict))
}

/// What was measured in the bar's unit.
fn figure(check: &Check, value: f64) -> String {
    if check.bar.contains('%') { format!("{:.2} %", 100.0 * value) } else { format!("{value:.3}") }
}

fn percent(share: Option<f64>) -> String {
    share.map(|share| format!("{:.1} %", 100.0 * share)).unwrap_or_default()
}

fn number(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.3}")).unwrap_or_default()
}

/// What a liar changed, against the same bout without one.
fn liar(liar: &Liar) -> String {
    let mut text = format!(
        "Honest miners' pay, the mean of the last {LONG_END} rounds, differs between two bouts by\n\n\
         | | median | nine tenths below | most | all together |\n|---|--:|--:|--:|--:|\n"
    );
    let mut row = |name: &str, spread: &Option<Spread>| {
        if let Some(Spread { median, ninety, most, together }) = spread {
            let [median, ninety, most] = [median, ninety, most].map(|share| percent(Some(*share)));
            let _ = writeln!(text, "| {name} | {median} | {ninety} | {most} | {:+.1} % |", 100.0 * together);
        }
    };
    row("`liar` and `liar-honest`: one lies, or none", &liar.moved);
    row("`liar-honest-2` and `liar-honest`: none lies, another seed", &liar.by_chance);
    let (lies, honest) = (number(liar.dividends), number(liar.dividends_if_honest));
    let (first, own) = liar.rounds;
    let _ = write!(
        text,
        "\nThe first validator's dividends per stake, relative to the others': {lies} if it lies, {honest} if it does not. \
         Of {first} rounds in which the liar's turn was first, its own record stood in {own}."
    );
    text
}

fn work(report: &Report) -> String {
    let mut text = format!(
        "Rank correlation of pay and work (inner steps done and claimed); at the end is the mean of the last {LONG_END} rounds:\n\n\
         | bout | seed | at the end | in all | bar | |\n|---|--:|--:|--:|---|---|\n"
    );
    for row in &report.work {
        let (bars, verdicts) = checks(&row.checks);
        let (at_end, total) = (number(row.at_end), number(row.cumulative));
        let _ = writeln!(text, "| {} | {} | {at_end} | {total} | {bars} | {verdicts} |", row.bout, row.seed);
    }
    text.trim_end().to_owned()
}

fn wronged(wronged: &Wronged) -> String {
    let mut text = format!("Honest miners were left out in {:.3} % of their rounds", 100.0 * wronged.share);
    if let Some((bout, share)) = &wronged.worst_bout {
        let _ = write!(text, ", in the worst bout (`{bout}`) in {:.3} %", 100.0 * share);
    }
    if let Some((bout, round, share)) = &wronged.worst_round {
        let _ = write!(text, ", in the worst round (`{bout}`, round {round}) {:.1} % of them", 100.0 * share);
    }
    let (bar, verdict) = checks(std::slice::from_ref(&wronged.check));
    let _ = write!(text, ". Bar: {bar}: {verdict}.");
    text
}

fn reference(report: &Report) -> String {
    let mut text = String::from(
        "The same bouts with the deployed reference's test of computation (an average of signs) and rating (LossRating), all else equal, ours / theirs:\n\n\
         | bout | measure | at the end | in all | held-out loss |\n|---|---|--:|--:|--:|\n",
    );
    for row in &report.reference {
        let is_pay = row.measure.starts_with("pay");
        let pair = |(ours, theirs): (Option<f64>, Option<f64>)| match is_pay {
            true => format!("{} / {}", percent(ours), percent(theirs)),
            false => format!("{} / {}", number(ours), number(theirs)),
        };
        // where everybody is honest there is nobody to compare
        let (at_end, total) = match row.at_end {
            (None, None) => (String::new(), String::new()),
            _ => (pair(row.at_end), pair(row.cumulative)),
        };
        let loss = format!("{} / {}", number(row.loss.0), number(row.loss.1));
        let _ = writeln!(text, "| {} | {} | {at_end} | {total} | {loss} |", row.bout, row.measure);
    }
    text.trim_end().to_owned()
}

/// Error rates of the tests of computation as a table.
pub fn computation_table(rows: &[ComputationRow]) -> String {
    let columns = ROUNDS.map(|rounds| format!(" after {rounds} |")).concat();
    let mut text = format!(
        "How often the test of computation errs, by simulation: miners that do not train and are paid at least a tenth of the typical honest pay / miners that train and are paid less than half of it / pay of \
         the former relative to the latter, in per cent, by the effect of training in standard errors.\n\n\
         | effect | test |{columns}\n|--:|---|{}\n",
        "--:|".repeat(ROUNDS.len())
    );
    for row in rows {
        let cell = |(_, rates): &(u32, crate::computation::ErrorRates)| {
            format!(" {:.1} / {:.1} / {:.1} |", 100.0 * rates.false_accept, 100.0 * rates.false_reject, 100.0 * rates.leak)
        };
        let _ = writeln!(text, "| {} | {} |{}", row.effect, row.test, row.rates.iter().map(cell).collect::<String>());
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::report::tests::results;

    #[test]
    fn every_bout_has_a_line_and_misses_are_said() {
        let text = markdown(&Report::of(&results(), 1).unwrap(), &["a-plot.svg".into()]);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in\n{text}"));
        assert_eq!(
            line("| noise |"),
            "| noise | 40 honest, 10 noise | 2.0 / 2 | 2 | 0.0 % | 4.8 % | 2.100 (+5.0 %) | pay at the end ≤ 3 % of honest | 0.00 % met |"
        );
        assert!(line("| zeros |").contains("never") && line("| zeros |").contains("missed**"), "{text}");
        assert!(line("| work-1 |").contains("| 1.000 | 1.000 |"), "{text}");
        assert!(line("Not held: ").contains("coalition"));
        assert!(text.contains("![a plot](a-plot.svg)") && text.contains("28.571 %"), "{text}");
    }

    #[test]
    fn tables_have_as_many_cells_in_every_line() {
        let text = markdown(&Report::of(&results(), 1).unwrap(), &[]);
        let tables = text.split("\n\n").filter(|part| part.starts_with('|')).collect::<Vec<_>>();
        assert_eq!(tables.len(), 3, "bouts, work, computation:\n{text}");
        for table in tables {
            let cells: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
            assert!(cells.iter().all(|count| *count == cells[0]), "{table}");
        }
    }
}
