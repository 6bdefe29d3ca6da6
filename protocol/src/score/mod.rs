//! Score sheets: what a validator measured, what follows from it for ratings, selection and pay. Pure: data in, verdict with reasons out.
//!
//! LossScore, proof of computation, LossRating and PeerScore are Gauntlet's (arXiv 2505.21684). Where this project's defaults differ from
//! the reference's, `docs/gauntlet.md` has the figures.

mod computation;
mod miner;
mod rating;
mod selection;
mod trial;
mod weights;

use serde::{Deserialize, Serialize};

use crate::{Digest, Document, DocumentError, Domain, Judge, Pay, RunId};

pub use miner::{MinerScore, Standing};
pub use selection::{Verdict, sample, useful_gain};
pub use trial::{Entry, Outcome, Trial};
pub use weights::weights;

/// A validator's public account of a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreSheet {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: u64,
    /// Digest of the seal list judged.
    pub seal_list: Digest,
    /// One entry per line of the seal list, ascending by uid.
    pub entries: Vec<Entry>,
    /// Every miner's scores after the round.
    pub standing: Standing,
}

impl Document for ScoreSheet {
    const DOMAIN: Domain = Domain::ScoreSheet;
    const CAP: u64 = 6 << 20;

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("string keys only")
    }

    fn decode(body: &[u8]) -> Result<Self, DocumentError> {
        let sheet: Self = serde_json::from_slice(body).map_err(|e| DocumentError::Body(e.to_string()))?;
        match sheet.entries.iter().find(|e| !e.outcome.is_sound()) {
            None => Ok(sheet),
            Some(entry) => Err(DocumentError::Body(format!("uid {} has figures that are not finite, or unprintable words", entry.uid))),
        }
    }
}

impl ScoreSheet {
    /// Whether the sheet's scores follow from its entries and the standing before, to the last bit: every operation on the way is rounded
    /// the same on every machine (`exp` is libm's, in software), and JSON carries figures whole.
    pub fn follows(&self, before: &Standing, judge: &Judge, pay: &Pay) -> bool {
        self.standing == before.advance(&self.entries, judge, pay)
    }
}

#[cfg(test)]
mod tests;
