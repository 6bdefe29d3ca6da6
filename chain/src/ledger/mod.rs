//! The embedded chain: one SQLite file, shared by the processes of one machine.

mod blocks;
mod calls;
mod config;
mod db;
mod epoch;
mod error;
mod lockstep;
mod neurons;
mod process;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use protocol::{Digest, Hotkey, Keypair};

pub use config::{Blocks, LedgerConfig, VIRTUAL_BLOCK_MS};
use db::{Db, FORMAT, Tx};
use error::Fault;
pub use error::LedgerError;
use lockstep::{Look, Seen, Waiting};

use crate::{Block, Chain, ChainError, Commitment, Neuron, Subnet};

/// A chain in an SQLite file.
///
/// The [`Chain`] methods leave the async threads alone; the inherent ones block for the length of one small transaction. An
/// instance that never [joins](Ledger::join) only observes.
#[derive(Debug)]
pub struct Ledger {
    db: Arc<Mutex<Db>>,
    config: LedgerConfig,
    genesis: Digest,
}

fn lock(db: &Mutex<Db>) -> MutexGuard<'_, Db> {
    // a panic rolled its transaction back, so the connection is sound
    db.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    fn new(db: Db) -> Self {
        Self { config: db.config.clone(), genesis: db.genesis, db: Arc::new(Mutex::new(db)) }
    }

    /// Creates the ledger `config` describes, with its owner as uid 0, or opens the file if it already holds exactly that one.
    ///
    /// # Errors
    /// [`LedgerError::OtherGenesis`] if it holds another, [`LedgerError::Config`] for impossible parameters, or SQLite's reason.
    pub fn create(path: &Path, config: &LedgerConfig) -> Result<Self, ChainError> {
        Db::create(path, config).map(Self::new)
    }

    /// Opens an existing ledger.
    ///
    /// # Errors
    /// [`LedgerError`] if there is none, if the file is something else or of another format, or SQLite's reason.
    pub fn open(path: &Path) -> Result<Self, ChainError> {
        Db::open(path).map(Self::new)
    }

    /// What it was created with.
    pub fn config(&self) -> &LedgerConfig {
        &self.config
    }

    /// Gives `hotkey` the next uid from the next block on, or returns the uid it has.
    ///
    /// # Errors
    /// [`ChainError::NoNeuronIdAvailable`] if the subnet is full.
    pub fn enroll(&self, netuid: u16, hotkey: Hotkey, coldkey: Hotkey) -> Result<u16, ChainError> {
        self.check(netuid)?;
        lock(&self.db).write(|tx| tx.register(hotkey, coldkey))
    }

    /// Adds `rao` to a neuron's stake from the next block on. Until the first epoch has run, permits follow at once; later each epoch gives them.
    ///
    /// # Errors
    /// [`ChainError::HotKeyNotRegisteredInSubNet`], or [`ChainError::StakeTooLarge`] beyond the currency's supply.
    pub fn endow(&self, netuid: u16, hotkey: Hotkey, rao: u64) -> Result<(), ChainError> {
        self.check(netuid)?;
        lock(&self.db).write(|tx| tx.add_stake(hotkey, rao))
    }

    /// Makes `blocks` blocks at once and returns the head.
    ///
    /// # Errors
    /// [`LedgerError::NotManual`] unless created with [`Blocks::Manual`].
    pub fn advance(&self, blocks: u64) -> Result<Block, ChainError> {
        if self.config.blocks != Blocks::Manual {
            return Err(LedgerError::NotManual.into());
        }
        lock(&self.db).write(|tx| {
            tx.produce_until(tx.head.number.saturating_add(blocks))?;
            Ok(tx.head)
        })
    }

    /// Takes part in lockstep as `name`, until [`leave`](Ledger::leave), drop or the process's end: from now on blocks appear only
    /// while this instance has a pending [`next_block`](Chain::next_block). A dead process's name may be taken over. Without effect on blocks of other kinds.
    ///
    /// # Errors
    /// [`LedgerError::NameTaken`] if a live process has the name.
    pub fn join(&self, name: &str) -> Result<(), ChainError> {
        lock(&self.db).join(name)
    }

    /// Stops taking part in lockstep.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn leave(&self) -> Result<(), ChainError> {
        lock(&self.db).leave()
    }

    /// Holds all blocks in lockstep until each of `names` has joined or was [withdrawn](Ledger::withdraw), or this process ended.
    /// A name that a live process holds is left alone; one whose process died is waited for anew.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn expect(&self, names: &[&str]) -> Result<(), ChainError> {
        lock(&self.db).expect(names)
    }

    /// Stops waiting for `name` in lockstep, whether it has joined or is only expected.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn withdraw(&self, name: &str) -> Result<(), ChainError> {
        lock(&self.db).withdraw(name)
    }

    /// Recomputes every block's hash and verifies every call's signature.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] names the first block that is wrong.
    pub fn audit(&self) -> Result<(), ChainError> {
        lock(&self.db).read(|tx| tx.audit())
    }

    fn check(&self, netuid: u16) -> Result<(), ChainError> {
        if netuid == self.config.netuid { Ok(()) } else { Err(ChainError::SubnetNotExists(netuid)) }
    }

    /// Runs `f` on the connection, away from the async threads.
    async fn run<T: Send + 'static>(&self, f: impl FnOnce(&mut Db) -> Result<T, ChainError> + Send + 'static) -> Result<T, ChainError> {
        let db = self.db.clone();
        match tokio::task::spawn_blocking(move || f(&mut lock(&db))).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(LedgerError::Stopped.into()),
            },
        }
    }

    async fn read<T: Send + 'static>(&self, f: impl FnOnce(&Tx<'_>) -> Result<T, Fault> + Send + 'static) -> Result<T, ChainError> {
        self.run(|db| db.read(f)).await
    }

    async fn write(&self, netuid: u16, f: impl FnOnce(&mut Tx<'_>) -> Result<(), Fault> + Send + 'static) -> Result<(), ChainError> {
        self.check(netuid)?;
        self.run(|db| db.write(f)).await
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Err(error) = lock(&self.db).leave() {
            tracing::warn!(%error, "the ledger counts this process as a participant until it ends");
        }
    }
}

#[async_trait]
impl Chain for Ledger {
    async fn genesis(&self) -> Result<Digest, ChainError> {
        Ok(self.genesis)
    }

    async fn head(&self) -> Result<Block, ChainError> {
        self.read(|tx| Ok(tx.head)).await
    }

    async fn block(&self, number: u64) -> Result<Option<Block>, ChainError> {
        self.read(move |tx| tx.block(number)).await
    }

    async fn next_block(&self, after: u64) -> Result<Block, ChainError> {
        let waiting = Waiting::new(&self.db);
        let mut seen = Seen::default();
        loop {
            let call = waiting.call();
            let (look, looked) = self.run(move |db| db.poll(after, &call, &mut seen).map(|look| (look, seen))).await?;
            seen = looked;
            match look {
                Look::Found(block) => return Ok(block),
                Look::Again(pause) => tokio::time::sleep(pause).await,
            }
        }
    }

    async fn subnet(&self, netuid: u16) -> Result<Subnet, ChainError> {
        self.check(netuid)?;
        let head = self.head().await?.number;
        let config = &self.config;
        Ok(Subnet {
            netuid,
            owner: config.owner,
            tempo: config.tempo,
            weights_rate_limit: config.weights_rate_limit,
            last_epoch: head - head % config.tempo,
            stake_threshold: config.yuma.stake_threshold,
            max_validators: config.yuma.max_validators,
            version_key: 0,
            min_allowed_weights: 1,
            max_weight_limit: u16::MAX,
            immunity_period: 0,
            burn: 0,
            commit_reveal: None,
        })
    }

    async fn neurons(&self, netuid: u16, at: u64) -> Result<Vec<Neuron>, ChainError> {
        self.check(netuid)?;
        self.read(move |tx| {
            let head = tx.head.number;
            if at > head { Err(ChainError::FutureBlock { block: at, head }.into()) } else { tx.neurons(at) }
        })
        .await
    }

    async fn set_bucket(&self, signer: &Keypair, netuid: u16, url: &str) -> Result<(), ChainError> {
        let (signer, url) = (signer.clone(), url.to_owned());
        self.write(netuid, move |tx| tx.set_bucket(&signer, &url)).await
    }

    async fn buckets(&self, netuid: u16) -> Result<Vec<(Hotkey, String)>, ChainError> {
        self.check(netuid)?;
        self.read(|tx| tx.buckets()).await
    }

    async fn commit(&self, signer: &Keypair, netuid: u16, data: &[u8]) -> Result<(), ChainError> {
        let (signer, data) = (signer.clone(), data.to_vec());
        self.write(netuid, move |tx| tx.commit(&signer, &data)).await
    }

    async fn commitments(&self, netuid: u16, blocks: RangeInclusive<u64>) -> Result<Vec<Commitment>, ChainError> {
        self.check(netuid)?;
        self.read(move |tx| tx.commitments(&blocks)).await
    }

    async fn set_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<(), ChainError> {
        let (signer, weights) = (signer.clone(), weights.to_vec());
        self.write(netuid, move |tx| tx.set_weights(&signer, &weights)).await
    }

    async fn balance(&self, _: Hotkey) -> Result<u64, ChainError> {
        Err(unsupported("balance"))
    }

    async fn burned_register(&self, _: &Keypair, _: u16, _: Hotkey) -> Result<u16, ChainError> {
        Err(unsupported("burned_register"))
    }

    async fn add_stake(&self, _: &Keypair, _: u16, _: Hotkey, _: u64) -> Result<(), ChainError> {
        Err(unsupported("add_stake"))
    }

    async fn commit_weights(&self, _: &Keypair, _: u16, _: Digest) -> Result<(), ChainError> {
        Err(unsupported("commit_weights"))
    }

    async fn reveal_weights(&self, _: &Keypair, _: u16, _: &[(u16, u16)], _: &[u16]) -> Result<(), ChainError> {
        Err(unsupported("reveal_weights"))
    }

    async fn commit_timelocked_weights(&self, _: &Keypair, _: u16, _: &[(u16, u16)]) -> Result<u64, ChainError> {
        Err(unsupported("commit_timelocked_weights"))
    }

    async fn weights(&self, netuid: u16, uid: u16) -> Result<Vec<(u16, u16)>, ChainError> {
        self.check(netuid)?;
        self.read(move |tx| tx.hotkey_of(uid)?.map_or_else(|| Ok(Vec::new()), |hotkey| tx.weights_of(&hotkey))).await
    }
}

fn unsupported(call: &str) -> ChainError {
    ChainError::NotInThisRuntime { what: call.into(), runtime: "embedded ledger".into() }
}
