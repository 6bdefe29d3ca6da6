//! A round's exchange with 20 miners over one peer's link, with the code that nodes run: real payloads, the built-in S3 server, and a link of
//! a given rate, delay and loss between two network namespaces. `scripts/link-bench.sh` (root) builds the namespaces and runs the cases;
//! what came of it is in docs/network.md.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod bulk;
mod prepare;
mod round;
mod wire;

use std::path::Path;
use std::time::Duration;

use storage::server::{Options, Server};
use storage::{Access, Budget, Rates, Stores};

const USAGE: &str = "\
link prepare DIR [LAYERS]             a run of 20 miners, its payloads sealed and revealed; 51 layers are 1:100 of 72B
link serve DIR ADDRESS                the store
link wire A B UP DOWN RTT LOSS SEED   the link between TUN devices A (peer) and B (store): Mbit/s, ms, share of packets
link round DIR CONNECTIONS            the exchange, as seen by the peer
link bulk DIR CONNECTIONS UP DOWN     one object of UP bytes up, 20 of DOWN bytes down";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match args[..] {
        ["prepare", dir] => runtime.block_on(prepare::run(dir.as_ref(), prepare::LAYERS)),
        ["prepare", dir, layers] => runtime.block_on(prepare::run(dir.as_ref(), layers.parse().unwrap())),
        ["serve", dir, address] => runtime.block_on(serve(dir.as_ref(), address)),
        ["wire", a, b, up, down, rtt, loss, seed] => {
            let [up, down, rtt, loss] = [up, down, rtt, loss].map(|number| number.parse().unwrap());
            let seed: u64 = seed.parse().unwrap();
            wire::run(a, b, way(up, rtt, loss, seed), way(down, rtt, loss, !seed)).unwrap();
        }
        ["round", dir, connections] => {
            let measured = runtime.block_on(round::run(dir.as_ref(), stores(connections)));
            println!("{}", serde_json::to_string(&measured).unwrap());
        }
        ["bulk", dir, connections, up, down] => {
            let (up, down) = (up.parse().unwrap(), down.parse().unwrap());
            let measured = runtime.block_on(bulk::run(dir.as_ref(), stores(connections), up, down));
            println!("{}", serde_json::to_string(&measured).unwrap());
        }
        _ => eprintln!("{USAGE}"),
    }
}

/// One way of a link: half of the round trip, and room for one round trip's packets in its queue.
fn way(mbit: f64, rtt_ms: f64, loss: f64, seed: u64) -> wire::Way {
    let rtt = Duration::from_secs_f64(rtt_ms / 1e3);
    wire::Way { rate: mbit * 1e6, delay: rtt / 2, queue: rtt, loss, seed }
}

/// Buckets as a node with this many connections opens them.
fn stores(connections: &str) -> Stores {
    Stores { budget: Budget::new(Budget::MEMORY, connections.parse().unwrap(), Rates::default()), ..Access::Trusted.into() }
}

async fn serve(dir: &Path, address: &str) {
    let server = Server::bind(address.parse().unwrap(), &dir.join("store"), Options::default()).await.unwrap();
    println!("{}", server.local_addr());
    server.run(std::future::pending()).await;
}
