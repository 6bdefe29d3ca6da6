//! The scores again, from the public score sheets alone.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use checkpoints::Run;
use protocol::{
    RunId,
    score::{MinerScore, Standing},
};
use serde::Serialize;

use crate::records::Recorded;

/// Scores recomputed over a span of rounds, equal to every published sheet's but for rounding.
#[derive(Debug, Serialize)]
pub(super) struct Replay {
    run: RunId,
    /// The round of the first sheet.
    first: u64,
    /// The round of the last one.
    last: u64,
    /// Miners in the last sheet.
    miners: usize,
    /// The largest difference of a figure from the last sheet's, relative to the figure where it is above 1.
    difference: f64,
}

impl Replay {
    /// Recomputes the scores over `records`, the oldest first. They start from nothing at round 0; where sheets cannot be had, from the
    /// scores of the first sheet after the last gap.
    ///
    /// # Errors
    /// If the newest sheet, or the one before it, cannot be had, and at the first whose scores are not those recomputed here.
    pub async fn of(run: &Run, records: &[Recorded]) -> Result<Self> {
        let mut replay: Option<(Self, Standing)> = None;
        for recorded in records {
            let round = recorded.round();
            let Ok(sheet) = recorded.sheet(run).await else {
                replay = None;
                continue;
            };
            let judge = recorded.terms(run).await?.judge;
            let advance = |before: &Standing| before.advance(&sheet.entries, &judge, &run.manifest.pay);
            let (first, standing) = match &replay {
                Some((replay, before)) => (replay.first, advance(before)),
                None if round == 0 => (0, advance(&Standing::default())),
                None => (round, sheet.standing.clone()),
            };
            if !standing.agrees(&sheet.standing) {
                bail!("round {round}: the scores recomputed from the sheets differ from those that lead {} signed", recorded.record.signer);
            }
            let (miners, difference) = (standing.miners.len(), largest_difference(&standing, &sheet.standing));
            replay = Some((Self { run: run.id, first, last: round, miners, difference }, standing));
        }
        let (replay, _) = replay.context("the newest score sheet cannot be had, and nothing else can be compared with it")?;
        match replay.first == replay.last && replay.first > 0 {
            true => bail!("the score sheet before round {}'s cannot be had, so there is nothing to recompute that one from", replay.last),
            false => Ok(replay),
        }
    }
}

fn largest_difference(a: &Standing, b: &Standing) -> f64 {
    let figures = |s: &MinerScore| [s.mu, s.sigma, s.gain, s.work, s.evidence, s.advantage, s.signs, s.score];
    let pairs = a.miners.iter().zip(&b.miners).flat_map(|(a, b)| figures(a).into_iter().zip(figures(b)));
    pairs.chain([(a.effect, b.effect)]).map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, f64::max)
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, miners, difference, .. } = self;
        let from = if *first == 0 {
            "from nothing".to_owned()
        } else {
            format!("from round {first}'s sheet, since those before cannot all be had")
        };
        writeln!(f, "scores of {miners} miners recomputed over rounds {first} to {last}, {from}: as in every published sheet")?;
        write!(f, "largest difference from round {last}'s figures: {difference:.1e}")
    }
}

#[cfg(test)]
mod tests {
    use protocol::Hotkey;

    use super::*;

    #[test]
    fn differences_are_relative_to_large_figures() {
        let standing = |mu: f64| Standing { miners: vec![MinerScore { mu, ..MinerScore::new(1, Hotkey([1; 32])) }], ..Standing::default() };
        assert!((largest_difference(&standing(100.0), &standing(101.0)) - 0.01).abs() < 1e-12);
        assert_eq!(largest_difference(&standing(25.0), &standing(25.0)), 0.0);
    }
}
