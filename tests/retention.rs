//! Retention on a whole network: roles let go of what is old, whoever is late still joins, and what can be checked is said plainly.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::{collections::BTreeMap, fs, path::Path, process::Output};

use chain::Chain as _;
use checkpoints::Event;
use common::{CONFIG, Net, complaint, tributary};
use protocol::ObjectKey;
use serde_json::Value;

const RETENTION: &str = "[retention]\nrounds = 6\none_in = 4\n";
const ROLES: [&str; 5] = ["miner-1", "miner-2", "miner-3", "validator-1", "aggregator"];

fn command(net: &Net, args: &[&str]) -> Output {
    tributary().args(args).args(["--run", &net.run]).output().unwrap()
}

fn succeed(net: &Net, args: &[&str]) -> String {
    let output = command(net, args);
    assert!(output.status.success(), "{args:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The last line of a command that prints JSON.
fn last(printed: &str) -> Value {
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

/// `store gc` on a role's bucket.
fn gc(net: &Net, role: &str, more: &[&str]) -> String {
    let wallets = net.path("wallets");
    let keys = ["store", "gc", "--json", "--wallet", "test", "--wallet-path", wallets.to_str().unwrap(), "--hotkey", role];
    succeed(net, &[&keys[..], more].concat())
}

/// Every object in a role's bucket, with its size.
fn objects(net: &Net, role: &str) -> BTreeMap<String, u64> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, u64>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let key = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(key, fs::metadata(&path).unwrap().len());
            }
        }
    }
    let mut found = BTreeMap::new();
    let root = net.bucket(role);
    walk(&root, &root, &mut found);
    found
}

fn has(net: &Net, role: &str, key: &ObjectKey) -> bool {
    net.bucket(role).join(key.to_string()).exists()
}

fn remove(net: &Net, role: &str, key: &ObjectKey) {
    let _ = fs::remove_file(net.bucket(role).join(key.to_string()));
}

/// A run whose roles have let go of the first rounds, with a miner that joined late and another that slept through them.
fn late_run() -> Net {
    let mut net = Net::new(&CONFIG.replace("[checkpoints]", &format!("{RETENTION}[checkpoints]")), 3, 0, 1);
    net.start(&["miner-1", "miner-2", "validator-1", "aggregator"]);
    net.wait_round("miner-2", 1);
    net.kill("miner-2");
    net.wait_round("validator-1", 14);
    for role in ["miner-1", "validator-1", "aggregator"] {
        net.wait(&format!("{role} to let go of something"), |net| {
            net.events(role).iter().any(|event| matches!(event, Event::Freed { objects, .. } if *objects > 0))
        });
    }
    net.start(&["miner-2", "miner-3"]);
    for miner in ["miner-2", "miner-3"] {
        let uid = net.roles[miner].uid;
        net.wait(&format!("{miner} to be applied"), |net| net.applied("validator-1").range(14..).any(|(_, uids)| uids.contains(&uid)));
    }
    // what is lost below is no longer in anybody's memory
    let newest = *net.roots("validator-1").keys().next_back().unwrap();
    net.wait_round("aggregator", newest + 2);
    net.stop_all();
    net
}

#[test]
fn roles_let_go_of_what_is_old_and_everything_else_still_works() {
    let net = late_run();
    net.assert_equal_roots(&ROLES);
    late_miners_work(&net);
    by_hand_is_the_same(&net);
    levels_are_named(&net);
    usage_adds_up(&net);
    what_should_be_there_is_missed(&net);
}

/// Neither has replayed what is gone.
fn late_miners_work(net: &Net) {
    assert!(*net.roots("miner-3").keys().next().unwrap() >= 9, "it started from a snapshot");
    let overtaken = |event: &Event| matches!(event, Event::Warning { message } if message.contains("older than the run keeps"));
    assert_eq!(net.events("miner-2").iter().filter(|event| overtaken(event)).count(), 1, "it went on from a snapshot");
    assert!(!net.roots("miner-2").contains_key(&5));
}

/// The owner's own command frees what is left to free, once, and a dry run nothing.
fn by_hand_is_the_same(net: &Net) {
    for role in ROLES {
        let before = objects(net, role);
        let printed = gc(net, role, &["--dry-run"]);
        assert_eq!(objects(net, role), before, "a dry run deletes nothing");
        let promised = last(&printed);
        assert_eq!(promised["dry_run"], true);
        let freed = last(&gc(net, role, &[]));
        assert_eq!(freed["freed"], promised["freed"], "{role}");
        let after = objects(net, role);
        assert_eq!(freed["freed"]["objects"].as_u64().unwrap(), (before.len() - after.len()) as u64);
        let named: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (path, bytes) in before.iter().filter(|(path, _)| !after.contains_key(*path)) {
            let line = named.iter().find(|line| line["path"] == *path).expect("what goes is named");
            assert!(line["bytes"] == *bytes && ["expired", "thinned"].contains(&line["why"].as_str().unwrap()), "{line}");
        }
        assert_eq!(last(&gc(net, role, &[]))["freed"]["objects"], 0, "twice is once");
        assert_eq!(objects(net, role), after);
    }
    let floor = last(&gc(net, "miner-1", &["--dry-run"]))["floor"].as_u64().unwrap();
    assert!(floor >= 6, "{floor}");
    let miner = net.roles["miner-1"].uid;
    for (round, applied) in net.applied("validator-1") {
        let kept = |role, key| assert_eq!(has(net, role, &key), round >= floor, "{role}: {key}");
        if applied.contains(&miner) {
            kept("miner-1", ObjectKey::Payload(round));
            kept("miner-1", ObjectKey::PayloadKey(round));
        }
        if !applied.is_empty() {
            kept("validator-1", ObjectKey::Bundle(round));
        }
        if !applied.is_empty() && round < *net.roots("aggregator").keys().next_back().unwrap() {
            kept("aggregator", ObjectKey::Bundle(round));
        }
    }
    assert!(
        (0..floor).all(|round| has(net, "validator-1", &ObjectKey::Record(round)) && has(net, "validator-1", &ObjectKey::SealList(round)))
    );
    let snapshot = |round| has(net, "validator-1", &ObjectKey::Checkpoint { round, file: "manifest".into() });
    assert!(!snapshot(3) && snapshot(12), "12 is one in four");
}

/// Rounds as the command prints them.
fn spans(rounds: impl Iterator<Item = u64>) -> Value {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for round in rounds {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == round => *last = round,
            _ => spans.push((round, round)),
        }
    }
    serde_json::json!(spans)
}

/// What can be replayed is, what is gone is said, and a level that is out of reach is an error.
fn levels_are_named(net: &Net) {
    let (newest, newest_root) = net.roots("validator-1").pop_last().unwrap();
    let printed = succeed(net, &["verify", "--json"]);
    let verdict = last(&printed);
    assert!(verdict["level"] == "snapshot" && printed.contains(&newest_root.to_string()), "{verdict}");
    // a record may have been committed after the last step that was told
    let (rounds, root) = (verdict["rounds"].as_u64().unwrap(), verdict["root"].clone());
    assert!(rounds > newest, "{verdict}");
    let floor = verdict["retention"]["floor"].as_u64().unwrap();
    let from = verdict["from"].as_u64().unwrap();
    assert!(from >= floor && from.is_multiple_of(3), "{verdict}");
    let gone = spans(net.applied("validator-1").range(..floor).filter(|(_, uids)| !uids.is_empty()).map(|(round, _)| *round));
    for kind in ["payloads", "bundles"] {
        assert_eq!(verdict["gone"][kind], gone, "{verdict}");
        assert_eq!(verdict["missing"][kind], serde_json::json!([]), "{verdict}");
    }
    assert_eq!(verdict["gone"]["snapshots"][0], serde_json::json!([3, 3]), "{verdict}");
    assert_eq!((&verdict["log"]["rounds"], &verdict["log"]["agreed"]), (&rounds.into(), &rounds.into()));
    let words = succeed(net, &["verify"]);
    assert!(words.lines().last().unwrap().starts_with(&format!("level      replay from snapshot {from}: ")), "{words}");

    let signatures = succeed(net, &["verify", "--level", "signatures", "--json"]);
    assert_eq!(signatures.lines().count(), 1, "nothing is replayed");
    let verdict = last(&signatures);
    assert_eq!((verdict["level"].as_str(), &verdict["root"]), (Some("signatures"), &root));
    let line = complaint(&command(net, &["verify", "--level", "genesis"]));
    assert!(line.contains("level genesis") && line.contains("payloads of 0"), "{line}");
    let (out, wallets) = (net.path("out"), net.path("wallets"));
    let to = ["--out", out.to_str().unwrap(), "--wallet", "test", "--hotkey", "owner", "--wallet-path", wallets.to_str().unwrap()];
    let line = complaint(&command(net, &[&["verify", "--level", "signatures"], &to[..]].concat()));
    assert!(line.contains("nothing was replayed") && !out.join("checkpoints").exists(), "{line}");
    let verdict = last(&succeed(net, &[&["verify", "--json"], &to[..]].concat()));
    assert!(verdict["snapshot"].is_string() && out.join(format!("checkpoints/{rounds:08}/manifest")).exists(), "{verdict}");
    let verdict = last(&succeed(net, &["verify", "--json", "--rounds", &from.to_string()]));
    assert_eq!((&verdict["rounds"], verdict["level"].as_str()), (&from.into(), Some("snapshot")), "{verdict}");
}

/// What the table says is what lies on the disk.
fn usage_adds_up(net: &Net) {
    let usage = last(&succeed(net, &["store", "usage", "--json"]));
    for role in ROLES {
        let on_disk = objects(net, role);
        let owner = usage["owners"].as_array().unwrap().iter().find(|owner| owner["owner"] == net.hotkey(role).ss58()).unwrap();
        let sum = |field: &str| owner["kinds"].as_object().unwrap().values().map(|size| size[field].as_u64().unwrap()).sum::<u64>();
        assert_eq!((sum("objects"), sum("bytes")), (on_disk.len() as u64, on_disk.values().sum()), "{role}");
        assert_eq!(sum("goes_objects"), 0, "it was swept");
    }
    for cost in usage["month_usd"].as_array().unwrap() {
        assert!(cost["storage"].as_f64().unwrap() > 0.0 && cost["requests"].as_f64().unwrap() > 0.0, "{cost}");
    }
    assert!(succeed(net, &["store", "usage"]).contains("US dollars"));
}

/// A bucket that cannot be listed makes the figures too small, which is said.
#[test]
fn a_bucket_that_cannot_be_listed_is_an_error() {
    let net = Net::new(CONFIG, 1, 0, 1);
    let usage = last(&succeed(&net, &["store", "usage", "--json"]));
    assert_eq!((&usage["round"], &usage["total"]["goes_objects"]), (&0.into(), &0.into()), "nothing is recorded yet");
    let ledger = net.open_ledger();
    ledger.join("test").unwrap();
    // nobody listens there
    common::block_on(ledger.set_bucket(&net.roles["aggregator"].keypair, 1, "https://127.0.0.1:1/bucket"));
    common::block_on(ledger.next_block(1));
    ledger.leave().unwrap();
    let line = complaint(&command(&net, &["store", "usage"]));
    assert!(line.contains("1 of 2 buckets are not counted in full"), "{line}");
}

/// A payload that retention keeps and its owner lost is named, and an error once nobody has it.
fn what_should_be_there_is_missed(net: &Net) {
    let applied = net.applied("validator-1");
    let (lost, uids) = applied.iter().rev().find(|(_, uids)| !uids.is_empty()).unwrap();
    let (lost, miner) = (*lost, ROLES[..3].iter().find(|miner| uids.contains(&net.roles[**miner].uid)).unwrap());
    remove(net, miner, &ObjectKey::Payload(lost));
    let verdict = last(&succeed(net, &["verify", "--json"]));
    assert_eq!(verdict["missing"]["payloads"], serde_json::json!([[lost, lost]]), "a bundle has it: {verdict}");
    assert_eq!((&verdict["missing"]["lost"], verdict["level"].as_str()), (&serde_json::json!([]), Some("snapshot")));
    for role in ["validator-1", "aggregator"] {
        remove(net, role, &ObjectKey::Bundle(lost));
    }
    let output = command(net, &["verify", "--json"]);
    let line = complaint(&output);
    assert!(line.contains(&format!("round(s) {lost} are missing")), "{line}");
    let verdict = last(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(verdict["missing"]["lost"], serde_json::json!([[lost, lost]]));
    // an owner's snapshots may be gone too: then nothing old may be missing
    let folder = net.bucket("validator-1").join("checkpoints");
    fs::remove_dir_all(folder).unwrap();
    let line = complaint(&command(net, &["verify"]));
    assert!(line.contains("round(s) 0"), "without a snapshot, all payloads are needed: {line}");
}
