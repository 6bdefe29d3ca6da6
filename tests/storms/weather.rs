//! What a seed has in store for a network: noise on every request, buckets that are away for a while, nodes that lose their link or are killed.

use std::{fmt::Write, ops::Range};

use storage::Faults;

/// Draws numbers (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// From 0 to 1.
    pub fn share(&mut self) -> f64 {
        self.next() as f64 / u64::MAX as f64
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Something that befalls one node for a while, in seconds.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub node: usize,
    pub when: Range<u64>,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Its bucket: for everybody, or (what only writers meet) for itself.
    Bucket(&'static str),
    /// Its link to all stores.
    Link(&'static str),
    /// It is killed, and started again at the end.
    Kill,
}

/// A run's weather.
#[derive(Debug)]
pub struct Weather {
    seed: u64,
    noise: String,
    pub troubles: Vec<Trouble>,
}

impl Weather {
    /// For so many nodes and seconds; about one trouble in `spacing` seconds.
    pub fn new(seed: u64, nodes: usize, seconds: u64, spacing: u64) -> Self {
        let mut dice = Dice(seed);
        let mut noise = String::new();
        for fault in [
            "'status', code = 503",
            "'status', code = 429, retry_after = 3",
            "'reset'",
            "'cut'",
            "'answer-lost'",
            "'duplicate'",
            "'stale-list', seconds = 20",
            "'stale-read', seconds = 4",
        ] {
            writeln!(noise, "[[rule]]\nfault = {{ kind = {fault} }}\nshare = {}", 0.03 * dice.share()).unwrap();
        }
        writeln!(noise, "[[rule]]\nfault = {{ kind = 'delay', seconds = 5 }}\nshare = {}", 0.1 * dice.share()).unwrap();
        writeln!(noise, "[[rule]]\nfault = {{ kind = 'delay', seconds = 0.05, jitter = {} }}", dice.share()).unwrap();
        let mut troubles = Vec::new();
        let mut at = dice.below(spacing);
        while at < seconds {
            let what = match dice.below(4) {
                0 | 1 => What::Bucket(dice.of(&["'gone'", "'denied'", "'hang'", "'full'", "'status', code = 500", "'partial-write'"])),
                2 => What::Link(dice.of(&["'hang'", "'reset'"])),
                _ => What::Kill,
            };
            troubles.push(Trouble { node: dice.below(nodes as u64) as usize, when: at..at + 30 + dice.below(300), what });
            at += 1 + dice.below(2 * spacing);
        }
        Self { seed, noise, troubles }
    }

    /// No noise, and these troubles.
    pub fn of(troubles: Vec<Trouble>) -> Self {
        Self { seed: 0, noise: String::new(), troubles }
    }

    /// What the requests of a node suffer; `buckets` are the addresses of all nodes' buckets. Its clock starts now, at `second`, and what was
    /// drawn at an earlier start is not drawn again.
    pub fn faults(&self, node: usize, buckets: &[String], second: u64) -> Faults {
        let mut text = format!("seed = {}\n{}", (self.seed * 1000 + node as u64) << 24 | second, self.noise);
        for trouble in &self.troubles {
            let (fault, at) = match trouble.what {
                What::Bucket(fault) => (fault, format!("{}/*", buckets[trouble.node])),
                What::Link(fault) if trouble.node == node => (fault, "*".to_owned()),
                _ => continue,
            };
            let (from, until) = (trouble.when.start.saturating_sub(second), trouble.when.end.saturating_sub(second));
            writeln!(text, "[[rule]]\nfault = {{ kind = {fault} }}\nat = '{at}'\nfrom = {from}\nuntil = {until}").unwrap();
        }
        Faults::parse(&text).unwrap()
    }

    /// Whether something befell the node within these seconds.
    pub fn troubled(&self, node: usize, when: &Range<u64>) -> bool {
        self.troubles.iter().any(|t| t.node == node && t.when.start < when.end && when.start < t.when.end)
    }
}
