//! What a registration costs: more after intervals with many of them, less after others.

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::db::{Tx, U64};
use super::error::Fault;

/// How the price of a registration adapts. Amounts are in rao.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burn {
    /// The price at first.
    pub start: u64,
    /// The lowest price.
    pub min: u64,
    /// The highest price.
    pub max: u64,
    /// Blocks from one adjustment to the next.
    pub interval: u64,
    /// Registrations per interval at which the price stays.
    pub target: u16,
}

impl Default for Burn {
    /// Subtensor's defaults: 0.1 TAO at first, 0.0005 to 100 TAO, two registrations per 100 blocks.
    fn default() -> Self {
        Self { start: 100_000_000, min: 500_000, max: 100_000_000_000, interval: 100, target: 2 }
    }
}

impl Burn {
    /// The price after an interval with so many registrations: price · (registrations + target) / (2 · target), within the bounds. This is the
    /// rule of Subtensor's runtimes up to 2025, with its default of no memory (adjustment alpha 0).
    pub fn adjusted(&self, price: u64, registrations: u64) -> u64 {
        let target = u128::from(self.target);
        let next = u128::from(price) * (u128::from(registrations) + target) / (2 * target);
        u64::try_from(next).unwrap_or(u64::MAX).clamp(self.min, self.max)
    }
}

impl Tx<'_> {
    /// What a registration in the next block costs, in rao.
    pub(super) fn burn(&self) -> Result<u64, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT rao FROM burn ORDER BY block DESC LIMIT 1")?;
        let price = statement.query_row([], |row| row.get::<_, U64>(0)).optional()?;
        Ok(price.map_or(self.config.burn.start, |rao| rao.0))
    }

    /// Ends an interval with the head block.
    pub(super) fn adjust_burn(&self) -> Result<(), Fault> {
        let (end, burn) = (self.head.number, &self.config.burn);
        let mut statement =
            self.conn.prepare_cached("SELECT count(*) FROM call WHERE block BETWEEN ?1 AND ?2 AND kind = 'burned-register'")?;
        let registrations = statement.query_row(params![U64(end + 1 - burn.interval), U64(end)], |row| row.get::<_, U64>(0))?;
        let old = self.burn()?;
        let new = burn.adjusted(old, registrations.0);
        if new != old {
            self.conn.prepare_cached("INSERT INTO burn (block, rao) VALUES (?1, ?2)")?.execute(params![U64(end), U64(new)])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_price_halves_when_nobody_comes_and_doubles_at_three_times_the_target() {
        let burn = Burn::default();
        assert_eq!([0, 2, 6].map(|registrations| burn.adjusted(100_000_000, registrations)), [50_000_000, 100_000_000, 200_000_000]);
    }

    proptest! {
        #[test]
        fn the_price_keeps_its_bounds_and_rises_with_registrations(
            (min, price, max) in any::<[u64; 3]>().prop_map(|mut prices| { prices.sort(); prices.into() }),
            (few, more) in any::<[u64; 2]>().prop_map(|mut counts| { counts.sort(); counts.into() }),
            target in 1..=u16::MAX,
        ) {
            let burn = Burn { start: price, min, max, interval: 1, target };
            let (low, high) = (burn.adjusted(price, few), burn.adjusted(price, more));
            prop_assert!(min <= low && low <= high && high <= max);
            prop_assert_eq!(burn.adjusted(price, u64::from(target)), price);
        }
    }
}
