//! The envelopes that a validator finds in the miners' buckets before a round's close.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use checkpoints::{Close, Replica, RoundLog, Run, check_envelope};
use futures::StreamExt;
use protocol::{
    Digest, Dissent, Document, Envelope, Hotkey, ObjectKey, Sealed,
    round::RoundPlan,
    score::{Entry, Outcome},
};
use storage::Limits;

use crate::ValidatorError;

/// Time for one look into all buckets.
const LOOK: Duration = Duration::from_secs(8);
/// Envelopes that are fetched at a time.
const FETCHES: usize = 32;
/// An envelope is small and is asked for again at the next block: a bucket that does not answer must not hold up the close.
const PATIENCE: Limits = Limits {
    deadline: Duration::from_secs(7),
    patience: Duration::from_secs(2),
    slowest: 1 << 20,
    attempts: 3,
    pause: Duration::from_millis(100),
    longest_pause: Duration::from_secs(1),
};

/// A round's envelopes so far, by uid, each with the head at which it was first seen.
#[derive(Debug, Default)]
pub(crate) struct Envelopes {
    round: u64,
    found: BTreeMap<u16, (Vec<u8>, u64)>,
}

impl Envelopes {
    /// Whether to look for envelopes at `head`: to close the round, or to witness what was there before somebody else closes it.
    pub fn are_due(plan: &RoundPlan, rank: usize, head: u64) -> bool {
        let times = &plan.times;
        plan.seal_rank(head + 1) == Some(rank) || times.early_close || head + 2 + times.upload >= plan.close_due()
    }

    /// Looks into the buckets of those whose envelope is still missing, or is none: what came of it may be the store's fault.
    pub async fn look(&mut self, run: &Run, log: &RoundLog, replica: &Replica, head: u64) -> Result<(), ValidatorError> {
        let (anchor, round) = (&replica.anchor, replica.anchor.round);
        if self.round != round {
            *self = Self { round, ..Self::default() };
        }
        let mut buckets = run.buckets().await?;
        let sound = |uid: u16, hotkey: &Hotkey| {
            let sealed = self.found.get(&uid).map(|(envelope, _)| Sealed { uid, envelope: envelope.clone() });
            sealed.is_some_and(|sealed| check_envelope(run, round, replica.root, *hotkey, &sealed).is_ok())
        };
        let mut missing: Vec<_> = log.hotkeys.iter().filter(|(uid, hotkey)| !sound(**uid, hotkey)).collect();
        // those who worked in the round before are not kept waiting by those who never did
        missing.sort_by_key(|(uid, _)| (!anchor.applied.iter().any(|(applied, _)| applied == *uid), **uid));
        let asked: Vec<_> =
            missing.into_iter().filter_map(|(uid, hotkey)| Some((*uid, buckets.remove(hotkey)?.with_limits(PATIENCE)))).collect();
        let fetches = asked.into_iter().map(|(uid, bucket)| async move {
            // a bucket that fails costs its owner the round and nobody else anything
            Some((uid, bucket.get(&ObjectKey::Envelope(round), Envelope::CAP).await.ok()??.to_vec()))
        });
        let mut fetched = futures::stream::iter(fetches).buffer_unordered(FETCHES);
        let look = async {
            while let Some(envelope) = fetched.next().await {
                self.found.extend(envelope.map(|(uid, bytes)| (uid, (bytes, head))));
            }
        };
        // who is slow is asked again at the next block
        let _ = tokio::time::timeout(LOOK, look).await;
        Ok(())
    }

    /// All of them, ascending by uid.
    pub fn all(&self) -> Vec<Sealed> {
        self.found.iter().map(|(&uid, (envelope, _))| Sealed { uid, envelope: envelope.clone() }).collect()
    }

    /// Sound envelopes that the seal list lacks although they were here a block before its lead can have looked last, each with the head
    /// at which it was seen. `root` is that of the round's base state.
    pub fn left_off(&self, run: &Run, log: &RoundLog, close: &Close, root: Digest) -> Vec<LeftOff> {
        let list = &close.list.value;
        if self.round != list.round {
            return Vec::new();
        }
        // an envelope that is none stands for nobody
        let sound = |sealed: &Sealed| {
            let owner = log.hotkeys.get(&sealed.uid);
            owner.is_some_and(|owner| check_envelope(run, list.round, root, *owner, sealed).is_ok())
        };
        let listed: BTreeSet<u16> = list.entries.iter().filter(|e| sound(e)).map(|e| e.uid).collect();
        let missing = self.found.iter().filter(|(uid, (_, seen))| seen + 1 < close.block && !listed.contains(uid));
        let left_off = missing.filter_map(|(&uid, (envelope, seen))| {
            let (hotkey, sealed) = (*log.hotkeys.get(&uid)?, Sealed { uid, envelope: envelope.clone() });
            check_envelope(run, list.round, root, hotkey, &sealed).is_ok().then_some(LeftOff { uid, hotkey, seen: *seen })
        });
        left_off.collect()
    }
}

/// A miner that a seal list lacks although its envelope was there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftOff {
    pub uid: u16,
    pub hotkey: Hotkey,
    /// The head at which the envelope was seen.
    pub seen: u64,
}

impl LeftOff {
    /// What is said of the lead.
    pub fn dissent(&self) -> Dissent {
        Dissent { uid: self.uid, reason: format!("its envelope was there at block {} and was left off the seal list", self.seen) }
    }

    /// What counts of the miner.
    pub fn entry(&self) -> Entry {
        Entry { uid: self.uid, hotkey: self.hotkey, payload: Digest::default(), outcome: Outcome::Unmeasured }
    }
}
