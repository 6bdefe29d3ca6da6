//! The two tests of whether miners train on what they are assigned, against each other, by simulation.
//!
//! No model is trained here: a miner's advantage on assigned data, in standard errors, is drawn from N(δ, 1) if it trains on it and from
//! N(0, 1) if it does not, and goes through the rules that validators apply.

use protocol::{
    Computation, Digest, Hotkey, Judge, Pay,
    score::{Entry, Outcome, Standing, Trial},
};
use serde::{Deserialize, Serialize};

use crate::Random;

/// Miners of one simulated run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crowd {
    /// Those that train on what they are assigned.
    pub honest: u16,
    /// Those that do not.
    pub free: u16,
    /// By how many standard errors the honest ones' gain on assigned data exceeds that on random data.
    pub effect: f64,
}

/// How often a test was wrong after some rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorRates {
    /// Share of the miners that do not train and are paid all the same: at least a tenth of what the typical honest miner is paid.
    pub false_accept: f64,
    /// Share of the miners that train and are paid less than half of what the typical honest miner is paid.
    pub false_reject: f64,
    /// What miners that do not train are paid in the mean, relative to those that do.
    pub leak: f64,
}

/// The error rates after each of `rounds`, over `runs` simulated runs. Gains on random data are equal, so that only the test decides on pay.
pub fn error_rates(test: Computation, crowd: Crowd, rounds: &[u32], runs: u64) -> Vec<ErrorRates> {
    let (judge, pay) = (Judge { computation: test, ..Judge::default() }, Pay::default());
    let mut tallies = vec![Tally::default(); rounds.len()];
    for run in 0..runs {
        let mut random = Random::new(run, "computation");
        let mut standing = Standing::default();
        for round in 1..=rounds.iter().copied().max().unwrap_or(0) {
            standing = standing.advance(&entries(crowd, &mut random), &judge, &pay);
            for (tally, _) in tallies.iter_mut().zip(rounds).filter(|(_, at)| **at == round) {
                tally.count(crowd, &standing, pay.power);
            }
        }
    }
    tallies.iter().map(Tally::rates).collect()
}

/// One round's measurements: honest miners have the lower uids.
fn entries(crowd: Crowd, random: &mut Random) -> Vec<Entry> {
    let error = 0.01;
    let trial = |gain: f64| Trial { before: 1.0, after: 1.0 - gain, std_error: error, tokens: 1 };
    let mut entry = |uid: u16| {
        let effect = if uid < crowd.honest { crowd.effect } else { 0.0 };
        let apart = (effect + random.normal()) * error * 2f64.sqrt();
        let outcome = Outcome::Measured { assigned: trial(0.1 + apart), random: trial(0.1), work: 1.0, norm: 1.0, overlap: 0.0 };
        Entry { uid, hotkey: Hotkey(Digest::of(&uid.to_le_bytes()).0), payload: Digest::default(), outcome }
    };
    (0..crowd.honest + crowd.free).map(&mut entry).collect()
}

#[derive(Clone, Debug, Default)]
struct Tally {
    honest: u64,
    free: u64,
    accepted: u64,
    rejected: u64,
    honest_pay: f64,
    free_pay: f64,
}

impl Tally {
    fn count(&mut self, crowd: Crowd, standing: &Standing, power: f64) {
        let pay: Vec<f64> = standing.miners.iter().map(|s| s.score.powf(power)).collect();
        let (honest, free) = pay.split_at(crowd.honest.into());
        let typical = median(honest);
        self.honest += honest.len() as u64;
        self.free += free.len() as u64;
        self.rejected += honest.iter().filter(|pay| **pay < 0.5 * typical || **pay <= 0.0).count() as u64;
        self.accepted += free.iter().filter(|pay| **pay >= 0.1 * typical && **pay > 0.0).count() as u64;
        self.honest_pay += honest.iter().sum::<f64>();
        self.free_pay += free.iter().sum::<f64>();
    }

    fn rates(&self) -> ErrorRates {
        let share = |part: f64, whole: u64| if whole == 0 { 0.0 } else { part / whole as f64 };
        let (honest, free) = (share(self.honest_pay, self.honest), share(self.free_pay, self.free));
        ErrorRates {
            false_accept: share(self.accepted as f64, self.free),
            false_reject: share(self.rejected as f64, self.honest),
            leak: if honest > 0.0 { free / honest } else { 0.0 },
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_clear_effect_the_sequential_test_errs_less_than_the_average_of_signs() {
        let crowd = Crowd { honest: 16, free: 4, effect: 1.5 };
        let rates = |test| error_rates(test, crowd, &[10, 20], 30);
        let (ours, theirs) = (rates(Computation::default()), rates(Computation::REFERENCE));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(ours.false_accept < theirs.false_accept, "{ours:?} {theirs:?}");
            assert!(ours.leak < theirs.leak, "{ours:?} {theirs:?}");
        }
        assert!(ours[1].false_accept < 0.02 && ours[1].false_reject < 0.05, "{ours:?}");
    }

    #[test]
    fn without_an_effect_nobody_can_be_told_apart() {
        let rates = error_rates(Computation::default(), Crowd { honest: 10, free: 10, effect: 0.0 }, &[20], 60);
        assert!((rates[0].leak - 1.0).abs() < 0.3, "{rates:?}");
    }
}
