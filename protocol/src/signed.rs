//! Signed documents: a body, who signed it, and the signature, as one bounded byte string.
//!
//! ```text
//! signature (64) ‖ signer (32) ‖ body
//! ```

use crate::{Digest, Domain, Hotkey, Keypair, verify};

/// Why a signed document's bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Longer than its kind may be.
    #[error("{found} bytes, more than the cap of {cap}")]
    TooLarge {
        /// Bytes found.
        found: u64,
        /// Bytes allowed.
        cap: u64,
    },
    /// Too short to hold signature and signer.
    #[error("truncated: {0} bytes do not hold a signature and its signer")]
    Truncated(usize),
    /// The signature is not the signer's over this body in this domain.
    #[error("the signature does not hold")]
    Signature,
    /// The body is not of its kind.
    #[error("the body cannot be read: {0}")]
    Body(String),
}

/// A kind of document that gets signed.
pub trait Document: Sized {
    /// Its signature domain.
    const DOMAIN: Domain;
    /// The largest signed document of this kind, in bytes.
    const CAP: u64;
    /// The body's canonical bytes.
    fn encode(&self) -> Vec<u8>;
    /// Reads a body, whole.
    ///
    /// # Errors
    /// [`DocumentError::Body`] says what could not be read.
    fn decode(body: &[u8]) -> Result<Self, DocumentError>;
}

/// A document whose signature holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed<T> {
    /// The document.
    pub value: T,
    /// Who signed it.
    pub signer: Hotkey,
    bytes: Vec<u8>,
}

impl<T: Document> Signed<T> {
    /// Signs `value`.
    pub fn new(value: T, keypair: &Keypair) -> Self {
        let body = value.encode();
        let signer = keypair.hotkey();
        let mut bytes = keypair.sign(T::DOMAIN, &body).to_vec();
        bytes.extend_from_slice(&signer.0);
        bytes.extend_from_slice(&body);
        Self { value, signer, bytes }
    }

    /// Reads a signed document and checks its size, its signature and its body, in this order.
    ///
    /// # Errors
    /// One [`DocumentError`] for each way in which the bytes can be wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() as u64 > T::CAP {
            return Err(DocumentError::TooLarge { found: bytes.len() as u64, cap: T::CAP });
        }
        let truncated = || DocumentError::Truncated(bytes.len());
        let (signature, rest) = bytes.split_first_chunk::<64>().ok_or_else(truncated)?;
        let (signer, body) = rest.split_first_chunk::<32>().ok_or_else(truncated)?;
        let signer = Hotkey(*signer);
        if !verify(&signer, T::DOMAIN, body, signature) {
            return Err(DocumentError::Signature);
        }
        Ok(Self { value: T::decode(body)?, signer, bytes: bytes.to_vec() })
    }

    /// The bytes as signed.
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What identifies the document: signer and body, not the signature, which a signer may make anew.
    pub fn digest(&self) -> Digest {
        digest_of(&self.bytes[64..])
    }

    /// The digest that `bytes` have as a signed document, whether or not they are a good one; `None` if they are too short for any.
    pub fn digest_of(bytes: &[u8]) -> Option<Digest> {
        bytes.get(64..).map(digest_of)
    }
}

fn digest_of(signer_and_body: &[u8]) -> Digest {
    Digest::derive("tributary 2026 document v1", &[signer_and_body])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Announcement, SealList};

    #[test]
    fn a_new_signature_leaves_the_digest_and_another_signer_changes_it() {
        let (one, two) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let list = SealList { run: Digest::of(b"run"), round: 1, entries: vec![] };
        let [a, b, c] = [&one, &one, &two].map(|pair| Signed::new(list.clone(), pair));
        assert_ne!(a.to_bytes(), b.to_bytes(), "signatures are randomized");
        assert_eq!(a.digest(), b.digest());
        assert_eq!(Signed::<SealList>::digest_of(b.to_bytes()), Some(a.digest()));
        assert_eq!(Signed::<SealList>::digest_of(&[0; 63]), None);
        assert_ne!(a.digest(), c.digest());
        assert!(Announcement::decode(a.to_bytes()).is_none());
    }
}
