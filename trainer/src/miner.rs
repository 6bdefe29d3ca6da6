//! The miner.

use std::{io, panic::resume_unwind, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use checkpoints::{Close, Event, Events, Follower, Identity, Phase, Progress, Role, RoundLog, Run, RunError, Said, Shutdown, Step};
use compression::{EncodeError, ErrorFeedback, Header, Payload};
use dataset::{Dataset, Split};
use futures::{Stream, stream};
use model::{Activations, Devices, ModelError, Ranks};
use protocol::{
    Announcement, Assignment, Digest, Envelope, Hasher, ObjectKey, PayloadKey, SealContext, Signed, round::RoundPlan, sealed_len,
};
use storage::StorageError;
use tokio::sync::oneshot;

use crate::{
    MinerError, Strategy,
    durable::{self, Pending, Writing},
    encoder::Encoder,
    strategy,
};

/// What a miner needs besides the run.
#[derive(Debug)]
pub struct MinerOptions {
    /// Who it is.
    pub identity: Identity,
    /// The run's tokens.
    pub dataset: Arc<Dataset>,
    /// Where to train: each takes its part of every batch.
    pub devices: Devices,
    /// What the backward pass finds and what it computes again.
    pub activations: Activations,
    /// Whether error feedback lies in the host's memory, where GPUs reach it, however much they have of their own.
    pub offload: bool,
    /// What to do.
    pub strategy: Strategy,
}

/// Time between two looks at an upload.
const LOOK: Duration = Duration::from_secs(5);

/// A running miner.
pub struct Miner {
    node: Follower,
    dataset: Arc<Dataset>,
    strategy: Strategy,
    ranks: Ranks,
    encoder: Encoder,
    pending: Option<Pending>,
    /// On their way to the disk: error feedback and payload; moments; θ.
    kept: Writing,
    moments_kept: Writing,
    state_kept: Writing,
    /// Whether the moments are newer than what was last handed to the disk.
    moments_are_new: bool,
    /// Whether the pending payload is uploaded, or never will be.
    uploaded: bool,
    /// Whether its key is published, or never will be.
    revealed: bool,
    /// The round that was tried and gave no payload.
    skipped: Option<u64>,
}

impl Miner {
    /// Restores a miner from its home directory, or starts a new one.
    ///
    /// # Errors
    /// [`MinerError`] says what is missing.
    pub async fn start(run: Arc<Run>, options: MinerOptions, events: Events, shutdown: Shutdown) -> Result<Self, MinerError> {
        run.check_data(options.dataset.digest())?;
        let node = Follower::start(run, options.identity, events, shutdown).await?;
        let manifest = &node.run.manifest;
        let mut ranks = Ranks::new(&manifest.model, &manifest.inner, &options.devices, options.activations)?;
        let (mut encoder, why_host) = Encoder::new(&options.devices, &node.run.format, options.offload)?;
        let mut pending = None;
        if let Some(optimizer) = durable::load_optimizer(&node.home, node.run.layout())? {
            ranks.import(&optimizer)?;
        }
        if let Some(saved) = durable::load(&node.home, node.run.layout())? {
            encoder.load_feedback(saved.error_feedback)?;
            pending = saved.pending;
        }
        node.ready(Some(node.uid)).await;
        if let Some(reason) = why_host {
            node.warn(format!("payloads are encoded on the CPU, which takes longer: {reason}")).await;
        }
        Ok(Self {
            node,
            dataset: options.dataset,
            strategy: options.strategy,
            ranks,
            encoder,
            pending,
            kept: Writing::default(),
            moments_kept: Writing::default(),
            state_kept: Writing::default(),
            moments_are_new: false,
            uploaded: false,
            revealed: false,
            skipped: None,
        })
    }

    /// Follows the chain, block by block, until asked to stop.
    ///
    /// # Errors
    /// [`MinerError`], when going on makes no sense.
    pub async fn run(self) -> Result<(), MinerError> {
        checkpoints::follow(self).await
    }

    /// Trains, seals and uploads, whichever of it is left to do in this round.
    async fn work(&mut self, log: &RoundLog) -> Result<(), MinerError> {
        let round = self.node.round();
        // what is older was applied, or its record was never seen here; what is newer waits for a replica that fell back
        self.pending.take_if(|p| p.round < round);
        if self.pending.is_none() && self.skipped != Some(round) {
            self.train_and_seal(log).await?;
        }
        if self.pending.as_ref().is_some_and(|pending| pending.round == round) && !self.uploaded {
            self.uploaded = self.upload(&log.plan).await?;
        }
        // what is behind the upload is waited for by nobody
        if std::mem::take(&mut self.moments_are_new) {
            self.moments_kept.done().await?;
            let (home, run, optimizer) = (self.node.home.clone(), self.node.run.clone(), self.ranks.export()?);
            self.moments_kept.start(move || Ok(durable::save_optimizer(&home, run.layout(), &optimizer)?)).await?;
        }
        Ok(())
    }

    async fn train_and_seal(&mut self, log: &RoundLog) -> Result<(), MinerError> {
        let me = self.node.hotkey();
        if !log.hotkeys.values().any(|hotkey| *hotkey == me) {
            self.skip("this miner had no uid when the round opened").await;
            return Ok(());
        }
        let open = self.node.run.chain.block(self.node.replica.anchor.open_block).await.map_err(RunError::from)?;
        let Some(open) = open else { return Ok(()) };
        let stop_at = log.plan.close_due().saturating_sub(self.node.run.manifest.round.upload);
        let trained = match self.strategy {
            Strategy::Honest => self.train(&open.hash, stop_at).await,
            Strategy::Noise => self.pretend(&open.hash).map(Some),
        };
        let sealed = match trained {
            Ok(Some(trained)) => self.seal(trained).await,
            Ok(None) if self.node.shutdown.requested() => Ok(()),
            Ok(None) => {
                self.skip("no time is left for an inner step").await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        match sealed {
            Err(error @ MinerError::Model(ModelError::NonFinite { .. })) => {
                self.skip(&error.to_string()).await;
                Ok(())
            }
            Err(error @ MinerError::Encode(EncodeError::NonFinite(_))) => {
                // the host looks before it changes anything
                if !matches!(self.encoder, Encoder::Host(_)) {
                    let kept = durable::load(&self.node.home, self.node.run.layout())?.map(|saved| saved.error_feedback);
                    self.encoder.load_feedback(kept.unwrap_or_else(|| ErrorFeedback::zeros(self.node.run.layout())))?;
                }
                self.skip(&error.to_string()).await;
                Ok(())
            }
            other => other,
        }
    }

    async fn skip(&mut self, why: &str) {
        let round = self.node.round();
        self.skipped = Some(round);
        self.node.warn(format!("round {round}: {why}; no payload in this round")).await;
    }

    /// Up to H inner steps from the global state. `None` if there was no time for a single one, or on shutdown.
    async fn train(&mut self, open: &Digest, stop_at: u64) -> Result<Option<Trained>, MinerError> {
        let Self { node: Follower { run, replica, watch, events, shutdown, keypair, .. }, dataset, ranks, encoder, .. } = self;
        let (inner, length, round) = (&run.manifest.inner, run.manifest.model.sequence_length, replica.anchor.round);
        let assignment = Assignment::miner(&run.id, open, &keypair.hotkey(), dataset.windows(Split::Train, length));
        let stager = ranks.stager();
        let stage = |step: u32| {
            let indices = assignment.indices(u64::from(step) * u64::from(inner.batch), inner.batch as usize);
            let windows = indices.into_iter().map(|i| dataset.window(Split::Train, i, length));
            Ok::<_, MinerError>(stager.stage(&windows.collect::<Result<Vec<_>, _>>()?)?)
        };
        let (mut done, mut losses, mut next) = (0, 0.0, None);
        // a chain that does not answer right now is no reason to throw work away
        let time_is_up = async || shutdown.requested() || run.chain.head().await.is_ok_and(|head| head.number >= stop_at);
        watch.compute(Phase::Train, || {
            ranks.load(replica.state.model())?;
            encoder.begin(ranks)
        })?;
        while done < inner.steps && !time_is_up().await {
            let report = watch.compute(Phase::Train, || {
                let batch = next.take().map_or_else(|| stage(done), Ok)?;
                let position = round * u64::from(inner.steps) + u64::from(done);
                // the next batch is read and copied while this one is computed with
                thread::scope(|scope| {
                    let staging = (done + 1 < inner.steps).then(|| scope.spawn(|| stage(done + 1)));
                    let report = ranks.step_staged(batch, position)?;
                    next = staging.map(|staging| staging.join().unwrap_or_else(|panic| resume_unwind(panic))).transpose()?;
                    Ok::<_, MinerError>(report)
                })
            })?;
            done += 1;
            losses += report.loss;
            events.mention(Event::InnerStep { round, done, of: inner.steps, loss: report.loss });
        }
        if shutdown.requested() || done == 0 {
            return Ok(None);
        }
        let sequences = u64::from(done) * u64::from(inner.batch);
        Ok(Some(Trained { sequences, loss: Some(losses / f64::from(done)) }))
    }

    /// What a cheat does instead of training.
    fn pretend(&mut self, open: &Digest) -> Result<Trained, MinerError> {
        let inner = &self.node.run.manifest.inner;
        let theta = self.node.replica.state.model();
        let seed = u64::from_le_bytes(*open.0.first_chunk().unwrap_or(&[1; 8]));
        let lr = inner.lr_at(self.node.round() * u64::from(inner.steps));
        let mut moved = strategy::noise(theta.iter().map(Vec::len), lr, inner.steps, seed);
        moved.iter_mut().flatten().zip(theta.iter().flatten()).for_each(|(x, theta)| *x = theta - *x);
        self.ranks.load(theta)?;
        self.encoder.begin(&mut self.ranks)?;
        self.ranks.load(&moved)?;
        Ok(Trained { sequences: u64::from(inner.steps) * u64::from(inner.batch), loss: None })
    }

    /// Encodes and seals, and starts to make it durable.
    async fn seal(&mut self, trained: Trained) -> Result<(), MinerError> {
        let (run, round, base_root) = (self.node.run.clone(), self.node.round(), self.node.replica.root);
        let mut key: PayloadKey = [0; 32];
        getrandom::fill(&mut key).map_err(MinerError::Random)?;
        let header = Header { run: run.id.0, round, hotkey: self.node.hotkey().0, base_root: base_root.0 };
        let context = SealContext { run: run.id, round, hotkey: self.node.hotkey(), base_root };
        let beta = run.manifest.compression.beta;
        // what reads the last round's error feedback has to end before that moves on
        self.kept.done().await?;
        let (payload, sealed) = self.node.watch.compute(Phase::Compress, || {
            let payload = self.encoder.encode(&mut self.ranks, self.node.replica.state.model(), &run.format, &header, beta)?;
            let mut sealed = Hasher::default();
            context.segments(&key, &payload).for_each(|segment| sealed.update(&segment));
            Ok::<_, MinerError>((payload, sealed.digest()))
        })?;
        let sealed_len = sealed_len(payload.len() as u64);
        let tokens = trained.sequences * run.manifest.model.sequence_length as u64;
        let envelope = Envelope {
            run: run.id,
            round,
            base_root,
            sealed,
            sealed_len,
            payload: Digest::of(&payload),
            sequences: trained.sequences,
            tokens,
        };
        let envelope = Signed::new(envelope, &self.node.keypair).to_bytes().to_vec();
        self.pending = Some(Pending { round, base_root, key, envelope, payload });
        (self.uploaded, self.revealed, self.moments_are_new) = (false, false, true);
        self.save().await?;
        self.node.events.tell(Event::Sealed { round, loss: trained.loss, tokens, bytes: sealed_len }).await;
        Ok(())
    }

    /// Starts to make error feedback and payload durable.
    async fn save(&mut self) -> Result<(), MinerError> {
        let (home, run, pending) = (self.node.home.clone(), self.node.run.clone(), self.pending.clone());
        let feedback = self.encoder.feedback(&run.format);
        self.kept.start(move || Ok(durable::save(&home, run.layout(), &*feedback()?, pending.as_ref())?)).await
    }

    /// The sealed payload first, the envelope last: whoever sees the envelope finds the payload. The payload's last segment waits until payload, key and
    /// error feedback are durable, so that whatever happens here, the bucket never has a payload that this miner does not know. Whether that is done with.
    async fn upload(&mut self, plan: &RoundPlan) -> Result<bool, MinerError> {
        let Self { node, pending: Some(pending), kept, .. } = self else { return Ok(true) };
        let (run, round, bucket) = (node.run.id, pending.round, &node.bucket);
        let Ok(Signed { value: claim, .. }) = Signed::<Envelope>::parse(&pending.envelope) else {
            node.warn(format!("round {round}: the envelope at home is none; no payload in this round")).await;
            return Ok(true);
        };
        let context = SealContext { run, round, hotkey: node.hotkey(), base_root: pending.base_root };
        let put = async {
            // sealed again as it goes, so that there is no second copy of it
            let segments = context.segments(&pending.key, &pending.payload).map(Bytes::from);
            let (is_durable, durable) = oneshot::channel();
            let written = async { kept.done().await.map(|()| _ = is_durable.send(())) };
            let key = ObjectKey::Payload(round);
            let payload = bucket.upload(&key, claim.sealed_len, claim.sealed, last_after(segments, durable));
            let (written, sent) = futures::join!(written, payload);
            written?;
            Ok::<_, MinerError>(match sent {
                Ok(()) => bucket.put(&ObjectKey::Envelope(round), pending.envelope.clone().into()).await,
                failed => failed,
            })
        };
        let before = bucket.traffic().up;
        tokio::select! {
            put = put => Ok(done_with(node, "upload", put?).await),
            () = too_late(node, plan, claim.sealed_len) => {
                let sent = bucket.traffic().up - before;
                let words = "more uplink, a faster disk, or more blocks for [round] upload, would help";
                node.warn(format!("round {round}: closed when {sent} bytes of {} were up; {words}", claim.sealed_len)).await;
                Ok(false)
            }
        }
    }

    /// Publishes the key if the standing seal list names this miner's envelope.
    async fn reveal(&mut self, close: &Close) {
        let round = self.node.round();
        let Some(pending) = self.pending.as_ref().filter(|p| p.round == round && !self.revealed) else { return };
        if close.list.value.entries.iter().any(|e| e.envelope == pending.envelope) {
            let put = self.node.bucket.put(&ObjectKey::PayloadKey(round), pending.key.to_vec().into()).await;
            self.revealed = done_with(&self.node, "key", put).await;
        }
    }

    /// After a record: takes an unapplied payload back, and makes the new state durable.
    async fn settle(&mut self, step: &Step) -> Result<(), MinerError> {
        let record = &step.record.value;
        let applied = |p: &Pending| record.applied.iter().any(|a| a.payload == Digest::of(&p.payload));
        if let Some(pending) = self.pending.take_if(|p| p.round == record.round && !applied(p)) {
            // what is on its way to the disk must not change
            self.kept.done().await?;
            if self.node.run.manifest.compression.reabsorb
                && let Ok(payload) = Payload::parse(&pending.payload, &self.node.run.format)
            {
                self.node.watch.compute(Phase::Compress, || self.encoder.absorb(&payload))?;
            }
            // before the state that no longer knows of the payload
            self.save().await?;
            self.kept.done().await?;
        }
        let keep = self.node.keeping();
        self.state_kept.start(move || Ok(keep()?)).await?;
        self.node.events.tell(step.event()).await;
        self.node.tell_usage().await;
        Ok(())
    }
}

impl Role for Miner {
    type Error = MinerError;

    fn node(&mut self) -> &mut Follower {
        &mut self.node
    }

    async fn end(&mut self) -> Result<(), MinerError> {
        self.kept.done().await?;
        self.moments_kept.done().await?;
        self.state_kept.done().await
    }

    async fn tick(&mut self) -> Result<(), MinerError> {
        while let Some(progress) = self.node.advance().await? {
            match progress {
                Progress::Stepped(step) => self.settle(&step).await?,
                Progress::Training(log) => return self.work(&log).await,
                Progress::Closed(_, close) => {
                    self.reveal(&close).await;
                    break;
                }
                // if it is passed over, another one may still measure what is revealed in time
                Progress::Pending(_, step) => {
                    self.reveal(&step.close).await;
                    break;
                }
                Progress::Awaiting(_, _, close) => {
                    if let Some(close) = close {
                        self.reveal(&close).await;
                    }
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The segments, of which the last one waits; an error, if what it waits for fails.
fn last_after(segments: impl Iterator<Item = Bytes>, go: oneshot::Receiver<()>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold((segments.peekable(), go), |(mut segments, mut go)| async {
        let segment = segments.next()?;
        let ready = match segments.peek() {
            Some(_) => Ok(()),
            None => (&mut go).await.map_err(|_| io::Error::other("error feedback and payload could not be made durable")),
        };
        Some((ready.map(|()| segment), (segments, go)))
    })
}

/// Tells how far the upload is, from time to time, until whose turn it was has closed the round without it.
async fn too_late(node: &Follower, plan: &RoundPlan, of: u64) {
    let Follower { run, replica, bucket, events, .. } = node;
    let (round, due, before) = (replica.anchor.round, plan.close_due(), bucket.traffic().up);
    let closes = |said: &Said| {
        let listed = matches!(said.what, Announcement::SealList { run: id, round: closed, .. } if id == run.id && closed == round);
        listed && plan.ends_uploads(&said.by, said.block)
    };
    loop {
        tokio::time::sleep(LOOK).await;
        events.mention(Event::Upload { round, sent: bucket.traffic().up - before, of });
        let Some(head) = run.chain.head().await.ok().filter(|head| head.number >= due) else { continue };
        // one that does not stand is followed by another, for which the payload goes up again
        if run.said(due..=head.number).await.is_ok_and(|said| said.iter().any(closes)) {
            return;
        }
    }
}

/// Whether nothing is left to try. A conflict means that a miner with this key wrote here before and lost its home since; the next
/// round's objects do not exist yet.
async fn done_with(node: &Follower, what: &str, put: Result<(), StorageError>) -> bool {
    let (done, then) = match &put {
        Ok(()) => return true,
        Err(StorageError::Conflict { .. }) => (true, "going on in the next round"),
        Err(_) => (false, "trying again at the next block"),
    };
    if let Err(error) = put {
        node.warn(format!("{what}: {error}; {then}")).await;
    }
    done
}

/// What brought the ranks' parameters to where they are.
struct Trained {
    sequences: u64,
    /// Mean nats per token, if anything was trained.
    loss: Option<f64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::{FutureExt, StreamExt};

    use super::*;

    #[tokio::test]
    async fn the_last_segment_waits_for_what_must_be_durable() {
        let segments = || [1u8, 2, 3].into_iter().map(|byte| Bytes::from(vec![byte]));
        let (durable, gate) = oneshot::channel();
        let mut stream = std::pin::pin!(last_after(segments(), gate));
        assert_eq!(stream.next().await.unwrap().unwrap(), [1][..]);
        assert_eq!(stream.next().await.unwrap().unwrap(), [2][..]);
        assert!(stream.next().now_or_never().is_none());
        durable.send(()).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), [3][..]);
        assert!(stream.next().await.is_none());

        let (durable, gate) = oneshot::channel();
        drop(durable);
        let sent: Vec<io::Result<Bytes>> = last_after(segments(), gate).collect().await;
        assert_eq!((sent.len(), sent[2].is_err()), (3, true));
    }
}
