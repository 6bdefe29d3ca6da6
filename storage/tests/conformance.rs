//! What every store must do, run on each that is at hand.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use protocol::ObjectKey;
use storage::{Access, Bucket, StorageError};

/// Every store passes this, in an empty folder.
async fn conformance(bucket: Bucket) {
    absent_objects(&bucket).await;
    written_once(&bucket).await;
    caps(&bucket).await;
    one_creator_wins(&bucket).await;
    listing(&bucket).await;
    sub_folders(&bucket).await;
    names(&bucket).await;
}

async fn absent_objects(bucket: &Bucket) {
    let key = ObjectKey::Record(404);
    assert_eq!(bucket.get(&key, 10).await.unwrap(), None);
    assert_eq!(bucket.size(&key).await.unwrap(), None);
    bucket.delete(&key).await.unwrap();
    assert!(bucket.list("rounds/00000404", 10).await.unwrap().is_empty());
}

async fn written_once(bucket: &Bucket) {
    let (key, bytes) = (ObjectKey::Envelope(1), Bytes::from_static(b"first"));
    bucket.put(&key, bytes.clone()).await.unwrap();
    bucket.put(&key, bytes.clone()).await.unwrap();
    for other in ["other", "longer than the first", "f", ""] {
        assert!(matches!(bucket.put(&key, other.into()).await, Err(StorageError::Conflict { .. })), "{other}");
    }
    assert_eq!(bucket.get(&key, 5).await.unwrap(), Some(bytes));
    assert_eq!(bucket.size(&key).await.unwrap(), Some(5));
    bucket.delete(&key).await.unwrap();
    assert_eq!(bucket.get(&key, 5).await.unwrap(), None);
    bucket.put(&key, Bytes::new()).await.unwrap();
    assert_eq!(bucket.get(&key, 0).await.unwrap(), Some(Bytes::new()));
}

async fn caps(bucket: &Bucket) {
    let key = ObjectKey::Payload(1);
    bucket.put(&key, vec![7; 1000].into()).await.unwrap();
    let before = bucket.traffic();
    assert!(matches!(bucket.get(&key, 999).await, Err(StorageError::TooLarge { size: 1000, cap: 999, .. })));
    assert_eq!(bucket.traffic(), before, "a refused object is not downloaded");
    assert_eq!(bucket.get(&key, 1000).await.unwrap().unwrap().len(), 1000);
    assert_eq!(bucket.traffic().down, before.down + 1000);
    assert!(bucket.traffic().up >= 1000);
}

async fn one_creator_wins(bucket: &Bucket) {
    let key = ObjectKey::SealList(1);
    let racers = (0..20u8).map(|i| {
        let (bucket, key) = (bucket.clone(), key.clone());
        tokio::spawn(async move { (i, bucket.put(&key, vec![i; 100].into()).await) })
    });
    let mut winners = Vec::new();
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            (i, Ok(())) => winners.push(i),
            (_, Err(StorageError::Conflict { .. })) => {}
            (i, Err(other)) => panic!("racer {i}: {other}"),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(bucket.get(&key, 100).await.unwrap().unwrap(), vec![winners[0]; 100]);
}

async fn listing(bucket: &Bucket) {
    for (round, file) in [(10, "manifest.json"), (2, "manifest.json"), (2, "a.safetensors")] {
        bucket.put(&ObjectKey::Checkpoint { round, file: file.into() }, "x".into()).await.unwrap();
    }
    let found = bucket.list("checkpoints", 10).await.unwrap();
    let files = ["checkpoints/00000002/a.safetensors", "checkpoints/00000002/manifest.json", "checkpoints/00000010/manifest.json"];
    assert_eq!(found, files);
    assert_eq!(bucket.list("checkpoints", 2).await.unwrap().len(), 2);
    assert!(bucket.list("check", 10).await.unwrap().is_empty(), "a folder's name is not a prefix of names");
}

async fn sub_folders(bucket: &Bucket) {
    let (one, two) = (bucket.join("peers").join("one"), bucket.join("peers/two"));
    one.put(&ObjectKey::Manifest, "1".into()).await.unwrap();
    two.put(&ObjectKey::Manifest, "2".into()).await.unwrap();
    assert_eq!(one.get(&ObjectKey::Manifest, 1).await.unwrap(), Some("1".into()));
    assert_eq!(two.list("", 9).await.unwrap(), ["manifest.json"]);
    assert_eq!(bucket.list("peers", 9).await.unwrap(), ["peers/one/manifest.json", "peers/two/manifest.json"]);
    assert_eq!(bucket.traffic(), two.traffic());
    assert!(one.url().contains("/peers/one"), "{}", one.url());

    let outside = one.join("../two");
    assert_eq!(outside.get(&ObjectKey::Manifest, 1).await.unwrap(), None);
}

async fn names(bucket: &Bucket) {
    let long = "x".repeat(129);
    for name in ["", ".", "..", ".hidden", "a/b", "../manifest.json", "a\\b", "a b", "a#1", "é", "a\0", "%2e", long.as_str()] {
        for key in [ObjectKey::Dataset(name.into()), ObjectKey::Checkpoint { round: 0, file: name.into() }] {
            assert!(matches!(bucket.get(&key, 1).await, Err(StorageError::BadName(_))), "{name:?}");
            assert!(matches!(bucket.put(&key, "x".into()).await, Err(StorageError::BadName(_))), "{name:?}");
        }
    }
    bucket.put(&ObjectKey::Dataset("x".repeat(128)), "x".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory() {
    let bucket = Bucket::open("memory:///conformance", Access::Own).unwrap();
    conformance(bucket.clone()).await;
    let again = Bucket::open("memory:///conformance", Access::Trusted).unwrap();
    assert_eq!(again.list("", 100).await.unwrap(), bucket.list("", 100).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn local_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new folder/100%");
    conformance(Bucket::open(path.to_str().unwrap(), Access::Own).unwrap()).await;
    assert_eq!(std::fs::read(path.join("peers/one/manifest.json")).unwrap(), b"1");
}

/// The same against a real service: an empty folder's address in `STORAGE_TEST_URL`, credentials as for `Access::Own`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn service() {
    if let Ok(address) = std::env::var("STORAGE_TEST_URL") {
        conformance(Bucket::open(&address, Access::Own).unwrap()).await;
    }
}
