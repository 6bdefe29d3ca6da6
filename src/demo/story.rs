//! What happened so far, round by round: the demo's memory between events, and between runs.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    time::Instant,
};

use anyhow::{Context as _, Result};
use checkpoints::{Event, Split};
use protocol::{Digest, score::MinerScore};
use serde::{Deserialize, Serialize};

use super::setup::Lab;

/// One round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// Mean training loss of the honest miners, in nats per token.
    pub train: Vec<f64>,
    /// Held-out bits per byte after the round.
    pub held_out: Option<f64>,
    /// Uids applied.
    pub applied: Vec<u16>,
    /// Uids listed and not applied.
    pub left_out: Vec<u16>,
    /// Tokens trained.
    pub tokens: u64,
    /// Root after the round.
    pub root: Option<Digest>,
    /// Seconds since the demo began.
    pub seconds: f64,
}

/// Bytes and CPU seconds of one node, over all its starts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Bytes uploaded.
    pub up: u64,
    /// Bytes downloaded.
    pub down: u64,
    /// CPU seconds by phase.
    pub cpu: Split,
}

impl Usage {
    fn plus(&self, other: &Self) -> Self {
        Self { up: self.up + other.up, down: self.down + other.down, cpu: self.cpu.plus(&other.cpu) }
    }
}

/// What a node said, and when: a line of the run's log.
#[derive(Debug, Serialize, Deserialize)]
struct Line<E> {
    /// Seconds of running, earlier starts included.
    seconds: f64,
    node: usize,
    #[serde(flatten)]
    event: E,
}

/// The demo so far: what follows from its log, `events.jsonl`.
pub struct Story {
    /// By round.
    pub rounds: BTreeMap<u64, Round>,
    /// Held-out bits per byte before the first round.
    pub start: Option<f64>,
    /// The newest scores, by uid.
    pub scores: Vec<MinerScore>,
    /// The newest weights set by any validator.
    pub weights: Vec<(u16, u16)>,
    /// By node, before its newest start.
    earlier: BTreeMap<usize, Usage>,
    /// By node, since its newest start.
    current: BTreeMap<usize, Usage>,
    log: File,
    clock: Instant,
    /// Seconds of running before the clock was started.
    seconds: f64,
}

impl Story {
    /// Reads the log of earlier starts, if there is one, and goes on with it. A last line that was cut off is passed over.
    pub fn open(lab: &Lab) -> Result<Self> {
        let path = lab.events();
        let context = || path.display().to_string();
        let log = File::options().create(true).append(true).read(true).open(&path).with_context(context)?;
        let mut text = String::new();
        (&log).read_to_string(&mut text).with_context(context)?;
        let mut story = Self {
            rounds: BTreeMap::new(),
            start: None,
            scores: Vec::new(),
            weights: Vec::new(),
            earlier: BTreeMap::new(),
            current: BTreeMap::new(),
            log,
            clock: Instant::now(),
            seconds: 0.0,
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        story.log.set_len(whole as u64).with_context(context)?;
        for (number, line) in text[..whole].lines().enumerate() {
            let line: Line<Event> = serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), number + 1))?;
            story.seconds = line.seconds;
            story.take(line.seconds, line.node, &line.event);
        }
        Ok(story)
    }

    /// The first round without a record.
    pub fn next_round(&self) -> u64 {
        self.rounds.iter().rev().find(|(_, r)| r.root.is_some()).map_or(0, |(round, _)| round + 1)
    }

    /// Whether `rounds` rounds are recorded and the last one's held-out loss is known, or will never be.
    pub fn told(&self, rounds: u64) -> bool {
        let measured = |round: u64| self.rounds.get(&round).is_some_and(|r| r.held_out.is_some());
        self.next_round() > rounds || (self.next_round() == rounds && rounds.checked_sub(1).is_none_or(measured))
    }

    /// Seconds of running, earlier starts included.
    pub fn seconds(&self) -> f64 {
        self.seconds + self.clock.elapsed().as_secs_f64()
    }

    /// A node's bytes and CPU time so far.
    pub fn usage(&self, node: usize) -> Usage {
        let earlier = self.earlier.get(&node).copied().unwrap_or_default();
        earlier.plus(&self.current.get(&node).copied().unwrap_or_default())
    }

    /// CPU seconds of all nodes.
    pub fn cpu(&self) -> Split {
        let nodes = self.earlier.keys().chain(self.current.keys()).collect::<std::collections::BTreeSet<_>>();
        nodes.into_iter().fold(Split::default(), |sum, node| sum.plus(&self.usage(*node).cpu))
    }

    /// The newest held-out loss.
    pub fn held_out(&self) -> Option<f64> {
        self.rounds.values().rev().find_map(|r| r.held_out).or(self.start)
    }

    /// The newest mean training loss, in nats per token.
    pub fn train(&self) -> Option<f64> {
        self.rounds.values().rev().find(|r| !r.train.is_empty()).map(|r| mean(&r.train))
    }

    /// Takes in an event of a node, and writes it to the log unless it is mere progress.
    ///
    /// # Errors
    /// If the log cannot be written, for a full disk above all.
    pub fn hear(&mut self, node: usize, event: &Event) -> Result<()> {
        let seconds = self.seconds();
        if !matches!(event, Event::InnerStep { .. } | Event::Upload { .. }) {
            let mut line = serde_json::to_vec(&Line { seconds, node, event })?;
            line.push(b'\n');
            self.log.write_all(&line).context("the run's log")?;
        }
        self.take(seconds, node, event);
        Ok(())
    }

    fn take(&mut self, seconds: f64, node: usize, event: &Event) {
        match event {
            // a process that starts counts its bytes and seconds from zero
            Event::Ready { .. } => {
                let ended = self.current.remove(&node).unwrap_or_default();
                let sum = self.earlier.entry(node).or_default().plus(&ended);
                self.earlier.insert(node, sum);
            }
            Event::Sealed { round, loss: Some(loss), tokens, .. } => {
                let entry = self.rounds.entry(*round).or_default();
                entry.train.push(*loss);
                entry.tokens += tokens;
            }
            Event::Stepped { round, root, applied, left_out } => {
                let entry = self.rounds.entry(*round).or_default();
                if entry.root.is_none() {
                    (entry.root, entry.seconds) = (Some(*root), seconds);
                    (entry.applied, entry.left_out) = (applied.clone(), left_out.clone());
                }
            }
            Event::HeldOut { round: 0, bits_per_byte } => self.start = Some(*bits_per_byte),
            Event::HeldOut { round, bits_per_byte } => self.rounds.entry(round - 1).or_default().held_out = Some(*bits_per_byte),
            Event::Scores { scores, .. } => self.scores.clone_from(scores),
            Event::Weights { weights } => self.weights.clone_from(weights),
            Event::Usage { up, down, cpu } => {
                self.current.insert(node, Usage { up: *up, down: *down, cpu: *cpu });
            }
            _ => {}
        }
    }
}

/// Arithmetic mean.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
