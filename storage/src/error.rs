//! Why an object could not be read or written, as kinds that a caller acts on.

use std::{error::Error, io};

use object_store::Error as StoreError;

/// The cause that a store gave.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why an object could not be read or written. That an object is absent is not an error: reads return `None`.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The address cannot name a bucket, or may not be opened with this [`crate::Access`].
    #[error("{url:?} cannot be opened as a bucket: {problem}")]
    BadUrl {
        /// The address, without its secrets.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The key's file name could leave its folder or collide with a temporary name.
    #[error("{0:?} is not a file name of 1 to 128 letters, digits, '.', '_' and '-' that starts with none of '.'")]
    BadName(String),
    /// The object is larger than its cap; nothing of it was kept.
    #[error("{url} has {size} bytes, more than the {cap} that it may have; refused")]
    TooLarge {
        /// The object.
        url: String,
        /// Its size as the store says.
        size: u64,
        /// The most it may have.
        cap: u64,
    },
    /// Other bytes are already there; objects are written once.
    #[error("{url} already exists with other bytes; objects are written once")]
    Conflict {
        /// The object.
        url: String,
    },
    /// What was to be written could not be read, or had another length.
    #[error("{url}: what was to be written there could not be read: {source}")]
    Source {
        /// The object.
        url: String,
        /// What went wrong.
        source: Cause,
    },
    /// The bucket was opened for reading.
    #[error("{url} was opened for reading only")]
    ReadOnly {
        /// The object.
        url: String,
    },
    /// The store refused this client.
    #[error("{url}: the store denies access; check credentials and permissions: {source}")]
    Denied {
        /// The object.
        url: String,
        /// What the store said.
        source: Cause,
    },
    /// No such bucket, an upload in parts that the store has forgotten, or an object that went while it was read.
    #[error(
        "{url}: the store has no such bucket, or none any more of what was begun; check the address, and that the bucket exists: {source}"
    )]
    Gone {
        /// The object.
        url: String,
        /// What the store said.
        source: Cause,
    },
    /// No space is left.
    #[error("{url}: no space is left; free some and try again: {source}")]
    Full {
        /// The object.
        url: String,
        /// What the store said.
        source: Cause,
    },
    /// This kind of store cannot do this.
    #[error("{url}: this kind of store cannot do this: {source}")]
    Unsupported {
        /// The object.
        url: String,
        /// What the store said.
        source: Cause,
    },
    /// No good answer within the deadline and the attempts of [`crate::Limits`].
    #[error("{url}: no good answer in {attempts} attempt(s); check the network and the address: {source}")]
    Unreachable {
        /// The object.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// The last attempt's error.
        source: Cause,
    },
}

/// How one attempt failed.
pub(crate) enum Failure {
    /// Trying again cannot help.
    Final(StorageError),
    /// Trying again may help.
    Transient(Cause),
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Final(error)
    }
}

impl StorageError {
    /// What the operating system's kind of error means to a caller; the source again if nothing in particular.
    pub(crate) fn of_io<E: Into<Cause>>(url: &str, kind: io::ErrorKind, source: E) -> Result<Self, E> {
        let url = url.to_owned();
        match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Ok(Self::Full { url, source: source.into() }),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Ok(Self::Denied { url, source: source.into() }),
            _ => Err(source),
        }
    }
}

/// What S3 servers answer when a quota or a disk is full, whatever status comes with it.
const FULL: [&str; 2] = ["<Code>QuotaExceeded</Code>", "<Code>InsufficientStorage</Code>"];

impl Failure {
    /// Sorts a store's error. Absent objects, where they are read, and those that exist already are handled before.
    pub(crate) fn of(url: &str, error: StoreError) -> Self {
        let (owned, kind) = (url.to_owned(), io_kind(&error));
        if FULL.iter().any(|code| error.to_string().contains(code)) {
            return Self::Final(StorageError::Full { url: owned, source: error.into() });
        }
        match error {
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                Self::Final(StorageError::Denied { url: owned, source: error.into() })
            }
            StoreError::NotFound { .. } => Self::Final(StorageError::Gone { url: owned, source: error.into() }),
            StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } => {
                Self::Final(StorageError::Unsupported { url: owned, source: error.into() })
            }
            error => StorageError::of_io(url, kind.unwrap_or(io::ErrorKind::Other), error)
                .map_or_else(|error| Self::Transient(error.into()), Self::Final),
        }
    }
}

/// The operating system's error at the bottom, if there is one.
fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}
