//! The run's log on the chain: which seal lists and records were committed, by whom, in which order.

use protocol::{
    Announcement, Digest, Document, Hotkey, Manifest, ObjectKey, RunId, SealList, Signed,
    round::{Availability, Candidate, RoundPlan},
    score::MinerScore,
};
use serde::{Deserialize, Serialize};

use crate::{Run, RunError};

/// Where the log stands between two rounds: all that a node must remember besides the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// The round to come.
    pub round: u64,
    /// Block at which it opened: the close of the round before, or the start block.
    pub open_block: u64,
    /// Block that committed the record before, or the start block.
    pub record_block: u64,
    /// Digest of that record, or the run id.
    pub record: Digest,
    /// Whose payloads it applied.
    pub applied: Vec<(u16, Hotkey)>,
    /// Every miner's scores after it.
    pub scores: Vec<MinerScore>,
}

impl Anchor {
    /// Before round 0.
    pub fn genesis(run: RunId, manifest: &Manifest) -> Self {
        let start = manifest.chain.start_block;
        Self { round: 0, open_block: start, record_block: start, record: run, applied: Vec::new(), scores: Vec::new() }
    }
}

/// What the chain says of one round so far.
#[derive(Clone, Debug)]
pub struct RoundLog {
    /// Who may act when.
    pub plan: RoundPlan,
    /// Committed seal lists by entitled leads, in order.
    pub seal_lists: Vec<Candidate>,
    /// Committed records of any validator, in order; entitlement depends on the close.
    records: Vec<Candidate>,
    /// Who says which bytes are withheld.
    pub withheld: Vec<(Hotkey, Digest)>,
}

impl RoundLog {
    /// Reads the chain from the anchor up to block `head`.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn read(run: &Run, anchor: &Anchor, head: u64) -> Result<Self, RunError> {
        let ranks = run.ranks(anchor.open_block).await?;
        let plan = RoundPlan { times: run.manifest.round.clone(), anchor: anchor.record_block, ranks };
        let mut log = Self { plan, seal_lists: Vec::new(), records: Vec::new(), withheld: Vec::new() };
        for commitment in run.chain.commitments(run.manifest.chain.netuid, anchor.record_block..=head).await? {
            let Some(said) = Announcement::decode(&commitment.data) else { continue };
            log.note(run.id, anchor.round, Candidate { lead: commitment.hotkey, block: commitment.block, digest: Digest::default() }, said);
        }
        Ok(log)
    }

    fn note(&mut self, id: RunId, current: u64, by: Candidate, said: Announcement) {
        match said {
            Announcement::SealList { run, round, digest } if (run, round) == (id, current) => {
                let rank = self.plan.rank_of(&by.lead);
                if rank.is_some() && rank == self.plan.seal_rank(by.block) {
                    self.seal_lists.push(Candidate { digest, ..by });
                }
            }
            Announcement::Record { run, round, digest } if (run, round) == (id, current) => self.records.push(Candidate { digest, ..by }),
            Announcement::Withheld { run, round, digest } if (run, round) == (id, current) => self.withheld.push((by.lead, digest)),
            _ => {}
        }
    }

    /// Records committed by entitled leads after a close in block `close`, in order.
    pub fn records(&self, close: u64) -> Vec<Candidate> {
        let entitled = |c: &&Candidate| {
            let rank = self.plan.rank_of(&c.lead);
            rank.is_some() && rank == self.plan.record_rank(close, c.block)
        };
        self.records.iter().filter(entitled).cloned().collect()
    }
}

/// The signed document behind a candidate; `Err` says whether it is void or missing.
///
/// # Errors
/// [`Availability::Missing`] if there are no such bytes (yet), [`Availability::Void`] if they are no such document.
pub async fn fetch_document<T: Document>(run: &Run, candidate: &Candidate, key: &ObjectKey) -> Result<Signed<T>, Availability> {
    let bucket = run.bucket_of(&candidate.lead).await.ok().flatten().ok_or(Availability::Missing)?;
    let bytes = match bucket.get(key, T::CAP).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(Availability::Missing),
        Err(storage::StorageError::TooLarge { .. }) => return Err(Availability::Void),
        Err(_) => return Err(Availability::Missing),
    };
    let signed = Signed::<T>::parse(&bytes).map_err(|_| Availability::Void)?;
    // other bytes than the committed ones: what was committed is withheld
    if signed.digest() != candidate.digest { Err(Availability::Missing) } else { Ok(signed) }
}

/// Whether a seal list's facts hold: run, round, order of uids, and what an early close needs.
pub fn check_seal_list(run: &Run, anchor: &Anchor, plan: &RoundPlan, candidate: &Candidate, list: &Signed<SealList>) -> bool {
    let value = &list.value;
    let ascending = value.entries.is_sorted_by(|a, b| a.uid < b.uid);
    let early = candidate.block < plan.close_due();
    let all_sealed = !anchor.applied.is_empty() && anchor.applied.iter().all(|(uid, _)| value.entries.iter().any(|e| e.uid == *uid));
    list.signer == candidate.lead
        && (value.run, value.round) == (run.id, anchor.round)
        && ascending
        && value.entries.len() <= protocol::MAX_NEURONS
        && (!early || (plan.times.early_close && all_sealed))
}
