//! A validator that a test plays itself: it follows the log like every node, and in its turn closes and records what the test wants.

use std::{collections::HashSet, mem::discriminant, sync::Arc};

use chain::{Chain as _, Ledger};
use checkpoints::{Close, Progress, Replica, RoundLog, Run, Step, Stopwatch, check_envelope, fetch_applied};
use protocol::{
    Announcement, Applied, Digest, Document, Envelope, Hotkey, Keypair, ObjectKey, Record, SealList, Sealed, Signed, Vote,
    score::{Entry, Outcome, ScoreSheet, Standing, Trial},
};
use storage::{Access, Bucket};

use super::{HANG, Net, first, runtime};

pub struct Lead {
    pub run: Arc<Run>,
    pub replica: Replica,
    /// Every round so far.
    pub steps: Vec<Arc<Step>>,
    /// The newest block.
    pub head: u64,
    keypair: Keypair,
    ledger: Arc<Ledger>,
    bucket: Bucket,
    turns: HashSet<(u64, std::mem::Discriminant<Turn>)>,
    /// What it says of others' records.
    pub opinion: Vote,
}

/// What falls to a validator in a round in which it is the first in rank.
#[derive(Debug)]
pub enum Turn {
    /// Training is over, and no seal list stands.
    Close(RoundLog),
    /// The keys are due, and no record stands.
    Record(RoundLog, Box<Close>),
}

impl Lead {
    /// Plays `name`, whose process must not run. From now on no block passes but while [`Self::play`] asks for it.
    pub fn new(net: &Net, name: &str) -> Self {
        let (ledger, keypair) = (Arc::new(net.open_ledger()), net.roles[name].keypair.clone());
        let folder = net.bucket(name);
        std::fs::create_dir_all(&folder).unwrap();
        let url = format!("file://{}", folder.parent().unwrap().display());
        let bucket = Bucket::open(&format!("file://{}", folder.display()), Access::Own).unwrap();
        let run = runtime().block_on(async {
            ledger.set_bucket(&keypair, 1, &url).await.unwrap();
            Run::open(&net.run, ledger.clone(), Access::Trusted).await.unwrap()
        });
        ledger.join("played").unwrap();
        let replica = Replica::genesis(run.clone()).unwrap();
        Self { run, replica, steps: Vec::new(), head: 0, keypair, ledger, bucket, turns: HashSet::new(), opinion: Vote::Agrees }
    }

    pub fn hotkey(&self) -> Hotkey {
        self.keypair.hotkey()
    }

    /// The rounds so far in which this validator was the first in rank.
    pub fn led(&self) -> Vec<&Step> {
        self.steps.iter().map(Arc::as_ref).filter(|step| first(step) == self.hotkey()).collect()
    }

    /// Follows the chain until this validator was first in rank in two rounds; see [`Self::play_until`].
    pub fn play(&mut self, net: &mut Net, act: impl AsyncFnMut(&mut Self, Turn)) {
        self.play_until(net, |lead| lead.led().len() >= 2, act);
    }

    /// Follows the chain until it is `enough` and another validator was first in the newest round; then this one is gone. `act` is called
    /// once for each of its turns.
    pub fn play_until(&mut self, net: &mut Net, enough: impl Fn(&Self) -> bool, mut act: impl AsyncFnMut(&mut Self, Turn)) {
        runtime().block_on(async {
            while !enough(self) || self.steps.last().is_none_or(|step| first(step) == self.hotkey()) {
                net.check_running("the next block");
                if let Some(turn) = self.turn().await
                    && self.turns.insert((self.replica.anchor.round, discriminant(&turn)))
                {
                    act(self, turn).await;
                }
                self.next_block().await;
            }
        });
        self.ledger.leave().unwrap();
    }

    async fn turn(&mut self) -> Option<Turn> {
        let me = self.hotkey();
        let leads = |log: &RoundLog| log.plan.rank_of(&me) == Some(0);
        match self.look().await {
            Progress::Training(log) if leads(&log) && self.head + 1 >= log.plan.close_due() => Some(Turn::Close(log)),
            Progress::Pending(_, step) if step.record.signer != me => {
                let (run, round, digest) = (self.run.id, self.replica.anchor.round, step.record.digest());
                self.announce(Announcement::Vote { run, round, digest, vote: self.opinion }).await;
                None
            }
            Progress::Closed(log, close) if leads(&log) && self.head >= log.plan.reveal_due(close.block) => Some(Turn::Record(log, close)),
            _ => None,
        }
    }

    /// Takes all steps that there are; how far the round after them came.
    pub async fn look(&mut self) -> Progress {
        loop {
            match self.replica.advance(self.head, &mut Stopwatch::default()).await.unwrap() {
                Progress::Stepped(step) => self.steps.push(step),
                progress => return progress,
            }
        }
    }

    /// Lets one block pass: afterwards every process has acted on all that was there before.
    pub async fn next_block(&mut self) {
        let next = tokio::time::timeout(HANG, self.ledger.next_block(self.head)).await;
        self.head = next.expect("everybody takes part in lockstep").unwrap().number;
    }

    /// Lets blocks pass so that what is committed next is included in `block`.
    pub async fn before(&mut self, block: u64) {
        while self.head + 1 < block {
            self.next_block().await;
        }
    }

    /// The honest seal list: every envelope there is.
    pub async fn list(&self, log: &RoundLog) -> SealList {
        let (round, buckets) = (self.replica.anchor.round, self.run.buckets().await.unwrap());
        let mut entries = Vec::new();
        for (&uid, hotkey) in &log.hotkeys {
            let Some(bucket) = buckets.get(hotkey) else { continue };
            if let Some(envelope) = bucket.get(&ObjectKey::Envelope(round), Envelope::CAP).await.unwrap() {
                entries.push(Sealed { uid, envelope: envelope.to_vec() });
            }
        }
        entries.sort_by_key(|entry| entry.uid);
        SealList { run: self.run.id, round, entries }
    }

    /// A sheet of invented figures by which every payload is good.
    pub fn sheet(&self, log: &RoundLog, close: &Close) -> ScoreSheet {
        let (anchor, list) = (&self.replica.anchor, &close.list.value);
        let entries = list.entries.iter().map(|sealed| {
            let hotkey = log.hotkeys[&sealed.uid];
            let envelope = check_envelope(&self.run, anchor.round, self.replica.root, hotkey, sealed).unwrap();
            let work = self.run.manifest.claimed_work(envelope.value.sequences);
            Entry { uid: sealed.uid, hotkey, payload: envelope.value.payload, outcome: measured(0.02, 0.01, work) }
        });
        let (entries, seal_list) = (entries.collect(), close.list.digest());
        self.scored(ScoreSheet { run: self.run.id, round: anchor.round, seal_list, entries, standing: Standing::default() })
    }

    /// The sheet with the standing that follows from its entries.
    pub fn scored(&self, sheet: ScoreSheet) -> ScoreSheet {
        let (judge, pay) = (&self.replica.terms.judge, &self.run.manifest.pay);
        let standing = self.replica.anchor.standing.advance(&sheet.entries, judge, pay);
        ScoreSheet { standing, ..sheet }
    }

    /// The record that follows from a sheet.
    pub async fn record(&self, log: &RoundLog, close: &Close, sheet: &Signed<ScoreSheet>) -> Record {
        let (replica, pay) = (&self.replica, &self.run.manifest.pay);
        let selected = sheet.value.select(&replica.terms.judge, pay).into_iter();
        let applied: Vec<_> = selected.map(|e| Applied { uid: e.uid, hotkey: e.hotkey, payload: e.payload, weight: 1.0 }).collect();
        let payloads = fetch_applied(&self.run, replica.anchor.round, &applied, &close.list.value, replica.opened()).await.unwrap();
        let (_, root) = replica.next_state(&applied, &payloads.expect("all keys are out"), &mut Stopwatch::default()).unwrap();
        Record {
            run: self.run.id,
            round: replica.anchor.round,
            previous: replica.anchor.record,
            seal_list: close.list.digest(),
            score_sheet: sheet.digest(),
            validators: log.plan.ranks.clone(),
            open_block: replica.anchor.open_block,
            applied,
            base_root: replica.root,
            root,
        }
    }

    pub fn sign<T: Document>(&self, document: T) -> Signed<T> {
        Signed::new(document, &self.keypair)
    }

    /// Puts a document's bytes up, in place of what was there.
    pub async fn put<T: Document>(&self, key: ObjectKey, document: &Signed<T>) {
        self.bucket.delete(&key).await.unwrap();
        self.bucket.put(&key, document.to_bytes().to_vec().into()).await.unwrap();
    }

    pub async fn announce(&self, announcement: Announcement) {
        self.ledger.commit(&self.keypair, 1, &announcement.encode()).await.unwrap();
    }

    pub async fn announce_record(&self, digest: Digest) {
        self.announce(Announcement::Record { run: self.run.id, round: self.replica.anchor.round, digest }).await;
    }

    /// Publishes and commits a seal list.
    pub async fn close_with(&self, list: SealList) {
        let (run, round, list) = (self.run.id, self.replica.anchor.round, self.sign(list));
        self.put(ObjectKey::SealList(round), &list).await;
        self.announce(Announcement::SealList { run, round, digest: list.digest() }).await;
    }

    /// Publishes a sheet and the record that follows from it, and commits the latter.
    pub async fn record_with(&self, log: &RoundLog, close: &Close, sheet: ScoreSheet) {
        let (round, sheet) = (self.replica.anchor.round, self.sign(sheet));
        let record = self.sign(self.record(log, close, &sheet).await);
        self.put(ObjectKey::ScoreSheet(round), &sheet).await;
        self.put(ObjectKey::Record(round), &record).await;
        self.announce_record(record.digest()).await;
    }

    /// What everybody said on the chain, in order.
    pub fn said(&self) -> Vec<(Hotkey, Announcement)> {
        let commitments = runtime().block_on(self.ledger.commitments(1, 0..=self.head)).unwrap();
        commitments.into_iter().filter_map(|c| Some((c.hotkey, Announcement::decode(&c.data)?))).collect()
    }
}

/// These gains, as if they had been measured, of a miner that claims this share of the full work.
pub fn measured(assigned: f64, random: f64, work: f64) -> Outcome {
    let trial = |gain: f64| Trial { before: 5.0, after: 5.0 - gain, std_error: 0.001, tokens: 512 };
    Outcome::Measured { assigned: trial(assigned), random: trial(random), work, norm: 1.0, overlap: 0.0 }
}
