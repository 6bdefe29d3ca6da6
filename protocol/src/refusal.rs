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
    #[error("the sealed payload has {found} bytes where this run's have {least} to {most}")]
    WrongSize {
        /// Bytes found or claimed.
        found: u64,
        /// The fewest that the manifest allows.
        least: u64,
        /// The most that the manifest allows.
        most: u64,
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
    /// The payload's norm is far beyond the round's median.
    #[error("the payload's norm is {percent} % of the round's median norm")]
    Outlier {
        /// Its norm, in percent of the median.
        percent: u32,
    },
    /// The payload is another one, changed or not.
    #[error("the payload has {percent} % of its positions in common with uid {uid}'s of round {round}")]
    Copy {
        /// Whose it is.
        uid: u16,
        /// Of which round.
        round: u64,
        /// The share of positions in common, in percent.
        percent: u32,
    },
    /// The loss with this payload is not a number.
    #[error("the loss with this payload is not finite")]
    LossNotFinite,
}

impl Refusal {
    /// Whether the envelope alone shows it: a replica recomputes these from the seal list.
    pub fn is_of_envelope(&self) -> bool {
        use Refusal::{Envelope, WrongRoot, WrongRound, WrongRun, WrongSigner, WrongSize};
        matches!(self, Envelope(_) | WrongSigner | WrongRun | WrongRound | WrongRoot | WrongSize { .. })
    }

    /// Whether it holds for everyone: it follows from bytes whose hash the seal list fixes. The rest is testimony, since a
    /// bucket can give each reader other bytes, or none.
    pub fn is_fact(&self) -> bool {
        self.is_of_envelope() || matches!(self, Self::Malformed(_) | Self::WrongOwner)
    }

    /// Whether a bucket that gives one reader what it does not give another can make it hold for the one alone.
    pub fn depends_on_reader(&self) -> bool {
        matches!(self, Self::Missing | Self::NotRevealed | Self::SealedDigest | Self::Unopenable | Self::PayloadDigest)
    }

    /// The refusal's own words, if it has some.
    pub fn words(&self) -> Option<&str> {
        match self {
            Self::Envelope(words) | Self::Malformed(words) => Some(words),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_committed_hash_shows_is_a_fact() {
        use Refusal::*;
        let of_envelope = [Envelope("x".into()), WrongSigner, WrongRun, WrongRound, WrongRoot, WrongSize { found: 1, least: 2, most: 3 }];
        let of_payload = [Malformed("x".into()), WrongOwner];
        let compared = [Outlier { percent: 900 }, Copy { uid: 1, round: 2, percent: 90 }];
        assert!(compared.iter().all(|r| !r.is_fact()), "what is compared with depends on what a validator could fetch");
        let testimony = [SealedDigest, Unopenable, PayloadDigest, Missing, NotRevealed, LossNotFinite];
        assert!(of_envelope.iter().all(|r| r.is_fact() && r.is_of_envelope()));
        assert!(of_payload.iter().all(|r| r.is_fact() && !r.is_of_envelope()));
        assert!(testimony.iter().all(|r| !r.is_fact()));
        assert!(testimony.iter().all(|r| r.depends_on_reader() != (*r == LossNotFinite)));
        assert!(!of_envelope.iter().chain(&of_payload).chain(&compared).any(Refusal::depends_on_reader));
    }
}
