//! When a subnet's epochs come, and with them the reveal of committed weights; pure.
//!
//! Blocks begin with the epoch, if one is due, and then run their calls: what a block's calls see is the index after its epoch. A commit belongs to
//! the epoch in which it is included, and is revealed `period` epochs later.

use std::ops::RangeInclusive;

use crate::timelock::quicknet;

/// Blocks after which runtimes of 2026 run an epoch whatever the tempo: one more than `MAX_TEMPO`, 50,400.
const LONGEST: u64 = 50_401;
/// Blocks by which a beacon's round lags the block that opens a commit, so that nothing is opened early. Runtimes of 2026 try again every block.
const AFTER_OPENING: u64 = 3;
/// Blocks by which it must precede that block on runtimes of 2025, which try once: 24 rounds of 3 s, the time that a pulse takes to get there.
const BEFORE_OPENING: u64 = 6;

/// Where a subnet's schedule stands once block `block` is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The newest block.
    pub block: u64,
    /// The subnet's `Tempo`.
    pub tempo: u16,
    /// How epochs follow each other on this runtime.
    pub rule: Rule,
}

/// How a runtime chooses the blocks of epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Runtimes of 2026, which store where they are (`coinbase/run_coinbase.rs`, `should_run_epoch`). That a block runs only so many subnets'
    /// epochs and puts others off is not foreseen.
    Stored {
        /// `LastEpochBlock`.
        last: u64,
        /// `PendingEpochAt`: a block from which on an epoch was asked for; 0 is none.
        pending: u64,
        /// `SubnetEpochIndex`.
        index: u64,
        /// `BlocksSinceLastStep`.
        since_step: u64,
    },
    /// Runtimes of 2025: epochs run where (block + netuid + 1) mod (tempo + 1) = tempo, and the block after begins the next index.
    Modulo {
        /// The subnet.
        netuid: u16,
    },
}

impl Schedule {
    /// The index of the epoch that calls in `block` see. Blocks before the schedule's next one are answered as that one; `None` if the tempo
    /// is 0, and there are no epochs.
    pub fn epoch_at(&self, block: u64) -> Option<u64> {
        let Epochs { index, first, interval } = self.epochs()?;
        let block = block.max(self.block.saturating_add(1));
        Some(match block.checked_sub(first) {
            Some(after) => index.saturating_add(1 + after / interval),
            None => index,
        })
    }

    /// The blocks that take the reveal of a hash committed in block `committed`; `None` if the tempo or the period is 0.
    pub fn reveal_blocks(&self, committed: u64, period: u64) -> Option<RangeInclusive<u64>> {
        let epoch = self.epoch_at(committed)?.checked_add(period).filter(|_| period > 0)?;
        let epochs = self.epochs()?;
        Some(epochs.start(epoch)..=epochs.start(epoch.checked_add(1)?).saturating_sub(1))
    }

    /// The block in which the chain first tries to open what was committed under a timelock in block `committed`; `None` if the tempo or the
    /// period is 0.
    ///
    /// Both runtimes open before they run a block's epoch. In 2026 they foresee that it will run, unless only `LONGEST` makes it run. In 2025
    /// they open a block before the reveal period begins, and what the block of an epoch commits counts for the next.
    pub fn opening(&self, committed: u64, period: u64) -> Option<u64> {
        match self.rule {
            Rule::Stored { .. } => {
                let start = *self.reveal_blocks(committed, period)?.start();
                Some(if self.is_overdue(start) { start.saturating_add(1) } else { start })
            }
            Rule::Modulo { .. } => Some(self.reveal_blocks(committed.saturating_add(1), period)?.start().saturating_sub(1)),
        }
    }

    /// The round of quicknet under which to seal a commit that block `committed` will include, given the time of [`block`](Self::block) (ms since
    /// 1970) and what a block takes (ms): ⌊(time of the opening, put off or forward − genesis) / 3 s⌋, at least 1.
    pub fn reveal_round(&self, committed: u64, period: u64, time_ms: u64, block_ms: u64) -> Option<u64> {
        let opening = self.opening(committed, period)?;
        let due = match self.rule {
            Rule::Stored { .. } => opening.saturating_add(AFTER_OPENING),
            Rule::Modulo { .. } => opening.saturating_sub(BEFORE_OPENING),
        };
        let due_ms = time_ms.saturating_add(due.saturating_sub(self.block).saturating_mul(block_ms));
        Some((due_ms.saturating_sub(quicknet::GENESIS_S * 1000) / (quicknet::PERIOD_S * 1000)).max(1))
    }

    fn epochs(&self) -> Option<Epochs> {
        let tempo = u64::from(self.tempo);
        match self.rule {
            _ if tempo == 0 => None,
            Rule::Stored { last, pending, index, since_step } => {
                let asked = if pending == 0 { u64::MAX } else { pending };
                let overdue = self.block.saturating_add(LONGEST.saturating_sub(since_step));
                let due = last.saturating_add(tempo).min(asked).min(overdue);
                Some(Epochs { index, first: due.max(self.block.saturating_add(1)), interval: tempo.min(LONGEST) })
            }
            Rule::Modulo { netuid } => {
                let (interval, offset) = (tempo + 1, u64::from(netuid) + 1);
                let index = self.block.saturating_add(offset) / interval;
                Some(Epochs { index, first: (index + 1).saturating_mul(interval).saturating_sub(offset), interval })
            }
        }
    }

    /// Whether the epoch of block `start` runs for its being long overdue alone: that is only seen once the block has been counted.
    fn is_overdue(&self, start: u64) -> bool {
        let (Rule::Stored { last, pending, since_step, .. }, Some(epochs)) = (self.rule, self.epochs()) else { return false };
        if start > epochs.first {
            return u64::from(self.tempo) > LONGEST;
        }
        let foreseen = (pending > 0 && start >= pending) || start.saturating_sub(last) >= u64::from(self.tempo);
        !foreseen && since_step.saturating_add(start - self.block) <= LONGEST
    }
}

/// The epochs to come: `index` ends where `first` begins, the others follow at a distance.
struct Epochs {
    index: u64,
    first: u64,
    interval: u64,
}

impl Epochs {
    /// The first block of an epoch to come.
    fn start(&self, epoch: u64) -> u64 {
        let further = epoch.saturating_sub(self.index.saturating_add(1));
        self.first.saturating_add(further.saturating_mul(self.interval))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// The runtimes' own steps, block by block.
    #[derive(Clone, Copy, Debug)]
    struct Runtime(Schedule);

    impl Runtime {
        fn is_due(&self, block: u64) -> bool {
            let tempo = u64::from(self.0.tempo);
            match self.0.rule {
                Rule::Stored { last, pending, since_step, .. } => {
                    (pending > 0 && block >= pending) || since_step > 50_400 || block.saturating_sub(last) >= tempo
                }
                Rule::Modulo { netuid } => (block + u64::from(netuid) + 1) % (tempo + 1) == tempo,
            }
        }

        /// `current_epoch_with_lookahead`, and `get_epoch_index` of 2025.
        fn epoch(&self, block: u64) -> u64 {
            match self.0.rule {
                Rule::Stored { index, .. } => index + u64::from(self.is_due(block)),
                Rule::Modulo { netuid } => (block + u64::from(netuid) + 1) / (u64::from(self.0.tempo) + 1),
            }
        }

        /// `drain_pending` of one block.
        fn run(&mut self, block: u64) {
            if let Rule::Stored { since_step, .. } = &mut self.0.rule {
                *since_step += 1;
            }
            let due = self.is_due(block);
            if let (Rule::Stored { last, pending, index, since_step }, true) = (&mut self.0.rule, due) {
                (*last, *pending, *index, *since_step) = (block, 0, *index + 1, 0);
            }
            self.0.block = block;
        }

        /// The epoch that a commit in `block` is filed under, once the block's epoch has run.
        fn tag(&self, block: u64) -> u64 {
            match self.0.rule {
                Rule::Stored { .. } => self.epoch(block),
                Rule::Modulo { .. } => self.epoch(block) + u64::from(self.is_due(block)),
            }
        }

        /// Whether a block that begins opens what is filed under `tag`.
        fn opens(&self, block: u64, tag: u64, period: u64) -> bool {
            match self.0.rule {
                Rule::Stored { .. } => self.epoch(block) == tag + period,
                Rule::Modulo { .. } => self.is_due(block) && self.epoch(block) + 1 == tag + period,
            }
        }
    }

    /// Block of opening, and the first and last block that take a reveal, by simulation.
    fn simulate(schedule: Schedule, committed: u64, period: u64) -> (u64, RangeInclusive<u64>) {
        let mut runtime = Runtime(schedule);
        for block in schedule.block + 1..=committed {
            runtime.run(block);
        }
        let (tag, epoch) = (runtime.tag(committed), runtime.epoch(committed));
        let (mut opening, mut window) = (None, None::<RangeInclusive<u64>>);
        for block in committed + 1.. {
            if opening.is_none() && runtime.opens(block, tag, period) {
                opening = Some(block);
            }
            runtime.run(block);
            match &mut window {
                _ if runtime.epoch(block) == epoch + period => window = Some(window.map_or(block, |w| *w.start())..=block),
                Some(window) if opening.is_some() => return (opening.unwrap(), window.clone()),
                _ => {}
            }
        }
        unreachable!("blocks do not end")
    }

    fn stored() -> impl Strategy<Value = Schedule> {
        let tempo = prop_oneof![4 => 1..=40u16, 1 => Just(360), 1 => 50_399..=50_405u16];
        let since_step = prop_oneof![0..60u64, 50_380..=50_403u64];
        (tempo, 0..1000u64, 0..60u64, prop_oneof![Just(None), (0..80u64).prop_map(Some)], 0..50u64, since_step).prop_map(
            |(tempo, last, after, asked, index, since_step)| {
                let block = last + after;
                let pending = asked.map_or(0, |ahead| last + ahead);
                Schedule { block, tempo, rule: Rule::Stored { last, pending, index, since_step } }
            },
        )
    }

    fn modulo() -> impl Strategy<Value = Schedule> {
        (1..=400u16, 0..5000u64, 0..600u16).prop_map(|(tempo, block, netuid)| Schedule { block, tempo, rule: Rule::Modulo { netuid } })
    }

    proptest! {
        #[test]
        fn the_runtimes_steps_give_the_same_blocks(schedule in prop_oneof![stored(), modulo()], ahead in 1..30u64, period in 1..4u64) {
            let committed = schedule.block + ahead;
            let (opening, window) = simulate(schedule, committed, period);
            prop_assert_eq!(schedule.reveal_blocks(committed, period), Some(window));
            prop_assert_eq!(schedule.opening(committed, period), Some(opening));
        }

        #[test]
        fn no_numbers_overflow(block: u64, tempo: u16, last: u64, pending: u64, index: u64, since_step: u64, committed: u64, period: u64, netuid: u16) {
            for rule in [Rule::Stored { last, pending, index, since_step }, Rule::Modulo { netuid }] {
                let schedule = Schedule { block, tempo, rule };
                schedule.reveal_round(committed, period, u64::MAX, u64::MAX);
                schedule.reveal_blocks(committed, period);
            }
        }
    }

    #[test]
    fn the_sdks_helper_gives_the_same_blocks() {
        // what bittensor-drand 2.0.0 (get_encrypted_commit_v2) answered: last, pending, index, tempo, since step, block, period, opening
        let rows: Vec<[u64; 8]> = serde_json::from_str(include_str!("../tests/timelock/schedule.json")).unwrap();
        for [last, pending, index, tempo, since_step, block, period, opening] in rows {
            let schedule = Schedule { block, tempo: tempo.try_into().unwrap(), rule: Rule::Stored { last, pending, index, since_step } };
            assert_eq!(schedule.opening(block + 1, period), Some(opening), "{schedule:?}");
        }
    }

    #[test]
    fn a_round_is_three_seconds_and_the_margins_hold() {
        let genesis_ms = quicknet::GENESIS_S * 1000;
        let rule = Rule::Stored { last: 100, pending: 0, index: 5, since_step: 5 };
        let schedule = Schedule { block: 105, tempo: 10, rule };
        // opened in block 110; three blocks later is 8 blocks from now, 32 rounds
        assert_eq!(schedule.reveal_round(106, 1, genesis_ms + 300_000, 12_000), Some(132));
        assert_eq!(schedule.reveal_round(106, 1, genesis_ms + 302_999, 12_000), Some(132));
        let schedule = Schedule { block: 105, tempo: 99, rule: Rule::Modulo { netuid: 0 } };
        // epochs run in blocks 98, 198, …; six blocks before 198 is 87 blocks from now, 348 rounds
        assert_eq!(schedule.opening(106, 1), Some(198));
        assert_eq!(schedule.reveal_round(106, 1, genesis_ms + 300_000, 12_000), Some(448));
        assert_eq!(schedule.reveal_round(106, 1, 0, 0), Some(1), "before the beacon's first round");
    }

    #[test]
    fn without_a_tempo_or_period_there_is_nothing_to_wait_for() {
        for rule in [Rule::Stored { last: 0, pending: 7, index: 0, since_step: 0 }, Rule::Modulo { netuid: 1 }] {
            assert_eq!(Schedule { block: 5, tempo: 0, rule }.opening(6, 1), None);
            assert_eq!(Schedule { block: 5, tempo: 9, rule }.opening(6, 0), None);
        }
    }
}
