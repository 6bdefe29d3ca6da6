//! Whole networks of real processes on a tiny model.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::sync::Arc;

use chain::Chain as _;
use checkpoints::{Event, Step};
use common::{CONFIG, Net, block_on, complaint, first, tributary};
use protocol::{ObjectKey, score::Outcome};

/// The row of weights that a validator has on the ledger.
fn weights(net: &Net, validator: &str) -> Vec<(u16, u16)> {
    block_on(net.ledger.weights(1, net.roles[validator].uid))
}

#[test]
fn all_nodes_agree_and_a_cheat_is_paid_nothing() {
    // with the default floor and probation
    let config = CONFIG.replace("floor = 0.001\nprobation = 1000\n", "");
    let mut net = Net::new(&config, 3, 1, 2);
    net.start_all();
    net.wait_round("validator-1", 11);
    net.wait("weights on the ledger", |net| !weights(net, "validator-1").is_empty() && !weights(net, "validator-2").is_empty());
    net.stop_all();
    let names: Vec<String> = net.roles.keys().cloned().collect();
    let newest = net.assert_equal_roots(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(newest >= 10, "all came far, the slowest to round {newest}");
    let cheat = net.roles["cheat-1"].uid;
    // noise may pass the floor by chance, and less and less often
    let later: Vec<u64> = net
        .applied("validator-1")
        .into_iter()
        .filter(|(round, uids)| *round >= 3 && uids.contains(&cheat))
        .map(|(round, _)| round)
        .collect();
    assert!(later.len() <= 2, "the cheat was applied in rounds {later:?}");
    for validator in ["validator-1", "validator-2"] {
        let row = weights(&net, validator);
        let of = |uid: u16| row.iter().find(|(u, _)| *u == uid).map_or(0, |(_, w)| u32::from(*w));
        let honest: u32 = (1..=3).map(|i| of(net.roles[&format!("miner-{i}")].uid)).sum();
        assert!(honest > 0, "{row:?}");
        assert!(f64::from(honest) / f64::from(honest + of(cheat)) > 0.95, "{row:?}");
    }
    strangers_can_use_what_is_left(&net);
}

#[test]
fn where_a_sample_is_measured_everybody_has_a_turn_and_the_rest_may_enter() {
    let sampled = "mode = \"sampled\"\nsample = 1\nprobation = 2\ntrust = 1e-9\n";
    let mut net = Net::new(&CONFIG.replace("probation = 1000\n", sampled), 3, 0, 2);
    net.start_all();
    net.wait_round("validator-1", 14);
    net.stop_all();
    let names: Vec<String> = net.roles.keys().cloned().collect();
    net.assert_equal_roots(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let steps = net.replay();
    let measured = |step: &Step| step.sheet.value.entries.iter().filter(|e| matches!(e.outcome, Outcome::Measured { .. })).count();
    assert!(steps[..2].iter().all(|step| measured(step) == step.sheet.value.entries.len()), "newcomers are always measured");
    let settled = &steps[3..];
    assert!(settled.iter().any(|step| measured(step) == 1 && step.sheet.value.entries.len() == 3), "then a sample is");
    for miner in ["miner-1", "miner-2", "miner-3"].map(|name| net.roles[name].uid) {
        // one by one, whoever has waited the longest
        let waited = settled.iter().map(|step| step.sheet.value.standing.of(miner).expect("it has scores").since).max();
        assert!(waited < Some(6), "uid {miner} waited for {waited:?} rounds");
    }
    let entered = |step: &Arc<Step>| {
        let applied = &step.record.value.applied;
        step.sheet.value.entries.iter().any(|e| e.outcome == Outcome::Unmeasured && applied.iter().any(|a| a.uid == e.uid))
    };
    assert!(settled.iter().any(entered), "an unmeasured payload of a miner with standing enters");
}

/// The log on disk gives a stranger the same root, the standing, a snapshot, its bits per byte, and a folder for other tools.
fn strangers_can_use_what_is_left(net: &Net) {
    let (_, root) = net.roots("validator-1").pop_last().unwrap();
    let verified = succeed(net, &["verify", "--json"]);
    assert!(verified.contains(&root.to_string()), "{verified}");
    let status: serde_json::Value = serde_json::from_str(&succeed(net, &["status", "--json"])).unwrap();
    assert!(status.to_string().contains(&root.to_string()), "{status}");
    let (snapshot, folder) = (net.path("pulled"), net.path("hf"));
    succeed(net, &["pull", "--out", snapshot.to_str().unwrap()]);
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let from = ["--snapshot", snapshot.to_str().unwrap()];
    let eval: serde_json::Value = serde_json::from_str(&succeed(net, &[&["eval", "--json", "--text", text], &from[..]].concat())).unwrap();
    let bits = eval["texts"][0]["bits_per_byte"].as_f64().expect("a figure");
    assert!(bits > 1.0 && bits < 7.9, "trained a little: {bits}");
    succeed(net, &[&["export", "--format", "hf", "--out", folder.to_str().unwrap()], &from[..]].concat());
    assert!(folder.join("config.json").exists() && folder.join("model.safetensors").exists());
}

/// Runs a command on the run and returns what it prints.
fn succeed(net: &Net, args: &[&str]) -> String {
    let output = tributary().args(args).args(["--run", &net.run]).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_amendment_changes_the_run_for_everybody() {
    let mut net = Net::new(CONFIG, 2, 0, 1);
    net.start_all();
    net.wait_round("miner-1", 0);
    let wallets = net.path("wallets");
    let key = ["--wallet-path", wallets.to_str().unwrap(), "--wallet", "test", "--hotkey"];
    let refused =
        tributary().args(["amend", "--from-round", "3", "--top", "1", "--run", &net.run]).args(key).arg("miner-1").output().unwrap();
    assert!(complaint(&refused).contains("did not launch"));
    succeed(&net, &[&["amend", "--from-round", "3", "--top", "1"], &key[..], &["owner"]].concat());
    // it holds in every round that opens after its block
    let current = *net.roots("miner-1").keys().next_back().unwrap();
    net.wait_round("miner-1", current + 6);
    net.stop_all();
    let applied = net.applied("miner-1");
    assert!(applied.range(..3).any(|(_, uids)| uids.len() == 2), "{applied:?}");
    assert!(applied.range(current + 4..).all(|(_, uids)| uids.len() == 1), "{applied:?}");
    net.assert_equal_roots(&["miner-1", "miner-2", "validator-1", "aggregator"]);
    // replay applies it too
    assert!(succeed(&net, &["verify", "--json"]).contains(&net.roots("validator-1").pop_last().unwrap().1.to_string()));
}

#[test]
fn killed_nodes_come_back_to_the_roots_of_those_that_were_not() {
    let mut net = Net::new(CONFIG, 3, 0, 2);
    net.start_all();
    // at different points of different rounds: the tenth event of a kind falls anywhere within a round
    for (victim, round) in [("miner-1", 1), ("validator-1", 3), ("aggregator", 4), ("miner-1", 5), ("validator-2", 6)] {
        net.wait_round("miner-3", round);
        net.kill(victim);
        net.wait_round("miner-3", round + 1);
        net.start(&[victim]);
    }
    net.wait_round("miner-3", 10);
    for name in ["miner-1", "miner-2", "validator-1", "validator-2", "aggregator"] {
        net.wait_round(name, 10);
    }
    net.stop_all();
    net.assert_equal_roots(&["miner-1", "miner-2", "miner-3", "validator-1", "validator-2", "aggregator"]);
    let revived = net.roles["miner-1"].uid;
    assert!(net.applied("miner-3").iter().any(|(round, applied)| *round > 7 && applied.contains(&revived)), "its work counts again");
}

#[test]
fn a_dead_lead_is_replaced_in_the_next_span() {
    let mut net = Net::new(CONFIG, 2, 0, 2);
    net.start_all();
    net.wait_round("validator-2", 3);
    net.kill("validator-1");
    let (dead, other) = (net.hotkey("validator-1"), net.hotkey("validator-2"));
    // it may have closed the round that it died in
    let next = *net.roots("validator-2").keys().next_back().unwrap() + 2;
    let orphaned = |steps: &[Arc<Step>]| steps.iter().filter(|s| s.record.value.round >= next && first(s) == dead).count();
    while orphaned(&net.replay()) < 2 {
        let newest = *net.roots("validator-2").keys().next_back().unwrap();
        net.wait_round("validator-2", newest + 1);
    }
    let revived = *net.roots("validator-2").keys().next_back().unwrap() + 1;
    net.start(&["validator-1"]);
    net.wait_round("validator-1", revived + 2);
    net.stop_all();
    net.assert_equal_roots(&["miner-1", "miner-2", "validator-1", "validator-2"]);
    for step in net.replay() {
        let (round, leads) = (step.record.value.round, (step.close.list.signer, step.record.signer));
        if round < next - 1 {
            assert_eq!(leads, (first(&step), first(&step)), "the first in rank leads round {round} while it lives");
        } else if (next..revived).contains(&round) {
            assert_eq!(leads, (other, other), "the one that lives leads round {round}");
        }
    }
}

#[test]
fn a_late_joiner_catches_up_from_a_snapshot_and_is_applied() {
    let mut net = Net::new(CONFIG, 3, 0, 1);
    net.start(&["miner-1", "miner-2", "validator-1", "aggregator"]);
    net.wait_round("miner-1", 5);
    net.start(&["miner-3"]);
    net.wait_round("miner-3", 8);
    net.stop_all();
    let first = *net.roots("miner-3").keys().next().unwrap();
    assert!(first >= 3, "it started from a snapshot, not from genesis: its first round was {first}");
    net.assert_equal_roots(&["miner-1", "miner-2", "miner-3", "validator-1"]);
    let uid = net.roles["miner-3"].uid;
    assert!(net.applied("miner-1").values().any(|applied| applied.contains(&uid)), "its work is applied");
}

#[test]
fn a_validator_that_restarts_keeps_its_scores() {
    let mut net = Net::new(CONFIG, 2, 0, 2);
    net.start_all();
    net.wait_round("validator-2", 4);
    net.stop("validator-2");
    net.wait_round("validator-1", 6);
    net.start(&["validator-2"]);
    net.wait_round("validator-2", 9);
    net.stop_all();
    let scores = |name: &str| {
        let mut told = net.events(name).into_iter().rev();
        let of_round_8 = told.find_map(|e| if let Event::Scores { round: 8, scores } = e { Some(scores) } else { None });
        of_round_8.expect("scores of round 8")
    };
    assert_eq!(scores("validator-1"), scores("validator-2"));
}

#[test]
fn a_miner_whose_bucket_has_other_bytes_for_a_round_goes_on_in_the_next() {
    let mut net = Net::new(CONFIG, 2, 0, 1);
    net.start_all();
    net.wait_round("validator-1", 1);
    // as after the loss of a home directory: an envelope that this miner knows nothing of
    let taken = *net.roots("validator-1").keys().next_back().unwrap() + 4;
    let envelope = net.bucket("miner-1").join(ObjectKey::Envelope(taken).to_string());
    std::fs::create_dir_all(envelope.parent().unwrap()).unwrap();
    std::fs::write(envelope, b"other bytes").unwrap();
    net.wait_round("miner-1", taken + 3);
    net.stop_all();
    let gave_up = |e: &Event| matches!(e, Event::Warning { message } if message.contains("going on in the next round"));
    assert_eq!(net.events("miner-1").iter().filter(|e| gave_up(e)).count(), 1);
    let (uid, applied) = (net.roles["miner-1"].uid, net.applied("validator-1"));
    assert!(!applied[&taken].contains(&uid), "{applied:?}");
    assert!(applied.range(taken + 1..).any(|(_, uids)| uids.contains(&uid)), "{applied:?}");
    net.assert_equal_roots(&["miner-1", "miner-2", "validator-1", "aggregator"]);
}

#[test]
fn training_that_is_not_finite_is_neither_sent_nor_kept() {
    // after one inner step the parameters are so large that the next one's loss is NaN
    let mut net = Net::new(&CONFIG.replace("lr = 3e-3", "lr = 1e30"), 1, 0, 1);
    net.start_all();
    net.wait_round("miner-1", 1);
    net.stop_all();
    let events = net.events("miner-1");
    let lost = |e: &Event| matches!(e, Event::Warning { message } if message.contains("nothing was changed") && message.ends_with("no payload in this round"));
    assert!(events.iter().any(lost), "{events:?}");
    assert!(!events.iter().any(|e| matches!(e, Event::Sealed { .. })), "{events:?}");
    assert!(net.applied("validator-1").values().all(Vec::is_empty));
    let [payload, envelope] = [ObjectKey::Payload(0), ObjectKey::Envelope(0)].map(|key| net.bucket("miner-1").join(key.to_string()));
    assert!(!payload.exists() && !envelope.exists());
    // error feedback and moments become durable together with a payload
    assert!(net.path("homes/miner-1").is_dir() && !net.path("homes/miner-1/miner.safetensors").exists());
}

#[test]
fn a_second_process_with_the_same_key_is_refused() {
    let mut net = Net::new(CONFIG, 1, 0, 1);
    net.start_all();
    net.wait_round("miner-1", 0);
    let line = complaint(&net.command("miner-1").output().unwrap());
    assert!(line.contains("miner-1") || line.contains(&net.hotkey("miner-1").ss58()), "{line}");
    net.stop_all();
}
