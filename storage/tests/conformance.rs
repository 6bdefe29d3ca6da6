//! What every store must do, run on each that is at hand.
#![allow(clippy::unwrap_used)]

mod s3;

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{Error as StoreError, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode};
use protocol::ObjectKey;
use s3::Lab;
use storage::server::Options;
use storage::{Access, Bucket, StorageError};

/// Every store passes this, in an empty folder: what our own client asks, and what the store says beneath it.
async fn conformance(bucket: Bucket, store: Arc<dyn ObjectStore>) {
    ranges(&*store).await;
    multipart(&*store).await;
    tags(&*store).await;
    prefixes_and_pages(&store).await;
    deleted_while_listed(&store).await;
    absent_objects(&bucket).await;
    written_once(&bucket).await;
    caps(&bucket).await;
    one_creator_wins(&bucket).await;
    listing(&bucket).await;
    sized_listing(&bucket).await;
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

/// More objects than fit on a page, each with its size.
async fn sized_listing(bucket: &Bucket) {
    let bucket = bucket.join("sized");
    assert_eq!(bucket.list_sized("").count().await, 0);
    let puts = (0..1010u64).map(|round| {
        let bucket = bucket.clone();
        async move { bucket.put(&ObjectKey::Envelope(round), vec![7; round as usize % 5].into()).await }
    });
    stream::iter(puts).buffer_unordered(32).try_collect::<Vec<_>>().await.unwrap();
    bucket.put(&ObjectKey::Manifest, "outside".into()).await.unwrap();
    let mut found: Vec<_> = bucket.list_sized("rounds").try_collect().await.unwrap();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let wanted = |round: u64| (ObjectKey::Envelope(round).to_string(), round % 5);
    assert!(found.into_iter().map(|listed| (listed.path, listed.bytes)).eq((0..1010).map(wanted)));
    assert_eq!(bucket.list_sized("").count().await, 1011);
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

fn path(key: &str) -> Path {
    Path::parse(key).unwrap()
}

async fn read(store: &dyn ObjectStore, key: &str, options: GetOptions) -> object_store::Result<Bytes> {
    store.get_opts(&path(key), options).await?.bytes().await
}

async fn ranges(store: &dyn ObjectStore) {
    store.put(&path("ranges/ten"), "0123456789".into()).await.unwrap();
    let range = |range| read(store, "ranges/ten", GetOptions { range: Some(range), ..GetOptions::default() });
    for (wanted, found) in
        [(GetRange::Bounded(0..1), "0"), (GetRange::Bounded(2..5), "234"), (GetRange::Bounded(8..100), "89"), (GetRange::Offset(7), "789")]
    {
        assert_eq!(range(wanted.clone()).await.unwrap(), found, "{wanted}");
    }
    assert!(range(GetRange::Bounded(10..11)).await.is_err() && range(GetRange::Offset(10)).await.is_err());
    assert_eq!(store.get_ranges(&path("ranges/ten"), &[0..2, 5..6, 9..10]).await.unwrap(), ["01", "5", "9"]);
    // Azure has no suffix reads; nothing here needs them
    if format!("{store:?}").contains("MicrosoftAzure") {
        assert!(matches!(range(GetRange::Suffix(3)).await, Err(StoreError::NotSupported { .. })));
        return;
    }
    assert_eq!(range(GetRange::Suffix(3)).await.unwrap(), "789");
    assert_eq!(range(GetRange::Suffix(100)).await.unwrap(), "0123456789");
    let found =
        store.get_opts(&path("ranges/ten"), GetOptions { range: Some(GetRange::Suffix(4)), ..GetOptions::default() }).await.unwrap();
    assert_eq!((found.range.clone(), found.meta.size), (6..10, 10));
}

async fn multipart(store: &dyn ObjectStore) {
    let key = path("multipart/whole");
    // as small as S3 lets parts be
    let part = |number: u8, bytes: usize| (0..bytes).map(|i| number ^ (i % 251) as u8).collect::<Vec<u8>>();
    let parts = [part(1, 5 << 20), part(2, 5 << 20), part(3, 12_345)];
    let mut upload = store.put_multipart(&key).await.unwrap();
    futures::future::try_join_all(parts.iter().map(|part| upload.put_part(part.clone().into()))).await.unwrap();
    assert!(matches!(store.head(&key).await, Err(StoreError::NotFound { .. })), "half an object is none");
    upload.complete().await.unwrap();
    assert!(store.get(&key).await.unwrap().bytes().await.unwrap() == parts.concat());
    let seam = store.get_range(&key, (5 << 20) - 2..(5 << 20) + 2).await.unwrap();
    assert_eq!(seam, [&parts[0][(5 << 20) - 2..], &parts[1][..2]].concat());

    let mut dropped = store.put_multipart(&path("multipart/none")).await.unwrap();
    dropped.put_part("x".into()).await.unwrap();
    dropped.abort().await.unwrap();
    let left: Vec<_> = store.list(Some(&path("multipart"))).try_collect().await.unwrap();
    assert_eq!(left.iter().map(|meta| &meta.location).collect::<Vec<_>>(), [&key]);
}

async fn tags(store: &dyn ObjectStore) {
    let key = path("tags/a");
    let first = store.put(&key, "first".into()).await.unwrap().e_tag.unwrap();
    let meta = store.head(&key).await.unwrap();
    assert_eq!(meta.e_tag.as_ref(), Some(&first));
    let listed: Vec<_> = store.list(Some(&path("tags"))).try_collect().await.unwrap();
    // Azure lists tags without their quotes
    let bare = |tag: &Option<String>| tag.as_ref().map(|tag| tag.trim_matches('"').to_owned());
    assert_eq!((bare(&listed[0].e_tag), listed[0].size), (bare(&meta.e_tag), 5));
    let matching = |tag: &str| GetOptions { if_match: Some(tag.into()), ..GetOptions::default() };
    let differing = |tag: &str| GetOptions { if_none_match: Some(tag.into()), ..GetOptions::default() };
    assert_eq!(read(store, "tags/a", matching(&first)).await.unwrap(), "first");
    assert!(matches!(read(store, "tags/a", differing(&first)).await, Err(StoreError::NotModified { .. })));

    let second = store.put(&key, "other".into()).await.unwrap().e_tag.unwrap();
    assert_ne!(first, second);
    assert!(matches!(read(store, "tags/a", matching(&first)).await, Err(StoreError::Precondition { .. })));
    assert_eq!(read(store, "tags/a", differing(&first)).await.unwrap(), "other");
    let update = |tag: &str| store.put_opts(&key, "third".into(), PutMode::Update(version(tag)).into());
    // a local folder cannot tell versions apart as it writes
    if !matches!(update(&first).await.unwrap_err(), StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) {
        assert!(matches!(update(&first).await, Err(StoreError::Precondition { .. })));
        update(&second).await.unwrap();
        assert_eq!(read(store, "tags/a", GetOptions::default()).await.unwrap(), "third");
    }
}

fn version(tag: &str) -> object_store::UpdateVersion {
    object_store::UpdateVersion { e_tag: Some(tag.to_owned()), version: None }
}

/// More objects than fit on a page of S3's.
async fn prefixes_and_pages(store: &Arc<dyn ObjectStore>) {
    let keys: Vec<Path> = (0..1050).map(|i| path(&format!("pages/{}/{i:04}", i % 3))).chain([path("pages.x"), path("pages/top")]).collect();
    let puts = keys.iter().map(|key| {
        let (store, key) = (store.clone(), key.clone());
        async move { store.put(&key, "x".into()).await }
    });
    stream::iter(puts).buffer_unordered(32).try_collect::<Vec<_>>().await.unwrap();
    let mut wanted: Vec<&str> = keys.iter().map(Path::as_ref).filter(|key| key.starts_with("pages/")).collect();
    wanted.sort_unstable();

    let all: Vec<_> = store.list(Some(&path("pages"))).map_ok(|meta| meta.location).try_collect().await.unwrap();
    assert_eq!(sorted(&all), wanted);
    let half: Vec<_> =
        store.list_with_offset(Some(&path("pages")), &path("pages/1/0500")).map_ok(|meta| meta.location).try_collect().await.unwrap();
    assert_eq!(sorted(&half), wanted.iter().copied().filter(|key| *key > "pages/1/0500").collect::<Vec<_>>());
    let level = store.list_with_delimiter(Some(&path("pages"))).await.unwrap();
    assert_eq!(sorted(&level.common_prefixes), ["pages/0", "pages/1", "pages/2"]);
    assert_eq!(level.objects.iter().map(|meta| meta.location.as_ref()).collect::<Vec<_>>(), ["pages/top"]);
    let folder = store.list_with_delimiter(Some(&path("pages/2"))).await.unwrap();
    assert_eq!((folder.common_prefixes.len(), folder.objects.len()), (0, 350));

    // S3 deletes a thousand with one request
    let doomed = stream::iter(all.into_iter().map(Ok)).boxed();
    assert_eq!(store.delete_stream(doomed).try_collect::<Vec<_>>().await.unwrap().len(), 1051);
    assert_eq!(store.list(Some(&path("pages"))).count().await, 0);
}

fn sorted(paths: &[Path]) -> Vec<&str> {
    let mut paths: Vec<&str> = paths.iter().map(Path::as_ref).collect();
    paths.sort_unstable();
    paths
}

async fn deleted_while_listed(store: &Arc<dyn ObjectStore>) {
    let keys: Vec<Path> = (0..60).map(|i| path(&format!("doomed/{}/{i}", i % 4))).collect();
    for key in &keys {
        store.put(key, "x".into()).await.unwrap();
    }
    let deleting = async {
        for key in &keys {
            store.delete(key).await.unwrap();
        }
    };
    let listing = async {
        for _ in 0..30 {
            store.list(Some(&path("doomed"))).try_collect::<Vec<_>>().await.unwrap();
        }
    };
    tokio::join!(deleting, listing);
    assert_eq!(store.list(Some(&path("doomed"))).count().await, 0);
    assert!(matches!(store.head(&keys[0]).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory() {
    let bucket = Bucket::open("memory:///conformance", Access::Own).unwrap();
    conformance(bucket.clone(), Arc::new(InMemory::new())).await;
    let again = Bucket::open("memory:///conformance", Access::Trusted).unwrap();
    assert_eq!(again.list("", 100).await.unwrap(), bucket.list("", 100).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn local_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new folder/100%");
    let beneath = folder.path().join("beneath");
    std::fs::create_dir(&beneath).unwrap();
    let bucket = Bucket::open(path.to_str().unwrap(), Access::Own).unwrap();
    conformance(bucket, Arc::new(LocalFileSystem::new_with_prefix(&beneath).unwrap())).await;
    assert_eq!(std::fs::read(path.join("peers/one/manifest.json")).unwrap(), b"1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn built_in_server() {
    let lab = Lab::start(Options::default()).await;
    let client = lab.client(&lab.key("conformance", None), "conformance");
    let bucket = lab.bucket(client.clone()).join("run");
    conformance(bucket.clone(), Arc::new(PrefixStore::new(client, "beneath"))).await;
    // a bucket can be looked at
    assert_eq!(std::fs::read(lab.path().join("conformance/run/peers/one/manifest.json")).unwrap(), b"1");
    let public = lab.bucket(lab.anonymous("conformance")).join("run");
    assert_eq!(public.list("", 100).await.unwrap(), bucket.list("", 100).await.unwrap());
}

/// The same against a real service: an empty folder's address in `STORAGE_TEST_URL`, as `s3://BUCKET/FOLDER?region=R&endpoint=URL`, `az://CONTAINER/FOLDER` or `gs://BUCKET/FOLDER`, credentials
/// as for `Access::Own`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn service() {
    if let Ok(address) = std::env::var("STORAGE_TEST_URL") {
        let bucket = Bucket::open(&address, Access::Own).unwrap();
        conformance(bucket.join("run"), beneath(&address)).await;
    }
}

/// The store of an address without our own client around it.
fn beneath(address: &str) -> Arc<dyn ObjectStore> {
    let mut url: url::Url = address.parse().unwrap();
    let options: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    url.set_query(None);
    let path = format!("{}/beneath", url.path().trim_matches('/'));
    match url.scheme() {
        "az" => Arc::new(PrefixStore::new(MicrosoftAzureBuilder::from_env().with_url(url.as_str()).build().unwrap(), path)),
        "gs" => Arc::new(PrefixStore::new(GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).build().unwrap(), path)),
        _ => {
            let builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_allow_http(true);
            let builder = options.into_iter().fold(builder, |builder, (key, value)| match &*key {
                "region" => builder.with_region(value),
                _ => builder.with_endpoint(value),
            });
            Arc::new(PrefixStore::new(builder.build().unwrap(), path))
        }
    }
}
