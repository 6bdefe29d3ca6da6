//! The scores again, from the public score sheets alone.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use checkpoints::Run;
use protocol::{RunId, score::Standing};
use serde::Serialize;

use crate::records::Recorded;

/// Scores recomputed over a span of rounds, equal to every published sheet's to the last bit.
#[derive(Debug, Serialize)]
pub(super) struct Replay {
    run: RunId,
    /// The round of the first sheet.
    first: u64,
    /// The round of the last one.
    last: u64,
    /// Miners in the last sheet.
    miners: usize,
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
            if standing != sheet.standing {
                bail!("round {round}: the scores recomputed from the sheets differ from those that lead {} signed", recorded.record.signer);
            }
            replay = Some((Self { run: run.id, first, last: round, miners: standing.miners.len() }, standing));
        }
        let (replay, _) = replay.context("the newest score sheet cannot be had, and nothing else can be compared with it")?;
        match replay.first == replay.last && replay.first > 0 {
            true => bail!("the score sheet before round {}'s cannot be had, so there is nothing to recompute that one from", replay.last),
            false => Ok(replay),
        }
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, miners, .. } = self;
        let from = if *first == 0 {
            "from nothing".to_owned()
        } else {
            format!("from round {first}'s sheet, since those before cannot all be had")
        };
        write!(
            f,
            "scores of {miners} miners recomputed over rounds {first} to {last}, {from}: as in every published sheet, to the last bit"
        )
    }
}
