//! The ledger between participants: lockstep, killed processes, writers at the same time.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chain::{Blocks, Chain, ChainError, Ledger, LedgerConfig, LedgerError};
use protocol::Keypair;
use tokio::time::timeout;

/// How long to watch for a block that must not come.
const WATCH: Duration = Duration::from_millis(150);

fn create(blocks: Blocks) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain.sqlite");
    let config = LedgerConfig { tempo: 7, emission_per_block: 0, ..LedgerConfig::new(blocks, key().hotkey()) };
    Ledger::create(&path, &config).unwrap();
    (dir, path)
}

fn key() -> Keypair {
    Keypair::from_seed(&[0; 32])
}

fn participant(path: &Path, name: &str) -> Arc<Ledger> {
    let ledger = Ledger::open(path).unwrap();
    ledger.join(name).unwrap();
    Arc::new(ledger)
}

/// Starts this test binary as another process that runs `child` in the given role.
fn spawn(path: &Path, role: &str, argument: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("CHILD_LEDGER", path)
        .env("CHILD_ROLE", role)
        .env("CHILD_ARGUMENT", argument)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// What a child says: the words after "say ", up to the end of its output.
fn said(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    lines.map_while(Result::ok).find_map(|line| line.split_once("say ").map(|(_, said)| said.to_owned()))
}

const WALK: u64 = 30;

#[tokio::test]
#[ignore = "the process that other tests start"]
async fn child() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let (path, argument) = (PathBuf::from(variable("CHILD_LEDGER")), variable("CHILD_ARGUMENT"));
    match variable("CHILD_ROLE").as_str() {
        "walk" => {
            let ledger = participant(&path, &argument);
            let mut head = ledger.head().await.unwrap().number;
            while head < WALK {
                head = ledger.next_block(head).await.unwrap().number;
                println!("say {head}");
            }
        }
        "hang" => {
            let ledger = participant(&path, &argument);
            ledger.next_block(2).await.unwrap();
            println!("say joined");
            std::thread::sleep(Duration::from_secs(600));
        }
        _ => {
            let ledger = Ledger::open(&path).unwrap();
            for n in 0.. {
                let data = format!("{argument}/{n}");
                ledger.commit(&key(), 1, data.as_bytes()).await.unwrap();
                println!("say {data}");
                ledger.add_stake(&key(), 1, key().hotkey(), 1).await.unwrap();
                println!("say staked");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_participant_sees_every_block_and_none_comes_while_it_works() {
    let (_dir, path) = create(Blocks::Lockstep);
    let walk = async |ledger: Arc<Ledger>| {
        for number in 0..100 {
            let before = ledger.head().await.unwrap();
            assert_eq!(before.number, number, "a block came while this participant was at work");
            assert_eq!(ledger.next_block(number).await.unwrap().number, number + 1);
        }
    };
    let [a, b, c] = ["a", "b", "c"].map(|name| participant(&path, name));
    tokio::join!(walk(a), walk(b), walk(c));
    Ledger::open(&path).unwrap().audit().unwrap();
}

#[tokio::test]
async fn observers_and_those_who_left_hold_nothing_up() {
    let (_dir, path) = create(Blocks::Lockstep);
    let observer = Ledger::open(&path).unwrap();
    assert!(timeout(WATCH, observer.next_block(0)).await.is_err(), "nobody takes part, so nothing happens");
    let (a, b) = (participant(&path, "a"), participant(&path, "b"));
    assert!(timeout(WATCH, a.next_block(0)).await.is_err(), "b is busy");
    b.leave().unwrap();
    assert_eq!(a.next_block(0).await.unwrap().number, 1);
    drop(participant(&path, "c"));
    assert_eq!(a.next_block(4).await.unwrap().number, 5, "waiting for a far block passes through the near ones");
    assert_eq!(observer.next_block(0).await.unwrap().number, 5);
}

#[tokio::test]
async fn a_dropped_wait_does_not_count() {
    let (_dir, path) = create(Blocks::Lockstep);
    let (a, b) = (participant(&path, "a"), participant(&path, "b"));
    assert!(timeout(WATCH, b.next_block(0)).await.is_err());
    // dropped while its first look is on its way
    for _ in 0..50 {
        assert!(timeout(Duration::ZERO, b.next_block(0)).await.is_err());
    }
    assert!(timeout(WATCH, a.next_block(0)).await.is_err(), "b no longer waits");
    let (one, other) = tokio::join!(a.next_block(0), b.next_block(0));
    assert_eq!((one.unwrap().number, other.unwrap().number), (1, 1));
    // of two waits of one participant the other still counts
    let kept = b.next_block(1);
    let dropped = timeout(WATCH, b.next_block(9));
    let (kept, dropped, one) = tokio::join!(kept, dropped, async {
        tokio::time::sleep(WATCH * 2).await;
        a.next_block(1).await
    });
    assert!(dropped.is_err());
    assert_eq!((kept.unwrap().number, one.unwrap().number), (2, 2));
}

#[tokio::test]
async fn blocks_wait_for_the_expected_until_they_are_withdrawn() {
    let (_dir, path) = create(Blocks::Lockstep);
    let supervisor = Ledger::open(&path).unwrap();
    supervisor.expect(&["a", "b", "c"]).unwrap();
    let a = participant(&path, "a");
    assert!(timeout(WATCH, a.next_block(0)).await.is_err());
    let b = participant(&path, "b");
    supervisor.withdraw("c").unwrap();
    let (one, other) = tokio::join!(a.next_block(0), b.next_block(0));
    assert_eq!((one.unwrap().number, other.unwrap().number), (1, 1));
    supervisor.expect(&["a"]).unwrap();
    supervisor.withdraw("b").unwrap();
    assert_eq!(a.next_block(1).await.unwrap().number, 2, "a holds its name, so expecting it changes nothing");
}

#[test]
fn a_name_belongs_to_one_live_instance() {
    let (_dir, path) = create(Blocks::Lockstep);
    let a = participant(&path, "a");
    let other = Ledger::open(&path).unwrap();
    assert!(matches!(other.join("a"), Err(ChainError::Ledger(LedgerError::NameTaken { pid, .. })) if pid == std::process::id()));
    a.join("b").unwrap();
    other.join("a").unwrap();
}

#[tokio::test]
async fn a_killed_process_is_not_waited_for() {
    let (_dir, path) = create(Blocks::Lockstep);
    let supervisor = Ledger::open(&path).unwrap();
    supervisor.expect(&["a", "b", "c"]).unwrap();
    let walkers = ["a", "b"].map(|name| spawn(&path, "walk", name));
    let (mut hung, mut lines) = spawn(&path, "hang", "c");
    assert_eq!(said(&mut lines).as_deref(), Some("joined"));
    assert!(timeout(WATCH, supervisor.next_block(3)).await.is_err(), "c is alive and busy");
    hung.kill().unwrap();
    for (mut child, mut lines) in walkers {
        let seen: Vec<u64> = std::iter::from_fn(|| said(&mut lines)).map(|number| number.parse().unwrap()).collect();
        assert!(child.wait().unwrap().success());
        assert!(seen.is_sorted_by(|a, b| a + 1 == *b) && seen.last() == Some(&WALK), "{seen:?}");
    }
    // not collected until now: a zombie is dead
    hung.wait().unwrap();
    assert_eq!(supervisor.head().await.unwrap().number, WALK);
    supervisor.join("c").unwrap();
    assert_eq!(supervisor.next_block(WALK).await.unwrap().number, WALK + 1);
}

#[tokio::test]
async fn what_was_accepted_survives_kill_9_at_any_write() {
    let (_dir, path) = create(Blocks::Wall { block_ms: 3 });
    let funds = 1_000_000;
    Ledger::open(&path).unwrap().fund(key().hotkey(), funds).unwrap();
    let (mut accepted, mut killed) = (Vec::new(), 0);
    for round in 0..10u64 {
        let mut writers = ["x", "y"].map(|name| spawn(&path, "write", &format!("{name}{round}")));
        for (_, lines) in &mut writers {
            accepted.push(said(lines).unwrap());
        }
        tokio::time::sleep(Duration::from_millis(7 * round)).await;
        for (mut child, mut lines) in writers {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
            accepted.extend(std::iter::from_fn(|| said(&mut lines)));
        }
        let ledger = Ledger::open(&path).unwrap();
        ledger.audit().unwrap();
        let included = ledger.head().await.unwrap().number;
        ledger.next_block(included).await.unwrap();
        let all = ledger.commitments(1, 0..=u64::MAX).await.unwrap();
        let (staked, committed): (Vec<_>, Vec<_>) = accepted.iter().partition(|said| *said == "staked");
        for data in committed {
            assert_eq!(all.iter().filter(|c| c.data == data.as_bytes()).count(), 1, "{data}");
        }
        // each killed writer may have been about to say one more
        let stake = ledger.neurons(1, included + 1).await.unwrap()[0].stake;
        assert!((staked.len() as u64..=staked.len() as u64 + killed).contains(&stake), "{stake} staked, {} accepted", staked.len());
        assert_eq!(ledger.balance(key().hotkey()).await.unwrap(), funds - stake);
    }
    let check: String = rusqlite::Connection::open(&path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}
