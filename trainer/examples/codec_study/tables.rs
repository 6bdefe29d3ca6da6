//! Comparisons as Markdown.

use crate::{
    comparison::{Comparison, Difference, Series},
    figures::{Class, Figures},
    report::Report,
};

/// The variant that the others are measured against.
const BASELINE: &str = "sign2-k64";

/// Rounds, counted from one, whose figures show how these develop.
const ROUNDS: [u64; 6] = [1, 5, 10, 20, 40, 60];

type Figure = fn(&Figures) -> Option<f64>;

const FIGURES: [(&str, Figure); 15] = [
    ("energy selected", |f| f.energy_selected),
    ("quantization error", |f| f.quantization_error),
    ("scale spread", |f| f.scale_spread),
    ("largest over smallest magnitude", |f| f.magnitude_ratio),
    ("index: entropy, bits", |f| f.index_entropy),
    ("index: bound, bits", |f| f.index_uniform),
    ("index: as coded, bits", |f| f.index_bits),
    ("index: jointly, bits", |f| f.index_joint),
    ("code entropy, bits", |f| f.code_entropy),
    ("sign entropy, bits", |f| f.sign_entropy),
    ("scale entropy, bits", |f| f.scale_entropy),
    ("scale step entropy, bits", |f| f.scale_step_entropy),
    ("overlap", |f| f.overlap),
    ("overlap by chance", |f| f.overlap_by_chance),
    ("sign agreement", |f| f.sign_agreement),
];

const DEVELOPING: [(&str, Figure); 2] = [("overlap", |f| f.overlap), ("jointly, bits", |f| f.index_joint)];

/// One comparison: its losses, then the figures of the variant called `statistics`.
pub fn markdown(comparison: &Comparison, statistics: &str) -> String {
    let Comparison { setting: s, rounds, .. } = comparison;
    let mut text = format!(
        "## {}\n\n{} parameters, {} miners, {} inner steps of {} × {} tokens, {rounds} rounds, β = {}.\n\n",
        s.config, s.parameters, s.miners, s.inner_steps, s.batch, s.sequence_length, s.beta
    );
    text += &losses(comparison);
    text += &format!("\nMeans are over the seeds that a variant has. Differences are to `{BASELINE}`, over the seeds that both have, ");
    text += "± their standard error (pairs).\n";
    text += &match comparison.variant(statistics).filter(|series| !series.classes().is_empty()) {
        Some(series) => format!(
            "\nFigures of `{statistics}`, mean over the later half of the rounds and {}:\n\n{}\nBy round:\n\n{}",
            seeds(series),
            summary(series),
            development(series)
        ),
        None => format!("\nThere are no figures of `{statistics}`.\n"),
    };
    text
}

/// How many seeds a variant has, in words.
pub fn seeds(series: &Series) -> String {
    match series.runs.len() {
        1 => "1 seed".to_owned(),
        count => format!("{count} seeds"),
    }
}

fn losses(comparison: &Comparison) -> String {
    let columns = ["variant", "bits per chunk", "bytes per payload", "ratio"].map(str::to_owned).into_iter();
    let columns = columns.chain(comparison.seeds().into_iter().map(|seed| format!("seed {seed}")));
    let columns = columns.chain(["mean", "difference", "last three", "difference, last three"].map(str::to_owned));
    let row = |series: &Series| {
        let size = [series.mean(|run| run.bits_per_chunk), series.mean(|run| run.payload_bytes)].map(|value| format!("{value:.0}"));
        let ratio = format!("{:.1}", series.mean(|run| run.ratio));
        let finals = comparison.seeds().into_iter().map(|seed| decimals(series.runs.get(&seed).map(Report::last_loss)));
        let against = |of: fn(&Report) -> f64| {
            let baseline = comparison.variant(BASELINE).filter(|_| series.name != BASELINE);
            [decimals(Some(series.mean(of))), difference(baseline.and_then(|baseline| series.difference(baseline, of)))]
        };
        let cells = [series.name.clone()].into_iter().chain(size).chain([ratio]).chain(finals);
        cells.chain(against(Report::last_loss)).chain(against(Report::late_loss)).collect()
    };
    let rows = comparison.variants.iter().map(row).collect();
    format!("Held-out bits per byte after the last round, and the mean of the last three measurements:\n\n{}", table(columns, rows))
}

fn summary(series: &Series) -> String {
    let classes: Vec<(Class, Figures)> = series.classes().into_iter().map(|class| (class, series.summary(class))).collect();
    let columns = ["figure".to_owned()].into_iter().chain(classes.iter().map(|(class, _)| class.to_string()));
    let row = |(name, figure): (&str, Figure)| {
        let values = classes.iter().map(|(_, figures)| decimals(figure(figures)));
        [name.to_owned()].into_iter().chain(values).collect()
    };
    table(columns, FIGURES.map(row).to_vec())
}

fn development(series: &Series) -> String {
    let classes = series.classes();
    let names = classes.iter().flat_map(|class| DEVELOPING.map(|(name, _)| format!("{class}: {name}")));
    let columns = ["round".to_owned()].into_iter().chain(names);
    let row = |round: u64| {
        let figures = classes.iter().map(|&class| series.figures(round - 1, class));
        let values: Vec<_> = figures.flat_map(|figures| DEVELOPING.map(|(_, figure)| figure(&figures))).collect();
        let cells = [round.to_string()].into_iter().chain(values.iter().map(|value| decimals(*value)));
        values.iter().any(Option::is_some).then(|| cells.collect())
    };
    table(columns, ROUNDS.into_iter().filter_map(row).collect())
}

/// The first column to the left, the others to the right.
fn table(columns: impl Iterator<Item = String>, rows: Vec<Vec<String>>) -> String {
    let columns: Vec<String> = columns.collect();
    let rule = (0..columns.len()).map(|i| if i == 0 { "---" } else { "---:" }.to_owned()).collect();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    [columns, rule].into_iter().chain(rows).map(line).collect()
}

fn decimals(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.4}"))
}

fn difference(value: Option<Difference>) -> String {
    match value {
        None => "–".to_owned(),
        Some(Difference { mean, error: None, pairs }) => format!("{mean:+.4} ({pairs})"),
        Some(Difference { mean, error: Some(error), pairs }) => format!("{mean:+.4} ± {error:.4} ({pairs})"),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::*;
    use crate::{
        comparison::{compare, tests::run},
        report::RoundFigures,
    };

    #[test]
    fn a_comparison_reads_as_expected() -> Result<()> {
        let mut first = run(BASELINE, 0, &[8.0, 4.0, 3.0]);
        let figures = |round: u64, overlap| {
            let figures = Figures { overlap: Some(overlap), ..Figures::default() };
            RoundFigures { round, classes: [(Class::Matrix, figures)].into() }
        };
        first.figures = vec![figures(0, 0.5), figures(4, 0.25)];
        first.finish(&[900.0], 4096);
        let others = [run(BASELINE, 1, &[8.0, 4.0, 3.5]), run("dense", 0, &[8.0, 3.0, 2.5]), run("dense", 1, &[8.0, 3.0, 2.5])];
        let all = compare([vec![first], others.to_vec()].concat())?;
        let text = all.iter().map(|comparison| markdown(comparison, BASELINE)).collect::<String>();
        for line in [
            "4096 parameters, 2 miners, 3 inner steps of 4 × 8 tokens, 10 rounds, β = 0.95.",
            "| dense | 4000 | 500 | 32.8 | 2.5000 | 2.5000 | 2.5000 | -0.7500 ± 0.2500 (2) | 4.5000 | -0.5833 ± 0.0833 (2) |",
            "| sign2-k64 | 7200 | 900 | 18.2 | 3.0000 | 3.5000 | 3.2500 | – | 5.0833 | – |",
            "| overlap | 0.2500 |",
            "| index: jointly, bits | – |",
            "| 1 | 0.5000 | – |",
            "| 5 | 0.2500 | – |",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
        }
        assert!(all.iter().all(|comparison| markdown(comparison, "dense").ends_with("There are no figures of `dense`.\n")));
        Ok(())
    }
}
