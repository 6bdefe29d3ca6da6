//! What a strategy is: from a round's view of the world to what goes into a bucket.

use std::sync::Arc;

use checkpoints::Run;
use compression::{ErrorFeedback, Header, Payload};
use dataset::{Dataset, Split};
use model::{InnerOptimizer, Llama};
use protocol::{Assignment, Digest, Envelope, Hotkey, SealContext};

use crate::{ArenaError, random::Random};

/// A pseudo-gradient, or anything of its shape: one vector per tensor in layout order.
pub type Gradient = Vec<Vec<f32>>;
/// Sequences of one inner step.
pub type Batch = Vec<Vec<u32>>;

/// What a miner does with its rounds. Class-mates may share state, since all miners of a bout live on one thread.
pub trait Strategy {
    /// How reports call it.
    fn name(&self) -> String;

    /// Whether it acts after those that do not, and so finds their uploads of the round.
    fn waits(&self) -> bool {
        false
    }

    /// What it uploads in this round, if anything.
    ///
    /// # Errors
    /// Training that is not finite costs the miner the round; anything else ends the bout.
    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError>;
}

/// What a miner puts into its bucket, and when. Made by [`Turn::submit`], for the strategy to change.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The envelope, signed on upload.
    pub envelope: Envelope,
    /// The sealed payload.
    pub sealed: Vec<u8>,
    /// What is published as its key.
    pub key: Key,
    /// Blocks after the close at which the key is published.
    pub delay: u64,
    /// Whether everything is uploaded only after the close.
    pub late: bool,
    /// The payload that the key opens, if it is one.
    pub opened: Vec<u8>,
}

/// What is published as a payload's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// These bytes.
    Publish(Vec<u8>),
    /// What that miner publishes.
    CopyOf(u16),
    /// Nothing.
    Withhold,
}

/// A payload of an earlier round that anybody can open.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Whose.
    pub uid: u16,
    /// What.
    pub payload: Payload,
    /// Whether the record applied it.
    pub applied: bool,
}

/// An upload of the current round that anybody can read and nobody can open.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// Whose.
    pub uid: u16,
    /// Its envelope.
    pub envelope: Envelope,
    /// The sealed payload.
    pub sealed: Vec<u8>,
}

/// A round as every miner sees it.
pub(crate) struct View<'a> {
    pub run: &'a Arc<Run>,
    pub round: u64,
    pub root: Digest,
    /// Hash of the round's open block.
    pub open: Digest,
    /// The model's tensors at the round's start.
    pub base: &'a [Vec<f32>],
    /// The payloads of each earlier round that were opened.
    pub history: &'a [Vec<Opened>],
    /// Uploads so far.
    pub sealed: &'a [Sighting],
}

/// What all miners of a bout share: one model that each trains in turn.
pub(crate) struct Bench {
    pub dataset: Arc<Dataset>,
    pub model: Llama,
    pub seconds: Seconds,
}

/// Wall-clock seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Seconds {
    /// Inner steps.
    pub train: f64,
    /// Error feedback, selection, quantization, sealing, and whatever else strategies do.
    pub craft: f64,
    /// Uploads of the miners.
    pub upload: f64,
    /// Following the log: chain reads, payloads, outer steps.
    pub follow: f64,
    /// Waiting for blocks, that is, for the validators.
    pub wait: f64,
    /// Held-out losses.
    pub measure: f64,
    /// All of the bout.
    pub total: f64,
}

/// What a miner keeps from round to round.
pub(crate) struct Kit {
    pub uid: u16,
    pub hotkey: Hotkey,
    pub optimizer: InnerOptimizer,
    pub feedback: ErrorFeedback,
    /// The payload made of the own error feedback in this round.
    pub sent: Option<Vec<u8>>,
    pub random: Random,
}

/// A strategy's hands: all that a miner can do in one round.
pub struct Turn<'a> {
    pub(crate) view: &'a View<'a>,
    pub(crate) bench: &'a mut Bench,
    pub(crate) kit: &'a mut Kit,
}

impl Turn<'_> {
    /// The round.
    pub fn round(&self) -> u64 {
        self.view.round
    }

    /// The miner.
    pub fn uid(&self) -> u16 {
        self.kit.uid
    }

    /// The run's manifest and format.
    pub fn run(&self) -> &Run {
        self.view.run
    }

    /// Sequences of a full round's work.
    pub fn full(&self) -> u64 {
        let inner = &self.view.run.manifest.inner;
        u64::from(inner.steps) * u64::from(inner.batch)
    }

    /// The miner's own random numbers.
    pub fn random(&mut self) -> &mut Random {
        &mut self.kit.random
    }

    /// The payloads of the round before that were opened.
    pub fn before(&self) -> &[Opened] {
        self.view.history.last().map_or(&[], Vec::as_slice)
    }

    /// What other miners uploaded in this round so far; to be found by strategies that [wait](Strategy::waits).
    pub fn sealed(&self) -> &[Sighting] {
        self.view.sealed
    }

    /// Training sequences that the miner is assigned, from place `from` on.
    ///
    /// # Errors
    /// If the data set fails.
    pub fn assigned(&self, from: u64, count: usize) -> Result<Batch, ArenaError> {
        let all = self.sequences(Split::Train);
        let indices = Assignment::miner(&self.view.run.id, &self.view.open, &self.kit.hotkey, all).indices(from, count);
        self.windows(Split::Train, &indices)
    }

    /// How many sequences a split has.
    pub fn sequences(&self, split: Split) -> u64 {
        self.bench.dataset.windows(split, self.length())
    }

    /// Sequences by their indices.
    ///
    /// # Errors
    /// If there is no such sequence.
    pub fn windows(&self, split: Split, indices: &[u64]) -> Result<Batch, ArenaError> {
        let window = |&index| self.bench.dataset.window(split, index, self.length());
        Ok(indices.iter().map(window).collect::<Result<_, _>>()?)
    }

    /// The first `share` of a round's inner steps, at least one, on the assigned sequences: what an honest miner does at 1.
    ///
    /// # Errors
    /// If training fails.
    pub fn work(&mut self, share: f64) -> Result<Gradient, ArenaError> {
        let batches = self.honest(share)?;
        self.train(&batches)
    }

    /// The batches of the first `share` of a round's inner steps.
    ///
    /// # Errors
    /// If the data set fails.
    pub fn honest(&self, share: f64) -> Result<Vec<Batch>, ArenaError> {
        let inner = &self.view.run.manifest.inner;
        let steps = ((f64::from(inner.steps) * share).round() as u64).max(1);
        let batch = u64::from(inner.batch);
        (0..steps).map(|step| self.assigned(step * batch, inner.batch as usize)).collect()
    }

    /// An inner step on each batch from the round's base state, with the miner's own moments.
    ///
    /// # Errors
    /// If training fails.
    pub fn train(&mut self, batches: &[Batch]) -> Result<Gradient, ArenaError> {
        train(self.view, self.bench, &mut self.kit.optimizer, batches)
    }

    /// The same with moments that are kept elsewhere.
    ///
    /// # Errors
    /// If training fails.
    pub fn train_apart(&mut self, optimizer: &mut InnerOptimizer, batches: &[Batch]) -> Result<Gradient, ArenaError> {
        train(self.view, self.bench, optimizer, batches)
    }

    /// An optimizer whose moments are zero.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn optimizer(&self) -> Result<InnerOptimizer, ArenaError> {
        Ok(InnerOptimizer::new(&self.bench.model, &self.view.run.manifest.inner)?)
    }

    /// Encodes as an honest miner does, through the own error feedback. What no record applies goes back into it.
    ///
    /// # Errors
    /// If the sum with the error feedback is not finite.
    pub fn encode(&mut self, gradient: &Gradient) -> Result<Vec<u8>, ArenaError> {
        let header = self.header();
        let Kit { feedback, sent, .. } = &mut *self.kit;
        let run = self.view.run;
        let payload = compression::encode(&run.format, &header, feedback, gradient, run.manifest.compression.beta)?;
        *sent = Some(payload.clone());
        Ok(payload)
    }

    /// Encodes under the own header without any error feedback.
    ///
    /// # Errors
    /// If the gradient is not finite.
    pub fn encode_alone(&self, gradient: &Gradient) -> Result<Vec<u8>, ArenaError> {
        let format = &self.view.run.format;
        let mut none = ErrorFeedback::zeros(format.layout());
        Ok(compression::encode(format, &self.header(), &mut none, gradient, 0.0)?)
    }

    /// Zeros in the model's shape.
    pub fn zeros(&self) -> Gradient {
        self.view.base.iter().map(|tensor| vec![0.0; tensor.len()]).collect()
    }

    /// `payload`, sealed under a fresh key and claimed as work on the first `sequences` of the assignment; uploaded in time, its key
    /// published after the close.
    pub fn submit(&mut self, payload: Vec<u8>, sequences: u64) -> Submission {
        let key = self.kit.random.key();
        let (run, round, base_root) = (self.view.run.id, self.view.round, self.view.root);
        let sealed = SealContext { run, round, hotkey: self.kit.hotkey, base_root }.seal(&key, &payload);
        let envelope = Envelope {
            run,
            round,
            base_root,
            sealed: Digest::of(&sealed),
            sealed_len: sealed.len() as u64,
            payload: Digest::of(&payload),
            sequences,
            tokens: sequences * self.length() as u64,
        };
        Submission { envelope, sealed, key: Key::Publish(key.to_vec()), delay: 0, late: false, opened: payload }
    }

    /// [`Turn::encode`] and [`Turn::submit`], claiming a full round's work.
    ///
    /// # Errors
    /// As [`Turn::encode`].
    pub fn send(&mut self, gradient: &Gradient) -> Result<Option<Submission>, ArenaError> {
        let payload = self.encode(gradient)?;
        let full = self.full();
        Ok(Some(self.submit(payload, full)))
    }

    /// [`Turn::encode_alone`] and [`Turn::submit`], claiming a full round's work.
    ///
    /// # Errors
    /// As [`Turn::encode_alone`].
    pub fn send_alone(&mut self, gradient: &Gradient) -> Result<Option<Submission>, ArenaError> {
        let payload = self.encode_alone(gradient)?;
        let full = self.full();
        Ok(Some(self.submit(payload, full)))
    }

    fn header(&self) -> Header {
        let View { run, round, root, .. } = self.view;
        Header { run: run.id.0, round: *round, hotkey: self.kit.hotkey.0, base_root: root.0 }
    }

    fn length(&self) -> usize {
        self.view.run.manifest.model.sequence_length
    }
}

fn train(view: &View<'_>, bench: &mut Bench, optimizer: &mut InnerOptimizer, batches: &[Batch]) -> Result<Gradient, ArenaError> {
    let start = std::time::Instant::now();
    let Bench { model, .. } = bench;
    model.load(view.base)?;
    let first = view.round * u64::from(view.run.manifest.inner.steps);
    for (batch, position) in batches.iter().zip(first..) {
        optimizer.step_at(model, batch, position)?;
    }
    let end = model.parameters()?;
    let difference = |(start, end): (&Vec<f32>, &Vec<f32>)| start.iter().zip(end).map(|(s, e)| s - e).collect();
    let gradient = view.base.iter().zip(&end).map(difference).collect();
    bench.seconds.train += start.elapsed().as_secs_f64();
    Ok(gradient)
}
