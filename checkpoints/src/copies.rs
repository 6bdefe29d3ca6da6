//! Copies of the log's documents: a lead that loses, overwrites or removes what it committed must not make the log unreadable.

use std::time::Duration;

use bytes::Bytes;
use chain::ChainError;
use protocol::{Document, Hotkey, ObjectKey, round::Candidate};
use storage::{Bucket, Limits, StorageError};
use tokio::{task::JoinSet, time::timeout};

use crate::{Follower, Progress, Run, RunError, log::Committed};

/// How many buckets are asked for a copy at once.
const AT_ONCE: usize = 16;
/// How long all of them are asked.
const SEARCH: Duration = Duration::from_secs(20);
/// How long each of them is asked: others may have the same, so one that does not answer is not waited for.
pub(crate) const PATIENCE: Limits = Limits {
    deadline: Duration::from_secs(5),
    patience: Duration::from_secs(2),
    slowest: 1 << 20,
    attempts: 2,
    pause: Duration::from_millis(100),
    longest_pause: Duration::from_secs(1),
};

/// A committed document that was fetched, its digest and its signature checked.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Who committed it.
    pub lead: Hotkey,
    /// Where copies of it lie.
    pub key: ObjectKey,
    /// As signed.
    pub bytes: Bytes,
}

/// The document behind a candidate from whoever has a copy, the validators first. The digest and the signature say that it is the one
/// committed, so nobody needs to be trusted.
pub(crate) async fn find_copy<T>(run: &Run, candidate: &Candidate, key: &ObjectKey) -> Option<Committed<T>>
where
    T: Document + Send + 'static,
{
    let (digest, key) = (candidate.digest, key.copy(candidate.digest));
    let mut keepers = keepers(run, candidate.block).await.ok()?.into_iter();
    let mut asked = JoinSet::new();
    let search = async {
        loop {
            for bucket in keepers.by_ref().take(AT_ONCE - asked.len()) {
                let key = key.clone();
                asked.spawn(async move { Committed::read(&bucket.with_limits(PATIENCE), &key, digest).await });
            }
            if let Some(found) = asked.join_next().await?.ok().flatten() {
                return Some(found);
            }
        }
    };
    timeout(SEARCH, search).await.ok().flatten()
}

/// Everybody's buckets, those of the validators at `block` first.
pub(crate) async fn keepers(run: &Run, block: u64) -> Result<Vec<Bucket>, ChainError> {
    let mut others = run.buckets().await?;
    let (_, validators) = run.ranks(block).await?;
    let mut keepers: Vec<Bucket> = validators.iter().filter_map(|v| others.remove(&v.hotkey)).collect();
    keepers.extend(others.into_values());
    Ok(keepers)
}

impl Follower {
    /// As [`Self::advance`], and publishes copies of the committed documents that it fetched, void ones too. A copy that cannot be
    /// published costs a warning.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub async fn advance_and_copy(&mut self) -> Result<Option<Progress>, RunError> {
        let progress = self.advance().await;
        let me = self.keypair.hotkey();
        for fetched in self.replica.fetched().iter().filter(|fetched| fetched.lead != me) {
            if let Err(error) = copy(&self.bucket, fetched).await {
                self.warn(format!("{}: {error}; there will be no copy of it here", fetched.key)).await;
            }
        }
        progress
    }
}

async fn copy(bucket: &Bucket, fetched: &Fetched) -> Result<(), StorageError> {
    // any that is there was checked before, even if the lead has signed anew since
    match bucket.size(&fetched.key).await? {
        Some(_) => Ok(()),
        None => bucket.put(&fetched.key, fetched.bytes.clone()).await,
    }
}
