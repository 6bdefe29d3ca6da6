//! Who gets a subnet's alpha: owner, miners, validators, root, stakers; to the last rao.

use super::{Fixed, apportion};

/// The owner's cut on Subtensor, of 65,535: 18 %.
pub const OWNER_CUT: u16 = 11_796;
/// A validator's take on Subtensor unless it asks for less, of 65,535: 18 %.
pub const DEFAULT_TAKE: u16 = 11_796;

/// `part` of 65,535.
pub fn of_u16(part: u16) -> Fixed {
    Fixed::ratio(part.into(), u16::MAX.into())
}

/// The part of a subnet's dividends that belongs to stake on root: w · root / (w · root + alpha issuance), with w the weight of TAO
/// beside alpha (Subtensor's `root_proportion`). Amounts in rao.
pub fn root_proportion(root_stake: u64, tao_weight: Fixed, alpha_issuance: u64) -> Fixed {
    let weighted = Fixed::whole(root_stake).times(tao_weight);
    weighted.over(weighted.plus(Fixed::whole(alpha_issuance)))
}

/// One block's alpha by destination, in rao.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlphaSplit {
    /// The subnet's owner.
    pub owner: u64,
    /// Miners, by incentive.
    pub miners: u64,
    /// Validators and those who stake alpha behind them, by dividends.
    pub validators: u64,
    /// Validators and those who stake TAO behind them on root.
    pub root: u64,
}

impl AlphaSplit {
    /// Splits `alpha` rao: the owner's cut of all; of the rest half to the miners and half to the validators, and of the latter the root
    /// proportion to root: 18 / 41 / 41 % (Subtensor's `emit_to_subnets`). Parts are rounded down but the validators', who get what is left,
    /// so that the parts sum to `alpha`; on Subtensor the up to 3 rao that rounding leaves are credited to nobody.
    pub fn of(alpha: u64, owner_cut: u16, root_proportion: Fixed) -> Self {
        let half = Fixed::from_bits(Fixed::ONE.bits() / 2);
        let cut = Fixed::whole(alpha).times(of_u16(owner_cut));
        let rest = Fixed::whole(alpha).minus(cut);
        let (owner, miners) = (cut.floor(), rest.times(half).floor());
        let root = root_proportion.min(Fixed::ONE).times(rest).times(half).floor();
        Self { owner, miners, validators: alpha - owner - miners - root, root }
    }

    /// All of it.
    pub const fn total(&self) -> u64 {
        self.owner + self.miners + self.validators + self.root
    }

    /// The sum, part by part.
    pub fn add(&mut self, other: Self) {
        self.owner += other.owner;
        self.miners += other.miners;
        self.validators += other.validators;
        self.root += other.root;
    }
}

/// What stands behind a validator at an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Its dividends of the epoch, of any scale.
    pub dividends: u64,
    /// Alpha staked behind it, in rao.
    pub alpha: u64,
    /// TAO staked behind it on root, in rao.
    pub root: u64,
}

/// What each validator's stakers on the subnet and on root get together, of pots of `alpha` and `root` rao; both pots are paid in full.
///
/// A validator's dividends belong to root in the proportion w · root / (alpha + w · root) of its own backing, and each pot goes by its
/// part of the dividends (Subtensor's `calculate_dividend_distribution`). A pot that nobody has a part in goes to the other; `None` if nobody
/// has any dividends.
pub fn dividends(alpha: u64, root: u64, tao_weight: Fixed, validators: &[Backing]) -> Option<Vec<(u64, u64)>> {
    let parts = validators.iter().map(|backing| {
        let dividends = Fixed::whole(backing.dividends);
        let root = dividends.times(root_proportion(backing.root, tao_weight, backing.alpha));
        (dividends.minus(root).bits(), root.bits())
    });
    let (by_alpha, by_root): (Vec<u128>, Vec<u128>) = parts.unzip();
    match (apportion(alpha, &by_alpha), apportion(root, &by_root)) {
        (Some(alphas), Some(roots)) => Some(alphas.into_iter().zip(roots).collect()),
        (Some(_), None) => Some(apportion(alpha + root, &by_alpha)?.into_iter().map(|alpha| (alpha, 0)).collect()),
        (None, Some(_)) => Some(apportion(alpha + root, &by_root)?.into_iter().map(|root| (0, root)).collect()),
        (None, None) => None,
    }
}

/// A validator's `take` (of 65,535) of what its stakers get, rounded down, and each staker's part of the rest by stake; together all of `pot`.
/// Without any stake the validator gets all.
pub fn take_and_stakers(pot: u64, take: u16, stakes: &[u64]) -> (u64, Vec<u64>) {
    let taken = Fixed::whole(pot).times(of_u16(take)).floor();
    match apportion(pot - taken, stakes) {
        Some(parts) => (taken, parts),
        None => (pot, vec![0; stakes.len()]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::{MAX_SUPPLY, RAO_PER_TAO};

    fn backing() -> impl Strategy<Value = Backing> {
        (0..=u64::from(u16::MAX), 0..=MAX_SUPPLY, 0..=MAX_SUPPLY).prop_map(|(dividends, alpha, root)| Backing { dividends, alpha, root })
    }

    #[test]
    fn an_alpha_is_split_18_41_41_and_root_has_its_proportion_of_the_validators_part() {
        let all = AlphaSplit::of(RAO_PER_TAO, OWNER_CUT, Fixed::ZERO);
        // 11,796 / 65,535 is a little less than 18 %
        assert_eq!(all, AlphaSplit { owner: 179_995_422, miners: 410_002_288, validators: 410_002_290, root: 0 });
        let half = AlphaSplit::of(RAO_PER_TAO, OWNER_CUT, Fixed::ratio(1, 4));
        assert_eq!((half.miners, half.root), (all.miners, all.miners / 4));
    }

    #[test]
    fn root_has_half_of_the_dividends_where_its_weighted_stake_equals_the_alpha() {
        let tao = |tao: u64| tao * RAO_PER_TAO;
        assert_eq!(root_proportion(tao(1_000), Fixed::ratio(1, 4), tao(250)), Fixed::ratio(1, 2));
        assert_eq!(root_proportion(0, Fixed::ONE, 0), Fixed::ZERO);
    }

    #[test]
    fn each_pot_goes_by_what_stands_behind_a_validator() {
        let only_alpha = Backing { dividends: 10, alpha: 7, root: 0 };
        let only_root = Backing { dividends: 10, alpha: 0, root: 7 };
        assert_eq!(dividends(100, 60, Fixed::ONE, &[only_alpha, only_root]), Some(vec![(100, 0), (0, 60)]));
        assert_eq!(dividends(100, 60, Fixed::ONE, &[only_alpha]), Some(vec![(160, 0)]));
        assert_eq!(dividends(100, 60, Fixed::ONE, &[Backing { dividends: 0, ..only_root }]), None);
    }

    #[test]
    fn a_validator_takes_18_percent_before_its_stakers_share_the_rest() {
        assert_eq!(take_and_stakers(65_535, DEFAULT_TAKE, &[1, 3]), (11_795, vec![13_435, 40_305]));
        assert_eq!(take_and_stakers(65_535, DEFAULT_TAKE, &[0]), (65_535, vec![0]));
    }

    proptest! {
        #[test]
        fn nothing_of_a_blocks_alpha_is_created_or_lost(alpha in 0..=MAX_SUPPLY, cut in any::<u16>(), root in 0..=1u128 << 32) {
            let split = AlphaSplit::of(alpha, cut, Fixed::from_bits(root));
            prop_assert_eq!(split.total(), alpha);
            prop_assert!(split.validators + split.root + 1 >= split.miners);
        }

        #[test]
        fn nothing_of_the_dividends_is_created_or_lost(
            alpha in 0..=MAX_SUPPLY, root in 0..=MAX_SUPPLY, weight in 0..=1u128 << 32,
            validators in prop::collection::vec(backing(), 1..64), take in any::<u16>(),
        ) {
            match dividends(alpha, root, Fixed::from_bits(weight), &validators) {
                Some(parts) => {
                    prop_assert_eq!(parts.iter().map(|(alpha, root)| alpha + root).sum::<u64>(), alpha + root);
                    let stakes: Vec<u64> = validators.iter().map(|backing| backing.alpha).collect();
                    for (pot, _) in parts {
                        let (taken, stakers) = take_and_stakers(pot, take, &stakes);
                        prop_assert_eq!(taken + stakers.iter().sum::<u64>(), pot);
                    }
                }
                None => prop_assert!(validators.iter().all(|backing| backing.dividends == 0)),
            }
        }

        #[test]
        fn root_never_has_more_than_all(root in any::<u64>(), weight in 0..=1u128 << 32, issuance in any::<u64>()) {
            prop_assert!(root_proportion(root, Fixed::from_bits(weight), issuance) <= Fixed::ONE);
        }
    }
}
