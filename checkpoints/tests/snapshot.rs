//! Snapshots: written whole, read back bit for bit, and one refusal for each way to be wrong.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use checkpoints::{
    Anchor, CheckpointError, Expected, SNAPSHOT_VERSION, Shard, SnapshotManifest, Trust, list_snapshots, read_manifest, read_snapshot,
    write_snapshot,
};
use compression::{Layout, State, TensorSpec};
use protocol::{Digest, Document, DocumentError, Hotkey, Keypair, ObjectKey, RunId, Signed, score::Standing};
use safetensors::{Dtype, tensor::TensorView};
use storage::{Access, Bucket, StorageError};

const ROUND: u64 = 7;

fn run() -> RunId {
    Digest::of(b"run")
}

fn signer() -> Keypair {
    Keypair::from_seed(&[1; 32])
}

fn layout() -> Arc<Layout> {
    let specs = [("embed", &[4, 3][..]), ("norm", &[5]), ("head", &[2, 1, 3])];
    Arc::new(Layout::new(specs.map(|(name, shape)| TensorSpec::new(name, shape)).to_vec()).unwrap())
}

fn state() -> State {
    let awkward = [f32::NAN, -0.0, f32::MIN_POSITIVE / 2.0, f32::INFINITY];
    let elements = |len: usize| (0..len).map(|i| awkward.get(i).copied().unwrap_or(i as f32)).collect();
    let data = layout().tensors().iter().map(|spec| elements(spec.len())).collect();
    State::new(layout(), ROUND, data).unwrap()
}

fn anchor() -> Anchor {
    Anchor {
        round: ROUND,
        open_block: 90,
        record_block: 99,
        since: 101,
        record: Digest::of(b"record"),
        applied: vec![(3, Hotkey([3; 32]))],
        standing: Standing::default(),
    }
}

fn bucket(name: &str) -> Bucket {
    Bucket::open(&format!("memory:///snapshots/{name}"), Access::Own).unwrap()
}

async fn write(bucket: &Bucket, shard_bytes: usize) -> Result<Signed<SnapshotManifest>, CheckpointError> {
    write_snapshot(bucket, &state(), run(), &anchor(), &signer(), shard_bytes).await
}

async fn read(bucket: &Bucket) -> Result<(State, Signed<SnapshotManifest>), CheckpointError> {
    let trusted = [signer().hotkey()];
    read_snapshot(bucket, ROUND, &Expected { run: run(), layout: &layout(), trust: Trust::Signers(&trusted) }).await
}

fn key(file: &str) -> ObjectKey {
    ObjectKey::Checkpoint { round: ROUND, file: file.into() }
}

/// Replaces an object's bytes.
async fn replace(bucket: &Bucket, file: &str, bytes: Vec<u8>) {
    bucket.delete(&key(file)).await.unwrap();
    bucket.put(&key(file), bytes.into()).await.unwrap();
}

/// The refusal of a snapshot whose manifest was changed and signed again.
async fn refusal_of_manifest(name: &str, change: impl FnOnce(&mut SnapshotManifest)) -> CheckpointError {
    let bucket = bucket(name);
    let mut manifest = write(&bucket, 40).await.unwrap().value;
    change(&mut manifest);
    replace(&bucket, "manifest", Signed::new(manifest, &signer()).to_bytes().to_vec()).await;
    read(&bucket).await.unwrap_err()
}

/// The refusal of a snapshot whose first shard was changed, its new hash and size signed.
async fn refusal_of_shard(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> CheckpointError {
    let bucket = bucket(name);
    let mut manifest = write(&bucket, usize::MAX).await.unwrap().value;
    let file = manifest.shards[0].file.clone();
    let mut bytes = bucket.get(&key(&file), 1 << 20).await.unwrap().unwrap().to_vec();
    change(&mut bytes);
    (manifest.shards[0].bytes, manifest.shards[0].blake3) = (bytes.len() as u64, Digest::of(&bytes));
    replace(&bucket, &file, bytes).await;
    replace(&bucket, "manifest", Signed::new(manifest, &signer()).to_bytes().to_vec()).await;
    read(&bucket).await.unwrap_err()
}

#[tokio::test]
async fn a_state_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let local = Bucket::open(folder.path().to_str().unwrap(), Access::Own).unwrap();
    for (bucket, shard_bytes, shards) in [(bucket("whole"), usize::MAX, 1), (bucket("pieces"), 1, 3), (local, 70, 2)] {
        let written = write(&bucket, shard_bytes).await.unwrap();
        assert_eq!(written.value.shards.len(), shards);
        let (back, signed) = read(&bucket).await.unwrap();
        assert_eq!((back.root(), back.round), (state().root(), ROUND));
        assert_eq!((signed.value.anchor, signed.signer), (anchor(), signer().hotkey()));
        assert_eq!(list_snapshots(&bucket).await.unwrap(), [ROUND]);
    }
}

#[tokio::test]
async fn writing_again_completes_and_never_replaces() {
    let bucket = bucket("again");
    write(&bucket, 40).await.unwrap();
    bucket.delete(&key("manifest")).await.unwrap();
    assert!(list_snapshots(&bucket).await.unwrap().is_empty(), "without its manifest it is not a snapshot");
    let first = write(&bucket, 40).await.unwrap();
    let second = write(&bucket, 40).await.unwrap();
    assert_eq!(first, second, "the signature that is there stays");

    let other = Keypair::from_seed(&[2; 32]);
    let refused = write_snapshot(&bucket, &state(), run(), &anchor(), &other, 40).await;
    assert!(matches!(refused, Err(CheckpointError::Storage(StorageError::Conflict { .. }))));
    let early = Anchor { round: ROUND - 1, ..anchor() };
    let refused = write_snapshot(&bucket, &state(), run(), &early, &signer(), 40).await;
    assert!(matches!(refused, Err(CheckpointError::WrongRound { .. })));
}

#[tokio::test]
async fn an_absent_snapshot_is_named() {
    let error = read(&bucket("nothing")).await.unwrap_err();
    assert!(matches!(error, CheckpointError::Absent { round: ROUND, .. }));
    assert_eq!(error.to_string(), "no snapshot of round 7 at memory:///snapshots/nothing");
}

#[tokio::test]
async fn a_manifest_that_does_not_fit_is_refused() {
    let wrong_run = refusal_of_manifest("run", |m| m.run = Digest::of(b"another")).await;
    assert!(matches!(wrong_run, CheckpointError::WrongRun { .. }), "{wrong_run}");
    let wrong_round = refusal_of_manifest("round", |m| m.anchor.round = 8).await;
    assert!(matches!(wrong_round, CheckpointError::WrongRound { expected: 7, found: 8 }), "{wrong_round}");
    let wrong_root = refusal_of_manifest("root", |m| m.root = Digest::of(b"another")).await;
    assert!(matches!(wrong_root, CheckpointError::Root { .. }), "{wrong_root}");
    let missing = refusal_of_manifest("missing", |m| m.shards[0].file = "nothing.safetensors".into()).await;
    assert!(matches!(missing, CheckpointError::MissingShard(_)), "{missing}");
    let corrupt = refusal_of_manifest("corrupt", |m| m.shards[1].blake3 = Digest::default()).await;
    assert!(matches!(corrupt, CheckpointError::Corrupt { .. }), "{corrupt}");
    for (name, change) in [("oversized", (|s| s.bytes = 1 << 40) as fn(&mut Shard)), ("oversized-header", |s| s.header_bytes = 1 << 40)] {
        let oversized = refusal_of_manifest(name, |m| change(&mut m.shards[0])).await;
        assert!(matches!(oversized, CheckpointError::Oversized { .. }), "{oversized}");
    }
    let longer = refusal_of_manifest("longer", |m| m.shards[0].bytes -= 1).await;
    assert!(matches!(longer, CheckpointError::Storage(StorageError::TooLarge { .. })), "{longer}");
    let outside = refusal_of_manifest("outside", |m| m.shards[0].file = "../../manifest.json".into()).await;
    assert!(matches!(outside, CheckpointError::Storage(StorageError::BadName(_))), "{outside}");
}

#[tokio::test]
async fn tensors_that_are_not_the_models_are_refused() {
    let changes: [fn(&mut SnapshotManifest); 6] = [
        |m| m.shards.clear(),
        |m| drop(m.shards.pop()),
        |m| m.shards.swap(0, 1),
        |m| m.shards[0].tensors.clear(),
        |m| m.shards[0].tensors[0] = "other".into(),
        |m| m.shards.push(m.shards[0].clone()),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let refused = refusal_of_manifest(&format!("tensors{index}"), change).await;
        assert!(matches!(refused, CheckpointError::Tensors(_)), "{index}: {refused}");
    }
}

#[tokio::test]
async fn a_signature_counts_only_for_its_bytes_its_domain_and_trusted_signers() {
    let bucket = bucket("signature");
    let signed = write(&bucket, 40).await.unwrap();
    let mut forged = signed.to_bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    replace(&bucket, "manifest", forged).await;
    assert!(matches!(read(&bucket).await, Err(CheckpointError::Manifest(DocumentError::Signature))));

    replace(&bucket, "manifest", signed.to_bytes()[..90].to_vec()).await;
    assert!(matches!(read(&bucket).await, Err(CheckpointError::Manifest(DocumentError::Truncated(90)))));

    let stranger = Keypair::from_seed(&[2; 32]);
    replace(&bucket, "manifest", Signed::new(signed.value, &stranger).to_bytes().to_vec()).await;
    assert!(matches!(read(&bucket).await, Err(CheckpointError::Signer(hotkey)) if hotkey == stranger.hotkey()));
    let anyone = Expected { run: run(), layout: &layout(), trust: Trust::Anyone };
    assert!(read_snapshot(&bucket, ROUND, &anyone).await.is_ok());
}

#[tokio::test]
async fn another_format_version_and_unknown_fields_are_refused() {
    for other in [SNAPSHOT_VERSION - 1, SNAPSHOT_VERSION + 1] {
        let refused = refusal_of_manifest(&format!("version-{other}"), |m| m.version = other).await;
        assert!(refused.to_string().contains(&format!("format version {other}")), "{refused}");
    }
    let now = format!(r#"{{"version":{SNAPSHOT_VERSION}"#);
    for body in ["", "{", "[]", &format!("{now}}}"), &format!(r#"{now},"more":1}}"#)] {
        let body = body.as_bytes();
        assert!(matches!(SnapshotManifest::decode(body), Err(DocumentError::Body(_))));
    }
}

#[tokio::test]
async fn a_manifest_too_large_for_the_model_is_not_downloaded() {
    let bucket = bucket("huge");
    replace(&bucket, "manifest", vec![0; 3 << 20]).await;
    let before = bucket.traffic().down;
    let refused = read_manifest(&bucket, ROUND, &layout()).await;
    assert!(matches!(refused, Err(CheckpointError::Storage(StorageError::TooLarge { .. }))));
    assert_eq!(bucket.traffic().down, before);
}

#[tokio::test]
async fn a_malformed_shard_is_refused_with_what_is_wrong() {
    let file = |tensors: &[(&str, Dtype, &[usize])]| {
        let data = [0; 64];
        let views = tensors.iter().map(|(name, dtype, shape)| {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (*name, TensorView::new(*dtype, shape.to_vec(), &data[..bytes]).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    };
    use Dtype::{BF16, F32};
    let cases = [
        ("truncated", vec![1, 2, 3], "eader"),
        ("header", vec![0xff; 64], "eader"),
        ("few", file(&[("embed", F32, &[4, 3])]), "1 tensors instead of 3"),
        ("name", file(&[("embed", F32, &[4, 3]), ("norm", F32, &[5]), ("tail", F32, &[2, 1, 3])]), "head"),
        ("type", file(&[("embed", F32, &[4, 3]), ("norm", BF16, &[5]), ("head", F32, &[2, 1, 3])]), "BF16 instead of F32"),
        ("shape", file(&[("embed", F32, &[3, 4]), ("norm", F32, &[5]), ("head", F32, &[2, 1, 3])]), "shape [3, 4] instead of [4, 3]"),
    ];
    for (name, bytes, told) in cases {
        let refused = refusal_of_shard(&format!("shard-{name}"), |there| *there = bytes).await;
        assert!(matches!(refused, CheckpointError::Shard { .. }), "{name}: {refused}");
        assert!(refused.to_string().contains(told), "{name}: {refused}");
    }
    let cut = refusal_of_shard("shard-cut", |there| there.truncate(there.len() - 1)).await;
    assert!(matches!(cut, CheckpointError::Shard { .. }), "{cut}");
    let flipped = refusal_of_shard("shard-flipped", |there| *there.last_mut().unwrap() ^= 1).await;
    assert!(matches!(flipped, CheckpointError::Root { .. }), "{flipped}");
}
