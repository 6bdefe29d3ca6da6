//! Many blocks with cut connections.

use std::time::Instant;

use chain::Chain as _;

use super::*;
use crate::node::NETUID;

/// Resident memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Follows `blocks` blocks, `pause` apart, and reads of each; cuts the connections after every `cut` of them. Returns how long each cut was felt.
async fn follow(blocks: u64, pause: Duration, cut: u64) -> Vec<Duration> {
    let chain = small("soak");
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let start = client.head().await.unwrap().number;
    let mut felt = Vec::new();
    for n in 1..=blocks {
        tokio::time::sleep(pause).await;
        let since = (n % cut == 0).then(Instant::now);
        if since.is_some() {
            node.proxy.cut();
        }
        chain.block();
        let head = client.next_block(start + n - 1).await.unwrap();
        assert_eq!(head.number, start + n, "no block is missed and none is invented");
        assert_eq!(client.subnet(NETUID).await.unwrap().netuid, NETUID);
        assert_eq!(client.commitments(NETUID, head.number..=head.number).await.unwrap(), []);
        felt.extend(since.map(|since| since.elapsed()));
        chain.blocks().forget(64);
    }
    felt
}

#[tokio::test]
async fn blocks_are_followed_through_cuts() {
    assert_eq!(follow(60, Duration::from_millis(2), 10).await.len(), 6);
}

/// Run by hand: `cargo test -p chain --test subtensor_offline soak -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "takes minutes: by hand"]
async fn an_hour_of_blocks() {
    follow(60, Duration::from_millis(2), 10).await;
    let before = resident_kib();
    let mut felt = follow(3_600, Duration::from_millis(20), 50).await;
    felt.sort_unstable();
    println!("3,600 blocks, {} cuts: felt for {:?} in the median, {:?} at most", felt.len(), felt[felt.len() / 2], felt[felt.len() - 1]);
    println!("resident: {before} KiB before, {} KiB after", resident_kib());
}

/// A subnet of 256 neurons is one request, however many they are. Prints how long it takes.
#[tokio::test]
async fn two_hundred_and_fifty_six_neurons_are_one_request() {
    let chain = small("neurons");
    for n in 3..=255 {
        chain.enroll(&key(n), 0);
    }
    chain.block();
    let node = chain.node().await;
    let client = open(&[&node]).await;
    let head = client.head().await.unwrap().number;
    let metagraphs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = metagraphs.clone();
    node.fault(move |request, honest| {
        if request.params.first().is_some_and(|name| name == "SubnetInfoRuntimeApi_get_metagraph") {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        assert_ne!(request.method, "state_getKeysPaged", "no map is read key by key");
        honest()
    });
    let started = Instant::now();
    assert_eq!(client.neurons(NETUID, head).await.unwrap().len(), 256);
    println!("256 neurons in {:?}", started.elapsed());
    assert_eq!(metagraphs.load(std::sync::atomic::Ordering::Relaxed), 1);
}
