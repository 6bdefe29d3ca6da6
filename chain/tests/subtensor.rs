//! The client against a real Subtensor runtime, beyond what the conformance suite asks of every chain. By hand: `make test-chain SUBTENSOR_URL=ws://…`, with a
//! development chain whose root is //Alice and which offers `dev_newBlock` and `dev_setStorage`.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use chain::subtensor::dev::{self, Rules};
use chain::timelock::Beacon;
use chain::{Chain, ChainError, Phrase, RAO_PER_TAO, Subtensor};
use protocol::Keypair;
use serde_json::{Value as Json, json};
use subxt::dynamic::{self, Value};
use subxt::rpcs::{RpcClient, rpc_params};
use subxt::{OnlineClient, SubstrateConfig, backend::LegacyBackend};

fn url() -> String {
    std::env::var("SUBTENSOR_URL").expect("set SUBTENSOR_URL to a development chain, as in ws://127.0.0.1:9944")
}

/// What development chains offer beyond a real one's requests.
struct Bench {
    rpc: RpcClient,
    client: OnlineClient<SubstrateConfig>,
}

impl Bench {
    async fn open() -> Self {
        let rpc = RpcClient::from_insecure_url(url()).await.unwrap();
        let backend = LegacyBackend::builder().build(rpc.clone());
        Self { client: OnlineClient::from_backend(std::sync::Arc::new(backend)).await.unwrap(), rpc }
    }

    /// Makes blocks, each by a request of its own: many may take longer than one request may.
    async fn blocks(&self, count: u64) {
        for _ in 0..count {
            let _: Json = self.rpc.request("dev_newBlock", rpc_params![json!({ "count": 1 })]).await.unwrap();
        }
    }

    async fn store(&self, entries: &[(Vec<u8>, Vec<u8>)]) {
        let hex = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
        let entries: Vec<_> = entries.iter().map(|(key, value)| [hex(key), hex(value)]).collect();
        let _: Json = self.rpc.request("dev_setStorage", rpc_params![entries]).await.unwrap();
    }

    async fn key<K>(&self, pallet: &str, entry: &str, parts: K) -> Vec<u8>
    where
        K: subxt::ext::frame_decode::storage::IntoEncodableValues + subxt::ext::frame_decode::storage::IntoDecodableValues,
    {
        let at = self.client.at_current_block().await.unwrap();
        at.storage().entry(dynamic::storage::<K, Value>(pallet, entry)).unwrap().fetch_key(parts).unwrap()
    }

    /// The beacon's round that the newest timelocked commit of a subnet waits for.
    async fn round_waited_for(&self, netuid: u16) -> u64 {
        let at = self.client.at_current_block().await.unwrap();
        let names = ["TimelockedWeightCommits", "CRV3WeightCommitsV2", "CRV3WeightCommits"];
        for name in names {
            let address = dynamic::storage::<(u16, u64), Value>("SubtensorModule", name);
            let Ok(mut commits) = at.storage().iter(address, (netuid,)).await else { continue };
            let mut newest = None;
            while let Some(commit) = commits.next().await {
                let text = commit.unwrap().value().decode().unwrap().to_string();
                // the round is the last number of (account, block, bytes, round)
                newest = text.rsplit(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty()).map(|word| word.parse().unwrap());
            }
            return newest.expect("a commit is stored");
        }
        panic!("this runtime stores no timelocked commits");
    }
}

/// A subnet with a permitted validator and a miner (uid 2).
async fn subnet(chain: &Subtensor, commit_reveal: bool) -> (u16, Keypair, Keypair) {
    let key = || Phrase::generate().unwrap().keypair();
    let root = dev::alice();
    let netuid = chain.create_subnet(&root, key().hotkey(), Rules { tempo: 10, weights_rate_limit: 6, commit_reveal }).await.unwrap();
    let (validator, miner) = (key(), key());
    assert_eq!(chain.register_patiently(&root, netuid, validator.hotkey()).await.unwrap(), 1);
    assert_eq!(chain.register_patiently(&root, netuid, miner.hotkey()).await.unwrap(), 2);
    chain.add_stake(&root, netuid, validator.hotkey(), 1_000 * RAO_PER_TAO).await.unwrap();
    Bench::open().await.blocks(25).await;
    (netuid, validator, miner)
}

#[tokio::test]
#[ignore = "needs a development chain: make test-chain SUBTENSOR_URL=ws://…"]
async fn a_row_under_a_timelock_is_opened_by_the_chain() {
    let beacon = Beacon::from_seed(b"a beacon of this test's own");
    let (chain, bench) = (Subtensor::open(&url()).await.unwrap().with_beacon(beacon.key()), Bench::open().await);
    let (netuid, validator, _) = subnet(&chain, true).await;
    let rule = chain.subnet(netuid).await.unwrap().commit_reveal.expect("weights are committed first here");
    println!("timelocked weights of version {:?}, revealed {} epochs later", rule.timelocked, rule.period);
    assert!(matches!(chain.set_weights(&validator, netuid, &[(2, 65535)]).await, Err(ChainError::CommitRevealEnabled)));
    let opened = chain.commit_timelocked_weights(&validator, netuid, &[(2, 65535)]).await.unwrap();
    let committed = chain.head().await.unwrap().number;
    let round = bench.round_waited_for(netuid).await;
    println!("committed by block {committed}, to be opened in block {opened} by round {round}");
    let signature = beacon.sign(round).to_bytes();
    // Pulse { round, randomness, signature }
    let pulse = [&round.to_le_bytes()[..], &[32 << 2], &[7; 32], &[(signature.len() as u8) << 2], &signature].concat();
    bench.store(&[(bench.key("Drand", "Pulses", (round,)).await, pulse)]).await;
    assert_eq!(chain.weights(netuid, 1).await.unwrap(), []);
    bench.blocks(opened - committed + 1).await;
    chain.next_block(opened).await.unwrap();
    assert_eq!(chain.weights(netuid, 1).await.unwrap(), [(2, 65535)]);
}

#[tokio::test]
#[ignore = "needs a development chain: make test-chain SUBTENSOR_URL=ws://…"]
async fn pool_and_runtime_refuse_by_name() {
    let chain = Subtensor::open(&url()).await.unwrap();
    let (netuid, validator, miner) = subnet(&chain, false).await;
    let poor = Phrase::generate().unwrap().keypair();
    let refusals = [
        format!("{:?}", chain.burned_register(&poor, netuid, poor.hotkey()).await.unwrap_err()),
        format!("{:?}", chain.commit(&poor, netuid, b"x").await.unwrap_err()),
        format!("{:?}", chain.set_weights(&miner, netuid, &[(0, 65535)]).await.unwrap_err()),
        format!("{:?}", chain.reveal_weights(&validator, netuid, &[(2, 65535)], &[1]).await.unwrap_err()),
        format!("{:?}", chain.sudo(&dev::alice(), "sudo_set_what_is_not_there", vec![]).await.unwrap_err()),
    ];
    println!("{refusals:#?}");
    let names =
        ["NotEnoughBalanceToStake", "AccountNotAllowedCommit", "NeuronNoValidatorPermit", "CommitRevealDisabled", "NotInThisRuntime"];
    for (refusal, name) in refusals.iter().zip(names) {
        assert!(refusal.starts_with(name), "{refusal} is not {name}");
    }
    // 3,100 bytes per epoch, 100 counted at least: one more than 31 in an epoch of 11 blocks can't be, so fill it with the largest
    let full = async {
        for n in 0u8..12 {
            chain.commit(&validator, netuid, &[n; 256]).await?;
        }
        Ok::<_, ChainError>(())
    };
    println!("twelve of 257 bytes within about an epoch: {:?}", full.await);
}

#[tokio::test]
#[ignore = "needs a development chain: make test-chain SUBTENSOR_URL=ws://…"]
async fn figures() {
    let started = Instant::now();
    let chain = Subtensor::open(&url()).await.unwrap();
    println!("connected in {:?} (metadata decoded)", started.elapsed());
    let (netuid, ..) = subnet(&chain, false).await;
    let head = chain.head().await.unwrap();
    let started = Instant::now();
    let neurons = chain.neurons(netuid, head.number).await.unwrap();
    println!("{} neurons in {:?}", neurons.len(), started.elapsed());
    let started = Instant::now();
    let said = chain.commitments(netuid, head.number.saturating_sub(100)..=head.number).await.unwrap();
    println!("commitments of 101 blocks ({}) in {:?}", said.len(), started.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default());
}
