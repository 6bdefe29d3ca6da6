//! The terms of one round: what the manifest says, as amended on the chain.

use compression::{MergeOver, Rule};
use protocol::{Announcement, Change, Judge, Manifest, Merge};

use crate::{Anchor, Run, RunError};

/// What an amendment can change, as it is in one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The outer step.
    pub rule: Rule,
    /// How contributions are measured and chosen.
    pub judge: Judge,
}

/// An amendment on the chain.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Amendment {
    block: u64,
    from_round: u64,
    change: Change,
}

/// The launch key's amendments up to some block, in the chain's order.
#[derive(Debug, Default)]
pub(crate) struct Amendments {
    known: Vec<Amendment>,
    /// The first block that was not read yet.
    next: u64,
}

impl Terms {
    /// By the manifest alone.
    pub fn of_manifest(manifest: &Manifest, round: u64) -> Self {
        let over = match manifest.outer.merge {
            Merge::Senders => MergeOver::Senders,
            Merge::All => MergeOver::All,
        };
        Self { rule: Rule { lr: manifest.outer.lr.at(round), over, resparsify: manifest.resparsify() }, judge: manifest.judge.clone() }
    }

    fn amend(&mut self, change: Change) {
        match change {
            // what no manifest could say changes nothing
            Change::OuterLr(lr) if lr.is_finite() && lr > 0.0 => self.rule.lr = lr,
            Change::Top(top) if (1..=protocol::MAX_NEURONS as u32).contains(&top) => self.judge.top = top,
            _ => {}
        }
    }
}

impl Run {
    /// The terms of the round that `anchor` stands before.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn terms(&self, anchor: &Anchor) -> Result<Terms, RunError> {
        let chain = &self.manifest.chain;
        let mut amendments = self.amendments.lock().await;
        let from = amendments.next.max(chain.start_block);
        if from <= anchor.open_block {
            for said in self.said(from..=anchor.open_block).await?.into_iter().filter(|said| said.by == chain.launch_key) {
                if let Announcement::Amendment { run, from_round, change } = said.what
                    && run == self.id
                {
                    amendments.known.push(Amendment { block: said.block, from_round, change });
                }
            }
            amendments.next = anchor.open_block + 1;
        }
        let mut terms = Terms::of_manifest(&self.manifest, anchor.round);
        let holds = |a: &&Amendment| a.block <= anchor.open_block && a.from_round <= anchor.round;
        amendments.known.iter().filter(holds).for_each(|a| terms.amend(a.change));
        Ok(terms)
    }
}
