//! The miner.

use std::{path::PathBuf, sync::Arc};

use checkpoints::{Close, Event, Events, Home, Phase, Progress, Replica, Run, RunError, Shutdown, Step, Stopwatch};
use compression::{EncodeError, ErrorFeedback, Header, Payload};
use dataset::{Dataset, Split};
use model::{Device, InnerOptimizer, Llama, ModelError};
use protocol::{Assignment, Digest, Envelope, Keypair, ObjectKey, PayloadKey, SealContext, Signed};
use storage::Bucket;

use crate::{
    MinerError, Strategy,
    durable::{Durable, Pending},
    strategy,
};

/// What a miner needs besides the run.
#[derive(Debug)]
pub struct MinerOptions {
    /// Its hotkey.
    pub keypair: Keypair,
    /// Its home directory.
    pub home: PathBuf,
    /// Its own bucket, writable.
    pub bucket: Bucket,
    /// The run's tokens.
    pub dataset: Arc<Dataset>,
    /// Where to train.
    pub device: Device,
    /// What to do.
    pub strategy: Strategy,
}

/// A running miner.
pub struct Miner {
    run: Arc<Run>,
    keypair: Keypair,
    home: Home,
    bucket: Bucket,
    dataset: Arc<Dataset>,
    strategy: Strategy,
    replica: Replica,
    model: Llama,
    optimizer: InnerOptimizer,
    error_feedback: ErrorFeedback,
    pending: Option<Pending>,
    uploaded: bool,
    revealed: bool,
    /// The round that was tried and gave no payload.
    skipped: Option<u64>,
    watch: Stopwatch,
    events: Events,
    shutdown: Shutdown,
}

impl Miner {
    /// Restores a miner from its home directory, or starts a new one.
    ///
    /// # Errors
    /// [`MinerError`] says what is missing.
    pub async fn start(run: Arc<Run>, options: MinerOptions, events: Events, shutdown: Shutdown) -> Result<Self, MinerError> {
        let (found, expected) = (options.dataset.digest(), run.manifest.data.digest);
        if found != expected {
            return Err(MinerError::WrongData { found, expected });
        }
        let home = Home::open(&options.home)?;
        let head = run.chain.head().await?;
        let netuid = run.manifest.chain.netuid;
        let hotkey = options.keypair.hotkey();
        let neurons = run.chain.neurons(netuid, head.number).await?;
        let Some(neuron) = neurons.iter().find(|n| n.hotkey == hotkey) else {
            return Err(MinerError::NotRegistered { hotkey: hotkey.ss58(), netuid });
        };
        run.chain.set_bucket(&options.keypair, netuid, options.bucket.url()).await?;
        let replica = checkpoints::join(&run, &home).await?;
        let model = Llama::new(&run.manifest.model, options.device)?;
        let mut optimizer = InnerOptimizer::new(&model, &run.manifest.inner)?;
        let (error_feedback, pending) = match Durable::load(&home, &run.layout)? {
            Some(saved) => {
                optimizer.import(&saved.optimizer)?;
                (saved.error_feedback, saved.pending)
            }
            None => (ErrorFeedback::zeros(&run.layout), None),
        };
        events.tell(Event::Ready { round: replica.anchor.round, uid: Some(neuron.uid), hotkey: hotkey.ss58() }).await;
        let bucket = options.bucket.join(&run.id.to_string());
        Ok(Self {
            run,
            keypair: options.keypair,
            home,
            bucket,
            dataset: options.dataset,
            strategy: options.strategy,
            replica,
            model,
            optimizer,
            error_feedback,
            pending,
            uploaded: false,
            revealed: false,
            skipped: None,
            watch: Stopwatch::default(),
            events,
            shutdown,
        })
    }

    /// Follows the chain, block by block, until asked to stop.
    ///
    /// # Errors
    /// [`MinerError`], when going on makes no sense.
    pub async fn run(mut self) -> Result<(), MinerError> {
        let mut head = self.run.chain.head().await?.number;
        while !self.shutdown.requested() {
            self.tick(head).await?;
            let chain = self.run.chain.clone();
            head = tokio::select! {
                block = chain.next_block(head) => block?.number,
                () = self.shutdown.wait() => break,
            };
        }
        self.tell_usage().await;
        Ok(())
    }

    async fn tick(&mut self, head: u64) -> Result<(), MinerError> {
        loop {
            match self.advance(head).await? {
                Some(Progress::Stepped(step)) => self.settle(&step).await?,
                Some(Progress::Training(log)) => {
                    self.work(log.plan.close_due()).await?;
                    return Ok(());
                }
                Some(Progress::Closed(_, close)) => return self.reveal(&close).await,
                Some(Progress::Awaiting(..)) | None => return Ok(()),
            }
        }
    }

    /// One look at the log; a diverged replica starts over from genesis and catches up.
    async fn advance(&mut self, head: u64) -> Result<Option<Progress>, MinerError> {
        match self.replica.advance(head, &mut self.watch).await {
            Ok(progress) => Ok(Some(progress)),
            Err(error @ RunError::Diverged { .. }) => {
                self.events.tell(Event::Warning { message: format!("{error}: replaying the log from genesis") }).await;
                self.replica = Replica::genesis(self.run.clone())?;
                Ok(None)
            }
            Err(RunError::Storage(error)) => {
                self.events.tell(Event::Warning { message: format!("{error}; trying again at the next block") }).await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Trains, seals and uploads, whichever of it is left to do in this round.
    async fn work(&mut self, close_due: u64) -> Result<(), MinerError> {
        let round = self.replica.anchor.round;
        self.pending.take_if(|p| p.round != round);
        if self.pending.is_none() && self.skipped != Some(round) {
            self.train_and_seal(close_due).await?;
        }
        if let Some(pending) = self.pending.clone().filter(|_| !self.uploaded) {
            self.upload(&pending).await?;
        }
        Ok(())
    }

    async fn train_and_seal(&mut self, close_due: u64) -> Result<(), MinerError> {
        let round = self.replica.anchor.round;
        let open = self.run.chain.block(self.replica.anchor.open_block).await?;
        let Some(open) = open else { return Ok(()) };
        let stop_at = close_due.saturating_sub(self.run.manifest.round.upload);
        let trained = match self.strategy {
            Strategy::Honest => self.train(&open.hash, stop_at),
            Strategy::Noise => self.pretend(&open.hash),
        };
        let sealed = match trained {
            Ok(Some(trained)) => self.seal(trained).await,
            Ok(None) => {
                self.skipped = (!self.shutdown.requested()).then_some(round);
                Ok(())
            }
            Err(error) => Err(error),
        };
        match sealed {
            Err(error @ (MinerError::Model(ModelError::NonFinite { .. }) | MinerError::Encode(EncodeError::NonFinite(_)))) => {
                self.skipped = Some(round);
                self.events.tell(Event::Warning { message: format!("round {round}: {error}; no payload in this round") }).await;
                Ok(())
            }
            other => other,
        }
    }

    /// Up to H inner steps from the global state. `None` if there was no time for a single one, or on shutdown.
    fn train(&mut self, open: &Digest, stop_at: u64) -> Result<Option<Trained>, MinerError> {
        let (inner, length) = (&self.run.manifest.inner, self.run.manifest.model.sequence_length);
        let round = self.replica.anchor.round;
        let assignment = Assignment::miner(&self.run.id, open, &self.keypair.hotkey(), self.dataset.windows(Split::Train, length));
        let (mut done, mut losses) = (0, 0.0);
        let mut stopped = false;
        self.watch.measure(Phase::Train, || {
            tokio::task::block_in_place(|| {
                self.model.load(self.replica.state.tensors())?;
                while done < inner.steps && !stopped {
                    let indices = assignment.indices(u64::from(done) * u64::from(inner.batch), inner.batch as usize);
                    let windows = indices.into_iter().map(|i| self.dataset.window(Split::Train, i, length));
                    let batch = windows.collect::<Result<Vec<_>, _>>()?;
                    let position = round * u64::from(inner.steps) + u64::from(done);
                    let report = self.optimizer.step_at(&mut self.model, &batch, position)?;
                    done += 1;
                    losses += report.loss;
                    self.events.mention(Event::InnerStep { round, done, of: inner.steps, loss: report.loss });
                    let head = tokio::runtime::Handle::current().block_on(self.run.chain.head())?;
                    stopped = head.number >= stop_at || self.shutdown.requested();
                }
                Ok::<_, MinerError>(())
            })
        })?;
        if self.shutdown.requested() || done == 0 {
            return Ok(None);
        }
        let end = self.model.parameters()?;
        let pairs = self.replica.state.tensors().iter().zip(&end);
        let pseudo_gradient = pairs.map(|(start, end)| start.iter().zip(end).map(|(s, e)| s - e).collect()).collect();
        let sequences = u64::from(done) * u64::from(inner.batch);
        Ok(Some(Trained { pseudo_gradient, sequences, loss: Some(losses / f64::from(done)) }))
    }

    /// What a cheat does instead of training.
    fn pretend(&self, open: &Digest) -> Result<Option<Trained>, MinerError> {
        let inner = &self.run.manifest.inner;
        let lengths = self.run.layout.tensors().iter().map(compression::TensorSpec::len);
        let seed = u64::from_le_bytes(*open.0.first_chunk().unwrap_or(&[1; 8]));
        let lr = inner.lr_at(self.replica.anchor.round * u64::from(inner.steps));
        let pseudo_gradient = strategy::noise(lengths, lr, inner.steps, seed);
        Ok(Some(Trained { pseudo_gradient, sequences: u64::from(inner.steps) * u64::from(inner.batch), loss: None }))
    }

    /// Encodes and seals, and makes everything durable before anything is uploaded.
    async fn seal(&mut self, trained: Trained) -> Result<(), MinerError> {
        let (run, round, hotkey) = (self.run.clone(), self.replica.anchor.round, self.keypair.hotkey());
        let mut key: PayloadKey = [0; 32];
        getrandom::fill(&mut key).map_err(MinerError::Random)?;
        let header = Header { run: run.id.0, round, hotkey: hotkey.0, base_root: self.replica.root.0 };
        let context = SealContext { run: run.id, round, hotkey, base_root: self.replica.root };
        let beta = run.manifest.compression.beta;
        let (payload, sealed) = self.watch.measure(Phase::Compress, || {
            let feedback = &mut self.error_feedback;
            let payload = compression::encode(&run.codec, &run.layout, &header, feedback, &trained.pseudo_gradient, beta)?;
            let sealed = context.seal(&key, &payload);
            Ok::<_, EncodeError>((payload, sealed))
        })?;
        let envelope = Envelope {
            run: run.id,
            round,
            base_root: self.replica.root,
            sealed: Digest::of(&sealed),
            sealed_len: sealed.len() as u64,
            payload: Digest::of(&payload),
            sequences: trained.sequences,
            tokens: trained.sequences * run.manifest.model.sequence_length as u64,
        };
        let tokens = envelope.tokens;
        let envelope = Signed::new(envelope, &self.keypair).to_bytes().to_vec();
        self.pending = Some(Pending { round, key: key.to_vec(), envelope, payload });
        (self.uploaded, self.revealed) = (false, false);
        self.save()?;
        self.events.tell(Event::Sealed { round, loss: trained.loss, tokens, bytes: sealed.len() as u64 }).await;
        Ok(())
    }

    fn save(&self) -> Result<(), MinerError> {
        let saved =
            Durable { error_feedback: self.error_feedback.clone(), optimizer: self.optimizer.export()?, pending: self.pending.clone() };
        Ok(saved.save(&self.home, &self.run.layout)?)
    }

    /// The sealed payload first, the envelope last: whoever sees the envelope finds the payload.
    async fn upload(&mut self, pending: &Pending) -> Result<(), MinerError> {
        let context = SealContext { run: self.run.id, round: pending.round, hotkey: self.keypair.hotkey(), base_root: self.replica.root };
        let sealed = context.seal(&pending.key(), &pending.payload);
        let put = async {
            self.bucket.put(&ObjectKey::Payload(pending.round), sealed.into()).await?;
            self.bucket.put(&ObjectKey::Envelope(pending.round), pending.envelope.clone().into()).await
        };
        match put.await {
            Ok(()) => self.uploaded = true,
            Err(error) => self.events.tell(Event::Warning { message: format!("upload: {error}; trying again at the next block") }).await,
        }
        Ok(())
    }

    /// Publishes the key if the standing seal list names this miner's envelope.
    async fn reveal(&mut self, close: &Close) -> Result<(), MinerError> {
        let Some(pending) = self.pending.as_ref().filter(|p| p.round == self.replica.anchor.round && !self.revealed) else {
            return Ok(());
        };
        if close.list.value.entries.iter().any(|e| e.envelope == pending.envelope) {
            match self.bucket.put(&ObjectKey::PayloadKey(pending.round), pending.key.clone().into()).await {
                Ok(()) => self.revealed = true,
                Err(error) => self.events.tell(Event::Warning { message: format!("key: {error}; trying again at the next block") }).await,
            }
        }
        Ok(())
    }

    /// After a record: takes an unapplied payload back, and makes the new state durable.
    async fn settle(&mut self, step: &Step) -> Result<(), MinerError> {
        let record = &step.record.value;
        let hotkey = self.keypair.hotkey();
        let applied = record.applied.iter().any(|a| a.hotkey == hotkey);
        if let Some(pending) = self.pending.take_if(|p| p.round == record.round && !applied)
            && self.run.manifest.compression.reabsorb
        {
            if let Ok(payload) = Payload::parse(pending.payload, &self.run.layout, &self.run.codec) {
                let absorbed = self.watch.measure(Phase::Compress, || self.error_feedback.absorb(&payload));
                absorbed.map_err(EncodeError::from)?;
            }
            self.save()?;
        }
        self.home.save_replica(&self.replica)?;
        self.events.tell(step.event()).await;
        self.tell_usage().await;
        Ok(())
    }

    async fn tell_usage(&self) {
        let usage = Event::Usage { up: self.bucket.traffic().up, down: self.run.downloaded(), cpu: self.watch.split() };
        self.events.tell(usage).await;
    }
}

struct Trained {
    pseudo_gradient: Vec<Vec<f32>>,
    sequences: u64,
    /// Mean nats per token, if anything was trained.
    loss: Option<f64>,
}
