//! What a block creates: the curve of TAO, and of each subnet's alpha.

use super::Fixed;
use crate::{MAX_SUPPLY, RAO_PER_TAO};

/// Rao that a block creates when `issuance` rao exist: one TAO, halved each time half of what was left to issue has been issued.
///
/// 10⁹ / 2ᵏ with k = ⌊log₂(1 / (1 − issuance / 21 M))⌋, so halving k begins at 21 M · (1 − 2⁻ᵏ): 10.5 M, 15.75 M, 18.375 M, …
/// The quotients have 32 binary places as on Subtensor (`get_block_emission_for_issuance`), which moves a threshold by at most 0.005 TAO.
/// Alpha has the same curve over the subnet's own issuance.
pub fn block_emission(issuance: u64) -> u64 {
    if issuance >= MAX_SUPPLY {
        return 0;
    }
    let left = Fixed::ONE.minus(Fixed::ratio(issuance, MAX_SUPPLY));
    let halvings = Fixed::ONE.over(left).floor().max(1).ilog2();
    RAO_PER_TAO >> halvings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn emission_halves_at_the_known_thresholds() {
        let tao = |tao: f64| (tao * RAO_PER_TAO as f64) as u64;
        let table = [
            (0.0, 1_000_000_000),
            (10_499_999.99, 1_000_000_000),
            (10_500_000.0, 500_000_000),
            (15_749_999.99, 500_000_000),
            (15_750_000.0, 250_000_000),
            (18_375_000.0, 125_000_000),
            (19_687_500.0, 62_500_000),
            (20_343_750.0, 31_250_000),
            (20_671_875.0, 15_625_000),
            (20_835_937.5, 7_812_500),
            (21_000_000.0, 0),
        ];
        for (issued, emission) in table {
            assert_eq!(block_emission(tao(issued)), emission, "at {issued} TAO");
        }
    }

    #[test]
    fn issued_in_strides_the_supply_comes_to_within_a_tao_of_21_million_and_never_above() {
        // as many blocks at once as cannot reach the next halving
        let mut issued = 0;
        while block_emission(issued) > 0 {
            let stride = ((MAX_SUPPLY - issued) / 4 / block_emission(issued)).max(1);
            issued += stride * block_emission(issued);
            assert!(issued <= MAX_SUPPLY);
        }
        assert!(MAX_SUPPLY - issued < RAO_PER_TAO);
    }

    proptest! {
        #[test]
        fn no_block_goes_beyond_the_supply_and_none_creates_more_than_an_earlier_one(a in 0..=MAX_SUPPLY, b in 0..=MAX_SUPPLY) {
            prop_assert!(a + block_emission(a) <= MAX_SUPPLY);
            prop_assert!(block_emission(a.max(b)) <= block_emission(a.min(b)));
        }
    }
}
