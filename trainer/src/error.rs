//! Why a miner stops.

use checkpoints::{HomeError, Passing, RunError};
use kernels::KernelError;

/// Why a miner stops.
#[derive(Debug, thiserror::Error)]
pub enum MinerError {
    /// Following the run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Training failed.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// The tokens failed.
    #[error(transparent)]
    Dataset(#[from] dataset::DatasetError),
    /// The pseudo-gradient could not be encoded.
    #[error(transparent)]
    Encode(#[from] compression::EncodeError),
    /// A GPU failed to encode.
    #[error(transparent)]
    Kernels(KernelError),
    /// No randomness for a payload key.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

impl From<HomeError> for MinerError {
    fn from(error: HomeError) -> Self {
        RunError::from(error).into()
    }
}

impl From<KernelError> for MinerError {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::Encode(error) => error.into(),
            error => Self::Kernels(error),
        }
    }
}

impl Passing for MinerError {
    fn passes(&self) -> bool {
        matches!(self, Self::Run(error) if error.passes())
    }
}
