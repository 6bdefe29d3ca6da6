//! Uploads and downloads an object on the built-in server over loopback, through [`Bucket`] and through a plain `object_store` loop with
//! parts of the same size and as many at once, each in a process of its own:
//!
//!     cargo run --release -p storage --example loopback -- 1073741824
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStoreExt, WriteMultipart};
use protocol::{Hasher, ObjectKey};
use storage::server::{Options, Server, add_key};
use storage::{Access, Bucket, Budget};

const KEY: ObjectKey = ObjectKey::Payload(1);
/// Parts of either side: [`Bucket::upload`]'s, and [`Bucket::download`]'s at its default budget.
const UP: usize = 5 << 20;
const DOWN: usize = 6 << 20;
const DOWN_AT_ONCE: usize = Budget::CONNECTIONS / 4;
const REPEATS: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match args.get(1).map(String::as_str) {
        Some("serve") => runtime.block_on(serve(&args[2])),
        Some("move") => runtime.block_on(transfer(&args[2..])),
        size => compare(size.map_or(1 << 30, |size| size.parse().unwrap())),
    }
}

async fn serve(dir: &str) {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), dir.as_ref(), Options::default()).await.unwrap();
    println!("{}", server.local_addr());
    server.run(std::future::pending()).await;
}

/// Runs every combination several times, in turn, and prints medians.
fn compare(size: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let key = add_key(dir.path(), "one", None).unwrap();
    let me = std::env::current_exe().unwrap();
    let mut server = Command::new(&me).args(["serve", path]).stdout(Stdio::piped()).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let run = |who: &str, way: &str| -> (f64, u64) {
        let mut command = Command::new(&me);
        command.args(["move", who, way, address.trim(), &size.to_string()]).stderr(Stdio::inherit());
        let output = command.env("AWS_ACCESS_KEY_ID", &key.access).env("AWS_SECRET_ACCESS_KEY", &key.secret).output().unwrap();
        assert!(output.status.success(), "{who} {way}");
        let text = String::from_utf8(output.stdout).unwrap();
        let (seconds, peak) = text.trim().split_once(' ').unwrap();
        (seconds.parse().unwrap(), peak.parse().unwrap())
    };
    for way in ["up", "down"] {
        let mut took = [Vec::new(), Vec::new()];
        let mut peaks = [0, 0];
        for _ in 0..REPEATS {
            for (number, who) in ["plain", "bucket"].into_iter().enumerate() {
                let (seconds, peak) = run(who, way);
                took[number].push(seconds);
                peaks[number] = peaks[number].max(peak);
            }
        }
        let [plain, bucket] = took.map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            size as f64 / 1e6 / seconds[REPEATS / 2]
        });
        let [plain_peak, bucket_peak] = peaks.map(|kib| kib / 1024);
        println!(
            "{way:4}  plain {plain:.0} MB/s, {plain_peak} MiB   bucket {bucket:.0} MB/s, {bucket_peak} MiB   bucket / plain {:.0} %",
            100.0 * bucket / plain
        );
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Moves the object one way, checked by nobody but by its length, and prints seconds and this process's peak of resident memory in KiB.
async fn transfer(args: &[String]) {
    let [who, way, address, size] = args else { panic!("four arguments") };
    let size: u64 = size.parse().unwrap();
    let bucket = Bucket::open(&format!("s3://one?endpoint=http://{address}"), Access::Own).unwrap();
    let store = Arc::new(client(address));
    let path = Path::from("rounds/00000001/payload");
    if way == "up" {
        bucket.delete(&KEY).await.unwrap();
    }
    let start = Instant::now();
    match (who.as_str(), way.as_str()) {
        ("plain", "up") => plain_up(&store, &path, size).await,
        ("plain", "down") => plain_down(&store, &path, size).await,
        ("bucket", "up") => bucket.upload(&KEY, size, Hasher::default().digest(), pieces(size).map(Ok)).await.unwrap(),
        ("bucket", "down") => {
            let (mut object, mut hash, mut came) = (bucket.download(&KEY, size, 0).await.unwrap().unwrap(), Hasher::default(), 0);
            while let Some(part) = object.next().await.unwrap() {
                hash.update(&part);
                came += part.len() as u64;
            }
            assert_eq!(came, size);
        }
        other => panic!("{other:?}"),
    }
    println!("{} {}", start.elapsed().as_secs_f64(), peak_kib());
}

fn client(address: &str) -> AmazonS3 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = AmazonS3Builder::from_env().with_bucket_name("one").with_endpoint(format!("http://{address}"));
    builder.with_allow_http(true).build().unwrap()
}

/// The object in pieces of 1 MiB, as a sealed payload comes.
fn pieces(size: u64) -> impl futures::Stream<Item = Bytes> {
    let piece = Bytes::from(vec![7; 1 << 20]);
    let lengths = (0..size.div_ceil(1 << 20)).map(move |i| (size - (i << 20)).min(1 << 20) as usize);
    stream::iter(lengths.map(move |length| piece.slice(..length)))
}

async fn plain_up(store: &AmazonS3, path: &Path, size: u64) {
    let mut write = WriteMultipart::new_with_chunk_size(store.put_multipart(path).await.unwrap(), UP);
    let mut pieces = std::pin::pin!(pieces(size));
    while let Some(piece) = pieces.next().await {
        write.wait_for_capacity(Budget::CONNECTIONS).await.unwrap();
        write.put(piece);
    }
    write.finish().await.unwrap();
}

async fn plain_down(store: &Arc<AmazonS3>, path: &Path, size: u64) {
    let ranges = (0..size).step_by(DOWN).map(|start| start..size.min(start + DOWN as u64));
    let fetch = |range| {
        let (store, path) = (store.clone(), path.clone());
        tokio::spawn(async move { store.get_range(&path, range).await.unwrap().len() as u64 })
    };
    let came: u64 = stream::iter(ranges).map(fetch).buffered(DOWN_AT_ONCE).try_fold(0, async |sum, part| Ok(sum + part)).await.unwrap();
    assert_eq!(came, size);
}

/// VmHWM.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
