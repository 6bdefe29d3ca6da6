//! Less work than asked for.

use crate::{ArenaError, Strategy, Submission, Turn};

/// Takes only the first share of the inner steps.
#[derive(Debug)]
pub struct Work {
    /// The share, from 0 to 1.
    pub share: f64,
    /// Whether it claims all sequences, or those that it trained on.
    pub claims_all: bool,
}

impl Strategy for Work {
    fn name(&self) -> String {
        format!("{} of the work{}", self.share, if self.claims_all { ", all claimed" } else { "" })
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let batches = turn.honest(self.share)?;
        let trained: usize = batches.iter().map(Vec::len).sum();
        let gradient = turn.train(&batches)?;
        let payload = turn.encode(&gradient)?;
        let claimed = if self.claims_all { turn.full() } else { trained as u64 };
        Ok(Some(turn.submit(payload, claimed)))
    }
}
