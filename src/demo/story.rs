//! What happened so far, round by round: the demo's memory between events, and between runs.

use std::{collections::BTreeMap, fs, io, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use checkpoints::{Event, Split, write_durably};
use protocol::{Digest, score::MinerScore};
use serde::{Deserialize, Serialize};

use super::setup::Lab;

/// One round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// The demo so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Story {
    /// By round.
    pub rounds: BTreeMap<u64, Round>,
    /// Held-out bits per byte before the first round.
    pub start: Option<f64>,
    /// The newest scores, by uid.
    pub scores: Vec<MinerScore>,
    /// The newest weights set by any validator.
    pub weights: Vec<(u16, u16)>,
    /// By node, before this start.
    earlier: BTreeMap<usize, Usage>,
    /// By node, since this start.
    #[serde(skip)]
    current: BTreeMap<usize, Usage>,
    #[serde(skip)]
    clock: Option<Instant>,
    seconds: f64,
}

impl Story {
    /// The story of an earlier start, or an empty one.
    pub fn load(lab: &Lab) -> Result<Self> {
        let path = path(lab);
        let mut story: Self = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        story.clock = Some(Instant::now());
        Ok(story)
    }

    /// Keeps the story for `--resume`.
    pub fn save(&mut self, lab: &Lab) -> Result<()> {
        self.seconds = self.seconds();
        self.clock = Some(Instant::now());
        for (node, usage) in std::mem::take(&mut self.current) {
            let sum = self.earlier.entry(node).or_default().plus(&usage);
            self.earlier.insert(node, sum);
        }
        let path = path(lab);
        write_durably(&path, &serde_json::to_vec(self)?).with_context(|| path.display().to_string())
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
        self.seconds + self.clock.map_or(0.0, |c| c.elapsed().as_secs_f64())
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

    /// Takes in an event of a node.
    pub fn hear(&mut self, node: usize, event: &Event) {
        let seconds = self.seconds();
        match event {
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

fn path(lab: &Lab) -> PathBuf {
    lab.dir.join("story.json")
}
