//! Sealed payloads: ChaCha20-Poly1305 under a fresh key, bound to run, round, owner and base root, in segments, so that neither side needs
//! all of it in memory.

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{
    KeyInit, Payload,
    stream::{DecryptorBE32, EncryptorBE32},
};

use crate::{Digest, Hotkey, RunId};

/// Bytes of a payload that are sealed as one segment; the last may be shorter. A cipher's counter of 32 bits suffices for 4 PiB of them.
const SEGMENT: usize = 1 << 20;
/// Bytes that sealing adds to each: the authentication tag.
const TAG: usize = 16;

/// The key of one sealed payload: used once, published after the close.
pub type PayloadKey = [u8; 32];

/// Bytes of a payload of `opened` bytes once it is sealed.
pub fn sealed_len(opened: u64) -> u64 {
    opened + TAG as u64 * opened.div_ceil(SEGMENT as u64).max(1)
}

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

    /// Encrypts a payload, segment by segment: the STREAM construction (Hoang, Reyhanitabar, Rogaway and Vizár, 2015), in which a segment's
    /// nonce says its number and whether it is the last. The key must be fresh, since the nonces start at zero.
    pub fn segments<'a>(&self, key: &PayloadKey, payload: &'a [u8]) -> impl Iterator<Item = Vec<u8>> + use<'a> {
        let aad = self.associated_data();
        let mut cipher = Some(EncryptorBE32::from_aead(ChaCha20Poly1305::new(key.into()), &Default::default()));
        let mut rest = payload;
        std::iter::from_fn(move || {
            let sealed = if rest.len() > SEGMENT {
                let (msg, after) = rest.split_at(SEGMENT);
                rest = after;
                cipher.as_mut()?.encrypt_next(Payload { msg, aad: &aad })
            } else {
                cipher.take()?.encrypt_last(Payload { msg: rest, aad: &aad })
            };
            Some(sealed.expect("a payload is shorter than the cipher's 4 PiB"))
        })
    }

    /// [`SealContext::segments`] as one.
    pub fn seal(&self, key: &PayloadKey, payload: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(sealed_len(payload.len() as u64) as usize);
        self.segments(key, payload).for_each(|segment| sealed.extend_from_slice(&segment));
        sealed
    }

    /// Decrypts what comes in pieces.
    pub fn opener(&self, key: &PayloadKey) -> Opener {
        let cipher = DecryptorBE32::from_aead(ChaCha20Poly1305::new(key.into()), &Default::default());
        Opener { cipher, aad: self.associated_data(), waiting: Vec::new() }
    }

    /// Decrypts; `None` if key, context or bytes are not the ones sealed.
    pub fn open(&self, key: &PayloadKey, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut opener = self.opener(key);
        let mut opened = opener.push(sealed)?;
        opened.extend(opener.finish()?);
        Some(opened)
    }
}

/// Decrypts a sealed payload that comes in pieces of any size.
pub struct Opener {
    cipher: DecryptorBE32<ChaCha20Poly1305>,
    aad: Vec<u8>,
    /// What came and was not opened yet: at most a segment, which may be the last.
    waiting: Vec<u8>,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Opener {
    /// Takes the next bytes and gives those that can be opened by now; `None` if key, context or bytes are not the ones sealed. Each segment
    /// given out was sealed at its place; that none is missing, only [`Opener::finish`] says.
    pub fn push(&mut self, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut opened = Vec::with_capacity(self.waiting.len() + sealed.len());
        let mut rest = sealed;
        while self.waiting.len() + rest.len() > SEGMENT + TAG {
            let (part, after) = rest.split_at(SEGMENT + TAG - self.waiting.len());
            self.waiting.extend_from_slice(part);
            rest = after;
            opened.extend(self.cipher.decrypt_next(Payload { msg: &self.waiting, aad: &self.aad }).ok()?);
            self.waiting.clear();
        }
        self.waiting.extend_from_slice(rest);
        Some(opened)
    }

    /// Opens the last segment.
    pub fn finish(self) -> Option<Vec<u8>> {
        self.cipher.decrypt_last(Payload { msg: &self.waiting, aad: &self.aad }).ok()
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
        assert_eq!(sealed.len() as u64, sealed_len(7));
        assert_eq!(context().open(&[9; 32], &sealed).as_deref(), Some(&b"payload"[..]));
        assert_eq!(context().open(&[8; 32], &sealed), None);
        assert_eq!(SealContext { round: 2, ..context() }.open(&[9; 32], &sealed), None);
        assert_eq!(SealContext { hotkey: Hotkey([2; 32]), ..context() }.open(&[9; 32], &sealed), None);
        assert_eq!(context().open(&[9; 32], &sealed[..sealed.len() - 1]), None);
        assert_eq!(context().open(&[9; 32], b""), None);
    }

    #[test]
    fn segments_open_in_any_pieces_and_in_their_places_only() {
        for length in [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 7] {
            let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let sealed = context().seal(&[9; 32], &payload);
            assert_eq!(sealed.len() as u64, sealed_len(length as u64), "{length}");
            for pieces in [1_000, SEGMENT, SEGMENT + TAG, SEGMENT + TAG + 1, usize::MAX] {
                let mut opener = context().opener(&[9; 32]);
                let mut opened = Vec::new();
                for piece in sealed.chunks(pieces) {
                    opened.extend(opener.push(piece).expect("sealed so"));
                }
                opened.extend(opener.finish().expect("complete"));
                assert_eq!(opened, payload);
            }
        }
        let sealed = context().seal(&[9; 32], &[7; 3 * SEGMENT]);
        let segments: Vec<&[u8]> = sealed.chunks(SEGMENT + TAG).collect();
        for wrong in [&[1, 0, 2][..], &[0, 1], &[0, 1, 2, 2], &[0, 2], &[0, 0, 2]] {
            let bytes: Vec<u8> = wrong.iter().flat_map(|&i| segments[i]).copied().collect();
            assert_eq!(context().open(&[9; 32], &bytes), None, "{wrong:?}");
        }
    }
}
