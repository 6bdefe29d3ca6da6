//! What a run needs beside its rounds: snapshots and joining, memory, and what a store charges for a month.

use checkpoints::SHARD_BYTES;
use protocol::Manifest;
use serde::Serialize;
use storage::{Bill, Budget, Month, Prices};

use super::link::Link;
use super::round::{Node, PAYLOADS_AT_ONCE, Timeline};
use crate::check::{BLOCK_SECONDS, Costs};
use crate::store::month;

/// Bytes of a snapshot's files; they go one after the other.
const SHARD: u64 = SHARD_BYTES as u64;

/// Snapshots, and nodes that come late.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Joining {
    /// Bytes of a snapshot in both forms.
    pub snapshot_bytes: u64,
    /// Seconds until one is up.
    pub upload_seconds: f64,
    /// Seconds until a node has the newest state: the snapshot, and what happened since it was taken and while it came.
    pub join_seconds: f64,
    /// Bytes that this takes.
    pub join_bytes: u64,
}

impl Joining {
    /// For the worst moment: right before the next snapshot is up.
    pub fn of(costs: &Costs, link: &Link, node: &Node, timeline: &Timeline) -> Self {
        let (f32_form, bf16) = (costs.snapshot_bytes, 2 * costs.parameters);
        let shards = |bytes: u64| bytes.div_ceil(SHARD) as f64;
        let upload_seconds = shards(f32_form + bf16) * link.up(SHARD).seconds;
        let state = shards(f32_form) * link.down(1, SHARD, 1).seconds;
        let payloads = link.down(costs.peers, costs.up_bytes_per_round, PAYLOADS_AT_ONCE);
        let steps = ["step", "hash"].iter().filter_map(|name| timeline.term(name)).map(|term| term.seconds).sum::<f64>();
        let theta = 4.0 * costs.parameters as f64;
        let replay = payloads.seconds + steps + theta / node.disk;
        let behind = costs.snapshot_every_rounds as f64 + upload_seconds / timeline.total;
        // a round has all that a replay has, and training: whoever replays gains on it
        let join_seconds = (state + behind * replay) / (1.0 - replay / timeline.total);
        let replayed = behind + join_seconds / timeline.total;
        let join_bytes = f32_form + (replayed * payloads.bytes as f64) as u64;
        Self { snapshot_bytes: f32_form + bf16, upload_seconds, join_seconds, join_bytes }
    }
}

/// Bytes of a node's own memory, beside its devices'.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Host {
    /// θ, error feedback and the optimizer's moments on their way to the disk; payloads and transfers.
    pub miner_bytes: u64,
    /// θ before and after the step, and of the snapshot that goes up; payloads, a bundle of them that goes up, and transfers.
    pub validator_bytes: u64,
}

impl Host {
    /// For payloads that are held whole, compressed, until the step.
    pub fn of(costs: &Costs) -> Self {
        let payloads = costs.payload_bytes.saturating_mul(costs.peers);
        let of =
            |per_parameter: u64| costs.parameters.saturating_mul(per_parameter).saturating_add(payloads).saturating_add(Budget::MEMORY);
        Self { miner_bytes: of(16), validator_bytes: of(12).saturating_add(payloads) }
    }
}

/// Bytes of a miner's home: θ, error feedback, moments and payload, each twice while it is written anew.
pub fn home_bytes(costs: &Costs) -> u64 {
    costs.parameters.saturating_mul(2 * (4 + 12)).saturating_add(costs.payload_bytes.saturating_mul(2))
}

/// What a store charges for a month.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreMonth {
    /// Rounds.
    pub rounds: f64,
    /// Bytes in all buckets together, as far as retention keeps them.
    pub stored_bytes: u64,
    /// Bytes that leave the store.
    pub egress_bytes: u64,
    /// By store, in US dollars.
    pub bills: Vec<(&'static str, Bill)>,
}

impl StoreMonth {
    /// Of rounds that take as long as the timeline says.
    pub fn of(manifest: &Manifest, costs: &Costs, timeline: &Timeline, validators: u32) -> Self {
        let rounds = month::SECONDS / timeline.total;
        let stored = month::stored(manifest, costs.peers, rounds);
        let month = Month { stored, ..month::traffic(manifest, costs.peers, validators.into(), rounds) };
        let bills = Prices::ALL.iter().map(|prices| (prices.name, prices.bill(&month))).collect();
        Self { rounds, stored_bytes: stored as u64, egress_bytes: month.egress as u64, bills }
    }
}

/// What the manifest does not leave time for, in words.
pub fn misfits(manifest: &Manifest, costs: &Costs, timeline: &Timeline, joining: &Joining) -> Vec<String> {
    let (times, block) = (&manifest.round, BLOCK_SECONDS as f64);
    let blocks = |seconds: f64| (seconds / block).ceil() as u64;
    let end = |name| timeline.term(name).map_or(0.0, super::round::Term::end);
    let mut misfits = Vec::new();
    let sealed = timeline.sealing().map(super::round::Term::end).fold(0.0, f64::max) - end("train");
    if blocks(sealed) > times.upload && !costs.early_close {
        let needed = blocks(sealed);
        misfits.push(format!(
            "sealing and upload take {needed} blocks, [round] upload leaves {}: payloads come after the close",
            times.upload
        ));
    }
    let judged = end("record") - end("list");
    let allowed = times.reveal + times.judge + times.span;
    if blocks(judged) > allowed {
        let needed = blocks(judged);
        misfits.push(format!(
            "reveal, fetch, judge and record take {needed} blocks, [round] reveal, judge and span leave {allowed}: no lead is in time"
        ));
    }
    let going_up = (joining.upload_seconds / timeline.total).ceil() as u64;
    if going_up > costs.snapshot_every_rounds {
        let every = costs.snapshot_every_rounds;
        misfits.push(format!("a snapshot goes up for {going_up} rounds, [checkpoints] every is {every}: those in between are left out"));
    }
    misfits
}
