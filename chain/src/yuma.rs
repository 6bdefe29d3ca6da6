//! Yuma consensus: one epoch of a subnet as a pure function from stake, weights and bonds to incentive and dividends.
//!
//! The steps are those of Subtensor's epoch. This is floating point where the runtime computes in 32.32 fixed point; the u16 outputs,
//! trunc(x · 65,535), are what both publish.

use ndarray::{Array1, Array2, Axis, Zip};
use serde::{Deserialize, Serialize};

/// How bonds are kept between epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BondsRule {
    /// Bonds of stake-weighted weights, normalized per miner.
    Yuma1,
    /// Bonds of weights alone; stake enters at the dividends.
    Yuma3,
}

/// A subnet's parameters of consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// κ · 65,535: the share of stake that must back a weight.
    pub kappa: u16,
    /// How much of a weight above consensus is taken from the bond, of 65,535.
    pub bonds_penalty: u16,
    /// What a bond keeps from epoch to epoch, in millionths.
    pub bonds_moving_average: u32,
    /// How bonds are kept.
    pub bonds: BondsRule,
    /// Blocks after which a neuron that sets no weights counts as inactive.
    pub activity_cutoff: u64,
    /// Stake below this counts as none, in rao; the owner's always counts.
    pub stake_threshold: u64,
    /// How many uids hold a permit; the owner's comes on top.
    pub max_validators: u16,
}

impl Default for Params {
    /// Subtensor's defaults for a new subnet, without a stake threshold.
    fn default() -> Self {
        Self {
            kappa: 32_767,
            bonds_penalty: u16::MAX,
            bonds_moving_average: 900_000,
            bonds: BondsRule::Yuma3,
            activity_cutoff: 5_000,
            stake_threshold: 0,
            max_validators: 64,
        }
    }
}

/// What an epoch reads; every vector has one entry per uid, matrices are (validator, miner).
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The epoch's block.
    pub block: u64,
    /// Block of the epoch before.
    pub last_epoch: u64,
    /// The owner's uid.
    pub owner: Option<usize>,
    /// Stake, in rao.
    pub stake: Vec<u64>,
    /// Permits that the previous epoch gave.
    pub permit: Vec<bool>,
    /// Blocks of registration.
    pub registered: Vec<u64>,
    /// Blocks of the newest weights.
    pub last_update: Vec<u64>,
    /// Weights as set, not negative, of any scale.
    pub weights: Array2<f64>,
    /// Bonds as the previous epoch stored them, of 65,535.
    pub bonds: Array2<u16>,
}

/// What an epoch gives, all in the chain's u16 form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// Permits from now on.
    pub permit: Vec<bool>,
    /// Consensus weight per miner.
    pub consensus: Vec<u16>,
    /// Part of each validator's row that consensus kept.
    pub validator_trust: Vec<u16>,
    /// Shares of the miners' pay.
    pub incentive: Vec<u16>,
    /// Shares of the validators' pay.
    pub dividends: Vec<u16>,
    /// Whom the validators' pay goes to: the dividends or, while nobody has any incentive or dividend, the active stake (or all stake).
    pub validator_pay: Vec<u16>,
    /// Bonds to store; rows without a permit are empty.
    pub bonds: Array2<u16>,
}

/// Permits for these stakes: the `max_validators` largest that are not below the threshold and not zero, and the owner. Of equal stakes the later uid wins, as on Subtensor.
pub fn permits(stake: &[u64], owner: Option<usize>, params: &Params) -> Vec<bool> {
    let effective = effective_stake(stake, owner, params);
    let mut order: Vec<usize> = (0..stake.len()).filter(|&uid| effective[uid] > 0.0).collect();
    order.sort_by(|&a, &b| effective[b].total_cmp(&effective[a]).then(b.cmp(&a)));
    let mut permits = vec![false; stake.len()];
    for uid in order.into_iter().take(usize::from(params.max_validators)).chain(owner) {
        permits[uid] = true;
    }
    permits
}

/// One epoch.
///
/// # Panics
/// If the vectors and matrices do not all have the same number of uids, or the owner is not among them.
pub fn epoch(inputs: &Inputs, params: &Params) -> Outputs {
    let n = inputs.stake.len();
    assert!(inputs.weights.dim() == (n, n) && inputs.bonds.dim() == (n, n), "matrices are {n} by {n}");
    let stake = normalized(effective_stake(&inputs.stake, inputs.owner, params));
    let permit = permits(&inputs.stake, inputs.owner, params);
    let active_stake = active_stake(inputs, &stake, params);
    let weights = effective_weights(inputs);
    let consensus: Array1<f64> =
        weights.columns().into_iter().map(|column| stake_median(column.iter().copied(), &active_stake, params)).collect();
    let clipped = Zip::from(&weights).and_broadcast(&consensus).map_collect(|&w, &c| w.min(c));
    let incentive = normalized(clipped.t().dot(&active_stake));
    let penalty = unit(params.bonds_penalty);
    let bond_weights = &weights + &((&clipped - &weights) * penalty);
    let (bonds, dividends) = match params.bonds {
        BondsRule::Yuma1 => yuma1(inputs, params, bond_weights, &active_stake, &incentive),
        BondsRule::Yuma3 => yuma3(inputs, params, bond_weights, &active_stake, &incentive),
    };
    let nobody = incentive.sum() + dividends.sum() == 0.0;
    let validator_pay = match nobody {
        true if active_stake.sum() > 0.0 => &active_stake,
        true => &stake,
        false => &dividends,
    };
    let kept = Array2::from_shape_fn((n, n), |(i, j)| if permit[i] { quantized(bonds[(i, j)]) } else { 0 });
    Outputs {
        consensus: vector(&consensus),
        validator_trust: vector(&clipped.sum_axis(Axis(1))),
        incentive: vector(&incentive),
        dividends: vector(&dividends),
        validator_pay: vector(validator_pay),
        bonds: kept,
        permit,
    }
}

fn unit(x: u16) -> f64 {
    f64::from(x) / 65_535.0
}

/// trunc(x · 65,535) within u16; casting saturates.
fn quantized(x: f64) -> u16 {
    (x * 65_535.0) as u16
}

fn vector(x: &Array1<f64>) -> Vec<u16> {
    x.iter().copied().map(quantized).collect()
}

/// x over its sum; all zeros stay zeros.
fn normalized(x: Array1<f64>) -> Array1<f64> {
    let sum = x.sum();
    if sum > 0.0 { x / sum } else { x }
}

fn normalize_rows(matrix: &mut Array2<f64>) {
    for mut row in matrix.rows_mut() {
        let sum = row.sum();
        if sum > 0.0 {
            row /= sum;
        }
    }
}

fn normalize_columns(matrix: &mut Array2<f64>) {
    for mut column in matrix.columns_mut() {
        let sum = column.sum();
        if sum > 0.0 {
            column /= sum;
        }
    }
}

fn effective_stake(stake: &[u64], owner: Option<usize>, params: &Params) -> Array1<f64> {
    let counts = |uid| stake[uid] >= params.stake_threshold || Some(uid) == owner;
    (0..stake.len()).map(|uid| if counts(uid) { stake[uid] as f64 } else { 0.0 }).collect()
}

/// Stake of those who hold a permit and set weights lately, normalized.
fn active_stake(inputs: &Inputs, stake: &Array1<f64>, params: &Params) -> Array1<f64> {
    let active = |uid: usize| inputs.permit[uid] && inputs.last_update[uid].saturating_add(params.activity_cutoff) >= inputs.block;
    normalized(stake.iter().enumerate().map(|(uid, &s)| if active(uid) { s } else { 0.0 }).collect())
}

/// Rows of permitted validators, without their own entry (but the owner's) and without miners that registered after the row was set; rows sum to 1.
fn effective_weights(inputs: &Inputs) -> Array2<f64> {
    let mut weights = Array2::from_shape_fn(inputs.weights.dim(), |(i, j)| {
        let own = i == j && Some(i) != inputs.owner;
        let stale = inputs.last_update[i] <= inputs.registered[j];
        if inputs.permit[i] && !own && !stale { inputs.weights[(i, j)] } else { 0.0 }
    });
    normalize_rows(&mut weights);
    weights
}

/// The smallest of the weights whose holders, counted from the smallest up, have more than 1 − κ of the active stake.
fn stake_median(weights: impl Iterator<Item = f64>, active_stake: &Array1<f64>, params: &Params) -> f64 {
    let mut held: Vec<(f64, f64)> = weights.zip(active_stake.iter().copied()).filter(|&(_, stake)| stake > 0.0).collect();
    held.sort_by(|a, b| a.0.total_cmp(&b.0));
    let minority = 1.0 - unit(params.kappa);
    let mut below = 0.0;
    for &(weight, stake) in &held {
        below += stake;
        if below > minority {
            return weight;
        }
    }
    held.last().map_or(0.0, |&(weight, _)| weight)
}

/// Stored bonds without those of miners registered since the last epoch, whose uid may have had another owner.
fn old_bonds(inputs: &Inputs) -> Array2<f64> {
    Array2::from_shape_fn(
        inputs.bonds.dim(),
        |(i, j)| if inputs.registered[j] >= inputs.last_epoch { 0.0 } else { unit(inputs.bonds[(i, j)]) },
    )
}

fn moving_average(params: &Params, new: &Array2<f64>, old: &Array2<f64>) -> Array2<f64> {
    let alpha = 1.0 - f64::from(params.bonds_moving_average) / 1e6;
    new * alpha + old * (1.0 - alpha)
}

/// Bonds and dividends by Yuma3: D_i ∝ A_i Σ_j I_j E_ij / Σ_i E_ij.
fn yuma3(
    inputs: &Inputs,
    params: &Params,
    weights: Array2<f64>,
    active_stake: &Array1<f64>,
    incentive: &Array1<f64>,
) -> (Array2<f64>, Array1<f64>) {
    let bonds = moving_average(params, &weights, &old_bonds(inputs));
    let mut shares = bonds.clone();
    normalize_columns(&mut shares);
    let dividends = normalized(shares.dot(incentive) * active_stake);
    (bonds, dividends)
}

/// Bonds and dividends by Yuma1: D ∝ E I with E's columns normalized; stored so that each column's largest bond is 1.
fn yuma1(
    inputs: &Inputs,
    params: &Params,
    mut weights: Array2<f64>,
    active_stake: &Array1<f64>,
    incentive: &Array1<f64>,
) -> (Array2<f64>, Array1<f64>) {
    let mut old = old_bonds(inputs);
    normalize_columns(&mut old);
    for (mut row, &stake) in weights.rows_mut().into_iter().zip(active_stake) {
        row *= stake;
    }
    normalize_columns(&mut weights);
    let mut bonds = moving_average(params, &weights, &old);
    normalize_columns(&mut bonds);
    let dividends = normalized(bonds.dot(incentive));
    for mut column in bonds.columns_mut() {
        let largest = column.fold(0.0, |a: f64, &b| a.max(b));
        if largest > 0.0 {
            column /= largest;
        }
    }
    (bonds, dividends)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    /// Validators first, then miners; everybody registered at block 1, validators set weights at block 5, the epoch is block 10.
    fn network(stake: &[u64], rows: &[&[f64]]) -> Inputs {
        let n = stake.len();
        let mut weights = Array2::zeros((n, n));
        for (i, row) in rows.iter().enumerate() {
            for (j, &w) in row.iter().enumerate() {
                weights[(i, rows.len() + j)] = w;
            }
        }
        let last_update = (0..n).map(|i| if i < rows.len() { 5 } else { 1 }).collect();
        Inputs {
            block: 10,
            last_epoch: 2,
            owner: None,
            stake: stake.to_vec(),
            permit: stake.iter().map(|&s| s > 0).collect(),
            registered: vec![1; n],
            last_update,
            weights,
            bonds: Array2::zeros((n, n)),
        }
    }

    #[test]
    fn two_equal_validators_that_agree_are_paid_alike() {
        let out = epoch(&network(&[10, 10, 0, 0, 0], &[&[2.0, 1.0, 1.0], &[2.0, 1.0, 1.0]]), &Params::default());
        // rows are (1/2, 1/4, 1/4), nothing is clipped
        assert_eq!(out.consensus, [0, 0, 32767, 16383, 16383]);
        assert_eq!(out.incentive, [0, 0, 32767, 16383, 16383]);
        assert_eq!(out.validator_trust, [65535, 65535, 0, 0, 0]);
        assert_eq!(out.dividends, [32767, 32767, 0, 0, 0]);
        assert_eq!(out.permit, [true, true, false, false, false]);
        // a tenth of the weight after one epoch: 0.1 · 0.5 · 65,535 = 3,276.75
        assert_eq!(out.bonds[(0, 2)], 3276);
        assert_eq!(out.validator_pay, out.dividends);
    }

    #[test]
    fn a_lying_minority_is_clipped() {
        // 60 % of stake splits evenly between the first two miners, 40 % gives everything to the third, its accomplice
        let out = epoch(&network(&[60, 40, 0, 0, 0], &[&[1.0, 1.0, 0.0], &[0.0, 0.0, 1.0]]), &Params::default());
        assert_eq!(out.consensus, [0, 0, 32767, 32767, 0]);
        assert_eq!(out.incentive, [0, 0, 32767, 32767, 0], "the accomplice earns nothing");
        assert_eq!(out.validator_trust, [65535, 0, 0, 0, 0]);
        assert_eq!(out.dividends, [65535, 0, 0, 0, 0]);
    }

    #[test]
    fn a_partial_lie_keeps_its_honest_part() {
        // C = (1/2, 1/2, 0): the second validator's row (1/4, 1/4, 1/2) keeps a half
        let out = epoch(&network(&[60, 40, 0, 0, 0], &[&[1.0, 1.0, 0.0], &[1.0, 1.0, 2.0]]), &Params::default());
        assert_eq!(out.validator_trust, [65535, 32767, 0, 0, 0]);
        assert_eq!(out.incentive, [0, 0, 32767, 32767, 0]);
        // D ∝ A · E's share: (0.6 · 2/3, 0.4 · 1/3) → (3/4, 1/4)
        assert_eq!(out.dividends, [49151, 16383, 0, 0, 0]);
    }

    #[test]
    fn yuma1_bonds_follow_stake_and_are_stored_by_column_maximum() {
        let params = Params { bonds: BondsRule::Yuma1, ..Params::default() };
        let out = epoch(&network(&[60, 40, 0, 0, 0], &[&[1.0, 1.0, 0.0], &[1.0, 1.0, 0.0]]), &params);
        assert_eq!(out.dividends, [39321, 26214, 0, 0, 0]);
        assert_eq!(out.bonds.column(2).to_vec(), [65535, 43690, 0, 0, 0]);
    }

    #[test]
    fn bonds_of_a_new_registration_are_cleared() {
        let mut inputs = network(&[10, 10, 0, 0, 0], &[&[1.0, 1.0, 1.0], &[1.0, 1.0, 1.0]]);
        inputs.bonds[(0, 2)] = 60_000;
        inputs.bonds[(0, 3)] = 60_000;
        inputs.registered[3] = 4;
        let out = epoch(&inputs, &Params::default());
        // 0.9 · 60,000 + 0.1 · 65,535 / 3 against the second term alone
        assert_eq!((out.bonds[(0, 2)], out.bonds[(0, 3)]), (56184, 2184));
    }

    #[test]
    fn rows_without_permit_own_entries_and_stale_entries_do_not_count() {
        let mut inputs = network(&[10, 10, 10, 0], &[&[1.0], &[1.0], &[1.0]]);
        inputs.weights[(0, 0)] = 1.0;
        inputs.permit[1] = false;
        inputs.registered[3] = 5;
        let weights = effective_weights(&inputs);
        assert_eq!(weights, Array2::<f64>::zeros((4, 4)));
        inputs.owner = Some(0);
        assert_eq!(effective_weights(&inputs).row(0), array![1.0, 0.0, 0.0, 0.0]);
        inputs.registered[3] = 4;
        assert_eq!(effective_weights(&inputs).column(3), array![0.5, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn the_silent_lose_their_say_and_stake_is_paid_while_nobody_is_judged() {
        let params = Params { activity_cutoff: 4, ..Params::default() };
        let out = epoch(&network(&[30, 10, 0], &[&[1.0], &[1.0]]), &params);
        assert_eq!(out.incentive, [0, 0, 0]);
        assert_eq!(out.dividends, [0, 0, 0]);
        assert_eq!(out.validator_pay, [49151, 16383, 0], "no stake is active, so all stake shares");
    }

    #[test]
    fn permits_go_to_the_largest_stakes_and_the_owner() {
        let params = Params { max_validators: 2, stake_threshold: 5, ..Params::default() };
        assert_eq!(permits(&[0, 9, 7, 7, 4], Some(0), &params), [true, true, false, true, false]);
        assert_eq!(permits(&[1, 4, 4, 4, 0], None, &params), [false; 5]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn shares_sum_to_one_or_nothing(
            stake in prop::collection::vec(0u64..1_000_000, 12),
            raw in prop::collection::vec(0u16.., 144),
            old in prop::collection::vec(0u16.., 144),
            yuma3 in any::<bool>(),
        ) {
            let mut inputs = network(&stake, &[]);
            inputs.last_update = vec![5; 12];
            inputs.weights = Array2::from_shape_vec((12, 12), raw).unwrap().mapv(f64::from);
            inputs.bonds = Array2::from_shape_vec((12, 12), old).unwrap();
            let bonds = if yuma3 { BondsRule::Yuma3 } else { BondsRule::Yuma1 };
            let out = epoch(&inputs, &Params { bonds, ..Params::default() });
            for shares in [&out.incentive, &out.dividends] {
                let sum: u32 = shares.iter().copied().map(u32::from).sum();
                prop_assert!(sum == 0 || (65_535 - 12..=65_535).contains(&sum), "sum {sum}");
            }
            prop_assert!(out.dividends.iter().zip(&stake).all(|(&d, &s)| d == 0 || s > 0));
        }
    }
}
