//! From a round's measurements to the payloads that enter the model: pure, so that every node comes to the same.

use std::collections::BTreeSet;

use super::{
    ScoreSheet,
    miner::{MinerScore, Standing},
    trial::{Entry, Outcome, median_gain},
};
use crate::{Digest, Hotkey, Judge, JudgeMode, Pay, Refusal};

/// What follows for one entry of a score sheet, and why.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<'a> {
    /// It enters the model.
    Applied,
    /// It would, but as many as fit rate higher; its place after them, from 0.
    Reserve(usize),
    /// It gains no more than `least` nats per token on random data.
    Useless {
        /// What it gains.
        gain: f64,
        /// What it had to exceed.
        least: f64,
    },
    /// It was not measured, and its owner has no standing or the record's share of such payloads is used up.
    Unmeasured,
    /// It was refused.
    Refused(&'a Refusal),
}

impl ScoreSheet {
    /// Every entry with what follows for it, in the sheet's order.
    ///
    /// A measured payload is useful if it gains more than the floor. That is [`useful_gain`]; for miners with standing one standard error
    /// below zero, so that theirs is left out only if it harms beyond what chance may do; and two standard errors more for miners that were
    /// measured often and have none. An unmeasured one is useful if its owner has standing. Of these the `top` best by rating are applied
    /// (ties to the lower uid), unmeasured ones only up to the manifest's share; the rest are reserves in order.
    pub fn verdicts(&self, judge: &Judge, pay: &Pay) -> Vec<(&Entry, Verdict<'_>)> {
        let floor = useful_gain(&self.entries, judge);
        let standing = |uid: u16| self.standing.of(uid);
        let mut verdicts: Vec<(&Entry, Verdict<'_>)> = self
            .entries
            .iter()
            .map(|entry| {
                let known = standing(entry.uid);
                let trusted = known.is_some_and(|s| s.has_standing(judge));
                let error = if let Outcome::Measured { random, .. } = &entry.outcome { random.std_error } else { 0.0 };
                let least = match known {
                    Some(score) if score.has_standing(judge) => -error,
                    Some(score) if score.has_none(judge) => floor + 2.0 * error,
                    _ => floor,
                };
                let verdict = match &entry.outcome {
                    Outcome::Refused(refusal) => Verdict::Refused(refusal),
                    Outcome::Unmeasured if !trusted => Verdict::Unmeasured,
                    Outcome::Measured { random, .. } if random.gain() <= least => Verdict::Useless { gain: random.gain(), least },
                    Outcome::Unmeasured | Outcome::Measured { .. } => Verdict::Applied,
                };
                (entry, verdict)
            })
            .collect();
        let mut order: Vec<usize> = (0..verdicts.len()).filter(|&i| verdicts[i].1 == Verdict::Applied).collect();
        let rating = |i: &usize| standing(self.entries[*i].uid).map_or(f64::MIN, |s: &MinerScore| s.rating(pay));
        order.sort_by(|a, b| rating(b).total_cmp(&rating(a)).then(a.cmp(b)));
        let measured = |i: &usize| self.entries[*i].outcome != Outcome::Unmeasured;
        let mut unmeasured = allowed_unmeasured(order.iter().filter(|i| measured(i)).count(), judge);
        let (mut applied, mut reserves) = (0, 0);
        for i in order {
            let fits = applied < judge.top as usize && (measured(&i) || unmeasured > 0);
            match fits {
                true => {
                    applied += 1;
                    unmeasured -= usize::from(!measured(&i));
                }
                false if !measured(&i) && unmeasured == 0 => verdicts[i].1 = Verdict::Unmeasured,
                false => {
                    verdicts[i].1 = Verdict::Reserve(reserves);
                    reserves += 1;
                }
            }
        }
        verdicts
    }

    /// The entries to apply, ascending by uid.
    pub fn select(&self, judge: &Judge, pay: &Pay) -> Vec<&Entry> {
        self.verdicts(judge, pay).into_iter().filter(|(_, verdict)| *verdict == Verdict::Applied).map(|(entry, _)| entry).collect()
    }

    /// Whether everybody was measured whom the manifest wants measured; `seed` is the hash of the first block after the close.
    pub fn measures_sample(&self, before: &Standing, seed: &Digest, judge: &Judge) -> bool {
        let listed: Vec<(u16, Hotkey)> = self.entries.iter().map(|e| (e.uid, e.hotkey)).collect();
        let sample = sample(&listed, before, seed, judge);
        self.entries.iter().all(|e| e.outcome != Outcome::Unmeasured || !sample.contains(&e.uid))
    }
}

/// How many unmeasured payloads may enter beside `measured` ones, so that their share stays within the manifest's.
fn allowed_unmeasured(measured: usize, judge: &Judge) -> usize {
    if judge.unmeasured >= 1.0 { usize::MAX } else { (measured as f64 * judge.unmeasured / (1.0 - judge.unmeasured)) as usize }
}

/// The gain on random data that a payload must exceed to count as useful: zero, or the judge's floor times the round's lower median gain.
///
/// Zero alone would not do: a random direction of plausible norm lowers the loss a little in almost every second round, by luck and to first
/// order, and does harm at full size.
pub fn useful_gain(entries: &[Entry], judge: &Judge) -> f64 {
    (judge.floor * median_gain(entries).unwrap_or(0.0)).max(0.0)
}

/// Whom a round's lead must measure of the miners `listed`: everybody, or where the manifest says `sampled`
/// - all who have no standing for lack of measurements,
/// - half of `sample` from those whose last measurement is the longest ago, so that each is measured within 2·⌈miners/sample⌉ rounds,
/// - the other half from everybody else, by lot, so that nobody is safe after a measurement.
///
/// `seed`, the hash of the first block after the close, settles ties and lots: nobody knows it when the payloads are sealed, everybody can
/// recompute it after.
pub fn sample(listed: &[(u16, Hotkey)], before: &Standing, seed: &Digest, judge: &Judge) -> BTreeSet<u16> {
    if judge.mode == JudgeMode::All {
        return listed.iter().map(|(uid, _)| *uid).collect();
    }
    let known = |hotkey: &Hotkey| before.miners.iter().find(|s| s.hotkey == *hotkey);
    let lot = |hotkey: &Hotkey| Digest::derive("tributary 2026 sample v1", &[&seed.0, &hotkey.0]);
    let settled = |hotkey: &Hotkey| known(hotkey).is_some_and(|s| s.measured >= judge.probation);
    let (mut others, news): (Vec<(u16, Hotkey)>, Vec<_>) = listed.iter().copied().partition(|(_, hotkey)| settled(hotkey));
    let mut chosen: BTreeSet<u16> = news.into_iter().map(|(uid, _)| uid).collect();
    let waited = |hotkey: &Hotkey| known(hotkey).map_or(u32::MAX, |s| s.since);
    others.sort_by_cached_key(|(_, hotkey)| (std::cmp::Reverse(waited(hotkey)), lot(hotkey)));
    let longest = (judge.sample as usize).div_ceil(2).min(others.len());
    chosen.extend(others.drain(..longest).map(|(uid, _)| uid));
    others.sort_by_cached_key(|(_, hotkey)| lot(hotkey));
    chosen.extend(others.into_iter().take(judge.sample as usize / 2).map(|(uid, _)| uid));
    chosen
}
