//! What a role tells whoever runs it: typed events over a bounded channel, and where its CPU time went.

use std::time::Duration;

use cpu_time::ProcessTime;
use protocol::{Digest, score::MinerScore};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;

/// What a node spends CPU time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Inner steps.
    Train,
    /// Error feedback, selection, quantization, sealing.
    Compress,
    /// Measuring losses.
    Judge,
    /// Decoding, merging, outer step.
    Step,
    /// State roots.
    Hash,
}

/// CPU seconds by phase; `exchange` is everything else: start-up, storage, chain, signatures, waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Inner steps.
    pub train: f64,
    /// Compression and sealing.
    pub compress: f64,
    /// Everything not named here.
    pub exchange: f64,
    /// Measuring losses.
    pub judge: f64,
    /// Decoding, merging, outer step.
    pub step: f64,
    /// State roots.
    pub hash: f64,
}

impl Split {
    /// CPU seconds in all.
    pub fn total(&self) -> f64 {
        self.train + self.compress + self.exchange + self.judge + self.step + self.hash
    }

    /// The sum of two processes' splits.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            train: self.train + other.train,
            compress: self.compress + other.compress,
            exchange: self.exchange + other.exchange,
            judge: self.judge + other.judge,
            step: self.step + other.step,
            hash: self.hash + other.hash,
        }
    }
}

/// Measures a process's CPU time by phase. Phases do not overlap within a process; what a miner writes behind its back counts to the phase that runs
/// meanwhile.
#[derive(Debug)]
pub struct Stopwatch {
    start: ProcessTime,
    split: Split,
}

impl Default for Stopwatch {
    fn default() -> Self {
        Self { start: ProcessTime::now(), split: Split::default() }
    }
}

impl Stopwatch {
    /// Runs `work` and books its CPU time under `phase`.
    pub fn measure<T>(&mut self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let before = ProcessTime::now();
        let result = work();
        self.book(phase, before.elapsed());
        result
    }

    /// As [`Self::measure`], for work that keeps a core busy for long: the runtime's other tasks go on, if it has other threads.
    pub fn compute<T>(&mut self, phase: Phase, work: impl FnOnce() -> T) -> T {
        match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => self.measure(phase, work),
            _ => self.measure(phase, || tokio::task::block_in_place(work)),
        }
    }

    /// Books CPU time that was measured elsewhere.
    pub fn book(&mut self, phase: Phase, time: Duration) {
        let seconds = time.as_secs_f64();
        match phase {
            Phase::Train => self.split.train += seconds,
            Phase::Compress => self.split.compress += seconds,
            Phase::Judge => self.split.judge += seconds,
            Phase::Step => self.split.step += seconds,
            Phase::Hash => self.split.hash += seconds,
        }
    }

    /// The split so far; what no phase booked is exchange.
    pub fn split(&self) -> Split {
        // what ran before the stopwatch started, loading libraries above all, counts too
        let total = self.start.elapsed().as_secs_f64() + self.start.as_duration().as_secs_f64();
        Split { exchange: (total - self.split.total()).max(0.0), ..self.split }
    }
}

/// Something a role did or saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The role is up and stands at this round.
    Ready {
        /// The round.
        round: u64,
        /// Its uid, if registered.
        uid: Option<u16>,
        /// Its address.
        hotkey: String,
    },
    /// An inner step is done.
    InnerStep {
        /// The round.
        round: u64,
        /// Inner steps done in this round.
        done: u32,
        /// Inner steps in a round.
        of: u32,
        /// Mean loss in nats per token.
        loss: f64,
    },
    /// A payload is on its way up, and takes a while.
    Upload {
        /// The round.
        round: u64,
        /// Bytes sent, repeated ones included.
        sent: u64,
        /// Bytes to be sent.
        of: u64,
    },
    /// A payload is sealed; its upload follows.
    Sealed {
        /// The round.
        round: u64,
        /// Mean training loss of the round, in nats per token, if anything was trained.
        loss: Option<f64>,
        /// Tokens trained.
        tokens: u64,
        /// Bytes of the sealed payload.
        bytes: u64,
    },
    /// A seal list was committed.
    Closed {
        /// The round.
        round: u64,
        /// Envelopes in it.
        listed: usize,
    },
    /// A payload was measured or refused.
    Judged {
        /// The round.
        round: u64,
        /// The miner.
        uid: u16,
        /// What was found, in words.
        verdict: String,
        /// Gain on random data in nats per token, if measured.
        gain: Option<f64>,
    },
    /// A record stands and was applied.
    Stepped {
        /// The round applied.
        round: u64,
        /// The root after.
        root: Digest,
        /// Uids applied.
        applied: Vec<u16>,
        /// Uids listed and not applied.
        left_out: Vec<u16>,
    },
    /// Every miner's scores after a round.
    Scores {
        /// The round.
        round: u64,
        /// By uid.
        scores: Vec<MinerScore>,
    },
    /// This validator contradicts the record's testimony.
    Dissent {
        /// The round.
        round: u64,
        /// The miner.
        uid: u16,
        /// Why.
        reason: String,
    },
    /// Loss on text that no miner is ever assigned.
    HeldOut {
        /// The state's round.
        round: u64,
        /// Bits per byte.
        bits_per_byte: f64,
    },
    /// Weights went to the chain.
    Weights {
        /// (uid, weight), the largest 65,535.
        weights: Vec<(u16, u16)>,
    },
    /// A snapshot or bundle was published.
    Published {
        /// The round.
        round: u64,
        /// What.
        what: String,
        /// Its bytes.
        bytes: u64,
    },
    /// The own bucket let go of what the manifest's retention does not keep.
    Freed {
        /// The round to come.
        round: u64,
        /// Objects deleted.
        objects: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Bytes moved and CPU seconds spent so far.
    Usage {
        /// Bytes uploaded.
        up: u64,
        /// Bytes downloaded.
        down: u64,
        /// CPU seconds by phase.
        cpu: Split,
    },
    /// Something went wrong and was survived.
    Warning {
        /// What, where, what happens now.
        message: String,
    },
}

/// Where a role's events go. Bounded; a full channel makes the role wait, a closed one is ignored.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Event>);

impl Events {
    /// A channel of events, holding at most 1,024.
    pub fn channel() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(1024);
        (Self(sender), receiver)
    }

    /// Tells `event`.
    pub async fn tell(&self, event: Event) {
        let _ = self.0.send(event).await;
    }

    /// Tells `event` unless the channel is full: for progress that nobody misses.
    pub fn mention(&self, event: Event) {
        let _ = self.0.try_send(event);
    }
}
