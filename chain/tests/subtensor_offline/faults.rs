//! Nodes that fail, lag, forget and refuse; blocks that are given up.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chain::Chain as _;
use jsonrpsee::types::ErrorObjectOwned;
use serde_json::{Value, json};

use super::*;
use crate::node::metadata::Runtime;
use crate::node::types::{CommitmentsError, DispatchError, RuntimeCall, SubtensorError, SystemCall};
use crate::node::{NETUID, account, hotkey, rich};

fn refusal(code: i32, message: &str, data: &str) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, message, Some(data))
}

/// Counts a node's answers.
fn counted(node: &Node) -> Arc<AtomicUsize> {
    let answers = Arc::new(AtomicUsize::new(0));
    let count = answers.clone();
    node.fault(move |_, honest| {
        count.fetch_add(1, Ordering::Relaxed);
        honest()
    });
    answers
}

#[tokio::test]
async fn a_cut_connection_is_made_again() {
    let chain = small("cut");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    for _ in 0..3 {
        node.proxy.cut();
        assert_eq!(client.subnet(NETUID).await.unwrap().netuid, NETUID);
        node.proxy.cut();
        let head = client.head().await.unwrap().number;
        chain.block();
        assert_eq!(client.next_block(head).await.unwrap().number, head + 1);
    }
}

#[tokio::test]
async fn an_outage_is_waited_out() {
    let chain = small("outage");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let head = client.head().await.unwrap().number;
    node.proxy.refuse(true);
    chain.block();
    refused(client.subnet(NETUID).await, "Unreachable");
    node.proxy.refuse(false);
    assert_eq!(client.next_block(head).await.unwrap().number, head + 1);
    client.subnet(NETUID).await.unwrap();
}

#[tokio::test]
async fn an_extrinsic_whose_answer_was_lost_is_included_once() {
    let chain = small("lost answer");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let (proxy, lost) = (node.proxy.clone(), AtomicBool::new(false));
    node.fault(move |request, honest| {
        let answer = honest();
        if request.method == "author_submitExtrinsic" && !lost.swap(true, Ordering::Relaxed) {
            proxy.cut();
        }
        answer
    });
    let _blocks = chain.running(BLOCK);
    client.add_stake(&rich(), NETUID, hotkey(2), 5_000).await.unwrap();
    assert_eq!(chain.blocks().calls.len(), 1);
    assert_eq!(chain.state().or_default(&node::storage::STAKE, (account(&key(2)), NETUID)), 5_000);
}

#[tokio::test]
async fn an_extrinsic_that_was_sent_before_an_outage_is_found_after_it() {
    let chain = small("long outage");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let proxy = node.proxy.clone();
    node.fault(move |request, honest| {
        let answer = honest();
        if request.method == "author_submitExtrinsic" {
            proxy.refuse(true);
        }
        answer
    });
    let signer = rich();
    let staking = client.add_stake(&signer, NETUID, hotkey(2), 5_000);
    let outage = async {
        until(|| !chain.blocks().calls.is_empty()).await;
        // longer than the client's attempts of one request take
        tokio::time::sleep(Duration::from_millis(500)).await;
        chain.block();
        chain.block();
        node.mend();
        node.proxy.refuse(false);
    };
    let (staked, ()) = tokio::join!(staking, outage);
    staked.unwrap();
    assert_eq!(chain.blocks().calls.len(), 1);
}

#[tokio::test]
async fn the_next_node_is_asked_where_one_dies() {
    let chain = small("failover");
    let (first, second) = (chain.node().await, chain.node().await);
    let (to_first, to_second) = (counted(&first), counted(&second));
    let client = open(&[&first, &second]).await;
    client.subnet(NETUID).await.unwrap();
    assert!(to_first.load(Ordering::Relaxed) > 0 && to_second.load(Ordering::Relaxed) == 0, "the first is used while it lives");
    first.proxy.refuse(true);
    client.subnet(NETUID).await.unwrap();
    let head = client.head().await.unwrap().number;
    chain.block();
    client.next_block(head).await.unwrap();
    first.proxy.refuse(false);
    second.proxy.refuse(true);
    client.subnet(NETUID).await.unwrap();
}

#[tokio::test]
async fn a_frozen_node_is_given_up() {
    let chain = small("frozen");
    let (first, second) = (chain.node().await, chain.node().await);
    let (request, stalled) = (Duration::from_millis(500), Duration::from_millis(500));
    let patience = Patience { request, stalled, connecting: Duration::from_secs(1), ..hasty() };
    let client = Subtensor::open_with(&format!("{},{}", first.url(), second.url()), patience).await.unwrap();
    let head = client.head().await.unwrap().number;
    first.proxy.freeze(true);
    client.subnet(NETUID).await.unwrap();
    chain.block();
    assert_eq!(client.next_block(head).await.unwrap().number, head + 1);
}

#[tokio::test]
async fn slow_answers_are_answers() {
    let chain = small("slow");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    node.proxy.delay(Duration::from_millis(30));
    let _blocks = chain.running(BLOCK * 5);
    client.commit(&key(1), NETUID, b"slowly").await.unwrap();
    assert_eq!(client.commitments(NETUID, 0..=u64::MAX).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_silent_subscription_is_given_up() {
    let chain = small("silent");
    let (first, second) = (chain.node().await, chain.node().await);
    let patience = Patience { stalled: Duration::from_millis(300), ..hasty() };
    let client = Subtensor::open_with(&format!("{},{}", first.url(), second.url()), patience).await.unwrap();
    let head = client.head().await.unwrap();
    let stuck = hex::encode(head.hash.0);
    first.fault(move |request, honest| match request.method {
        "chain_finalizedHead" => Ok(Value::Null),
        "chain_getFinalizedHead" => Ok(json!(format!("0x{stuck}"))),
        _ => honest(),
    });
    first.proxy.cut();
    chain.block();
    assert_eq!(client.next_block(head.number).await.unwrap().number, head.number + 1);
}

#[tokio::test]
async fn a_node_of_another_chain_is_named_and_never_used() {
    let (chain, other) = (small("one"), small("another"));
    let (good, wrong) = (chain.node().await, other.node().await);
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    wrong.fault(move |request, honest| {
        log.lock().unwrap().push(request.method.to_owned());
        honest()
    });
    let client = open(&[&good, &wrong]).await;
    good.proxy.refuse(true);
    let words = refused(client.subnet(NETUID).await, "Unreachable");
    assert!(words.contains(&wrong.url()) && words.contains("another chain: its genesis is"), "{words}");
    let asked = asked.lock().unwrap().clone();
    assert!(!asked.is_empty() && asked.iter().all(|method| method == "chain_getBlockHash"), "{asked:?}");
}

#[tokio::test]
async fn a_lagging_node_is_passed_over() {
    let chain = small("lag");
    chain.blocks().genesis_ms -= 80 * 12_000;
    for _ in 0..75 {
        chain.block();
    }
    let (late, good) = (chain.lagging_node(60).await, chain.node().await);
    let client = open(&[&late, &good]).await;
    assert_eq!(client.head().await.unwrap().number, 80);
    good.proxy.refuse(true);
    let words = refused(client.subnet(NETUID).await, "Unreachable");
    assert!(words.contains("it lags, its newest finalized block is 20"), "{words}");
    // a chain all of whose nodes are late may have halted
    let client = open(&[&late]).await;
    assert_eq!(client.head().await.unwrap().number, 20);
}

#[tokio::test]
async fn where_the_clock_is_wrong_a_node_a_block_behind_still_serves() {
    let chain = small("clock");
    // as where this machine's clock is an hour ahead
    chain.blocks().genesis_ms -= 3_600_000;
    for _ in 0..5 {
        chain.block();
    }
    let (good, behind) = (chain.node().await, chain.lagging_node(1).await);
    let client = open(&[&good, &behind]).await;
    let head = client.head().await.unwrap();
    good.proxy.refuse(true);
    client.neurons(NETUID, head.number - 1).await.unwrap();
    assert_eq!(client.head().await.unwrap(), head, "heads only rise");
}

#[tokio::test]
async fn a_pruned_node_is_named_and_another_asked() {
    let chain = small("pruned");
    let (pruned, archive) = (chain.node().await, chain.node().await);
    let old = format!("0x{}", hex::encode(chain.blocks().chain[1].hash));
    pruned.fault(move |request, honest| match request.params.last() {
        Some(at) if *at == json!(old) && request.method.starts_with("state_") => Err(ErrorObjectOwned::owned(
            4003,
            format!("Client error: Api called for an unknown Block: State already discarded for {old}"),
            None::<()>,
        )),
        _ => honest(),
    });
    let client = open(&[&pruned, &archive]).await;
    assert_eq!(client.neurons(NETUID, 1).await.unwrap().len(), 3);
    let client = open(&[&pruned]).await;
    let words = refused(client.neurons(NETUID, 1).await, "Unreachable");
    assert!(words.contains("pruned") && words.contains("archive"), "{words}");
    client.neurons(NETUID, 2).await.unwrap();
}

#[tokio::test]
async fn blocks_that_are_given_up_change_nothing() {
    let chain = small("reorganisation");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let head = client.head().await.unwrap();
    let signer = key(1);
    let saying = client.commit(&signer, NETUID, b"once");
    let reorganisation = async {
        until(|| !chain.blocks().pool.is_empty()).await;
        chain.blocks().make();
        chain.blocks().make();
        assert_eq!(chain.blocks().chain[6].extrinsics.len(), 2, "a block that is not final includes it");
        assert_eq!(client.head().await.unwrap(), head);
        assert_eq!(client.commitments(NETUID, 0..=u64::MAX).await.unwrap(), []);
        chain.blocks().retract(2);
        let waiting = std::mem::take(&mut chain.blocks().pool);
        chain.blocks().make();
        chain.blocks().pool = waiting;
        chain.blocks().make();
        chain.finalize();
    };
    let (said, ()) = tokio::join!(saying, reorganisation);
    said.unwrap();
    let said = client.commitments(NETUID, 0..=u64::MAX).await.unwrap();
    assert_eq!(said.iter().map(|c| (c.block, c.data.as_slice())).collect::<Vec<_>>(), [(head.number + 2, &b"once"[..])]);
    assert_eq!(chain.blocks().calls.len(), 1, "it was sent once");
}

#[tokio::test]
async fn a_pools_refusals_arrive_by_name() {
    let chain = small("pool");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let _blocks = chain.running(BLOCK);
    let invalid = |data: &'static str| (1010, "Invalid Transaction", data);
    for ((code, message, data), name) in [
        (invalid("Custom error: 1"), "StakeAmountTooLow"),
        (invalid("Custom error: 2"), "BalanceTooLow"),
        (invalid("Custom error: 6"), "RateLimitExceeded"),
        (invalid("Custom error: 16"), "CommitNotFound"),
        (invalid("Custom error: 255"), "BadRequest"),
        (invalid("Custom error: 200"), "InvalidTransaction"),
        (invalid("Transaction has a bad signature"), "InvalidTransaction"),
        (invalid("Inability to pay some fees (e.g. account balance too low)"), "InvalidTransaction"),
        ((1016, "Immediately Dropped", "The transaction couldn't enter the pool because of the limit"), "PoolError1016"),
        ((1011, "Unknown Transaction Validity", ""), "PoolError1011"),
    ] {
        node.fault(move |request, honest| match request.method {
            "author_submitExtrinsic" => Err(refusal(code, message, data)),
            _ => honest(),
        });
        let words = refused(client.commit(&key(1), NETUID, b"x").await, "Refused");
        assert!(words.starts_with(&format!("{name}: Commitments.set_commitment is refused")), "{words}");
    }
    node.mend();
    client.commit(&key(1), NETUID, b"x").await.unwrap();
}

#[tokio::test]
async fn a_dispatchs_errors_arrive_by_name() {
    let chain = small("dispatch");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let _blocks = chain.running(BLOCK);
    let failing = |error: DispatchError| chain.blocks().failures.push(error);
    for (error, variant, words) in [
        (SubtensorError::IncorrectWeightVersionKey.into(), "IncorrectWeightVersionKey", "IncorrectWeightVersionKey: the weights name"),
        (SubtensorError::CommitRevealEnabled.into(), "CommitRevealEnabled", "CommitRevealEnabled: the subnet takes weights"),
        // where this crate has no words of its own, the metadata's are told
        (CommitmentsError::SpaceLimitExceeded.into(), "Refused", "SpaceLimitExceeded: SubtensorModule.set_weights is refused: "),
        (DispatchError::BadOrigin, "Refused", "Bad origin"),
    ] {
        failing(error);
        let found = refused(client.set_weights(&key(1), NETUID, &[(2, 1)]).await, variant);
        assert!(found.starts_with(words), "{found}");
    }
    refused(client.set_weights(&key(2), NETUID, &[(1, 1)]).await, "NotEnoughStakeToSetWeights");
    client.set_weights(&key(1), NETUID, &[(2, 1)]).await.unwrap();
    chain.blocks().edit(|state| state.put(&node::storage::RATE_LIMIT, NETUID, 1_000_000));
    refused(client.set_weights(&key(1), NETUID, &[(2, 2)]).await, "SettingWeightsTooFast { uid: 1");
    failing(SubtensorError::NeuronNoValidatorPermit.into());
    refused(client.set_weights(&key(2), NETUID, &[(1, 1)]).await, "NeuronNoValidatorPermit(2)");
    failing(CommitmentsError::SpaceLimitExceeded.into());
    let words = refused(client.commit(&key(1), NETUID, b"x").await, "Refused");
    assert!(words.starts_with("SpaceLimitExceeded: "), "{words}");
    refused(client.commit(&key(9), NETUID, b"x").await, "AccountNotAllowedCommit");
    refused(client.add_stake(&rich(), NETUID, hotkey(1), u64::MAX).await, "NotEnoughBalanceToStake { balance: ");
    refused(client.commit_weights(&key(1), NETUID, protocol::Digest([1; 32])).await, "CommitRevealDisabled");
}

#[tokio::test]
async fn a_nonce_that_was_used_meanwhile_is_asked_for_anew() {
    let chain = small("nonce");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let _blocks = chain.running(BLOCK);
    client.commit(&key(1), NETUID, b"nonce 0").await.unwrap();
    let stale = AtomicUsize::new(0);
    node.fault(move |request, honest| match request.method {
        "system_accountNextIndex" if stale.fetch_add(1, Ordering::Relaxed) < 2 => Ok(json!(0)),
        _ => honest(),
    });
    client.commit(&key(1), NETUID, b"nonce 1").await.unwrap();
    assert_eq!(client.commitments(NETUID, 0..=u64::MAX).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_call_that_the_pool_says_it_dropped_and_a_block_took_is_made_once() {
    let chain = small("dropped");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let blocks = async {
        until(|| !chain.blocks().pool.is_empty()).await;
        let hash = chain.blocks().pool[0].hash;
        // in a block that is not final yet
        chain.blocks().make();
        chain.shared.dropped.send_replace(Some(hash));
        tokio::time::sleep(Duration::from_millis(200)).await;
        chain.running(BLOCK)
    };
    let signer = rich();
    let (staked, _blocks) = tokio::join!(client.add_stake(&signer, NETUID, hotkey(2), 5_000), blocks);
    staked.unwrap();
    assert!(chain.blocks().pool.is_empty());
    assert_eq!(chain.state().or_default(&node::storage::STAKE, (account(&key(2)), NETUID)), 5_000);
}

#[tokio::test]
async fn bytes_that_no_pool_took_are_signed_anew() {
    let chain = small("lost request");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let (proxy, lost, other) = (node.proxy.clone(), AtomicBool::new(false), chain.clone());
    node.fault(move |request, honest| match request.method {
        "author_submitExtrinsic" if !lost.swap(true, Ordering::Relaxed) => {
            // the request is lost, and another process uses the nonce
            let call = RuntimeCall::System(SystemCall::remark { remark: vec![] });
            other.include(&rich(), call);
            proxy.cut();
            Ok(Value::Null)
        }
        _ => honest(),
    });
    let _blocks = chain.running(BLOCK);
    client.add_stake(&rich(), NETUID, hotkey(2), 5_000).await.unwrap();
    assert_eq!(chain.state().or_default(&node::storage::STAKE, (account(&key(2)), NETUID)), 5_000);
}

#[tokio::test]
async fn processes_that_share_a_key_take_turns() {
    let chain = small("race");
    let node = chain.node().await;
    let (one, two) = (open(&[&node]).await, open(&[&node]).await);
    // both are told the same nonce, so that the second finds it taken in the pool
    let told = AtomicUsize::new(0);
    node.fault(move |request, honest| match request.method {
        "system_accountNextIndex" if told.fetch_add(1, Ordering::Relaxed) < 2 => Ok(json!(0)),
        _ => honest(),
    });
    let signer = rich();
    let (a, b) = (one.burned_register(&signer, NETUID, hotkey(11)), two.burned_register(&signer, NETUID, hotkey(12)));
    let blocks = async {
        until(|| !chain.blocks().pool.is_empty()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        chain.running(BLOCK)
    };
    let (a, b, _blocks) = tokio::join!(a, b, blocks);
    let mut uids = [a.unwrap(), b.unwrap()];
    uids.sort_unstable();
    assert_eq!(uids, [3, 4]);
}

#[tokio::test]
async fn names_that_a_runtime_lacks_are_told() {
    let missing = async |name: &'static str| {
        let chain = small(name);
        chain.upgrade(Runtime { spec_version: 299, lacks: vec![name], ..Runtime::default() });
        chain.block();
        let node = chain.node().await;
        let client = open(&[&node]).await;
        (chain, node, client)
    };
    let told = |words: String, name: &str| assert!(words.contains(name) && words.contains("not in this runtime"), "{words}");
    for name in ["SubtensorModule.StakeThreshold", "SubnetInfoRuntimeApi", "SubnetInfoRuntimeApi.get_metagraph"] {
        let (_chain, _node, client) = missing(name).await;
        told(refused(client.subnet(NETUID).await, "NotInThisRuntime"), name);
    }
    for name in ["Commitments", "Commitments.CommitmentOf"] {
        let (_chain, _node, client) = missing(name).await;
        told(refused(client.buckets(NETUID).await, "NotInThisRuntime"), name);
    }
    let (_chain, _node, client) = missing("SubtensorModule.burned_register").await;
    told(refused(client.burned_register(&rich(), NETUID, hotkey(3)).await, "NotInThisRuntime"), "SubtensorModule.burned_register");
    let (_chain, _node, client) = missing("Commitments.set_commitment").await;
    told(refused(client.commit(&key(1), NETUID, b"x").await, "NotInThisRuntime"), "Commitments.set_commitment");
}

#[tokio::test]
async fn an_upgrade_is_followed() {
    let chain = small("upgrade");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let (signer, start) = (key(1), client.head().await.unwrap().number);
    {
        let _blocks = chain.running(BLOCK);
        client.commit(&signer, NETUID, b"before").await.unwrap();
    }
    let saying = client.commit(&signer, NETUID, b"meanwhile");
    let upgrade = async {
        until(|| chain.blocks().calls.len() == 2).await;
        // what the old runtime's extrinsics sign is no longer valid
        chain.upgrade(Runtime { spec_version: 301, shift: 40, lacks: vec![] });
        chain.running(BLOCK)
    };
    let (said, _blocks) = tokio::join!(saying, upgrade);
    said.unwrap();
    client.commit(&signer, NETUID, b"after").await.unwrap();
    client.burned_register(&rich(), NETUID, hotkey(3)).await.unwrap();
    let words = refused(client.add_stake(&rich(), NETUID, hotkey(9), 5).await, "Refused");
    assert!(words.starts_with("HotKeyNotRegisteredInSubNet: "), "{words}");
    let said = client.commitments(NETUID, start..=u64::MAX).await.unwrap();
    assert_eq!(said.iter().map(|c| c.data.as_slice()).collect::<Vec<_>>(), [&b"before"[..], b"meanwhile", b"after"]);
}
