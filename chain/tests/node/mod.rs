//! A small Subtensor node in this process: it decodes and verifies extrinsics with types of its own, executes those that the client submits, and makes blocks
//! when told to. Faults are decorators: one of a [`Node`]'s answers, one ([`Proxy`](proxy::Proxy)) of its connections.

#![allow(dead_code)]

pub mod blocks;
pub mod dispatch;
pub mod extrinsic;
pub mod metadata;
pub mod metagraph;
pub mod proxy;
pub mod rpc;
pub mod storage;
pub mod types;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonrpsee::server::ServerHandle;
use protocol::{Hotkey, Keypair};
use tokio::task::JoinHandle;

use blocks::Blocks;
use metadata::Runtime;
use proxy::Proxy;
use rpc::{Answer, Request, Shared, View};
use storage::*;
use types::{AccountId32, AccountInfo, RuntimeCall};

/// The one subnet there is.
pub const NETUID: u16 = 7;

pub fn account(key: &Keypair) -> AccountId32 {
    AccountId32(key.hotkey().0)
}

/// The coldkey that has all the money.
pub fn rich() -> Keypair {
    Keypair::from_seed(&[200; 32])
}

/// A chain, and blocks for it.
#[derive(Clone, Debug)]
pub struct TestChain {
    pub shared: Arc<Shared>,
}

impl TestChain {
    /// A chain with subnet [`NETUID`], without neurons. Chains of other names have another genesis.
    pub fn new(name: &str) -> Self {
        let mut state = State::default();
        state.0.insert(b"name".to_vec(), name.into());
        state.put(&NETWORKS_ADDED, NETUID, true);
        state.put(&TOTAL_NETWORKS, (), NETUID + 1);
        state.put(&RATE_LIMIT, NETUID, 3);
        state.put(&TEMPO, NETUID, 10);
        state.put(&BURN, NETUID, 1_000);
        state.put(&STAKE_THRESHOLD, (), 1_000);
        let mut money = AccountInfo::default();
        money.data.free = 1_000_000_000_000_000;
        state.put(&ACCOUNT, account(&rich()), money);
        Self { shared: Arc::new(Shared::new(Blocks::new(state))) }
    }

    pub fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.shared.blocks()
    }

    /// Finalizes the best chain and tells the nodes.
    pub fn finalize(&self) {
        self.blocks().finalize();
        self.tell();
    }

    fn tell(&self) {
        let finalized = self.blocks().finalized;
        self.shared.heads.send_replace(finalized);
    }

    /// Makes and finalizes a block.
    pub fn block(&self) {
        self.blocks().make();
        self.finalize();
    }

    /// Includes a call of `key`'s, signed by this node's own code, in a final block.
    pub fn include(&self, key: &Keypair, call: RuntimeCall) {
        let mut blocks = self.blocks();
        let nonce = blocks.next_index(account(key));
        let bytes = extrinsic::signed(key, nonce, call, &blocks.runtime, blocks.chain[0].hash);
        blocks.submit(&bytes).expect("it is well signed");
        drop(blocks);
        self.block();
    }

    /// Registers a hotkey, with `stake` behind it, in the newest block.
    pub fn enroll(&self, key: &Keypair, stake: u64) {
        self.blocks().edit(|state| {
            let uid = state.or_default(&SUBNETWORK_N, NETUID);
            dispatch::enroll(state, NETUID, account(&rich()), account(key), 0);
            state.put(&STAKE, (account(key), NETUID), stake);
            let mut permits = state.or_default(&PERMITS, NETUID);
            permits[usize::from(uid)] = stake > 0;
            state.put(&PERMITS, NETUID, permits);
        });
    }

    /// From the next block on, another runtime.
    pub fn upgrade(&self, runtime: Runtime) {
        self.blocks().runtime = Arc::new(runtime);
    }

    /// The state at the newest block.
    pub fn state(&self) -> Arc<State> {
        self.blocks().best().state.clone()
    }

    /// Makes a final block every `pause` until dropped.
    pub fn running(&self, pause: Duration) -> Running {
        let chain = self.clone();
        Running(tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                chain.block();
            }
        }))
    }

    /// A node of this chain.
    pub async fn node(&self) -> Node {
        self.lagging_node(0).await
    }

    /// A node that does not know the newest `lag` blocks.
    pub async fn lagging_node(&self, lag: u64) -> Node {
        let view = Arc::new(View { shared: self.shared.clone(), lag, fault: Mutex::new(None) });
        let (port, handle) = rpc::serve(view.clone()).await;
        Node { view, _handle: handle, proxy: Arc::new(Proxy::before(port).await) }
    }
}

/// Blocks are made as long as it lives.
#[derive(Debug)]
pub struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A node behind a proxy.
pub struct Node {
    view: Arc<View>,
    pub proxy: Arc<Proxy>,
    _handle: ServerHandle,
}

impl Node {
    pub fn url(&self) -> String {
        self.proxy.url()
    }

    /// From now on answers pass through `fault`.
    pub fn fault(&self, fault: impl Fn(&Request, &dyn Fn() -> Answer) -> Answer + Send + Sync + 'static) {
        *self.view.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(fault));
    }

    /// From now on it is honest.
    pub fn mend(&self) {
        *self.view.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A key for a number.
pub fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

pub fn hotkey(n: u8) -> Hotkey {
    key(n).hotkey()
}
