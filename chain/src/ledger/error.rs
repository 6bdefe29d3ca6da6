//! The ledger's own failures, and what its inner functions return.

use std::path::{Path, PathBuf};

use protocol::Digest;

use super::FORMAT;
use crate::ChainError;

/// Why a ledger file cannot be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// No file.
    #[error("there is no ledger at {0}: check the path, or make one with `tributary chain new`")]
    Missing(PathBuf),
    /// Some other file.
    #[error("{0} is not a ledger of tributary: choose another path")]
    NotALedger(PathBuf),
    /// A ledger of another version.
    #[error("the ledger {path} has format {found}, this version reads {FORMAT}: use the version that created it")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i32,
    },
    /// A ledger that was created with another configuration.
    #[error("{path} already holds another ledger (genesis {found}, not {expected}): open it as it is, or choose another path")]
    OtherGenesis {
        /// The file.
        path: PathBuf,
        /// The genesis it has.
        found: Digest,
        /// The genesis asked for.
        expected: Digest,
    },
    /// Contents that contradict themselves.
    #[error("the ledger {path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        what: String,
    },
    /// SQLite failed: a full disk, a lock held too long, missing rights.
    #[error("the ledger {path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// A configuration that no ledger can have.
    #[error("a ledger cannot have {0}")]
    Config(&'static str),
    /// A participant's name that a live process holds.
    #[error("process {pid} already takes part as {name:?}: stop it, or choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        pid: u32,
    },
    /// This process's start time cannot be read.
    #[error("/proc/self/stat cannot be read, so other processes could not see whether this one lives: {0}")]
    Process(std::io::Error),
    /// Blocks are not made by hand here.
    #[error("this ledger makes its blocks by itself: only one created with manual blocks can be advanced")]
    NotManual,
    /// Blocks that wait for processes of one machine cannot be shared by others.
    #[error("a ledger in lockstep cannot be served: its blocks wait for processes of this machine; create one with wall:MILLISECONDS")]
    LockstepIsLocal,
    /// The runtime is shutting down.
    #[error("the runtime stopped before the ledger answered")]
    Stopped,
}

/// What happens inside a transaction: a refusal to hand on, or an SQLite error that still lacks the file's name.
pub(super) enum Fault {
    Refused(ChainError),
    Damaged(String),
    Sql(rusqlite::Error),
}

impl Fault {
    pub(super) fn at(self, path: &Path) -> ChainError {
        let path = path.to_owned();
        match self {
            Self::Refused(error) => error,
            Self::Damaged(what) => LedgerError::Damaged { path, what }.into(),
            Self::Sql(rusqlite::Error::SqliteFailure(e, _)) if e.code == rusqlite::ErrorCode::NotADatabase => {
                LedgerError::NotALedger(path).into()
            }
            Self::Sql(source) => LedgerError::Sqlite { path, source }.into(),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<ChainError> for Fault {
    fn from(error: ChainError) -> Self {
        Self::Refused(error)
    }
}

impl From<LedgerError> for Fault {
    fn from(error: LedgerError) -> Self {
        Self::Refused(error.into())
    }
}
