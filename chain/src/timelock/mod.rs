//! Timelock encryption to a drand beacon, as Subtensor decrypts committed weights.
//!
//! A ciphertext names a round of a beacon. The beacon's signature of that round, which nobody has before, opens it; so the chain itself reveals
//! a row of weights, and no validator can copy it earlier.
//!
//! The scheme is Boneh and Franklin's FullIdent (2001) over BLS12-381 for a random AES key, with AES-256-GCM for the rest:
//!
//! ```text
//! id = SHA256(round, u64 big-endian)          H1 = hash to G1, suite BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_
//! r  = SHA256(σ ‖ K), big-endian, mod order   K, σ: 32 random bytes each; P = the beacon's key in G2
//! U  = r·G2     V = σ ⊕ SHA256(e(H1(id), r·P))     W = K ⊕ SHA256(σ)
//! ciphertext = U (96 bytes, compressed) ‖ vec(V) ‖ vec(W) ‖ vec(body) ‖ vec("AES_GCM_")
//! body       = vec(AES-256-GCM(K, nonce, plaintext), tag last) ‖ vec(nonce, 12 bytes)
//! vec(x)     = length of x (u64 little-endian) ‖ x
//! ```
//!
//! A pairing's value is hashed in arkworks' compressed form: 576 bytes, little-endian.

mod beacon;
mod cipher;
mod error;
mod payload;

pub use beacon::{Beacon, BeaconKey, Signature};
pub use cipher::{MAX_CIPHERTEXT, decrypt, encrypt};
pub use error::TimelockError;
pub use payload::{Payload, Version};

use sha2::{Digest, Sha256};

/// drand's network "quicknet", which Subtensor follows.
pub mod quicknet {
    /// Its public key: a point of G2, compressed.
    pub const PUBLIC_KEY: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";
    /// Seconds from round to round.
    pub const PERIOD_S: u64 = 3;
    /// When round 1 was due, in seconds since 1970.
    pub const GENESIS_S: u64 = 1_692_803_367;
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}
