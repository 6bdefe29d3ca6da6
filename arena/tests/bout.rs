//! A small bout, from setup to report.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use arena::{ArenaError, Examiner, Outcome, Setup, contenders};
use dataset::{PrepareOptions, Source, Tokenizer};

const ROUNDS: u64 = 4;

/// This repository's own texts.
fn prepare(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let names = ["protocol", "compression", "chain", "dataset", "storage", "model", "checkpoints"];
    let texts = names.map(|name| root.join(name).join("README.md").display().to_string());
    let options = PrepareOptions::new(Source::Paths(texts.to_vec()), "this repository", Tokenizer::Bytes);
    dataset::prepare(&PrepareOptions { held_out_share: 0.3, ..options }, folder).unwrap();
}

fn bout(classes: &[(&str, usize)]) -> Result<Outcome, ArenaError> {
    bout_before(vec![Examiner::honest(60), Examiner::honest(40)], classes)
}

fn bout_before(validators: Vec<Examiner>, classes: &[(&str, usize)]) -> Result<Outcome, ArenaError> {
    let data = tempfile::tempdir().unwrap();
    prepare(data.path());
    let mut setup = Setup::new(data.path().to_owned(), 1, ROUNDS).unwrap();
    setup.validators = validators;
    setup.held_out = 8;
    setup.measure_every = 2;
    for (class, count) in classes {
        setup.miners.extend(contenders(class, *count).unwrap());
    }
    arena::run(setup)
}

#[test]
fn honest_miners_train_a_model_and_are_paid_and_noise_is_not() {
    let outcome = bout(&[("honest", 5), ("noise", 1)]).unwrap();
    assert_eq!(outcome.rounds.iter().map(|r| r.round).collect::<Vec<_>>(), (0..ROUNDS).collect::<Vec<_>>());
    assert!(outcome.rounds.iter().all(|r| r.listed == 6), "all upload in time");
    assert_eq!(outcome.held_out.iter().map(|(round, _)| *round).collect::<Vec<_>>(), [0, 2, 4]);
    assert!(outcome.final_loss().unwrap() < outcome.held_out[0].1 - 0.5, "{:?}", outcome.held_out);
    assert!(outcome.of_class("honest").all(|m| m.lasted() == ROUNDS && m.refusals.is_empty() && m.emission > 0));
    let (honest, noise) = (outcome.payment("honest"), outcome.payment("noise"));
    assert!((honest.total + noise.total - 1.0).abs() < 1e-9);
    assert!(noise.total < 0.1, "{noise:?}");
    assert_eq!(outcome.validators.iter().map(|v| v.led).sum::<u64>(), ROUNDS);
}

#[test]
fn whatever_strategies_upload_costs_themselves_alone() {
    let classes = ["honest", "copy-same", "withheld", "late", "wrong-root", "malformed", "coalition", "sybil-copies", "copy-changed"];
    let outcome = bout(&classes.map(|class| (class, 2))).unwrap();
    assert_eq!(outcome.rounds.len() as u64, ROUNDS);
    assert!(outcome.of_class("honest").all(|m| m.lasted() == ROUNDS && m.refusals.is_empty()));
    for class in ["copy-same", "withheld", "wrong-root", "malformed"] {
        assert!(outcome.of_class(class).all(|m| u64::from(m.refusals.values().sum::<u32>()) == ROUNDS), "{class}");
    }
    assert!(outcome.of_class("withheld").all(|m| m.refusals.keys().eq(["not-revealed"])));
    assert!(outcome.of_class("wrong-root").all(|m| m.refusals.keys().eq(["wrong-owner", "wrong-root"])));
    for class in ["copy-same", "withheld", "late", "wrong-root", "malformed"] {
        assert!(outcome.of_class(class).all(|m| m.applied.is_empty() && m.emission == 0), "{class}");
    }
    // a late upload is on no list
    assert!(outcome.of_class("late").all(|m| m.refusals.is_empty()));
    assert!(outcome.rounds[0].listed == 14 && outcome.rounds[1].listed == 16, "{:?}", outcome.rounds);
}

#[test]
fn a_liar_is_contradicted() {
    // the miners' uids follow those of the owner and three validators
    let validators = vec![Examiner::favouring(40, vec![9]), Examiner::honest(35), Examiner::honest(25)];
    let outcome = bout_before(validators, &[("honest", 5), ("zeros", 1)]).unwrap();
    let [liar, others @ ..] = &outcome.validators[..] else { panic!("three validators") };
    assert!(liar.lies && others.iter().all(|v| !v.lies));
    // of the last round nobody may have had time to speak
    assert!(liar.led < 2 || others.iter().any(|v| v.dissents > 0), "{:?}", outcome.validators);
    let miner = outcome.of_class("zeros").next().unwrap();
    assert_eq!(miner.uid, 9);
    assert!(outcome.payment("zeros").total < 0.1, "{:?}", outcome.payment("zeros"));
}

#[test]
fn impossible_setups_are_refused() {
    assert!(matches!(bout(&[]), Err(ArenaError::Setup(_))));
}
