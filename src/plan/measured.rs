//! What `scripts/link-bench.sh` measured, and what the model says of the same cases.

use serde::Deserialize;
use storage::{Budget, Rates};

use super::link::Link;
use super::round::PAYLOADS_AT_ONCE;

/// What lies in docs/network.json.
#[derive(Debug, Deserialize)]
pub struct Measured {
    /// One line each.
    pub cases: Vec<Case>,
}

/// One link and number of connections.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// Mbit/s.
    pub up: f64,
    /// Mbit/s.
    pub down: f64,
    /// Milliseconds.
    pub rtt_ms: f64,
    /// Share of packets, each way.
    pub loss: f64,
    /// How TCP avoids congestion.
    pub congestion: String,
    /// The budget's.
    pub connections: usize,
    /// `round`: the exchange at the fraction; `bulk`: objects of a 72B run's size.
    pub what: String,
    timeline: Timeline,
}

#[derive(Debug, Deserialize)]
struct Timeline {
    phases: Vec<Phase>,
}

/// What was done, in order.
#[derive(Debug, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// What went over the link, if it is known.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Measured {
    /// What is committed.
    ///
    /// # Errors
    /// The file is none, which a test excludes.
    pub fn committed() -> serde_json::Result<Self> {
        serde_json::from_str(include_str!("../../docs/network.json"))
    }

    /// The cases of this link, whatever its connections.
    pub fn of(&self, link: &Link) -> impl Iterator<Item = &Case> {
        let same = |a: f64, b: f64| (a - b).abs() < 1e-9;
        let (up, down, rtt_ms, loss) = (link.up, link.down, link.rtt * 1e3, link.loss);
        self.cases
            .iter()
            .filter(move |case| same(case.up, up) && same(case.down, down) && same(case.rtt_ms, rtt_ms) && same(case.loss, loss))
    }
}

impl Case {
    /// What was done, in order.
    pub fn phases(&self) -> &[Phase] {
        &self.timeline.phases
    }

    /// Seconds of some phases together.
    pub fn seconds(&self, names: &[&str]) -> f64 {
        self.phases().iter().filter(|phase| names.contains(&phase.name.as_str())).map(|phase| phase.seconds).sum()
    }

    /// The seconds that the model has for a phase; `None` for those that are round trips only. BBR does not back off from random losses.
    pub fn modelled(&self, phase: &Phase, peers: u64) -> Option<f64> {
        let loss = if self.congestion == "bbr" { 0.0 } else { self.loss };
        let budget = Budget::new(Budget::MEMORY, self.connections, Rates::default());
        let link = Link { up: self.up, down: self.down, rtt: self.rtt_ms / 1e3, loss, budget };
        Some(match phase.name.as_str() {
            "upload" | "bundle_up" => link.up(phase.bytes).seconds,
            "fetch" | "apply_raw" => link.down(peers, phase.bytes / peers, PAYLOADS_AT_ONCE).seconds,
            "apply_bundle" => link.down(1, phase.bytes, 1).seconds,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_can_be_read() {
        let measured = Measured::committed().expect("docs/network.json");
        assert!(!measured.cases.is_empty() && measured.cases.iter().all(|case| case.seconds(&["upload", "fetch"]) > 0.0));
        assert!(measured.cases.iter().all(|case| case.phases().iter().any(|phase| case.modelled(phase, 20).is_some())));
    }
}
