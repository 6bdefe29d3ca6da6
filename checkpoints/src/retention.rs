//! Retention on a bucket: what goes, in which order, and from which snapshots others can start. What stays is `protocol`'s to say.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use protocol::{Keep, Keeping, ObjectKey, Signed, round::RoundPlan};
use serde::Serialize;
use storage::{Bucket, Listed, StorageError};

use crate::{
    Anchor, Form, Offer, Replica, Run, RunError, SnapshotManifest, offers,
    snapshot::{MANIFEST, MAX_LISTED},
};

/// Deleted at a time.
const BATCH: usize = 1_000;
/// The most objects of one bucket that a survey looks at.
pub const MOST_SURVEYED: u64 = 1_000_000;
/// Deletions on their way at once.
const AT_ONCE: usize = 8;

/// What a sweep does with what goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Deletes it.
    Delete,
    /// Only says so.
    DryRun,
}

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Goes through a run's folder in a bucket once, and lets go of what `keep` does not keep. `see` is shown every object with what becomes of it,
/// before that happens.
///
/// A snapshot's manifest goes before its files, so that what is left of a snapshot is never taken for one; doing it again after a
/// crash completes it.
///
/// # Errors
/// [`StorageError`]; what was deleted until then is gone.
pub async fn sweep(
    bucket: &Bucket,
    keep: &Keep,
    mode: Sweep,
    mut see: impl FnMut(&Listed, Option<&ObjectKey>, Keeping),
) -> Result<Freed, StorageError> {
    let (mut freed, mut doomed, mut headless) = (Freed::default(), Vec::new(), BTreeSet::new());
    let mut objects = bucket.list_sized("");
    while let Some(listed) = objects.try_next().await? {
        let key = ObjectKey::parse(&listed.path);
        let verdict = keep.verdict(key.as_ref());
        see(&listed, key.as_ref(), verdict);
        let Some(key) = key.filter(|_| verdict.goes()) else { continue };
        freed.objects += 1;
        freed.bytes += listed.bytes;
        if mode == Sweep::Delete {
            doomed.push(key);
        }
        if doomed.len() == BATCH {
            delete(bucket, std::mem::take(&mut doomed), &mut headless).await?;
        }
    }
    delete(bucket, doomed, &mut headless).await?;
    Ok(freed)
}

/// Whether a survey came to the end of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survey {
    /// Every object was seen.
    Whole,
    /// There are more than [`MOST_SURVEYED`].
    CutOff,
}

/// Goes through a run's folder in anybody's bucket, which may claim to be of any size.
///
/// # Errors
/// [`StorageError`].
pub async fn survey(bucket: &Bucket, mut see: impl FnMut(&Listed, Option<&ObjectKey>)) -> Result<Survey, StorageError> {
    let (mut objects, mut seen) = (bucket.list_sized(""), 0);
    while let Some(listed) = objects.try_next().await? {
        if seen == MOST_SURVEYED {
            return Ok(Survey::CutOff);
        }
        seen += 1;
        see(&listed, ObjectKey::parse(&listed.path).as_ref());
    }
    Ok(Survey::Whole)
}

/// Deletes objects, and before any file of a snapshot its manifest; `headless` are the snapshots that have none any more.
async fn delete(bucket: &Bucket, doomed: Vec<ObjectKey>, headless: &mut BTreeSet<u64>) -> Result<(), StorageError> {
    for manifest in heads(&doomed, headless) {
        bucket.delete(&manifest).await?;
    }
    let deletions = stream::iter(doomed).map(|key| async move { bucket.delete(&key).await });
    deletions.buffer_unordered(AT_ONCE).try_collect::<()>().await
}

/// The manifests of the snapshots that have doomed files, wherever they are themselves listed; each once.
fn heads(doomed: &[ObjectKey], headless: &mut BTreeSet<u64>) -> Vec<ObjectKey> {
    let snapshots = doomed.iter().filter_map(|key| if let ObjectKey::Checkpoint { round, .. } = key { Some(*round) } else { None });
    let new = snapshots.filter(|round| headless.insert(*round));
    new.map(|round| ObjectKey::Checkpoint { round, file: MANIFEST.to_owned() }).collect()
}

/// What stays as seen by a node that stands before round `head`, which reads the validators' snapshots for it.
///
/// # Errors
/// Only the chain's own.
pub async fn keep_at(run: &Run, head: u64) -> Result<Keep, RunError> {
    let (retention, checkpoints) = (&run.manifest.retention, &run.manifest.checkpoints);
    let mut rounds: Vec<u64> = Vec::new();
    if retention.rounds.is_some() {
        for offer in offers(run, None).await?.iter().filter(|offer| offer.round <= head) {
            // two places to start from are all that matters
            if rounds.len() < 2 && !rounds.contains(&offer.round) && offer.is_sound(run).await? {
                rounds.push(offer.round);
            }
        }
    }
    Ok(retention.at(head, checkpoints, &rounds))
}

/// The newest sound snapshot after a round between `from` and `upto`, read and checked.
///
/// # Errors
/// Only the chain's own; a snapshot that is refused is passed over.
pub(crate) async fn newest_sound(run: &Arc<Run>, from: u64, upto: u64) -> Result<Option<Replica>, RunError> {
    for offer in offers(run, None).await?.iter().filter(|offer| (from..=upto).contains(&offer.round)) {
        if offer.is_sound(run).await? {
            match offer.read(run).await {
                Ok(replica) => return Ok(Some(replica)),
                Err(RunError::Snapshot(_) | RunError::OffChain { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

impl Offer {
    /// Whether others can start here: the snapshot passes [`Offer::check`], most stake agreed on its record, and all its files are there in the
    /// sizes that it names.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn is_sound(&self, run: &Run) -> Result<bool, RunError> {
        match self.check(run).await {
            Ok(snapshot) => Ok(is_agreed(run, &snapshot.value.anchor) && self.is_whole(&snapshot).await),
            Err(RunError::Snapshot(_) | RunError::OffChain { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether all files of a snapshot are there, by their sizes.
    pub async fn is_whole(&self, snapshot: &Signed<SnapshotManifest>) -> bool {
        let folder = format!("checkpoints/{:08}", self.round);
        let listed = self.bucket.list_sized(&folder).take(MAX_LISTED).try_collect::<Vec<_>>().await.unwrap_or_default();
        let there = |file: &str, bytes: Option<u64>| {
            let path = ObjectKey::Checkpoint { round: self.round, file: file.to_owned() }.to_string();
            listed.iter().any(|found| found.path == path && bytes.is_none_or(|bytes| bytes == found.bytes))
        };
        let whole = |form: Form| {
            let shards = snapshot.value.shards(form).iter();
            there(form.leaves_file(), None) && shards.into_iter().all(|shard| there(&shard.file, Some(shard.bytes)))
        };
        whole(Form::F32) && whole(Form::Bf16)
    }
}

/// Whether votes, and not their absence, let the record stand that an anchor comes after: who has no majority cannot make that up.
fn is_agreed(run: &Run, anchor: &Anchor) -> bool {
    // who has which rank does not bear on when votes are due
    let plan = RoundPlan { times: run.manifest.round.clone(), anchor: anchor.open_block, ranks: Vec::new() };
    anchor.since < plan.votes_due(anchor.open_block, anchor.record_block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshots_manifest_goes_before_any_of_its_files() {
        let file = |round, file: &str| ObjectKey::Checkpoint { round, file: file.to_owned() };
        let mut headless = BTreeSet::new();
        let first = [file(1, "leaves"), ObjectKey::Payload(7), file(2, "leaves"), file(1, "model"), file(2, MANIFEST)];
        assert_eq!(heads(&first, &mut headless), [file(1, MANIFEST), file(2, MANIFEST)]);
        assert_eq!(heads(&[file(1, MANIFEST), file(3, "leaves")], &mut headless), [file(3, MANIFEST)]);
    }
}
