//! Nodes that answer what they should not: errors, no panics, and no memory that an answer does not fill.

use chain::Chain as _;
use parity_scale_codec::{Compact, Encode};
use serde_json::{Value, json};

use super::*;
use crate::node::NETUID;
use crate::node::metagraph::Metagraph;

/// A length of 2³² − 1 items.
const GIGANTIC: [u8; 5] = [3, 255, 255, 255, 255];

/// The most virtual memory that this process ever had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// A node whose answers to `method` are `answer`.
async fn lying(method: &'static str, answer: impl Fn(&[Value], Value) -> Value + Send + Sync + 'static) -> (TestChain, Node, Subtensor) {
    let chain = small("hostile");
    let node = chain.node().await;
    let patience = Patience { attempts: 2, request: Duration::from_secs(2), ..hasty() };
    let client = Subtensor::open_with(&node.url(), patience).await.unwrap();
    node.fault(move |request, honest| match honest() {
        Ok(honest) if request.method == method => Ok(answer(request.params, honest)),
        other => other,
    });
    (chain, node, client)
}

fn bytes(bytes: &[u8]) -> Value {
    json!(format!("0x{}", hex::encode(bytes)))
}

/// Runs a check, and sees that it does not take memory for what is only claimed.
async fn frugally<T>(check: impl Future<Output = T>) -> T {
    let before = peak_mib();
    let checked = check.await;
    let grown = peak_mib() - before;
    assert!(grown < 4096, "{grown} MiB");
    checked
}

/// `get_metagraph`'s answer for two neurons.
fn two() -> Metagraph {
    Metagraph {
        tempo: 10,
        hotkeys: vec![Default::default(); 2],
        coldkeys: vec![Default::default(); 2],
        active: vec![true; 2],
        validator_permit: vec![true; 2],
        last_update: vec![Compact(1); 2],
        emission: vec![Compact(1); 2],
        dividends: vec![Compact(1); 2],
        incentives: vec![Compact(1); 2],
        block_at_registration: vec![Compact(1); 2],
        total_stake: vec![Compact(1); 2],
        ..Metagraph::default()
    }
}

#[tokio::test]
async fn a_metagraph_that_is_none() {
    let mut unequal = two();
    unequal.incentives.pop();
    let lists = 10;
    let empty = Some(Metagraph::default()).encode();
    let gigantic = |list: usize| [&empty[..empty.len() - lists + list], &GIGANTIC, &[7; 100]].concat();
    let mut answers = vec![vec![], vec![1], vec![7; 50], vec![255; 1000], Some(unequal).encode(), Some(two()).encode()[..90].to_vec()];
    answers.extend((0..lists).map(gigantic));
    // the name's length comes right after the option and the netuid
    answers.push([&[1, 0], &GIGANTIC[..], &[7; 100]].concat());
    for answer in answers {
        let (_chain, _node, client) = lying("state_call", move |params, honest| match params[0].as_str() {
            Some("SubnetInfoRuntimeApi_get_metagraph") => bytes(&answer),
            _ => honest,
        })
        .await;
        frugally(async { refused(client.neurons(NETUID, 1).await, "Undecodable") }).await;
    }
}

#[tokio::test]
async fn stored_values_that_are_none() {
    for answer in [bytes(&[]), bytes(&[&GIGANTIC[..], &[7; 100]].concat()), bytes(&[7; 3])] {
        let (_chain, _node, client) = lying("state_getStorage", move |params, honest| {
            let weights = params[0].as_str().unwrap().contains(&hex::encode(sp_crypto_hashing::twox_128(b"Weights")));
            if weights { answer.clone() } else { honest }
        })
        .await;
        frugally(async { refused(client.weights(NETUID, 1).await, "Undecodable") }).await;
    }
}

#[tokio::test]
async fn answers_that_are_not_even_hexadecimal() {
    for answer in [json!("0xzz"), json!(7), json!({}), json!([]), Value::Null, json!("0x1")] {
        let (_chain, _node, client) = lying("state_call", move |_, _| answer.clone()).await;
        client.neurons(NETUID, 1).await.expect_err("no metagraph");
    }
    let (_chain, node, client) = lying("chain_getHeader", |_, _| json!({ "number": "0x" })).await;
    node.proxy.cut();
    refused(client.subnet(NETUID).await, "Unreachable");
    node.mend();
    client.subnet(NETUID).await.unwrap();
}

#[tokio::test]
async fn block_numbers_beyond_all_blocks() {
    for number in ["0xffffffffffffffff", "0xfffffffffffffff0", "0x100000000"] {
        let (chain, node, client) = lying("chain_getHeader", move |_, mut header| {
            header["number"] = json!(number);
            header
        })
        .await;
        let head = client.head().await.unwrap().number;
        node.proxy.cut();
        chain.block();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(client.head().await.unwrap().number, head, "it is not believed");
        node.mend();
        client.next_block(head).await.unwrap();
    }
}

#[tokio::test]
async fn pages_of_keys_without_end() {
    let page = |prefix: &Value| json!(vec![format!("{}{}", prefix.as_str().unwrap(), "00".repeat(40)); 1000]);
    let (_chain, _node, client) = lying("state_getKeysPaged", move |params, _| page(&params[0])).await;
    frugally(async { refused(client.buckets(NETUID).await, "Unreachable") }).await;
    let (chain, node, client) = lying("none", |_, honest| honest).await;
    {
        let _blocks = chain.running(BLOCK);
        client.set_bucket(&key(1), NETUID, "https://b.example").await.unwrap();
    }
    node.fault(move |request, honest| match request.method {
        "state_getKeysPaged" => honest().map(|keys| json!(vec![keys.get(0).unwrap_or(&request.params[2]); 1000])),
        _ => honest(),
    });
    frugally(async { refused(client.buckets(NETUID).await, "Undecodable") }).await;
}

#[tokio::test]
async fn keys_and_values_of_other_maps() {
    let first = |params: &[Value]| params[2].is_null();
    let (_chain, _node, client) =
        lying("state_getKeysPaged", move |params, honest| if first(params) { json!(["0x", "0x00", "0xffff"]) } else { honest }).await;
    assert_eq!(client.buckets(NETUID).await.unwrap(), []);
    let (chain, _node, client) = lying("state_queryStorageAt", |params, _| {
        let changes: Vec<Value> = params[0].as_array().unwrap().iter().map(|key| json!([key, bytes(&[255; 40])])).collect();
        json!([{ "block": format!("0x{}", "00".repeat(32)), "changes": changes }])
    })
    .await;
    let _blocks = chain.running(BLOCK);
    client.set_bucket(&key(1), NETUID, "https://b.example").await.unwrap();
    refused(client.buckets(NETUID).await, "Undecodable");
}

#[tokio::test]
async fn blocks_of_anything() {
    let (chain, _node, client) = lying("chain_getBlock", |_, mut block| {
        let said = block["block"]["extrinsics"].as_array().unwrap().clone();
        let garbage = [bytes(&[]), bytes(&[0]), bytes(&[255; 100]), bytes(&[&GIGANTIC[..], &[4, 7, 0]].concat()), bytes(&[12, 0x84, 0, 1])];
        block["block"]["extrinsics"] = json!([garbage.to_vec(), said].concat());
        block
    })
    .await;
    let head = client.head().await.unwrap().number;
    chain.block();
    client.next_block(head).await.unwrap();
    frugally(async { assert_eq!(client.commitments(NETUID, 0..=u64::MAX).await.unwrap(), []) }).await;
}

#[tokio::test]
async fn the_largest_block_is_read() {
    // Subtensor's blocks take 7.5 MiB of signed extrinsics, twice that in hexadecimal
    let full = bytes(&vec![0; 15 << 19]);
    let (_chain, _node, client) = lying("chain_getBlock", move |_, mut block| {
        block["block"]["extrinsics"].as_array_mut().unwrap().push(full.clone());
        block
    })
    .await;
    assert_eq!(client.commitments(NETUID, 1..=1).await.unwrap(), []);
}
