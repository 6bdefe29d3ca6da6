//! What a link carries: its rate, less headers and losses, or what TCP makes of it on so many connections.

use serde::Serialize;
use storage::Budget;

/// Bytes of a packet, and of what it carries with TCP's time stamps.
const PACKET: f64 = 1500.0;
const SEGMENT: f64 = 1448.0;
/// Bytes per second of a Mbit/s.
const MBIT: f64 = 125_000.0;
/// Round trips before an object's bytes flow: its size is asked for, a connection is made, a part is asked for.
const TRIPS: f64 = 3.0;

/// A node's link to its stores, and how it is used.
#[derive(Clone, Debug)]
pub struct Link {
    /// Mbit/s towards stores.
    pub up: f64,
    /// Mbit/s from stores.
    pub down: f64,
    /// Round trip in seconds.
    pub rtt: f64,
    /// Share of packets that are lost.
    pub loss: f64,
    /// Parts and connections.
    pub budget: Budget,
}

/// What holds a transfer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// The link's rate.
    Link,
    /// What its connections carry, on a path that loses packets.
    Connections,
}

/// Bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Transfer {
    /// How many.
    pub bytes: u64,
    /// How long they take.
    pub seconds: f64,
    /// On how many connections at once.
    pub connections: u64,
    /// What holds them back.
    pub bound: Bound,
}

/// What bytes take at a rate in Mbit/s and nothing else: the arithmetic that a plan is compared with.
pub fn bare_seconds(bytes: u64, mbit: f64) -> f64 {
    bytes as f64 / (mbit * MBIT)
}

impl Link {
    /// A link on which objects were seen to go at so many bytes per second, whatever held them back.
    pub fn seen(up: f64, down: f64, rtt: f64, budget: Budget) -> Self {
        let [up, down] = [up, down].map(|bytes| bytes / MBIT * PACKET / SEGMENT);
        Self { up, down, rtt, loss: 0.0, budget }
    }

    /// Bytes per second of one TCP connection that backs off from losses: MSS / RTT · 1.22 / √p (Mathis et al., 1997). Without losses there
    /// is no such limit, and BBR does not take random ones for congestion.
    pub fn per_connection(&self) -> f64 {
        SEGMENT / self.rtt * 1.22 / self.loss.sqrt()
    }

    /// Connections that fill a rate in Mbit/s.
    pub fn connections_to_fill(&self, mbit: f64) -> u64 {
        (self.carried(mbit) / self.per_connection()).ceil().max(1.0) as u64
    }

    /// Bytes of objects per second that a rate in Mbit/s carries.
    fn carried(&self, mbit: f64) -> f64 {
        mbit * MBIT * SEGMENT / PACKET * (1.0 - self.loss)
    }

    /// One object up.
    pub fn up(&self, size: u64) -> Transfer {
        let (part, connections) = (self.budget.part_up(size), self.budget.connections_up(size));
        self.transfer(Load { size, objects: 1, at_once: 1, part, of_one: connections, connections }, self.up)
    }

    /// `objects` of `size` bytes each down, so many at a time.
    pub fn down(&self, objects: u64, size: u64, at_once: u64) -> Transfer {
        let (part, at_once) = (self.budget.part_down(size), at_once.min(objects).max(1));
        let (of_one, connections) = (self.budget.connections_down(1, size), self.budget.connections_down(at_once, size));
        self.transfer(Load { size, objects, at_once, part, of_one, connections }, self.down)
    }

    fn transfer(&self, load: Load, mbit: f64) -> Transfer {
        let bytes = load.size.saturating_mul(load.objects);
        let (link, one) = (self.carried(mbit), self.per_connection());
        let full = bytes as f64 / link;
        // all connections busy, or one part after the other on one of them, whatever is later
        let busy = bytes as f64 / (one * load.connections as f64);
        let waves = load.objects.div_ceil(load.at_once) * load.size.div_ceil(load.part).div_ceil(load.of_one);
        let held = busy.max((waves * load.part) as f64 / one);
        let bound = if held > full { Bound::Connections } else { Bound::Link };
        Transfer { bytes, seconds: full.max(held) + TRIPS * self.rtt, connections: load.connections, bound }
    }
}

/// Objects of one size, and how they are cut.
struct Load {
    size: u64,
    objects: u64,
    at_once: u64,
    /// Bytes of a part.
    part: u64,
    /// Connections of one object, and of all that are moved at a time.
    of_one: u64,
    connections: u64,
}

#[cfg(test)]
mod tests {
    use storage::Rates;

    use super::*;

    fn link(connections: usize, loss: f64) -> Link {
        Link { up: 110.0, down: 500.0, rtt: 0.05, loss, budget: Budget::new(Budget::MEMORY, connections, Rates::default()) }
    }

    #[test]
    fn one_connection_carries_four_megabits_at_50_ms_and_half_a_percent() {
        // 1448 / 0.05 s = 28,960 B/s; 1.22 / √0.005 = 17.25
        let mbit = link(32, 0.005).per_connection() / MBIT;
        assert!((mbit - 4.0).abs() < 0.01, "{mbit}");
        // 500 · 1448/1500 · 0.995 = 480.2, of 3.997 each; 110 likewise
        assert_eq!([500.0, 110.0].map(|rate| link(32, 0.005).connections_to_fill(rate)), [121, 27]);
        assert_eq!(link(32, 0.0).connections_to_fill(500.0), 1);
    }

    #[test]
    fn without_losses_the_link_binds_and_with_them_the_connections() {
        // 1.35 GB at 110 Mb/s · 1448/1500: 98.2 s / 0.9653 = 101.7 s, and three round trips
        let up = link(32, 0.0).up(1_350_000_000);
        assert!((up.seconds - 101.86).abs() < 0.05, "{up:?}");
        assert_eq!((up.bound, up.connections), (Bound::Link, 32));
        // 27 GB on 32 connections of 3.997 Mbit/s: 127.9 Mbit/s, 1,689 s
        let down = link(32, 0.005).down(20, 1_350_000_000, 8);
        assert!((down.seconds - 1_689.0).abs() < 2.0, "{down:?}");
        assert_eq!((down.bound, down.connections), (Bound::Connections, 32));
        // on 128 of them, 511 Mbit/s: the link again
        let down = link(128, 0.005).down(20, 1_350_000_000, 8);
        assert_eq!((down.bound, down.connections), (Bound::Link, 128));
    }

    #[test]
    fn a_link_that_was_seen_carries_what_was_seen() {
        let seen = Link::seen(2e6, 5e6, 0.05, Budget::default());
        let [up, down] = [seen.up(100_000_000), seen.down(1, 100_000_000, 1)].map(|transfer| transfer.seconds);
        assert!((up - 50.15).abs() < 1e-9 && (down - 20.15).abs() < 1e-9, "{up} {down}");
        let instant = Link::seen(f64::INFINITY, f64::INFINITY, 0.0, Budget::default());
        assert_eq!([instant.up(1 << 40), instant.down(20, 1 << 40, 8)].map(|transfer| transfer.seconds), [0.0, 0.0]);
    }

    #[test]
    fn small_objects_have_few_parts_and_go_in_waves() {
        // three parts, of 5 MiB at most, on three connections of 0.4996 MB/s: 10.49 s
        let up = link(32, 0.005).up(13_500_000);
        assert!((up.seconds - 10.64).abs() < 0.02 && up.connections == 3, "{up:?}");
        // 20 of them, 8 at a time, in three waves of 6 MiB: 37.8 s, and not the 22.5 s of 24 busy connections
        let down = link(32, 0.005).down(20, 13_500_000, 8);
        assert!((down.seconds - 37.93).abs() < 0.05 && down.connections == 24, "{down:?}");
    }
}
