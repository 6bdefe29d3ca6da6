//! Why a miner stops.

use chain::ChainError;
use checkpoints::{HomeError, RunError};
use storage::StorageError;

/// Why a miner stops.
#[derive(Debug, thiserror::Error)]
pub enum MinerError {
    /// The hotkey has no uid.
    #[error("{hotkey} is not registered on subnet {netuid}; register it with `tributary chain register`")]
    NotRegistered {
        /// The miner's address.
        hotkey: String,
        /// The subnet.
        netuid: u16,
    },
    /// The data set at hand is not the run's.
    #[error("the data set has digest {found}, the run trains on {expected}; fetch the run's own with --data")]
    WrongData {
        /// Digest of the data set at hand.
        found: protocol::Digest,
        /// The manifest's.
        expected: protocol::Digest,
    },
    /// Following the run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The miner's own bucket failed.
    #[error("own bucket: {0}")]
    Storage(#[from] StorageError),
    /// The home directory failed.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Training failed.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// The tokens failed.
    #[error(transparent)]
    Dataset(#[from] dataset::DatasetError),
    /// The pseudo-gradient could not be encoded.
    #[error(transparent)]
    Encode(#[from] compression::EncodeError),
    /// No randomness for a payload key.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}
