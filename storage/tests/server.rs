//! The built-in S3 server: who may do what, what a bucket may hold, and what it does with hostile requests.
#![allow(clippy::unwrap_used)]

mod s3;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, future::join_all};
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode};
use protocol::ObjectKey;
use s3::{Lab, Request};
use storage::server::{Options, Reading, Server, ServerError, remove_key};
use storage::{Bucket, StorageError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn path(key: &str) -> Path {
    Path::parse(key).unwrap()
}

fn denied<T: std::fmt::Debug>(result: object_store::Result<T>) -> String {
    match result {
        Err(error @ StoreError::PermissionDenied { .. }) => error.to_string(),
        other => panic!("not denied: {other:?}"),
    }
}

#[tokio::test]
async fn a_key_writes_its_own_bucket_and_everybody_reads_it() {
    let lab = Lab::start(Options::default()).await;
    let (one, two) = (lab.key("one", None), lab.key("two", None));
    let own = lab.client(&one, "one");
    own.put(&path("a/b"), "mine".into()).await.unwrap();

    for reader in [own.clone(), lab.client(&two, "one"), lab.anonymous("one")] {
        assert_eq!(reader.get(&path("a/b")).await.unwrap().bytes().await.unwrap(), "mine");
        assert_eq!(reader.list(None).count().await, 1);
    }
    for stranger in [lab.client(&two, "one"), lab.anonymous("one"), lab.client(&one, "two")] {
        denied(stranger.put(&path("a/b"), "theirs".into()).await);
        denied(stranger.put_opts(&path("new"), "theirs".into(), PutMode::Create.into()).await);
        denied(stranger.delete(&path("a/b")).await);
        denied(stranger.create_multipart(&path("a/b")).await);
    }
    // an upload's parts can be added and seen by its owner only
    let upload = own.create_multipart(&path("big")).await.unwrap();
    let foreign = lab.client(&two, "one");
    denied(foreign.put_part(&path("big"), &upload, 0, "x".into()).await);
    denied(foreign.abort_multipart(&path("big"), &upload).await);
    let elsewhere = lab.client(&two, "two").put_part(&path("big"), &upload, 0, "x".into()).await;
    assert!(matches!(elsewhere, Err(StoreError::NotFound { .. })), "{elsewhere:?}");
    assert_eq!(own.get(&path("a/b")).await.unwrap().bytes().await.unwrap(), "mine");

    let bucket = lab.bucket(lab.client(&two, "one"));
    assert!(matches!(bucket.put(&ObjectKey::Manifest, "x".into()).await, Err(StorageError::Denied { .. })));
}

#[tokio::test]
async fn a_wrong_secret_and_a_revoked_key_open_nothing() {
    let lab = Lab::start(Options::default()).await;
    let (key, other) = (lab.key("one", None), lab.key("two", None));
    let client = lab.client(&key, "one");
    client.put(&path("a"), "1".into()).await.unwrap();

    let mut wrong = key.clone();
    wrong.secret = other.secret;
    let forged = lab.client(&wrong, "one");
    assert!(denied(forged.put(&path("b"), "1".into()).await).contains("SignatureDoesNotMatch"));
    denied(forged.get(&path("a")).await);

    assert!(remove_key(lab.path(), &key.access).unwrap());
    assert!(denied(client.put(&path("b"), "1".into()).await).contains("InvalidAccessKeyId"));
    denied(client.get(&path("a")).await);
    assert!(!lab.path().join("one/b").exists());
    assert_eq!(lab.anonymous("one").get(&path("a")).await.unwrap().bytes().await.unwrap(), "1");
    assert!(matches!(lab.bucket(client).get(&ObjectKey::Manifest, 9).await, Err(StorageError::Denied { .. })));

    // another key for the same bucket goes on
    let renewed = lab.client(&lab.key("one", None), "one");
    renewed.put(&path("b"), "2".into()).await.unwrap();
}

#[tokio::test]
async fn a_private_server_answers_nobody_without_a_key() {
    let lab = Lab::start(Options { reading: Reading::Signed, ..Options::default() }).await;
    let (one, two) = (lab.key("one", None), lab.key("two", None));
    lab.client(&one, "one").put(&path("a"), "1".into()).await.unwrap();
    let anonymous = lab.anonymous("one");
    denied(anonymous.get(&path("a")).await);
    assert!(anonymous.list(None).try_collect::<Vec<_>>().await.is_err());
    assert_eq!(lab.client(&two, "one").get(&path("a")).await.unwrap().bytes().await.unwrap(), "1");
}

#[tokio::test]
async fn a_signature_is_good_for_fifteen_minutes_and_for_its_body() {
    let lab = Lab::start(Options::default()).await;
    let key = lab.key("one", None);
    for skew in [0, -14 * 60, 14 * 60] {
        let answer = lab.signed(&key, Request { skew, ..Request::new("PUT", "/one/a", b"body") }).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{skew}: {answer}");
    }
    for skew in [-16 * 60, 16 * 60, -86_400, 400 * 86_400] {
        let answer = lab.signed(&key, Request { skew, ..Request::new("PUT", "/one/b", b"body") }).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("RequestTimeTooSkewed"), "{skew}: {answer}");
    }
    let answer = lab.signed(&key, Request { hashed: b"BODY", ..Request::new("PUT", "/one/b", b"body") }).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("BadDigest"), "{answer}");
    let names: Vec<_> = fs::read_dir(lab.path().join("one")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(fs::read_dir(lab.path().join(".incoming")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_quota_bounds_what_a_bucket_holds() {
    let lab = Lab::start(Options { smallest_part: 1, ..Options::default() }).await;
    let key = lab.key("one", Some(4 * 4096));
    let client = lab.client(&key, "one");
    client.put(&path("a"), vec![1; 8000].into()).await.unwrap();
    client.put(&path("b"), vec![1; 1].into()).await.unwrap();
    for bytes in [4097, 1 << 20, 8 << 20] {
        assert!(denied(client.put(&path("c"), vec![1; bytes].into()).await).contains("QuotaExceeded"), "{bytes}");
    }
    let bucket = Bucket::over(Arc::new(lab.client(&key, "one")), "s3://one".parse().unwrap());
    let full = bucket.put(&ObjectKey::Record(1), vec![1; 1 << 20].into()).await;
    assert!(matches!(full, Err(StorageError::Full { .. })), "{full:?}");
    // even nothing takes a block, and so does an upload
    client.put(&path("c"), "".into()).await.unwrap();
    assert!(denied(client.put(&path("d"), "".into()).await).contains("QuotaExceeded"));
    assert!(denied(client.create_multipart(&path("d")).await).contains("QuotaExceeded"));

    // what is deleted, replaced or aborted is given back
    client.delete(&path("a")).await.unwrap();
    client.put(&path("b"), "new".into()).await.unwrap();
    for _ in 0..3 {
        let upload = client.create_multipart(&path("d")).await.unwrap();
        client.put_part(&path("d"), &upload, 0, "x".into()).await.unwrap();
        client.put_part(&path("d"), &upload, 0, "y".into()).await.unwrap_err();
        client.abort_multipart(&path("d"), &upload).await.unwrap();
    }
    let upload = client.create_multipart(&path("d")).await.unwrap();
    let part = client.put_part(&path("d"), &upload, 0, "x".into()).await.unwrap();
    client.complete_multipart(&path("d"), &upload, vec![part]).await.unwrap();
    client.put(&path("e"), "".into()).await.unwrap();
    assert!(denied(client.put(&path("f"), "".into()).await).contains("QuotaExceeded"));

    // a restart counts the same
    let again = Lab::serve(lab.stop().await, Options::default()).await;
    let client = again.client(&key, "one");
    assert!(denied(client.put(&path("f"), "".into()).await).contains("QuotaExceeded"));
    client.delete(&path("e")).await.unwrap();
    client.put(&path("f"), "".into()).await.unwrap();
}

#[tokio::test]
async fn nothing_leads_out_of_a_bucket() {
    let lab = Lab::start(Options::default()).await;
    let key = lab.key("one", None);
    lab.key("two", None);
    fs::write(lab.path().join("secret"), "outside").unwrap();
    let names = [
        "/one/../secret",
        "/one/%2e%2e/secret",
        "/one/..%2fsecret",
        "/one/%2e%2e%2fsecret",
        "/one//secret",
        "/one/%2fetc/passwd",
        "/one/.hidden",
        "/one/a/.hidden",
        "/one/a/",
        "/one/a//b",
        "/one/a%00b",
        "/one/a%0ab",
        "/..",
        "/%2e%2e/x",
        "/.keys.toml",
        "/.keys.toml/x",
        "/.uploads/one",
        "/.incoming/x",
        "/one%2f..%2fsecret",
    ];
    for name in names {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = lab.signed(&key, Request::new(method, name, b"")).await;
            let status = answer.get(9..12).unwrap_or_default().to_owned();
            assert!(status.starts_with('4') || (status == "501" && method != "GET"), "{method} {name}: {answer}");
            assert!(!answer.contains("outside") && !answer.contains(&key.secret), "{method} {name}: {answer}");
        }
    }
    let long = format!("/one/{}", "x".repeat(256));
    assert!(lab.signed(&key, Request::new("PUT", &long, b"")).await.contains("KeyTooLong"));
    assert_eq!(fs::read_to_string(lab.path().join("secret")).unwrap(), "outside");
    assert_eq!(fs::read_dir(lab.path().join("one")).unwrap().count(), 0);
}

#[tokio::test]
async fn requests_that_are_not_understood_are_refused() {
    let lab = Lab::start(Options::default()).await;
    let key = lab.key("one", None);
    let version_2 = format!(
        "PUT /one/a HTTP/1.1\r\nHost: h\r\nDate: now\r\nAuthorization: AWS {}:c2ln\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        key.access
    );
    let form = "--b\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\na\r\n--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--b--\r\n";
    let form = format!(
        "POST /one HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{form}",
        form.len()
    );
    for request in [version_2.as_str(), form.as_str(), "GET /one?acl HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "nonsense\r\n\r\n"]
    {
        let answer = lab.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 501"), "{request}: {answer}");
    }
    assert_eq!(fs::read_dir(lab.path().join("one")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_nothing() {
    let lab = Lab::start(Options::default()).await;
    let key = lab.key("one", Some(1 << 20));
    let head = lab.head(&key, Request::new("PUT", "/one/a", b""), 1 << 19);
    let mut stream = TcpStream::connect(lab.address).await.unwrap();
    stream.write_all(&[head.as_bytes(), &[0; 1024]].concat()).await.unwrap();
    drop(stream);
    let client = lab.client(&key, "one");
    // once the server has noticed, its quota is whole again
    let mut tries = 0;
    while let Err(error) = client.put(&path("b"), vec![0; (1 << 20) - 4096].into()).await {
        tries += 1;
        assert!(tries < 1000, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fs::read_dir(lab.path().join(".incoming")).unwrap().count(), 0);
    assert!(!lab.path().join("one/a").exists());
}

#[tokio::test]
async fn uploads_are_finished_once_and_as_they_were_told() {
    let lab = Lab::start(Options { smallest_part: 4, ..Options::default() }).await;
    let key = lab.key("one", None);
    let client = lab.client(&key, "one");
    let big = path("deep/big");
    let upload = client.create_multipart(&big).await.unwrap();
    // in any order, and the last one of a number counts
    let third = client.put_part(&big, &upload, 2, "3".into()).await.unwrap();
    let old = client.put_part(&big, &upload, 0, "0000".into()).await.unwrap();
    let first = client.put_part(&big, &upload, 0, "1111".into()).await.unwrap();
    let second = client.put_part(&big, &upload, 1, "2222".into()).await.unwrap();
    let parts = |parts: [&object_store::multipart::PartId; 3]| parts.into_iter().cloned().collect::<Vec<_>>();
    for wrong in [parts([&old, &second, &third]), parts([&second, &first, &third])] {
        assert!(client.complete_multipart(&big, &upload, wrong).await.is_err());
        assert!(matches!(client.head(&big).await, Err(StoreError::NotFound { .. })));
    }
    let other = client.complete_multipart(&path("deep/other"), &upload, parts([&first, &second, &third])).await;
    assert!(matches!(other, Err(StoreError::NotFound { .. })), "{other:?}");

    let attempts = join_all((0..8).map(|_| client.complete_multipart(&big, &upload, parts([&first, &second, &third])))).await;
    let (done, refused): (Vec<_>, Vec<_>) = attempts.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 1, "{refused:?}");
    assert!(refused.iter().all(|error| matches!(error, Err(StoreError::NotFound { .. }))), "{refused:?}");
    assert_eq!(client.get(&big).await.unwrap().bytes().await.unwrap(), "111122223");
    assert_eq!(client.list(None).count().await, 1);
    assert_eq!(fs::read_dir(lab.path().join(".uploads/one")).unwrap().count(), 0);

    // a part too small for S3 is told at the end
    let upload = client.create_multipart(&path("small")).await.unwrap();
    let (a, b) = (
        client.put_part(&path("small"), &upload, 0, "a".into()).await.unwrap(),
        client.put_part(&path("small"), &upload, 1, "b".into()).await.unwrap(),
    );
    let error = client.complete_multipart(&path("small"), &upload, vec![a, b]).await.unwrap_err().to_string();
    assert!(error.contains("EntityTooSmall"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn listing_while_others_write_and_delete_never_fails() {
    let lab = Lab::start(Options::default()).await;
    let client = lab.client(&lab.key("one", None), "one");
    for i in 0..10 {
        client.put(&path(&format!("kept/{i}")), "x".into()).await.unwrap();
    }
    let churn = (0..4).map(|worker| {
        let client = client.clone();
        tokio::spawn(async move {
            for i in 0..40 {
                let key = path(&format!("churn/{}/{worker}/{i}", i % 3));
                client.put(&key, "x".into()).await.unwrap();
                client.delete(&key).await.unwrap();
            }
        })
    });
    let churn = join_all(churn.collect::<Vec<_>>());
    let listing = async {
        for _ in 0..40 {
            let found: Vec<_> = client.list(None).try_collect().await.unwrap();
            assert_eq!(found.iter().filter(|meta| meta.location.as_ref().starts_with("kept/")).count(), 10);
        }
    };
    let (churned, ()) = tokio::join!(churn, listing);
    assert!(churned.iter().all(Result::is_ok));
    assert!(!lab.path().join("one/churn").exists(), "empty folders go with their last object");
}

#[tokio::test]
async fn a_folder_is_served_once_and_what_was_left_there_is_tidied() {
    let lab = Lab::start(Options::default()).await;
    let again = Server::bind(([127, 0, 0, 1], 0).into(), lab.path(), Options::default()).await;
    assert!(matches!(again, Err(ServerError::InUse(_))), "{again:?}");
    let key = lab.key("one", None);
    let client = lab.client(&key, "one");
    let upload = client.create_multipart(&path("big")).await.unwrap();
    let part = client.put_part(&path("big"), &upload, 0, "part".into()).await.unwrap();

    let dir = lab.stop().await;
    // as if it had been killed while receiving and while putting parts together
    fs::write(dir.path().join(".incoming/5"), "half").unwrap();
    let folder = dir.path().join(".uploads/one").join(&upload);
    fs::rename(&folder, folder.with_extension("claimed")).unwrap();
    let again = Lab::serve(dir, Options::default()).await;
    assert_eq!(fs::read_dir(again.path().join(".incoming")).unwrap().count(), 0);
    let client = again.client(&key, "one");
    client.complete_multipart(&path("big"), &upload, vec![part]).await.unwrap();
    assert_eq!(client.get(&path("big")).await.unwrap().bytes().await.unwrap(), "part");
}

#[tokio::test]
async fn a_name_is_an_object_or_a_folder() {
    let lab = Lab::start(Options::default()).await;
    let client = lab.client(&lab.key("one", None), "one");
    client.put(&path("a"), "1".into()).await.unwrap();
    client.put(&path("b/c"), "1".into()).await.unwrap();
    for key in ["a/b", "a/b/c", "b"] {
        let error = client.put(&path(key), "2".into()).await.unwrap_err().to_string();
        assert!(error.contains("InvalidRequest"), "{key}: {error}");
        assert!(matches!(client.get(&path(key)).await, Err(StoreError::NotFound { .. })), "{key}");
        client.delete(&path(key)).await.unwrap();
    }
    assert_eq!(client.list(None).count().await, 2);
}

#[tokio::test]
async fn an_upload_creates_only_what_is_not_there() {
    let lab = Lab::start(Options { smallest_part: 1, ..Options::default() }).await;
    let key = lab.key("one", None);
    let client = lab.client(&key, "one");
    for (there, status) in [(true, "412"), (false, "200"), (true, "412")] {
        if !there {
            client.delete(&path("a")).await.unwrap();
        } else if client.head(&path("a")).await.is_err() {
            client.put(&path("a"), "first".into()).await.unwrap();
        }
        let upload = client.create_multipart(&path("a")).await.unwrap();
        let part = client.put_part(&path("a"), &upload, 0, "second".into()).await.unwrap();
        let tag = &part.content_id;
        let parts = format!("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{tag}</ETag></Part></CompleteMultipartUpload>");
        let query = format!("uploadId={upload}");
        let request = Request { query: &query, header: "If-None-Match: *\r\n", ..Request::new("POST", "/one/a", parts.as_bytes()) };
        let answer = lab.signed(&key, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        // a refused upload goes on
        assert_eq!(client.abort_multipart(&path("a"), &upload).await.is_ok(), there);
    }
    assert_eq!(client.get(&path("a")).await.unwrap().bytes().await.unwrap(), "second");
}

/// The process that the next test kills.
#[tokio::test]
#[ignore = "a server for a_server_that_is_killed_keeps_what_it_acknowledged"]
async fn served_process() {
    let Some(dir) = std::env::var_os("STORAGE_TEST_SERVE") else { return };
    let server = Server::bind(([127, 0, 0, 1], 0).into(), dir.as_ref(), Options { smallest_part: 1, ..Options::default() }).await.unwrap();
    println!("\nat {}", server.local_addr());
    server.run(std::future::pending()).await;
}

struct Served(Child);

impl Served {
    fn start(dir: &std::path::Path) -> (Self, SocketAddr) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["served_process", "--exact", "--ignored", "--nocapture"]).env("STORAGE_TEST_SERVE", dir);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| line.strip_prefix("at ").map(|address| address.parse().unwrap())).expect("it listens");
        (Self(child), address)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // SIGKILL: it has no time for anything
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What an object of this name holds: between nothing and 200 kB.
fn content(name: usize) -> Vec<u8> {
    (0..name * 7919 % 200_000).map(|i| (i + name) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_killed_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let key = storage::server::add_key(dir.path(), "one", None).unwrap();
    let mut acknowledged = Vec::new();
    for life in 0..3 {
        let (served, address) = Served::start(dir.path());
        let (count, mut counted) = tokio::sync::mpsc::channel(64);
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (client, count) = (s3::client_at(address, &key, "one"), count.clone());
                tokio::spawn(async move {
                    for name in (0..).map(|i| (life * 1000 + i) * 4 + writer) {
                        let at = path(&format!("{}/{name}", name % 5));
                        let done = if writer == 3 {
                            upload(&client, &at, &content(name)).await
                        } else {
                            client.put_opts(&at, content(name).into(), PutMode::Create.into()).await.map(drop)
                        };
                        if done.is_err() || count.send(name).await.is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        drop(count);
        let mut served = Some(served);
        let before = acknowledged.len();
        while let Some(name) = counted.recv().await {
            acknowledged.push(name);
            if acknowledged.len() == before + 20 {
                served.take();
            }
        }
        assert!(join_all(writers).await.iter().all(Result::is_ok));
        assert!(acknowledged.len() >= before + 20);
    }

    let (_served, address) = Served::start(dir.path());
    assert_eq!(fs::read_dir(dir.path().join(".incoming")).unwrap().count(), 0);
    let client = s3::client_at(address, &key, "one");
    let there: Vec<_> = client.list(None).try_collect().await.unwrap();
    let names: Vec<usize> = there.iter().map(|meta| meta.location.filename().unwrap().parse().unwrap()).collect();
    assert!(acknowledged.iter().all(|name| names.contains(name)));
    for (meta, name) in there.iter().zip(names) {
        assert!(client.get(&meta.location).await.unwrap().bytes().await.unwrap() == content(name), "{name}");
    }
}

async fn upload(client: &AmazonS3, at: &Path, bytes: &[u8]) -> object_store::Result<()> {
    let mut upload = client.put_multipart(at).await?;
    for part in bytes.chunks(100_000) {
        upload.put_part(part.to_vec().into()).await?;
    }
    upload.complete().await.map(drop)
}
