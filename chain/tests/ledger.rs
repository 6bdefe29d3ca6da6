//! What the ledger does beyond the trait: files, the wall clock, epochs, refusals of its own.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use chain::{Blocks, Chain, ChainError, Ledger, LedgerConfig, LedgerError, MAX_SUPPLY};
use protocol::{Hotkey, Keypair};
use rusqlite::Connection;

fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

fn config(blocks: Blocks) -> LedgerConfig {
    LedgerConfig { start_ms: 1_700_000_000_000, tempo: 10, weights_rate_limit: 0, ..LedgerConfig::new(blocks, key(0).hotkey()) }
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain.sqlite");
    (dir, path)
}

fn register(ledger: &Ledger, n: u8, stake: u64) -> u16 {
    let uid = ledger.enroll(1, key(n).hotkey(), key(n + 100).hotkey()).unwrap();
    if stake > 0 {
        ledger.endow(1, key(n).hotkey(), stake).unwrap();
    }
    uid
}

#[tokio::test]
async fn equal_histories_have_equal_hashes_and_other_ones_do_not() {
    let (_dir, path) = file();
    let ledgers = ["a", "b"].map(|name| Ledger::create(&path.with_extension(name), &config(Blocks::Manual)).unwrap());
    for ledger in &ledgers {
        register(ledger, 1, 0);
        ledger.advance(3).unwrap();
    }
    let [a, b] = &ledgers;
    assert_eq!(a.head().await.unwrap(), b.head().await.unwrap());
    assert_eq!(a.head().await.unwrap().time_ms, 1_700_000_036_000);
    register(a, 2, 0);
    assert_ne!(a.advance(1).unwrap().hash, b.advance(1).unwrap().hash);
    a.audit().unwrap();
}

#[test]
fn other_files_and_other_ledgers_are_refused() {
    let (_dir, path) = file();
    assert!(matches!(Ledger::open(&path), Err(ChainError::Ledger(LedgerError::Missing(_)))));
    let first = config(Blocks::Manual);
    drop(Ledger::create(&path, &first).unwrap());
    drop(Ledger::create(&path, &first).unwrap());
    let second = LedgerConfig { netuid: 2, ..first.clone() };
    assert!(matches!(Ledger::create(&path, &second), Err(ChainError::Ledger(LedgerError::OtherGenesis { .. }))));
    assert_eq!(Ledger::open(&path).unwrap().config(), &first);

    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Ledger::open(&path), Err(ChainError::Ledger(LedgerError::Format { found: 99, .. }))));

    let other = path.with_extension("other");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    assert!(matches!(Ledger::open(&other), Err(ChainError::Ledger(LedgerError::NotALedger(_)))));
    assert!(matches!(Ledger::create(&other, &first), Err(ChainError::Ledger(LedgerError::NotALedger(_)))));
    let text = path.with_extension("txt");
    fs::write(&text, "just a text, longer than any header that SQLite would read from it, a hundred bytes or more of it, to be sure")
        .unwrap();
    assert!(matches!(Ledger::open(&text), Err(ChainError::Ledger(LedgerError::NotALedger(_)))));
    assert!(matches!(Ledger::create(&path.join("under/a/file"), &first), Err(ChainError::Ledger(LedgerError::Sqlite { .. }))));
}

#[test]
fn impossible_configurations_are_refused() {
    let (_dir, path) = file();
    let good = config(Blocks::Manual);
    let mut no_validators = good.clone();
    no_validators.yuma.max_validators = 0;
    let mut average = good.clone();
    average.yuma.bonds_moving_average = 1_000_001;
    let mut bounds = good.clone();
    bounds.burn.min = bounds.burn.start + 1;
    let mut target = good.clone();
    target.burn.target = 0;
    let wall = LedgerConfig { blocks: Blocks::Wall { block_ms: 0 }, ..good.clone() };
    let no_uids = LedgerConfig { max_uids: 0, ..good.clone() };
    let no_period = LedgerConfig { reveal_period: Some(0), ..good.clone() };
    for bad in [LedgerConfig { tempo: 0, ..good }, no_validators, average, bounds, target, wall, no_uids, no_period] {
        assert!(matches!(Ledger::create(&path, &bad), Err(ChainError::Ledger(LedgerError::Config(_)))));
    }
    assert!(!path.exists());
}

#[test]
fn forged_history_is_found() {
    for forgery in [
        "UPDATE call SET body = x'2142'",
        "UPDATE block SET time_ms = time_ms + 1 WHERE number = 2",
        "DELETE FROM block WHERE number = 1",
        "UPDATE call SET kind = 'gift'",
    ] {
        let (_dir, path) = file();
        let ledger = Ledger::create(&path, &config(Blocks::Manual)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(ledger.commit(&key(0), 1, b"x")).unwrap();
        ledger.advance(3).unwrap();
        ledger.audit().unwrap();
        Connection::open(&path).unwrap().execute_batch(forgery).unwrap();
        assert!(matches!(ledger.audit(), Err(ChainError::Ledger(LedgerError::Damaged { .. }))), "{forgery}");
    }
}

#[tokio::test]
async fn urls_name_ledgers() {
    let (_dir, path) = file();
    let genesis = Ledger::create(&path, &config(Blocks::Manual)).unwrap().genesis().await.unwrap();
    for url in [format!("ledger://{}", path.display()), format!("ledger:{}", path.display())] {
        assert_eq!(chain::open(&url).await.unwrap().genesis().await.unwrap(), genesis);
    }
    for url in ["", "ledger:", "ledger://host/path", "http://", "https://user@host", "http://host?query", "/plain/path", "ws://a,http://b"]
    {
        assert!(matches!(chain::open(url).await, Err(ChainError::Url(_))), "{url}");
    }
}

#[tokio::test]
async fn registering_again_gives_the_same_uid() {
    let (_dir, path) = file();
    let ledger = Ledger::create(&path, &config(Blocks::Manual)).unwrap();
    assert_eq!((register(&ledger, 1, 0), register(&ledger, 2, 0), register(&ledger, 1, 0)), (1, 2, 1));
    assert_eq!(ledger.enroll(1, key(0).hotkey(), key(0).hotkey()).unwrap(), 0, "the owner has uid 0");
    assert_eq!(ledger.neurons(1, 0).await.unwrap().len(), 1, "the others come with the next block");
    ledger.advance(1).unwrap();
    let neurons = ledger.neurons(1, 1).await.unwrap();
    assert_eq!(neurons.iter().map(|n| (n.uid, n.registered)).collect::<Vec<_>>(), [(0, 0), (1, 1), (2, 1)]);
    assert_eq!(neurons[1].coldkey, key(101).hotkey());
    assert!(matches!(ledger.endow(1, Hotkey([9; 32]), 1), Err(ChainError::HotKeyNotRegisteredInSubNet { .. })));
    assert!(matches!(ledger.endow(1, key(1).hotkey(), MAX_SUPPLY + 1), Err(ChainError::StakeTooLarge(_))));
    assert!(matches!(ledger.enroll(7, key(3).hotkey(), key(3).hotkey()), Err(ChainError::SubnetNotExists(7))));
}

#[tokio::test]
async fn permits_follow_stake_at_once_before_the_first_epoch_and_then_at_epochs() {
    let (_dir, path) = file();
    let mut config = config(Blocks::Manual);
    (config.yuma.max_validators, config.yuma.stake_threshold) = (2, 50);
    let ledger = Ledger::create(&path, &config).unwrap();
    for (n, stake) in [(1, 100), (2, 60), (3, 49), (4, 70)] {
        register(&ledger, n, stake);
    }
    let permits = async |at| ledger.neurons(1, at).await.unwrap().into_iter().filter(|n| n.permit).map(|n| n.uid).collect::<Vec<_>>();
    ledger.advance(1).unwrap();
    assert_eq!(permits(1).await, [0, 1, 4], "the owner, and the two largest stakes");
    assert!(matches!(
        ledger.set_weights(&key(3), 1, &[(0, 1)]).await,
        Err(ChainError::NotEnoughStakeToSetWeights { stake: 49, threshold: 50 })
    ));
    ledger.advance(9).unwrap();
    ledger.endow(1, key(2).hotkey(), 1000).unwrap();
    ledger.advance(9).unwrap();
    assert_eq!(permits(19).await, [0, 1, 4]);
    ledger.advance(1).unwrap();
    assert_eq!(permits(20).await, [0, 1, 2]);
    assert_eq!(permits(19).await, [0, 1, 4], "the past stays");
}

#[tokio::test]
async fn a_minority_cannot_pay_its_accomplice_and_every_rao_is_paid() {
    let (_dir, path) = file();
    let ledger = Ledger::create(&path, &config(Blocks::Manual)).unwrap();
    register(&ledger, 1, 600);
    register(&ledger, 2, 400);
    let (honest, accomplice) = (register(&ledger, 3, 0), register(&ledger, 4, 0));
    ledger.advance(1).unwrap();
    ledger.set_weights(&key(1), 1, &[(honest, 65535)]).await.unwrap();
    ledger.set_weights(&key(2), 1, &[(accomplice, 65535)]).await.unwrap();
    let head = ledger.advance(39).unwrap().number;
    let neurons = ledger.neurons(1, head).await.unwrap();
    assert_eq!((neurons[3].incentive, neurons[4].incentive), (65535, 0));
    assert_eq!((neurons[1].dividends, neurons[2].dividends), (65535, 0));
    let issued = 40 * ledger.config().emission_per_block;
    assert_eq!(neurons.iter().map(|n| n.emission).sum::<u64>(), issued);
    assert_eq!(neurons[0].emission, issued * 18 / 100);
    assert_eq!(neurons[3].emission, issued * 41 / 100);
}

#[tokio::test]
async fn the_wall_clock_makes_blocks_that_nobody_watched() {
    let (_dir, path) = file();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let missed = 20_000;
    let wall = LedgerConfig { start_ms: now - missed * 20, tempo: 1_000, ..config(Blocks::Wall { block_ms: 20 }) };
    let ledger = Ledger::create(&path, &wall).unwrap();
    let head = ledger.head().await.unwrap();
    assert!(head.number >= missed);
    assert_eq!(head.time_ms, wall.start_ms + head.number * 20);
    let next = ledger.next_block(head.number + 1).await.unwrap();
    assert!(next.number > head.number + 1);
    let other = Ledger::open(&path).unwrap();
    assert_eq!(other.block(head.number).await.unwrap(), Some(head));
    assert!(matches!(ledger.advance(1), Err(ChainError::Ledger(LedgerError::NotManual))));
    other.audit().unwrap();
}

#[tokio::test]
async fn a_clock_before_genesis_makes_no_blocks() {
    let (_dir, path) = file();
    let ledger = Ledger::create(&path, &LedgerConfig { start_ms: 1 << 60, ..config(Blocks::Wall { block_ms: 20 }) }).unwrap();
    assert_eq!(ledger.head().await.unwrap().number, 0);
    assert!(tokio::time::timeout(Duration::from_millis(20), ledger.next_block(0)).await.is_err());
}
