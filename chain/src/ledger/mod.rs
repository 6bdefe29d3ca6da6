//! The embedded chain: one SQLite file, shared by the processes of one machine.

mod accounts;
pub(crate) mod action;
mod blocks;
mod burn;
pub(crate) mod calls;
pub(crate) mod commitments;
mod config;
mod db;
mod epoch;
mod error;
mod lockstep;
mod neurons;
mod process;
mod weights;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use protocol::{Digest, Hotkey, Keypair};

use action::{Action, VersionedRow};
pub use burn::Burn;
use calls::Call;
use commitments::Page;
pub use config::{Blocks, LedgerConfig, VIRTUAL_BLOCK_MS};
use db::{Db, FORMAT, Tx};
use error::Fault;
pub use error::LedgerError;
use lockstep::{Look, Seen, Waiting};

use crate::{Block, Chain, ChainError, CommitReveal, Commitment, Earnings, Neuron, Subnet};

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

    /// Gives `hotkey` a uid from the next block on, or returns the uid it has. The operator's: it costs nothing.
    ///
    /// # Errors
    /// [`ChainError::NonAssociatedColdKey`] if another coldkey registered it before, [`ChainError::NoNeuronIdAvailable`] if only the owner's
    /// uid exists and can exist.
    pub fn enroll(&self, netuid: u16, hotkey: Hotkey, coldkey: Hotkey) -> Result<u16, ChainError> {
        let uid = self.operate(netuid, &Action::Register { hotkey, coldkey })?;
        uid.ok_or(ChainError::NoNeuronIdAvailable(self.config.max_uids))
    }

    /// Mints `rao` and stakes it behind a neuron, in its coldkey's name, from the next block on. Until the first epoch has run, permits follow at
    /// once; later each epoch gives them.
    ///
    /// # Errors
    /// [`ChainError::HotKeyNotRegisteredInSubNet`], or [`ChainError::StakeTooLarge`] beyond the currency's supply.
    pub fn endow(&self, netuid: u16, hotkey: Hotkey, rao: u64) -> Result<(), ChainError> {
        self.operate(netuid, &Action::Endow { hotkey, rao }).map(drop)
    }

    /// Mints `rao` for `coldkey` from the next block on.
    ///
    /// # Errors
    /// [`ChainError::StakeTooLarge`] if the balance would exceed the currency's supply.
    pub fn fund(&self, coldkey: Hotkey, rao: u64) -> Result<(), ChainError> {
        self.operate(self.config.netuid, &Action::Fund { coldkey, rao }).map(drop)
    }

    fn operate(&self, netuid: u16, action: &Action) -> Result<Option<u16>, ChainError> {
        self.check(netuid)?;
        lock(&self.db).write(|tx| tx.operate(action))
    }

    /// Moves `rao` of the coldkey's stake behind `hotkey` back to its balance.
    ///
    /// # Errors
    /// [`ChainError::NotEnoughStakeToWithdraw`], or [`ChainError::AmountTooLow`] for nothing.
    pub async fn remove_stake(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey, rao: u64) -> Result<(), ChainError> {
        self.submit(coldkey, netuid, Action::RemoveStake { hotkey, rao }).await.map(drop)
    }

    /// The coldkeys that stake behind `hotkey` and how much each does, in rao, by coldkey.
    ///
    /// # Errors
    /// SQLite's reason.
    pub async fn stakers(&self, netuid: u16, hotkey: Hotkey) -> Result<Vec<(Hotkey, u64)>, ChainError> {
        self.check(netuid)?;
        self.read(move |tx| tx.stakers(&hotkey, tx.head.number)).await
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

    /// Signs `action` for the next block and applies it; the uid, where it asks for one.
    async fn submit(&self, signer: &Keypair, netuid: u16, action: Action) -> Result<Option<u16>, ChainError> {
        self.check(netuid)?;
        let signer = signer.clone();
        self.run(move |db| db.write(|tx| tx.submit(&signer, &action))).await
    }

    /// Applies a call that came signed from elsewhere.
    pub(crate) async fn apply(&self, call: Call) -> Result<Option<u16>, ChainError> {
        self.run(move |db| db.write(|tx| tx.apply(&call))).await
    }

    /// One page of commitments.
    pub(crate) async fn commitments_page(&self, netuid: u16, page: Page) -> Result<Vec<Commitment>, ChainError> {
        self.check(netuid)?;
        self.read(move |tx| tx.commitments(page)).await
    }

    fn row(&self, weights: &[(u16, u16)]) -> VersionedRow {
        VersionedRow { version_key: self.config.version_key, weights: weights.to_vec() }
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
        let (head, burn) = self.read(|tx| Ok((tx.head.number, tx.burn()?))).await?;
        let config = &self.config;
        Ok(Subnet {
            netuid,
            owner: config.owner,
            tempo: config.tempo,
            weights_rate_limit: config.weights_rate_limit,
            last_epoch: head - head % config.tempo,
            stake_threshold: config.yuma.stake_threshold,
            max_validators: config.yuma.max_validators,
            version_key: config.version_key,
            min_allowed_weights: config.min_allowed_weights,
            max_weight_limit: config.max_weight_limit,
            immunity_period: config.immunity_period,
            burn,
            earnings: Earnings::Total,
            commit_reveal: config.reveal_period.map(|period| CommitReveal { timelocked: None, period }),
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
        self.submit(signer, netuid, Action::Bucket(url.to_owned())).await.map(drop)
    }

    async fn buckets(&self, netuid: u16) -> Result<Vec<(Hotkey, String)>, ChainError> {
        self.check(netuid)?;
        self.read(|tx| tx.buckets()).await
    }

    async fn commit(&self, signer: &Keypair, netuid: u16, data: &[u8]) -> Result<(), ChainError> {
        self.submit(signer, netuid, Action::Commit(data.to_vec())).await.map(drop)
    }

    async fn commitments(&self, netuid: u16, blocks: RangeInclusive<u64>) -> Result<Vec<Commitment>, ChainError> {
        self.commitments_page(netuid, Page { start: (*blocks.start(), 0), end: *blocks.end(), limit: u32::MAX }).await
    }

    async fn balance(&self, account: Hotkey) -> Result<u64, ChainError> {
        self.read(move |tx| tx.balance(&account, tx.head.number)).await
    }

    async fn burned_register(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey) -> Result<u16, ChainError> {
        let uid = self.submit(coldkey, netuid, Action::BurnedRegister { hotkey }).await?;
        uid.ok_or(ChainError::NoNeuronIdAvailable(self.config.max_uids))
    }

    async fn add_stake(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey, rao: u64) -> Result<(), ChainError> {
        self.submit(coldkey, netuid, Action::AddStake { hotkey, rao }).await.map(drop)
    }

    async fn set_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<(), ChainError> {
        self.submit(signer, netuid, Action::Weights(self.row(weights))).await.map(drop)
    }

    async fn commit_weights(&self, signer: &Keypair, netuid: u16, commitment: Digest) -> Result<(), ChainError> {
        self.submit(signer, netuid, Action::CommitWeights(commitment)).await.map(drop)
    }

    async fn reveal_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)], salt: &[u16]) -> Result<(), ChainError> {
        self.submit(signer, netuid, Action::RevealWeights { row: self.row(weights), salt: salt.to_vec() }).await.map(drop)
    }

    async fn commit_timelocked_weights(&self, _: &Keypair, _: u16, _: &[(u16, u16)]) -> Result<u64, ChainError> {
        Err(ChainError::NotInThisRuntime { what: "commit_timelocked_weights".into(), runtime: "embedded ledger".into() })
    }

    async fn weights(&self, netuid: u16, uid: u16) -> Result<Vec<(u16, u16)>, ChainError> {
        self.check(netuid)?;
        self.read(move |tx| tx.neuron_at(uid)?.map_or_else(|| Ok(Vec::new()), |neuron| tx.weights_of(&neuron))).await
    }
}
