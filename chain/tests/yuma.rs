//! Yuma consensus against a real Subtensor runtime: what its epochs made of random networks (see `yuma/drive.mjs`), output by output.

#![allow(clippy::unwrap_used)]

use std::{fmt::Debug, fs};

use chain::yuma::{self, Row};
use serde::Deserialize;
use serde_json::Value;

/// One epoch of the runtime.
#[derive(Deserialize)]
struct Case {
    name: String,
    inputs: Value,
    outputs: Stored,
}

/// What the runtime stored.
#[derive(Deserialize)]
struct Stored {
    permit: Vec<bool>,
    active: Vec<bool>,
    consensus: Vec<u16>,
    validator_trust: Vec<u16>,
    incentive: Vec<u16>,
    dividends: Vec<u16>,
    emission: Vec<u64>,
    bonds: Vec<Row>,
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn compare<T: PartialEq + Debug>(&mut self, case: &str, output: &str, ours: &[T], theirs: &[T]) {
        if ours.len() != theirs.len() {
            self.0.push(format!("{case}: {} entries of {output}, the runtime has {}", ours.len(), theirs.len()));
        }
        let differ = ours.iter().zip(theirs).enumerate().filter(|(_, (ours, theirs))| ours != theirs);
        self.0.extend(differ.map(|(uid, (ours, theirs))| format!("{case}, uid {uid}: {output} {ours:?}, the runtime's is {theirs:?}")));
    }
}

fn compare(rule: &str) {
    let path = format!("{}/tests/yuma/{rule}.json", env!("CARGO_MANIFEST_DIR"));
    let cases: Vec<Case> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.len() >= 24, "{} epochs are too few", cases.len());
    let mut differences = Differences::default();
    for Case { name, inputs, outputs } in cases {
        let (inputs, params) = yuma::parse(&inputs.to_string()).unwrap();
        let ours = yuma::epoch(&inputs, &params);
        differences.compare(&name, "permit", &ours.permit, &outputs.permit);
        differences.compare(&name, "active", &ours.active, &outputs.active);
        differences.compare(&name, "consensus", &ours.consensus, &outputs.consensus);
        differences.compare(&name, "validator trust", &ours.validator_trust, &outputs.validator_trust);
        differences.compare(&name, "incentive", &ours.incentive, &outputs.incentive);
        differences.compare(&name, "dividends", &ours.dividends, &outputs.dividends);
        differences.compare(&name, "emission", &ours.emission, &outputs.emission);
        differences.compare(&name, "bonds", &ours.bonds, &outputs.bonds);
    }
    let found = differences.0.len();
    assert!(found == 0, "{found} outputs differ from the runtime's:\n{}", differences.0[..found.min(20)].join("\n"));
}

#[test]
fn yuma1_equals_the_runtime() {
    compare("yuma1");
}

#[test]
fn yuma3_equals_the_runtime() {
    compare("yuma3");
}

#[test]
fn yuma3_with_liquid_alpha_equals_the_runtime() {
    compare("liquid");
}

#[test]
fn the_example_has_one_meaning_in_both_forms_of_rows() {
    let (inputs, params) = yuma::parse(include_str!("yuma/example.json")).unwrap();
    assert_eq!((inputs.stake.len(), &inputs.permit[..]), (5, &[true, true, false, false, false][..]), "permits follow from stake");
    assert_eq!(inputs.weights[0], [(2, 100), (3, 100)], "a dense row's zero is no entry");
    let out = yuma::epoch(&inputs, &params);
    assert_eq!((out.consensus, out.validator_trust), (vec![0, 0, 32767, 32767, 0], vec![65535, 32767, 0, 0, 0]));
    assert!(out.active.iter().all(|&active| active));
}

#[test]
fn inputs_that_are_no_epoch_are_refused_by_name() {
    let long = |key: &str, n: usize| format!(r#"{{"stake": {:?}, "weights": [], "{key}": []}}"#, vec![1; n]);
    let with = |rest: &str| format!(r#"{{"stake": [1, 1], "weights": [[], []], {rest}}}"#);
    for (json, message) in [
        ("".into(), "EOF"),
        (with(r#""stakes": []"#), "unknown field `stakes`"),
        (with(r#""params": {"kappa": 65536}"#), "65536"),
        (with(r#""params": {"bonds_moving_average": 1000001}"#), "above 1,000,000"),
        (with(r#""bonds": [[0, NaN], []]"#), "expected value"),
        (with(r#""bonds": [[0, 0.5], []]"#), "whole numbers from 0 to 65535"),
        (with(r#""bonds": [[0, -1], []]"#), "whole numbers from 0 to 65535"),
        (with(r#""bonds": [[1], []]"#), "matrices are square"),
        (with(r#""bonds": [[]]"#), "bonds has 1 entries"),
        (with(r#""bonds": [[[2, 1]], []]"#), "row 0 of the bonds names uid 2"),
        (with(r#""bonds": [[], [[0, 1], [0, 1]]]"#), "uid 0 twice"),
        (with(r#""owner": 2"#), "owner names uid 2"),
        (with(r#""permit": [true]"#), "permit has 1 entries"),
        (long("bonds", 3), "weights has 0 entries"),
        (long("bonds", yuma::MAX_UIDS + 1), "4097 uids"),
        (format!(r#"{{"stake": [], "weights": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000)), "recursion"),
    ] {
        let error = yuma::parse(&json).unwrap_err().to_string();
        assert!(error.contains(message), "{error:?} does not say {message:?}");
    }
}

#[test]
fn extreme_inputs_give_an_epoch_of_zeros_or_shares_but_no_panic() {
    let most = u64::MAX;
    let json = format!(
        r#"{{"params": {{"stake_threshold": {most}, "activity_cutoff": {most}, "kappa": 0, "max_validators": 0, "bonds_moving_average": 0,
            "liquid_alpha": {{"low": 65535, "high": 0, "steepness": -32768}}}}, "block": {most}, "owner": 0, "emission": {most},
            "stake": [{most}, {most}, 0], "weights": [[65535, 65535, 65535], [0, 0, 65535], []], "bonds": [[1, 1, 1], [65535, 0, 0], []],
            "registered": [0, 0, {most}], "last_update": [{most}, {most}, 0]}}"#
    );
    let (inputs, mut params) = yuma::parse(&json).unwrap();
    for rules in [yuma::Rules::Spec300, yuma::Rules::Spec425] {
        for bonds in [yuma::BondsRule::Yuma1, yuma::BondsRule::Yuma3] {
            (params.rules, params.bonds) = (rules, bonds);
            let shared: u128 = yuma::epoch(&inputs, &params).emission.into_iter().map(u128::from).sum();
            assert!(shared <= most.into());
        }
    }
    let (nobody, params) = yuma::parse(r#"{"stake": [], "weights": []}"#).unwrap();
    assert!(yuma::epoch(&nobody, &params).permit.is_empty());
}
