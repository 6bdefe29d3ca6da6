//! Large objects: up in parts, down in ranges.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use object_store::memory::InMemory;
use protocol::{Digest, ObjectKey};
use storage::{Access, Bucket, Budget, Download, Rates, StorageError};

const KEY: ObjectKey = ObjectKey::Payload(1);
const MIB: usize = 1 << 20;

/// Bytes of which no two parts are equal.
fn object(size: usize) -> Bytes {
    let words = (0..size.div_ceil(8) as u64).flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words.take(size).collect::<Vec<u8>>().into()
}

/// The object in pieces that are no parts.
fn pieces(object: &Bytes) -> impl Stream<Item = std::io::Result<Bytes>> {
    let pieces: Vec<Bytes> = object.chunks(700_001).map(Bytes::copy_from_slice).collect();
    stream::iter(pieces.into_iter().map(Ok))
}

async fn upload(bucket: &Bucket, object: &Bytes) -> Result<(), StorageError> {
    bucket.upload(&KEY, object.len() as u64, Digest::of(object), pieces(object)).await
}

async fn all(mut download: Download) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(part) = download.next().await.unwrap() {
        bytes.extend_from_slice(&part);
    }
    bytes
}

fn buckets(folder: &tempfile::TempDir) -> [Bucket; 2] {
    let local = Bucket::open(folder.path().to_str().unwrap(), Access::Own).unwrap();
    let memory = Arc::new(InMemory::new());
    let memory = Bucket::over(memory.clone(), "memory:///x".parse().unwrap()).with_multipart(memory);
    // room for three small parts, so that most wait
    [local, memory].map(|bucket| bucket.with_budget(Budget::new(3 << 20, 3, Rates::default())))
}

#[tokio::test]
async fn objects_of_any_size_come_back_and_may_be_written_again() {
    for size in [0, 1, 5 * MIB, 5 * MIB + 1, 12 * MIB + 7] {
        let folder = tempfile::tempdir().unwrap();
        for bucket in buckets(&folder) {
            let object = object(size);
            upload(&bucket, &object).await.unwrap();
            upload(&bucket, &object).await.unwrap();
            let download = bucket.download(&KEY, size as u64, 0).await.unwrap().unwrap();
            assert_eq!(download.size(), size as u64);
            assert!(all(download).await == object, "{size} bytes in {}", bucket.url());
            for from in [1, 5 * MIB - 1, size.saturating_sub(1), size, size + 1] {
                let rest = all(bucket.download(&KEY, size as u64, from as u64).await.unwrap().unwrap()).await;
                assert!(rest == object.slice(from.min(size)..), "{size} bytes from {from}");
            }
        }
    }
}

#[tokio::test]
async fn other_bytes_are_a_conflict_and_larger_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for bucket in buckets(&folder) {
        assert!(bucket.download(&KEY, 10, 0).await.unwrap().is_none());
        let first = object(6 * MIB);
        upload(&bucket, &first).await.unwrap();
        let mut other = first.to_vec();
        other[5 * MIB] ^= 1;
        for other in [Bytes::from(other), first.slice(1..), first.slice(..10)] {
            assert!(matches!(upload(&bucket, &other).await, Err(StorageError::Conflict { .. })), "{}", other.len());
        }
        let down = bucket.traffic().down;
        let refused = bucket.download(&KEY, 6 * MIB as u64 - 1, 0).await;
        assert!(matches!(refused, Err(StorageError::TooLarge { size, cap, .. }) if size == cap + 1));
        assert_eq!(bucket.traffic().down, down, "nothing of it was read");
    }
}

#[tokio::test]
async fn a_source_that_fails_or_has_another_length_leaves_no_object() {
    let folder = tempfile::tempdir().unwrap();
    for bucket in buckets(&folder) {
        let object = object(11 * MIB);
        let failing = stream::iter([Ok(object.slice(..7 * MIB)), Err(std::io::Error::other("the disk is gone"))]);
        let short = stream::iter([Ok(object.slice(1..))]);
        let long = stream::iter([Ok(object.clone()), Ok(Bytes::from_static(b"x"))]);
        let (size, digest) = (object.len() as u64, Digest::of(&object));
        assert!(matches!(bucket.upload(&KEY, size, digest, failing).await, Err(StorageError::Source { .. })));
        assert!(matches!(bucket.upload(&KEY, size, digest, short).await, Err(StorageError::Source { .. })));
        assert!(matches!(bucket.upload(&KEY, size, digest, long).await, Err(StorageError::Source { .. })));
        assert_eq!(bucket.size(&KEY).await.unwrap(), None, "{}", bucket.url());
        upload(&bucket, &object).await.unwrap();
    }
}
