//! Identifiers: digests, run ids and hotkeys.

use std::{fmt, str::FromStr};

use blake2::{Blake2b512, Digest as _};
use serde::{Deserialize, Serialize};
use wincode::{SchemaRead, SchemaWrite};

/// SS58 address prefix of Bittensor and of generic Substrate accounts.
pub const SS58_PREFIX: u8 = 42;

/// Bytes from which on all cores hash together.
const LARGE: usize = 1 << 20;

/// 32 bytes of BLAKE3, written as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, SchemaRead, SchemaWrite)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// BLAKE3 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// BLAKE3 in key-derivation mode: `context` separates domains, the parts are length-prefixed (u64 LE).
    pub fn derive(context: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            if part.len() < LARGE {
                hasher.update(part)
            } else {
                hasher.update_rayon(part)
            };
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The first eight hex digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

/// BLAKE3 of bytes that come in pieces.
#[derive(Clone, Debug, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes so far.
    pub fn digest(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

/// Why a digest or an address could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not 64 hex digits.
    #[error("expected 64 hex digits, found {0:?}")]
    Hex(String),
    /// Not an SS58 address of a 32-byte account.
    #[error("{0:?} is not an SS58 address of prefix {SS58_PREFIX}")]
    Ss58(String),
}

impl FromStr for Digest {
    type Err = ParseIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(s, &mut bytes).map_err(|_| ParseIdError::Hex(s.to_owned()))?;
        Ok(Self(bytes))
    }
}

/// The run's identity: BLAKE3 of the manifest's canonical bytes.
pub type RunId = Digest;

/// An sr25519 public key; its SS58 address (prefix 42) is what people read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SchemaRead, SchemaWrite)]
pub struct Hotkey(pub [u8; 32]);

fn ss58_checksum(body: &[u8]) -> [u8; 2] {
    let mut hasher = Blake2b512::new();
    hasher.update(b"SS58PRE");
    hasher.update(body);
    let hash = hasher.finalize();
    [hash[0], hash[1]]
}

impl Hotkey {
    /// The SS58 address.
    pub fn ss58(&self) -> String {
        let mut bytes = vec![SS58_PREFIX];
        bytes.extend_from_slice(&self.0);
        let checksum = ss58_checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bs58::encode(bytes).into_string()
    }
}

impl fmt::Display for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.ss58())
    }
}

impl fmt::Debug for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hotkey({})", self.ss58())
    }
}

impl FromStr for Hotkey {
    type Err = ParseIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseIdError::Ss58(s.to_owned());
        if s.len() > 64 {
            return Err(refuse());
        }
        let bytes = bs58::decode(s).into_vec().map_err(|_| refuse())?;
        let (body, checksum) = bytes.split_at_checked(33).ok_or_else(refuse)?;
        if body[0] != SS58_PREFIX || checksum != ss58_checksum(body) {
            return Err(refuse());
        }
        let mut key = [0; 32];
        key.copy_from_slice(&body[1..]);
        Ok(Self(key))
    }
}

macro_rules! serde_as_string {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_string!(Digest);
serde_as_string!(Hotkey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alice_has_her_well_known_address() {
        let bytes = "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d";
        let alice = Hotkey(bytes.parse::<Digest>().expect("hex").0);
        assert_eq!(alice.ss58(), "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY");
        assert_eq!(alice.ss58().parse(), Ok(alice));
    }

    #[test]
    fn a_wrong_letter_is_refused() {
        assert!("5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQZ".parse::<Hotkey>().is_err());
        assert!("".parse::<Hotkey>().is_err());
        assert!("xyz".parse::<Digest>().is_err());
    }
}
