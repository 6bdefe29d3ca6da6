//! Where a node starts: from its home directory, from the newest public snapshot, or from genesis.

use std::sync::Arc;

use protocol::{Announcement, Hotkey, Validator};
use storage::Bucket;

use crate::{Anchor, Expected, Home, Replica, Run, RunError, Trust, copy_snapshot, list_snapshots, read_manifest, read_snapshot};

/// The replica a node starts with. What came after it is replayed from the log, with every fact checked.
///
/// # Errors
/// [`RunError`] if the home directory, the chain or the genesis state fail; a snapshot that is refused is only passed over.
pub async fn join(run: &Arc<Run>, home: &Home) -> Result<Replica, RunError> {
    if let Some(replica) = home.load_replica(run)? {
        return Ok(replica);
    }
    match newest_snapshot(run, None).await? {
        Some(replica) => Ok(replica),
        None => Replica::genesis(run.clone()),
    }
}

/// A snapshot that a permitted validator publishes; nothing of it is checked yet.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The state's round.
    pub round: u64,
    /// Who publishes it.
    pub validator: Hotkey,
    /// Where it lies.
    pub bucket: Bucket,
}

/// Every public snapshot (or those of `round`), newest first.
///
/// # Errors
/// Only the chain's own; a bucket that cannot be listed offers nothing.
pub async fn offers(run: &Run, round: Option<u64>) -> Result<Vec<Offer>, RunError> {
    let head = run.chain.head().await?.number;
    let mut offers: Vec<Offer> = Vec::new();
    for Validator { hotkey: validator, .. } in run.ranks(head).await? {
        let Some(bucket) = run.bucket_of(&validator).await? else { continue };
        let rounds = list_snapshots(&bucket).await.unwrap_or_default().into_iter().filter(|r| round.is_none_or(|wanted| wanted == *r));
        offers.extend(rounds.map(|round| Offer { round, validator, bucket: bucket.clone() }));
    }
    // stable: equal rounds stay in order of rank
    offers.sort_by_key(|offer| std::cmp::Reverse(offer.round));
    Ok(offers)
}

impl Offer {
    /// Reads the snapshot and checks all of it: that its record is on the chain, the validator's signature, hashes, root. With `copy`, its
    /// files are written there too.
    ///
    /// # Errors
    /// [`RunError::Snapshot`] and [`RunError::OffChain`] for a snapshot that is refused, else the chain's own.
    pub async fn read(&self, run: &Arc<Run>, copy: Option<&Bucket>) -> Result<Replica, RunError> {
        let Self { round, validator, bucket } = self;
        let off_chain = || RunError::OffChain { round: *round, validator: *validator };
        let anchor = read_manifest(bucket, *round, &run.layout).await?.value.anchor;
        if !on_chain(run, &anchor).await? {
            return Err(off_chain());
        }
        let expected = Expected { run: run.id, layout: &run.layout, trust: Trust::Signers(&[*validator]) };
        let (state, manifest) = match copy {
            Some(copy) => copy_snapshot(bucket, *round, &expected, copy).await?,
            None => read_snapshot(bucket, *round, &expected).await?,
        };
        // the manifest was read twice, and its bucket is not ours
        if manifest.value.anchor == anchor { Ok(Replica::at(run.clone(), state, anchor)) } else { Err(off_chain()) }
    }
}

/// The newest public snapshot (or that of `round`) which a permitted validator signed and whose record is on the chain.
///
/// # Errors
/// Only the chain's own; a snapshot that is refused is passed over with a warning.
pub async fn newest_snapshot(run: &Arc<Run>, round: Option<u64>) -> Result<Option<Replica>, RunError> {
    for offer in offers(run, round).await? {
        match offer.read(run, None).await {
            Ok(replica) => return Ok(Some(replica)),
            Err(error @ (RunError::Snapshot(_) | RunError::OffChain { .. })) => {
                tracing::warn!(round = offer.round, validator = %offer.validator, %error, "trying the next snapshot");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether the record that led to `anchor` was committed in the block it says, and its seal list in the open block.
async fn on_chain(run: &Run, anchor: &Anchor) -> Result<bool, RunError> {
    let Some(previous) = anchor.round.checked_sub(1) else { return Ok(false) };
    let netuid = run.manifest.chain.netuid;
    let records = run.chain.commitments(netuid, anchor.record_block..=anchor.record_block).await?;
    let lists = run.chain.commitments(netuid, anchor.open_block..=anchor.open_block).await?;
    let wanted = Announcement::Record { run: run.id, round: previous, digest: anchor.record };
    let recorded = records.iter().any(|c| Announcement::decode(&c.data).as_ref() == Some(&wanted));
    let closed = lists.iter().any(|c| {
        matches!(Announcement::decode(&c.data), Some(Announcement::SealList { run: id, round, .. }) if (id, round) == (run.id, previous))
    });
    Ok(recorded && closed)
}
