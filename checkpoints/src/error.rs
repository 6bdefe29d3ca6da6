//! Why a snapshot or an export fails.

use std::{io, path::PathBuf};

use protocol::{Digest, DocumentError, Hotkey, RunId};
use storage::StorageError;

/// Why a snapshot is refused, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The store failed, or an object is larger than its cap.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No snapshot of this round, or one whose writer has not finished.
    #[error("no snapshot of round {round} at {url}")]
    Absent {
        /// The round.
        round: u64,
        /// The bucket.
        url: String,
    },
    /// The manifest is malformed, of another format version, or its signature does not hold.
    #[error("the snapshot's manifest is refused: {0}")]
    Manifest(#[from] DocumentError),
    /// A good signature of somebody who is not trusted.
    #[error("the snapshot is signed by {0}, who is not trusted here")]
    Signer(Hotkey),
    /// A snapshot of another run.
    #[error("the snapshot is of run {found}, not of {expected}")]
    WrongRun {
        /// The reader's run.
        expected: RunId,
        /// The snapshot's.
        found: RunId,
    },
    /// A snapshot of another round than the one it lies under.
    #[error("the snapshot of round {expected} says that it is of round {found}")]
    WrongRound {
        /// The round asked for.
        expected: u64,
        /// The manifest's.
        found: u64,
    },
    /// The shards' tensors are not the model's, each once and in canonical order.
    #[error("the snapshot's shards do not list the model's tensors in their order; {0}")]
    Tensors(String),
    /// A shard that announces more bytes than its tensors can need.
    #[error("shard {file:?} announces {bytes} bytes, its tensors need at most {cap}")]
    Oversized {
        /// The shard.
        file: String,
        /// Bytes announced.
        bytes: u64,
        /// Bytes its tensors need at most.
        cap: u64,
    },
    /// A shard that the manifest lists and the store lacks.
    #[error("shard {0:?} is missing")]
    MissingShard(String),
    /// A shard whose bytes are not the listed ones.
    #[error("shard {file:?} has hash {found}, its manifest says {expected}")]
    Corrupt {
        /// The shard.
        file: String,
        /// Hash in the manifest.
        expected: Digest,
        /// Hash of the bytes.
        found: Digest,
    },
    /// A shard that is not the safetensors file of its tensors.
    #[error("shard {file:?} is malformed: {problem}")]
    Shard {
        /// The shard.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Tensors that do not have the manifest's root.
    #[error("the snapshot's tensors have root {found}, its manifest says {expected}")]
    Root {
        /// In the manifest.
        expected: Digest,
        /// Computed here.
        found: Digest,
    },
    /// The local disk failed.
    #[error("cannot write {path}: {source}", path = path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A `tokenizer.json` that is none.
    #[error("the tokenizer is not the JSON of a Hugging Face tokenizer: {0}")]
    Tokenizer(String),
    /// A state that is not of the given architecture.
    #[error("the state's tensors are not those of the model's architecture")]
    Architecture,
}
