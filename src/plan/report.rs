//! A plan for people and as JSON.

use std::fmt;

use anyhow::Result;
use protocol::Manifest;
use serde::Serialize;

use super::link::{Link, bare_seconds};
use super::measured::{Case, Measured};
use super::round::{Node, Source, Term, Timeline, timeline};
use super::size::{Host, Joining, StoreMonth, misfits};
use crate::check::Costs;
use crate::output::{Table, bytes, duration, wrapped};

/// Miners in the exchange that was measured.
const MEASURED_PEERS: u64 = 20;

/// What every exchange has, however the record's payloads come.
const EXCHANGE: [&str; 5] = ["upload", "list", "reveal", "fetch", "record"];

/// Everything that a plan says.
#[derive(Debug, Serialize)]
pub struct Report {
    name: String,
    peers: u64,
    /// Bytes over rate, and nothing else.
    bare_up_seconds: f64,
    bare_down_seconds: f64,
    connections_to_fill: [u64; 2],
    raw: Timeline,
    bundle: Timeline,
    utilization: f64,
    overlaps: Vec<Overlap>,
    binds: &'static str,
    misfits: Vec<String>,
    joining: Joining,
    device_bytes_of_8: u64,
    host: Host,
    month: StoreMonth,
    measured: Vec<Point>,
}

/// What it would bring to train on for so many inner steps while the exchange runs.
#[derive(Clone, Copy, Debug, Serialize)]
struct Overlap {
    tau: u32,
    utilization: f64,
}

/// A measured case, with the model's seconds beside it.
#[derive(Debug, Serialize)]
struct Point {
    what: String,
    congestion: String,
    connections: usize,
    phases: Vec<(String, u64, f64, Option<f64>)>,
    /// Shares of a compute window, scaled like the payload, that are lost to the exchange: with payloads one by one, and as a bundle.
    lost: Option<[f64; 2]>,
}

impl Report {
    /// The model's figures for a run, and what was measured on this link.
    pub fn new(manifest: &Manifest, costs: &Costs, link: &Link, node: &Node, validators: u32) -> Result<Self> {
        let [raw, bundle] = [Source::Raw, Source::Bundle].map(|source| timeline(manifest, costs, link, node, source));
        let steps = manifest.inner.steps;
        let all = raw.steps_to_hide(steps);
        let taus = [1, 2, 5, 10].into_iter().filter(|tau| *tau < all.min(steps)).chain([all.min(steps)]);
        let joining = Joining::of(costs, link, node, &raw);
        let device = costs.memory_per_gpu.last().map_or(0, |memory| memory.state_bytes);
        Ok(Self {
            name: costs.name.clone(),
            peers: costs.peers,
            bare_up_seconds: bare_seconds(costs.up_bytes_per_round, link.up),
            bare_down_seconds: bare_seconds(costs.down_bytes_per_round, link.down),
            connections_to_fill: [link.up, link.down].map(|rate| link.connections_to_fill(rate)),
            utilization: raw.utilization(),
            overlaps: taus.map(|tau| Overlap { tau, utilization: raw.utilization_with(tau, steps) }).collect(),
            binds: raw.longest().map_or("train", |term| term.name),
            misfits: misfits(manifest, costs, &raw, &joining),
            device_bytes_of_8: device,
            host: Host::of(costs),
            month: StoreMonth::of(manifest, costs, &raw, validators),
            measured: Measured::committed()?.of(link).map(|case| Point::of(case, costs, raw.training)).collect(),
            joining,
            raw,
            bundle,
        })
    }

    fn terms(&self) -> Table {
        let mut table = Table::new(2, &[&self.name, "who", "bytes", "from", "seconds", "bound by"]);
        let row = |term: &Term| {
            let size = if term.bytes == 0 { String::new() } else { bytes(term.bytes) };
            let seconds = [term.start, term.seconds].map(|seconds| format!("{seconds:.0}"));
            let [start, seconds] = seconds;
            [term.name.to_owned(), term.who.to_owned(), size, start, seconds, term.bound.to_owned()]
        };
        self.raw.terms.iter().for_each(|term| table.row(row(term)));
        let bundled = ["bundle", "bundle up", "bundle down"].iter().filter_map(|name| self.bundle.term(name));
        bundled.for_each(|term| {
            let [name, rest @ ..] = row(term);
            table.row([format!("or {name}")].into_iter().chain(rest));
        });
        table
    }

    fn summary(&self) -> Table {
        let mut table = Table::new(2, &["round", &duration(self.raw.total as u64)]);
        let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
        row("with bundles instead", duration(self.bundle.total as u64));
        row("training", format!("{:.1} % of it without overlap", 100.0 * self.utilization));
        let overlaps = self.overlaps.iter().map(|o| format!("τ = {}: {:.1} %", o.tau, 100.0 * o.utilization));
        row("with overlap", format!("{} (inner steps; the miner does not do it yet)", overlaps.collect::<Vec<_>>().join(", ")));
        let [up, down] = self.connections_to_fill;
        row("connections that fill the link", format!("{up} up, {down} down"));
        let [up, down] = [self.bare_up_seconds, self.bare_down_seconds];
        row("bytes over rate, nothing else", format!("{up:.0} s up, {down:.0} s for {} payloads down", self.peers));
        let Joining { snapshot_bytes, upload_seconds, join_seconds, join_bytes } = &self.joining;
        row("snapshot, up", format!("{} in both forms, {}", bytes(*snapshot_bytes), duration(*upload_seconds as u64)));
        row("joining, at worst", format!("{}, {}", bytes(*join_bytes), duration(*join_seconds as u64)));
        row("memory of each of 8 GPUs", format!("{} and activations, with --offload --recompute", bytes(self.device_bytes_of_8)));
        let Host { miner_bytes, validator_bytes } = self.host;
        row("memory of the host", format!("{} of a miner, {} of a validator", bytes(miner_bytes), bytes(validator_bytes)));
        let StoreMonth { rounds, stored_bytes, egress_bytes, bills } = &self.month;
        row("a month's store", format!("{rounds:.0} rounds, {} kept, {} leave", bytes(*stored_bytes), bytes(*egress_bytes)));
        for (name, bill) in bills {
            let parts = format!("{:.0} kept, {:.0} requests, {:.0} egress", bill.storage, bill.requests, bill.egress);
            row(&format!("  on {name}"), format!("{:.0} USD: {parts}", bill.total()));
        }
        table
    }

    fn measurements(&self) -> Table {
        let columns = ["upload", "fetch", "apply_raw", "bundle_up", "apply_bundle"];
        let mut table =
            Table::new(2, &["measured (model), s", "", "upload", "fetch", "raw", "bundle up", "bundle down", "lost, raw", "bundle"]);
        for Point { what, congestion, connections, phases, lost } in &self.measured {
            let name = if what == "bulk" { "full size" } else { "1:100" };
            let cell = |column: &&str| {
                let phase = phases.iter().find(|(name, ..)| name == column);
                phase.map_or(String::new(), |(_, _, seconds, model)| {
                    model.map_or(format!("{seconds:.1}"), |model| format!("{seconds:.1} ({model:.1})"))
                })
            };
            let shares = lost.iter().flatten().map(|share| format!("{:.0} %", 100.0 * share));
            let cells = columns.iter().map(cell).chain(shares);
            table.row([name.to_owned(), format!("{congestion}, {connections}")].into_iter().chain(cells));
        }
        table
    }
}

impl Point {
    fn of(case: &Case, costs: &Costs, training: f64) -> Self {
        let sent = case.phases().iter().find(|phase| phase.name == "upload").map_or(0, |phase| phase.bytes);
        let window = training * sent as f64 / costs.up_bytes_per_round as f64;
        let share = |last: &[&str]| {
            let exchange = case.seconds(&EXCHANGE) + case.seconds(last);
            exchange / (exchange + window)
        };
        let lost = (case.what == "round").then(|| [share(&["apply_raw"]), share(&["bundle_up", "apply_bundle"])]);
        let phase = |p: &super::measured::Phase| (p.name.clone(), p.bytes, p.seconds, case.modelled(p, MEASURED_PEERS));
        let phases = case.phases().iter().map(phase).collect();
        Self { what: case.what.clone(), congestion: case.congestion.clone(), connections: case.connections, phases, lost }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}\n\nbinds: {}", self.terms(), self.summary(), self.binds)?;
        for misfit in &self.misfits {
            write!(f, "\n{}", wrapped(&format!("does not fit: {misfit}"), 0, 2))?;
        }
        if self.measured.is_empty() {
            f.write_str("\nnothing was measured on this link; docs/network.md has those that were")
        } else {
            write!(f, "\n\n{}", self.measurements())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use storage::{Budget, Rates};

    use super::*;

    fn covenant() -> (Manifest, Costs) {
        let manifest = Manifest::draft(protocol::RunConfig::parse(include_str!("../../configs/72b.toml")).unwrap()).unwrap();
        let costs = Costs::of(&manifest, Some(20), 3);
        (manifest, costs)
    }

    fn link(up: f64, down: f64, loss: f64) -> Link {
        Link { up, down, rtt: 0.05, loss, budget: Budget::new(Budget::MEMORY, 128, Rates::default()) }
    }

    const NODE: Node = Node { cores: 16.0, disk: 5e9, tokens_per_second: None, finality: 3 };

    #[test]
    fn the_references_arithmetic() {
        // 1.35 GB up at 110 Mb/s, 27 GB down at 500 Mb/s
        assert_eq!([bare_seconds(1_350_000_000, 110.0).round(), bare_seconds(27_060_000_000, 500.0).round()], [98.0, 433.0]);
        let (manifest, costs) = covenant();
        let report = Report::new(&manifest, &costs, &link(110.0, 500.0, 0.0), &NODE, 3).unwrap();
        assert!((report.bare_up_seconds - 98.2).abs() < 0.5, "{}", report.bare_up_seconds);
        assert!((report.bare_down_seconds - 433.0).abs() < 2.0, "{}", report.bare_down_seconds);
    }

    #[test]
    fn a_rounds_terms_follow_each_other() {
        let (manifest, costs) = covenant();
        let node = Node { disk: 50e9, ..NODE };
        let raw = timeline(&manifest, &costs, &link(1000.0, 1000.0, 0.0), &node, Source::Raw);
        assert!(raw.terms.windows(2).all(|pair| (pair[0].end() - pair[1].start).abs() < 1e-6));
        assert!((raw.terms.last().unwrap().end() - raw.total).abs() < 1e-6);
        // 100 blocks of training, and the close at block 104, read three blocks later
        assert_eq!((raw.training, raw.term("list").unwrap().start, raw.term("list").unwrap().end()), (1200.0, 1248.0, 1284.0));
        // 20 payloads are tried on 2 · 16 + 32 sequences each, and the base state on 32 more: 1312 of 2048 tokens, in a pass three times as
        // fast as training's 11.8 M tokens in 1200 s
        let judge = raw.term("judge").unwrap().seconds;
        assert!((judge - 1312.0 * 2048.0 / (3.0 * 30.0 * 192.0 * 2048.0 / 1200.0)).abs() < 1e-6 && (judge - 91.1).abs() < 0.1, "{judge}");
    }

    #[test]
    fn overlap_hides_as_many_steps_as_fit() {
        let timeline = Timeline { terms: Vec::new(), training: 1200.0, total: 1500.0 };
        // 300 s are 7.5 of 30 steps of 40 s
        assert_eq!((timeline.utilization(), timeline.steps_to_hide(30)), (0.8, 8));
        assert_eq!([0, 5, 8, 30].map(|tau| timeline.utilization_with(tau, 30)), [0.8, 1200.0 / 1300.0, 1.0, 1.0]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let (manifest, costs) = covenant();
        let slow = Report::new(&manifest, &costs, &link(110.0, 500.0, 0.0), &NODE, 3).unwrap();
        assert!(slow.misfits[0].contains("[round] upload leaves 4") && slow.misfits.iter().any(|m| m.contains("[checkpoints] every")));
        assert_eq!(slow.binds, "fetch");
        let fast = Report::new(&manifest, &costs, &link(10_000.0, 10_000.0, 0.0), &Node { disk: 50e9, ..NODE }, 3).unwrap();
        assert_eq!(fast.misfits, [""; 0]);
        assert!(fast.utilization > slow.utilization);
        // whoever is late has to fetch the same payloads over a fiftieth of the link
        let thin = Report::new(&manifest, &costs, &link(110.0, 10.0, 0.0), &NODE, 3).unwrap();
        assert!(thin.joining.join_seconds > 20.0 * slow.joining.join_seconds, "{:?} {:?}", thin.joining, slow.joining);
    }

    #[test]
    fn a_month_has_as_many_rounds_as_fit() {
        let (manifest, costs) = covenant();
        let month = |link: Link| Report::new(&manifest, &costs, &link, &NODE, 3).unwrap().month;
        let (slow, fast) = (month(link(110.0, 500.0, 0.0)), month(link(1000.0, 1000.0, 0.0)));
        assert!(fast.rounds > slow.rounds && fast.egress_bytes > slow.egress_bytes);
        assert_eq!(fast.stored_bytes, slow.stored_bytes, "so many rounds are kept, however fast they are");
        assert_eq!((fast.bills[0].0, fast.bills[0].1.egress), ("R2", 0.0));
        assert!(fast.bills[1].1.egress > 1000.0);
    }
}
