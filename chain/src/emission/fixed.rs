//! Numbers with 32 binary places, rounded down, as the runtime computes emission.

use serde::{Deserialize, Serialize};

const PLACES: u32 = 32;

/// A number ≥ 0 in steps of 2⁻³² (Subtensor's `U96F32`): a price in TAO per alpha, a proportion, or rao with their fraction.
///
/// Every operation rounds down and saturates. Results are exact to the last place while operands stay below 2⁶⁴.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fixed(u128);

impl Fixed {
    /// 0.
    pub const ZERO: Self = Self(0);
    /// 1.
    pub const ONE: Self = Self(1 << PLACES);

    /// The number whose 2³²-fold is `bits`.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Its 2³²-fold.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// A whole number.
    pub const fn whole(value: u64) -> Self {
        Self((value as u128) << PLACES)
    }

    /// `part / total`; 0 if `total` is 0.
    pub fn ratio(part: u64, total: u64) -> Self {
        Self::whole(part).over(Self::whole(total))
    }

    /// The whole part.
    pub const fn floor(self) -> u64 {
        let whole = self.0 >> PLACES;
        if whole > u64::MAX as u128 { u64::MAX } else { whole as u64 }
    }

    /// For display.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / Self::ONE.0 as f64
    }

    /// `self + other`.
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `self − other`, or 0.
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self · other`.
    pub const fn times(self, other: Self) -> Self {
        let (whole, rest) = (self.0 >> PLACES, self.0 & (Self::ONE.0 - 1));
        Self(whole.saturating_mul(other.0).saturating_add(rest.saturating_mul(other.0) >> PLACES))
    }

    /// `self / other`; 0 if `other` is 0.
    pub const fn over(self, other: Self) -> Self {
        match self.0.saturating_mul(Self::ONE.0).checked_div(other.0) {
            Some(quotient) => Self(quotient),
            None => Self::ZERO,
        }
    }

    /// `self · part / total` with one rounding only; 0 if `total` is 0. `part` must not exceed `total`.
    pub fn share(self, part: Self, total: Self) -> Self {
        Self(mul_div(self.0, part.0, total.0))
    }
}

/// ⌊amount · part / total⌋ for `part` ≤ `total` and `amount` < 2¹²⁷; 0 if `total` is 0. Where the product would not fit, low bits of part and
/// total are dropped.
pub(super) fn mul_div(amount: u128, part: u128, total: u128) -> u128 {
    debug_assert!(part <= total, "a part is at most the total");
    let bits = |x: u128| u128::BITS - x.leading_zeros();
    let excess = (bits(amount) + bits(total)).saturating_sub(u128::BITS);
    let (part, total) = match excess {
        0 => (part, total),
        _ => (part.checked_shr(excess).unwrap_or(0), total.checked_shr(excess).unwrap_or(0)),
    };
    (amount * part).checked_div(total).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn results_are_rounded_down_in_the_32nd_place() {
        let third = Fixed::ratio(1, 3);
        assert_eq!(third.bits(), (1 << 32) / 3);
        assert_eq!(third.times(Fixed::whole(3)), Fixed::from_bits((1 << 32) - 1));
        assert_eq!(Fixed::whole(7).share(Fixed::ONE, Fixed::whole(2)), Fixed::from_bits(7 << 31));
        assert_eq!(Fixed::ONE.over(Fixed::ZERO), Fixed::ZERO);
        assert_eq!(Fixed::ONE.minus(Fixed::whole(2)), Fixed::ZERO);
    }

    proptest! {
        #[test]
        fn a_product_undone_is_at_most_what_it_was(value in any::<u64>(), part in 1..u64::MAX) {
            let share = Fixed::ratio(part, u64::MAX);
            prop_assert!(Fixed::whole(value).times(share).over(share) <= Fixed::whole(value));
        }

        #[test]
        fn a_share_is_the_exact_quotient_where_the_product_fits(amount in any::<u64>(), total in 1..u64::MAX, part in any::<u64>()) {
            let part = part % (total + 1);
            prop_assert_eq!(mul_div(amount.into(), part.into(), total.into()), u128::from(amount) * u128::from(part) / u128::from(total));
        }

        #[test]
        fn a_share_of_anything_is_at_most_all_of_it(amount in 0..u128::MAX / 2, total in 1..u128::MAX, part in any::<u128>()) {
            prop_assert!(mul_div(amount, part % (total + 1), total) <= amount);
            prop_assert_eq!(mul_div(amount, total, total), amount);
        }
    }
}
