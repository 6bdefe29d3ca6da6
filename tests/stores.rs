//! Whole networks over S3 on a bad day: failing requests, stalls, a bucket that is gone, a server that is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::Duration,
};

use common::{CONFIG, complaint, tributary};
use serde_json::Value;
use tempfile::TempDir;

/// A demo over S3, on the tiny model.
struct Demo {
    _folder: TempDir,
    dir: PathBuf,
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Demo {
    fn start(args: &[&str], faults: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("demo");
        let config = folder.path().join("config.toml");
        fs::write(&config, CONFIG).unwrap();
        let mut command = tributary();
        command.args(["demo", "--store", "s3"]).arg("--dir").arg(&dir).arg("--config").arg(config).args(args);
        for name in ["protocol", "compression", "chain", "dataset", "storage", "model"] {
            command.arg("--text").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).join("README.md"));
        }
        if let Some(text) = faults {
            let file = folder.path().join("faults.toml");
            fs::write(&file, text).unwrap();
            command.arg("--faults").arg(file);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { _folder: folder, dir, child, lines }
    }

    /// Waits until the demo says that a round is over.
    fn wait_round(&mut self, round: u64) {
        let start = format!("round {round:>3} ");
        assert!(self.lines.by_ref().map_while(Result::ok).any(|line| line.starts_with(&start)), "it ended before round {round}");
    }

    /// Waits for the end; the summary.
    fn summary(&mut self) -> Value {
        let said: Vec<String> = self.lines.by_ref().map_while(Result::ok).collect();
        assert!(self.child.wait().unwrap().success(), "{said:?}");
        serde_json::from_slice(&fs::read(self.dir.join("summary.json")).unwrap()).unwrap()
    }

    fn events(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.dir.join("events.jsonl")).unwrap();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The number and the arguments of the store's server.
    fn server(&self) -> (String, Vec<String>) {
        let served = self.dir.join("s3").display().to_string();
        let mut running = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let line = String::from_utf8(fs::read(entry.path().join("cmdline")).ok()?).ok()?;
            let args: Vec<String> = line.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
            (args.get(2).is_some_and(|arg| arg == "serve") && args.contains(&served))
                .then(|| Some((entry.file_name().into_string().ok()?, args)))?
        });
        running.next().expect("the server runs")
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The roots of all rounds from 0 on, one each, whoever told them.
fn one_root_each(events: &[Value], rounds: u64) {
    let mut roots: BTreeMap<u64, &str> = BTreeMap::new();
    for event in events.iter().filter(|event| event["event"] == "stepped") {
        let (round, root) = (event["round"].as_u64().unwrap(), event["root"].as_str().unwrap());
        assert_eq!(*roots.entry(round).or_insert(root), root, "two roots of round {round}");
    }
    assert!(roots.keys().copied().take(rounds as usize).eq(0..rounds), "{:?}", roots.keys());
}

/// What validators made of the payloads of `uid`.
fn verdicts(events: &[Value], uid: u64) -> Vec<&str> {
    events.iter().filter(|e| e["event"] == "judged" && e["uid"] == uid).map(|e| e["verdict"].as_str().unwrap()).collect()
}

fn uid(summary: &Value, name: &str) -> u64 {
    summary["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap()["uid"].as_u64().unwrap()
}

const ROUNDS: u64 = 4;
const NETWORK: [&str; 8] = ["--rounds", "4", "--miners", "4", "--cheats", "0", "--validators", "2"];

#[test]
fn a_hostile_store_and_a_bucket_that_is_gone_cost_no_round_and_nobody_else_anything() {
    // stalls are shorter than in the file, which is for people with time
    let hostile = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/faults/hostile.toml")).unwrap();
    assert!(hostile.contains("seconds = 5 }"));
    let gone = "[[rule]]\nfault = { kind = \"gone\" }\nat = \"s3://miner-2/*\"\n";
    let mut demo = Demo::start(&NETWORK, Some(&format!("{}\n{gone}", hostile.replace("seconds = 5 }", "seconds = 0.3 }"))));
    let summary = demo.summary();
    assert_eq!((summary["verified"].as_bool(), summary["rounds"].as_u64()), (Some(true), Some(ROUNDS)), "{summary}");
    let events = demo.events();
    one_root_each(&events, ROUNDS);
    let applied = |name: &str| {
        let uid = uid(&summary, name);
        let steps = events.iter().filter(|e| e["event"] == "stepped" && e["node"] == events[0]["node"]);
        steps.filter(|e| e["applied"].as_array().unwrap().iter().any(|a| a == uid)).count()
    };
    assert_eq!(applied("miner-2"), 0, "nobody can have its payloads");
    for name in ["miner-1", "miner-3", "miner-4"] {
        let verdicts = verdicts(&events, uid(&summary, name));
        assert!(verdicts.iter().all(|verdict| !verdict.contains("refused")), "{name}: {verdicts:?}");
        assert!(applied(name) > 0, "{name} was never applied: {verdicts:?}");
    }
}

#[test]
fn a_store_that_is_killed_in_the_middle_of_a_round_and_comes_back_costs_no_round() {
    let mut demo = Demo::start(&NETWORK, None);
    demo.wait_round(1);
    let (pid, args) = demo.server();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    thread::sleep(Duration::from_secs(20));
    let address = {
        let lab: Value = serde_json::from_slice(&fs::read(demo.dir.join("demo.json")).unwrap()).unwrap();
        lab["s3"].as_str().unwrap().to_owned()
    };
    let listen = args.iter().position(|arg| arg == "--listen").unwrap() + 1;
    let mut again = tributary().args(&args[1..listen]).arg(address).args(&args[listen + 1..]).stdout(Stdio::null()).spawn().unwrap();
    let summary = demo.summary();
    again.kill().unwrap();
    again.wait().unwrap();
    assert_eq!((summary["verified"].as_bool(), summary["rounds"].as_u64()), (Some(true), Some(ROUNDS)), "{summary}");
    let events = demo.events();
    one_root_each(&events, ROUNDS);
    for name in ["miner-1", "miner-2", "miner-3", "miner-4"] {
        let verdicts = verdicts(&events, uid(&summary, name));
        assert!(!verdicts.is_empty() && verdicts.iter().all(|verdict| !verdict.contains("refused")), "{name}: {verdicts:?}");
    }
}

#[test]
fn a_file_of_faults_that_cannot_be_read_is_refused_by_its_rule() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("faults.toml");
    fs::write(&file, "[[rule]]\nfault = { kind = \"status\", code = 200 }\n").unwrap();
    for args in [
        vec!["demo", "--dir", "never-made", "--faults"],
        vec!["status", "--run", folder.path().to_str().unwrap(), "--chain", "ledger:x", "--faults"],
    ] {
        let refused = complaint(&tributary().current_dir(folder.path()).args(args).arg(&file).output().unwrap());
        assert!(refused.contains("faults.toml") && refused.contains("rule 1: 200 is neither 429 nor 500 to 599"), "{refused}");
    }
    assert!(!folder.path().join("never-made").exists());
}
