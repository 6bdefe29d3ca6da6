//! The exchange of one round, in the order in which it happens, as a peer behind the link sees it. What a chain adds, and the judging, is
//! not in it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chain::{Chain, Ledger};
use checkpoints::{PAYLOADS_AT_ONCE, Run, check_envelope, fetch_applied, fetch_payload};
use compression::Payload;
use futures::{StreamExt, TryStreamExt, stream};
use protocol::{
    Applied, Document, Envelope, Hasher, Hotkey, ObjectKey, Record, SealContext, SealList, Sealed, Signed,
    score::{Entry, Outcome, ScoreSheet, Standing, Trial},
    sealed_len,
};
use serde::Serialize;
use storage::{Access, Bucket, Stores};

use crate::prepare::{ENDPOINT, MINERS, NETUID, PEER, bucket, keypair};

/// As the validator does it.
const ENVELOPES_AT_ONCE: usize = 32;

/// What was measured, in order.
#[derive(Debug, Serialize)]
pub struct Timeline {
    phases: Vec<Phase>,
    /// The most connections to the store that were open at a time.
    #[serde(skip)]
    open: Arc<AtomicUsize>,
}

#[derive(Debug, Serialize)]
struct Phase {
    name: &'static str,
    /// What went over the link, if it is known.
    bytes: u64,
    seconds: f64,
    /// Open connections to the store at most.
    connections: usize,
}

impl Timeline {
    pub fn start() -> Self {
        let open = Arc::new(AtomicUsize::new(0));
        let counted = open.clone();
        std::thread::spawn(move || {
            loop {
                counted.fetch_max(connections(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { phases: Vec::new(), open }
    }

    pub async fn measure<T>(&mut self, name: &'static str, bytes: u64, work: impl Future<Output = T>) -> T {
        self.open.store(0, Ordering::Relaxed);
        let start = Instant::now();
        let done = work.await;
        let (seconds, connections) = (start.elapsed().as_secs_f64(), self.open.load(Ordering::Relaxed));
        eprintln!("{name:12} {seconds:7.2} s  {:6.1} Mbit/s  {connections} connections", bytes as f64 * 8e-6 / seconds);
        self.phases.push(Phase { name, bytes, seconds, connections });
        done
    }
}

/// This namespace's established connections to the store.
fn connections() -> usize {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    // columns 2 and 3: the remote address, with its port in hexadecimal, and the state
    let to_store = |line: &&str| {
        let mut columns = line.split_ascii_whitespace().skip(2);
        columns.next().is_some_and(|remote| remote.ends_with(":2328")) && columns.next() == Some("01")
    };
    table.lines().filter(to_store).count()
}

pub async fn run(dir: &Path, stores: Stores) -> Timeline {
    let ledger = Arc::new(Ledger::open(&dir.join("ledger.sqlite")).unwrap());
    let url = fs::read_to_string(dir.join("url")).unwrap();
    let own = stores.open(&format!("s3://{}?endpoint={ENDPOINT}", bucket(PEER)), Access::Own).unwrap();
    let run = Run::open(&url, ledger.clone(), stores).await.unwrap();
    let own = own.join(&run.id.to_string());
    let documents = [ObjectKey::SealList(0), ObjectKey::ScoreSheet(0), ObjectKey::Record(0), ObjectKey::Bundle(0)];
    for key in documents.iter().chain(&[ObjectKey::Payload(0), ObjectKey::Envelope(0), ObjectKey::PayloadKey(0)]) {
        own.delete(key).await.unwrap();
    }
    let uids: Vec<(u16, Hotkey)> = {
        let neurons = ledger.neurons(NETUID, ledger.head().await.unwrap().number).await.unwrap();
        let uid = |number| neurons.iter().find(|n| n.hotkey == keypair(number).hotkey()).unwrap().uid;
        (1..=MINERS).map(|number| (uid(number), keypair(number).hotkey())).collect()
    };
    let (payload, bundle) = (fs::read(dir.join("payload")).unwrap(), fs::read(dir.join("bundle")).unwrap());
    let (one, bundled) = (sealed_len(payload.len() as u64), bundle.len() as u64);
    let mut timeline = Timeline::start();
    timeline.measure("upload", one, seal(&run, &own, &payload)).await;
    let list = timeline.measure("list", 0, list(&run, &own, &uids)).await;
    timeline.measure("reveal", 0, reveal(&own)).await;
    let every = one * u64::from(MINERS);
    let payloads = timeline.measure("fetch", every, fetch(&run, &list)).await;
    let applied: Vec<Applied> = list.value.entries.iter().map(applied).collect();
    timeline.measure("record", 0, record(&run, &own, &list, &applied)).await;
    timeline.measure("apply_raw", every, all(&run, &applied, &list.value, &payloads)).await;
    timeline.measure("bundle_up", bundled, own.put_large(&ObjectKey::Bundle(0), bundle.into())).await.unwrap();
    timeline.measure("apply_bundle", bundled, all(&run, &applied, &list.value, &payloads)).await;
    timeline
}

/// A miner's upload: the payload, sealed as it goes, then the envelope.
async fn seal(run: &Run, own: &Bucket, payload: &[u8]) {
    let context = SealContext { run: run.id, round: 0, hotkey: keypair(1).hotkey(), base_root: run.manifest.genesis_root };
    let mut hash = Hasher::default();
    context.segments(&[1; 32], payload).for_each(|segment| hash.update(&segment));
    let segments = context.segments(&[1; 32], payload).map(|segment| Ok(segment.into()));
    let size = sealed_len(payload.len() as u64);
    own.upload(&ObjectKey::Payload(0), size, hash.digest(), stream::iter(segments)).await.unwrap();
    own.put(&ObjectKey::Envelope(0), vec![7; 300].into()).await.unwrap();
}

/// The lead's look into all buckets, and its seal list.
async fn list(run: &Run, own: &Bucket, uids: &[(u16, Hotkey)]) -> Signed<SealList> {
    let buckets = run.buckets().await.unwrap();
    let asked = uids.iter().map(|(uid, hotkey)| {
        let bucket = buckets[hotkey].clone();
        async move {
            let envelope = bucket.get(&ObjectKey::Envelope(0), Envelope::CAP).await.unwrap().unwrap();
            let sealed = Sealed { uid: *uid, envelope: envelope.to_vec() };
            check_envelope(run, 0, run.manifest.genesis_root, *hotkey, &sealed).unwrap();
            sealed
        }
    });
    let mut entries: Vec<Sealed> = stream::iter(asked).buffer_unordered(ENVELOPES_AT_ONCE).collect().await;
    entries.sort_by_key(|sealed| sealed.uid);
    let list = Signed::new(SealList { run: run.id, round: 0, entries }, &keypair(PEER));
    own.put(&ObjectKey::SealList(0), list.to_bytes().to_vec().into()).await.unwrap();
    list
}

/// A miner reads the list and shows its key.
async fn reveal(own: &Bucket) {
    own.get(&ObjectKey::SealList(0), SealList::CAP).await.unwrap().unwrap();
    own.put(&ObjectKey::PayloadKey(0), vec![1; 32].into()).await.unwrap();
}

/// A validator's look at all payloads: fetched, opened, hashed and parsed.
async fn fetch(run: &Run, list: &Signed<SealList>) -> Vec<Payload> {
    let fetches = list.value.entries.iter().map(|sealed| async move {
        let envelope = sealed.open().unwrap();
        let bucket = run.bucket_of(&envelope.signer).await.unwrap().unwrap();
        fetch_payload(run, &bucket, &envelope).await
    });
    stream::iter(fetches).buffered(PAYLOADS_AT_ONCE).try_collect().await.unwrap()
}

fn applied(sealed: &Sealed) -> Applied {
    let envelope = sealed.open().unwrap();
    Applied { uid: sealed.uid, hotkey: envelope.signer, payload: envelope.value.payload, weight: 1.0 }
}

/// The lead publishes sheet and record; a node reads both.
async fn record(run: &Run, own: &Bucket, list: &Signed<SealList>, applied: &[Applied]) {
    let trial = Trial { before: 3.0, after: 2.9, std_error: 0.01, tokens: 65_536 };
    let outcome = Outcome::Measured { assigned: trial, random: trial, work: 1.0, norm: 1.0, overlap: 0.016 };
    let entry = |a: &Applied| Entry { uid: a.uid, hotkey: a.hotkey, payload: a.payload, outcome: outcome.clone() };
    let entries: Vec<Entry> = applied.iter().map(entry).collect();
    let standing = Standing::default().advance(&entries, &run.manifest.judge, &run.manifest.pay);
    let sheet = ScoreSheet { run: run.id, round: 0, seal_list: list.digest(), entries, standing };
    let sheet = Signed::new(sheet, &keypair(PEER));
    let record = Record {
        run: run.id,
        round: 0,
        previous: run.id,
        seal_list: list.digest(),
        score_sheet: sheet.digest(),
        validators: Vec::new(),
        open_block: 1,
        applied: applied.to_vec(),
        base_root: run.manifest.genesis_root,
        root: run.manifest.genesis_root,
    };
    own.put(&ObjectKey::ScoreSheet(0), sheet.to_bytes().to_vec().into()).await.unwrap();
    own.put(&ObjectKey::Record(0), Signed::new(record, &keypair(PEER)).to_bytes().to_vec().into()).await.unwrap();
    own.get(&ObjectKey::Record(0), Record::CAP).await.unwrap().unwrap();
    own.get(&ObjectKey::ScoreSheet(0), ScoreSheet::CAP).await.unwrap().unwrap();
}

/// A miner's payloads of the record: from the bundle if there is one, else one by one.
async fn all(run: &Run, applied: &[Applied], list: &SealList, expected: &[Payload]) {
    let found = fetch_applied(run, 0, applied, list, &HashMap::new()).await.unwrap().unwrap();
    assert!(found.iter().map(Payload::digest).eq(expected.iter().map(Payload::digest)));
}
