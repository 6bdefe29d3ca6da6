//! The runtime's number: 32 bits before the point, sign among them, and 32 behind it.
//!
//! Products are rounded down, quotients towards zero, and what does not fit stops at the type's ends, as in the library `substrate-fixed`, by
//! which the runtime computes. Sums are exact, so their order does not matter.

use std::{
    iter::Sum,
    ops::{Add, Mul, Neg, Sub},
};

/// A count of 2⁻³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fixed(i64);

/// Bits behind the point.
const FRACTION: u32 = 32;
/// Terms of the exponential's series, the first two among them.
const TERMS: i32 = 32;

impl Fixed {
    pub(super) const ZERO: Self = Self(0);
    pub(super) const ONE: Self = Self(1 << FRACTION);
    pub(super) const HALF: Self = Self(1 << (FRACTION - 1));
    const MAX: Self = Self(i64::MAX);
    /// e to 23 bits behind the point, the value that the runtime gives to exp(1).
    const E: Self = Self(0x15B_F0A8 << (FRACTION - 23));

    pub(super) fn whole(x: i32) -> Self {
        Self(i64::from(x) << FRACTION)
    }

    /// `part` of `whole`, rounded down; 0 of nothing.
    pub(super) fn share(part: u64, whole: u128) -> Self {
        (u128::from(part) << FRACTION).checked_div(whole).map_or(Self::ZERO, |x| Self(i64::try_from(x).unwrap_or(i64::MAX)))
    }

    /// x / 65,535.
    pub(super) fn proportion(x: u16) -> Self {
        Self::share(x.into(), u16::MAX.into())
    }

    /// trunc(x · 65,535) within u16.
    pub(super) fn to_proportion(self) -> u16 {
        let scaled = self * Self::whole(u16::MAX.into());
        u16::try_from(scaled.0.max(0) >> FRACTION).unwrap_or(u16::MAX)
    }

    /// trunc(x · `whole`) for x from 0 on.
    pub(super) fn of(self, whole: u64) -> u64 {
        let product = u128::from(self.0.max(0).unsigned_abs()) * u128::from(whole);
        u64::try_from(product >> FRACTION).unwrap_or(u64::MAX)
    }

    /// The quotient; `None` where it does not exist or does not fit.
    fn checked_over(self, divisor: Self) -> Option<Self> {
        let quotient = (i128::from(self.0) << FRACTION).checked_div(divisor.0.into())?;
        i64::try_from(quotient).ok().map(Self)
    }

    /// The quotient; 0 where it does not exist or does not fit.
    pub(super) fn over(self, divisor: Self) -> Self {
        self.checked_over(divisor).unwrap_or_default()
    }

    fn checked_mul(self, other: Self) -> Option<Self> {
        i64::try_from((i128::from(self.0) * i128::from(other.0)) >> FRACTION).ok().map(Self)
    }

    /// e^x by 32 terms of its series, and 1/e^−x below zero; `None` if a term does not fit, which happens from about ±21 on.
    pub(super) fn exp(self) -> Option<Self> {
        match self {
            Self::ZERO => return Some(Self::ONE),
            Self::ONE => return Some(Self::E),
            _ => {}
        }
        let x = Self(self.0.checked_abs()?);
        let (mut term, mut sum) = (x, x + Self::ONE);
        for i in 2..TERMS {
            term = term.checked_mul(x)?.checked_over(Self::whole(i))?;
            sum = Self(sum.0.checked_add(term.0)?);
        }
        if self < Self::ZERO { Self::ONE.checked_over(sum) } else { Some(sum) }
    }

    /// e^x for x brought within ±20; the largest number if even that does not fit.
    pub(super) fn bounded_exp(self) -> Self {
        self.clamp(Self::whole(-20), Self::whole(20)).exp().unwrap_or(if self <= Self::ZERO { Self::ZERO } else { Self::MAX })
    }
}

impl Add for Fixed {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Fixed {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Neg for Fixed {
    type Output = Self;

    fn neg(self) -> Self {
        Self::ZERO - self
    }
}

impl Mul for Fixed {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let ends = if (self.0 < 0) == (other.0 < 0) { Self::MAX } else { Self(i64::MIN) };
        self.checked_mul(other).unwrap_or(ends)
    }
}

impl Sum for Fixed {
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        terms.fold(Self::ZERO, Self::add)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn float(x: Fixed) -> f64 {
        x.0 as f64 / 2f64.powi(32)
    }

    #[test]
    fn products_round_down_and_quotients_towards_zero() {
        let least = Fixed(1);
        assert_eq!((least * Fixed::HALF, -least * Fixed::HALF), (Fixed::ZERO, -least));
        assert_eq!((Fixed::ONE.over(Fixed::whole(3)), (-Fixed::ONE).over(Fixed::whole(3))), (Fixed(0x5555_5555), -Fixed(0x5555_5555)));
        assert_eq!((Fixed::ONE.over(Fixed::ZERO), Fixed::whole(2).over(least)), (Fixed::ZERO, Fixed::ZERO));
        assert_eq!(Fixed::whole(65_536) * Fixed::whole(-65_536), Fixed(i64::MIN));
        assert_eq!(Fixed::share(7, 0), Fixed::ZERO);
    }

    #[test]
    fn an_exponential_that_does_not_fit_is_none_or_bounded() {
        assert_eq!((Fixed::ZERO.exp(), Fixed::ONE.exp()), (Some(Fixed::ONE), Some(Fixed::E)));
        assert!((float(Fixed::E) - 1f64.exp()).abs() < 2f64.powi(-23));
        assert_eq!((Fixed::whole(40).exp(), Fixed::whole(-40).exp()), (None, None));
        assert_eq!(Fixed::whole(40).bounded_exp(), Fixed::whole(20).exp().unwrap());
        assert_eq!(Fixed(i64::MIN).bounded_exp(), Fixed::whole(-20).exp().unwrap());
    }

    proptest! {
        #[test]
        fn arithmetic_follows_the_reals(a in -2f64.powi(14)..2f64.powi(14), b in -2f64.powi(14)..2f64.powi(14), x in -8.0..8.0) {
            let fixed = |x: f64| Fixed((x * 2f64.powi(32)) as i64);
            let close = |x: Fixed, y: f64| (float(x) - y).abs() <= 1e-4 * (1.0 + y.abs());
            prop_assert!(close(fixed(a) + fixed(b), a + b) && close(fixed(a) - fixed(b), a - b) && close(fixed(a) * fixed(b), a * b));
            prop_assert!(b.abs() < 0.1 || close(fixed(a).over(fixed(b)), a / b));
            prop_assert!(close(fixed(x).exp().unwrap(), f64::exp(x)));
        }

        #[test]
        fn a_proportion_comes_back_within_one(x: u16) {
            prop_assert!(x - Fixed::proportion(x).to_proportion() <= 1);
        }
    }
}
