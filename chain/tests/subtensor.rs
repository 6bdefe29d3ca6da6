//! The client against a real Subtensor runtime: by hand, with `make test-chain SUBTENSOR_URL=ws://…`. The chain must be a development chain whose root is //Alice.
#![allow(clippy::unwrap_used)]

use chain::subtensor::dev::Rules;
use chain::{Chain, Subtensor};
use protocol::Keypair;

/// The development key //Alice: seed by hard derivation from the development phrase.
fn alice() -> Keypair {
    Keypair::from_seed(&hex::decode("e5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a").unwrap().try_into().unwrap())
}

fn url() -> String {
    std::env::var("SUBTENSOR_URL").expect("set SUBTENSOR_URL to a development chain, as in ws://127.0.0.1:9944")
}

/// Makes blocks at once, which development chains offer.
async fn advance(blocks: u64) {
    let rpc = subxt::rpcs::RpcClient::from_insecure_url(url()).await.unwrap();
    let _: serde_json::Value = rpc.request("dev_newBlock", subxt::rpcs::rpc_params![serde_json::json!({ "count": blocks })]).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a real chain: make test-chain SUBTENSOR_URL=ws://…"]
async fn the_whole_path_of_a_validator() {
    let chain = Subtensor::open(&url()).await.unwrap();
    let head = chain.head().await.unwrap();
    println!("head {head:?}, balance {}", chain.balance(alice().hotkey()).await.unwrap());
    let fresh = |n: u8| {
        let mut seed = [n; 32];
        seed[..8].copy_from_slice(&head.time_ms.to_le_bytes());
        seed[8..16].copy_from_slice(&head.number.to_le_bytes());
        Keypair::from_seed(&seed)
    };
    let (owner, validator, miner) = (fresh(1), fresh(2), fresh(3));
    let rules = Rules { tempo: 10, weights_rate_limit: 3, commit_reveal: false };
    let netuid = chain.create_subnet(&alice(), owner.hotkey(), rules).await.unwrap();
    println!("subnet {:?}", chain.subnet(netuid).await.unwrap());
    for key in [&validator, &miner] {
        println!("uid {:?}", chain.register_patiently(&alice(), netuid, key.hotkey()).await);
    }
    chain.add_stake(&alice(), netuid, validator.hotkey(), 1_000_000_000_000).await.unwrap();
    advance(25).await;
    let head = chain.head().await.unwrap().number;
    println!("neurons {:#?}", chain.neurons(netuid, head).await.unwrap());
    chain.set_bucket(&validator, netuid, "https://one.example/a").await.unwrap();
    chain.commit(&validator, netuid, b"hello").await.unwrap();
    println!("buckets {:?}", chain.buckets(netuid).await.unwrap());
    println!("said {:?}", chain.commitments(netuid, head..=u64::MAX).await.unwrap());
    println!("set {:?}", chain.set_weights(&validator, netuid, &[(2, 65535)]).await);
    println!("set {:?}", chain.set_weights(&validator, netuid, &[(2, 65535)]).await);
    println!("set {:?}", chain.set_weights(&miner, netuid, &[(2, 65535)]).await);
    println!("weights {:?}", chain.weights(netuid, 1).await);
    advance(12).await;
    let head = chain.head().await.unwrap().number;
    println!("neurons {:#?}", chain.neurons(netuid, head).await.unwrap());
}
