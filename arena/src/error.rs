//! Why a bout cannot be held.

use chain::ChainError;
use checkpoints::RunError;
use compression::{EncodeError, LayoutError};
use model::ModelError;
use storage::StorageError;

/// Why a bout ends early.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// A setup that nothing can come of.
    #[error("{0}")]
    Setup(String),
    /// No strategy of this name.
    #[error("{0:?} is not a strategy; known are {known}", known = crate::strategies::NAMES.join(", "))]
    UnknownStrategy(String),
    /// The bout's folder failed.
    #[error("the arena's folder: {0}")]
    Io(#[from] std::io::Error),
    /// The config is refused.
    #[error(transparent)]
    Config(#[from] protocol::ConfigError),
    /// The tokens failed.
    #[error(transparent)]
    Dataset(#[from] dataset::DatasetError),
    /// The ledger failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A bucket failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Following the run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Training or measuring failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A pseudo-gradient could not be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Tensors of another model.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A payload that a strategy made and cannot read.
    #[error(transparent)]
    Payload(#[from] compression::PayloadError),
    /// A validator stopped by itself.
    #[error("validator {number} stopped: {problem}")]
    Validator {
        /// Its place in the setup, from 0.
        number: usize,
        /// Why.
        problem: String,
    },
    /// No record comes.
    #[error("round {round} has no record after {blocks} blocks; the validators said: {}", said.join("; "))]
    Stuck {
        /// The round.
        round: u64,
        /// Blocks since the record before.
        blocks: u64,
        /// The validators' newest warnings.
        said: Vec<String>,
    },
}

impl ArenaError {
    /// Whether it is only a miner's own numbers that went astray: it costs that miner the round.
    pub(crate) fn is_numeric(&self) -> bool {
        matches!(self, Self::Model(ModelError::NonFinite { .. }) | Self::Encode(EncodeError::NonFinite(_)))
    }
}
