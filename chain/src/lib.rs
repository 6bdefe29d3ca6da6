#![doc = include_str!("../README.md")]

pub mod emission;
mod error;
mod http;
pub mod ledger;
pub mod schedule;
pub mod simulation;
pub mod subtensor;
pub mod timelock;
pub mod wallet;
pub mod weights;
pub mod yuma;

use std::{ops::RangeInclusive, path::Path, sync::Arc};

use async_trait::async_trait;
use protocol::{Digest, Hotkey, Keypair};
use serde::{Deserialize, Serialize};

pub use error::ChainError;
pub use http::{HttpLedger, serve};
pub use ledger::{Blocks, Burn, Ledger, LedgerConfig, LedgerError};
pub use subtensor::Subtensor;
pub use wallet::{Phrase, Wallet, WalletError};

/// The most bytes of one commitment.
pub const MAX_COMMITMENT: usize = 256;
/// The most bytes of a bucket's address. A chain may take fewer.
pub const MAX_BUCKET_URL: usize = 512;
/// The smallest unit of currency: 10⁹ rao are one TAO.
pub const RAO_PER_TAO: u64 = 1_000_000_000;
/// All the rao that can ever be: 21 million TAO.
pub const MAX_SUPPLY: u64 = 21_000_000 * RAO_PER_TAO;

/// A finalized block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Height; genesis is 0.
    pub number: u64,
    /// Hash, which binds everything before it.
    pub hash: Digest,
    /// The block's own time, in milliseconds since 1970.
    pub time_ms: u64,
}

/// A uid's standing at some block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neuron {
    /// Number within the subnet.
    pub uid: u16,
    /// The key that acts.
    pub hotkey: Hotkey,
    /// The key that owns.
    pub coldkey: Hotkey,
    /// Stake, in rao.
    pub stake: u64,
    /// Whether it may set weights.
    pub permit: bool,
    /// Block of registration.
    pub registered: u64,
    /// Block of its newest weights, or of registration.
    pub last_update: u64,
    /// Share of the miners' pay, of 65,535.
    pub incentive: u16,
    /// Share of the validators' pay, of 65,535.
    pub dividends: u16,
    /// Earned, in rao; over what time, [`Subnet::earnings`] says.
    pub emission: u64,
}

/// Bytes a hotkey put on the chain, in the chain's order: block, then index within the block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment {
    /// Block that includes it.
    pub block: u64,
    /// Position among the block's calls.
    pub index: u32,
    /// Who committed.
    pub hotkey: Hotkey,
    /// 1 to [`MAX_COMMITMENT`] bytes.
    #[serde(with = "hex::serde")]
    pub data: Vec<u8>,
}

/// A subnet's parameters that roles need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its number.
    pub netuid: u16,
    /// The owner's hotkey, which has uid 0 on the ledger.
    pub owner: Hotkey,
    /// Blocks from epoch to epoch.
    pub tempo: u64,
    /// Blocks between two weight settings of one uid.
    pub weights_rate_limit: u64,
    /// Newest block whose end was an epoch; 0 before the first.
    pub last_epoch: u64,
    /// Stake below which a neuron counts as having none, in rao.
    pub stake_threshold: u64,
    /// How many uids may hold a permit (the owner's comes on top).
    pub max_validators: u16,
    /// What calls that set weights must name; 0 asks for nothing.
    pub version_key: u64,
    /// The fewest entries of a row of weights.
    pub min_allowed_weights: u16,
    /// The largest share of a row that one entry may have, of 65,535.
    pub max_weight_limit: u16,
    /// Blocks after its registration in which a uid is not replaced.
    pub immunity_period: u64,
    /// What a registration costs now, in rao.
    pub burn: u64,
    /// What neurons' `emission` counts.
    pub earnings: Earnings,
    /// How weights must be hidden at first; `None` where they are set in the open.
    pub commit_reveal: Option<CommitReveal>,
}

/// What a chain counts as a neuron's `emission`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Earnings {
    /// TAO since registration.
    Total,
    /// The subnet's alpha by the newest epoch: Subtensor keeps no total.
    NewestEpoch,
}

impl Earnings {
    /// A column's title for earnings in the currency's unit.
    pub fn title(self) -> &'static str {
        match self {
            Self::Total => "earned TAO",
            Self::NewestEpoch => "epoch's alpha",
        }
    }
}

/// A subnet's rule for weights that are committed first and revealed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReveal {
    /// Version of the timelocked form that the chain takes: 4, or 3 on older runtimes; `None` if it takes hashes only.
    pub timelocked: Option<u16>,
    /// Epochs from commit to reveal.
    pub period: u64,
}

/// A chain as the roles see it: finalized blocks, neurons, small public bytes, weights.
///
/// What is submitted while the head is n is included in block n + 1 at the earliest, and reads show it once the head has reached that block.
#[async_trait]
pub trait Chain: Send + Sync + std::fmt::Debug {
    /// Hash of block 0.
    async fn genesis(&self) -> Result<Digest, ChainError>;

    /// The newest finalized block.
    async fn head(&self) -> Result<Block, ChainError>;

    /// Block `number`; `None` if it is not there yet.
    async fn block(&self, number: u64) -> Result<Option<Block>, ChainError>;

    /// Waits until the head's number exceeds `after` and returns the head. Safe to cancel.
    async fn next_block(&self, after: u64) -> Result<Block, ChainError>;

    /// A subnet's parameters now.
    async fn subnet(&self, netuid: u16) -> Result<Subnet, ChainError>;

    /// The neurons as of the end of block `at`, by uid.
    async fn neurons(&self, netuid: u16, at: u64) -> Result<Vec<Neuron>, ChainError>;

    /// Publishes where the signer's objects are read (at most [`MAX_BUCKET_URL`] bytes); replaces the earlier address.
    async fn set_bucket(&self, signer: &Keypair, netuid: u16, url: &str) -> Result<(), ChainError>;

    /// Every hotkey's newest bucket address, by hotkey.
    async fn buckets(&self, netuid: u16) -> Result<Vec<(Hotkey, String)>, ChainError>;

    /// Puts 1 to [`MAX_COMMITMENT`] bytes on the chain. The same bytes by the same key are stored once, in their first place.
    async fn commit(&self, signer: &Keypair, netuid: u16, data: &[u8]) -> Result<(), ChainError>;

    /// The commitments included in `blocks`, in the chain's order.
    async fn commitments(&self, netuid: u16, blocks: RangeInclusive<u64>) -> Result<Vec<Commitment>, ChainError>;

    /// What `account` holds and has not staked, in rao.
    async fn balance(&self, account: Hotkey) -> Result<u64, ChainError>;

    /// Gives `hotkey` a uid, at the price of the subnet's burn, and returns it; returns the uid it has where it is registered.
    async fn burned_register(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey) -> Result<u16, ChainError>;

    /// Moves `rao` from the coldkey's balance to a stake behind `hotkey`.
    async fn add_stake(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey, rao: u64) -> Result<(), ChainError>;

    /// Sets the signer's row of weights in the open, as (uid, weight).
    async fn set_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<(), ChainError>;

    /// Commits to a row of weights by its hash (`weights::commitment`), to be revealed `commit_reveal.period` epochs later.
    async fn commit_weights(&self, signer: &Keypair, netuid: u16, commitment: Digest) -> Result<(), ChainError>;

    /// Reveals the row and salt of an earlier commit, in the epoch that is due.
    async fn reveal_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)], salt: &[u16]) -> Result<(), ChainError>;

    /// Commits to a row of weights that the chain itself decrypts and sets, at about the block that is returned.
    async fn commit_timelocked_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<u64, ChainError>;

    /// The newest row that `uid` set (once it is revealed); empty if none.
    async fn weights(&self, netuid: u16, uid: u16) -> Result<Vec<(u16, u16)>, ChainError>;
}

/// Opens the chain that `url` names: `ledger:///absolute/path.sqlite` or `ledger:path.sqlite` (the path as it is, nothing decoded),
/// `http://host:port` or `https://host` of a ledger that is served, or Subtensor's nodes, `ws://` or `wss://`, separated by commas.
///
/// # Errors
/// [`ChainError::Url`] for anything else, and what [`Ledger::open`], [`HttpLedger::open`] and [`Subtensor::open`] say.
pub async fn open(url: &str) -> Result<Arc<dyn Chain>, ChainError> {
    if url.starts_with("ws://") || url.starts_with("wss://") {
        return Ok(Arc::new(Subtensor::open(url).await?));
    }
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(Arc::new(HttpLedger::open(url).await?));
    }
    let rest = url.strip_prefix("ledger:").ok_or_else(|| ChainError::Url(url.to_owned()))?;
    // after `//` comes a host in any other URL, so only an absolute path may follow here
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err(ChainError::Url(url.to_owned())),
        None if rest.is_empty() => return Err(ChainError::Url(url.to_owned())),
        None => rest,
    };
    Ok(Arc::new(Ledger::open(Path::new(path))?))
}
