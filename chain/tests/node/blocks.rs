//! The chain: a pool, the best chain, and how much of it is final.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parity_scale_codec::{Compact, Encode};
use serde_json::{Value, json};
use sp_crypto_hashing::blake2_256;

use super::dispatch::dispatch;
use super::extrinsic::{self, Extrinsic, Invalid};
use super::metadata::Runtime;
use super::storage::{ACCOUNT, EVENTS, NOW, State};
use super::types::*;

/// Milliseconds from block to block.
const BLOCK_MS: u64 = 12_000;

#[derive(Clone, Debug)]
pub struct Block {
    pub number: u64,
    pub hash: [u8; 32],
    pub parent: [u8; 32],
    pub extrinsics: Vec<Vec<u8>>,
    /// The state after it.
    pub state: Arc<State>,
    /// The runtime that executed it.
    pub runtime: Arc<Runtime>,
}

impl Block {
    fn new(parent: Option<&Block>, extrinsics: Vec<Vec<u8>>, state: State, runtime: Arc<Runtime>) -> Self {
        let (number, parent) = parent.map_or((0, [0; 32]), |parent| (parent.number + 1, parent.hash));
        let mut block = Self { number, hash: [0; 32], parent, extrinsics, state: Arc::new(state), runtime };
        let (state, body) = block.roots();
        block.hash = blake2_256(&(parent, Compact(number), state, body, Vec::<Vec<u8>>::new()).encode());
        block
    }

    /// Hashes that stand for the state and the extrinsics, which no client recomputes.
    fn roots(&self) -> ([u8; 32], [u8; 32]) {
        (blake2_256(&self.state.0.encode()), blake2_256(&self.extrinsics.encode()))
    }

    /// The header, as nodes tell it.
    pub fn header(&self) -> Value {
        let (state, body) = self.roots();
        json!({
            "parentHash": hex(&self.parent), "number": format!("{:#x}", self.number), "stateRoot": hex(&state), "extrinsicsRoot": hex(&body),
            "digest": { "logs": [] },
        })
    }

    fn apply(&mut self) -> &mut State {
        Arc::make_mut(&mut self.state)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    format!("0x{}", ::hex::encode(bytes))
}

/// The chain that one or more nodes serve.
#[derive(Debug)]
pub struct Blocks {
    /// The best chain, from genesis.
    pub chain: Vec<Block>,
    /// The newest final block.
    pub finalized: u64,
    /// Valid extrinsics that no block of the best chain includes.
    pub pool: Vec<Extrinsic>,
    /// The runtime of the next block.
    pub runtime: Arc<Runtime>,
    /// The call data of all that entered the pool.
    pub calls: Vec<Vec<u8>>,
    /// The errors of the next dispatches, whatever they are.
    pub failures: Vec<DispatchError>,
    /// Blocks given up, which makes the times of their successors others.
    retracted: u64,
    /// The time of genesis, in milliseconds since 1970.
    pub genesis_ms: u64,
}

impl Blocks {
    pub fn new(genesis: State) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let runtime = Arc::new(Runtime::default());
        let genesis = Block::new(None, vec![], genesis, runtime.clone());
        Self { chain: vec![genesis], finalized: 0, pool: vec![], runtime, calls: vec![], failures: vec![], retracted: 0, genesis_ms: now }
    }

    pub fn best(&self) -> &Block {
        self.chain.last().expect("it starts with genesis")
    }

    /// Changes the state as of the newest block, as an operator of a test chain may.
    pub fn edit(&mut self, change: impl FnOnce(&mut State)) {
        change(self.chain.last_mut().expect("it starts with genesis").apply());
    }

    pub fn by_hash(&self, hash: &[u8; 32]) -> Option<&Block> {
        self.chain.iter().find(|block| block.hash == *hash)
    }

    fn nonce(&self, account: AccountId32) -> u32 {
        self.best().state.or_default(&ACCOUNT, account).nonce
    }

    /// The nonce of an account's next extrinsic, the pool's counted.
    pub fn next_index(&self, account: AccountId32) -> u32 {
        let waiting: BTreeSet<u32> = self.pool.iter().filter(|x| x.signer == account).map(|x| x.nonce).collect();
        let mut next = self.nonce(account);
        while waiting.contains(&next) {
            next += 1;
        }
        next
    }

    /// Takes an extrinsic into the pool.
    pub fn submit(&mut self, bytes: &[u8]) -> Result<[u8; 32], Refusal> {
        let extrinsic = Extrinsic::decode(bytes, &self.runtime).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if self.pool.iter().any(|known| known.hash == extrinsic.hash) {
            return Err(Refusal::Known);
        }
        self.validate(&extrinsic).map_err(Refusal::Invalid)?;
        if self.pool.iter().any(|other| (other.signer, other.nonce) == (extrinsic.signer, extrinsic.nonce)) {
            return Err(Refusal::LowPriority);
        }
        let hash = extrinsic.hash;
        self.calls.push(extrinsic.call_data.clone());
        self.pool.push(extrinsic);
        Ok(hash)
    }

    fn validate(&self, extrinsic: &Extrinsic) -> Result<(), Invalid> {
        let hash_of = |number: u64| self.chain.get(number as usize).map(|block| block.hash);
        extrinsic.verify(&self.runtime, self.best().number + 1, hash_of)?;
        if extrinsic.nonce < self.nonce(extrinsic.signer) { Err(Invalid::Stale) } else { Ok(()) }
    }

    /// Makes a block upon the best one, of all in the pool whose turn it is.
    pub fn make(&mut self) {
        let (best, runtime) = (self.best(), self.runtime.clone());
        let (number, mut state) = (best.number + 1, State::clone(&best.state));
        let now = self.genesis_ms + number * BLOCK_MS + self.retracted;
        state.put(&NOW, (), now);
        let mut extrinsics = vec![extrinsic::timestamp(now, &runtime)];
        let mut events = vec![event(0, Ok(()))];
        let mut waiting = std::mem::take(&mut self.pool);
        waiting.sort_by_key(|extrinsic| extrinsic.nonce);
        for extrinsic in waiting {
            if self.validate(&extrinsic).is_err() {
                continue;
            }
            let mut account = state.or_default(&ACCOUNT, extrinsic.signer);
            if extrinsic.nonce != account.nonce {
                if extrinsic.nonce > account.nonce {
                    self.pool.push(extrinsic);
                }
                continue;
            }
            account.nonce += 1;
            state.put(&ACCOUNT, extrinsic.signer, account);
            let mut after = state.clone();
            let outcome = match self.failures.pop() {
                Some(failure) => Err(failure),
                None => dispatch(&mut after, extrinsic.signer, extrinsic.call, number),
            };
            if outcome.is_ok() {
                state = after;
            }
            events.push(event(extrinsics.len(), outcome.map_err(|error| shifted(error, runtime.shift))));
            extrinsics.push(extrinsic.bytes);
        }
        put_events(&mut state, events, runtime.shift);
        let block = Block::new(Some(self.best()), extrinsics, state, runtime);
        self.chain.push(block);
    }

    /// Finalizes the best chain.
    pub fn finalize(&mut self) {
        self.finalized = self.best().number;
    }

    /// Gives up the best `count` blocks, none of them final; their extrinsics return to the pool.
    pub fn retract(&mut self, count: usize) {
        assert!(self.chain.len() - count > self.finalized as usize, "final blocks stay");
        let retracted = self.chain.split_off(self.chain.len() - count);
        self.retracted += 1;
        for bytes in retracted.iter().flat_map(|block| &block.extrinsics) {
            self.pool.extend(Extrinsic::decode(bytes, &self.runtime));
        }
    }

    /// Forgets the states of all but the newest `kept` blocks, as nodes do that are no archives.
    pub fn forget(&mut self, kept: usize) {
        let old = self.chain.len().saturating_sub(kept);
        for block in self.chain.iter_mut().take(old).rev().take_while(|block| !block.state.0.is_empty()) {
            block.state = Arc::default();
        }
    }
}

fn event(index: usize, outcome: Result<(), DispatchError>) -> EventRecord {
    let dispatch_info = DispatchEventInfo::default();
    let event = match outcome {
        Ok(()) => SystemEvent::ExtrinsicSuccess { dispatch_info },
        Err(dispatch_error) => SystemEvent::ExtrinsicFailed { dispatch_error, dispatch_info },
    };
    EventRecord { phase: Phase::ApplyExtrinsic(index as u32), event: RuntimeEvent::System(event), topics: vec![] }
}

fn shifted(error: DispatchError, shift: u8) -> DispatchError {
    match error {
        DispatchError::Module(error) => DispatchError::Module(ModuleError { index: error.index + shift, ..error }),
        other => other,
    }
}

/// Writes a block's events, their pallets' indices shifted.
fn put_events(state: &mut State, events: Vec<EventRecord>, shift: u8) {
    let mut bytes = Compact(events.len() as u32).encode();
    for event in events {
        let mut event = event.encode();
        // after the phase (variant and index, 5 bytes) comes the pallet
        event[5] += shift;
        bytes.extend(event);
    }
    state.0.insert(EVENTS.key(&()), bytes);
}

/// Why the pool does not take an extrinsic.
#[derive(Debug)]
pub enum Refusal {
    Malformed(String),
    Invalid(Invalid),
    Known,
    LowPriority,
}

impl Refusal {
    /// JSON-RPC's code, message and data, as real nodes have them.
    pub fn told(&self) -> (i32, &'static str, String) {
        match self {
            Self::Malformed(reason) => (1002, "Verification Error: Runtime error: Execution failed", reason.clone()),
            Self::Invalid(reason) => (1010, "Invalid Transaction", reason.words().into()),
            Self::Known => (1013, "Transaction Already Imported", hex(&[])),
            Self::LowPriority => (
                1014,
                "Priority is too low: (1 vs 1)",
                "The transaction has too low priority to replace another transaction already in the pool.".into(),
            ),
        }
    }
}
