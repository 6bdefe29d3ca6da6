//! Why a miner's contribution does not count: every way, typed, public, and without effect on anyone else.

use serde::{Deserialize, Serialize};

/// A reason to refuse one contribution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", content = "detail", rename_all = "kebab-case")]
pub enum Refusal {
    /// The envelope cannot be read or its signature does not hold.
    #[error("envelope: {0}")]
    Envelope(String),
    /// The envelope is signed by another hotkey than the uid's.
    #[error("the envelope is signed by another hotkey than this uid's")]
    WrongSigner,
    /// The envelope is for another run.
    #[error("the envelope is for another run")]
    WrongRun,
    /// The envelope is for another round.
    #[error("the envelope is for another round")]
    WrongRound,
    /// The miner trained from another state.
    #[error("the miner trained from another state")]
    WrongRoot,
    /// The sealed payload has an impossible size.
    #[error("the sealed payload has {found} bytes where this run's have {expected}")]
    WrongSize {
        /// Bytes found or claimed.
        found: u64,
        /// Bytes that the manifest implies.
        expected: u64,
    },
    /// The sealed payload is not the one in the envelope.
    #[error("the sealed payload is not the one in the envelope")]
    SealedDigest,
    /// The key does not open the sealed payload as this miner's.
    #[error("the key does not open the sealed payload as this miner's of this round")]
    Unopenable,
    /// The opened payload is not the one in the envelope.
    #[error("the opened payload is not the one in the envelope")]
    PayloadDigest,
    /// The payload breaks the wire format.
    #[error("malformed payload: {0}")]
    Malformed(String),
    /// The payload names another run, round, owner or base root.
    #[error("the payload names another run, round, owner or base root")]
    WrongOwner,
    /// No sealed payload could be fetched.
    #[error("the sealed payload could not be fetched")]
    Missing,
    /// No key was published in time.
    #[error("the key was not published in time")]
    NotRevealed,
    /// The loss with this payload is not a number.
    #[error("the loss with this payload is not finite")]
    LossNotFinite,
}

impl Refusal {
    /// Whether anyone can recompute the refusal from public bytes; the rest is what one validator saw.
    pub fn is_fact(&self) -> bool {
        !matches!(self, Self::Missing | Self::NotRevealed | Self::LossNotFinite)
    }
}
