//! The timeline of one round, term by term, from what a manifest says and a link carries. Pure: no clock, no I/O.

use protocol::{JudgeMode, Manifest};
use serde::Serialize;

use super::link::{Bound, Link, Transfer};
use crate::check::{BLOCK_SECONDS, Costs};

/// Payloads that a node fetches at a time.
pub const PAYLOADS_AT_ONCE: u64 = checkpoints::PAYLOADS_AT_ONCE as u64;
/// Bytes per second on one core (docs/compression.md): f32 encoded, θ merged with 20 payloads, hashed; and payload bytes jointly coded into
/// a bundle (docs/network.md).
const ENCODE: f64 = 3.77e9;
const MERGE: f64 = 8.7e9;
const HASH: f64 = 5.9e9;
const BUNDLE: f64 = 5.0e6;
/// What all cores together get through, bound by memory.
const MEMORY: f64 = 100e9;
/// A forward pass costs a third of a training step on the same tokens.
const FORWARD: f64 = 3.0;

/// A node beside its link.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Of its CPU.
    pub cores: f64,
    /// Bytes per second that its disk takes.
    pub disk: f64,
    /// Tokens per second that it trains on; by default what the manifest's time needs.
    pub tokens_per_second: Option<f64>,
    /// Blocks after which what was said in a block is read from the chain.
    pub finality: u64,
}

/// One term of a round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Term {
    /// Its name.
    pub name: &'static str,
    /// Who does it.
    pub who: &'static str,
    /// What goes over the link.
    pub bytes: u64,
    /// When it starts, in seconds from the round's start.
    pub start: f64,
    /// How long it takes.
    pub seconds: f64,
    /// What it is bound by.
    pub bound: &'static str,
}

impl Term {
    /// When it ends.
    pub fn end(&self) -> f64 {
        self.start + self.seconds
    }
}

/// A round from the record before to the next inner step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeline {
    /// In order; with the payloads fetched one by one, or as the aggregator's bundle.
    pub terms: Vec<Term>,
    /// Seconds of inner steps.
    pub training: f64,
    /// Seconds from round to round.
    pub total: f64,
}

/// How a miner comes by the record's payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From their owners, while the votes are cast.
    Raw,
    /// As a bundle, published when the record stands.
    Bundle,
}

impl Timeline {
    /// The share of the time that is spent on inner steps.
    pub fn utilization(&self) -> f64 {
        self.training / self.total
    }

    /// The same if a miner trains on for `tau` of `steps` inner steps while the exchange runs.
    pub fn utilization_with(&self, tau: u32, steps: u32) -> f64 {
        let hidden = (self.training * f64::from(tau) / f64::from(steps)).min(self.total - self.training);
        self.training / (self.total - hidden)
    }

    /// The inner steps that fill the exchange.
    pub fn steps_to_hide(&self, steps: u32) -> u32 {
        ((self.total - self.training) / self.training * f64::from(steps)).ceil() as u32
    }

    /// The term that takes longest of those that are not training.
    pub fn longest(&self) -> Option<&Term> {
        self.terms.iter().skip(1).max_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }

    /// What a miner does from its last inner step to the close: it must be done by then.
    pub fn sealing(&self) -> impl Iterator<Item = &Term> {
        let before = self.terms.iter().take_while(|term| term.name != "list");
        before.filter(|term| term.who == "miner" && term.name != "train")
    }

    /// What a miner does from the record to its first inner step of the next round, of whose training time it is a part.
    pub fn applying(&self) -> impl Iterator<Item = &Term> {
        let after = self.terms.iter().skip_while(|term| term.name != "record");
        after.filter(|term| term.who == "miner")
    }

    /// A term by its name.
    pub fn term(&self, name: &str) -> Option<&Term> {
        self.terms.iter().find(|term| term.name == name)
    }
}

/// Puts terms one after the other.
struct Clock {
    now: f64,
    finality: u64,
    terms: Vec<Term>,
}

impl Clock {
    fn spend(&mut self, name: &'static str, who: &'static str, seconds: f64, bound: &'static str) {
        self.terms.push(Term { name, who, bytes: 0, start: self.now, seconds, bound });
        self.now += seconds;
    }

    fn transfer(&mut self, name: &'static str, who: &'static str, transfer: Transfer) {
        let Transfer { bytes, seconds, bound, .. } = transfer;
        let bound = if bound == Bound::Link { "link" } else { "connections" };
        self.terms.push(Term { name, who, bytes, start: self.now, seconds, bound });
        self.now += seconds;
    }

    /// Some round trips, and then what is said there is included in the next block and read once that is final.
    fn chain(&mut self, name: &'static str, who: &'static str, round_trips: f64) {
        let end = block_after(self.now + round_trips) + (self.finality - 1) as f64 * BLOCK_SECONDS as f64;
        self.spend(name, who, end - self.now, "chain");
    }

    /// What is left of writing, if it takes until then.
    fn written(&mut self, until: f64) {
        if until > self.now {
            self.spend("keep", "miner", until - self.now, "disk");
        }
    }

    fn wait(&mut self, until: f64, bound: &'static str) {
        if until > self.now {
            self.spend("wait", "all", until - self.now, bound);
        }
    }
}

/// The end of the block that an instant lies in.
fn block_after(instant: f64) -> f64 {
    ((instant / BLOCK_SECONDS as f64).floor() + 1.0) * BLOCK_SECONDS as f64
}

/// Bytes per second on all cores.
fn cores(node: &Node, one: f64) -> f64 {
    (one * node.cores).min(MEMORY)
}

/// Seconds of inner steps in a round: all of them, or as many as the clock allows.
pub fn training_seconds(costs: &Costs, node: &Node) -> f64 {
    let allowed = costs.training_seconds as f64;
    node.tokens_per_second.map_or(allowed, |rate| (costs.tokens_per_miner as f64 / rate).min(allowed))
}

/// Seconds of measuring a round's payloads: forward passes only.
pub fn judge_seconds(manifest: &Manifest, costs: &Costs, node: &Node) -> f64 {
    let judge = &manifest.judge;
    let measured = if judge.mode == JudgeMode::All { costs.peers } else { costs.peers.min(u64::from(judge.sample)) };
    let sequences = u64::from(judge.random) + measured * u64::from(2 * judge.assigned + judge.random);
    let tokens = (sequences * manifest.model.sequence_length as u64) as f64;
    let training = node.tokens_per_second.unwrap_or(costs.tokens_per_miner as f64 / costs.training_seconds as f64);
    tokens / (FORWARD * training)
}

/// The timeline of a round whose nodes all have this link.
pub fn timeline(manifest: &Manifest, costs: &Costs, link: &Link, node: &Node, source: Source) -> Timeline {
    let mut clock = Clock { now: 0.0, finality: node.finality, terms: Vec::new() };
    let training = training_seconds(costs, node);
    clock.spend("train", "miner", training, "device");
    seal(&mut clock, manifest, costs, link, node);
    clock.chain("list", "lead", 3.0 * link.rtt);
    // validators look for keys at each block
    let shown = block_after(clock.now + 3.0 * link.rtt);
    clock.spend("reveal", "miner", shown - clock.now, "chain");
    clock.transfer("fetch", "validator", link.down(costs.peers, costs.up_bytes_per_round, PAYLOADS_AT_ONCE));
    clock.spend("judge", "validator", judge_seconds(manifest, costs, node), "device");
    clock.chain("record", "lead", 4.0 * link.rtt);
    apply(&mut clock, costs, link, node, source);
    let theta = 4.0 * costs.parameters as f64;
    let merge = cores(node, MERGE) * 20.0 / costs.peers as f64;
    clock.spend("step", "miner", theta / merge.min(MEMORY), "cores");
    clock.spend("hash", "miner", theta / cores(node, HASH), "cores");
    // θ and the moments go to the disk beside all this
    clock.written((4.0 * theta + costs.payload_bytes as f64) / node.disk);
    Timeline { total: clock.now, terms: clock.terms, training }
}

/// From the cut to the close: encoding, then the upload while error feedback and payload are made durable.
fn seal(clock: &mut Clock, manifest: &Manifest, costs: &Costs, link: &Link, node: &Node) {
    let theta = 4.0 * costs.parameters as f64;
    clock.spend("seal", "miner", theta / cores(node, ENCODE), "cores");
    let durable = clock.now + (theta + costs.payload_bytes as f64) / node.disk;
    clock.transfer("upload", "miner", link.up(costs.up_bytes_per_round));
    clock.written(durable);
    if !costs.early_close {
        clock.wait((manifest.round.train * BLOCK_SECONDS) as f64, "manifest");
    }
}

/// From the record to the payloads that it applies, on a miner.
fn apply(clock: &mut Clock, costs: &Costs, link: &Link, node: &Node, source: Source) {
    let committed = clock.now;
    clock.chain("vote", "validator", 3.0 * link.rtt);
    let raw = link.down(costs.peers, costs.up_bytes_per_round, PAYLOADS_AT_ONCE);
    // whoever follows the log fetches at the commitment, while the votes are cast
    let fetched = committed + raw.seconds;
    match source {
        Source::Raw => {
            let late = Transfer { seconds: (fetched - clock.now).max(0.0), ..raw };
            clock.transfer("payloads", "miner", late);
        }
        Source::Bundle => {
            let bundle = costs.payload_bytes * costs.peers;
            clock.wait(fetched, "link");
            clock.spend("bundle", "aggregator", bundle as f64 / (BUNDLE * node.cores), "cores");
            clock.transfer("bundle up", "aggregator", link.up(bundle));
            clock.transfer("bundle down", "miner", link.down(1, bundle, 1));
        }
    }
}
