//! Why a timelocked message cannot be made or opened.

use super::MAX_CIPHERTEXT;

/// What encryption and decryption answer instead of bytes. No variant carries a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimelockError {
    /// Bytes that encode no point of the group, or the point at infinity.
    #[error("the {0} is not a point of its group on BLS12-381: take it from the beacon's own answer, in compressed form")]
    Point(&'static str),
    /// More bytes than a chain takes as one commit.
    #[error("the ciphertext has {0} bytes, a chain takes at most {MAX_CIPHERTEXT}: weigh fewer uids")]
    TooLong(usize),
    /// The bytes end within a part.
    #[error("the ciphertext ends within its {0}: it was cut off or is none")]
    Truncated(&'static str),
    /// A part of another length than it must have.
    #[error("the ciphertext's {part} has {found} bytes, not {expected}: it is of another scheme")]
    Length {
        /// Which one.
        part: &'static str,
        /// The length it states.
        found: u64,
        /// The one it must have.
        expected: u64,
    },
    /// Another cipher than AES-256-GCM.
    #[error("the ciphertext's body is not said to be AES_GCM_: it is of another scheme")]
    Suite,
    /// Bytes after the last part.
    #[error("{0} bytes follow the ciphertext's last part")]
    TrailingBytes(usize),
    /// The signature does not open it.
    #[error("the signature does not open the ciphertext: it is of another round or beacon, or the ciphertext was changed")]
    NotOpened,
    /// The key is right and the body is not.
    #[error("the ciphertext's body does not have its authentication tag: it was changed")]
    BodyChanged,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Random(String),
    /// The plaintext is not a row of weights.
    #[error("the opened bytes are not a row of weights of version {version}: {what}")]
    Payload {
        /// The version read as.
        version: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// A version of the payload that is not known.
    #[error("timelocked weights of version {0} are not supported, only 3 and 4: a newer release may know them")]
    Version(u16),
}
