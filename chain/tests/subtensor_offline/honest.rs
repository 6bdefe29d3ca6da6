//! What the client does where nothing goes wrong.

use chain::Chain as _;
use chain::timelock::{self, Beacon, Payload, Version};
use parity_scale_codec::Decode as _;

use super::*;
use crate::node::types::*;
use crate::node::{NETUID, hotkey, rich};
use protocol::Digest;

#[tokio::test]
async fn what_is_submitted_reads_back() {
    let chain = small("path");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let _blocks = chain.running(BLOCK);
    let before = client.balance(rich().hotkey()).await.unwrap();
    assert_eq!(client.burned_register(&rich(), NETUID, hotkey(3)).await.unwrap(), 3);
    assert_eq!(client.burned_register(&rich(), NETUID, hotkey(3)).await.unwrap(), 3, "the uid that it has");
    client.add_stake(&rich(), NETUID, hotkey(3), 5_000).await.unwrap();
    assert_eq!(client.balance(rich().hotkey()).await.unwrap(), before - 1_000 - 5_000);
    let head = client.head().await.unwrap().number;
    let neurons = client.neurons(NETUID, head).await.unwrap();
    assert_eq!((neurons.len(), neurons[3].hotkey, neurons[3].stake, neurons[3].permit), (4, hotkey(3), 5_000, true));
    client.set_weights(&key(1), NETUID, &[(2, 65535), (3, 7)]).await.unwrap();
    assert_eq!(client.weights(NETUID, 1).await.unwrap(), [(2, 65535), (3, 7)]);
    client.set_bucket(&key(2), NETUID, "https://b.example/2").await.unwrap();
    client.commit(&key(2), NETUID, b"said").await.unwrap();
    assert_eq!(client.buckets(NETUID).await.unwrap(), [(hotkey(2), "https://b.example/2".to_owned())]);
    let said = client.commitments(NETUID, 0..=u64::MAX).await.unwrap();
    assert_eq!(said.iter().map(|c| (c.hotkey, c.data.as_slice())).collect::<Vec<_>>(), [(hotkey(2), &b"said"[..])]);
}

/// The bytes were made by async-substrate-interface 2.2.1 (`compose_call`) from the metadata of the real runtime, spec version 300.
#[tokio::test]
async fn calls_have_the_bytes_that_the_real_runtime_takes() {
    let chain = small("bytes");
    chain.blocks().edit(|state| {
        state.put(&node::storage::VERSION_KEY, NETUID, 9);
        state.put(&node::storage::STAKE, (node::account(&key(0)), NETUID), 1_000_000);
        state.put(&node::storage::PERMITS, NETUID, vec![true, true, false]);
    });
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let _blocks = chain.running(BLOCK);
    let said: Vec<u8> = (0..130).collect();
    let hotkey = protocol::Hotkey([0x11; 32]);
    client.burned_register(&rich(), NETUID, hotkey).await.unwrap();
    client.add_stake(&rich(), NETUID, hotkey, 123_456_789_012).await.unwrap();
    // by the owner, who may weigh itself
    client.set_weights(&key(0), NETUID, &[(2, 65535), (0, 1), (1, 12345)]).await.unwrap();
    client.set_bucket(&key(1), NETUID, "https://bucket.example/a").await.unwrap();
    client.commit(&key(1), NETUID, &said).await.unwrap();
    chain.blocks().edit(|state| state.put(&node::storage::COMMIT_REVEAL, NETUID, true));
    client.commit_weights(&key(1), NETUID, Digest([0x22; 32])).await.unwrap();
    refused(client.reveal_weights(&key(1), NETUID, &[(2, 65535), (0, 4)], &[5, 600, 7]).await, "InvalidRevealCommitHashNotMatch");
    let calls: Vec<String> = chain.blocks().calls.iter().map(hex::encode).collect();
    let expected = include_str!("../node/calls.hex").lines().filter(|line| !line.starts_with('#'));
    assert_eq!(calls, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn announcements_come_in_the_chains_order() {
    let chain = small("order");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let start = client.head().await.unwrap().number;
    let say = async |n: u8, what: &'static [u8]| {
        let (signer, known) = (key(n), chain.blocks().pool.len());
        // given up once it is sent: the extrinsic stays in the pool
        tokio::select! {
            said = client.commit(&signer, NETUID, what) => said.unwrap(),
            () = until(|| chain.blocks().pool.len() > known) => {}
        }
    };
    say(2, b"first").await;
    say(1, b"second").await;
    chain.block();
    say(0, b"fails").await;
    chain.blocks().failures.push(CommitmentsError::SpaceLimitExceeded.into());
    chain.block();
    client.next_block(start + 1).await.unwrap();
    let said = client.commitments(NETUID, start..=u64::MAX).await.unwrap();
    let found: Vec<_> = said.iter().map(|c| (c.block, c.index, c.hotkey, c.data.as_slice())).collect();
    assert_eq!(found, [(start + 1, 1, hotkey(2), &b"first"[..]), (start + 1, 2, hotkey(1), b"second")]);
    assert_eq!(client.buckets(NETUID).await.unwrap(), []);
    let foreign = |fields: Vec<Data>| CommitmentInfo { fields: BoundedVec(fields) };
    let set = |info| RuntimeCall::Commitments(CommitmentsCall::set_commitment { netuid: NETUID, info });
    let ours = foreign(vec![Data::Raw(vec![1]), Data::Raw(b"wrapped".to_vec())]);
    for info in
        [foreign(vec![]), foreign(vec![Data::None]), foreign(vec![Data::Raw(vec![2, 3])]), foreign(vec![Data::Raw(vec![0; 128]); 3])]
    {
        chain.include(&key(0), set(info));
    }
    chain.include(&key(0), RuntimeCall::Utility(UtilityCall::batch { calls: vec![set(ours)] }));
    let newest = chain.blocks().finalized;
    client.next_block(newest - 1).await.unwrap();
    assert_eq!(client.commitments(NETUID, start..=u64::MAX).await.unwrap(), said);
}

#[tokio::test]
async fn buckets_and_announcements_stand_beside_each_other() {
    let chain = small("beside");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let _blocks = chain.running(BLOCK);
    let (one, two) = ("https://one.example".to_owned(), "https://two.example".to_owned());
    client.set_bucket(&key(1), NETUID, &one).await.unwrap();
    client.commit(&key(1), NETUID, b"first").await.unwrap();
    assert_eq!(client.buckets(NETUID).await.unwrap(), [(hotkey(1), one)]);
    client.set_bucket(&key(1), NETUID, &two).await.unwrap();
    client.commit(&key(1), NETUID, b"second").await.unwrap();
    let sent = chain.blocks().calls.len();
    client.set_bucket(&key(1), NETUID, &two).await.unwrap();
    client.commit(&key(1), NETUID, b"second").await.unwrap();
    assert_eq!(chain.blocks().calls.len(), sent, "what the chain has is not sent again");
    assert_eq!(client.buckets(NETUID).await.unwrap(), [(hotkey(1), two)]);
    let said = client.commitments(NETUID, 0..=u64::MAX).await.unwrap();
    assert_eq!(said.iter().map(|c| c.data.as_slice()).collect::<Vec<_>>(), [&b"first"[..], b"second"]);
}

#[tokio::test]
async fn hashes_are_committed_and_revealed() {
    let chain = small("hashes");
    chain.blocks().edit(|state| state.put(&crate::node::storage::COMMIT_REVEAL, NETUID, true));
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let _blocks = chain.running(BLOCK);
    let (row, salt) = (vec![(2u16, 65535u16), (0, 3)], vec![9u16, 8, 7]);
    let (uids, values): (Vec<u16>, Vec<u16>) = row.iter().copied().unzip();
    let signed = (crate::node::account(&key(1)), NETUID, uids, values, salt.clone(), 0u64);
    let commitment = sp_crypto_hashing::blake2_256(&parity_scale_codec::Encode::encode(&signed));
    client.commit_weights(&key(1), NETUID, Digest(commitment)).await.unwrap();
    let committed = client.head().await.unwrap().number;
    client.next_block(committed + 10).await.unwrap();
    assert_eq!(client.weights(NETUID, 1).await.unwrap(), []);
    client.reveal_weights(&key(1), NETUID, &row, &salt).await.unwrap();
    assert_eq!(client.weights(NETUID, 1).await.unwrap(), row);
}

#[test]
fn the_node_takes_no_extrinsic_of_which_a_bit_was_changed() {
    let chain = small("bits");
    let mut blocks = chain.blocks();
    let call = RuntimeCall::System(SystemCall::remark { remark: b"signed".to_vec() });
    let signed = node::extrinsic::signed(&key(1), 0, call, &blocks.runtime, blocks.chain[0].hash);
    for bit in 0..8 * signed.len() {
        let mut changed = signed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(blocks.submit(&changed).is_err(), "bit {bit}");
    }
    let other = Digest([9; 32]).0;
    let elsewhere = node::extrinsic::signed(&key(1), 0, RuntimeCall::System(SystemCall::remark { remark: vec![] }), &blocks.runtime, other);
    assert!(blocks.submit(&elsewhere).is_err(), "another chain's genesis");
    blocks.submit(&signed).unwrap();
}

#[tokio::test]
async fn a_row_is_sealed_as_the_runtime_of_2026_takes_it() {
    let beacon = Beacon::from_seed(b"a beacon of this test's own");
    let chain = small("sealed");
    chain.blocks().edit(|state| {
        state.put(&node::storage::TEMPO, NETUID, 20);
        state.put(&node::storage::COMMIT_REVEAL, NETUID, true);
        state.put(&node::storage::COMMIT_REVEAL_VERSION, (), 4);
        state.put(&node::storage::VERSION_KEY, NETUID, 9);
    });
    let node = chain.node().await;
    let client = open(&[&node]).await.with_beacon(beacon.key());
    let _blocks = chain.running(BLOCK);
    let row = [(2, 65535), (0, 7)];
    let opened = client.commit_timelocked_weights(&key(1), NETUID, &row).await.unwrap();
    assert!(opened > client.head().await.unwrap().number);
    let call = chain.blocks().calls.last().unwrap().clone();
    // pallet and call, netuid, commit, reveal round, version
    type Arguments = ((u8, u8), u16, Vec<u8>, u64, u16);
    let ((_, index), netuid, sealed, round, version) = Arguments::decode(&mut call.as_slice()).unwrap();
    assert_eq!((index, netuid, version), (113, NETUID, 4));
    let plain = timelock::decrypt(&beacon.sign(round), &sealed).unwrap();
    let payload = Payload::decode(&plain, Version::V4, hotkey(1)).unwrap();
    assert_eq!((payload.weights.as_slice(), payload.version_key), (&row[..], 9));
    assert!(timelock::decrypt(&beacon.sign(round - 1), &sealed).is_err(), "no earlier round opens it");
}
