//! The demo as one watches it: a bar for the run, a bar for the round, losses, and a line for each miner.

use std::{collections::BTreeMap, io::IsTerminal};

use checkpoints::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    setup::{Lab, Node, Role},
    story::{Story, Usage},
};

/// The live view; plain lines where there is no terminal.
pub struct Screen {
    live: bool,
    quiet: bool,
    bars: MultiProgress,
    run: ProgressBar,
    round: ProgressBar,
    losses: ProgressBar,
    header: ProgressBar,
    miners: BTreeMap<usize, ProgressBar>,
    nodes: Vec<Node>,
    bytes_per_token: f64,
    done: BTreeMap<usize, (u64, u32)>,
    verdicts: BTreeMap<u16, String>,
    shown: u64,
}

impl Screen {
    /// A view of a demo of `rounds` rounds.
    pub fn new(lab: &Lab, rounds: u64, quiet: bool) -> Self {
        let live = std::io::stderr().is_terminal() && !quiet;
        let bars = MultiProgress::with_draw_target(if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
        let bar = |template: &str| {
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bars.add(ProgressBar::new(0).with_style(style.progress_chars("━╸─")))
        };
        let run = bar("run   {bar:40.green} {pos:>4}/{len} rounds   {elapsed_precise} elapsed, {eta} left");
        run.set_length(rounds);
        let round = bar("round {bar:40.cyan} {pos:>4}/{len} inner steps   {msg}");
        let losses = bar("{msg}");
        let header = bar("{wide_msg}");
        header.set_message(format!(
            "{:<12}{:>4} {:>8} {:>8} {:>7} {:>9} {:>9}  {}",
            "miner", "uid", "gain", "score", "weight", "up", "down", "last verdict"
        ));
        header.tick();
        let mining = lab.nodes.iter().enumerate().filter(|(_, n)| n.role.mines());
        let miners = mining.map(|(i, _)| (i, bar("{wide_msg}"))).collect();
        let nodes = lab.nodes.clone();
        Self {
            live,
            quiet,
            bars,
            run,
            round,
            losses,
            header,
            miners,
            nodes,
            bytes_per_token: lab.bytes_per_token,
            done: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            shown: 0,
        }
    }

    /// Takes in an event that the story has heard already.
    pub fn show(&mut self, node: usize, event: &Event, story: &Story) {
        match event {
            Event::InnerStep { round, done, of, .. } => self.progress(node, *round, *done, *of),
            Event::Judged { uid, verdict, .. } => {
                self.verdicts.insert(*uid, verdict.clone());
            }
            Event::Warning { message } => self.line(format!("{}: {message}", self.nodes[node].name)),
            Event::Dissent { uid, reason, .. } => self.line(format!("{} dissents on uid {uid}: {reason}", self.nodes[node].name)),
            Event::Published { round, what, bytes } if what == "snapshot" => {
                self.line(format!("{} published a snapshot of round {round}, {}", self.nodes[node].name, bytes_in_words(*bytes)));
            }
            Event::HeldOut { round, .. } if *round > self.shown => {
                self.shown = *round;
                self.round_done(round - 1, story);
            }
            _ => {}
        }
        if !matches!(event, Event::InnerStep { .. }) {
            self.refresh(story);
        }
    }

    /// A process ended by itself.
    pub fn gone(&self, node: usize, why: &str) {
        self.line(format!("{} ended: {why}", self.nodes[node].name));
    }

    /// Leaves the last state on the screen.
    pub fn close(&self) {
        for bar in [&self.run, &self.round, &self.losses, &self.header].into_iter().chain(self.miners.values()) {
            bar.abandon();
        }
    }

    fn line(&self, text: String) {
        if self.live {
            let _ = self.bars.println(text);
        } else if !self.quiet {
            eprintln!("{text}");
        }
    }

    fn progress(&mut self, node: usize, round: u64, done: u32, of: u32) {
        self.done.insert(node, (round, done));
        let newest = self.done.values().map(|(r, _)| *r).max().unwrap_or(round);
        let honest = self.nodes.iter().filter(|n| n.role == Role::Miner).count() as u64;
        self.round.set_length(honest * u64::from(of));
        self.round.set_position(self.done.values().filter(|(r, _)| *r == newest).map(|(_, d)| u64::from(*d)).sum());
        self.round.set_message(format!("round {newest}"));
    }

    fn round_done(&self, round: u64, story: &Story) {
        if self.live {
            return;
        }
        let Some(r) = story.rounds.get(&round) else { return };
        let (applied, left_out) = (self.names(&r.applied), self.names(&r.left_out));
        let left_out = if left_out.is_empty() { String::new() } else { format!(", left out {left_out}") };
        self.line(format!("round {round:>3}  {}  applied {applied}{left_out}", self.loss_line(story)));
    }

    fn names(&self, uids: &[u16]) -> String {
        let name = |uid: &u16| self.nodes.iter().find(|n| n.uid == *uid).map_or_else(|| format!("uid {uid}"), |n| n.name.clone());
        uids.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    fn loss_line(&self, story: &Story) -> String {
        let shown = |bits: Option<f64>| bits.map_or("  –  ".to_owned(), |b| format!("{b:.3}"));
        let train = story.train().map(|nats| nats / std::f64::consts::LN_2 / self.bytes_per_token);
        format!("bits per byte: training {} · held out {}", shown(train), shown(story.held_out()))
    }

    fn refresh(&self, story: &Story) {
        if !self.live {
            return;
        }
        self.run.set_position(story.next_round());
        self.losses.set_message(self.loss_line(story));
        for (index, bar) in &self.miners {
            bar.set_message(self.miner_line(&self.nodes[*index], &story.usage(*index), story));
        }
    }

    fn miner_line(&self, node: &Node, usage: &Usage, story: &Story) -> String {
        let name = if node.role == Role::Cheat { format!("{} ☠", node.name) } else { node.name.clone() };
        let score = story.scores.iter().find(|s| s.uid == node.uid);
        let (gain, paid) = score.map_or((0.0, 0.0), |s| (s.gain, s.score));
        let weight = share(node.uid, story);
        let verdict = self.verdicts.get(&node.uid).map_or("", String::as_str);
        let (up, down) = (bytes_in_words(usage.up), bytes_in_words(usage.down));
        format!("{name:<12}{:>4} {gain:>8.2} {paid:>8.3} {:>6.1}% {up:>9} {down:>9}  {verdict}", node.uid, 100.0 * weight)
    }
}

/// A uid's share of the newest weights.
fn share(uid: u16, story: &Story) -> f64 {
    let total: f64 = story.weights.iter().map(|(_, w)| f64::from(*w)).sum();
    let own = story.weights.iter().find(|(u, _)| *u == uid).map_or(0.0, |(_, w)| f64::from(*w));
    if total > 0.0 { own / total } else { 0.0 }
}

/// `12.3 kB` and the like, decimal.
pub fn bytes_in_words(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::bytes_in_words;

    #[test]
    fn bytes_are_written_with_decimal_units() {
        assert_eq!(bytes_in_words(999), "999 B");
        assert_eq!(bytes_in_words(1000), "1.0 kB");
        assert_eq!(bytes_in_words(2_345_678), "2.3 MB");
        assert_eq!(bytes_in_words(u64::MAX), "18446744.1 TB");
    }
}
