//! Snapshots: a state in an object store, as shards and a signed manifest that is written last.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use compression::{Layout, State, root_of_leaves};
use protocol::{Digest, Document, DocumentError, Domain, Hotkey, Keypair, ObjectKey, RunId, Signed};
use serde::{Deserialize, Serialize};
use storage::{Bucket, StorageError};

use crate::form::rounded_leaves;
use crate::{Anchor, CheckpointError, Form, shards};

/// The snapshot format that this code reads and writes.
pub const SNAPSHOT_VERSION: u32 = 3;
/// The manifest's file name; the object whose presence makes a snapshot complete.
pub(crate) const MANIFEST: &str = "manifest";
/// Bytes that a manifest may have beside what its tensors need: room for the scores of some thousand miners.
const ANCHOR_BYTES: u64 = 2 << 20;
/// Size of a snapshot's files, roughly: one request to a store takes at most 5 GB.
pub const SHARD_BYTES: usize = 1 << 30;
/// The most objects that are looked at in search of snapshots.
pub(crate) const MAX_LISTED: usize = 100_000;

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
    /// The model's tensors once more, rounded to bf16.
    pub bf16: Rounded,
}

/// Tensors rounded to bf16. Who signed the manifest vouches for them: the state's root does not speak of them, although whoever has the
/// state can compute them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rounded {
    /// BLAKE3 of the file with the hashes of their leaves.
    pub leaves: Digest,
    /// The files.
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
    /// The size of its header, the length in front included.
    pub header_bytes: u64,
    /// BLAKE3 of that.
    pub header_blake3: Digest,
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

impl SnapshotManifest {
    /// The files of a form.
    pub fn shards(&self, form: Form) -> &[Shard] {
        match form {
            Form::F32 => &self.shards,
            Form::Bf16 => &self.bf16.shards,
        }
    }
}

/// Writes `state`, which stands at `anchor`, in both forms as shards of about `shard_bytes`, the hashes of their leaves, then the manifest. Doing it again after a failure, with
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
    let (leaves, rounded) = (state.leaves(), rounded_leaves(state.model()));
    let root = Digest(root_of_leaves(layout, round, leaves.clone()));
    for (form, leaves) in [(Form::F32, &leaves), (Form::Bf16, &rounded)] {
        let key = ObjectKey::Checkpoint { round, file: form.leaves_file().to_owned() };
        bucket.put_large(&key, leaves.as_flattened().to_vec().into()).await?;
    }
    let bf16 = Rounded { leaves: Digest::of(rounded.as_flattened()), shards: write_shards(bucket, state, Form::Bf16, shard_bytes).await? };
    let shards = write_shards(bucket, state, Form::F32, shard_bytes).await?;
    let manifest = SnapshotManifest { version: SNAPSHOT_VERSION, run, root, anchor: anchor.clone(), shards, bf16 };
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

async fn write_shards(bucket: &Bucket, state: &State, form: Form, shard_bytes: usize) -> Result<Vec<Shard>, CheckpointError> {
    let tensors = form.layout(state.layout());
    let ranges = shards::split(tensors, shard_bytes);
    let mut shards = Vec::with_capacity(ranges.len());
    for (index, range) in ranges.iter().enumerate() {
        let file = form.file_name(index, ranges.len());
        let bytes = shards::encode(state, range.clone(), form);
        let header = &bytes[..shards::header_len(&bytes)];
        shards.push(Shard {
            file: file.clone(),
            bytes: bytes.len() as u64,
            blake3: Digest::of(&bytes),
            header_bytes: header.len() as u64,
            header_blake3: Digest::of(header),
            tensors: tensors[range.clone()].iter().map(|spec| spec.name.clone()).collect(),
        });
        bucket.put_large(&ObjectKey::Checkpoint { round: state.round, file }, bytes.into()).await?;
    }
    Ok(shards)
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
    let signed = read_manifest(bucket, round, expected.layout).await?;
    Ok((read_state(bucket, &signed, expected).await?, signed))
}

/// Reads the state that a snapshot's manifest speaks of, checked as by [`read_snapshot`].
pub(crate) async fn read_state(
    bucket: &Bucket,
    signed: &Signed<SnapshotManifest>,
    expected: &Expected<'_>,
) -> Result<State, CheckpointError> {
    let (layout, round) = (expected.layout, signed.value.anchor.round);
    let manifest = &signed.value;
    let ranges = expected.check(signed, Form::F32)?;
    let mut tensors = Vec::with_capacity(layout.tensors().len());
    for (shard, range) in manifest.shards.iter().zip(ranges) {
        let bytes = fetch_shard(bucket, round, shard).await?;
        let decoded = shards::decode(&bytes, layout, range);
        tensors.append(&mut decoded.map_err(|problem| CheckpointError::Shard { file: shard.file.clone(), problem })?);
    }
    let state = State::new(layout.clone(), round, tensors).map_err(|e| CheckpointError::Tensors(e.to_string()))?;
    let root = Digest(state.root());
    if root != manifest.root {
        return Err(CheckpointError::Root { expected: manifest.root, found: root });
    }
    Ok(state)
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

impl Expected<'_> {
    /// Whether a snapshot's signature, run, tensors and sizes are those that it must have; which tensors each of its files holds.
    ///
    /// # Errors
    /// [`CheckpointError::Signer`], [`CheckpointError::WrongRun`], [`CheckpointError::Tensors`], [`CheckpointError::Oversized`].
    pub(crate) fn check(&self, snapshot: &Signed<SnapshotManifest>, form: Form) -> Result<Vec<Range<usize>>, CheckpointError> {
        if let Trust::Signers(trusted) = self.trust
            && !trusted.contains(&snapshot.signer)
        {
            return Err(CheckpointError::Signer(snapshot.signer));
        }
        if snapshot.value.run != self.run {
            return Err(CheckpointError::WrongRun { expected: self.run, found: snapshot.value.run });
        }
        tensor_ranges(snapshot.value.shards(form), self.layout, form)
    }
}

fn manifest_key(round: u64) -> ObjectKey {
    ObjectKey::Checkpoint { round, file: MANIFEST.into() }
}

/// The most bytes that a manifest about this layout can have: each tensor in both forms, with a shard of its own.
fn manifest_cap(layout: &Layout) -> u64 {
    layout.tensors().iter().map(|spec| 2 * (768 + 6 * spec.name.len() as u64)).sum::<u64>() + ANCHOR_BYTES
}

/// Which of the layout's tensors each shard holds, and whether each announces sizes that these can need.
fn tensor_ranges(shards: &[Shard], layout: &Layout, form: Form) -> Result<Vec<Range<usize>>, CheckpointError> {
    let (all, mut ranges, mut next) = (form.layout(layout), Vec::new(), 0);
    for Shard { file, bytes, tensors, header_bytes, .. } in shards {
        let range = next..next + tensors.len();
        let held = all.get(range.clone()).unwrap_or_default();
        if held.is_empty() || !held.iter().map(|spec| &spec.name).eq(tensors) {
            return Err(CheckpointError::Tensors(format!("{file:?} breaks the order")));
        }
        let caps = [(*bytes, shards::cap(layout, range.clone(), form)), (*header_bytes, shards::header_cap(layout, range.clone()))];
        if let Some((bytes, cap)) = caps.into_iter().find(|(bytes, cap)| bytes > cap) {
            return Err(CheckpointError::Oversized { file: file.clone(), bytes, cap });
        }
        next = range.end;
        ranges.push(range);
    }
    match all.get(next) {
        None => Ok(ranges),
        Some(missing) => Err(CheckpointError::Tensors(format!("{:?} is missing", missing.name))),
    }
}

/// A shard's bytes, once their hash is the listed one.
async fn fetch_shard(bucket: &Bucket, round: u64, shard: &Shard) -> Result<Bytes, CheckpointError> {
    let file = shard.file.clone();
    let key = ObjectKey::Checkpoint { round, file: file.clone() };
    let bytes = bucket.get_large(&key, shard.bytes).await?.ok_or_else(|| CheckpointError::MissingShard(file.clone()))?;
    let found = Digest::of(&bytes);
    if found == shard.blake3 { Ok(bytes) } else { Err(CheckpointError::Corrupt { file, expected: shard.blake3, found }) }
}
