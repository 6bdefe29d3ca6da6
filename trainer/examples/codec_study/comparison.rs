//! Runs side by side: those of one setting, by variant and seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    figures::{Class, Figures},
    report::{Report, Setting},
};

/// What a series leaves in place of the report of a run that it did not make.
const SKIPPED: &str = "skip";

/// Reads reports; also the files that hold none because their run was skipped.
pub fn read(paths: &[PathBuf]) -> Result<(Vec<Report>, Vec<&PathBuf>)> {
    let (mut reports, mut skipped) = (Vec::new(), Vec::new());
    for path in paths {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        match text.trim() {
            SKIPPED => skipped.push(path),
            text => reports.push(serde_json::from_str(text).with_context(|| path.display().to_string())?),
        }
    }
    Ok((reports, skipped))
}

/// Runs that can be compared.
pub struct Comparison {
    /// What was run.
    pub setting: Setting,
    /// For how many rounds.
    pub rounds: u64,
    /// Its variants, from the fewest bytes to the most.
    pub variants: Vec<Series>,
}

/// One variant's runs.
pub struct Series {
    /// The variant's name.
    pub name: String,
    /// By seed.
    pub runs: BTreeMap<u64, Report>,
}

/// Puts together what can be compared.
pub fn compare(reports: Vec<Report>) -> Result<Vec<Comparison>> {
    let mut all: Vec<Comparison> = Vec::new();
    for report in reports {
        let (name, rounds) = (report.name(), report.losses.last().map_or(0, |loss| loss.round));
        let setting = report.setting.clone().with_context(|| format!("{name}, seed {}: the run never started", report.seed))?;
        let at = all.iter().position(|c| c.setting == setting && c.rounds == rounds).unwrap_or_else(|| {
            all.push(Comparison { setting, rounds, variants: Vec::new() });
            all.len() - 1
        });
        let variants = &mut all[at].variants;
        let at = variants.iter().position(|series| series.name == name).unwrap_or_else(|| {
            variants.push(Series { name: name.clone(), runs: BTreeMap::new() });
            variants.len() - 1
        });
        let seed = report.seed;
        ensure!(variants[at].runs.insert(seed, report).is_none(), "{name} was run twice with seed {seed}");
    }
    for comparison in &mut all {
        comparison.variants.sort_by(|a, b| a.mean(|run| run.payload_bytes).total_cmp(&b.mean(|run| run.payload_bytes)));
    }
    Ok(all)
}

impl Comparison {
    /// The variant of this name.
    pub fn variant(&self, name: &str) -> Option<&Series> {
        self.variants.iter().find(|series| series.name == name)
    }

    /// Every seed that some variant has.
    pub fn seeds(&self) -> BTreeSet<u64> {
        self.variants.iter().flat_map(|series| series.runs.keys().copied()).collect()
    }
}

impl Series {
    /// Mean over the seeds.
    pub fn mean(&self, of: impl Fn(&Report) -> f64) -> f64 {
        mean(&self.runs.values().map(of).collect::<Vec<_>>())
    }

    /// The held-out loss by round, mean over the seeds.
    pub fn curve(&self) -> Vec<(u64, f64)> {
        let mut rounds: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for loss in self.runs.values().flat_map(|run| &run.losses) {
            rounds.entry(loss.round).or_default().push(loss.bits_per_byte);
        }
        rounds.into_iter().map(|(round, losses)| (round, mean(&losses))).collect()
    }

    /// How much more than `baseline` this variant has, by the seeds that both have.
    pub fn difference(&self, baseline: &Self, of: impl Fn(&Report) -> f64) -> Option<Difference> {
        let pairs = self.runs.iter().filter_map(|(seed, run)| Some(of(run) - of(baseline.runs.get(seed)?)));
        Difference::of(&pairs.collect::<Vec<_>>())
    }

    /// The classes of tensors that there are figures of.
    pub fn classes(&self) -> BTreeSet<Class> {
        self.runs.values().flat_map(|run| run.summary.keys().copied()).collect()
    }

    /// Figures of the later half of the rounds, mean over the seeds.
    pub fn summary(&self, class: Class) -> Figures {
        Figures::mean(&self.runs.values().filter_map(|run| run.summary.get(&class)).collect::<Vec<_>>())
    }

    /// Figures of the round of this index, mean over the seeds.
    pub fn figures(&self, round: u64, class: Class) -> Figures {
        let rounds = self.runs.values().flat_map(|run| &run.figures).filter(|figures| figures.round == round);
        Figures::mean(&rounds.filter_map(|figures| figures.classes.get(&class)).collect::<Vec<_>>())
    }
}

/// A mean of paired differences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// It.
    pub mean: f64,
    /// Its standard error, if there are two pairs at least.
    pub error: Option<f64>,
    /// Pairs.
    pub pairs: usize,
}

impl Difference {
    fn of(differences: &[f64]) -> Option<Self> {
        let pairs = differences.len();
        let mean = (pairs > 0).then(|| mean(differences))?;
        let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
        let error = (pairs > 1).then(|| (squares / (pairs - 1) as f64 / pairs as f64).sqrt());
        Some(Self { mean, error, pairs })
    }
}

/// The mean of at least one value.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{report::Loss, sizes::IndexCode};

    /// A run of these losses, five rounds apart.
    pub fn run(variant: &str, seed: u64, losses: &[f64]) -> Report {
        let loss = |(i, &bits_per_byte): (usize, &f64)| Loss { round: 5 * i as u64, bits_per_byte, training: None };
        let setting =
            Setting { config: "c".to_owned(), parameters: 4096, miners: 2, inner_steps: 3, batch: 4, sequence_length: 8, beta: 0.95 };
        let mut report = Report::new(variant, seed, IndexCode::Golomb);
        report.setting = Some(setting);
        report.losses = losses.iter().enumerate().map(loss).collect();
        report.finish(&[100.0 * variant.len() as f64], 4096);
        report
    }

    #[test]
    fn differences_are_of_equal_seeds() -> Result<()> {
        let runs = vec![run("b", 1, &[8.0, 3.0]), run("b", 2, &[8.0, 5.0]), run("aa", 2, &[8.0, 4.0]), run("aa", 1, &[8.0, 2.5])];
        let mut all = compare([runs, vec![run("b", 3, &[8.0, 1.0])]].concat())?;
        let only = all.pop().context("one comparison")?;
        assert!(all.is_empty());
        assert_eq!(only.variants.iter().map(|series| series.name.as_str()).collect::<Vec<_>>(), ["b", "aa"]);
        assert_eq!((only.rounds, only.seeds()), (5, [1, 2, 3].into()));
        let (a, b) = (only.variant("aa").context("aa")?, only.variant("b").context("b")?);
        assert_eq!(a.difference(b, Report::last_loss), Some(Difference { mean: -0.75, error: Some(0.25), pairs: 2 }));
        assert_eq!(b.curve(), [(0, 8.0), (5, 3.0)]);
        Ok(())
    }

    #[test]
    fn what_differs_by_more_than_variant_and_seed_is_not_compared() -> Result<()> {
        let mut other = run("b", 1, &[8.0, 3.0]);
        other.setting.as_mut().context("a setting")?.miners = 4;
        let longer = run("b", 1, &[8.0, 3.0, 2.0]);
        assert_eq!(compare(vec![run("b", 1, &[8.0, 3.0]), other, longer])?.len(), 3);
        assert!(compare(vec![run("b", 1, &[8.0]), run("b", 1, &[8.0])]).is_err());
        assert!(compare(vec![Report::new("b", 1, IndexCode::Golomb)]).is_err());
        Ok(())
    }

    #[test]
    fn one_pair_has_no_error_and_none_no_difference() {
        assert_eq!(Difference::of(&[0.5]), Some(Difference { mean: 0.5, error: None, pairs: 1 }));
        assert_eq!(Difference::of(&[]), None);
    }

    #[test]
    fn skipped_runs_are_passed_over_and_broken_ones_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let paths = ["run", "skipped", "broken"].map(|name| folder.path().join(name));
        let written = run("b", 1, &[8.0, 3.0]);
        for (path, text) in paths.iter().zip([written.to_json().as_str(), "skip\n", "{"]) {
            fs::write(path, text)?;
        }
        let (reports, skipped) = read(&paths[..2])?;
        assert_eq!(reports.iter().map(Report::to_json).collect::<Vec<_>>(), [written.to_json()]);
        assert_eq!(skipped, [&paths[1]]);
        assert!(read(&paths).is_err());
        Ok(())
    }
}
