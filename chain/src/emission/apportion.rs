//! Parts that sum to the whole.

use super::fixed::mul_div;

/// `amount` in proportion to `shares`, rounded so that the parts sum to it exactly; `None` if all shares are 0.
///
/// Part i is the difference of ⌊amount · (sum of the first i + 1 shares) / total⌋ and the same of the first i, hence within one rao of its due.
pub fn apportion<S: Copy + Into<u128>>(amount: u64, shares: &[S]) -> Option<Vec<u64>> {
    let total = shares.iter().fold(0u128, |sum, &share| sum.saturating_add(share.into()));
    if total == 0 {
        return None;
    }
    let mut seen = 0u128;
    let mut given = 0;
    let part = |&share: &S| {
        seen = seen.saturating_add(share.into());
        let upto = mul_div(amount.into(), seen, total) as u64;
        upto - std::mem::replace(&mut given, upto)
    };
    Some(shares.iter().map(part).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::MAX_SUPPLY;

    proptest! {
        #[test]
        fn each_part_is_within_one_rao_of_its_due(amount in 0..=MAX_SUPPLY, shares in prop::collection::vec(any::<u16>(), 1..64)) {
            if let Some(parts) = apportion(amount, &shares) {
                let total: u128 = shares.iter().copied().map(u128::from).sum();
                for (part, share) in parts.into_iter().zip(shares) {
                    let due = u128::from(amount) * u128::from(share) / total;
                    prop_assert!(u128::from(part).abs_diff(due) <= 1);
                }
            }
        }

        #[test]
        fn the_parts_sum_to_the_whole_whatever_the_shares(amount in any::<u64>(), shares in prop::collection::vec(any::<u128>(), 1..64)) {
            match apportion(amount, &shares) {
                Some(parts) => prop_assert_eq!(parts.iter().sum::<u64>(), amount),
                None => prop_assert!(shares.iter().all(|&share| share == 0)),
            }
        }
    }
}
