//! The Subtensor client against a small node in this process, with faults.
#![allow(clippy::unwrap_used)]

mod faults;
mod honest;
mod hostile;
#[path = "../node/mod.rs"]
mod node;
mod soak;

use std::time::Duration;

use chain::subtensor::Patience;
use chain::{ChainError, Subtensor};
use node::{Node, TestChain, key};

/// Pauses of milliseconds, and patience for a busy machine.
fn hasty() -> Patience {
    Patience {
        pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(50),
        anew: Duration::from_millis(20),
        ..Patience::default()
    }
}

async fn open(nodes: &[&Node]) -> Subtensor {
    let urls: Vec<String> = nodes.iter().map(|node| node.url()).collect();
    Subtensor::open_with(&urls.join(","), hasty()).await.unwrap()
}

const BLOCK: Duration = Duration::from_millis(20);

/// Asserts which error a call gave, and returns its words.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ChainError>, name: &str) -> String {
    let error = result.expect_err(name);
    assert!(format!("{error:?}").starts_with(name), "{error:?} is not {name}");
    error.to_string()
}

/// Lets tasks go on until something holds.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A chain with a validator, key 1, and a miner, key 2, as uids 1 and 2; uid 0 is the owner's, key 0.
fn small(name: &str) -> TestChain {
    let chain = TestChain::new(name);
    chain.enroll(&key(0), 0);
    chain.enroll(&key(1), 1_000_000);
    chain.enroll(&key(2), 0);
    for _ in 0..5 {
        chain.block();
    }
    chain
}
