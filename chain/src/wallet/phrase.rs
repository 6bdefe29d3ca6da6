//! Mnemonic phrases and the keys that Substrate derives from them.

use std::fmt;
use std::str::FromStr;

use bip39::{Language, Mnemonic};
use protocol::Keypair;
use sha2::Sha512;
use zeroize::Zeroizing;

use super::WalletError;

/// Entropy of a new phrase: 128 bits are 12 words.
const ENTROPY_BYTES: usize = 16;
const ITERATIONS: u32 = 2048;

/// A secret phrase of 12 to 24 English words (BIP 39). Wiped on drop; only [`reveal`](Phrase::reveal) shows it.
#[derive(Clone)]
pub struct Phrase(Zeroizing<String>);

impl fmt::Debug for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phrase(..)")
    }
}

impl Phrase {
    /// A new phrase of 12 words.
    ///
    /// # Errors
    /// [`WalletError::Random`] if the operating system has no random bytes.
    pub fn generate() -> Result<Self, WalletError> {
        let mut entropy = Zeroizing::new([0; ENTROPY_BYTES]);
        getrandom::fill(&mut *entropy).map_err(|e| WalletError::Random(e.to_string()))?;
        let mnemonic = Zeroizing::new(Mnemonic::from_entropy_in(Language::English, &*entropy).expect("16 bytes are 12 words"));
        Ok(Self(Zeroizing::new(mnemonic.to_string())))
    }

    /// The words, to be shown once to their owner and never logged.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The seed: the first 32 bytes of PBKDF2-HMAC-SHA512(entropy, "mnemonic", 2048). Substrate stretches the entropy, where BIP 39 stretches the words.
    pub(super) fn seed(&self) -> Zeroizing<[u8; 32]> {
        let mnemonic = Zeroizing::new(Mnemonic::parse_in(Language::English, self.0.as_str()).expect("checked when made"));
        let (entropy, len) = mnemonic.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let mut seed = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha512>(&entropy[..len], b"mnemonic", ITERATIONS, &mut *seed);
        seed
    }

    /// The sr25519 pair that Substrate's tools derive from the phrase without a derivation path.
    pub fn keypair(&self) -> Keypair {
        Keypair::from_seed(&self.seed())
    }
}

impl FromStr for Phrase {
    type Err = WalletError;

    fn from_str(words: &str) -> Result<Self, Self::Err> {
        let mnemonic = Mnemonic::parse_in(Language::English, words).map(Zeroizing::new).map_err(|_| WalletError::Phrase)?;
        Ok(Self(Zeroizing::new(mnemonic.to_string())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const DEV: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

    #[test]
    fn known_phrases_give_known_addresses() {
        let phrase: Phrase = DEV.parse().unwrap();
        assert_eq!(hex::encode(*phrase.seed()), "fac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e");
        assert_eq!(phrase.keypair().hotkey().ss58(), "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV");
        // 18 words; the address is bittensor-wallet's
        let long = "legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth useful legal will";
        assert_eq!(long.parse::<Phrase>().unwrap().keypair().hotkey().ss58(), "5FKyQiqysSCdhWsA4owTDz8SXLVjfiTxFsbJY4mG3ya7URRu");
    }

    #[test]
    fn a_new_phrase_has_twelve_words_and_reads_back() {
        let phrase = Phrase::generate().unwrap();
        assert_eq!(phrase.reveal().split(' ').count(), 12);
        assert_eq!(phrase.reveal().parse::<Phrase>().unwrap().keypair().hotkey(), phrase.keypair().hotkey());
        assert_ne!(Phrase::generate().unwrap().reveal(), phrase.reveal());
        assert_eq!(format!("{phrase:?}"), "Phrase(..)");
    }

    #[test]
    fn a_wrong_checksum_or_word_is_refused() {
        assert!(matches!(DEV.replace("walk", "wall").parse::<Phrase>(), Err(WalletError::Phrase)));
        assert!(matches!("bottom drive".parse::<Phrase>(), Err(WalletError::Phrase)));
    }
}
