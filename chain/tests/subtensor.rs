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

#[tokio::test]
#[ignore = "needs a real chain: make test-chain SUBTENSOR_URL=ws://…"]
async fn a_subnet_is_made_and_read() {
    let chain = Subtensor::open(&url()).await.unwrap();
    let head = chain.head().await.unwrap();
    println!("head {head:?}, balance {}", chain.balance(alice().hotkey()).await.unwrap());
    let owner = Keypair::from_seed(&[77; 32]);
    let netuid = chain.create_subnet(&alice(), owner.hotkey(), Rules { tempo: 10, weights_rate_limit: 3, commit_reveal: false }).await.unwrap();
    println!("subnet {:?}", chain.subnet(netuid).await.unwrap());
}
