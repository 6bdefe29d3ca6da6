//! Retries, deadlines and the kinds of errors, under faults around real stores.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use protocol::{Digest, ObjectKey};
use storage::{Access, Bucket, Faults, Limits, StorageError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const KEY: ObjectKey = ObjectKey::Record(1);

/// Three quick attempts.
const QUICK: Limits = Limits {
    deadline: Duration::from_secs(20),
    patience: Duration::from_secs(10),
    slowest: 1 << 20,
    attempts: 3,
    pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(1),
};

/// Each of these comes upon the given requests of one kind for one object.
fn faults(rules: &[(&str, &str)]) -> Faults {
    let rule = |(fault, more): &(&str, &str)| format!("[[rule]]\nfault = {{ kind = {fault} }}\n{more}\n");
    Faults::parse(&rules.iter().map(rule).collect::<String>()).unwrap()
}

/// A bucket that holds `there` under [`KEY`] and whose requests then suffer; and the same without faults.
async fn buckets(there: Option<&'static str>, rules: &[(&str, &str)]) -> (Bucket, Bucket) {
    let store = Arc::new(InMemory::new());
    let sound = Bucket::over(store.clone(), "memory:///faulty".parse().unwrap()).with_multipart(store).with_limits(QUICK);
    if let Some(bytes) = there {
        sound.put(&KEY, bytes.into()).await.unwrap();
    }
    (sound.clone().with_faults(&faults(rules)), sound)
}

async fn bucket(there: Option<&'static str>, rules: &[(&str, &str)]) -> Bucket {
    buckets(there, rules).await.0
}

const FIRST: &str = "requests = [1]";
const SECOND: &str = "requests = [2]";
const FIRST_TWO: &str = "requests = [1, 2]";

#[tokio::test]
async fn a_read_survives_resets_short_bodies_busy_stores_and_lost_answers() {
    for first in ["'reset'", "'cut'", "'answer-lost'", "'status', code = 429", "'status', code = 503", "'status', code = 500"] {
        let bucket = bucket(Some("hello"), &[(first, FIRST), ("'cut'", SECOND)]).await;
        assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()), "{first}");
    }
}

#[tokio::test]
async fn attempts_run_out() {
    let bucket = bucket(Some("hello"), &[("'reset'", FIRST_TWO), ("'cut'", "requests = [3]")]).await;
    let error = bucket.get(&KEY, 5).await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable { attempts: 3, .. }), "{error}");
    assert!(error.to_string().contains("memory:///faulty/rounds/00000001/record"), "{error}");
    assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_request_is_given_up_for_another_one_until_the_deadline() {
    let once = bucket(Some("hello"), &[("'hang'", FIRST)]).await;
    let start = tokio::time::Instant::now();
    assert_eq!(once.get(&KEY, 5).await.unwrap(), Some("hello".into()));
    assert_eq!(start.elapsed().as_secs(), 10);
    for there in [Some("hello"), None] {
        let always = bucket(there, &[("'hang'", "")]).await;
        for failed in [always.get(&KEY, 5).await.map(drop), always.put(&KEY, "hello".into()).await] {
            assert!(matches!(failed, Err(StorageError::Unreachable { attempts: 2, .. })), "{failed:?}");
        }
    }
    assert_eq!(start.elapsed().as_secs(), 10 + 4 * 20);
}

#[tokio::test(start_paused = true)]
async fn slow_answers_are_waited_for_and_bodies_take_their_time() {
    let bucket = bucket(Some("hello"), &[("'delay', seconds = 5, jitter = 1", ""), ("'bandwidth', bytes_per_second = 2.5", "")]).await;
    let start = tokio::time::Instant::now();
    assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()));
    let took = start.elapsed().as_secs_f64();
    assert!((7.0..8.0).contains(&took), "{took}");
    bucket.put(&ObjectKey::Record(2), "hello".into()).await.unwrap();
    assert!((7.0..8.0).contains(&(start.elapsed().as_secs_f64() - took)));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_or_that_came_twice_is_one_write() {
    for fault in ["'answer-lost'", "'duplicate'"] {
        let (bucket, sound) = buckets(None, &[(fault, FIRST)]).await;
        bucket.put(&KEY, "hello".into()).await.unwrap();
        assert_eq!(sound.get(&KEY, 5).await.unwrap(), Some("hello".into()));
    }
}

#[tokio::test]
async fn half_a_write_is_never_taken_for_a_whole_one() {
    let (bucket, sound) = buckets(None, &[("'partial-write'", FIRST)]).await;
    assert!(matches!(bucket.put(&KEY, "hello".into()).await, Err(StorageError::Conflict { .. })));
    assert_eq!(sound.get(&KEY, 5).await.unwrap(), Some("he".into()), "the store kept it");
}

#[tokio::test]
async fn a_full_disk_and_a_refusal_are_told_at_once() {
    let full = bucket(None, &[("'full'", FIRST)]).await;
    assert!(matches!(full.put(&KEY, "hello".into()).await, Err(StorageError::Full { .. })));
    full.put(&KEY, "hello".into()).await.unwrap();

    let denied = bucket(None, &[("'denied'", FIRST)]).await;
    assert!(matches!(denied.put(&KEY, "hello".into()).await, Err(StorageError::Denied { .. })));
    assert!(matches!(denied.get(&KEY, 5).await, Err(StorageError::Denied { .. })));
    assert!(matches!(denied.list("", 9).await, Err(StorageError::Denied { .. })));
    assert!(matches!(denied.delete(&KEY).await, Err(StorageError::Denied { .. })));
}

#[tokio::test]
async fn a_bucket_that_is_gone_holds_nothing_and_takes_nothing() {
    let gone = bucket(Some("hello"), &[("'gone'", "")]).await;
    assert_eq!(gone.get(&KEY, 5).await.unwrap(), None);
    for lost in [gone.put(&KEY, "hello".into()).await, gone.put_large(&KEY, vec![1; 6 << 20].into()).await] {
        assert!(matches!(lost, Err(StorageError::Gone { .. })), "{lost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn stale_reads_and_lists_catch_up() {
    let bucket =
        bucket(None, &[("'stale-read', seconds = 9", "operations = ['get']"), ("'stale-list', seconds = 5", "operations = ['list']")])
            .await;
    bucket.put(&KEY, "hello".into()).await.unwrap();
    assert_eq!((bucket.get(&KEY, 5).await.unwrap(), bucket.list("", 9).await.unwrap().len()), (None, 0));
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!((bucket.get(&KEY, 5).await.unwrap(), bucket.list("", 9).await.unwrap().len()), (None, 1));
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()));
}

#[tokio::test]
async fn wrong_bytes_and_wrong_clocks_are_the_readers_affair() {
    let bucket = bucket(Some("hello"), &[("'corrupt'", FIRST), ("'skew', seconds = -86400", "")]).await;
    assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hemlo".into()));
    assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()));
}

#[tokio::test]
async fn large_objects_go_through_storms() {
    let rules = [
        ("'reset'", "share = 0.1"),
        ("'status', code = 503", "share = 0.1"),
        ("'answer-lost'", "share = 0.1"),
        ("'cut'", "share = 0.1"),
        ("'duplicate'", "share = 0.1"),
        ("'partial-write'", "share = 0.1\nrequests = [2, 3, 4, 5]"),
    ];
    let object: Bytes = (0..23_000_000u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect::<Vec<_>>().into();
    for round in 0..10 {
        let (bucket, sound) = buckets(None, &rules).await;
        // one attempt to put the parts together may be taken for none, and starting over is what a caller does
        let limits = Limits { attempts: 9, ..QUICK };
        let (bucket, key) = (bucket.with_limits(limits), ObjectKey::Payload(round));
        bucket.put_large(&key, object.clone()).await.unwrap();
        assert_eq!(Digest::of(&sound.get_large(&key, 1 << 30).await.unwrap().unwrap()), Digest::of(&object));
        assert_eq!(Digest::of(&bucket.get_large(&key, 1 << 30).await.unwrap().unwrap()), Digest::of(&object));
    }
}

#[tokio::test]
async fn faults_come_upon_folders_too() {
    let folder = tempfile::tempdir().unwrap();
    let sound = Bucket::open(folder.path().to_str().unwrap(), Access::Own).unwrap().with_limits(QUICK).join("run");
    let bucket = sound.clone().with_faults(&faults(&[("'reset'", "requests = [1]\nat = '*/run/rounds/00000001/*'")]));
    bucket.put(&KEY, "hello".into()).await.unwrap();
    assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()));
    assert_eq!(bucket.list("", 9).await.unwrap(), ["rounds/00000001/record"]);
    // a folder takes parts in order, and does not try one again
    let lost = bucket.put_large(&ObjectKey::Payload(1), vec![1; 11 << 20].into()).await;
    assert!(matches!(lost, Err(StorageError::Unreachable { .. })), "{lost:?}");
    assert_eq!(sound.get(&ObjectKey::Payload(1), 1).await.unwrap(), None, "nothing of it is seen");
    bucket.put_large(&ObjectKey::Payload(1), vec![1; 11 << 20].into()).await.unwrap();
}

#[tokio::test]
async fn a_rule_is_kept_at_the_addresses_that_messages_name() {
    let folder = tempfile::tempdir().unwrap();
    for address in ["memory:///ruled/a", folder.path().to_str().unwrap()] {
        let open = || Bucket::open(address, Access::Own).unwrap().with_limits(QUICK);
        open().put(&KEY, "hello".into()).await.unwrap();
        for bucket in [open(), open().join("run")] {
            let all = format!("at = '{}/*'", bucket.url().trim_end_matches('/'));
            assert!(bucket.clone().with_faults(&faults(&[("'denied'", &all)])).get(&KEY, 5).await.is_err(), "{all}");
            assert!(bucket.with_faults(&faults(&[("'denied'", "at = '*/elsewhere/*'")])).get(&KEY, 5).await.is_ok());
        }
    }
}

/// An HTTP server that answers each connection with the next of `answers`, and how long after the first request each came.
async fn answering(answers: Vec<String>) -> (String, tokio::task::JoinHandle<Vec<Duration>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/run", listener.local_addr().unwrap());
    let serve = async move {
        let (mut came, start) = (Vec::new(), std::time::Instant::now());
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            came.push(start.elapsed());
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        came
    };
    (address, tokio::spawn(serve))
}

#[tokio::test]
async fn a_busy_store_is_asked_again_when_it_says_so_and_sooner_when_it_does_not() {
    let busy = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n");
    let hello = "HTTP/1.1 200 OK\r\nLast-Modified: Sun, 01 Nov 2026 00:00:00 GMT\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let (address, came) = answering(vec![busy(status, ""), busy(status, "Retry-After: 2\r\n"), hello.to_owned()]).await;
        let bucket = Bucket::open(&address, Access::Trusted).unwrap().with_limits(QUICK);
        assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()));
        let came = came.await.unwrap();
        assert!(came[2] - came[1] >= Duration::from_secs(2), "{came:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_for_a_pause_refuses_whoever_comes_earlier() {
    let bucket = bucket(Some("hello"), &[("'status', code = 503, retry_after = 4", FIRST)]).await;
    assert!(bucket.get(&KEY, 5).await.is_err(), "three quick attempts");
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!(bucket.get(&KEY, 5).await.unwrap(), Some("hello".into()));
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
        ("s3://key:a/secret@bucket", Access::Own),
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
