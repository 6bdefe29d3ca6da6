//! How many sequences can be measured in the time that is left.

use std::time::Duration;

use protocol::Judge;

/// Share of the time left that measuring may take; the rest is for record and step.
const SHARE: f64 = 0.7;
/// A standard error needs two sequences.
const FEWEST: u32 = 2;

/// Sequences per payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batches {
    /// Of the miner's own.
    pub assigned: u32,
    /// Of the random batch.
    pub random: u32,
}

/// The time that a sequence's loss takes here, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    per_sequence: Option<Duration>,
}

impl Pace {
    /// Counts a measurement of `sequences` losses that took `time`.
    pub fn count(&mut self, sequences: u32, time: Duration) {
        self.per_sequence = Some(time / sequences.max(1));
    }

    /// What the manifest asks for, or as much of it as `payloads` payloads leave time for. A payload's own sequences are measured with and
    /// without it, the random ones with it; those without it are shared by all.
    pub fn affordable(&self, judge: &Judge, payloads: usize, left: Duration) -> Batches {
        let Judge { assigned, random, .. } = *judge;
        let wanted = payloads as f64 * f64::from(2 * assigned + random) + f64::from(random);
        let share = match self.per_sequence {
            Some(each) if !each.is_zero() => SHARE * left.as_secs_f64() / each.as_secs_f64() / wanted.max(1.0),
            _ => 1.0,
        };
        let part = |count: u32| ((f64::from(count) * share.min(1.0)) as u32).max(FEWEST);
        Batches { assigned: part(assigned), random: part(random) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_manifest_asks_for_is_measured_as_far_as_time_allows() {
        let judge = Judge { assigned: 10, random: 20, ..Judge::default() };
        let all = Batches { assigned: 10, random: 20 };
        let mut pace = Pace::default();
        assert_eq!(pace.affordable(&judge, 5, Duration::ZERO), all, "nothing is known yet");
        pace.count(100, Duration::from_secs(10));
        // 5 payloads of 40 sequences and 20 more, at 0.1 s each: 22 s
        assert_eq!(pace.affordable(&judge, 5, Duration::from_secs(40)), all);
        assert_eq!(pace.affordable(&judge, 5, Duration::from_secs(16)), Batches { assigned: 5, random: 10 });
        assert_eq!(pace.affordable(&judge, 5, Duration::ZERO), Batches { assigned: 2, random: 2 });
    }
}
