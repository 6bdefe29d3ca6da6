//! Many identities of one miner.

use std::{cell::RefCell, rc::Rc};

use compression::Payload;

use super::copies::change;
use crate::{ArenaError, Batch, Gradient, Strategy, Submission, Turn};

/// One of several identities that split one miner's work: each trains on its part of the sequences and claims all.
#[derive(Debug)]
pub struct Sybil {
    /// Identities in all.
    pub members: u64,
}

impl Strategy for Sybil {
    fn name(&self) -> String {
        format!("one of {} that share one's work", self.members)
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let own = turn.full().div_ceil(self.members);
        let sequences = turn.assigned(0, own as usize)?;
        let per_step = sequences.len().div_ceil(turn.run().manifest.inner.steps as usize);
        let batches: Vec<Batch> = sequences.chunks(per_step).map(<[_]>::to_vec).collect();
        let gradient = turn.train(&batches)?;
        turn.send(&gradient)
    }
}

/// What one identity sent in a round, for the others to copy.
type Shared = Rc<RefCell<Option<(u64, Gradient)>>>;

/// One of several identities of which the first to act works, and the others send its payload, each with another part of it changed.
#[derive(Debug)]
pub struct SybilCopy {
    shared: Shared,
    changed: f64,
}

impl SybilCopy {
    /// `members` identities that each change `changed` of the values.
    pub fn crew(members: usize, changed: f64) -> Vec<Self> {
        let shared = Shared::default();
        (0..members).map(|_| Self { shared: shared.clone(), changed }).collect()
    }
}

impl Strategy for SybilCopy {
    fn name(&self) -> String {
        format!("one of several with one payload, {} of it changed", self.changed)
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let known = self.shared.borrow().as_ref().filter(|(round, _)| *round == turn.round()).map(|(_, sent)| sent.clone());
        if let Some(mut copy) = known {
            change(&mut copy, self.changed, turn.random());
            return turn.send_alone(&copy);
        }
        let gradient = turn.work(1.0)?;
        let (payload, full) = (turn.encode(&gradient)?, turn.full());
        let sent = Payload::parse(&payload, &turn.run().format)?.to_dense();
        self.shared.replace(Some((turn.round(), sent)));
        Ok(Some(turn.submit(payload, full)))
    }
}
