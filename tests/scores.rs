//! What `tributary scores` and `tributary explain` say of a network that really ran.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fs;

use common::{CONFIG, Net, complaint, tributary};
use protocol::{Countersign, Dissent, ObjectKey, Record, Signed};
use serde_json::Value;

/// A round that both validators have done with.
const SETTLED: u64 = 6;

/// Runs a command on the run and returns what it prints.
fn succeed(net: &Net, args: &[&str]) -> String {
    let output = tributary().args(args).args(["--run", &net.run]).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line that a command on the run must fail with.
fn fail(net: &Net, args: &[&str]) -> String {
    complaint(&tributary().args(args).args(["--run", &net.run]).output().unwrap())
}

fn lines(net: &Net, args: &[&str]) -> Vec<Value> {
    succeed(net, &[args, &["--json"]].concat()).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn json(net: &Net, args: &[&str]) -> Value {
    let [line] = <[Value; 1]>::try_from(lines(net, args)).unwrap();
    line
}

fn of_uid(sheet: &Value, uid: u16) -> &Value {
    sheet["miners"].as_array().unwrap().iter().find(|line| line["uid"] == uid).unwrap()
}

/// A role's name by its address.
fn name<'a>(net: &'a Net, address: &Value) -> &'a str {
    net.roles.iter().find(|(_, role)| *address == role.keypair.hotkey().ss58()).map(|(name, _)| name.as_str()).unwrap()
}

#[test]
fn sheets_are_shown_checked_replayed_and_explained() {
    // with the default floor and probation
    let mut net = Net::new(&CONFIG.replace("floor = 0.001\nprobation = 1000\n", ""), 2, 1, 2);
    net.start_all();
    net.wait_round("validator-1", SETTLED + 1);
    net.wait_round("validator-2", SETTLED + 1);
    net.stop_all();
    let newest = json(&net, &["scores"])["round"].as_u64().unwrap();
    assert!(newest > SETTLED);
    the_newest_sheets_are_shown(&net, newest);
    scores_are_replayed_from_the_sheets(&net, newest);
    everybody_is_explained(&net, newest);
    contradictions_are_told(&net);
    what_is_gone_is_said(&net, newest);
}

fn the_newest_sheets_are_shown(net: &Net, newest: u64) {
    let sheets = lines(net, &["scores", "--rounds", "3"]);
    let rounds: Vec<u64> = sheets.iter().map(|sheet| sheet["round"].as_u64().unwrap()).collect();
    assert_eq!(rounds, [newest - 2, newest - 1, newest]);
    for (sheet, step) in sheets.iter().zip(&net.replay()[(newest - 2) as usize..]) {
        let record = &step.record.value;
        assert_eq!(
            (&sheet["root"], &sheet["score_sheet"]),
            (&Value::from(record.root.to_string()), &Value::from(record.score_sheet.to_string()))
        );
        assert_eq!((sheet["follows"].as_str(), sheet["selection_follows"].as_bool()), (Some("yes"), Some(true)));
        let applied: Vec<u16> = record.applied.iter().map(|a| a.uid).collect();
        for line in sheet["miners"].as_array().unwrap() {
            assert_eq!(line["verdict"] == "applied", applied.iter().any(|uid| line["uid"] == *uid), "{line}");
        }
        let share = |name: &str| of_uid(sheet, net.roles[name].uid)["share"].as_f64().unwrap();
        assert!(share("cheat-1") < share("miner-1").min(share("miner-2")) / 2.0, "{sheet}");
        let paid: f64 = sheet["miners"].as_array().unwrap().iter().map(|line| line["share"].as_f64().unwrap()).sum();
        assert!((paid - 1.0).abs() < 1e-9, "{paid}");
    }
    let settled = SETTLED.to_string();
    let words = succeed(net, &["scores", "--round", &settled]);
    for expected in [
        format!("round   {settled}, "),
        format!("scores follow from round {}'s sheet: yes; the record applies what follows: yes", SETTLED - 1),
        "1 other validator countersigned, none contradicts".to_owned(),
    ] {
        assert!(words.contains(&expected), "{expected} is not in {words}");
    }
    assert!(words.lines().skip(7).all(|line| line.chars().count() <= 120), "{words}");
    assert!(succeed(net, &["scores", "--round", "0"]).contains("scores follow from nothing, as the first round's do: yes"));
    assert!(
        fail(net, &["scores", "--round", "9999"])
            .contains(&format!("round 9999 is not recorded yet; the newest record is of round {newest}"))
    );
}

fn scores_are_replayed_from_the_sheets(net: &Net, newest: u64) {
    let replay = json(net, &["scores", "--replay"]);
    assert_eq!((replay["first"].as_u64(), replay["last"].as_u64(), replay["miners"].as_u64()), (Some(0), Some(newest), Some(3)));
    assert_eq!(json(net, &["scores", "--replay", "--round", "2"])["last"], 2);
    assert!(succeed(net, &["scores", "--replay"]).contains(&format!("recomputed over rounds 0 to {newest}, from nothing")));
    let both = tributary().args(["scores", "--replay", "--rounds", "2", "--run", &net.run]).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

fn everybody_is_explained(net: &Net, newest: u64) {
    let uid = |name: &str| net.roles[name].uid.to_string();
    for role in net.roles.values() {
        let words = succeed(net, &["explain", &role.uid.to_string()]);
        assert!(words.starts_with(&format!("uid {}, {}", role.uid, role.keypair.hotkey())), "{words}");
        assert!(words.lines().all(|line| line.chars().count() <= 120), "{words}");
    }
    let miner = succeed(net, &["explain", &uid("miner-1"), "--rounds", "4"]);
    for expected in ["named it 4 times in the last 4 rounds: ", &format!("round {newest}: "), "By the newest sheet its share is "] {
        assert!(miner.contains(expected), "{expected} is not in {miner}");
    }
    let cheat = json(net, &["explain", &uid("cheat-1")]);
    assert_eq!(cheat["rounds"][0]["round"], newest);
    let sheet = json(net, &["scores"]);
    let line = of_uid(&sheet, net.roles["cheat-1"].uid);
    let same = |explained: &Value, shown: &Value| assert_eq!(explained, shown, "{cheat}");
    same(&cheat["rounds"][0]["verdict"], &line["verdict"]);
    same(&cheat["standing"]["score"], &line["standing"]["score"]);
    same(&cheat["share"], &line["share"]);
    let validator = succeed(net, &["explain", &uid("validator-1")]);
    assert!(validator.contains("it is a validator") && validator.ends_with("Advice: none; nothing is wrong.\n"), "{validator}");
    let silent = succeed(net, &["explain", &uid("aggregator")]);
    assert!(
        silent.contains("did not name it") && silent.contains("it never had a payload") && silent.contains("if it is to mine"),
        "{silent}"
    );
    assert!(fail(net, &["explain", "99"]).contains("uid 99 is not registered on subnet 1"));
    assert_eq!(tributary().args(["explain", "x", "--run", &net.run]).output().unwrap().status.code(), Some(2));
}

/// A countersignature with a contradiction, in words that a terminal must not be given as they are.
fn contradictions_are_told(net: &Net) {
    let settled = ["scores", "--round", &SETTLED.to_string()];
    let sheet = json(net, &settled);
    let lead = net.bucket(name(net, &sheet["lead"]));
    let other = name(net, &sheet["countersigned"][0]).to_owned();
    let record = Signed::<Record>::parse(&fs::read(lead.join(ObjectKey::Record(SETTLED).to_string())).unwrap()).unwrap();
    let uid = net.roles["miner-1"].uid;
    let dissents = vec![Dissent { uid, reason: "gain 9 \u{1b}[2J in the sheet".into() }];
    let countersign = Countersign { run: record.value.run, round: SETTLED, record: record.digest(), dissents };
    let path = net.bucket(&other).join(ObjectKey::Countersign(SETTLED, record.digest()).to_string());
    fs::write(&path, Signed::new(countersign.clone(), &net.roles[&other].keypair).to_bytes()).unwrap();
    let expected = format!("validator {} contradicts the sheet: gain 9 [2J in the sheet", net.roles[&other].uid);
    let words = succeed(net, &settled);
    assert!(words.contains(&format!("\nuid {uid}: {expected}\n")) && words.contains("with 1 contradiction"), "{words}");
    assert_eq!(json(net, &["explain", &uid.to_string()])["dissents"][0]["round"], SETTLED);
    assert!(!succeed(net, &["explain", &net.roles["miner-2"].uid.to_string()]).contains("contradicts"));
    // signed by somebody else it is nobody's word
    fs::write(&path, Signed::new(countersign, &net.roles["miner-2"].keypair).to_bytes()).unwrap();
    assert!(succeed(net, &settled).contains("no other validator countersigned"));
}

/// Removes every copy of a round's score sheet.
fn remove_copies(net: &Net, round: u64) {
    let sheet = ObjectKey::ScoreSheet(round).to_string();
    for role in net.roles.keys() {
        let path = net.bucket(role).join(&sheet);
        let Ok(folder) = fs::read_dir(path.parent().unwrap()) else { continue };
        let copies = folder.map(|file| file.unwrap().path()).filter(|file| file.to_str().unwrap().contains("/scores-"));
        copies.for_each(|copy| fs::remove_file(copy).unwrap());
    }
}

/// Sheets that are gone or are not the record's.
fn what_is_gone_is_said(net: &Net, newest: u64) {
    let path = |round: u64| {
        let sheet = json(net, &["scores", "--round", &round.to_string()]);
        net.bucket(name(net, &sheet["lead"])).join(ObjectKey::ScoreSheet(round).to_string())
    };
    // while others hold copies, nothing is missing
    let (first, last) = (path(1), path(newest));
    fs::remove_file(&first).unwrap();
    succeed(net, &["scores", "--round", "1"]);
    for round in [1, newest] {
        remove_copies(net, round);
    }
    assert!(succeed(net, &["scores", "--round", "2"]).contains("scores follow from round 1's sheet: that sheet cannot be had"));
    assert!(fail(net, &["scores", "--round", "1"]).contains("round 1: score sheet"));
    assert_eq!(json(net, &["scores", "--replay"])["first"], 2, "the sheet of round 0 is of no use without that of round 1");
    assert!(fail(net, &["scores", "--replay", "--round", "2"]).contains("nothing to recompute"));
    let mut bytes = fs::read(&last).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&last, bytes).unwrap();
    for args in [&["scores"][..], &["explain", "1"]] {
        assert!(fail(net, args).contains(&format!("round {newest}: score sheet")), "other bytes than the record names are none");
    }
    assert!(fail(net, &["scores", "--replay"]).contains("newest score sheet cannot be had"));
}
