//! Why a wallet cannot be read or written.

use std::path::PathBuf;

use protocol::Hotkey;

/// What a wallet answers instead of a key. No variant carries a secret.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// A wallet's or key's name that is no plain file name.
    #[error("{0:?} cannot name a wallet or key: use 1 to 64 letters, digits, '-', '_' or '.', not beginning with '.'")]
    Name(String),
    /// No such file.
    #[error("there is no key file {0}: check the wallet's name and root, or create it")]
    Missing(PathBuf),
    /// A key that exists and is never overwritten.
    #[error("{0} exists already and is not overwritten: choose another name, or move the file away")]
    Exists(PathBuf),
    /// The operating system's reason.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// Larger than any key file.
    #[error("{0} is too large for a key file")]
    TooLarge(PathBuf),
    /// Not the JSON of a key file.
    #[error("{path} is not a key file: {what}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, without its contents.
        what: &'static str,
    },
    /// An encryption of earlier versions of btcli.
    #[error("{path} is encrypted in the old {method} way: open it once with a current btcli, which rewrites it, then try again")]
    OldEncryption {
        /// The file.
        path: PathBuf,
        /// The method.
        method: &'static str,
    },
    /// A cryptoType other than sr25519.
    #[error("{path} holds a key of type {found}, only sr25519 (1) can be used")]
    CryptoType {
        /// The file.
        path: PathBuf,
        /// The type as stored.
        found: String,
    },
    /// No secret inside.
    #[error("{0} holds no secret seed, phrase or private key")]
    NoSecret(PathBuf),
    /// The secrets give other addresses than the file says.
    #[error("{path} says it holds {stored}, but its secret gives another address: the file is damaged or forged")]
    AddressMismatch {
        /// The file.
        path: PathBuf,
        /// The address it states.
        stored: Hotkey,
    },
    /// An encrypted file and no password.
    #[error("{0} is encrypted: give its password")]
    PasswordNeeded(PathBuf),
    /// An encrypted file and another password.
    #[error("the password of {0} is wrong")]
    WrongPassword(PathBuf),
    /// An empty password, which would only pretend to protect.
    #[error("a password must not be empty")]
    EmptyPassword,
    /// A password in the environment that is not masked as btcli does it.
    #[error("{0} does not hold a password as btcli masks it: let btcli save it there again, or unset it and use BT_PW, which is plain")]
    MaskedPassword(String),
    /// A phrase that is not BIP 39.
    #[error("not a phrase of 12 to 24 words of the English BIP 39 list with a right checksum")]
    Phrase,
    /// The key derivation could not get its memory.
    #[error("the password's key could not be derived; it takes 512 MiB of memory: {0}")]
    Derivation(String),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Random(String),
}
