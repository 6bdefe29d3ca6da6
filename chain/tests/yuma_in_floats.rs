//! A second count of Yuma consensus, in matrices of floats as textbooks write it, beside the one in the runtime's fixed point: they agree within two of 65,535
//! on every network without liquid alpha that the runtime was asked about.

#![allow(clippy::unwrap_used)]

use chain::yuma::{self, BondsRule, Inputs, Params, Row, Rules};
use ndarray::{Array1, Array2, Axis, Zip};
use serde_json::Value;

/// Of 65,535.
const CLOSE: u16 = 2;

fn unit(x: u16) -> f64 {
    f64::from(x) / 65_535.0
}

fn matrix(rows: &[Row]) -> Array2<f64> {
    let mut matrix = Array2::zeros((rows.len(), rows.len()));
    for (i, row) in rows.iter().enumerate() {
        for &(j, value) in row {
            matrix[(i, usize::from(j))] = f64::from(value);
        }
    }
    matrix
}

fn normalized(x: Array1<f64>) -> Array1<f64> {
    let sum = x.sum();
    if sum > 0.0 { x / sum } else { x }
}

fn normalize(matrix: &mut Array2<f64>, axis: Axis) {
    for mut lane in matrix.lanes_mut(axis) {
        let sum = lane.sum();
        if sum > 0.0 {
            lane /= sum;
        }
    }
}

/// The smallest weight whose holders, from the smallest up, have more than 1 − κ of the stake.
fn median(weights: &[f64], stake: &Array1<f64>, kappa: f64) -> f64 {
    let mut held: Vec<(f64, f64)> = weights.iter().copied().zip(stake.iter().copied()).filter(|&(_, stake)| stake > 0.0).collect();
    held.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = 0.0;
    for &(weight, stake) in &held {
        below += stake;
        if below > 1.0 - kappa {
            return weight;
        }
    }
    held.last().map_or(0.0, |&(weight, _)| weight)
}

struct Counted {
    consensus: Array1<f64>,
    validator_trust: Array1<f64>,
    incentive: Array1<f64>,
    dividends: Array1<f64>,
}

fn epoch(inputs: &Inputs, params: &Params) -> Counted {
    let n = inputs.stake.len();
    let counts = |uid: usize| {
        let exempt = params.rules == Rules::Spec425 && Some(uid) == inputs.owner;
        inputs.stake[uid] >= params.stake_threshold || exempt
    };
    let active = |uid: usize| inputs.permit[uid] && inputs.last_update[uid].saturating_add(params.activity_cutoff) >= inputs.block;
    let stake = normalized((0..n).map(|uid| if counts(uid) { inputs.stake[uid] as f64 } else { 0.0 }).collect());
    let stake = normalized(stake.iter().enumerate().map(|(uid, &s)| if active(uid) { s } else { 0.0 }).collect());
    let mut weights = matrix(&inputs.weights);
    for ((i, j), weight) in weights.indexed_iter_mut() {
        let own = i == j && Some(i) != inputs.owner;
        if !inputs.permit[i] || own || inputs.last_update[i] <= inputs.registered[j] {
            *weight = 0.0;
        }
    }
    normalize(&mut weights, Axis(1));
    let kappa = unit(params.kappa);
    let consensus: Array1<f64> = weights.columns().into_iter().map(|column| median(&column.to_vec(), &stake, kappa)).collect();
    let clipped = Zip::from(&weights).and_broadcast(&consensus).map_collect(|&w, &c| w.min(c));
    let incentive = normalized(clipped.t().dot(&stake));
    let bonded = &weights + &((&clipped - &weights) * unit(params.bonds_penalty));
    let alpha = 1.0 - f64::from(params.bonds_moving_average) / 1e6;
    let mut old = matrix(&inputs.bonds);
    for ((_, j), bond) in old.indexed_iter_mut() {
        *bond = if inputs.registered[j] >= inputs.last_epoch { 0.0 } else { *bond / 65_535.0 };
    }
    let dividends = match params.bonds {
        BondsRule::Yuma3 => {
            let mut bonds = bonded * alpha + old * (1.0 - alpha);
            normalize(&mut bonds, Axis(0));
            normalized(bonds.dot(&incentive) * &stake)
        }
        BondsRule::Yuma1 => {
            let mut new = bonded * &stake.clone().insert_axis(Axis(1));
            normalize(&mut new, Axis(0));
            normalize(&mut old, Axis(0));
            let mut bonds = new * alpha + old * (1.0 - alpha);
            normalize(&mut bonds, Axis(0));
            normalized(bonds.dot(&incentive))
        }
    };
    Counted { validator_trust: clipped.sum_axis(Axis(1)), consensus, incentive, dividends }
}

fn assert_close(case: &str, output: &str, floats: &Array1<f64>, fixed: &[u16]) {
    for (uid, (&float, &fixed)) in floats.iter().zip(fixed).enumerate() {
        let float = (float * 65_535.0) as u16;
        assert!(float.abs_diff(fixed) <= CLOSE, "{case}, uid {uid}: {output} is {float} in floats, {fixed} in fixed point");
    }
}

#[test]
fn floats_and_fixed_point_agree() {
    for rule in ["yuma1", "yuma3"] {
        let path = format!("{}/tests/yuma/{rule}.json", env!("CARGO_MANIFEST_DIR"));
        let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for case in cases {
            let (inputs, params) = yuma::parse(&case["inputs"].to_string()).unwrap();
            let (name, floats, fixed) = (case["name"].to_string(), epoch(&inputs, &params), yuma::epoch(&inputs, &params));
            assert_close(&name, "consensus", &floats.consensus, &fixed.consensus);
            assert_close(&name, "validator trust", &floats.validator_trust, &fixed.validator_trust);
            assert_close(&name, "incentive", &floats.incentive, &fixed.incentive);
            assert_close(&name, "dividends", &floats.dividends, &fixed.dividends);
        }
    }
}
