//! The validator.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use checkpoints::{
    Close, Event, Events, Home, Phase, Progress, Replica, RoundLog, Run, RunError, Shutdown, Step, Stopwatch, write_snapshot,
};
use dataset::{Dataset, Split};
use model::{Device, Llama};
use protocol::{
    Countersign, Digest, Dissent, Document, Envelope, Hotkey, Keypair, ObjectKey,
    round::{Candidate, Turn},
    score::{self, Entry, MinerScore, Outcome},
};
use serde::{Deserialize, Serialize};
use storage::Bucket;

use crate::{
    ValidatorError,
    judge::{Bench, Judgement, contradiction},
};

/// What a validator needs besides the run.
#[derive(Debug)]
pub struct ValidatorOptions {
    /// Its hotkey.
    pub keypair: Keypair,
    /// Its home directory.
    pub home: PathBuf,
    /// Its own bucket, writable.
    pub bucket: Bucket,
    /// The run's tokens.
    pub dataset: Arc<Dataset>,
    /// Where to measure.
    pub device: Device,
    /// Held-out sequences to measure after each round; 0 measures none.
    pub held_out: usize,
}

/// A running validator.
pub struct Validator {
    pub(crate) run: Arc<Run>,
    pub(crate) keypair: Keypair,
    pub(crate) bucket: Bucket,
    pub(crate) replica: Replica,
    pub(crate) watch: Stopwatch,
    pub(crate) events: Events,
    uid: u16,
    home: Home,
    dataset: Arc<Dataset>,
    model: Llama,
    held_out: Vec<Vec<u32>>,
    shutdown: Shutdown,
    /// The round's envelopes so far, by uid.
    envelopes: BTreeMap<u16, Vec<u8>>,
    envelopes_of: Option<u64>,
    judgement: Judgement,
    books: Books,
    missing_since: Option<(Digest, u64)>,
}

/// What a validator remembers besides the replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Books {
    /// Scores with this validator's own measurements where it dissents.
    scores: Vec<MinerScore>,
    /// The round after which they hold.
    round: u64,
    /// Block of the newest weights.
    weights_at: Option<u64>,
}

/// Size of a snapshot's files.
const SHARD_BYTES: usize = 1 << 30;
const BOOKS: &str = "scores.safetensors";

impl Validator {
    /// Restores a validator from its home directory, or starts a new one.
    ///
    /// # Errors
    /// [`ValidatorError`] says what is missing.
    pub async fn start(run: Arc<Run>, options: ValidatorOptions, events: Events, shutdown: Shutdown) -> Result<Self, ValidatorError> {
        let (found, expected) = (options.dataset.digest(), run.manifest.data.digest);
        if found != expected {
            return Err(ValidatorError::WrongData { found, expected });
        }
        let home = Home::open(&options.home)?;
        let (netuid, hotkey) = (run.manifest.chain.netuid, options.keypair.hotkey());
        let head = run.chain.head().await?;
        let neurons = run.chain.neurons(netuid, head.number).await?;
        let uid = neurons.iter().find(|n| n.hotkey == hotkey).map(|n| n.uid);
        let uid = uid.ok_or_else(|| ValidatorError::NotRegistered { hotkey: hotkey.ss58(), netuid })?;
        run.chain.set_bucket(&options.keypair, netuid, options.bucket.url()).await?;
        let replica = checkpoints::join(&run, &home).await?;
        let books = home.load::<Books>(BOOKS)?.map(|saved| saved.meta).unwrap_or_default();
        let model = Llama::new(&run.manifest.model, options.device)?;
        let held_out = held_out(&options.dataset, run.manifest.model.sequence_length, options.held_out)?;
        events.tell(Event::Ready { round: replica.anchor.round, uid: Some(uid), hotkey: hotkey.ss58() }).await;
        let bucket = options.bucket.join(&run.id.to_string());
        Ok(Self {
            run,
            keypair: options.keypair,
            bucket,
            replica,
            watch: Stopwatch::default(),
            events,
            uid,
            home,
            dataset: options.dataset,
            model,
            held_out,
            shutdown,
            envelopes: BTreeMap::new(),
            envelopes_of: None,
            judgement: Judgement::default(),
            books,
            missing_since: None,
        })
    }

    /// Follows the chain, block by block, until asked to stop.
    ///
    /// # Errors
    /// [`ValidatorError`], when going on makes no sense.
    pub async fn run(mut self) -> Result<(), ValidatorError> {
        if self.replica.anchor.round == 0 {
            self.measure_held_out().await?;
        }
        let mut head = self.run.chain.head().await?.number;
        while !self.shutdown.requested() {
            match self.tick(head).await {
                Ok(()) => {}
                // a store that fails costs a block, not the validator
                Err(ValidatorError::Storage(error) | ValidatorError::Run(RunError::Storage(error))) => {
                    self.events.tell(Event::Warning { message: format!("{error}; trying again at the next block") }).await;
                }
                Err(ValidatorError::Run(error @ RunError::Diverged { .. })) => {
                    self.events.tell(Event::Warning { message: format!("{error}: replaying the log from genesis") }).await;
                    self.replica = Replica::genesis(self.run.clone())?;
                }
                Err(error) => return Err(error),
            }
            let chain = self.run.chain.clone();
            head = tokio::select! {
                block = chain.next_block(head) => block?.number,
                () = self.shutdown.wait() => break,
            };
        }
        self.tell_usage().await;
        Ok(())
    }

    async fn tick(&mut self, head: u64) -> Result<(), ValidatorError> {
        loop {
            match self.replica.advance(head, &mut self.watch).await? {
                Progress::Stepped(step) => self.settle(&step, head).await?,
                Progress::Training(log) => return self.collect(&log, head).await,
                Progress::Closed(log, close) => return self.judge_round(&log, &close, head).await,
                Progress::Awaiting(log, missing) => return self.wait_for_bytes(&log, &missing, head).await,
            }
        }
    }

    /// Before the close: gathers envelopes and closes the round when it is this validator's turn.
    async fn collect(&mut self, log: &RoundLog, head: u64) -> Result<(), ValidatorError> {
        let round = self.replica.anchor.round;
        if self.envelopes_of != Some(round) {
            (self.envelopes, self.envelopes_of) = (BTreeMap::new(), Some(round));
        }
        let me = self.keypair.hotkey();
        if log.plan.rank_of(&me).is_none() || log.plan.seal_rank(head + 1) != log.plan.rank_of(&me) {
            return Ok(());
        }
        self.fetch_envelopes().await?;
        let anchor = &self.replica.anchor;
        let all_sealed = !anchor.applied.is_empty() && anchor.applied.iter().all(|(uid, _)| self.envelopes.contains_key(uid));
        if log.plan.seal_turn(&me, head + 1, all_sealed) == Turn::Act {
            let envelopes = std::mem::take(&mut self.envelopes);
            self.close_round(&envelopes).await?;
            self.envelopes = envelopes;
        }
        Ok(())
    }

    async fn fetch_envelopes(&mut self) -> Result<(), ValidatorError> {
        let anchor = &self.replica.anchor;
        let neurons = self.run.chain.neurons(self.run.manifest.chain.netuid, anchor.open_block).await?;
        let buckets = self.run.buckets().await?;
        for neuron in neurons {
            if self.envelopes.contains_key(&neuron.uid) {
                continue;
            }
            let Some(bucket) = buckets.get(&neuron.hotkey) else { continue };
            // a bucket that fails costs its owner the round and nobody else anything
            if let Ok(Some(bytes)) = bucket.get(&ObjectKey::Envelope(anchor.round), Envelope::CAP).await {
                self.envelopes.insert(neuron.uid, bytes.to_vec());
            }
        }
        Ok(())
    }

    /// After the close: measures as lead, or as next in rank once the lead is late, and records the round in its turn.
    async fn judge_round(&mut self, log: &RoundLog, close: &Close, head: u64) -> Result<(), ValidatorError> {
        let me = self.keypair.hotkey();
        let Some(rank) = log.plan.rank_of(&me) else { return Ok(()) };
        let Some(seeds) = self.seeds(close).await? else { return Ok(()) };
        let mut uids: Vec<u16> = close.list.value.entries.iter().map(|e| e.uid).collect();
        if rank > 0 && head < log.plan.record_due(close.block) {
            uids = spot_checks(&uids, &seeds.1, &me, self.replica.terms.judge.spot_checks as usize);
        }
        self.judge(close, &uids, &seeds).await?;
        let all_judged = uids.iter().all(|uid| !self.judgement.open(*uid));
        if log.plan.record_turn(&me, close.block, head + 1, all_judged) == Turn::Act {
            let entries = self.judgement.entries.values().cloned().collect();
            self.record_round(close, &log.plan.ranks, entries).await?;
        }
        Ok(())
    }

    /// Hashes of the round's open block and of the first block after the close; `None` while the latter is not there.
    async fn seeds(&self, close: &Close) -> Result<Option<(Digest, Digest)>, ValidatorError> {
        let open = self.run.chain.block(self.replica.anchor.open_block).await?;
        let after = self.run.chain.block(close.block + 1).await?;
        Ok(open.zip(after).map(|(open, after)| (open.hash, after.hash)))
    }

    async fn judge(&mut self, close: &Close, uids: &[u16], (open, seed): &(Digest, Digest)) -> Result<(), ValidatorError> {
        let anchor = &self.replica.anchor;
        let round = anchor.round;
        let neurons = self.run.chain.neurons(self.run.manifest.chain.netuid, anchor.open_block).await?;
        self.judgement.enter(round);
        for &uid in uids {
            if !self.judgement.open(uid) || self.shutdown.requested() {
                continue;
            }
            let hotkey: Option<Hotkey> = neurons.iter().find(|n| n.uid == uid).map(|n| n.hotkey);
            let mut bench = Bench { run: &self.run, dataset: &self.dataset, model: &mut self.model, watch: &mut self.watch };
            self.judgement.judge(&mut bench, &mut self.replica, close, uid, (open, seed), hotkey).await?;
            if let Some(entry) = self.judgement.entries.get(&uid) {
                let (verdict, gain) = (verdict(entry), entry.outcome.gain());
                self.events.tell(Event::Judged { round, uid, verdict, gain }).await;
            }
        }
        Ok(())
    }

    /// A committed digest has no bytes: after a span of waiting, says so on the chain.
    async fn wait_for_bytes(&mut self, log: &RoundLog, missing: &Candidate, head: u64) -> Result<(), ValidatorError> {
        let since = match self.missing_since {
            Some((digest, since)) if digest == missing.digest => since,
            _ => head,
        };
        self.missing_since = Some((missing.digest, since));
        let me = self.keypair.hotkey();
        if missing.lead != me && log.plan.rank_of(&me).is_some() && head >= since + log.plan.times.span {
            self.report_withheld(missing.digest).await?;
        }
        Ok(())
    }

    /// After a record: spot checks and countersignature, held-out loss, snapshot, weights.
    async fn settle(&mut self, step: &Step, head: u64) -> Result<(), ValidatorError> {
        let round = step.record.value.round;
        self.home.save_replica(&self.replica)?;
        self.events.tell(step.event()).await;
        let dissents = self.countersign(step).await?;
        self.keep_books(step, &dissents)?;
        self.events.tell(Event::Scores { round, scores: self.books.scores.clone() }).await;
        if record_leads(step, &self.keypair) {
            self.measure_held_out().await?;
            self.snapshot().await?;
        }
        self.pay(head).await?;
        self.tell_usage().await;
        Ok(())
    }

    /// Compares the sheet with own measurements; agreement and dissent are both published.
    async fn countersign(&mut self, step: &Step) -> Result<Vec<(Entry, Dissent)>, ValidatorError> {
        let (record, round) = (&step.record, step.record.value.round);
        if record.signer == self.keypair.hotkey() || !record.value.validators.iter().any(|v| v.hotkey == self.keypair.hotkey()) {
            return Ok(Vec::new());
        }
        let own = self.judgement.of(round);
        let z = self.replica.terms.judge.z;
        let found = step.sheet.value.entries.iter().filter_map(|theirs| {
            let own = own.get(&theirs.uid)?;
            Some((own.clone(), Dissent { uid: theirs.uid, reason: contradiction(theirs, own, z)? }))
        });
        let found: Vec<(Entry, Dissent)> = found.collect();
        let dissents: Vec<Dissent> = found.iter().map(|(_, d)| d.clone()).collect();
        for dissent in &dissents {
            self.events.tell(Event::Dissent { round, uid: dissent.uid, reason: dissent.reason.clone() }).await;
        }
        let document = Countersign { run: self.run.id, round, record: record.digest(), dissents };
        self.publish_once(&ObjectKey::Countersign(round), document).await?;
        Ok(found)
    }

    fn keep_books(&mut self, step: &Step, dissents: &[(Entry, Dissent)]) -> Result<(), ValidatorError> {
        let sheet = &step.sheet.value;
        let replace = |e: &Entry| dissents.iter().find(|(own, _)| own.uid == e.uid).map_or_else(|| e.clone(), |(own, _)| own.clone());
        let entries: Vec<Entry> = sheet.entries.iter().map(replace).collect();
        // the terms are still those of the round just taken
        let (judge, pay) = (&self.replica.terms.judge, &self.run.manifest.pay);
        self.books.scores = score::advance(&self.books.scores, &entries, judge, pay);
        self.books.round = sheet.round + 1;
        Ok(self.home.save(BOOKS, &self.books, &[])?)
    }

    async fn measure_held_out(&mut self) -> Result<(), ValidatorError> {
        if self.held_out.is_empty() {
            return Ok(());
        }
        let (model, state, windows) = (&mut self.model, &self.replica.state, &self.held_out);
        let losses = self.watch.measure(Phase::Judge, || {
            tokio::task::block_in_place(|| {
                model.load(state.tensors())?;
                model.sequence_losses(windows)
            })
        })?;
        let tokens = (windows.len() * self.run.manifest.model.sequence_length) as f64;
        let bytes = tokens * self.dataset.bytes_per_token(Split::HeldOut);
        let bits_per_byte = losses.iter().sum::<f64>() / std::f64::consts::LN_2 / bytes;
        self.events.tell(Event::HeldOut { round: self.replica.anchor.round, bits_per_byte }).await;
        Ok(())
    }

    async fn snapshot(&mut self) -> Result<(), ValidatorError> {
        let round = self.replica.anchor.round;
        if !round.is_multiple_of(self.run.manifest.checkpoints.every) {
            return Ok(());
        }
        let Replica { state, anchor, .. } = &self.replica;
        let written = write_snapshot(&self.bucket, state, self.run.id, anchor, &self.keypair, SHARD_BYTES).await;
        let bytes = written.map_err(RunError::from)?.value.shards.iter().map(|s| s.bytes).sum();
        self.events.tell(Event::Published { round, what: "snapshot".into(), bytes }).await;
        Ok(())
    }

    /// Sets weights once per epoch, and again if the chain does not show them.
    async fn pay(&mut self, head: u64) -> Result<(), ValidatorError> {
        let netuid = self.run.manifest.chain.netuid;
        let subnet = self.run.chain.subnet(netuid).await?;
        let every = subnet.tempo.max(subnet.weights_rate_limit);
        if self.books.weights_at.is_some_and(|at| head < at + every) {
            return Ok(());
        }
        let owner = self.run.chain.neurons(netuid, head).await?.into_iter().find(|n| n.hotkey == subnet.owner).map_or(0, |n| n.uid);
        let weights = score::weights(&self.books.scores, &self.run.manifest.pay, owner);
        let weights: Vec<(u16, u16)> = weights.into_iter().filter(|(uid, _)| *uid != self.uid).collect();
        if weights.is_empty() || self.books.scores.iter().all(|s| s.score <= 0.0) {
            return Ok(());
        }
        match self.run.chain.set_weights(&self.keypair, netuid, &weights).await {
            Ok(()) => {
                self.books.weights_at = Some(head);
                self.events.tell(Event::Weights { weights }).await;
            }
            Err(error) => self.events.tell(Event::Warning { message: format!("weights: {error}; trying again at the next round") }).await,
        }
        Ok(())
    }

    async fn tell_usage(&self) {
        let usage = Event::Usage { up: self.bucket.traffic().up, down: self.run.downloaded(), cpu: self.watch.split() };
        self.events.tell(usage).await;
    }
}

fn record_leads(step: &Step, keypair: &Keypair) -> bool {
    step.record.signer == keypair.hotkey()
}

fn verdict(entry: &Entry) -> String {
    match &entry.outcome {
        Outcome::Refused(refusal) => format!("refused: {refusal}"),
        Outcome::Measured { assigned, random } => format!(
            "gain {:+.5} on its own data, {:+.5} ± {:.5} on random data{}",
            assigned.gain(),
            random.gain(),
            random.std_error,
            if random.gain() <= 0.0 { ": harmful" } else { "" }
        ),
    }
}

/// The few uids that `me` measures when another leads: chosen by the seed, which nobody knows before the close.
fn spot_checks(uids: &[u16], seed: &Digest, me: &Hotkey, count: usize) -> Vec<u16> {
    let mut drawn: Vec<(Digest, u16)> =
        uids.iter().map(|uid| (Digest::derive("tributary 2026 spot check v1", &[&seed.0, &me.0, &uid.to_le_bytes()]), *uid)).collect();
    drawn.sort_unstable();
    drawn.into_iter().take(count).map(|(_, uid)| uid).collect()
}

/// Evenly spread held-out windows.
fn held_out(dataset: &Dataset, length: usize, count: usize) -> Result<Vec<Vec<u32>>, ValidatorError> {
    let windows = dataset.windows(Split::HeldOut, length);
    let count = (count as u64).min(windows);
    Ok((0..count).map(|i| dataset.window(Split::HeldOut, i * windows / count, length)).collect::<Result<_, _>>()?)
}
