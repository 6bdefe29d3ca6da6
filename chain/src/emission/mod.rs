//! The currency that blocks create, who gets it, and what it is worth: issuance, shares of subnets, pools, dividends; to the last rao.
//!
//! Pure functions. The formulas are Subtensor's, named where they stand; numbers have the runtime's 32 binary places ([`Fixed`]), and what is
//! split is split so that the parts sum to the whole. The ledger has one subnet that is paid in TAO ([`issued`], [`split`]); the rest is
//! dynamic TAO, where each subnet has an alpha of its own.

mod apportion;
mod dividends;
mod fixed;
mod injection;
mod issuance;
mod pool;
mod shares;

use crate::MAX_SUPPLY;

pub use apportion::apportion;
pub use dividends::{AlphaSplit, Backing, DEFAULT_TAKE, OWNER_CUT, dividends, of_u16, root_proportion, take_and_stakers};
pub use fixed::Fixed;
pub use injection::{Excess, Injection, injection};
pub use issuance::block_emission;
pub use pool::{DEFAULT_FEE, Pool, SwapError};
pub use shares::{FLOW_SMOOTHING, Flow, MOVING_ALPHA, PRICE_HALVING_BLOCKS, by_flow, by_price, moving_price};

/// The owner's share, in percent.
pub const OWNER_PERCENT: u64 = 18;
/// The miners' share, in percent; the validators get the rest.
pub const MINERS_PERCENT: u64 = 41;

/// Rao created by all blocks up to and including `block`, at `per_block` each, until [`MAX_SUPPLY`] is reached.
pub fn issued(per_block: u64, block: u64) -> u64 {
    per_block.saturating_mul(block).min(MAX_SUPPLY)
}

/// What each uid earns, in rao; index = uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pay {
    /// As owner or miner: its coldkey's alone.
    pub own: Vec<u64>,
    /// As validator: shared with those who stake behind it.
    pub dividends: Vec<u64>,
}

/// Splits `pot` rao among the uids; all of it is always paid. `owner` is the owner's uid.
///
/// Without any incentive the miners' share goes to the validators, and without anybody to pay among those to the owner.
///
/// # Panics
/// If `owner` is not an index of `dividends`, or the two slices differ in length.
pub fn split(pot: u64, owner: usize, incentive: &[u16], dividends: &[u16]) -> Pay {
    assert_eq!(incentive.len(), dividends.len(), "one entry per uid");
    let owners = percent(pot, OWNER_PERCENT);
    let miners = percent(pot, MINERS_PERCENT);
    let nothing = || vec![0; dividends.len()];
    let mined = apportion(miners, incentive);
    let validators = pot - owners - if mined.is_some() { miners } else { 0 };
    let validated = apportion(validators, dividends);
    let mut own = mined.unwrap_or_else(nothing);
    own[owner] += owners + if validated.is_some() { 0 } else { validators };
    Pay { own, dividends: validated.unwrap_or_else(nothing) }
}

/// ⌊amount · percent / 100⌋.
fn percent(amount: u64, percent: u64) -> u64 {
    (u128::from(amount) * u128::from(percent) / 100) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_shares_are_18_41_41() {
        let pay = split(1000, 0, &[0, 0, 100, 300], &[0, 7, 0, 0]);
        assert_eq!(pay, Pay { own: vec![180, 0, 102, 308], dividends: vec![0, 410, 0, 0] });
    }

    #[test]
    fn without_incentive_validators_get_the_miners_share_and_without_validators_the_owner() {
        assert_eq!(split(1000, 0, &[0, 0], &[0, 9]), Pay { own: vec![180, 0], dividends: vec![0, 820] });
        assert_eq!(split(1000, 0, &[0, 0], &[0, 0]), Pay { own: vec![1000, 0], dividends: vec![0, 0] });
    }

    #[test]
    fn issuance_stops_at_the_supply() {
        assert_eq!(issued(1_000_000_000, 7), 7_000_000_000);
        assert_eq!(issued(1_000_000_000, u64::MAX), MAX_SUPPLY);
    }

    proptest! {
        #[test]
        fn nothing_is_created_or_lost(
            pot in 0..=MAX_SUPPLY,
            shares in prop::collection::vec((any::<u16>(), any::<u16>()), 1..64),
            owner in any::<prop::sample::Index>(),
        ) {
            let (incentive, dividends): (Vec<u16>, Vec<u16>) = shares.into_iter().unzip();
            let pay = split(pot, owner.index(incentive.len()), &incentive, &dividends);
            prop_assert_eq!(pay.own.iter().chain(&pay.dividends).sum::<u64>(), pot);
        }
    }
}
