//! What a subnet's part of the emission does to its pool.

use super::Fixed;

/// What becomes of TAO that has no alpha to go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Excess {
    /// It goes into the pool all the same and lifts the price (Subtensor in July 2025).
    Inject,
    /// The chain buys alpha with it, and holds that (Subtensor since).
    Buy,
}

/// One block's liquidity for one pool, in rao.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// TAO into the pool.
    pub tao: u64,
    /// Alpha into the pool.
    pub alpha: u64,
    /// TAO that buys alpha from the pool.
    pub buy: u64,
}

/// Splits a subnet's part of the block's TAO, `tao`: it goes into the pool together with alpha at the pool's price, so that the price stays,
/// but with at most `cap` alpha; `excess` says what the TAO beyond that does (Subtensor's `get_subnet_terms`).
///
/// The cap is the subnet's alpha emission of the block, since 2026 times its root proportion. At a price of 0 only the cap bounds the alpha
/// under [`Excess::Inject`], and none is made under [`Excess::Buy`].
pub fn injection(tao: Fixed, price: Fixed, cap: Fixed, excess: Excess) -> Injection {
    let priced = tao.over(price);
    match excess {
        Excess::Inject => {
            let alpha = if price == Fixed::ZERO { cap } else { priced.min(cap) };
            Injection { tao: tao.floor(), alpha: alpha.floor(), buy: 0 }
        }
        Excess::Buy if priced > cap => {
            let matched = cap.times(price).min(tao);
            Injection { tao: matched.floor(), alpha: cap.floor(), buy: tao.minus(matched).floor() }
        }
        Excess::Buy => Injection { tao: tao.floor(), alpha: priced.floor(), buy: 0 },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::RAO_PER_TAO;

    #[test]
    fn below_the_cap_tao_and_alpha_go_in_at_the_price() {
        for excess in [Excess::Inject, Excess::Buy] {
            let got = injection(Fixed::whole(500), Fixed::ratio(1, 4), Fixed::whole(2_000), excess);
            assert_eq!(got, Injection { tao: 500, alpha: 2_000, buy: 0 });
        }
    }

    #[test]
    fn above_the_cap_the_rest_of_the_tao_lifts_the_price_or_buys() {
        let (tao, price, cap) = (Fixed::whole(500), Fixed::ratio(1, 4), Fixed::whole(1_200));
        assert_eq!(injection(tao, price, cap, Excess::Inject), Injection { tao: 500, alpha: 1_200, buy: 0 });
        assert_eq!(injection(tao, price, cap, Excess::Buy), Injection { tao: 300, alpha: 1_200, buy: 200 });
    }

    proptest! {
        #[test]
        fn no_more_tao_is_used_than_there_is_and_at_most_two_rao_less(
            tao in 0..=RAO_PER_TAO, price in 1..1u128 << 40, cap in 0..=RAO_PER_TAO, buys in any::<bool>(),
        ) {
            let excess = if buys { Excess::Buy } else { Excess::Inject };
            let got = injection(Fixed::whole(tao), Fixed::from_bits(price), Fixed::whole(cap), excess);
            prop_assert!(got.tao + got.buy <= tao && got.tao + got.buy + 2 >= tao);
            prop_assert!(got.alpha <= cap);
        }
    }
}
