//! The short form of the arena's suite: adversaries among honest miners, and a validator that lies.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use arena::Outcome;
use dataset::{PrepareOptions, Source, Tokenizer};
use serde_json::Value;

const NAMES: [&str; 3] = ["honest", "liar", "mixed"];

fn arena(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    command.arg("arena").args(args).env("OMP_NUM_THREADS", "1").env("RAYON_NUM_THREADS", "1").env_remove("RUST_LOG");
    command
}

fn succeeds(command: &mut Command) -> Value {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

fn fails(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), said.lines().count()), (Some(1), 1), "{said}");
    said
}

/// This repository's own texts as a data set.
fn data(folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = ["protocol", "compression", "chain", "dataset", "storage", "model", "checkpoints", "gauntlet"];
    let texts = names.map(|name| root.join(name).join("README.md").display().to_string());
    let options = PrepareOptions::new(Source::Paths(texts.to_vec()), "this repository", Tokenizer::Bytes);
    let data = folder.join("data");
    dataset::prepare(&PrepareOptions { held_out_share: 0.3, ..options }, &data).unwrap();
    data
}

/// What a class was paid, per head and in all.
fn per_head(outcome: &Outcome, class: &str) -> f64 {
    outcome.payment(class).total / outcome.of_class(class).count() as f64
}

/// Rounds are whole, each leads to a state of its own unless a liar led it, and the model learns.
fn assert_sound(outcome: &Outcome) {
    let roots: BTreeSet<String> = outcome.rounds.iter().map(|round| round.root.to_string()).collect();
    let lies: u64 = outcome.validators.iter().filter(|v| v.lies).map(|v| v.led).sum();
    assert!(outcome.rounds.len() == 8 && roots.len() as u64 + lies >= 8, "{:?}", outcome.rounds);
    assert!(outcome.final_loss().unwrap() < outcome.held_out[0].1 - if lies == 0 { 1.0 } else { 0.0 }, "{:?}", outcome.held_out);
    for miner in outcome.of_class("honest") {
        assert!(miner.refusals.is_empty() && miner.emission > 0, "{miner:?}");
    }
}

/// Assignments and random batches differ from run to run, so that one payload in fifty may miss by chance.
fn assert_everybody_honest_is_applied(outcome: &Outcome) {
    let missed: usize = outcome.of_class("honest").map(|miner| 8 - miner.applied.len()).sum();
    assert!(missed <= outcome.of_class("honest").count() * 8 / 50, "{missed} payloads of honest miners were not applied");
}

#[test]
fn in_the_short_form_adversaries_are_paid_next_to_nothing_and_the_honest_are_not_harmed() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data(folder.path()), folder.path().join("out"));
    let run = || succeeds(arena(&["run", "--short", "--json", "--jobs=2"]).arg("--data").arg(&data).arg("--out").arg(&out));
    let told = run();
    let outcomes: BTreeMap<&str, Outcome> =
        NAMES.map(|name| (name, serde_json::from_slice(&fs::read(out.join(format!("{name}.json"))).unwrap()).unwrap())).into();
    outcomes.values().for_each(assert_sound);

    let (honest, mixed, liar) = (&outcomes["honest"], &outcomes["mixed"], &outcomes["liar"]);
    assert_everybody_honest_is_applied(honest);
    assert_everybody_honest_is_applied(mixed);
    for class in ["noise", "sign-flip", "copy-changed", "malformed", "scale-up"] {
        let (paid, fair) = (per_head(mixed, class), per_head(mixed, "honest"));
        assert!(paid < 0.2 * fair, "{class} is paid {paid}, an honest miner {fair}");
    }
    assert!(mixed.of_class("malformed").all(|miner| miner.applied.is_empty() && miner.refusals.values().sum::<u32>() == 8));

    // the rounds that the liar led apart, everybody honest is applied, whomever the liar favours is paid little
    assert!(liar.validators[0].lies && liar.validators[1..].iter().all(|v| !v.lies));
    assert!(per_head(liar, "zeros") < 0.5 * per_head(liar, "honest"), "{:?}", liar.payment("zeros"));
    let led = liar.validators[0].led as usize;
    let applied = liar.of_class("honest").map(|miner| miner.applied.len()).max();
    assert!(applied >= Some(8 - led), "{applied:?} of 8 rounds, of which the liar led {led}");
    // of the last round nobody may have had time to speak
    assert!(led < 2 || liar.validators[1..].iter().any(|v| v.dissents > 0), "{:?}", liar.validators);

    assert_eq!(told["report"]["missing"], Value::Array(Vec::new()));
    let bouts: Vec<&str> = told["report"]["rows"].as_array().unwrap().iter().map(|row| row["bout"].as_str().unwrap()).collect();
    assert_eq!(bouts, ["honest", "mixed", "liar"]);
    assert!(fs::read_to_string(out.join("report.md")).unwrap().contains("![gauntlet pay](gauntlet-pay.svg)"));
    assert!(out.join("gauntlet-pay.svg").exists() && out.join("gauntlet-loss.svg").exists());

    // what was held is not held again, and a folder is not used for another suite
    let before: Vec<Vec<u8>> = NAMES.map(|name| fs::read(out.join(format!("{name}.json"))).unwrap()).into();
    assert_eq!(run(), told);
    let after: Vec<Vec<u8>> = NAMES.map(|name| fs::read(out.join(format!("{name}.json"))).unwrap()).into();
    assert!(before == after, "held again");
    let refused = fails(arena(&["run", "--short", "--rounds=9"]).arg("--data").arg(&data).arg("--out").arg(&out));
    assert!(refused.contains("suite of another scale"), "{refused}");

    let document = folder.path().join("document.md");
    let report = || arena(&["report", "--runs=1"]).arg("--out").arg(&out).arg("--write").arg(&document).output().unwrap();
    fs::write(&document, "by hand\n").unwrap();
    let unmarked = report();
    assert!(unmarked.status.code() == Some(1) && String::from_utf8_lossy(&unmarked.stderr).contains("add them"), "{unmarked:?}");
    fs::write(&document, "by hand\n<!-- tributary arena report: begin -->\n<!-- tributary arena report: end -->\n").unwrap();
    assert!(report().status.success());
    let written = fs::read_to_string(&document).unwrap();
    assert!(written.starts_with("by hand\n<!--") && written.contains("| mixed | 8 honest, 5 of as many kinds |"), "{written}");
    assert!(folder.path().join("gauntlet-pay.svg").exists());
}

#[test]
fn what_is_no_bout_is_refused_with_a_word_on_what_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path());
    let refused = |args: &[&str]| fails(arena(args).arg("--data").arg(&data));
    assert!(refused(&["bout", "noise-and-more"]).contains("honest=8 noise-and-more=2"));
    assert!(refused(&["bout", "honest=some"]).contains("CLASS=COUNT"));
    assert!(refused(&["bout", "lazy=2"]).contains("is not a strategy; known are honest, work"));
    assert!(refused(&["bout", "honest=2", "--liar=noise"]).contains("no miner is of this class"));
    assert!(refused(&["bout", "honest", "--liar=noise"]).contains("the suite says"));
    assert!(refused(&["run", "--only=nobody"]).contains("no bout of the suite; they are honest, "));
    assert!(fails(arena(&["report"]).arg("--out").arg(folder.path())).contains("holds no suite"));
}

#[test]
fn a_bout_of_ones_own_is_told_per_class() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path());
    let bout = |more: &[&str]| {
        let mut command = arena(&["bout", "honest=2", "malformed=1", "--rounds=2"]);
        command.args(more).arg("--data").arg(&data);
        command
    };
    let told = bout(&[]).output().unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(told.status.success() && text.lines().any(|line| line.starts_with("malformed ") && line.contains("0.00%")), "{text}");
    let saved = folder.path().join("outcome.json");
    let told = succeeds(bout(&["--json"]).arg("--save").arg(&saved));
    assert_eq!(told, serde_json::from_slice::<Value>(&fs::read(&saved).unwrap()).unwrap());
    assert_eq!(told["miners"].as_array().unwrap().len(), 3);
    let rates = succeeds(&mut arena(&["computation", "--runs=1", "--json"]));
    assert_eq!(rates["rows"].as_array().unwrap().len(), 12);
}
