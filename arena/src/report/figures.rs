//! Figures drawn from outcomes: who was paid what, and how far figures go together.

use std::ops::Range;

use chain::yuma;

use crate::{Outcome, WeightRow, suite::BASELINE};

/// Rounds at the end of a bout whose mean pay counts as the standing at the end.
pub const END: u64 = 5;
/// The same where single miners are looked at.
pub const LONG_END: u64 = 10;
/// A class is unpaid below this share of what honest miners in its places are paid.
pub const UNPAID: f64 = 0.03;

/// A bout's pay: the share of each miner, by place, in each round's incentives. Rounds before anybody is paid have zeros.
pub struct Pay<'a> {
    outcome: &'a Outcome,
    shares: Vec<Vec<f64>>,
}

impl<'a> Pay<'a> {
    /// Of an outcome.
    pub fn of(outcome: &'a Outcome) -> Self {
        let incentive = |place: usize, round: usize| outcome.miners[place].incentive.get(round).map_or(0.0, |i| f64::from(*i));
        let places = 0..outcome.miners.len();
        let totals: Vec<f64> = (0..outcome.rounds.len()).map(|round| places.clone().map(|p| incentive(p, round)).sum()).collect();
        let share = |place, (round, total): (usize, &f64)| if *total > 0.0 { incentive(place, round) / total } else { 0.0 };
        let shares = places.map(|place| totals.iter().enumerate().map(|round| share(place, round)).collect()).collect();
        Self { outcome, shares }
    }

    /// Places of those that are not honest.
    pub fn adversaries(&self) -> Vec<usize> {
        (0..self.shares.len()).filter(|&place| self.outcome.miners[place].class != BASELINE).collect()
    }

    /// Places of a class.
    pub fn places(&self, class: &str) -> Vec<usize> {
        (0..self.shares.len()).filter(|&place| self.outcome.miners[place].class == class).collect()
    }

    /// Places of those that are honest.
    pub fn honest(&self) -> Vec<usize> {
        self.places(BASELINE)
    }

    /// The bout's last rounds, `count` of them.
    pub fn last(&self, count: u64) -> Range<usize> {
        let rounds = self.outcome.rounds.len();
        rounds.saturating_sub(count as usize)..rounds
    }

    /// The share that these places have together, in the mean of these rounds.
    pub fn mean(&self, places: &[usize], rounds: Range<usize>) -> f64 {
        let count = rounds.len().max(1) as f64;
        places.iter().filter_map(|&p| self.shares.get(p)?.get(rounds.clone())).flatten().sum::<f64>() / count
    }

    /// The share that these places have of all pay since round `from`: of what the ledger paid out, or, where that is not the whole bout, of
    /// the incentives.
    pub fn cumulative(&self, places: &[usize], from: u64) -> f64 {
        if from > 0 {
            return self.mean(places, from as usize..self.outcome.rounds.len());
        }
        let all: u64 = self.outcome.miners.iter().map(|m| m.emission).sum();
        let own: u64 = places.iter().filter_map(|&p| self.outcome.miners.get(p)).map(|m| m.emission).sum();
        if all == 0 { 0.0 } else { own as f64 / all as f64 }
    }

    /// By round, what these places are paid relative to `baseline`; nothing for rounds in which that is nothing.
    pub fn relative(&self, places: &[usize], baseline: &Pay<'_>) -> Vec<(u64, f64)> {
        let rounds = 0..self.outcome.rounds.len();
        let ratio =
            |round: usize| Some((round as u64, ratio(self.mean(places, round..round + 1), baseline.mean(places, round..round + 1))?));
        rounds.filter_map(ratio).collect()
    }
}

/// `part` of `whole`, if there is a whole.
pub fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// The most by which the weights of those validators that lie move an honest miner's incentive at the end, the mean of the last
/// [`LONG_END`] rounds, relative to what Yuma consensus gives from everybody else's weights. Nobody's are moved if nobody lies.
pub fn swayed(outcome: &Outcome) -> Option<f64> {
    let liars: Vec<u16> = outcome.validators.iter().filter(|v| v.lies).map(|v| v.uid).collect();
    let rounds = &outcome.rounds[outcome.rounds.len().saturating_sub(LONG_END as usize)..];
    let mean = |uid: u16, of: &dyn Fn(&WeightRow) -> bool| {
        let paid = rounds.iter().map(|round| incentives(round.weights.iter().filter(|row| of(row))).get(usize::from(uid)).copied());
        paid.map(|paid| f64::from(paid.unwrap_or(0))).sum::<f64>()
    };
    let moved = outcome.of_class(BASELINE).map(|miner| {
        let (with, without) = (mean(miner.uid, &|_| true), mean(miner.uid, &|row| !liars.contains(&row.uid)));
        ratio((with - without).abs(), without)
    });
    moved.collect::<Option<Vec<f64>>>()?.into_iter().max_by(f64::total_cmp)
}

/// The incentives that follow from these rows of weights, by uid.
fn incentives<'a>(rows: impl Iterator<Item = &'a WeightRow> + Clone) -> Vec<u16> {
    let uids = rows.clone().flat_map(|row| row.weights.iter().map(|(uid, _)| *uid).chain([row.uid]));
    let count = uids.max().map_or(0, |uid| usize::from(uid) + 1);
    // as if all had just set their weights, and nobody was bonded to anybody: neither bears on incentives
    let mut inputs = yuma::Inputs {
        block: 2,
        last_epoch: 0,
        owner: None,
        stake: vec![0; count],
        permit: vec![false; count],
        registered: vec![0; count],
        last_update: vec![1; count],
        open_commit: vec![None; count],
        weights: vec![yuma::Row::new(); count],
        bonds: vec![yuma::Row::new(); count],
        emission: 0,
    };
    for row in rows {
        let uid = usize::from(row.uid);
        (inputs.stake[uid], inputs.permit[uid]) = (row.stake, true);
        inputs.weights[uid].clone_from(&row.weights);
    }
    yuma::epoch(&inputs, &yuma::Params::default()).incentive
}

/// After how many rounds pay stayed below [`UNPAID`] to the end: 0 if it always was; none if it is not, or if nothing is known.
pub fn unpaid_after(relative: &[(u64, f64)]) -> Option<u64> {
    if relative.is_empty() {
        return None;
    }
    let paid = relative.iter().rposition(|(_, share)| *share >= UNPAID);
    match paid {
        None => Some(0),
        Some(last) if last + 1 == relative.len() => None,
        Some(last) => Some(relative[last].0 + 1),
    }
}

/// Spearman's rank correlation: equal values share the mean of their ranks.
pub fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let (x, y): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    correlation(&ranks(&x), &ranks(&y))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|v| *v < value).count() as f64;
        let equal = values.iter().filter(|v| *v == value).count() as f64;
        below + (equal + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

fn correlation(x: &[f64], y: &[f64]) -> Option<f64> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (mx, my) = (mean(x), mean(y));
    let product = |a: &[f64], ma: f64, b: &[f64], mb: f64| a.iter().zip(b).map(|(a, b)| (a - ma) * (b - mb)).sum::<f64>();
    ratio(product(x, mx, y, my), (product(x, mx, x, mx) * product(y, my, y, my)).sqrt())
}

/// The value below which `share` of the values lie.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((share * last as f64).round() as usize).copied()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{MinerOutcome, RoundOutcome, Seconds, ValidatorOutcome};
    use protocol::Digest;

    /// A bout of two validators, of which the first has twice the stake, with these classes and incentives by round; everybody who is paid
    /// is applied.
    pub fn outcome(miners: &[(&str, &[u16])], loss: f64) -> Outcome {
        let rounds = miners.first().map_or(0, |(_, paid)| paid.len());
        let applied = |round: usize| miners.iter().zip(3u16..).filter(move |((_, paid), _)| paid[round] > 0).map(|(_, uid)| uid).collect();
        let miner = |((class, paid), uid): (&(&str, &[u16]), u16)| MinerOutcome {
            uid,
            class: (*class).into(),
            strategy: (*class).into(),
            applied: (0..rounds as u64).filter(|r| paid[*r as usize] > 0).collect(),
            refusals: [].into(),
            left_out: [].into(),
            incentive: paid.to_vec(),
            emission: paid.iter().map(|p| u64::from(*p)).sum(),
        };
        let round = |round: usize| RoundOutcome {
            round: round as u64,
            block: 0,
            root: Digest::default(),
            lead: String::new(),
            first: String::new(),
            listed: miners.len(),
            applied: applied(round),
            gains: Vec::new(),
            advantages: Vec::new(),
            scores: Vec::new(),
            weights: Vec::new(),
        };
        let validator = |(uid, stake, dividends)| ValidatorOutcome {
            uid,
            stake,
            lies: false,
            dividends,
            emission: 0,
            led: 0,
            first: 0,
            dissents: 0,
            warnings: Vec::new(),
        };
        Outcome {
            run: Digest::default(),
            seed: 1,
            parameters: 1,
            miners: miners.iter().zip(3u16..).map(miner).collect(),
            validators: [(1, 200, 40_000), (2, 100, 20_000)].map(validator).to_vec(),
            rounds: (0..rounds).map(round).collect(),
            held_out: vec![(0, 8.0), (rounds as u64, loss)],
            seconds: Seconds::default(),
        }
    }

    #[test]
    fn pay_is_a_share_of_each_round_and_of_all_emission() {
        let bout = outcome(&[("honest", &[0, 10, 30]), ("noise", &[0, 10, 10])], 2.0);
        let pay = Pay::of(&bout);
        assert_eq!((pay.honest(), pay.adversaries()), (vec![0], vec![1]));
        assert_eq!([pay.mean(&[1], 0..1), pay.mean(&[1], 1..3), pay.mean(&[0, 1], 2..3)], [0.0, 0.375, 1.0]);
        assert_eq!((pay.cumulative(&[1], 0), pay.cumulative(&[1], 2)), (1.0 / 3.0, 0.25));
        assert_eq!((pay.last(2), pay.last(5)), (1..3, 0..3));
        let all = outcome(&[("honest", &[0, 5, 5]), ("honest", &[0, 5, 5])], 2.0);
        assert_eq!(pay.relative(&[1], &Pay::of(&all)), [(1, 1.0), (2, 0.5)], "a round without pay says nothing");
    }

    #[test]
    fn unpaid_is_who_stays_unpaid() {
        let after = |shares: &[f64]| unpaid_after(&(2..).zip(shares.iter().copied()).collect::<Vec<_>>());
        assert_eq!(after(&[0.5, 0.0, 0.1, 0.02, 0.0]), Some(5));
        assert_eq!((after(&[0.0, 0.01]), after(&[0.0, 0.5])), (Some(0), None));
    }

    #[test]
    fn ranks_are_shared_by_equal_values() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(rank_correlation(&[(1.0, 10.0), (2.0, 20.0), (3.0, 1000.0)]), Some(1.0));
        assert_eq!(rank_correlation(&[(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]), Some(-1.0));
        let known = rank_correlation(&[(1.0, 2.0), (2.0, 1.0), (3.0, 4.0), (4.0, 3.0)]);
        assert!((known.unwrap_or_default() - 0.6).abs() < 1e-12, "{known:?}");
        assert_eq!(rank_correlation(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }

    #[test]
    fn a_liar_moves_what_consensus_lets_it_move() {
        let mut bout = outcome(&[("honest", &[1; 12]), ("honest", &[1; 12])], 2.0);
        let rows = |stakes: [u64; 3], liars: &[(u16, u16)]| {
            let honest = vec![(3, 65_535), (4, 65_535)];
            let row = |uid: usize| WeightRow {
                uid: uid as u16,
                stake: stakes[uid],
                weights: if uid == 0 { liars.to_vec() } else { honest.clone() },
            };
            (0..3).map(row).collect::<Vec<_>>()
        };
        bout.validators[0] = ValidatorOutcome { uid: 0, lies: true, ..bout.validators[0].clone() };
        let mut swayed_by = |stakes: [u64; 3], liars: &[(u16, u16)]| {
            bout.rounds.iter_mut().for_each(|round| round.weights = rows(stakes, liars));
            swayed(&bout).expect("everybody is paid")
        };
        assert_eq!(swayed_by([40, 30, 30], &[(3, 65_535), (4, 65_535)]), 0.0, "it says what the others say");
        let clipped = swayed_by([40, 30, 30], &[(3, 65_535)]);
        assert!(clipped > 0.0 && clipped < 0.4, "what it gives beyond the others is clipped, what it denies is not: {clipped}");
        assert!(swayed_by([80, 10, 10], &[(3, 65_535)]) > 0.9, "with most of the stake it decides");
    }

    #[test]
    fn quantiles_lie_among_the_values() {
        assert_eq!([0.0, 0.5, 1.0].map(|share| quantile(&[3.0, 1.0, 2.0], share)), [Some(1.0), Some(2.0), Some(3.0)]);
        assert_eq!(quantile(&[], 0.5), None);
    }
}
