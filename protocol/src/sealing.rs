//! Sealed payloads: ChaCha20-Poly1305 under a fresh key, bound to run, round, owner and base root.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit, Nonce,
    aead::{Aead, Payload},
};

use crate::{Digest, Hotkey, RunId};

/// Bytes that sealing adds: the authentication tag.
pub const SEAL_OVERHEAD: u64 = 16;

/// The key of one sealed payload: used once, published after the close.
pub type PayloadKey = [u8; 32];

/// What a sealed payload is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealContext {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: u64,
    /// The owner.
    pub hotkey: Hotkey,
    /// Root the owner trained from.
    pub base_root: Digest,
}

impl SealContext {
    fn associated_data(&self) -> Vec<u8> {
        [&self.run.0[..], &self.round.to_le_bytes(), &self.hotkey.0, &self.base_root.0].concat()
    }

    /// Encrypts a payload. The key must be fresh, since the nonce is zero.
    pub fn seal(&self, key: &PayloadKey, payload: &[u8]) -> Vec<u8> {
        let aad = self.associated_data();
        ChaCha20Poly1305::new(key.into())
            .encrypt(&Nonce::default(), Payload { msg: payload, aad: &aad })
            .expect("a payload is shorter than the cipher's 256 GiB")
    }

    /// Decrypts; `None` if key, context or bytes are not the ones sealed.
    pub fn open(&self, key: &PayloadKey, sealed: &[u8]) -> Option<Vec<u8>> {
        let aad = self.associated_data();
        ChaCha20Poly1305::new(key.into()).decrypt(&Nonce::default(), Payload { msg: sealed, aad: &aad }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> SealContext {
        SealContext { run: Digest::of(b"run"), round: 1, hotkey: Hotkey([1; 32]), base_root: Digest::of(b"root") }
    }

    #[test]
    fn only_the_same_key_and_context_open_a_seal() {
        let sealed = context().seal(&[9; 32], b"payload");
        assert_eq!(sealed.len() as u64, 7 + SEAL_OVERHEAD);
        assert_eq!(context().open(&[9; 32], &sealed).as_deref(), Some(&b"payload"[..]));
        assert_eq!(context().open(&[8; 32], &sealed), None);
        assert_eq!(SealContext { round: 2, ..context() }.open(&[9; 32], &sealed), None);
        assert_eq!(SealContext { hotkey: Hotkey([2; 32]), ..context() }.open(&[9; 32], &sealed), None);
        assert_eq!(context().open(&[9; 32], &sealed[..sealed.len() - 1]), None);
        assert_eq!(context().open(&[9; 32], b""), None);
    }
}
