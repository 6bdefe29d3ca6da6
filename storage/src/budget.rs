//! What all transfers of a process share: memory for parts on their way, and bandwidth.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Memory is counted in these, since a semaphore counts in 32 bits.
const UNIT: u64 = 4096;

/// Bytes of a part on its way down.
const SMALLEST_PART: u64 = 1 << 20;
pub(crate) const LARGEST_PART: u64 = 8 << 20;
/// Objects that are read at once with all connections.
const SHARES: usize = 4;

/// What all transfers of a process may use together; clones share it. Who asks first is served first, so that the order in which transfers
/// are started is the order in which they get parts.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connections: usize,
    units: u32,
    memory: Arc<Semaphore>,
    up: Meter,
    down: Meter,
}

/// The most bytes per second that may be moved, without protocol overhead; `None` for as many as the link takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Towards stores.
    pub up: Option<NonZeroU64>,
    /// From stores.
    pub down: Option<NonZeroU64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Self::MEMORY, Self::CONNECTIONS, Rates::default())
    }
}

impl Budget {
    /// Bytes of parts in memory by default: with what the connections hold, less than 256 MiB.
    pub const MEMORY: u64 = 192 << 20;

    /// Parts on their way at once by default. A connection that loses one packet in 200 at 50 ms carries 4 Mbit/s, so that a fast and lossy
    /// link wants more of them.
    pub const CONNECTIONS: usize = 32;

    /// At most `memory` bytes of parts at a time, on at most `connections`, and so many bytes per second.
    pub fn new(memory: u64, connections: usize, rates: Rates) -> Self {
        let units = u32::try_from(memory / UNIT).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS as u32);
        let memory = Arc::new(Semaphore::new(units as usize));
        Self(Arc::new(Shared { connections: connections.max(1), units, memory, up: Meter::new(rates.up), down: Meter::new(rates.down) }))
    }

    /// The size of a part on its way down: as large as `connections` of them fit into memory.
    pub(crate) fn part(&self) -> u64 {
        (self.in_flight() / self.0.connections as u64).clamp(SMALLEST_PART, LARGEST_PART)
    }

    /// Parts of `part` bytes of one object on their way up at once: as many as fit, since a node writes one large object at a time.
    pub(crate) fn uploads(&self, part: u64) -> usize {
        let fit = usize::try_from(self.in_flight() / part.max(1)).unwrap_or(usize::MAX);
        self.0.connections.min(fit).max(1)
    }

    /// Parts of one object on their way down at once: a share, since a node reads several, and none of their owners should have it all.
    pub(crate) fn downloads(&self) -> usize {
        self.0.connections.div_ceil(SHARES)
    }

    /// Waits for room for a part; a part larger than all of it waits until it is alone.
    pub(crate) async fn room(&self, bytes: u64) -> OwnedSemaphorePermit {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.0.units);
        self.0.memory.clone().acquire_many_owned(units).await.expect("it is never closed")
    }

    /// The most bytes that can be on their way at once.
    pub(crate) fn in_flight(&self) -> u64 {
        u64::from(self.0.units) * UNIT
    }

    /// Waits for a part's turn to go up.
    pub(crate) async fn up(&self, bytes: u64) {
        self.0.up.pass(bytes).await;
    }

    /// Waits for a part's turn to come down.
    pub(crate) async fn down(&self, bytes: u64) {
        self.0.down.pass(bytes).await;
    }
}

/// Lets bytes pass at a rate.
#[derive(Debug)]
struct Meter {
    rate: Option<NonZeroU64>,
    /// When what has passed so far will have gone through.
    free: Mutex<Option<Instant>>,
}

impl Meter {
    fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate, free: Mutex::default() }
    }

    /// Waits until everything that passed before has gone through.
    async fn pass(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
        let turn = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = free.map_or_else(Instant::now, |free| free.max(Instant::now()));
            *free = turn.checked_add(takes);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate_whoever_sends_them() {
        let budget = Budget::new(1 << 20, 1, Rates { up: NonZeroU64::new(1000), down: None });
        let start = Instant::now();
        let parts = (0..10).map(|_| budget.up(500));
        futures::future::join_all(parts).await;
        assert_eq!(start.elapsed().as_millis().div_ceil(100), 45, "the tenth starts when nine have gone through");
        budget.down(1 << 40).await;
        assert_eq!(start.elapsed().as_millis().div_ceil(100), 45, "the other direction has no limit");
    }

    #[test]
    fn connections_never_hold_more_than_the_memory() {
        for connections in [1, 32, 1000] {
            let budget = Budget::new(192 << 20, connections, Rates::default());
            for part in [5 << 20, 64 << 20] {
                assert!(budget.uploads(part) as u64 * part <= 192 << 20 && budget.uploads(part) <= connections);
            }
        }
        assert_eq!(Budget::new(1 << 20, 8, Rates::default()).uploads(5 << 20), 1, "a part larger than all of it goes alone");
    }

    #[tokio::test(start_paused = true)]
    async fn parts_wait_for_room_and_a_large_one_for_all_of_it() {
        let budget = Budget::new(10 * UNIT, 1, Rates::default());
        assert_eq!(budget.in_flight(), 10 * UNIT);
        let held = budget.room(6 * UNIT).await;
        let wait = |bytes| tokio::time::timeout(Duration::from_secs(1), budget.room(bytes));
        assert!(wait(5 * UNIT).await.is_err());
        assert!(wait(4 * UNIT).await.is_ok());
        assert!(wait(u64::MAX).await.is_err());
        drop(held);
        assert!(wait(u64::MAX).await.is_ok());
    }
}
