//! Snapshots downloaded into a folder: leaf by leaf, from several mirrors, in several goes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use checkpoints::{Anchor, CheckpointError, Expected, Form, Pull, Pulled, SnapshotManifest, Trust, read_snapshot, write_snapshot};
use compression::{LEAF_ELEMENTS, Layout, State, TensorSpec};
use half::bf16;
use protocol::{Digest, Hotkey, Keypair, ObjectKey, Signed, score::Standing};
use safetensors::{Dtype, SafeTensors};
use storage::{Access, Bucket};

const ROUND: u64 = 7;

/// One tensor has three leaves; in a file, `a` lies before `embed`.
fn layout() -> Arc<Layout> {
    let specs = [("embed", &[2 * LEAF_ELEMENTS + 5][..]), ("a", &[4, 3]), ("norm", &[5])];
    Arc::new(Layout::new(specs.map(|(name, shape)| TensorSpec::new(name, shape)).to_vec()).unwrap())
}

fn state() -> State {
    let elements = |len: usize| (0..len).map(|i| (i as f32).sin()).collect();
    State::new(layout(), ROUND, layout().tensors().iter().map(|spec| elements(spec.len())).collect()).unwrap()
}

fn signer() -> Keypair {
    Keypair::from_seed(&[1; 32])
}

fn bucket(name: &str) -> Bucket {
    Bucket::open(&format!("memory:///pull/{name}"), Access::Own).unwrap()
}

/// A bucket with the snapshot in one file per form, or in one per tensor.
async fn published(name: &str, shard_bytes: usize) -> (Bucket, Signed<SnapshotManifest>) {
    let anchor = Anchor {
        round: ROUND,
        open_block: 90,
        record_block: 99,
        since: 101,
        record: Digest::of(b"record"),
        applied: vec![(3, Hotkey([3; 32]))],
        standing: Standing::default(),
    };
    let bucket = bucket(name);
    let signed = write_snapshot(&bucket, &state(), Digest::of(b"run"), &anchor, &signer(), shard_bytes).await.unwrap();
    (bucket, signed)
}

async fn pull(mirrors: &[Bucket], snapshot: &Signed<SnapshotManifest>, form: Form, folder: &Path) -> Result<Pulled, CheckpointError> {
    let (layout, trusted) = (layout(), [signer().hotkey()]);
    let expected = Expected { run: Digest::of(b"run"), layout: &layout, trust: Trust::Signers(&trusted) };
    let pull = Pull { mirrors, snapshot, expected, form, folder };
    let progress = pull.size();
    pull.run(&progress).await.map(|()| progress)
}

/// Changes an object's bytes in place.
async fn change(bucket: &Bucket, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let key = ObjectKey::Checkpoint { round: ROUND, file: file.into() };
    let mut bytes = bucket.get(&key, 1 << 30).await.unwrap().unwrap().to_vec();
    change(&mut bytes);
    bucket.delete(&key).await.unwrap();
    bucket.put(&key, bytes.into()).await.unwrap();
}

fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The folder as a bucket's snapshot, read as any other.
async fn assert_is_the_snapshot(root: &Path) {
    let there = Bucket::open(root.to_str().unwrap(), Access::Trusted).unwrap();
    let anyone = Expected { run: Digest::of(b"run"), layout: &layout(), trust: Trust::Anyone };
    assert_eq!(read_snapshot(&there, ROUND, &anyone).await.unwrap().0.root(), state().root());
}

#[tokio::test]
async fn a_pulled_folder_is_a_snapshot_and_what_is_there_is_not_fetched_again() {
    for (name, shard_bytes) in [("whole", usize::MAX), ("pieces", 1)] {
        let (source, snapshot) = published(name, shard_bytes).await;
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("checkpoints/00000007");
        let progress = pull(from_ref(&source), &snapshot, Form::F32, &folder).await.unwrap();
        assert_eq!((count(&progress.done), count(&progress.found)), (progress.total, 0));
        assert_is_the_snapshot(root.path()).await;
        let before = source.traffic().down;
        let again = pull(from_ref(&source), &snapshot, Form::F32, &folder).await.unwrap();
        assert_eq!(count(&again.found), again.total);
        assert!(source.traffic().down - before < 1000, "only the leaves' hashes");
        assert_is_the_snapshot(root.path()).await;
    }
}

#[tokio::test]
async fn an_earlier_download_counts_as_far_as_it_is_right() {
    let (source, snapshot) = published("earlier", usize::MAX).await;
    let shard = &snapshot.value.shards[0];
    let key = ObjectKey::Checkpoint { round: ROUND, file: shard.file.clone() };
    let bytes = source.get(&key, shard.bytes).await.unwrap().unwrap();
    // header, the small tensor `a`, one leaf of `embed`
    let right = shard.header_bytes as usize + 12 * 4 + LEAF_ELEMENTS * 4;
    let mut flipped = bytes.to_vec();
    flipped[right + 9] ^= 1;
    for (left, found) in [(bytes[..right + 100].to_vec(), right), (flipped, right), (vec![7; 50], 0), (bytes[..3].to_vec(), 0)] {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("checkpoints/00000007");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{}.part", shard.file)), left).unwrap();
        let before = source.traffic().down;
        let progress = pull(from_ref(&source), &snapshot, Form::F32, &folder).await.unwrap();
        assert_eq!(count(&progress.found), found as u64);
        assert!(source.traffic().down - before < shard.bytes - found as u64 + 1000);
        assert_is_the_snapshot(root.path()).await;
    }
}

#[tokio::test]
async fn what_one_mirror_gives_wrongly_is_asked_of_the_next() {
    let (good, snapshot) = published("good", usize::MAX).await;
    let file = snapshot.value.shards[0].file.clone();
    let (flipped, _) = published("flipped", usize::MAX).await;
    change(&flipped, &file, |bytes| bytes[LEAF_ELEMENTS * 4 + 2000] ^= 1).await;
    let (short, _) = published("short", usize::MAX).await;
    change(&short, &file, |bytes| bytes.truncate(LEAF_ELEMENTS * 4 + 2000)).await;
    let (header, _) = published("header", usize::MAX).await;
    change(&header, &file, |bytes| bytes[20] ^= 1).await;
    let (leaves, _) = published("leaves", usize::MAX).await;
    change(&leaves, "leaves", |bytes| bytes[0] ^= 1).await;
    for bad in [bucket("nothing"), flipped.clone(), short, header, leaves] {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("checkpoints/00000007");
        pull(&[bad.clone(), good.clone()], &snapshot, Form::F32, &folder).await.unwrap();
        assert_is_the_snapshot(root.path()).await;
        let alone = tempfile::tempdir().unwrap();
        let refused = pull(from_ref(&bad), &snapshot, Form::F32, alone.path()).await;
        assert!(refused.is_err(), "{}", bad.url());
        assert!(!alone.path().join("manifest").exists(), "nothing that looks complete is left");
    }
    // a leaf that only the second has, and one that only the first has
    let root = tempfile::tempdir().unwrap();
    change(&good, &file, |bytes| bytes[3000] ^= 1).await;
    let folder = root.path().join("checkpoints/00000007");
    let progress = pull(&[flipped, good], &snapshot, Form::F32, &folder).await.unwrap();
    assert!(progress.failures.load(Ordering::Relaxed) > 0);
    assert_is_the_snapshot(root.path()).await;
}

#[tokio::test]
async fn the_bf16_form_is_the_state_rounded_to_nearest() {
    for (name, shard_bytes) in [("bf16-whole", usize::MAX), ("bf16-pieces", 1)] {
        let (source, snapshot) = published(name, shard_bytes).await;
        let folder = tempfile::tempdir().unwrap();
        let progress = pull(&[source], &snapshot, Form::Bf16, folder.path()).await.unwrap();
        assert!(progress.total < 2 * layout().parameters() as u64 + 2000, "half the bytes");
        let mut tensors = 0;
        for shard in &snapshot.value.bf16.shards {
            let bytes = std::fs::read(folder.path().join(&shard.file)).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            for (name, tensor) in file.tensors() {
                let number = layout().tensors().iter().position(|spec| spec.name == name).unwrap();
                assert_eq!(tensor.dtype(), Dtype::BF16);
                let found = tensor.data().as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b));
                assert!(found.eq(state().tensors()[number].iter().map(|v| bf16::from_f32(*v))), "{name}");
                tensors += 1;
            }
        }
        assert_eq!(tensors, 3);
    }
}

#[tokio::test]
async fn bf16_leaves_that_were_not_signed_are_refused() {
    let (source, snapshot) = published("bf16-leaves", usize::MAX).await;
    change(&source, "bf16-leaves", |bytes| bytes[0] ^= 1).await;
    let folder = tempfile::tempdir().unwrap();
    let refused = pull(&[source], &snapshot, Form::Bf16, folder.path()).await;
    assert!(matches!(refused, Err(CheckpointError::Corrupt { .. })));
}
