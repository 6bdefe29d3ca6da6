//! A subnet's pool of TAO and alpha, with the constant product for a rule.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Fixed;

/// What Subtensor takes of a swap by default, of 65,535: 0.05 %.
pub const DEFAULT_FEE: u16 = 33;

/// Why a swap is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SwapError {
    /// A reserve is empty, so there is no price.
    #[error("the pool holds {tao} rao of TAO and {alpha} of alpha, and without both there is no price; inject liquidity first")]
    NoLiquidity {
        /// Rao of TAO.
        tao: u64,
        /// Rao of alpha.
        alpha: u64,
    },
    /// The reserve would not fit its integer.
    #[error("{0} rao are more than can be; swap less")]
    TooMuch(u64),
}

/// Reserves of one subnet, in rao.
///
/// A swap of `x` takes the fee, ⌈x · fee / 65,535⌉, which stays in the pool, and pays ⌊out · net / (in + net)⌋: rounded in the pool's favour,
/// so that the product of the reserves never falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Reserve of TAO.
    pub tao: u64,
    /// Reserve of alpha.
    pub alpha: u64,
    /// Part of what comes in that stays uncounted, of 65,535.
    pub fee: u16,
}

impl Pool {
    /// TAO per alpha at the margin; 0 while there is no alpha.
    pub fn price(&self) -> Fixed {
        Fixed::ratio(self.tao, self.alpha)
    }

    /// The product of the reserves.
    pub fn product(&self) -> u128 {
        u128::from(self.tao) * u128::from(self.alpha)
    }

    /// Pays `tao` rao in; the alpha that comes out.
    ///
    /// # Errors
    /// [`SwapError`]; the pool is then as it was.
    pub fn buy(&mut self, tao: u64) -> Result<u64, SwapError> {
        let (paid_in, alpha) = self.quote(tao, self.tao, self.alpha)?;
        (self.tao, self.alpha) = (paid_in, self.alpha - alpha);
        Ok(alpha)
    }

    /// Pays `alpha` rao in; the TAO that comes out.
    ///
    /// # Errors
    /// [`SwapError`]; the pool is then as it was.
    pub fn sell(&mut self, alpha: u64) -> Result<u64, SwapError> {
        let (paid_in, tao) = self.quote(alpha, self.alpha, self.tao)?;
        (self.alpha, self.tao) = (paid_in, self.tao - tao);
        Ok(tao)
    }

    /// Adds liquidity.
    ///
    /// # Errors
    /// [`SwapError::TooMuch`]; the pool is then as it was.
    pub fn inject(&mut self, tao: u64, alpha: u64) -> Result<(), SwapError> {
        let grown = |reserve: u64, by: u64| reserve.checked_add(by).ok_or(SwapError::TooMuch(by));
        (self.tao, self.alpha) = (grown(self.tao, tao)?, grown(self.alpha, alpha)?);
        Ok(())
    }

    /// The reserve that is paid into, afterwards, and what comes out of the other.
    fn quote(&self, amount: u64, reserve_in: u64, reserve_out: u64) -> Result<(u64, u64), SwapError> {
        if reserve_in == 0 || reserve_out == 0 {
            return Err(SwapError::NoLiquidity { tao: self.tao, alpha: self.alpha });
        }
        let paid_in = reserve_in.checked_add(amount).ok_or(SwapError::TooMuch(amount))?;
        let kept = u16::MAX - self.fee;
        let net = u128::from(amount) * u128::from(kept) / u128::from(u16::MAX);
        // net < 2⁶⁴ and the quotient < reserve_out
        let out = u128::from(reserve_out) * net / (u128::from(reserve_in) + net);
        Ok((paid_in, out as u64))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::{MAX_SUPPLY, RAO_PER_TAO};

    #[test]
    fn a_buy_that_doubles_the_tao_gets_half_of_the_alpha() {
        let mut pool = Pool { tao: 1000, alpha: 4000, fee: 0 };
        assert_eq!(pool.price().to_f64(), 0.25);
        assert_eq!(pool.buy(1000), Ok(2000));
        assert_eq!(pool, Pool { tao: 2000, alpha: 2000, fee: 0 });
        assert_eq!(pool.sell(2000), Ok(1000));
    }

    #[test]
    fn the_default_fee_is_a_twentieth_of_a_percent() {
        let large = MAX_SUPPLY / 2;
        let mut pool = Pool { tao: large, alpha: large, fee: DEFAULT_FEE };
        let got = pool.buy(1000 * RAO_PER_TAO).unwrap() as f64 / (1000 * RAO_PER_TAO) as f64;
        assert!((got - (1.0 - 33.0 / 65_535.0)).abs() < 1e-3 && got < 0.9996, "{got}");
    }

    #[test]
    fn an_empty_pool_swaps_nothing_and_a_refusal_changes_nothing() {
        let mut empty = Pool { tao: 0, alpha: 5, fee: 0 };
        assert_eq!(empty.sell(1), Err(SwapError::NoLiquidity { tao: 0, alpha: 5 }));
        let full = Pool { tao: u64::MAX, alpha: 5, fee: 0 };
        let mut pool = full;
        assert_eq!(pool.buy(1), Err(SwapError::TooMuch(1)));
        assert_eq!(pool.inject(1, 0), Err(SwapError::TooMuch(1)));
        assert_eq!(pool, full);
    }

    fn any_pool() -> impl Strategy<Value = Pool> {
        (1..=MAX_SUPPLY, 1..=MAX_SUPPLY, any::<u16>()).prop_map(|(tao, alpha, fee)| Pool { tao, alpha, fee })
    }

    proptest! {
        #[test]
        fn the_product_never_falls_and_a_reserve_never_empties(
            mut pool in any_pool(),
            swaps in prop::collection::vec((any::<bool>(), 0..=MAX_SUPPLY), 1..32),
        ) {
            for (buys, amount) in swaps {
                let before = pool;
                if buys {
                    let alpha = pool.buy(amount).unwrap();
                    prop_assert_eq!((pool.tao, pool.alpha), (before.tao + amount, before.alpha - alpha));
                } else {
                    let tao = pool.sell(amount).unwrap();
                    prop_assert_eq!((pool.tao, pool.alpha), (before.tao - tao, before.alpha + amount));
                }
                prop_assert!(pool.product() >= before.product());
                prop_assert!(pool.tao > 0 && pool.alpha > 0);
            }
        }

        #[test]
        fn nobody_gains_by_buying_and_selling_again(mut pool in any_pool(), tao in 0..=MAX_SUPPLY) {
            let alpha = pool.buy(tao).unwrap();
            prop_assert!(pool.sell(alpha).unwrap() <= tao);
        }

        #[test]
        fn without_a_fee_two_swaps_get_no_more_than_one_of_their_sum(
            pool in any_pool(), first in 0..=MAX_SUPPLY / 2, second in 0..=MAX_SUPPLY / 2,
        ) {
            let mut whole = Pool { fee: 0, ..pool };
            let mut halves = whole;
            let at_once = whole.buy(first + second).unwrap();
            let in_two = halves.buy(first).unwrap() + halves.buy(second).unwrap();
            prop_assert!(in_two <= at_once);
        }
    }
}
