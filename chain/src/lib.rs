#![doc = include_str!("../README.md")]

pub mod emission;
mod error;
pub mod ledger;
pub mod wallet;
pub mod yuma;

use std::{ops::RangeInclusive, path::Path, sync::Arc};

use async_trait::async_trait;
use protocol::{Digest, Hotkey, Keypair};

pub use error::ChainError;
pub use ledger::{Blocks, Ledger, LedgerConfig, LedgerError};
pub use wallet::{Phrase, Wallet, WalletError};

/// The most bytes of one commitment.
pub const MAX_COMMITMENT: usize = 256;
/// The most bytes of a bucket's address.
pub const MAX_BUCKET_URL: usize = 512;
/// The smallest unit of currency: 10⁹ rao are one TAO.
pub const RAO_PER_TAO: u64 = 1_000_000_000;
/// All the rao that can ever be: 21 million TAO.
pub const MAX_SUPPLY: u64 = 21_000_000 * RAO_PER_TAO;

/// A finalized block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Height; genesis is 0.
    pub number: u64,
    /// Hash, which binds everything before it.
    pub hash: Digest,
    /// The block's own time, in milliseconds since 1970.
    pub time_ms: u64,
}

/// A uid's standing at some block.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Earned in total, in rao.
    pub emission: u64,
}

/// Bytes a hotkey put on the chain, in the chain's order: block, then index within the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commitment {
    /// Block that includes it.
    pub block: u64,
    /// Position among the block's calls.
    pub index: u32,
    /// Who committed.
    pub hotkey: Hotkey,
    /// 1 to [`MAX_COMMITMENT`] bytes.
    pub data: Vec<u8>,
}

/// A subnet's parameters that roles need.
#[derive(Clone, Debug, PartialEq, Eq)]
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

    /// Sets the signer's row of weights, as (uid, weight).
    async fn set_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<(), ChainError>;

    /// The newest row that `uid` set; empty if none.
    async fn weights(&self, netuid: u16, uid: u16) -> Result<Vec<(u16, u16)>, ChainError>;
}

/// Opens the chain that `url` names: `ledger:///absolute/path.sqlite` or `ledger:path.sqlite` (the path as it is, nothing decoded).
///
/// # Errors
/// [`ChainError::SubtensorUnsupported`] for `ws://` and `wss://`, [`ChainError::Url`] for anything else, and what [`Ledger::open`] says.
pub async fn open(url: &str) -> Result<Arc<dyn Chain>, ChainError> {
    if url.starts_with("ws://") || url.starts_with("wss://") {
        return Err(ChainError::SubtensorUnsupported(url.to_owned()));
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
