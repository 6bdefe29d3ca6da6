//! Yuma consensus: one epoch of a subnet as a pure function from stake, weights and bonds to incentive and dividends.
//!
//! The steps are those of Subtensor's epoch (`pallets/subtensor/src/epoch`), in the runtime's own arithmetic, so that every output equals the
//! runtime's to the last of its 65,535 parts. Two things are not seen here: fractions of a rao in the stake, which a runtime has where stake on
//! the root network counts in part, and rows of bonds that spec 300 leaves to a validator that neither had nor gets a permit.
//!
//! [`Rules`] says where the two runtimes that were compared differ. A runtime of spec 300 was run for the fixtures in `tests/yuma`; it was built
//! before epochs looked at open commits, so that part, like what is said of spec 425, is by the published source alone.

mod bonds;
mod error;
mod fixed;
mod json;
mod sparse;

use serde::{Deserialize, Serialize};

pub use error::InputError;
use fixed::Fixed;
pub use json::parse;
use sparse::Rows;

/// The most uids of a subnet.
pub const MAX_UIDS: usize = 4_096;

/// How bonds are kept between epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BondsRule {
    /// Bonds of stake-weighted weights, normalized per miner.
    Yuma1,
    /// Bonds of weights alone; stake enters at the dividends.
    Yuma3,
}

/// The runtime whose rules hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rules {
    /// Subtensor of July 2025: the stake threshold and the number of permits bind the owner too, and an exponential too large for the
    /// runtime's numbers counts as 0, which turns a liquid α that should be lowest into the highest.
    Spec300,
    /// Subtensor of June 2026: the owner's stake always counts and the owner always holds a permit; exponents are kept within ±20.
    #[default]
    Spec425,
}

/// A bond's moving average that depends on how far validator and consensus are apart (Yuma3 only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiquidAlpha {
    /// The smallest α · 65,535: the new weight's part where both agree.
    pub low: u16,
    /// The largest α · 65,535.
    pub high: u16,
    /// How fast α rises from one to the other, in hundredths.
    pub steepness: i16,
}

impl Default for LiquidAlpha {
    /// Subtensor's defaults: 0.7 to 0.9.
    fn default() -> Self {
        Self { low: 45_875, high: 58_982, steepness: 1_000 }
    }
}

/// A subnet's parameters of consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// The runtime whose rules hold.
    pub rules: Rules,
    /// κ · 65,535: the share of stake that must back a weight.
    pub kappa: u16,
    /// How much of a weight above consensus is taken from the bond, of 65,535.
    pub bonds_penalty: u16,
    /// What a bond keeps from epoch to epoch, in millionths.
    pub bonds_moving_average: u32,
    /// How bonds are kept.
    pub bonds: BondsRule,
    /// The moving average for each bond that replaces `bonds_moving_average`; ignored by Yuma1, as on Subtensor.
    pub liquid_alpha: Option<LiquidAlpha>,
    /// Blocks after which a neuron that sets no weights counts as inactive.
    pub activity_cutoff: u64,
    /// Stake below this counts as none, in rao.
    pub stake_threshold: u64,
    /// How many uids hold a permit; the owner's may come on top ([`Rules`]).
    pub max_validators: u16,
}

impl Default for Params {
    /// Subtensor's defaults for a new subnet, without a stake threshold.
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            kappa: 32_767,
            bonds_penalty: u16::MAX,
            bonds_moving_average: 900_000,
            bonds: BondsRule::Yuma3,
            liquid_alpha: None,
            activity_cutoff: 5_000,
            stake_threshold: 0,
            max_validators: 64,
        }
    }
}

/// A validator's row: (miner's uid, value), in the order in which it is stored.
///
/// An entry of 0 differs from none under liquid alpha, where a bond is lost once its row has no entry for the miner.
pub type Row = Vec<(u16, u16)>;

/// What an epoch reads; every vector has one entry per uid, and entries of rows for uids that do not exist count for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The epoch's block.
    pub block: u64,
    /// Bonds to miners registered in this block or later are cleared. Spec 300: `block` − tempo; spec 425: the block after the last epoch's.
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
    /// Block of each validator's oldest weight commit that can still be revealed; miners registered after it get nothing from that validator.
    pub open_commit: Vec<Option<u64>>,
    /// Weights as set, of any scale.
    pub weights: Vec<Row>,
    /// Bonds as the previous epoch stored them, of 65,535.
    pub bonds: Vec<Row>,
    /// What the epoch shares out, in rao.
    pub emission: u64,
}

/// What an epoch gives, all in the chain's u16 form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// Permits from now on.
    pub permit: Vec<bool>,
    /// Who set weights within the activity cutoff.
    pub active: Vec<bool>,
    /// Consensus weight per miner.
    pub consensus: Vec<u16>,
    /// Part of each validator's row that consensus kept.
    pub validator_trust: Vec<u16>,
    /// Shares of the miners' pay, which are the normalized ranks.
    pub incentive: Vec<u16>,
    /// Shares of the validators' pay.
    pub dividends: Vec<u16>,
    /// Whom the validators' pay goes to: the dividends or, while nobody has any incentive or dividend, the active stake (or all stake).
    pub validator_pay: Vec<u16>,
    /// Each uid's part of the emission, as miner and validator together, in rao, rounded down.
    pub emission: Vec<u64>,
    /// Bonds to store; rows without a permit are empty.
    pub bonds: Vec<Row>,
}

/// Permits for these stakes: the `max_validators` largest that are not below the threshold and not zero, and the owner ([`Rules`]).
/// Of equal stakes the later uid wins, as on Subtensor.
pub fn permits(stake: &[u64], owner: Option<usize>, params: &Params) -> Vec<bool> {
    let stake = effective_stake(stake, owner, params);
    let mut order: Vec<usize> = (0..stake.len()).filter(|&uid| stake[uid] > Fixed::ZERO).collect();
    order.sort_by_key(|&uid| std::cmp::Reverse((stake[uid], uid)));
    let mut permits = vec![false; stake.len()];
    for uid in order.into_iter().take(usize::from(params.max_validators)).chain(privileged(owner, params)) {
        permits[uid] = true;
    }
    permits
}

/// One epoch.
///
/// # Panics
/// If the vectors and matrices do not all have the same number of uids, or the owner is not among them; [`Inputs::validate`] says so first.
pub fn epoch(inputs: &Inputs, params: &Params) -> Outputs {
    let stake = effective_stake(&inputs.stake, inputs.owner, params);
    let permit = permits(&inputs.stake, inputs.owner, params);
    let permitted = Permitted::new(inputs, params);
    let active_stake = permitted.active_stake(&stake);
    let weights = permitted.weights();
    let consensus = consensus(&weights, &active_stake, params);
    let clipped = clipped(&weights, &consensus);
    let incentive = sparse::normalized(sparse::weighted_columns(&clipped, &active_stake));
    let (bonds, dividends) = bonds::Epoch {
        inputs,
        params,
        weights: penalized(&weights, &clipped, Fixed::proportion(params.bonds_penalty)),
        consensus: &consensus,
        incentive: &incentive,
        active_stake: &active_stake,
    }
    .run();
    let unjudged = if active_stake.iter().any(|&s| s > Fixed::ZERO) { &active_stake } else { &stake };
    let combined: Vec<Fixed> = incentive.iter().zip(&dividends).map(|(&i, &d)| i + d).collect();
    let nobody = combined.iter().all(|&x| x == Fixed::ZERO);
    let pay = if nobody { unjudged.clone() } else { sparse::normalized(combined) };
    Outputs {
        active: permitted.active,
        consensus: vector(&consensus),
        validator_trust: vector(&sparse::row_sums(&clipped)),
        incentive: vector(&incentive),
        validator_pay: vector(if nobody { unjudged } else { &dividends }),
        dividends: vector(&dividends),
        emission: pay.iter().map(|share| share.of(inputs.emission)).collect(),
        bonds: bonds.iter().zip(&permit).map(|(row, &permit)| if permit { stored(row) } else { Row::new() }).collect(),
        permit,
    }
}

/// Who may judge in this epoch, and who is active.
struct Permitted<'a> {
    inputs: &'a Inputs,
    permit: Vec<bool>,
    active: Vec<bool>,
}

impl<'a> Permitted<'a> {
    fn new(inputs: &'a Inputs, params: &Params) -> Self {
        let mut permit = inputs.permit.clone();
        if let Some(owner) = privileged(inputs.owner, params) {
            permit[owner] = true;
        }
        let active = inputs.last_update.iter().map(|&updated| updated.saturating_add(params.activity_cutoff) >= inputs.block);
        Self { inputs, permit, active: active.collect() }
    }

    /// Stake of those who hold a permit and set weights lately, normalized.
    fn active_stake(&self, stake: &[Fixed]) -> Vec<Fixed> {
        let counts = |uid: usize| self.permit[uid] && self.active[uid];
        sparse::normalized(stake.iter().enumerate().map(|(uid, &s)| if counts(uid) { s } else { Fixed::ZERO }).collect())
    }

    /// Rows of permitted validators, without their own entry (but the owner's) and without miners that registered after the row was set or
    /// after an open commit; rows sum to 1.
    fn weights(&self) -> Rows {
        let Inputs { owner, registered, last_update, open_commit, weights, .. } = self.inputs;
        let n = registered.len();
        let row = |row: &Row| row.iter().map(|&(j, w)| (usize::from(j), Fixed::whole(w.into()))).filter(|&(j, _)| j < n).collect();
        let keep = |i: usize, j: usize| {
            let own = i == j && Some(i) != *owner;
            let fresh = last_update[i] > registered[j] && open_commit[i].is_none_or(|commit| commit >= registered[j]);
            self.permit[i] && !own && fresh
        };
        sparse::normalized_rows(&sparse::filter(weights.iter().map(row).collect(), keep))
    }
}

/// The owner, where its stake and permit are beyond threshold and number.
fn privileged(owner: Option<usize>, params: &Params) -> Option<usize> {
    owner.filter(|_| params.rules == Rules::Spec425)
}

fn vector(x: &[Fixed]) -> Vec<u16> {
    x.iter().copied().map(Fixed::to_proportion).collect()
}

fn stored(row: &[(usize, Fixed)]) -> Row {
    row.iter().map(|&(j, bond)| (j as u16, bond.to_proportion())).collect()
}

/// Stake that reaches the threshold, normalized.
fn effective_stake(stake: &[u64], owner: Option<usize>, params: &Params) -> Vec<Fixed> {
    let counts = |uid| stake[uid] >= params.stake_threshold || Some(uid) == privileged(owner, params);
    let counted: Vec<u64> = (0..stake.len()).map(|uid| if counts(uid) { stake[uid] } else { 0 }).collect();
    let total = counted.iter().copied().map(u128::from).sum();
    counted.into_iter().map(|stake| Fixed::share(stake, total)).collect()
}

/// The median of each column, by the stake of those that have any.
fn consensus(weights: &Rows, active_stake: &[Fixed], params: &Params) -> Vec<Fixed> {
    let n = active_stake.len();
    let holders: Vec<usize> = (0..n).filter(|&i| active_stake[i] > Fixed::ZERO).collect();
    let stake = sparse::normalized(holders.iter().map(|&i| active_stake[i]).collect());
    let minority = stake.iter().copied().sum::<Fixed>() - Fixed::proportion(params.kappa);
    let rows: Vec<Vec<Fixed>> = holders.iter().map(|&i| sparse::dense(&weights[i], n)).collect();
    (0..n).map(|j| stake_median(rows.iter().map(|row| row[j]).zip(stake.iter().copied()).collect(), minority)).collect()
}

/// The smallest of the weights whose holders, counted from the smallest up, have more than the minority of the stake.
fn stake_median(mut held: Vec<(Fixed, Fixed)>, minority: Fixed) -> Fixed {
    held.sort_unstable();
    let mut below = Fixed::ZERO;
    for &(weight, stake) in &held {
        below = below + stake;
        if below > minority {
            return weight;
        }
    }
    held.last().map_or(Fixed::ZERO, |&(weight, _)| weight)
}

/// min(W, C); entries that this takes to 0 are dropped.
fn clipped(weights: &Rows, consensus: &[Fixed]) -> Rows {
    let clip = |row: &Vec<(usize, Fixed)>| {
        let entries = row.iter().filter(|&&(j, w)| w == Fixed::ZERO || consensus[j] > Fixed::ZERO);
        entries.map(|&(j, w)| (j, w.min(consensus[j]))).collect()
    };
    weights.iter().map(clip).collect()
}

/// W + penalty · (min(W, C) − W); entries above 0, by column, unless the penalty is none or all.
fn penalized(weights: &Rows, clipped: &Rows, penalty: Fixed) -> Rows {
    if penalty == Fixed::ZERO {
        return weights.clone();
    }
    if penalty == Fixed::ONE {
        return clipped.clone();
    }
    let n = weights.len();
    let row = |(w, c): (&Vec<_>, &Vec<_>)| {
        let between = sparse::dense(w, n).into_iter().zip(sparse::dense(c, n)).map(|(w, c)| w + penalty * (c - w));
        between.enumerate().filter(|&(_, x)| x > Fixed::ZERO).collect()
    };
    weights.iter().zip(clipped).map(row).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// Validators first, then miners; everybody registered at block 1, validators set weights at block 5, the epoch is block 10.
    fn network(stake: &[u64], rows: &[&[u16]]) -> Inputs {
        let n = stake.len();
        let mut weights = vec![Row::new(); n];
        for (i, row) in rows.iter().enumerate() {
            weights[i] = row.iter().enumerate().map(|(j, &w)| ((rows.len() + j) as u16, w)).collect();
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
            open_commit: vec![None; n],
            weights,
            bonds: vec![Row::new(); n],
            emission: 0,
        }
    }

    #[test]
    fn two_equal_validators_that_agree_are_paid_alike() {
        let out = epoch(&network(&[10, 10, 0, 0, 0], &[&[2, 1, 1], &[2, 1, 1]]), &Params::default());
        // rows are (1/2, 1/4, 1/4), nothing is clipped
        assert_eq!(out.consensus, [0, 0, 32767, 16383, 16383]);
        assert_eq!(out.incentive, [0, 0, 32767, 16383, 16383]);
        assert_eq!(out.validator_trust, [65535, 65535, 0, 0, 0]);
        assert_eq!(out.dividends, [32767, 32767, 0, 0, 0]);
        assert_eq!(out.permit, [true, true, false, false, false]);
        // a tenth of the weight after one epoch: 0.1 · 0.5 · 65,535 = 3,276.75
        assert_eq!(out.bonds[0][0], (2, 3276));
        assert_eq!(out.validator_pay, out.dividends);
    }

    #[test]
    fn a_lying_minority_is_clipped() {
        // 60 % of stake splits evenly between the first two miners, 40 % gives everything to the third, its accomplice
        let out = epoch(&network(&[60, 40, 0, 0, 0], &[&[1, 1, 0], &[0, 0, 1]]), &Params::default());
        assert_eq!(out.consensus, [0, 0, 32767, 32767, 0]);
        assert_eq!(out.incentive, [0, 0, 32767, 32767, 0], "the accomplice earns nothing");
        assert_eq!(out.validator_trust, [65535, 0, 0, 0, 0]);
        assert_eq!(out.dividends, [65535, 0, 0, 0, 0]);
    }

    #[test]
    fn a_partial_lie_keeps_its_honest_part() {
        // C = (1/2, 1/2, 0): the second validator's row (1/4, 1/4, 1/2) keeps a half
        let out = epoch(&network(&[60, 40, 0, 0, 0], &[&[1, 1, 0], &[1, 1, 2]]), &Params::default());
        assert_eq!(out.validator_trust, [65535, 32767, 0, 0, 0]);
        assert_eq!(out.incentive, [0, 0, 32767, 32767, 0]);
        // D ∝ A · E's share: (0.6 · 2/3, 0.4 · 1/3) → (3/4, 1/4)
        assert_eq!(out.dividends, [49151, 16383, 0, 0, 0]);
    }

    #[test]
    fn yuma1_bonds_follow_stake_and_are_stored_by_column_maximum() {
        let params = Params { bonds: BondsRule::Yuma1, ..Params::default() };
        let out = epoch(&network(&[60, 40, 0, 0, 0], &[&[1, 1, 0], &[1, 1, 0]]), &params);
        // 0.6 and 0.4 of 65,535 are whole, but two fifths are a little less in binary fractions
        assert_eq!(out.dividends, [39321, 26213, 0, 0, 0]);
        assert_eq!((out.bonds[0][0], out.bonds[1][0]), ((2, 65535), (2, 43689)));
    }

    #[test]
    fn bonds_of_a_new_registration_are_cleared() {
        let mut inputs = network(&[10, 10, 0, 0, 0], &[&[1, 1, 1], &[1, 1, 1]]);
        inputs.bonds[0] = vec![(2, 60_000), (3, 60_000)];
        inputs.registered[3] = 4;
        let out = epoch(&inputs, &Params::default());
        // 0.9 · 60,000 + 0.1 · 65,535 / 3 against the second term alone
        assert_eq!(out.bonds[0][..2], [(2, 56184), (3, 2184)]);
    }

    #[test]
    fn rows_without_permit_own_entries_and_stale_entries_do_not_count() {
        let mut inputs = network(&[10, 10, 10, 0], &[&[1], &[1], &[1]]);
        inputs.weights[0].push((0, 1));
        inputs.permit[1] = false;
        inputs.registered[3] = 5;
        let columns = |inputs: &Inputs| {
            let rows = Permitted::new(inputs, &Params::default()).weights();
            rows.iter().map(|row| row.iter().map(|&(j, w)| (j, w.to_proportion())).collect()).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(columns(&inputs), [vec![], vec![], vec![], vec![]]);
        inputs.owner = Some(0);
        assert_eq!(columns(&inputs)[0], [(0, 65535)]);
        inputs.registered[3] = 4;
        assert_eq!(columns(&inputs), [vec![(3, 32767), (0, 32767)], vec![], vec![(3, 65535)], vec![]]);
        inputs.open_commit = vec![Some(3), None, Some(4), None];
        assert_eq!(columns(&inputs), [vec![(0, 65535)], vec![], vec![(3, 65535)], vec![]], "uid 3 came after the first's commit");
    }

    #[test]
    fn the_silent_lose_their_say_and_stake_is_paid_while_nobody_is_judged() {
        let params = Params { activity_cutoff: 4, ..Params::default() };
        let out = epoch(&network(&[30, 10, 0], &[&[1], &[1]]), &params);
        assert_eq!(out.incentive, [0, 0, 0]);
        assert_eq!(out.dividends, [0, 0, 0]);
        assert_eq!(out.validator_pay, [49151, 16383, 0], "no stake is active, so all stake shares");
    }

    #[test]
    fn permits_go_to_the_largest_stakes_and_the_owner() {
        let params = Params { max_validators: 2, stake_threshold: 5, ..Params::default() };
        assert_eq!(permits(&[0, 9, 7, 7, 4], Some(0), &params), [true, true, false, true, false]);
        assert_eq!(permits(&[1, 4, 4, 4, 0], None, &params), [false; 5]);
        let older = Params { rules: Rules::Spec300, ..params };
        assert_eq!(permits(&[0, 9, 7, 7, 4], Some(0), &older), [false, true, false, true, false], "the owner needs stake there");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn shares_sum_to_one_or_nothing(
            stake in prop::collection::vec(0u64..1_000_000, 12),
            raw in prop::collection::vec(0u16.., 144),
            old in prop::collection::vec(0u16.., 144),
            rule in prop::sample::select(vec![(BondsRule::Yuma1, false), (BondsRule::Yuma3, false), (BondsRule::Yuma3, true)]),
            pot: u64,
        ) {
            let mut inputs = network(&stake, &[]);
            inputs.last_update = vec![5; 12];
            let rows = |values: &[u16]| values.chunks(12).map(|row| (0..).zip(row.iter().copied()).collect()).collect();
            (inputs.weights, inputs.bonds) = (rows(&raw), rows(&old));
            inputs.emission = pot;
            let liquid_alpha = rule.1.then(LiquidAlpha::default);
            let out = epoch(&inputs, &Params { bonds: rule.0, liquid_alpha, ..Params::default() });
            for shares in [&out.incentive, &out.dividends] {
                let sum: u32 = shares.iter().copied().map(u32::from).sum();
                prop_assert!(sum == 0 || (65_535 - 12..=65_535).contains(&sum), "sum {sum}");
            }
            prop_assert!(out.emission.iter().copied().map(u128::from).sum::<u128>() <= pot.into());
            prop_assert!(out.dividends.iter().zip(&stake).all(|(&d, &s)| d == 0 || s > 0));
        }
    }
}
