//! How long and how often a store is asked.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Cause, Failure, StorageError};

/// How long and how often a store is asked before an operation gives up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Time for an operation with all its attempts, beside what `slowest` adds.
    pub deadline: Duration,
    /// Time for one attempt, beside what `slowest` adds: a request that hangs is given up for another one.
    pub patience: Duration,
    /// Bytes per second below which a transfer counts as stuck: each byte that an operation may move adds 1/`slowest` seconds.
    pub slowest: u64,
    /// Attempts per operation, at least 1.
    pub attempts: u32,
    /// Pause after the first failed attempt; it doubles with each further one, and a random half of it is left out.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            patience: Duration::from_secs(10),
            slowest: 1 << 20,
            // with the pauses between them some nine seconds: a store that is busy for a moment is one again by then
            attempts: 8,
            pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// The same, but as many attempts as there is time for: for parts of large objects, where going on is cheaper than giving up, and for one's
    /// own bucket.
    pub(crate) fn persistent(&self) -> Self {
        Self { attempts: u32::MAX, ..*self }
    }

    /// Time to move `bytes`, beside that to answer.
    fn transfer(&self, bytes: u64) -> Duration {
        Duration::from_secs(bytes / self.slowest.max(1))
    }

    /// Pause after failed attempt `attempt` (from 1): exponential, capped, with jitter so that many clients don't return at once.
    fn pause_after(&self, attempt: u32) -> Duration {
        let doubled = self.pause.saturating_mul(1u32.checked_shl(attempt - 1).unwrap_or(u32::MAX)).min(self.longest_pause);
        // each RandomState is keyed afresh, which is random enough for jitter
        let jitter = RandomState::new().hash_one(attempt) as f64 / u64::MAX as f64;
        doubled.mul_f64(0.5 + 0.5 * jitter)
    }

    /// Runs `attempt` until it succeeds, fails for good, or runs out of attempts or time.
    pub(crate) async fn run<T, F>(&self, url: &str, bytes: u64, attempt: impl Fn() -> F) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let started = Instant::now();
        let [budget, once] = [self.deadline, self.patience].map(|time| time.saturating_add(self.transfer(bytes)));
        let mut tries = 0;
        loop {
            tries += 1;
            let time = once.min(budget.saturating_sub(started.elapsed()));
            let source = match tokio::time::timeout(time, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(Failure::Final(error))) => return Err(error),
                Ok(Err(Failure::Transient(source))) => source,
                Err(_) => Cause::from(format!("not done within {time:?}")),
            };
            let pause = self.pause_after(tries);
            if tries >= self.attempts || started.elapsed().saturating_add(pause) >= budget {
                return Err(StorageError::Unreachable { url: url.to_owned(), attempts: tries, source });
            }
            tracing::debug!(url, tries, ?pause, %source, "storage: trying again");
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_cap_and_differ() {
        let limits = Limits::default();
        for attempt in [1, 2, 3, 40, u32::MAX] {
            let full = Duration::from_millis(100).saturating_mul(1u32.checked_shl(attempt - 1).unwrap_or(u32::MAX));
            let pause = limits.pause_after(attempt);
            assert!(pause <= full.min(limits.longest_pause) && pause >= full.min(limits.longest_pause) / 2);
        }
        let pauses: std::collections::HashSet<Duration> = (0..10).map(|_| limits.pause_after(3)).collect();
        assert!(pauses.len() > 1);
    }

    #[test]
    fn a_budget_never_overflows() {
        let limits = Limits { slowest: 0, ..Limits::default() };
        assert!(limits.deadline.saturating_add(limits.transfer(u64::MAX)) >= Duration::from_secs(u64::MAX / 2));
    }
}
