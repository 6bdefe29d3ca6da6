//! The run's log on the chain: which seal lists and records were committed, by whom, in which order.

use std::collections::HashMap;

use bytes::Bytes;
use protocol::{
    Announcement, Digest, Document, DocumentError, Hotkey, Manifest, ObjectKey, Record, RunId, SealList, Sealed, Signed,
    round::{Ballot, Candidate, Fate, RoundPlan},
    score::{ScoreSheet, Standing},
};
use serde::{Deserialize, Serialize};
use storage::Bucket;

use crate::{Run, RunError, Said, copies::find_copy, payloads::check_envelope};

/// Seal lists, and records, of one lead in a round that are looked at: each that has no bytes holds everybody up for a span.
const MOST_BY_ONE: usize = 3;

/// Where the log stands between two rounds: all that a node must remember besides the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// The round to come.
    pub round: u64,
    /// Block at which it opened: the close of the round before, or the start block.
    pub open_block: u64,
    /// Block that committed the record before, or the start block.
    pub record_block: u64,
    /// Block from which that record counts, by its validators' votes, or the start block.
    pub since: u64,
    /// Digest of that record, or the run id.
    pub record: Digest,
    /// Whose payloads it applied.
    pub applied: Vec<(u16, Hotkey)>,
    /// Every miner's scores after it.
    pub standing: Standing,
}

impl Anchor {
    /// Before round 0.
    pub fn genesis(run: RunId, manifest: &Manifest) -> Self {
        let start = manifest.chain.start_block;
        let (applied, standing) = (Vec::new(), Standing::default());
        Self { round: 0, open_block: start, record_block: start, since: start, record: run, applied, standing }
    }

    /// After a record that was committed in block `record_block` and counts from `since` on, under a seal list committed in block `close`.
    pub fn after(record: &Signed<Record>, sheet: &ScoreSheet, close: u64, (record_block, since): (u64, u64)) -> Self {
        Self {
            round: record.value.round + 1,
            open_block: close,
            record_block,
            since,
            record: record.digest(),
            applied: record.value.applied.iter().map(|a| (a.uid, a.hotkey)).collect(),
            standing: sheet.standing.clone(),
        }
    }
}

/// What the chain says of one round so far.
#[derive(Clone, Debug)]
pub struct RoundLog {
    /// Who may act when.
    pub plan: RoundPlan,
    /// The hotkey of each uid at the round's open block.
    pub hotkeys: HashMap<u16, Hotkey>,
    /// Committed seal lists by entitled leads, in order.
    pub seal_lists: Vec<Candidate>,
    /// Committed records of any validator, in order; entitlement depends on the close.
    records: Vec<Candidate>,
    /// What validators said of others' seal lists and records, in order.
    pub ballots: Vec<Ballot>,
}

impl RoundLog {
    /// Reads the chain from the anchor up to block `head`.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn read(run: &Run, anchor: &Anchor, head: u64) -> Result<Self, RunError> {
        let (neurons, ranks) = run.ranks(anchor.open_block).await?;
        let plan = RoundPlan { times: run.manifest.round.clone(), anchor: anchor.since, ranks };
        let hotkeys = neurons.iter().map(|n| (n.uid, n.hotkey)).collect();
        let mut log = Self { plan, hotkeys, seal_lists: Vec::new(), records: Vec::new(), ballots: Vec::new() };
        for said in run.said(anchor.since..=head).await? {
            log.note(run.id, anchor.round, &said);
        }
        Ok(log)
    }

    fn note(&mut self, id: RunId, current: u64, said: &Said) {
        let candidate = |digest| Candidate { lead: said.by, block: said.block, digest };
        match said.what {
            Announcement::SealList { run, round, digest } if (run, round) == (id, current) => {
                let rank = self.plan.rank_of(&said.by);
                if rank.is_some() && rank == self.plan.seal_rank(said.block) {
                    add(&mut self.seal_lists, candidate(digest));
                }
            }
            Announcement::Record { run, round, digest } if (run, round) == (id, current) => self.records.push(candidate(digest)),
            Announcement::Vote { run, round, digest, vote } if (run, round) == (id, current) => {
                self.ballots.push(Ballot { by: said.by, block: said.block, digest, vote });
            }
            _ => {}
        }
    }

    /// Records committed by entitled leads after a close in block `close`, in order.
    pub fn records(&self, close: u64) -> Vec<Candidate> {
        let mut entitled: Vec<Candidate> = Vec::new();
        for candidate in &self.records {
            let rank = self.plan.rank_of(&candidate.lead);
            if rank.is_some() && rank == self.plan.record_rank(close, candidate.block) {
                add(&mut entitled, candidate.clone());
            }
        }
        entitled
    }

    /// The records of a round, closed in block `close`, in the order in which they are looked at, with what the votes up to block `head` make of
    /// them: those in time in the chain's order; where every rank was voted down, somebody must be wrong, and the round goes on with the
    /// first; then those that came late.
    pub fn in_turn(&self, close: u64, head: u64) -> Vec<(Candidate, Fate)> {
        let (records, patience) = (self.records(close), self.plan.patience(close));
        let fate = |candidate: &Candidate| self.plan.fate(candidate, close, &self.ballots, head);
        let (in_time, late): (Vec<Candidate>, Vec<Candidate>) = records.into_iter().partition(|candidate| candidate.block <= patience);
        let last_resort = in_time.iter().filter(|candidate| head >= patience && fate(candidate) == Fate::VotedDown);
        let last_resort: Vec<(Candidate, Fate)> = last_resort.map(|candidate| (candidate.clone(), Fate::Stands(patience))).collect();
        let [in_time, late] = [in_time, late].map(|all| {
            let with_fate = |candidate: Candidate| {
                let fate = fate(&candidate);
                (candidate, fate)
            };
            all.into_iter().map(with_fate).collect::<Vec<_>>()
        });
        [in_time, last_resort, late].concat()
    }

    /// Until when the votes on a record are open at block `head`, after a close in block `close`; `None` if there is no such record.
    pub fn in_vote(&self, close: u64, head: u64) -> Option<u64> {
        let records = self.records(close);
        records.iter().find_map(|record| match self.plan.fate(record, close, &self.ballots, head) {
            Fate::Open(due) => Some(due),
            Fate::Stands(_) | Fate::VotedDown | Fate::Withheld => None,
        })
    }

    /// Whether each uid that the previous record applied has a sound envelope among `entries`: what an early close needs. `root` is that
    /// of the round's base state.
    pub fn all_sealed(&self, run: &Run, anchor: &Anchor, root: Digest, entries: &[Sealed]) -> bool {
        let sound = |sealed: &Sealed| {
            let owner = self.hotkeys.get(&sealed.uid);
            owner.is_some_and(|owner| check_envelope(run, anchor.round, root, *owner, sealed).is_ok())
        };
        let has_sealed = |uid: u16| entries.iter().find(|e| e.uid == uid).is_some_and(sound);
        !anchor.applied.is_empty() && anchor.applied.iter().all(|(uid, _)| has_sealed(*uid))
    }

    /// The seal lists whose bytes are not voted withheld at block `head`, in order. Once a record stands that was made after one, it is too late
    /// to say so.
    pub fn lists_in_force(&self, head: u64) -> Vec<Candidate> {
        let in_force = |list: &&Candidate| {
            let settled = |record: &Candidate| match self.plan.fate(record, list.block, &self.ballots, head) {
                Fate::Stands(since) => Some(since),
                _ => None,
            };
            let settled = self.records(list.block).iter().filter_map(settled).min().unwrap_or(u64::MAX);
            !self.plan.is_withheld(list, self.ballots.iter().filter(|b| b.block <= settled))
        };
        self.seal_lists.iter().filter(in_force).cloned().collect()
    }
}

/// Adds what an entitled lead committed, unless it did before, or as often as is looked at.
fn add(candidates: &mut Vec<Candidate>, new: Candidate) {
    let mut own = candidates.iter().filter(|c| c.lead == new.lead);
    if own.clone().count() < MOST_BY_ONE && own.all(|c| c.digest != new.digest) {
        candidates.push(new);
    }
}

/// Why there is no document behind a committed digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Nobody gave the committed bytes so far. Other nodes may have got them.
    Missing,
    /// The committed bytes are no document of this kind, for everybody and for good.
    Void,
}

/// The signed document behind a candidate, from its lead's bucket, where the lead publishes it as `key`, or from a copy in anybody's.
///
/// A bucket can give each reader other bytes. Only what follows from the committed digest makes a document void; all else, too many
/// bytes and a wrong signature among it, is as good as nothing.
///
/// # Errors
/// [`Absent`].
pub async fn fetch_document<T>(run: &Run, candidate: &Candidate, key: &ObjectKey) -> Result<Signed<T>, Absent>
where
    T: Document + Send + 'static,
{
    fetch_committed(run, candidate, key).await.ok_or(Absent::Missing)?.document.ok_or(Absent::Void)
}

/// The bytes behind a committed digest, signed.
#[derive(Debug)]
pub(crate) struct Committed<T> {
    /// Signature, signer and body.
    pub bytes: Bytes,
    /// What they say; `None` if they are no document of this kind, for everybody and for good.
    pub document: Option<Signed<T>>,
}

impl<T: Document> Committed<T> {
    /// `None` where `bucket` does not give the committed bytes, or with a signature that does not hold.
    pub(crate) async fn read(bucket: &Bucket, key: &ObjectKey, digest: Digest) -> Option<Self> {
        let bytes = bucket.get(key, T::CAP).await.ok().flatten()?;
        if Signed::<T>::digest_of(&bytes) != Some(digest) {
            return None;
        }
        match Signed::parse(&bytes) {
            Ok(document) => Some(Self { bytes, document: Some(document) }),
            Err(DocumentError::Body(_)) => Some(Self { bytes, document: None }),
            Err(_) => None,
        }
    }
}

/// What [`fetch_document`] reads, with its bytes.
pub(crate) async fn fetch_committed<T>(run: &Run, candidate: &Candidate, key: &ObjectKey) -> Option<Committed<T>>
where
    T: Document + Send + 'static,
{
    if let Ok(Some(bucket)) = run.bucket_of(&candidate.lead).await
        && let Some(found) = Committed::read(&bucket, key, candidate.digest).await
    {
        return Some(found);
    }
    find_copy(run, candidate, key).await
}

/// Whether a seal list's facts hold: run, round, registered uids in order, and what an early close needs.
pub(crate) fn check_seal_list(
    run: &Run,
    (anchor, root): (&Anchor, Digest),
    log: &RoundLog,
    candidate: &Candidate,
    list: &Signed<SealList>,
) -> bool {
    let value = &list.value;
    let ascending = value.entries.is_sorted_by(|a, b| a.uid < b.uid);
    let early = candidate.block < log.plan.close_due();
    list.signer == candidate.lead
        && (value.run, value.round) == (run.id, anchor.round)
        && ascending
        && value.entries.len() <= protocol::MAX_NEURONS
        && value.entries.iter().all(|e| log.hotkeys.contains_key(&e.uid))
        && (!early || (log.plan.times.early_close && log.all_sealed(run, anchor, root, &value.entries)))
}
