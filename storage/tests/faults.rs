//! Retries, deadlines and the kinds of errors, under faults around a real store.
#![allow(clippy::unwrap_used)]

mod faulty;

use std::sync::Arc;
use std::time::Duration;

use faulty::{Fault, Faulty};
use object_store::memory::InMemory;
use protocol::ObjectKey;
use storage::{Access, Bucket, Limits, StorageError};

const KEY: ObjectKey = ObjectKey::Record(1);

/// A bucket that holds `there` under [`KEY`] and whose first requests then suffer `faults`; three quick attempts.
async fn bucket(there: Option<&'static str>, faults: &[Fault]) -> Bucket {
    let store = Arc::new(InMemory::new());
    let url: url::Url = "memory:///faulty".parse().unwrap();
    if let Some(bytes) = there {
        Bucket::over(store.clone(), url.clone()).put(&KEY, bytes.into()).await.unwrap();
    }
    let quick = Limits { deadline: Duration::from_secs(20), attempts: 3, pause: Duration::from_millis(1), ..Limits::default() };
    Bucket::over(Arc::new(Faulty::new(store, faults.iter().copied())), url).with_limits(quick)
}

#[tokio::test]
async fn a_read_survives_lost_requests_and_short_bodies() {
    let bucket = bucket(Some("hello"), &[Fault::Lost, Fault::Truncated]).await;
    assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()));
}

#[tokio::test]
async fn attempts_run_out() {
    let bucket = bucket(Some("hello"), &[Fault::Lost, Fault::Lost, Fault::Truncated]).await;
    let error = bucket.get(&KEY, 5).await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable { attempts: 3, .. }), "{error}");
    assert!(error.to_string().contains("memory:///faulty/rounds/00000001/record"), "{error}");
    assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()));
}

#[tokio::test]
async fn a_hanging_store_meets_the_deadline() {
    let hour = Fault::Delayed(Duration::from_secs(3600));
    for there in [Some("hello"), None] {
        let limits = Limits { deadline: Duration::from_millis(30), ..Limits::default() };
        let bucket = bucket(there, &[hour, hour]).await.with_limits(limits);
        assert!(matches!(bucket.get(&KEY, 5).await, Err(StorageError::Unreachable { attempts: 1, .. })));
        assert!(matches!(bucket.put(&KEY, "hello".into()).await, Err(StorageError::Unreachable { attempts: 1, .. })));
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_still_one_write() {
    let bucket = bucket(None, &[Fault::AnswerLost]).await;
    bucket.put(&KEY, "hello".into()).await.unwrap();
    assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()));
    assert_eq!(bucket.traffic().up, 10);
}

#[tokio::test]
async fn a_full_disk_and_a_refusal_are_told_at_once() {
    let full = bucket(None, &[Fault::DiskFull]).await;
    assert!(matches!(full.put(&KEY, "hello".into()).await, Err(StorageError::Full { .. })));
    full.put(&KEY, "hello".into()).await.unwrap();

    let denied = bucket(None, &[Fault::Denied, Fault::Denied]).await;
    assert!(matches!(denied.put(&KEY, "hello".into()).await, Err(StorageError::Denied { .. })));
    assert!(matches!(denied.get(&KEY, 5).await, Err(StorageError::Denied { .. })));
}

#[tokio::test]
async fn only_ones_own_bucket_is_written() {
    let bucket = Bucket::open("memory:///not-mine", Access::Trusted).unwrap();
    assert!(matches!(bucket.put(&KEY, "hello".into()).await, Err(StorageError::ReadOnly { .. })));
    assert!(matches!(bucket.delete(&KEY).await, Err(StorageError::ReadOnly { .. })));
}

#[tokio::test]
async fn a_closed_port_is_unreachable_and_an_http_server_cannot_create() {
    // bound and never accepted from: whoever connects is dropped with it
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let limits = Limits { attempts: 2, pause: Duration::from_millis(1), ..Limits::default() };
    for address in [format!("http://127.0.0.1:{port}/run"), format!("s3://bucket/run?endpoint=http://127.0.0.1:{port}")] {
        let bucket = Bucket::open(&address, Access::Trusted).unwrap().with_limits(limits);
        let error = bucket.get(&KEY, 5).await.unwrap_err();
        assert!(matches!(error, StorageError::Unreachable { attempts: 2, .. }), "{error}");
    }
    let bucket = Bucket::open(&format!("http://127.0.0.1:{port}/run"), Access::Own).unwrap();
    assert!(matches!(bucket.put(&KEY, "x".into()).await, Err(StorageError::Unsupported { .. })));
}

#[test]
fn addresses_that_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for (address, access) in [
        ("", Access::Own),
        ("ftp://host/x", Access::Own),
        ("nonsense://", Access::Trusted),
        ("https://user:secret@host/x", Access::Own),
        ("https://token@host/x", Access::Own),
        ("https://host/x?region=y", Access::Trusted),
        ("s3://bucket?sig=secret", Access::Trusted),
        ("s3://bucket?endpoint=nonsense", Access::Trusted),
        (file.to_str().unwrap(), Access::Trusted),
        ("relative/folder", Access::Foreign),
        ("file:///tmp", Access::Foreign),
        ("memory:///x", Access::Foreign),
        ("http://example.com/x", Access::Foreign),
        ("https://127.0.0.1/x", Access::Foreign),
        ("https://169.254.169.254/latest/meta-data", Access::Foreign),
        ("https://2130706433/x", Access::Foreign),
        ("https://[::1]/x", Access::Foreign),
        ("https://[::ffff:10.0.0.1]/x", Access::Foreign),
        ("s3://bucket?endpoint=http://example.com", Access::Foreign),
        ("s3://bucket?endpoint=https://10.0.0.1", Access::Foreign),
    ] {
        let error = Bucket::open(address, access).map(|b| b.url().to_owned()).unwrap_err();
        assert!(matches!(error, StorageError::BadUrl { .. }), "{address}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let missing = folder.path().join("missing");
    let missing = missing.to_str().unwrap();
    assert!(matches!(Bucket::open(missing, Access::Trusted), Err(StorageError::Unreachable { .. })));
    for address in ["https://example.com/x", "s3://bucket/x?region=eu-west-1&endpoint=https://s3.example.com", "gs://bucket/x"] {
        assert!(Bucket::open(address, Access::Foreign).is_ok(), "{address}");
    }
}

#[tokio::test]
async fn a_strangers_name_that_points_inward_is_never_connected_to() {
    let bucket = Bucket::open("https://localhost/x", Access::Foreign).unwrap().with_limits(Limits { attempts: 1, ..Limits::default() });
    let StorageError::Unreachable { source, .. } = bucket.get(&KEY, 5).await.unwrap_err() else { panic!("not refused") };
    let mut told = format!("{source:?}");
    told.truncate(2000);
    assert!(told.contains("not public"), "{told}");
}
