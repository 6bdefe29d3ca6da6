//! The demo as its user meets it: what it leaves, what Ctrl-C and --resume do, what it replaces and what it does not touch.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use common::{CONFIG, complaint, tributary};
use serde_json::Value;

/// The demo in `dir`, of the tiny model, on this repository's own text.
fn demo(dir: &Path, args: &[&str]) -> Command {
    let config = dir.parent().unwrap().join("config.toml");
    fs::write(&config, CONFIG).unwrap();
    let mut command = tributary();
    command.arg("demo").arg("--dir").arg(dir).arg("--config").arg(config).args(args);
    for name in ["protocol", "compression", "chain", "dataset", "storage", "model"] {
        command.arg("--text").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).join("README.md"));
    }
    command
}

/// The summary of a demo that must succeed.
fn summary(dir: &Path, args: &[&str]) -> Value {
    let Output { status, stdout, stderr } = demo(dir, args).arg("--json").output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

/// The rounds of `loss.csv` with their roots.
fn roots_in_csv(dir: &Path) -> Vec<(u64, String)> {
    let csv = fs::read_to_string(dir.join("loss.csv")).unwrap();
    let row = |line: &str| (line.split(',').next().unwrap().parse().unwrap(), line.split(',').next_back().unwrap().to_owned());
    csv.lines().skip(1).map(row).collect()
}

/// The rounds that the demo has heard the end of, with their roots.
fn roots_in_story(dir: &Path) -> Vec<(u64, String)> {
    let log = fs::read_to_string(dir.join("events.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let stepped = lines.filter(|line| line["event"] == "stepped");
    let mut roots: Vec<_> = stepped.map(|line| (line["round"].as_u64().unwrap(), line["root"].as_str().unwrap().to_owned())).collect();
    roots.sort();
    // every node tells the same root of a round
    roots.dedup();
    roots
}

/// Running processes that name `dir`: their numbers and command lines.
fn processes_of(dir: &Path) -> Vec<(String, String)> {
    let running = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).replace('\0', " ");
        Some((entry.file_name().into_string().ok()?, line))
    });
    running.filter(|(_, line)| line.contains(dir.to_str().unwrap())).collect()
}

#[test]
fn a_short_demo_leaves_all_it_promises_and_a_new_one_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let told = summary(&dir, &["--rounds", "4", "--miners", "3"]);
    assert_eq!((told["verified"].as_bool(), told["rounds"].as_u64()), (Some(true), Some(4)), "{told}");
    for share in ["training_share", "honest_weight"] {
        assert!(told[share].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{share}: {told}");
    }
    assert!(told["training_share"].as_f64() > Some(0.0) && told["held_out_bits_per_byte"].as_f64() > Some(0.0), "{told}");
    let nodes = told["nodes"].as_array().unwrap();
    let roles: Vec<&str> = nodes.iter().map(|node| node["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["miner", "miner", "cheat", "validator", "validator", "aggregator"]);
    for node in nodes {
        assert!(node["up"].as_u64() > Some(0) && node["down"].as_u64() > Some(0), "{node}");
        let weight = node["weight"].as_f64();
        assert!(weight.is_some_and(|weight| (0.0..=1.0).contains(&weight)), "{node}");
        assert!(dir.join("logs").join(format!("{}.log", node["name"].as_str().unwrap())).exists(), "{node}");
    }

    let roots = roots_in_csv(&dir);
    assert_eq!(roots.iter().map(|(round, _)| *round).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(told["root"].as_str(), roots.last().map(|(_, root)| root.as_str()));
    let written: Value = serde_json::from_slice(&fs::read(dir.join("summary.json")).unwrap()).unwrap();
    assert_eq!(written, told);
    assert!(fs::read_to_string(dir.join("loss.svg")).unwrap().starts_with("<svg"));
    assert!(fs::read(dir.join("sample.txt")).unwrap().starts_with(b"The compiler "));
    assert!(dir.join("checkpoint/checkpoints/00000004/manifest").exists());
    assert_eq!(processes_of(&dir), []);

    // resumed with nothing left to do, it reports again; without --resume, it begins anew
    assert_eq!(summary(&dir, &["--resume", "--rounds", "4"])["root"], told["root"]);
    let other = summary(&dir, &["--rounds", "1", "--miners", "1", "--cheats", "0", "--validators", "1"]);
    assert_ne!(other["run"], told["run"]);
    assert_eq!((other["rounds"].as_u64(), other["nodes"].as_array().unwrap().len()), (Some(1), 3));
    assert_eq!(roots_in_csv(&dir).len(), 1);
    assert!(!dir.join("homes/miner-2").exists(), "nothing of the earlier demo is left");
}

#[test]
fn an_interrupted_demo_stops_whole_and_resumes_with_equal_roots() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let args = ["--miners", "3", "--rounds", "100000"];
    // a terminal sends Ctrl-C to the whole process group
    let mut child = demo(&dir, &args).process_group(0).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.starts_with("round   2 ")), "it ended before its third round");
    let interrupt = Command::new("kill").args(["-INT", "--", &format!("-{}", child.id())]).status().unwrap();
    assert!(interrupt.success());
    let last = lines.last().expect("what it says at the end");
    assert_eq!(child.wait().unwrap().code(), Some(1), "{last}");
    assert!(last.starts_with("tributary: stopped after "), "{last}");
    assert!(last.contains(&format!("tributary demo --resume --dir {}", dir.display())), "{last}");
    assert_eq!(processes_of(&dir), []);

    let before = roots_in_story(&dir);
    assert!(before.len() >= 3, "{before:?}");
    let rounds = before.len() as u64 + 3;
    let told = summary(&dir, &["--resume", "--rounds", &rounds.to_string()]);
    assert_eq!((told["verified"].as_bool(), told["rounds"].as_u64()), (Some(true), Some(rounds)), "{told}");
    let after = roots_in_csv(&dir);
    assert_eq!(after.iter().map(|(round, _)| *round).collect::<Vec<_>>(), (0..rounds).collect::<Vec<_>>());
    assert_eq!(after[..before.len()], before);
}

#[test]
fn a_demo_over_s3_goes_through_its_server_and_resumes_at_the_same_address() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let told = summary(&dir, &["--store", "s3", "--rounds", "2", "--miners", "2", "--cheats", "0", "--validators", "1"]);
    assert_eq!((told["verified"].as_bool(), told["rounds"].as_u64()), (Some(true), Some(2)), "{told}");
    let run = told["run"].as_str().unwrap();
    assert!(run.starts_with("s3://run/") && run.contains("?endpoint=http://127.0.0.1:"), "{run}");
    assert_eq!(processes_of(&dir), []);
    // every node wrote its own bucket, and nothing went through folders
    for bucket in ["run", "miner-1", "miner-2", "validator-1", "aggregator"] {
        assert!(fs::read_dir(dir.join("s3").join(bucket)).unwrap().next().is_some(), "{bucket} is empty");
    }
    let beside: Vec<_> = fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(beside.iter().all(|name| name.to_string_lossy().starts_with("ledger.sqlite")), "{beside:?}");
    // secrets are in one file only
    let keys = fs::read_to_string(dir.join("s3/.keys.toml")).unwrap();
    let secrets: Vec<&str> =
        keys.lines().filter_map(|line| line.strip_prefix("secret = ")).map(|secret| secret.trim_matches('"')).collect();
    assert_eq!(secrets.len(), 5);
    for log in fs::read_dir(dir.join("logs")).unwrap() {
        let log = fs::read_to_string(log.unwrap().path()).unwrap();
        assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
    }

    let again = summary(&dir, &["--resume", "--rounds", "3"]);
    assert_eq!((again["run"].as_str(), again["rounds"].as_u64()), (Some(run), Some(3)));
    assert_eq!(processes_of(&dir), []);
}

#[test]
fn a_demo_without_honest_miners_ends_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let args = ["--miners", "2", "--validators", "1", "--rounds", "100000"];
    let mut child = demo(&dir, &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.starts_with("round   2 ")), "it ended before its third round");
    let miner = processes_of(&dir).into_iter().find(|(_, line)| line.contains("--hotkey miner-1 ")).expect("it runs").0;
    assert!(Command::new("kill").args(["-KILL", &miner]).status().unwrap().success());
    let last = lines.last().expect("what it says at the end");
    assert_eq!(child.wait().unwrap().code(), Some(1), "{last}");
    assert!(last.starts_with("tributary: miner-1 ended (") && last.contains("the logs are in"), "{last}");
    assert_eq!(processes_of(&dir), []);

    let before = roots_in_story(&dir);
    let rounds = before.len() as u64 + 2;
    assert!(before.len() >= 3 && summary(&dir, &["--resume", "--rounds", &rounds.to_string()])["rounds"] == rounds, "{before:?}");
    assert_eq!(roots_in_csv(&dir)[..before.len()], before);
}

#[test]
fn a_demo_killed_outright_leaves_no_process_and_resumes_with_equal_roots() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let mut child = demo(&dir, &["--miners", "2", "--rounds", "100000"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.starts_with("round   2 ")), "it ended before its third round");
    child.kill().unwrap();
    child.wait().unwrap();
    let start = std::time::Instant::now();
    while !processes_of(&dir).is_empty() {
        assert!(start.elapsed().as_secs() < 120, "its processes outlive it: {:?}", processes_of(&dir));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let before = roots_in_story(&dir);
    let rounds = before.len() as u64 + 2;
    assert!(before.len() >= 3 && summary(&dir, &["--resume", "--rounds", &rounds.to_string()])["rounds"] == rounds, "{before:?}");
    assert_eq!(roots_in_csv(&dir)[..before.len()], before);
}

#[test]
fn what_is_no_demo_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("precious");
    fs::create_dir(&dir).unwrap();
    let missing = complaint(&demo(&dir, &["--resume"]).output().unwrap());
    assert!(missing.contains("holds no demo to resume"), "{missing}");
    fs::write(dir.join("thesis.tex"), "years of work").unwrap();
    let refused = complaint(&demo(&dir, &[]).output().unwrap());
    assert!(refused.contains("precious is not empty and holds no demo; choose another --dir"), "{refused}");
    assert_eq!(fs::read_to_string(dir.join("thesis.tex")).unwrap(), "years of work");
    let nobody = complaint(&demo(&dir, &["--miners", "1", "--cheats", "1"]).output().unwrap());
    assert!(nobody.contains("one honest miner"), "{nobody}");
}
