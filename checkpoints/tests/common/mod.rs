//! A network without processes: a ledger whose blocks come by hand, buckets in memory, and rounds whose documents tests make as they like.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use chain::{Blocks, Chain, Ledger, LedgerConfig};
use checkpoints::{Close, Progress, Replica, Run, Step, Stopwatch};
use compression::{ErrorFeedback, Header};
use protocol::{
    Announcement, Applied, ChainSection, DataSection, Digest, Document, Envelope, Keypair, Launch, Manifest, ObjectKey, Record, RunConfig,
    SealContext, SealList, Sealed, Signed, Vote,
    score::{Entry, Outcome, ScoreSheet, Standing, Trial},
};
use storage::{Access, Bucket};
use tempfile::TempDir;

pub const CONFIG: &str = r#"
name = "tiny"
[model]
vocab_size = 257
hidden_size = 16
layers = 1
heads = 2
kv_heads = 1
head_dim = 8
intermediate_size = 24
sequence_length = 16
rope_theta = 10000.0
norm_eps = 1e-5
tied_embeddings = true
init_std = 0.02
[data]
tokenizer = "bytes"
[inner]
steps = 2
batch = 2
micro_batch = 2
lr = 1e-3
warmup = 1
decay = 10
[round]
train = 4
reveal = 2
judge = 2
span = 3
early_close = true
"#;

/// The key of every sealed payload.
pub const KEY: [u8; 32] = [5; 32];
pub const NETUID: u16 = 1;

/// A registered hotkey with its bucket.
pub struct Peer {
    pub keypair: Keypair,
    pub uid: u16,
    /// Of the run, writable.
    pub bucket: Bucket,
}

pub struct Net {
    pub dir: TempDir,
    pub ledger: Arc<Ledger>,
    pub url: String,
    pub run: Arc<Run>,
    /// With stakes of 3000, 2000 and 2000 TAO; who leads a round is up to the lot.
    pub validators: Vec<Peer>,
    pub miners: Vec<Peer>,
    store: String,
}

/// A new ledger in `dir`.
pub fn ledger(dir: &TempDir) -> Arc<Ledger> {
    let config = LedgerConfig { start_ms: 0, ..LedgerConfig::new(Blocks::Manual, Keypair::from_seed(&[99; 32]).hotkey()) };
    Arc::new(Ledger::create(&dir.path().join("ledger.sqlite"), &config).unwrap())
}

/// An address in memory that no other test has.
pub fn fresh_store() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("memory:///net-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn launch(genesis: Digest, start_block: u64) -> Launch {
    let chain = ChainSection { genesis, netuid: NETUID, launch_key: Keypair::from_seed(&[98; 32]).hotkey(), start_block };
    let (tokenizer, source) = ("bytes".into(), "none".into());
    Launch { chain, data: DataSection { tokenizer, source, digest: Digest::of(b"data"), train_tokens: 9999, held_out_tokens: 999 } }
}

/// Replaces an object's bytes.
pub async fn replace(bucket: &Bucket, key: &ObjectKey, bytes: impl Into<Vec<u8>>) {
    bucket.delete(key).await.unwrap();
    bucket.put(key, bytes.into().into()).await.unwrap();
}

/// Bytes that `peer` signed and that are no document at all.
pub fn garbage<T: Document>(peer: &Peer) -> Vec<u8> {
    let body = b"no document";
    [&peer.keypair.sign(T::DOMAIN, body)[..], &peer.keypair.hotkey().0, body].concat()
}

impl Net {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// Three validators and three miners on a run whose config was changed.
    pub async fn with(change: impl FnOnce(&mut RunConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, store) = (ledger(&dir), fresh_store());
        let mut config = RunConfig::parse(CONFIG).unwrap();
        change(&mut config);
        let start = 5;
        let manifest = Manifest::resolve(config, launch(ledger.genesis().await.unwrap(), start)).unwrap();
        let id = manifest.run_id();
        let url = format!("{store}/runs/{id}");
        let folder = Bucket::open(&url, Access::Own).unwrap();
        folder.put(&ObjectKey::Manifest, manifest.to_bytes().into()).await.unwrap();
        let mut peers = Vec::new();
        for seed in 1..=6 {
            let keypair = Keypair::from_seed(&[seed; 32]);
            let uid = ledger.enroll(NETUID, keypair.hotkey(), keypair.hotkey()).unwrap();
            let address = format!("{store}/peer-{seed}");
            ledger.set_bucket(&keypair, NETUID, &address).await.unwrap();
            let bucket = Bucket::open(&address, Access::Own).unwrap().join(&id.to_string());
            peers.push(Peer { keypair, uid, bucket });
        }
        let miners = peers.split_off(3);
        for (peer, tao) in peers.iter().zip([3000, 2000, 2000]) {
            ledger.endow(NETUID, peer.keypair.hotkey(), tao * chain::RAO_PER_TAO).unwrap();
        }
        ledger.advance(start).unwrap();
        let run = Run::open(&url, ledger.clone(), Access::Trusted).await.unwrap();
        Self { dir, ledger, url, run, validators: peers, miners, store }
    }

    pub fn genesis(&self) -> Replica {
        Replica::genesis(self.run.clone()).unwrap()
    }

    /// The validators by rank in the replica's round.
    pub async fn ranked(&self, replica: &Replica) -> Vec<&Peer> {
        let (_, ranks) = self.run.ranks(replica.anchor.open_block).await.unwrap();
        let peer = |hotkey| self.validators.iter().find(|peer| peer.keypair.hotkey() == hotkey).unwrap();
        ranks.iter().map(|validator| peer(validator.hotkey)).collect()
    }

    pub async fn head(&self) -> u64 {
        self.ledger.head().await.unwrap().number
    }

    /// Makes blocks so that what is committed next is included in block `next` at the earliest.
    pub async fn before(&self, next: u64) {
        let head = self.head().await;
        self.ledger.advance((next - 1).saturating_sub(head)).unwrap();
    }

    /// Commits, and makes the block that includes it.
    pub async fn commit(&self, peer: &Peer, announcement: &Announcement) -> u64 {
        self.ledger.commit(&peer.keypair, NETUID, &announcement.encode()).await.unwrap();
        self.ledger.advance(1).unwrap().number
    }

    /// What `replica` makes of the whole chain.
    pub async fn progress(&self, replica: &mut Replica) -> Progress {
        replica.advance(self.head().await, &mut Stopwatch::default()).await.unwrap()
    }

    /// Takes one step that must be there, or waits for the votes of the others, all of whom agree.
    pub async fn step(&self, replica: &mut Replica) -> Arc<Step> {
        let mut progress = self.progress(replica).await;
        if let Progress::Pending(_, step) = &progress {
            let voters: Vec<&Peer> = self.validators.iter().collect();
            self.vote(&voters, step.record.value.round, step.record.digest(), Vote::Agrees).await;
            progress = self.progress(replica).await;
        }
        match progress {
            Progress::Stepped(step) => step,
            other => panic!("{other:?} {:?}", replica.void()),
        }
    }

    /// The reason for which `replica` finds the round's newest record void.
    pub async fn void(&self, replica: &mut Replica) -> &'static str {
        assert!(matches!(self.progress(replica).await, Progress::Closed(..)), "no record stands");
        replica.void().last().expect("a record is void").1
    }

    /// A miner's honest payload of the replica's round.
    pub fn payload(&self, miner: &Peer, replica: &Replica) -> Vec<u8> {
        let (run, round) = (&self.run, replica.anchor.round);
        let wave = |tensor: usize, i: usize| ((i * (tensor + 3) + usize::from(miner.uid) * 7) as f32 + round as f32).sin() * 3e-3;
        let lengths = run.layout().tensors().iter().map(compression::TensorSpec::len).enumerate();
        let pseudo_gradient: Vec<Vec<f32>> = lengths.map(|(t, len)| (0..len).map(|i| wave(t, i)).collect()).collect();
        let header = Header { run: run.id.0, round, hotkey: miner.keypair.hotkey().0, base_root: replica.root.0 };
        compression::encode(&run.format, &header, &mut ErrorFeedback::zeros(run.layout()), &pseudo_gradient, 0.95).unwrap()
    }

    pub fn context(&self, miner: &Peer, replica: &Replica) -> SealContext {
        SealContext { run: self.run.id, round: replica.anchor.round, hotkey: miner.keypair.hotkey(), base_root: replica.root }
    }

    /// The honest envelope of a payload.
    pub fn envelope(&self, miner: &Peer, replica: &Replica, payload: &[u8]) -> Envelope {
        let sealed = self.context(miner, replica).seal(&KEY, payload);
        Envelope {
            run: self.run.id,
            round: replica.anchor.round,
            base_root: replica.root,
            sealed: Digest::of(&sealed),
            sealed_len: sealed.len() as u64,
            payload: Digest::of(payload),
            sequences: 4,
            tokens: 64,
        }
    }

    /// Uploads a miner's sealed payload and envelope.
    pub async fn seal(&self, miner: &Peer, replica: &Replica) {
        let round = replica.anchor.round;
        let payload = self.payload(miner, replica);
        let sealed = self.context(miner, replica).seal(&KEY, &payload);
        let envelope = Signed::new(self.envelope(miner, replica, &payload), &miner.keypair);
        miner.bucket.put(&ObjectKey::Payload(round), sealed.into()).await.unwrap();
        miner.bucket.put(&ObjectKey::Envelope(round), envelope.to_bytes().to_vec().into()).await.unwrap();
    }

    /// Publishes a miner's key.
    pub async fn reveal(&self, miner: &Peer, round: u64) {
        miner.bucket.put(&ObjectKey::PayloadKey(round), KEY.to_vec().into()).await.unwrap();
    }

    /// The honest seal list: every envelope there is.
    pub async fn list(&self, replica: &Replica) -> SealList {
        let round = replica.anchor.round;
        let mut entries = Vec::new();
        for miner in &self.miners {
            if let Some(envelope) = miner.bucket.get(&ObjectKey::Envelope(round), 512).await.unwrap() {
                entries.push(Sealed { uid: miner.uid, envelope: envelope.to_vec() });
            }
        }
        SealList { run: self.run.id, round, entries }
    }

    /// Publishes bytes as `lead`'s seal list of `round` and commits them; returns the block, after which there is one more.
    pub async fn close_with(&self, lead: &Peer, round: u64, bytes: &[u8]) -> u64 {
        replace(&lead.bucket, &ObjectKey::SealList(round), bytes).await;
        let digest = Signed::<SealList>::digest_of(bytes).unwrap();
        let block = self.commit(lead, &Announcement::SealList { run: self.run.id, round, digest }).await;
        // no record counts in the block whose hash chooses what is measured
        self.ledger.advance(1).unwrap();
        block
    }

    /// All miners seal, the first lead closes in time, all miners reveal.
    pub async fn closed(&self, replica: &Replica) -> Close {
        for miner in &self.miners {
            self.seal(miner, replica).await;
        }
        self.close_honestly(replica, 0).await
    }

    /// The lead of this rank lists every envelope, at the start of its span; all miners reveal.
    pub async fn close_honestly(&self, replica: &Replica, rank: usize) -> Close {
        let (anchor, times) = (&replica.anchor, &self.run.manifest.round);
        let due = anchor.since + times.train;
        self.before(if rank == 0 { due } else { due + 1 + rank as u64 * times.span }).await;
        let lead = self.ranked(replica).await[rank];
        let list = Signed::new(self.list(replica).await, &lead.keypair);
        let block = self.close_with(lead, anchor.round, list.to_bytes()).await;
        for miner in &self.miners {
            self.reveal(miner, anchor.round).await;
        }
        Close { block, list }
    }

    /// An honest sheet: everybody is measured, with gains of 0.1, 0.2, … in the order of the list.
    pub fn sheet(&self, replica: &Replica, close: &Close) -> ScoreSheet {
        let list = &close.list.value;
        let entries = list.entries.iter().zip(1..).map(|(sealed, place)| {
            let envelope = sealed.open().unwrap();
            let trial = |gain: f64| Trial { before: 3.0, after: 3.0 - gain, std_error: 0.01, tokens: 128 };
            let outcome = Outcome::Measured {
                assigned: trial(0.5),
                random: trial(0.1 * f64::from(place)),
                work: self.run.manifest.claimed_work(envelope.value.sequences),
                norm: 1.0,
                overlap: 0.0,
            };
            Entry { uid: sealed.uid, hotkey: envelope.signer, payload: envelope.value.payload, outcome }
        });
        let (entries, standing) = (entries.collect(), Standing::default());
        self.scored(replica, ScoreSheet { run: self.run.id, round: list.round, seal_list: close.list.digest(), entries, standing })
    }

    /// The sheet with the standing that follows from its entries.
    pub fn scored(&self, replica: &Replica, sheet: ScoreSheet) -> ScoreSheet {
        let standing = replica.anchor.standing.advance(&sheet.entries, &replica.terms.judge, &self.run.manifest.pay);
        ScoreSheet { standing, ..sheet }
    }

    /// The record that follows from a sheet, with the root that the payloads of the miners give.
    pub async fn record(&self, replica: &Replica, close: &Close, sheet: &Signed<ScoreSheet>) -> Record {
        let selected = sheet.value.select(&replica.terms.judge, &self.run.manifest.pay);
        let applied: Vec<Applied> =
            selected.iter().map(|e| Applied { uid: e.uid, hotkey: e.hotkey, payload: e.payload, weight: 1.0 }).collect();
        let (round, list, known) = (replica.anchor.round, &close.list.value, replica.opened());
        let payloads = checkpoints::fetch_applied(&self.run, round, &applied, list, known).await.unwrap();
        // where there are no payloads, or no finite state, any root will do
        let next = payloads.map(|payloads| replica.next_state(&applied, &payloads, &mut Stopwatch::default()));
        let root = next.and_then(Result::ok).map_or(Digest::of(b"no state"), |(_, root)| root);
        Record {
            run: self.run.id,
            round,
            previous: replica.anchor.record,
            seal_list: close.list.digest(),
            score_sheet: sheet.digest(),
            validators: self.run.ranks(replica.anchor.open_block).await.unwrap().1,
            open_block: replica.anchor.open_block,
            applied,
            base_root: replica.root,
            root,
        }
    }

    /// Publishes a sheet's and a record's bytes in `lead`'s bucket and commits the record; returns the block.
    pub async fn publish(&self, lead: &Peer, round: u64, sheet: &[u8], record: &[u8]) -> u64 {
        replace(&lead.bucket, &ObjectKey::ScoreSheet(round), sheet).await;
        replace(&lead.bucket, &ObjectKey::Record(round), record).await;
        self.commit_record(lead, round, Signed::<Record>::digest_of(record).unwrap()).await
    }

    pub async fn commit_record(&self, lead: &Peer, round: u64, digest: Digest) -> u64 {
        self.commit(lead, &Announcement::Record { run: self.run.id, round, digest }).await
    }

    /// The lead of this rank makes a sheet and a record, in its span, after both were changed by `spoil`.
    pub async fn record_with(
        &self,
        replica: &Replica,
        close: &Close,
        rank: usize,
        spoil: impl FnOnce(&mut ScoreSheet, &mut Record),
    ) -> u64 {
        let (lead, times) = (self.ranked(replica).await[rank], &self.run.manifest.round);
        if rank > 0 {
            self.before(close.block + times.reveal + times.judge + 1 + rank as u64 * times.span).await;
        }
        let mut sheet = self.sheet(replica, close);
        let mut record = self.record(replica, close, &Signed::new(sheet.clone(), &lead.keypair)).await;
        spoil(&mut sheet, &mut record);
        let sheet = Signed::new(sheet, &lead.keypair);
        record.score_sheet = sheet.digest();
        let record = Signed::new(record, &lead.keypair);
        self.publish(lead, replica.anchor.round, sheet.to_bytes(), record.to_bytes()).await
    }

    /// The lead of this rank records honestly in its span.
    pub async fn record_honestly(&self, replica: &Replica, close: &Close, rank: usize) -> u64 {
        self.record_with(replica, close, rank, |_, _| ()).await
    }

    /// A whole round in which everybody is honest.
    pub async fn round(&self, replica: &mut Replica) -> Arc<Step> {
        let close = self.closed(replica).await;
        self.record_honestly(replica, &close, 0).await;
        self.step(replica).await
    }

    /// The round's first lead publishes this sheet and the record that follows from it.
    pub async fn publish_sheet(&self, replica: &Replica, close: &Close, sheet: ScoreSheet) -> Signed<Record> {
        let lead = self.ranked(replica).await[0];
        let sheet = Signed::new(sheet, &lead.keypair);
        let record = Signed::new(self.record(replica, close, &sheet).await, &lead.keypair);
        self.publish(lead, replica.anchor.round, sheet.to_bytes(), record.to_bytes()).await;
        record
    }

    /// A fresh replica that took `rounds` steps.
    pub async fn replayed(&self, rounds: u64) -> Replica {
        let mut replica = self.genesis();
        for _ in 0..rounds {
            self.step(&mut replica).await;
        }
        replica
    }

    /// Votes on a seal list or record, and makes the block that includes them all.
    pub async fn vote(&self, voters: &[&Peer], round: u64, digest: Digest, vote: Vote) -> u64 {
        let said = Announcement::Vote { run: self.run.id, round, digest, vote };
        for voter in voters {
            self.ledger.commit(&voter.keypair, NETUID, &said.encode()).await.unwrap();
        }
        self.ledger.advance(1).unwrap().number
    }
}
