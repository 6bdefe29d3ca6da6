//! Bonds of validators to miners, and the dividends that follow from them.

use super::sparse::{self, Rows};
use super::{BondsRule, Fixed, Inputs, LiquidAlpha, Params, Rules};

/// Bonds to keep and dividends, for these weights (with the penalty), consensus, incentive and active stake.
pub(super) struct Epoch<'a> {
    pub(super) inputs: &'a Inputs,
    pub(super) params: &'a Params,
    pub(super) weights: Rows,
    pub(super) consensus: &'a [Fixed],
    pub(super) incentive: &'a [Fixed],
    pub(super) active_stake: &'a [Fixed],
}

impl Epoch<'_> {
    pub(super) fn run(self) -> (Rows, Vec<Fixed>) {
        match self.params.bonds {
            BondsRule::Yuma1 => self.yuma1(),
            BondsRule::Yuma3 => self.yuma3(),
        }
    }

    /// D ∝ E I, with the columns of the bonds E normalized; kept so that each column's largest bond is 1.
    fn yuma1(self) -> (Rows, Vec<Fixed>) {
        let old = sparse::normalized_columns(&self.old(|bond| Fixed::whole(bond.into())));
        let bought = sparse::normalized_columns(&sparse::map(&self.weights, |i, _, w| self.active_stake[i] * w));
        let bonds = sparse::normalized_columns(&moving_average(&bought, &old, self.params));
        let dividends = sparse::normalized(sparse::weighted_rows(&bonds, self.incentive));
        (sparse::upscaled_columns(&bonds), dividends)
    }

    /// D_i ∝ A_i Σ_j I_j E_ij / Σ_i E_ij.
    fn yuma3(self) -> (Rows, Vec<Fixed>) {
        let old = self.old(Fixed::proportion);
        let judged = self.consensus.iter().any(|&c| c != Fixed::ZERO);
        let bonds = match &self.params.liquid_alpha {
            Some(curve) if judged => liquid(&self.weights, &old, self.consensus, |d| curve.alpha(d, self.params.rules)),
            _ => moving_average(&self.weights, &old, self.params),
        };
        let shares = sparse::weighted_rows(&sparse::normalized_columns(&bonds), self.incentive);
        let dividends = shares.into_iter().zip(self.active_stake).map(|(share, &stake)| share * stake).collect();
        (bonds, sparse::normalized(dividends))
    }

    /// Stored bonds without those of miners registered since the last epoch, whose uid may have had another owner.
    fn old(&self, value: impl Fn(u16) -> Fixed) -> Rows {
        let n = self.inputs.stake.len();
        let bonds = self.inputs.bonds.iter();
        let rows = bonds.map(|row| row.iter().map(|&(j, bond)| (usize::from(j), value(bond))).filter(|&(j, _)| j < n).collect());
        sparse::filter(rows.collect(), |_, j| self.inputs.registered[j] < self.inputs.last_epoch)
    }
}

/// α · new + (1 − α) · old with one α; entries above 0, by column.
fn moving_average(new: &Rows, old: &Rows, params: &Params) -> Rows {
    let alpha = Fixed::ONE - Fixed::share(params.bonds_moving_average.into(), 1_000_000);
    let n = new.len();
    let row = |(new, old): (&Vec<_>, &Vec<_>)| {
        let average = sparse::dense(new, n).into_iter().zip(sparse::dense(old, n)).map(|(w, b)| alpha * w + (Fixed::ONE - alpha) * b);
        average.enumerate().filter(|&(_, x)| x > Fixed::ZERO).collect()
    };
    new.iter().zip(old).map(row).collect()
}

/// min(1, α_ij · new + (1 − α_ij) · old) where `new` has an entry, even of 0; other bonds are lost.
///
/// α_ij looks only at entries whose uid is larger than those of all before it in the stored row: the runtime walks the rows once, by rising
/// uid, and takes what it has passed for 0.
fn liquid(new: &Rows, old: &Rows, consensus: &[Fixed], alpha: impl Fn(Fixed) -> Fixed) -> Rows {
    let n = new.len();
    let row = |(new, old): (&Vec<(usize, Fixed)>, &Vec<_>)| {
        let (bonds, seen_weights, seen_bonds) = (sparse::dense(old, n), sparse::dense(&rising(new), n), sparse::dense(&rising(old), n));
        let bond = |&(j, weight): &(usize, Fixed)| {
            let alpha = alpha(distance(seen_weights[j], seen_bonds[j], consensus[j]));
            (j, ((Fixed::ONE - alpha) * bonds[j] + (alpha * weight).max(Fixed::ZERO)).min(Fixed::ONE))
        };
        new.iter().map(bond).filter(|&(_, x)| x > Fixed::ZERO).collect()
    };
    new.iter().zip(old).map(row).collect()
}

/// The entries whose column exceeds all columns before it.
fn rising(row: &[(usize, Fixed)]) -> Vec<(usize, Fixed)> {
    let mut next = 0;
    let rises = |&&(j, _): &&(usize, Fixed)| {
        let rises = j >= next;
        next = next.max(j + 1);
        rises
    };
    row.iter().filter(rises).copied().collect()
}

/// How far a validator that buys is above consensus, or one that sells below its bond; within 0 and 1.
fn distance(weight: Fixed, bond: Fixed, consensus: Fixed) -> Fixed {
    let distance = if weight >= bond { weight - consensus } else { bond - weight };
    distance.clamp(Fixed::ZERO, Fixed::ONE)
}

impl LiquidAlpha {
    /// low + (high − low) / (1 + exp(−steepness/100 · (d − ½))), kept within low and high.
    fn alpha(&self, distance: Fixed, rules: Rules) -> Fixed {
        let (low, high) = (Fixed::proportion(self.low), Fixed::proportion(self.high));
        let exponent = Fixed::whole(self.steepness.into()).over(Fixed::whole(-100)) * (distance - Fixed::HALF);
        let exp = match rules {
            Rules::Spec300 => exponent.exp().unwrap_or_default(),
            Rules::Spec425 => exponent.bounded_exp(),
        };
        let sigmoid = Fixed::ONE.over(Fixed::ONE + exp);
        (low + sigmoid * (high - low)).min(high).max(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURVE: LiquidAlpha = LiquidAlpha { low: 6553, high: 58981, steepness: 10_000 };

    #[test]
    fn liquid_alpha_rises_from_low_to_high_and_meets_half_way() {
        let at = |d| CURVE.alpha(d, Rules::Spec425).to_proportion();
        assert_eq!((at(Fixed::ZERO), at(Fixed::ONE)), (6553, 58980));
        assert!(at(Fixed::HALF).abs_diff(6553 / 2 + 58981 / 2) <= 2);
    }

    #[test]
    fn an_overflow_made_alpha_high_on_the_older_runtime() {
        let at = |d| CURVE.alpha(d, Rules::Spec300).to_proportion();
        assert_eq!((at(Fixed::ZERO), at(Fixed::ONE)), (58980, 58980));
    }

    #[test]
    fn liquid_bonds_pass_only_through_entries_of_the_row_and_see_only_rising_uids() {
        let (half, quarter) = (Fixed::HALF, Fixed::HALF * Fixed::HALF);
        let old = vec![vec![(0, half), (1, half), (2, half)], vec![], vec![]];
        let new = vec![vec![(2, Fixed::ZERO), (1, half)], vec![], vec![]];
        // uid 1 is passed: its weight and bond count, but α sees a weight of 0 below a bond of ½
        let bonds = liquid(&new, &old, &[Fixed::ZERO; 3], |d| if d == half { quarter } else { Fixed::ZERO });
        assert_eq!(bonds[0], [(2, half - half * quarter), (1, half)]);
    }
}
