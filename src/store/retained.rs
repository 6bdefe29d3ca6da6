//! What retention says of a run's buckets now.

use anyhow::{Context as _, Result};
use checkpoints::{Run, keep_at};
use protocol::Keep;
use serde::Serialize;

use crate::records::Records;

/// How far a run is, and what its buckets keep there.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Retained {
    /// The round to come.
    pub round: u64,
    /// Payloads, bundles and snapshots stay for so many rounds; for ever, if there is no number.
    pub rounds: Option<u64>,
    /// What that comes to.
    #[serde(flatten)]
    pub keep: Keep,
    /// Miners on the newest round's score sheet.
    #[serde(skip)]
    pub miners: u64,
    /// Validators with stake and permit.
    #[serde(skip)]
    pub validators: u64,
}

impl Retained {
    /// Counts back from the newest record that most stake agreed on: a newer one may be made up, and what is deleted is gone.
    pub async fn read(run: &Run) -> Result<Self> {
        let head = run.chain.head().await?.number;
        let newest = if run.manifest.chain.start_block <= head { Records::read(run, head).await?.newest_agreed().await? } else { None };
        let round = newest.as_ref().map_or(0, |recorded| recorded.round() + 1);
        let keep = keep_at(run, round).await.context("the validators' snapshots")?;
        let miners = match &newest {
            Some(recorded) => recorded.sheet(run).await.map_or(0, |sheet| sheet.entries.len() as u64),
            None => 0,
        };
        let validators = newest.map_or(0, |recorded| recorded.record.value.validators.len() as u64);
        Ok(Self { round, rounds: run.manifest.retention.rounds, keep, miners, validators })
    }
}

impl std::fmt::Display for Retained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { round, rounds, keep, .. } = self;
        match rounds {
            None => write!(f, "round {round}; everything is kept for ever"),
            Some(rounds) => {
                let Keep { floor, milestone } = keep;
                write!(
                    f,
                    "round {round}; payloads, bundles and snapshots of {rounds} rounds are kept, so those from round {floor} on, and every \
                     snapshot after a multiple of {milestone} rounds"
                )
            }
        }
    }
}
