//! What a suite shows: how each bout's adversaries fared, whether each bar is met, whom the scoring wronged.

mod figures;
mod markdown;

use protocol::Computation;
use serde::{Deserialize, Serialize};

pub use figures::{END, LONG_END, Pay, UNPAID, rank_correlation, ratio, swayed, unpaid_after};
pub use markdown::{computation_table, markdown};

use crate::{
    ArenaError, Outcome,
    computation::{Crowd, ErrorRates, error_rates},
    suite::{BASELINE, Bar, Bout, Results, Scale, reference_of, suite, work_of},
    tiny,
};
use figures::quantile;

/// The most of the honest miners that may be left out of a round.
const MOST_WRONGED: f64 = 0.01;
/// Effects, in standard errors, for which the tests of computation are compared, and after how many rounds.
pub const EFFECTS: [f64; 6] = [0.25, 0.5, 1.0, 1.5, 2.0, 4.0];
/// See [`EFFECTS`].
pub const ROUNDS: [u32; 4] = [5, 10, 20, 30];

/// All there is to say about a suite.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How large the bouts are.
    pub scale: Scale,
    /// Bouts that were not held yet.
    pub missing: Vec<String>,
    /// The bouts against adversaries, and those without.
    pub rows: Vec<Row>,
    /// The bouts of different shares of work.
    pub work: Vec<WorkRow>,
    /// What a lying validator changed, if that bout was held.
    pub liar: Option<Liar>,
    /// Whom the scoring wronged.
    pub wronged: Wronged,
    /// The same bouts by the deployed reference's rules.
    pub reference: Vec<Comparison>,
    /// How often the tests of computation err.
    pub computation: Vec<ComputationRow>,
}

/// One bout against adversaries: whoever is not of the class `honest`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The bout.
    pub bout: String,
    /// Who took part.
    pub population: String,
    /// Rounds until an adversary was applied for the last time: the mean, and the longest. None without adversaries.
    pub excluded_after: Option<(f64, u64)>,
    /// Rounds until the adversaries were paid less than [`UNPAID`] of the baseline for good; none if they still are.
    pub unpaid_after: Option<u64>,
    /// What they are paid at the end, relative to the baseline: the mean of the last [`END`] rounds.
    pub at_end: Option<f64>,
    /// What they were paid in all, relative to the baseline.
    pub cumulative: Option<f64>,
    /// Their share of all pay at the end.
    pub share_at_end: f64,
    /// Held-out loss at the end, in bits per byte.
    pub loss: Option<f64>,
    /// By what share it exceeds the baseline's.
    pub loss_change: Option<f64>,
    /// The bout's bars.
    pub checks: Vec<Check>,
}

/// A bar and whether it is met.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The bar, in words.
    pub bar: String,
    /// What was measured; none if what it is held against is missing.
    pub value: Option<f64>,
    /// Whether the bar is met.
    pub passed: Option<bool>,
}

/// A bout of different shares of work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkRow {
    /// The bout.
    pub bout: String,
    /// The seed.
    pub seed: u64,
    /// Rank correlation of work and pay at the end: the mean of the last [`LONG_END`] rounds.
    pub at_end: Option<f64>,
    /// The same with all pay.
    pub cumulative: Option<f64>,
    /// The bout's bars.
    pub checks: Vec<Check>,
}

/// By what share honest miners' pay differs between two bouts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of them by less.
    pub median: f64,
    /// Nine tenths of them by less.
    pub ninety: f64,
    /// The most.
    pub most: f64,
    /// All of them together: by what share their sum differs, with its sign.
    pub together: f64,
}

/// What a lying validator changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Liar {
    /// Rounds in which it was the first to record, and those whose record is its own.
    pub rounds: (u64, u64),
    /// Against the same population before honest validators.
    pub moved: Option<Spread>,
    /// Between two bouts before honest validators: what chance does.
    pub by_chance: Option<Spread>,
    /// The liar's dividends per stake, relative to the other validators'.
    pub dividends: Option<f64>,
    /// The same validator's where it does not lie.
    pub dividends_if_honest: Option<f64>,
}

/// Honest miners' rounds in which they were not applied, for whatever reason: records have a place for everybody, where everybody is
/// measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wronged {
    /// Of all honest miners' rounds, the share.
    pub share: f64,
    /// The worst bout and its share.
    pub worst_bout: Option<(String, f64)>,
    /// The worst round: its bout, number, and share of the honest miners.
    pub worst_round: Option<(String, u64, f64)>,
    /// The bar.
    pub check: Check,
}

/// A bout by both rules.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The bout.
    pub bout: String,
    /// What is compared: pay relative to the baseline, or the correlation of pay and work.
    pub measure: &'static str,
    /// At the end: ours, theirs.
    pub at_end: (Option<f64>, Option<f64>),
    /// In all: ours, theirs.
    pub cumulative: (Option<f64>, Option<f64>),
    /// Final held-out loss: ours, theirs.
    pub loss: (Option<f64>, Option<f64>),
}

/// Error rates of one test at one effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComputationRow {
    /// By how many standard errors trained sequences gain more.
    pub effect: f64,
    /// The test.
    pub test: String,
    /// Rounds and rates.
    pub rates: Vec<(u32, ErrorRates)>,
}

impl Report {
    /// Of what a folder holds, with the tests of computation over `runs` simulated runs.
    ///
    /// # Errors
    /// [`ArenaError::Setup`] if the built-in config does not fit this version.
    pub fn of(results: &Results, runs: u64) -> Result<Self, ArenaError> {
        let bouts = suite(&results.scale);
        let steps = tiny()?.inner.steps;
        let case = |bout| Some(Case { results, steps, bout, outcome: results.outcome(&bout.name)? });
        let (theirs, ours): (Vec<Case<'_>>, Vec<Case<'_>>) = bouts.iter().filter_map(case).partition(|case| case.bout.reference);
        let (work, rows): (Vec<&Case<'_>>, Vec<&Case<'_>>) = ours.iter().partition(|case| is_work(case.bout));
        let by_both = |case: &Case<'_>| {
            let name = reference_of(&case.bout.name);
            Some(comparison(case, theirs.iter().find(|case| case.bout.name == name)?))
        };
        Ok(Self {
            scale: results.scale,
            missing: bouts.iter().filter(|b| results.outcome(&b.name).is_none()).map(|b| b.name.clone()).collect(),
            rows: rows.iter().map(|case| case.row()).collect(),
            work: work.iter().map(|case| case.work_row()).collect(),
            liar: rows.iter().find(|case| case.bout.favourites.is_some()).map(|case| case.liar()),
            wronged: wronged(ours.iter().filter(|case| !case.bout.sampled)),
            reference: ours.iter().filter_map(by_both).collect(),
            computation: computation(runs),
        })
    }

    /// All bars, with their bouts' names.
    pub fn checks(&self) -> impl Iterator<Item = (&str, &Check)> {
        let rows = self.rows.iter().flat_map(|row| row.checks.iter().map(|check| (row.bout.as_str(), check)));
        let work = self.work.iter().flat_map(|row| row.checks.iter().map(|check| (row.bout.as_str(), check)));
        rows.chain(work).chain([("all bouts", &self.wronged.check)])
    }
}

/// Error rates of both tests over [`EFFECTS`] and [`ROUNDS`], over `runs` simulated runs of 16 honest miners and 4 that do not train.
pub fn computation(runs: u64) -> Vec<ComputationRow> {
    let tests = [("sequential", Computation::default()), ("average of signs", Computation::REFERENCE)];
    let row = |effect: f64, (name, test): (&str, Computation)| {
        let rates = error_rates(test, Crowd { honest: 16, free: 4, effect }, &ROUNDS, runs);
        ComputationRow { effect, test: name.into(), rates: ROUNDS.into_iter().zip(rates).collect() }
    };
    EFFECTS.into_iter().flat_map(|effect| tests.map(|test| row(effect, test))).collect()
}

fn is_work(bout: &Bout) -> bool {
    bout.population.iter().all(|(class, _)| class.starts_with("work:"))
}

/// A bout that was held, among the others.
#[derive(Clone, Copy)]
struct Case<'a> {
    results: &'a Results,
    /// Inner steps of a full round's work.
    steps: u32,
    bout: &'a Bout,
    outcome: &'a Outcome,
}

impl Case<'_> {
    /// Pay of the adversaries at the end and in all, relative to the same places in the baseline.
    fn relative_pay(&self) -> Option<(f64, f64)> {
        let (pay, baseline) = (Pay::of(self.outcome), Pay::of(self.results.outcome(self.bout.baseline)?));
        let places = pay.adversaries();
        let at_end = ratio(pay.mean(&places, pay.last(END)), baseline.mean(&places, baseline.last(END)))?;
        let from = self.bout.hostile_from;
        Some((at_end, ratio(pay.cumulative(&places, from), baseline.cumulative(&places, from))?))
    }

    /// By what share the final loss exceeds that of another bout.
    fn excess(&self, than: &str) -> Option<f64> {
        Some(self.outcome.final_loss()? / self.results.outcome(than)?.final_loss()? - 1.0)
    }

    /// Rank correlations of work with pay at the end and with all pay.
    fn orders(&self) -> Option<(f64, f64)> {
        let workers = work_and_pay(self.outcome, self.steps);
        let order = |of: fn(&(f64, f64, f64)) -> f64| rank_correlation(&workers.iter().map(|w| (w.0, of(w))).collect::<Vec<_>>());
        Some((order(|w| w.1)?, order(|w| w.2)?))
    }

    fn row(&self) -> Row {
        let Self { results, bout, outcome, .. } = self;
        let pay = Pay::of(outcome);
        let places = pay.adversaries();
        let lasted: Vec<u64> = places.iter().map(|&place| outcome.miners[place].lasted()).collect();
        let mean = lasted.iter().sum::<u64>() as f64 / lasted.len().max(1) as f64;
        let relative = results.outcome(bout.baseline).map(|baseline| pay.relative(&places, &Pay::of(baseline)));
        let (at_end, cumulative) = self.relative_pay().unzip();
        Row {
            bout: bout.name.clone(),
            population: bout.population(),
            excluded_after: lasted.iter().max().map(|longest| (mean, *longest)),
            unpaid_after: relative.filter(|_| !places.is_empty()).and_then(|relative| unpaid_after(&relative)),
            at_end,
            cumulative,
            share_at_end: pay.mean(&places, pay.last(END)),
            loss: outcome.final_loss(),
            loss_change: self.excess(bout.baseline),
            checks: self.checks(),
        }
    }

    fn work_row(&self) -> WorkRow {
        let (at_end, cumulative) = self.orders().unzip();
        WorkRow { bout: self.bout.name.clone(), seed: self.bout.seed, at_end, cumulative, checks: self.checks() }
    }

    fn liar(&self) -> Liar {
        let honest = self.results.outcome("liar-honest");
        Liar {
            rounds: self.outcome.validators.first().map_or((0, 0), |liar| (liar.first, liar.led)),
            moved: honest.and_then(|honest| spread(self.outcome, honest)),
            by_chance: honest.zip(self.results.outcome("liar-honest-2")).and_then(|(a, b)| spread(b, a)),
            dividends: dividends(self.outcome),
            dividends_if_honest: honest.and_then(dividends),
        }
    }

    fn checks(&self) -> Vec<Check> {
        self.bout.bars.iter().map(|bar| self.check(*bar)).collect()
    }

    fn check(&self, bar: Bar) -> Check {
        let at_most = |bar: String, value: Option<f64>, most: f64| Check { bar, value, passed: value.map(|value| value <= most) };
        match bar {
            Bar::Paid(most) => {
                let value = self.relative_pay().map(|(at_end, _)| at_end);
                at_most(format!("pay at the end ≤ {} % of honest", percent(most)), value, most)
            }
            Bar::Share(most) => {
                let pay = Pay::of(self.outcome);
                let share = pay.mean(&pay.adversaries(), pay.last(END));
                at_most(format!("≤ {} % of all pay at the end", percent(most)), Some(share), most)
            }
            Bar::Loss { most, than } => at_most(format!("loss ≤ {} % above `{than}`", percent(most)), self.excess(than), most),
            Bar::OneIdentity => {
                let (pay, honest) = (Pay::of(self.outcome), Pay::of(self.outcome).honest());
                let one = pay.mean(&honest, pay.last(END)) / honest.len().max(1) as f64;
                at_most("together ≤ one honest miner's pay at the end".into(), ratio(pay.mean(&pay.adversaries(), pay.last(END)), one), 1.0)
            }
            Bar::Swayed(most) => {
                let bar = format!("the liar's weights move no honest miner's incentive by > {} %", percent(most));
                at_most(bar, swayed(self.outcome), most)
            }
            Bar::Dividends { than } => {
                let (value, other) = (dividends(self.outcome), self.results.outcome(than).and_then(dividends));
                let passed = value.zip(other).map(|(value, other)| value < other);
                Check { bar: format!("liar's dividends per stake below those in `{than}`"), value, passed }
            }
            Bar::Order(least) => {
                let value = self.orders().map(|(at_end, _)| at_end);
                Check { bar: format!("rank correlation ≥ {least}"), value, passed: value.map(|value| value >= least) }
            }
        }
    }
}

/// A share in per cent with as many decimals as it needs, three at most.
fn percent(share: f64) -> String {
    format!("{:.3}", 100.0 * share).trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Work and pay of each worker: share of the work, share of all pay at the end, share of all pay.
pub fn work_and_pay(outcome: &Outcome, steps: u32) -> Vec<(f64, f64, f64)> {
    let pay = Pay::of(outcome);
    let worker = |place: usize| {
        let work = work_of(&outcome.miners[place].class, steps)?;
        Some((work, pay.mean(&[place], pay.last(LONG_END)), pay.cumulative(&[place], 0)))
    };
    (0..outcome.miners.len()).filter_map(worker).collect()
}

/// By what share each honest miner's pay at the end differs from that of another bout's miner in its place.
fn spread(outcome: &Outcome, other: &Outcome) -> Option<Spread> {
    let (pay, other) = (Pay::of(outcome), Pay::of(other));
    let honest = pay.honest();
    let change = |places: &[usize]| Some(ratio(pay.mean(places, pay.last(LONG_END)), other.mean(places, other.last(LONG_END)))? - 1.0);
    let moved: Vec<f64> = honest.iter().map(|&place| change(&[place]).map_or(f64::INFINITY, f64::abs)).collect();
    Some(Spread {
        median: quantile(&moved, 0.5)?,
        ninety: quantile(&moved, 0.9)?,
        most: quantile(&moved, 1.0)?,
        together: change(&honest)?,
    })
}

/// The first validator's dividends per stake at the end, relative to those of the others together.
fn dividends(outcome: &Outcome) -> Option<f64> {
    let (first, others) = outcome.validators.split_first()?;
    let per_stake = |dividends: u64, stake: u64| ratio(dividends as f64, stake as f64);
    let (dividends, stake) = others.iter().fold((0, 0), |(d, s), v| (d + u64::from(v.dividends), s + v.stake));
    ratio(per_stake(first.dividends.into(), first.stake)?, per_stake(dividends, stake)?)
}

fn wronged<'a>(cases: impl Iterator<Item = &'a Case<'a>>) -> Wronged {
    let (mut all, mut out) = (0, 0);
    let (mut worst_bout, mut worst_round) = (None::<(String, f64)>, None::<(String, u64, f64)>);
    for Case { bout: Bout { name, .. }, outcome, .. } in cases {
        let honest: Vec<u16> = outcome.of_class(BASELINE).map(|m| m.uid).collect();
        let mut of_bout = 0;
        for round in &outcome.rounds {
            let wronged = honest.iter().filter(|uid| !round.applied.contains(uid)).count();
            let share = ratio(wronged as f64, honest.len() as f64).unwrap_or(0.0);
            if worst_round.as_ref().is_none_or(|(.., worst)| share > *worst) && !honest.is_empty() {
                worst_round = Some((name.clone(), round.round, share));
            }
            of_bout += wronged;
        }
        let pairs = honest.len() * outcome.rounds.len();
        if let Some(share) = ratio(of_bout as f64, pairs as f64).filter(|share| worst_bout.as_ref().is_none_or(|(_, worst)| share > worst))
        {
            worst_bout = Some((name.clone(), share));
        }
        (all, out) = (all + pairs, out + of_bout);
    }
    let value = worst_round.as_ref().map(|(.., share)| *share);
    let bar = format!("honest miners left out in ≤ {} % of any round", 100.0 * MOST_WRONGED);
    let check = Check { bar, value, passed: value.map(|value| value <= MOST_WRONGED) };
    Wronged { share: ratio(out as f64, all as f64).unwrap_or(0.0), worst_bout, worst_round, check }
}

/// A bout beside the same by the reference's rules.
fn comparison(ours: &Case<'_>, theirs: &Case<'_>) -> Comparison {
    let is_work = is_work(ours.bout);
    let figures = |case: &Case<'_>| if is_work { case.orders() } else { case.relative_pay() };
    let ((our_end, our_total), (their_end, their_total)) = (figures(ours).unzip(), figures(theirs).unzip());
    Comparison {
        bout: ours.bout.name.clone(),
        measure: if is_work { "rank correlation of pay and work" } else { "pay relative to honest" },
        at_end: (our_end, their_end),
        cumulative: (our_total, their_total),
        loss: (ours.outcome.final_loss(), theirs.outcome.final_loss()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{figures::tests::outcome, *};

    /// A suite of which `honest` and some others were held: in `noise`, places 1 and 2 are paid a tenth and then nothing.
    pub fn results() -> Results {
        let paid: &[u16] = &[0, 100, 100, 100, 100, 100, 100];
        let fading: &[u16] = &[0, 10, 0, 0, 0, 0, 0];
        let late: &[u16] = &[0, 100, 0, 100, 100, 100, 100];
        let held = [
            ("honest", outcome(&[("honest", paid), ("honest", paid), ("honest", paid)], 2.0)),
            ("noise", outcome(&[("honest", paid), ("noise", fading), ("noise", fading)], 2.1)),
            ("zeros", outcome(&[("honest", late), ("zeros", paid), ("zeros", paid)], 2.0)),
            ("work-1", outcome(&[("work:0.25", &[1, 1]), ("work:0.50", &[2, 2]), ("work:1.00", &[3, 3])], 3.0)),
            ("absent-15", outcome(&[("honest", paid)], 2.0)),
            ("mixed", outcome(&[("honest", paid), ("noise", fading)], 2.03)),
        ];
        let scale = Scale { miners: 50, rounds: 7, seed: 1, short: false };
        Results { scale, outcomes: held.map(|(name, outcome)| (name.to_owned(), outcome)).into() }
    }

    #[test]
    fn adversaries_are_held_against_the_same_places_of_the_baseline() {
        let report = Report::of(&results(), 1).unwrap();
        let row = |name: &str| report.rows.iter().find(|row| row.bout == name).unwrap();
        let noise = row("noise");
        assert_eq!((noise.excluded_after, noise.unpaid_after, noise.at_end), (Some((2.0, 2)), Some(2), Some(0.0)));
        assert!((noise.cumulative.unwrap() - (20.0 / 620.0) / (2.0 / 3.0)).abs() < 1e-12, "{noise:?}");
        assert!((noise.loss_change.unwrap() - 0.05).abs() < 1e-12);
        assert_eq!(noise.checks[0].passed, Some(true));
        let zeros = row("zeros");
        assert_eq!((zeros.unpaid_after, zeros.checks[0].passed), (None, Some(false)));
        assert!(zeros.at_end.unwrap() > 1.0);
        assert_eq!((row("honest").excluded_after, row("honest").at_end), (None, None));
    }

    #[test]
    fn losses_and_orders_are_held_against_their_bars() {
        let report = Report::of(&results(), 1).unwrap();
        let mixed = &report.rows.iter().find(|row| row.bout == "mixed").unwrap().checks[0];
        assert_eq!((mixed.passed, (mixed.value.unwrap() - 0.015).abs() < 1e-12), (Some(false), true));
        assert_eq!((report.work[0].at_end, report.work[0].checks[0].passed), (Some(1.0), Some(true)));
        assert!(report.missing.contains(&"coalition".into()) && !report.missing.contains(&"mixed".into()));
    }

    #[test]
    fn whoever_is_honest_and_not_applied_is_wronged() {
        let report = Report::of(&results(), 1).unwrap();
        let (name, share) = report.wronged.worst_bout.clone().unwrap();
        assert_eq!((name.as_str(), share), ("zeros", 2.0 / 7.0), "left out in the first round and in the third");
        assert_eq!(report.wronged.check.passed, Some(false));
        assert!(report.wronged.worst_round.clone().unwrap().2 >= 1.0);
    }

    #[test]
    fn dividends_are_held_against_stake() {
        let mut bout = outcome(&[("honest", &[1])], 2.0);
        assert_eq!(dividends(&bout), Some(1.0));
        bout.validators[0].dividends /= 2;
        assert_eq!(dividends(&bout), Some(0.5));
    }

    #[test]
    fn pay_moves_by_places() {
        let before = outcome(&[("honest", &[100, 100]), ("honest", &[100, 100]), ("zeros", &[0, 0])], 2.0);
        let after = outcome(&[("honest", &[150, 150]), ("honest", &[50, 50]), ("zeros", &[0, 0])], 2.0);
        let spread = spread(&after, &before).unwrap();
        assert_eq!((spread.most, spread.together), (0.5, 0.0));
    }
}
