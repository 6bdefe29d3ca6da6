//! Snapshots: a state in an object store, as shards and a signed manifest that is written last.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use compression::{Layout, State};
use protocol::{Digest, Document, DocumentError, Domain, Hotkey, Keypair, ObjectKey, RunId, Signed};
use serde::{Deserialize, Serialize};
use storage::{Bucket, StorageError};

use crate::{Anchor, CheckpointError, shards};

/// The snapshot format that this code reads and writes.
pub const SNAPSHOT_VERSION: u32 = 2;
/// The manifest's file name; the object whose presence makes a snapshot complete.
const MANIFEST: &str = "manifest";
/// Bytes that a manifest may have beside what its tensors need: room for the scores of some thousand miners.
const ANCHOR_BYTES: u64 = 2 << 20;
/// The most objects that are looked at in search of snapshots.
const MAX_LISTED: usize = 100_000;

/// What a snapshot is, and the hashes of its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// [`SNAPSHOT_VERSION`].
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// The state's root.
    pub root: Digest,
    /// The state's place in the log, its round included.
    pub anchor: Anchor,
    /// The files, which together hold the layout's tensors in canonical order.
    pub shards: Vec<Shard>,
}

/// One safetensors file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Its name in the snapshot's folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: Digest,
    /// The tensors inside, in canonical order.
    pub tensors: Vec<String>,
}

impl Document for SnapshotManifest {
    const DOMAIN: Domain = Domain::Checkpoint;
    const CAP: u64 = 64 << 20;

    fn encode(&self) -> Vec<u8> {
        protocol::canonical_json(self)
    }

    fn decode(body: &[u8]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let refuse = |e: serde_json::Error| DocumentError::Body(e.to_string());
        match serde_json::from_slice(body).map_err(refuse)? {
            Versioned { version: SNAPSHOT_VERSION } => serde_json::from_slice(body).map_err(refuse),
            Versioned { version } => {
                let problem = format!("it has format version {version}, this version of tributary reads {SNAPSHOT_VERSION}");
                Err(DocumentError::Body(problem))
            }
        }
    }
}

/// Whose snapshots a reader accepts.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Those that one of these keys signed.
    Signers(&'a [Hotkey]),
    /// Anybody's: the caller compares root and anchor with what it knows from the log.
    Anyone,
}

/// What a reader knows before it reads.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The run.
    pub run: RunId,
    /// The model's tensors.
    pub layout: &'a Arc<Layout>,
    /// Whose word counts.
    pub trust: Trust<'a>,
}

/// Writes `state`, which stands at `anchor`, as shards of about `shard_bytes`, then the manifest. Doing it again after a failure, with
/// the same arguments, completes it.
///
/// # Errors
/// [`CheckpointError::WrongRound`] if state and anchor do not belong together; [`CheckpointError::Storage`], where a conflict means that
/// another snapshot of this round exists.
pub async fn write_snapshot(
    bucket: &Bucket,
    state: &State,
    run: RunId,
    anchor: &Anchor,
    signer: &Keypair,
    shard_bytes: usize,
) -> Result<Signed<SnapshotManifest>, CheckpointError> {
    let (round, layout) = (state.round, state.layout());
    if anchor.round != round {
        return Err(CheckpointError::WrongRound { expected: round, found: anchor.round });
    }
    let ranges = shards::split(layout.tensors(), shard_bytes);
    let mut shards = Vec::with_capacity(ranges.len());
    for (index, range) in ranges.iter().enumerate() {
        let file = shards::file_name(index, ranges.len());
        let bytes = shards::encode(state, range.clone());
        let tensors = layout.tensors()[range.clone()].iter().map(|spec| spec.name.clone()).collect();
        shards.push(Shard { file: file.clone(), bytes: bytes.len() as u64, blake3: Digest::of(&bytes), tensors });
        bucket.put(&ObjectKey::Checkpoint { round, file }, bytes.into()).await?;
    }
    let manifest = SnapshotManifest { version: SNAPSHOT_VERSION, run, root: Digest(state.root()), anchor: anchor.clone(), shards };
    let signed = Signed::new(manifest, signer);
    match bucket.put(&manifest_key(round), signed.to_bytes().to_vec().into()).await {
        // signatures are randomized: the same manifest, signed before, has other bytes
        Err(conflict @ StorageError::Conflict { .. }) => match read_manifest(bucket, round, layout).await? {
            there if there.digest() == signed.digest() => Ok(there),
            _ => Err(conflict.into()),
        },
        other => Ok(other.map(|()| signed)?),
    }
}

/// Reads the snapshot of `round` and checks all of it: signature, run, tensors and sizes before any shard is downloaded, then hashes,
/// names, shapes and types, and last the root.
///
/// # Errors
/// [`CheckpointError`] has a variant for each refusal.
pub async fn read_snapshot(
    bucket: &Bucket,
    round: u64,
    expected: &Expected<'_>,
) -> Result<(State, Signed<SnapshotManifest>), CheckpointError> {
    read(bucket, round, expected, None).await
}

/// Reads a snapshot as [`read_snapshot`] does and writes the same files into `copy`: each shard once its hash holds, the manifest once all
/// is checked.
///
/// # Errors
/// As [`read_snapshot`] and [`Bucket::put`].
pub async fn copy_snapshot(
    bucket: &Bucket,
    round: u64,
    expected: &Expected<'_>,
    copy: &Bucket,
) -> Result<(State, Signed<SnapshotManifest>), CheckpointError> {
    read(bucket, round, expected, Some(copy)).await
}

async fn read(
    bucket: &Bucket,
    round: u64,
    expected: &Expected<'_>,
    copy: Option<&Bucket>,
) -> Result<(State, Signed<SnapshotManifest>), CheckpointError> {
    let layout = expected.layout;
    let signed = read_manifest(bucket, round, layout).await?;
    let manifest = &signed.value;
    if let Trust::Signers(trusted) = expected.trust
        && !trusted.contains(&signed.signer)
    {
        return Err(CheckpointError::Signer(signed.signer));
    }
    if manifest.run != expected.run {
        return Err(CheckpointError::WrongRun { expected: expected.run, found: manifest.run });
    }
    let ranges = tensor_ranges(manifest, layout)?;
    let mut tensors = Vec::with_capacity(layout.tensors().len());
    for (shard, range) in manifest.shards.iter().zip(ranges) {
        let bytes = fetch_shard(bucket, round, shard).await?;
        let decoded = shards::decode(&bytes, layout, range);
        tensors.append(&mut decoded.map_err(|problem| CheckpointError::Shard { file: shard.file.clone(), problem })?);
        if let Some(copy) = copy {
            copy.put(&ObjectKey::Checkpoint { round, file: shard.file.clone() }, bytes).await?;
        }
    }
    let state = State::new(layout.clone(), round, tensors).map_err(|e| CheckpointError::Tensors(e.to_string()))?;
    let root = Digest(state.root());
    if root != manifest.root {
        return Err(CheckpointError::Root { expected: manifest.root, found: root });
    }
    if let Some(copy) = copy {
        copy.put(&manifest_key(round), signed.to_bytes().to_vec().into()).await?;
    }
    Ok((state, signed))
}

/// Reads a snapshot's manifest: its signature holds and it is of this round. Nothing else is checked.
///
/// # Errors
/// [`CheckpointError::Absent`], [`CheckpointError::Manifest`], [`CheckpointError::WrongRound`], [`CheckpointError::Storage`].
pub async fn read_manifest(bucket: &Bucket, round: u64, layout: &Layout) -> Result<Signed<SnapshotManifest>, CheckpointError> {
    let bytes = bucket
        .get(&manifest_key(round), manifest_cap(layout))
        .await?
        .ok_or_else(|| CheckpointError::Absent { round, url: bucket.url().to_owned() })?;
    let signed = Signed::<SnapshotManifest>::parse(&bytes)?;
    let found = signed.value.anchor.round;
    if found == round { Ok(signed) } else { Err(CheckpointError::WrongRound { expected: round, found }) }
}

/// Rounds of which the bucket has a complete snapshot, ascending. Plain HTTPS servers cannot be asked.
///
/// # Errors
/// [`StorageError`].
pub async fn list_snapshots(bucket: &Bucket) -> Result<Vec<u64>, StorageError> {
    let files = bucket.list("checkpoints", MAX_LISTED).await?;
    let round = |path: &String| path.strip_prefix("checkpoints/")?.strip_suffix("/manifest")?.parse().ok();
    let mut rounds: Vec<u64> = files.iter().filter_map(round).collect();
    rounds.sort_unstable();
    Ok(rounds)
}

fn manifest_key(round: u64) -> ObjectKey {
    ObjectKey::Checkpoint { round, file: MANIFEST.into() }
}

/// The most bytes that a manifest about this layout can have: each tensor once, with a shard of its own.
fn manifest_cap(layout: &Layout) -> u64 {
    layout.tensors().iter().map(|spec| 512 + 6 * spec.name.len() as u64).sum::<u64>() + ANCHOR_BYTES
}

/// Which of the layout's tensors each shard holds, and whether each announces a size that these can need.
fn tensor_ranges(manifest: &SnapshotManifest, layout: &Layout) -> Result<Vec<Range<usize>>, CheckpointError> {
    let mut ranges = Vec::new();
    let mut next = 0;
    for Shard { file, bytes, tensors, .. } in &manifest.shards {
        let range = next..next + tensors.len();
        let held = layout.tensors().get(range.clone()).unwrap_or_default();
        if held.is_empty() || !held.iter().map(|spec| &spec.name).eq(tensors) {
            return Err(CheckpointError::Tensors(format!("{file:?} breaks the order")));
        }
        let cap = shards::cap(layout, range.clone());
        if *bytes > cap {
            return Err(CheckpointError::Oversized { file: file.clone(), bytes: *bytes, cap });
        }
        next = range.end;
        ranges.push(range);
    }
    match layout.tensors().get(next) {
        None => Ok(ranges),
        Some(missing) => Err(CheckpointError::Tensors(format!("{:?} is missing", missing.name))),
    }
}

/// A shard's bytes, once their hash is the listed one.
async fn fetch_shard(bucket: &Bucket, round: u64, shard: &Shard) -> Result<Bytes, CheckpointError> {
    let file = shard.file.clone();
    let key = ObjectKey::Checkpoint { round, file: file.clone() };
    let bytes = bucket.get(&key, shard.bytes).await?.ok_or_else(|| CheckpointError::MissingShard(file.clone()))?;
    let found = Digest::of(&bytes);
    if found == shard.blake3 { Ok(bytes) } else { Err(CheckpointError::Corrupt { file, expected: shard.blake3, found }) }
}
