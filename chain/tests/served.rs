//! The ledger's server against clients of any kind: hostile ones, and friendly ones that lose it for a while.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chain::{Blocks, Chain, ChainError, HttpLedger, Ledger, LedgerConfig, LedgerError, RAO_PER_TAO};
use protocol::{Digest, Domain, Keypair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

fn create(blocks: Blocks) -> (tempfile::TempDir, PathBuf, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain.sqlite");
    let ledger = Ledger::create(&path, &LedgerConfig::new(blocks, key(0).hotkey())).unwrap();
    (dir, path, ledger)
}

/// Serves a file at an address until the sender is used or dropped.
async fn serve(path: &Path, address: &str) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let ledger = Arc::new(Ledger::open(path).unwrap());
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move { chain::serve(ledger, listener, async { drop(stopped.await) }).await.unwrap() });
    (address, stop, task)
}

/// Sends bytes as they are and returns the answer's status and body.
async fn send(address: SocketAddr, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

async fn post(address: SocketAddr, body: &str) -> (u16, String) {
    let head = "POST /v1/calls HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    send(address, format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await
}

/// A call as the README describes it, made without the client.
fn call(genesis: Digest, block: u64, kind: &str, body: &[u8], signer: &Keypair) -> Value {
    let parts: [&[u8]; 5] = [&genesis.0, &1u16.to_le_bytes(), &block.to_le_bytes(), kind.as_bytes(), body];
    let message = Digest::derive("tributary 2026 ledger call v1", &parts);
    let signature = hex::encode(signer.sign(Domain::Call, &message.0));
    json!({ "genesis": genesis, "netuid": 1, "block": block, "kind": kind, "body": hex::encode(body),
        "signer": signer.hotkey(), "signature": signature })
}

#[tokio::test]
async fn what_is_not_signed_for_this_block_of_this_chain_is_refused_by_name() {
    let (_dir, path, ledger) = create(Blocks::Manual);
    let (address, _stop, _) = serve(&path, "127.0.0.1:0").await;
    let genesis = ledger.genesis().await.unwrap();
    let good = call(genesis, 1, "commit", b"x", &key(0));
    let but = |field: &str, value: Value| {
        let mut bad = good.clone();
        bad[field] = value;
        bad
    };
    let fund = [&key(0).hotkey().0[..], &1u64.to_le_bytes()].concat();
    for (bad, name) in [
        (but("body", json!("79")), "BadProof"),
        (but("signer", json!(key(1).hotkey())), "BadProof"),
        (but("signature", json!("00".repeat(64))), "BadProof"),
        (but("block", json!(2)), "BadProof"),
        (but("kind", json!("bucket")), "BadProof"),
        (call(genesis, 1, "fund", &fund, &key(0)), "BadProof"),
        (call(genesis, 1, "add-stake", b"short", &key(0)), "MalformedCall"),
        (but("kind", json!("gift")), "MalformedCall"),
        (but("genesis", json!(Digest([1; 32]))), "OtherGenesis"),
        (but("netuid", json!(2)), "SubnetNotExists"),
        (call(genesis, 0, "commit", b"x", &key(0)), "StaleCall"),
        (call(genesis, 2, "commit", b"x", &key(0)), "StaleCall"),
        (call(genesis, 1, "commit", b"x", &key(7)), "AccountNotAllowedCommit"),
    ] {
        let (status, answer) = post(address, &bad.to_string()).await;
        assert!(status == 409 && answer.contains(name), "{name}: {status} {answer}");
    }
    assert_eq!(post(address, &good.to_string()).await, (200, "null".into()));
    ledger.advance(1).unwrap();
    assert_eq!(ledger.commitments(1, 0..=1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_replayed_call_changes_nothing() {
    let (_dir, path, ledger) = create(Blocks::Manual);
    let (address, _stop, _) = serve(&path, "127.0.0.1:0").await;
    ledger.fund(key(5).hotkey(), 100).unwrap();
    let body = [&key(0).hotkey().0[..], &10u64.to_le_bytes()].concat();
    let stake = call(ledger.genesis().await.unwrap(), 1, "add-stake", &body, &key(5)).to_string();
    for _ in 0..3 {
        assert_eq!(post(address, &stake).await.0, 200);
        assert_eq!(post(address, &stake).await.0, 200);
        ledger.advance(1).unwrap();
    }
    assert_eq!(ledger.balance(key(5).hotkey()).await.unwrap(), 90);
    ledger.audit().unwrap();
}

#[tokio::test]
async fn malformed_requests_are_refused_and_hurt_nobody() {
    let (_dir, path, _ledger) = create(Blocks::Manual);
    let (address, _stop, _) = serve(&path, "127.0.0.1:0").await;
    assert_eq!(post(address, &"x".repeat(100 << 10)).await.0, 413);
    for body in ["", "{", "[]", "null", r#"{"genesis":1}"#] {
        let (status, _) = post(address, body).await;
        assert!(status == 400 || status == 422, "{body}: {status}");
    }
    for path in ["/", "/v1/blocks/x", "/v1/blocks/-1", "/v1/next", "/v1/accounts/5F", "/v1/subnets/70000", "/v1/subnets/1/neurons"] {
        let (status, _) = send(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
    assert_eq!(send(address, b"nonsense\r\n\r\n").await.0, 400);
    let endless = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    assert_eq!(send(address, &endless).await.0, 431);
    assert_eq!(HttpLedger::open(&format!("http://{address}")).await.unwrap().head().await.unwrap().number, 0);
}

#[tokio::test]
async fn a_client_outlives_its_server() {
    let (_dir, path, ledger) = create(Blocks::Manual);
    let (address, stop, task) = serve(&path, "127.0.0.1:0").await;
    let client = HttpLedger::open(&format!("http://{address}/")).await.unwrap();
    ledger.fund(key(5).hotkey(), RAO_PER_TAO).unwrap();
    stop.send(()).unwrap();
    task.await.unwrap();
    let staker = key(5);
    let (stake, (_, _stop, _)) = tokio::join!(client.add_stake(&staker, 1, key(0).hotkey(), 7), async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        serve(&path, &address.to_string()).await
    });
    stake.unwrap();
    ledger.advance(1).unwrap();
    assert_eq!(client.stakers(1, key(0).hotkey()).await.unwrap(), [(key(5).hotkey(), 7)]);
    client.remove_stake(&key(5), 1, key(0).hotkey(), 7).await.unwrap();
    ledger.advance(1).unwrap();
    assert_eq!(client.balance(key(5).hotkey()).await.unwrap(), RAO_PER_TAO);
}

#[tokio::test]
async fn calls_reach_a_chain_whose_blocks_hurry() {
    let (_dir, path, _ledger) = create(Blocks::Wall { block_ms: 30 });
    let (address, _stop, _) = serve(&path, "127.0.0.1:0").await;
    let client = HttpLedger::open(&format!("http://{address}")).await.unwrap();
    for n in 0..10u8 {
        client.commit(&key(0), 1, &[n]).await.unwrap();
    }
    let head = client.head().await.unwrap().number;
    client.next_block(head).await.unwrap();
    let found: Vec<_> = client.commitments(1, 0..=u64::MAX).await.unwrap().into_iter().map(|c| c.data[0]).collect();
    assert_eq!(found, Vec::from_iter(0..10));
}

#[tokio::test]
async fn many_commitments_come_in_pages() {
    let (_dir, path, ledger) = create(Blocks::Manual);
    let (address, _stop, _) = serve(&path, "127.0.0.1:0").await;
    for n in 0..2_001u16 {
        ledger.commit(&key(0), 1, &n.to_le_bytes()).await.unwrap();
        if n.is_multiple_of(700) {
            ledger.advance(1).unwrap();
        }
    }
    ledger.advance(1).unwrap();
    let client = HttpLedger::open(&format!("http://{address}")).await.unwrap();
    for range in [0..=u64::MAX, 2..=3, 4..=9, 0..=0] {
        let (ours, theirs) = (ledger.commitments(1, range.clone()).await.unwrap(), client.commitments(1, range).await.unwrap());
        assert_eq!(ours, theirs);
    }
    assert_eq!(client.commitments(1, 0..=9).await.unwrap().len(), 2_001);
}

#[tokio::test]
async fn lockstep_is_not_served_and_nobody_is_named() {
    let (_dir, path, ledger) = create(Blocks::Lockstep);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = chain::serve(Arc::new(ledger), listener, std::future::pending()).await;
    assert!(matches!(served, Err(ChainError::Ledger(LedgerError::LockstepIsLocal))));
    assert!(path.exists());
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(matches!(HttpLedger::open(&format!("http://{nobody}")).await, Err(ChainError::Server { .. })));
}
