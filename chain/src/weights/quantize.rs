//! From intended weights to the row that a chain stores.

use std::collections::BTreeSet;

use crate::Subnet;

/// What a subnet asks of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The fewest entries, those of weight 0 included.
    pub min_allowed: u16,
    /// The largest share of a row that one entry may have, of 65,535; 65,535 asks for nothing.
    pub max_limit: u16,
}

impl Rules {
    /// The rules of a subnet that has so many uids: where there are fewer than it asks for, all are enough.
    pub fn new(subnet: &Subnet, uids: usize) -> Self {
        let uids = u16::try_from(uids).unwrap_or(u16::MAX);
        Self { min_allowed: subnet.min_allowed_weights.min(uids), max_limit: subnet.max_weight_limit }
    }
}

/// Why no row follows from intended weights.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    /// A weight that is negative, infinite or not a number.
    #[error("uid {uid} is to have the weight {weight}: weights are numbers from 0 on")]
    NotAWeight {
        /// Whose.
        uid: u16,
        /// The weight.
        weight: f64,
    },
    /// A uid that appears twice.
    #[error("uid {0} appears twice in the intended weights")]
    DuplicateUid(u16),
    /// Nobody with a weight above 0.
    #[error("no uid is to have a weight above 0: there is nothing to set")]
    Empty,
    /// Fewer uids than the subnet asks for.
    #[error("{uids} uids were given, the subnet asks for {needed} in a row: name more, with weight 0")]
    TooFew {
        /// How many there are.
        uids: usize,
        /// How many there must be.
        needed: u16,
    },
    /// Fewer uids than the limit on one entry's share allows.
    #[error("among {uids} uids one must have more than {limit}/65535 of the row, the subnet's limit: name more, with weight 0")]
    LimitTooLow {
        /// How many there are.
        uids: usize,
        /// The limit.
        limit: u16,
    },
}

/// The u16 row nearest to the intended weights (uid, any scale, 0 for uids that may fill the row up), by uid; the largest entry is 65,535.
///
/// Entry i is round(65,535 · min(wᵢ, c) / c), thus within half a step of the intended row capped at c. Without a limit on shares c is the largest
/// weight; otherwise it is the largest one for which the *rounded* row keeps the limit, max / sum ≤ `max_limit` / 65,535. Where all weights
/// above 0 at one height are too few for that, the others are raised alike. Entries that round to 0 are left out, except as many as
/// `min_allowed` asks for (the largest first, then by uid).
///
/// The caller leaves its own uid out.
///
/// # Errors
/// [`QuantizeError`] says which input is at fault.
pub fn quantize(intended: &[(u16, f64)], rules: Rules) -> Result<Vec<(u16, u16)>, QuantizeError> {
    check(intended, rules)?;
    let most = intended.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
    if most == 0.0 {
        return Err(QuantizeError::Empty);
    }
    // so that raising the cap's counterpart can lift zeros too, all alike
    let shares: Vec<f64> = intended.iter().map(|(_, weight)| (weight / most).max(f64::MIN_POSITIVE)).collect();
    let cap = cap(&shares, rules.max_limit).ok_or(QuantizeError::LimitTooLow { uids: shares.len(), limit: rules.max_limit })?;
    let mut entries: Vec<(u16, u16, f64)> =
        intended.iter().zip(&shares).map(|(&(uid, _), &share)| (uid, step(share, cap), share)).collect();
    entries.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
    let weighty = entries.iter().filter(|(_, value, _)| *value > 0).count();
    entries.truncate(weighty.max(rules.min_allowed.into()));
    let mut row: Vec<(u16, u16)> = entries.into_iter().map(|(uid, value, _)| (uid, value)).collect();
    row.sort_unstable();
    Ok(row)
}

fn check(intended: &[(u16, f64)], rules: Rules) -> Result<(), QuantizeError> {
    let mut seen = BTreeSet::new();
    for &(uid, weight) in intended {
        if !weight.is_finite() || weight < 0.0 {
            return Err(QuantizeError::NotAWeight { uid, weight });
        }
        if !seen.insert(uid) {
            return Err(QuantizeError::DuplicateUid(uid));
        }
    }
    let (uids, needed) = (intended.len(), rules.min_allowed);
    if uids < needed.into() { Err(QuantizeError::TooFew { uids, needed }) } else { Ok(()) }
}

/// A share's steps of 65,535 below a cap. Grows as the cap falls.
fn step(share: f64, cap: f64) -> u16 {
    (share.min(cap) / cap * 65_535.0).round() as u16
}

/// The largest cap, at most 1, under which the row of `shares` (above 0, the largest 1) keeps `limit`; `None` if there is none.
fn cap(shares: &[f64], limit: u16) -> Option<f64> {
    // max / sum ≤ limit / 65,535 with max = 65,535
    let keeps = |cap: f64| {
        let sum: u64 = shares.iter().map(|share| u64::from(step(*share, cap))).sum();
        limit == u16::MAX || sum * u64::from(limit) >= u64::from(u16::MAX) * u64::from(u16::MAX)
    };
    if keeps(1.0) {
        return Some(1.0);
    }
    // floats above 0 are ordered as their bits are
    let (mut low, mut high) = (f64::MIN_POSITIVE.to_bits(), 1f64.to_bits());
    if !keeps(f64::from_bits(low)) {
        return None;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        *if keeps(f64::from_bits(middle)) { &mut low } else { &mut high } = middle;
    }
    Some(f64::from_bits(low))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const FREE: Rules = Rules { min_allowed: 0, max_limit: u16::MAX };

    fn limited(max_limit: u16) -> Rules {
        Rules { max_limit, ..FREE }
    }

    /// Shares that sum to 1 and exceed no limit: the excess of the largest goes to the others in proportion, until it fits.
    fn water_filled(weights: &[f64], limit: f64) -> Vec<f64> {
        let mut ranked: Vec<f64> = weights.to_vec();
        ranked.sort_by(|a, b| b.total_cmp(a));
        let fits = |capped: usize| {
            let cap = ranked[capped..].iter().sum::<f64>() * limit / (1.0 - capped as f64 * limit);
            (ranked[capped] <= cap).then_some(cap)
        };
        let cap = (0..ranked.len()).find_map(fits).unwrap();
        let total: f64 = weights.iter().map(|w| w.min(cap)).sum();
        weights.iter().map(|w| w.min(cap) / total).collect()
    }

    fn intended() -> impl Strategy<Value = Vec<(u16, f64)>> {
        let weight = prop_oneof![2 => 0.0..1.0, 1 => Just(0.0), 1 => (0.0..30.0f64).prop_map(|x| (-x).exp()), 1 => Just(0.25)];
        prop::collection::btree_map(any::<u16>(), weight, 1..80).prop_map(|row| row.into_iter().collect())
    }

    fn rules() -> impl Strategy<Value = Rules> {
        let max_limit = prop_oneof![Just(u16::MAX), 1..u16::MAX, 800..9000u16];
        (0..70u16, max_limit).prop_map(|(min_allowed, max_limit)| Rules { min_allowed, max_limit })
    }

    proptest! {
        #[test]
        fn a_row_keeps_every_rule(intended in intended(), rules in rules()) {
            let Ok(row) = quantize(&intended, rules) else { return Ok(()) };
            prop_assert!(row.len() >= rules.min_allowed.into() && row.is_sorted_by(|a, b| a.0 < b.0));
            let (most, sum) = (row.iter().map(|(_, v)| *v).max(), row.iter().map(|(_, v)| u64::from(*v)).sum::<u64>());
            prop_assert_eq!(most, Some(u16::MAX));
            // Subtensor's check_vec_max_limited, with its 32 bits behind the point
            let (share, limit) = ((u64::from(u16::MAX) << 32) / sum, (u64::from(rules.max_limit) << 32) / u64::from(u16::MAX));
            prop_assert!(rules.max_limit == u16::MAX || share <= limit);
        }

        #[test]
        fn it_is_refused_only_where_no_row_could_keep_them(intended in intended(), rules in rules()) {
            let uids = intended.len();
            let hopeless = uids < rules.min_allowed.into() || (rules.max_limit < u16::MAX && uids as u64 * u64::from(rules.max_limit) < 65_535);
            let empty = intended.iter().all(|(_, weight)| *weight == 0.0);
            prop_assert_eq!(quantize(&intended, rules).is_err(), hopeless || empty);
        }

        #[test]
        fn who_is_to_have_more_never_gets_less(intended in intended(), rules in rules()) {
            let Ok(row) = quantize(&intended, rules) else { return Ok(()) };
            let value = |uid: u16| row.iter().find(|(u, _)| *u == uid).map_or(0, |(_, value)| *value);
            for (a, b) in intended.iter().zip(intended.iter().skip(1)) {
                prop_assert!(a.1 <= b.1 || value(a.0) >= value(b.0));
                prop_assert!(a.1 >= b.1 || value(a.0) <= value(b.0));
            }
        }

        #[test]
        fn without_a_limit_each_entry_is_within_half_a_step(intended in intended(), min_allowed in 0..3u16) {
            let Ok(row) = quantize(&intended, Rules { min_allowed, ..FREE }) else { return Ok(()) };
            let most = intended.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
            for (uid, weight) in intended {
                let value = row.iter().find(|(u, _)| *u == uid).map_or(0, |(_, value)| *value);
                prop_assert!((f64::from(value) - weight / most * 65_535.0).abs() <= 0.5 + 1e-9);
            }
        }

        #[test]
        fn under_a_limit_each_share_is_within_half_a_step_per_entry_of_the_capped_row(
            weights in prop::collection::vec(0.001..1.0, 10..80),
            max_limit in 6_600..u16::MAX,
        ) {
            let intended: Vec<(u16, f64)> = (0..).zip(weights.iter().copied()).collect();
            let row = quantize(&intended, limited(max_limit)).unwrap();
            let sum: f64 = row.iter().map(|(_, value)| f64::from(*value)).sum();
            let due = water_filled(&weights, f64::from(max_limit) / 65_535.0);
            for (uid, value) in &row {
                let error = (f64::from(*value) / sum - due[usize::from(*uid)]).abs();
                prop_assert!(error <= 0.5 * (weights.len() + 1) as f64 / sum, "{error} of uid {uid}");
            }
        }

        #[test]
        fn a_stored_row_stays_as_it_is(intended in intended(), rules in rules()) {
            let Ok(row) = quantize(&intended, rules) else { return Ok(()) };
            let again: Vec<(u16, f64)> = row.iter().map(|(uid, value)| (*uid, f64::from(*value))).collect();
            prop_assert_eq!(quantize(&again, rules).unwrap(), row);
        }
    }

    #[test]
    fn rows_are_as_published() {
        assert_eq!(quantize(&[(7, 1.0), (3, 3.0), (9, 0.0)], FREE).unwrap(), [(3, 65535), (7, 21845)]);
        let filled = Rules { min_allowed: 4, ..FREE };
        assert_eq!(quantize(&[(3, 2.0), (9, 0.0), (5, 0.0), (8, 1e-9), (4, 0.0)], filled).unwrap(), [(3, 65535), (4, 0), (5, 0), (8, 0)]);
        // half of the row at most: the largest comes down to the sum of the others
        assert_eq!(quantize(&[(1, 0.9), (2, 0.06), (3, 0.04)], limited(32_768)).unwrap(), [(1, 65535), (2, 39320), (3, 26214)]);
        // a quarter at most, and two weights: the others are raised
        assert_eq!(
            quantize(&[(1, 0.9), (2, 0.1), (3, 0.0), (4, 0.0), (5, 0.0)], limited(16_384)).unwrap()[2..],
            [(3, 43689), (4, 43689), (5, 43689)]
        );
    }

    #[test]
    fn what_gives_no_row_is_named() {
        let refused = |intended: &[(u16, f64)], rules| quantize(intended, rules).unwrap_err();
        assert!(matches!(refused(&[(1, f64::NAN)], FREE), QuantizeError::NotAWeight { uid: 1, .. }));
        assert_eq!(refused(&[(1, 1.0), (2, -1.0)], FREE), QuantizeError::NotAWeight { uid: 2, weight: -1.0 });
        assert_eq!(refused(&[(1, 1.0), (1, 2.0)], FREE), QuantizeError::DuplicateUid(1));
        assert_eq!(refused(&[(1, 0.0)], FREE), QuantizeError::Empty);
        assert_eq!(refused(&[], FREE), QuantizeError::Empty);
        assert_eq!(refused(&[(1, 1.0)], Rules { min_allowed: 2, ..FREE }), QuantizeError::TooFew { uids: 1, needed: 2 });
        assert_eq!(refused(&[(1, 1.0), (2, 0.0)], limited(32_767)), QuantizeError::LimitTooLow { uids: 2, limit: 32_767 });
    }
}
