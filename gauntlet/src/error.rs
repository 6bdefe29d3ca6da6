//! Why a validator stops.

use chain::{ChainError, weights::SubmitError};
use checkpoints::{HomeError, Passing, RunError};
use storage::StorageError;

/// Why a validator stops.
#[derive(Debug, thiserror::Error)]
pub enum ValidatorError {
    /// Following the run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Submitted weights could not be followed.
    #[error("weights: {0}")]
    Weights(#[from] SubmitError),
    /// The validator's own bucket failed.
    #[error("own bucket: {0}")]
    Storage(#[from] StorageError),
    /// The home directory failed.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Measuring failed.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// There is no source of randomness.
    #[error("no randomness from the operating system: {0}")]
    Random(#[from] getrandom::Error),
    /// The tokens failed.
    #[error(transparent)]
    Dataset(#[from] dataset::DatasetError),
}

impl Passing for ValidatorError {
    fn passes(&self) -> bool {
        match self {
            Self::Run(error) => error.passes(),
            Self::Chain(error) | Self::Weights(SubmitError::Chain(error)) => error.passes(),
            Self::Storage(error) => error.passes(),
            Self::Weights(_) | Self::Home(_) | Self::Model(_) | Self::Dataset(_) | Self::Random(_) => false,
        }
    }
}
