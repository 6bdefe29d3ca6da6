//! Where a run's objects lie: relative paths inside a peer's bucket, or inside the run's own folder.

use std::fmt;

use crate::Digest;

/// One object of a run. [`fmt::Display`] gives its path, relative to the bucket of whoever writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// The run manifest's canonical bytes (launcher; in the run's folder).
    Manifest,
    /// A file of the tokenized data set (launcher; in the run's folder).
    Dataset(String),
    /// A miner's signed envelope of a round.
    Envelope(u64),
    /// A miner's sealed payload of a round.
    Payload(u64),
    /// The key that opens it, once the seal list is final.
    PayloadKey(u64),
    /// A lead's seal list of a round.
    SealList(u64),
    /// A validator's score sheet of a round.
    ScoreSheet(u64),
    /// A lead's record of a round.
    Record(u64),
    /// A validator's countersignature of, or dissent from, a round's record of this digest.
    Countersign(u64, Digest),
    /// The aggregator's bundle of a record's payloads.
    Bundle(u64),
    /// A committed document as its lead published it, in the bucket of whoever keeps a copy.
    Copy {
        /// Where its lead publishes it.
        of: Box<Self>,
        /// Its digest: a lead can show other bytes under its own key at another time.
        digest: Digest,
    },
    /// A file of the snapshot of the state at a round.
    Checkpoint {
        /// The state's round.
        round: u64,
        /// File name inside the snapshot.
        file: String,
    },
}

impl ObjectKey {
    /// Where copies of the document behind `digest` lie that its lead publishes here.
    #[must_use]
    pub fn copy(&self, digest: Digest) -> Self {
        Self::Copy { of: Box::new(self.clone()), digest }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest => f.write_str("manifest.json"),
            Self::Dataset(file) => write!(f, "data/{file}"),
            Self::Envelope(round) => write!(f, "rounds/{round:08}/envelope"),
            Self::Payload(round) => write!(f, "rounds/{round:08}/payload"),
            Self::PayloadKey(round) => write!(f, "rounds/{round:08}/key"),
            Self::SealList(round) => write!(f, "rounds/{round:08}/seal-list"),
            Self::ScoreSheet(round) => write!(f, "rounds/{round:08}/scores"),
            Self::Record(round) => write!(f, "rounds/{round:08}/record"),
            Self::Countersign(round, record) => write!(f, "rounds/{round:08}/countersign-{record}"),
            Self::Bundle(round) => write!(f, "rounds/{round:08}/bundle"),
            Self::Copy { of, digest } => write!(f, "{of}-{digest}"),
            Self::Checkpoint { round, file } => write!(f, "checkpoints/{round:08}/{file}"),
        }
    }
}
