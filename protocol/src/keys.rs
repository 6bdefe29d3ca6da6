//! sr25519 hotkeys and domain-separated signatures.

use schnorrkel::{ExpansionMode, MiniSecretKey, PublicKey, SecretKey};
use zeroize::Zeroizing;

use crate::Hotkey;

/// What a signature is for; a signature made in one domain is void in every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// A miner's envelope.
    Envelope,
    /// A lead's seal list.
    SealList,
    /// A validator's score sheet.
    ScoreSheet,
    /// A lead's round record.
    Record,
    /// A validator's agreement with, or dissent from, a record.
    Countersign,
    /// A checkpoint's manifest.
    Checkpoint,
    /// A call to the embedded ledger.
    Call,
    /// Free text signed with `tributary wallet sign`.
    Text,
}

impl Domain {
    fn context(self) -> &'static [u8] {
        match self {
            Self::Envelope => b"tributary/1/envelope",
            Self::SealList => b"tributary/1/seal-list",
            Self::ScoreSheet => b"tributary/1/score-sheet",
            Self::Record => b"tributary/1/record",
            Self::Countersign => b"tributary/1/countersign",
            Self::Checkpoint => b"tributary/1/checkpoint",
            Self::Call => b"tributary/1/ledger-call",
            // btcli and polkadot tools sign free text in this context
            Self::Text => b"substrate",
        }
    }
}

/// An sr25519 key pair. The secret is wiped on drop and never printed.
#[derive(Clone)]
pub struct Keypair(schnorrkel::Keypair);

impl std::fmt::Debug for Keypair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keypair({})", self.hotkey())
    }
}

impl Keypair {
    /// The pair of a 32-byte seed, expanded as Substrate does (Ed25519 mode).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let seed = Zeroizing::new(*seed);
        let mini = MiniSecretKey::from_bytes(&*seed).expect("32 bytes are a mini secret key");
        Self(mini.expand_to_keypair(ExpansionMode::Ed25519))
    }

    /// The pair of a 64-byte expanded secret in schnorrkel's `to_bytes` form; `None` if it is not a canonical scalar.
    pub fn from_secret(secret: &[u8; 64]) -> Option<Self> {
        SecretKey::from_bytes(secret).ok().map(|s| Self(s.to_keypair()))
    }

    /// The 64-byte expanded secret, for a key file.
    pub fn secret(&self) -> Zeroizing<[u8; 64]> {
        Zeroizing::new(self.0.secret.to_bytes())
    }

    /// The public half.
    pub fn hotkey(&self) -> Hotkey {
        Hotkey(self.0.public.to_bytes())
    }

    /// Signs `message` in `domain`.
    pub fn sign(&self, domain: Domain, message: &[u8]) -> [u8; 64] {
        self.0.sign(schnorrkel::signing_context(domain.context()).bytes(message)).to_bytes()
    }
}

/// Whether `signature` is `signer`'s over `message` in `domain`.
pub fn verify(signer: &Hotkey, domain: Domain, message: &[u8], signature: &[u8; 64]) -> bool {
    let (Ok(key), Ok(signature)) = (PublicKey::from_bytes(&signer.0), schnorrkel::Signature::from_bytes(signature)) else {
        return false;
    };
    key.verify(schnorrkel::signing_context(domain.context()).bytes(message), &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_in_its_own_domain_only() {
        let pair = Keypair::from_seed(&[7; 32]);
        let signature = pair.sign(Domain::Record, b"hello");
        assert!(verify(&pair.hotkey(), Domain::Record, b"hello", &signature));
        assert!(!verify(&pair.hotkey(), Domain::SealList, b"hello", &signature));
        assert!(!verify(&pair.hotkey(), Domain::Record, b"hullo", &signature));
        assert!(!verify(&Keypair::from_seed(&[8; 32]).hotkey(), Domain::Record, b"hello", &signature));
    }

    #[test]
    fn debug_shows_no_secret() {
        let pair = Keypair::from_seed(&[7; 32]);
        let shown = format!("{pair:?}");
        assert!(shown.contains(&pair.hotkey().ss58()) && !shown.contains(&hex::encode(pair.secret().as_slice())));
    }
}
