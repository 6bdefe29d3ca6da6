//! What is inside a timelocked commit: a row of weights in SCALE.

use parity_scale_codec::{Decode, Encode};
use protocol::Hotkey;

use super::TimelockError;

/// The forms that runtimes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Without a hotkey: a copied ciphertext would set the copier's weights too.
    V3,
    /// With the committing hotkey.
    V4,
}

impl Version {
    /// The number that the chain gives it.
    pub fn number(self) -> u16 {
        match self {
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }
}

impl TryFrom<u16> for Version {
    type Error = TimelockError;

    fn try_from(number: u16) -> Result<Self, Self::Error> {
        match number {
            3 => Ok(Self::V3),
            4 => Ok(Self::V4),
            other => Err(TimelockError::Version(other)),
        }
    }
}

/// The plaintext of a timelocked commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Who commits; only said in version 4.
    pub hotkey: Hotkey,
    /// The row, as (uid, weight).
    pub weights: Vec<(u16, u16)>,
    /// The subnet's version key, or more.
    pub version_key: u64,
}

/// SCALE of the part that both versions have: uids, values, version key.
type Row = (Vec<u16>, Vec<u16>, u64);

impl Payload {
    /// Its bytes: SCALE of (hotkey as a vector of bytes, in version 4 only; uids; values; version key).
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let (uids, values): (Vec<u16>, Vec<u16>) = self.weights.iter().copied().unzip();
        let row: Row = (uids, values, self.version_key);
        match version {
            Version::V3 => row.encode(),
            Version::V4 => (self.hotkey.0.to_vec(), row).encode(),
        }
    }

    /// Reads a payload of `version`; `committer` is the one that a payload of version 3 does not name.
    ///
    /// # Errors
    /// [`TimelockError::Payload`] if the bytes are not exactly one, or name another hotkey than the committer's.
    pub fn decode(bytes: &[u8], version: Version, committer: Hotkey) -> Result<Self, TimelockError> {
        let refuse = |what| TimelockError::Payload { version: version.number(), what };
        let mut rest = bytes;
        if version == Version::V4 {
            let hotkey = Vec::<u8>::decode(&mut rest).map_err(|_| refuse("its hotkey is cut off"))?;
            if hotkey != committer.0 {
                return Err(refuse("it names another hotkey than the committer's"));
            }
        }
        let (uids, values, version_key) = Row::decode(&mut rest).map_err(|_| refuse("its row is cut off"))?;
        match (rest, uids.len() == values.len()) {
            ([], true) => Ok(Self { hotkey: committer, weights: uids.into_iter().zip(values).collect(), version_key }),
            ([], false) => Err(refuse("it has not one value per uid")),
            _ => Err(refuse("bytes follow its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn payload() -> Payload {
        Payload { hotkey: Hotkey([7; 32]), weights: vec![(1, 65535), (258, 2)], version_key: 9 }
    }

    #[test]
    fn the_bytes_are_scale() {
        let row = "08".to_owned() + "01000201" + "08" + "ffff0200" + "0900000000000000";
        assert_eq!(hex::encode(payload().encode(Version::V3)), row);
        assert_eq!(hex::encode(payload().encode(Version::V4)), "80".to_owned() + &"07".repeat(32) + &row);
    }

    #[test]
    fn other_bytes_are_refused() {
        let v4 = payload().encode(Version::V4);
        let read = |bytes: &[u8], version| Payload::decode(bytes, version, Hotkey([7; 32]));
        for length in 0..v4.len() {
            assert!(read(&v4[..length], Version::V4).is_err(), "{length} bytes");
        }
        assert!(read(&[v4.as_slice(), &[0]].concat(), Version::V4).is_err());
        assert!(read(&v4, Version::V3).is_err());
        assert!(Payload::decode(&v4, Version::V4, Hotkey([8; 32])).is_err(), "somebody else's");
        let unequal: Row = (vec![1, 2], vec![3], 0);
        assert!(read(&unequal.encode(), Version::V3).is_err());
        // a vector that claims 2³⁰ − 1 elements
        assert!(read(&[0xfe, 0xff, 0xff, 0xff], Version::V3).is_err());
    }

    #[test]
    fn versions_have_their_numbers() {
        for version in [Version::V3, Version::V4] {
            assert_eq!(Version::try_from(version.number()), Ok(version));
        }
        assert_eq!(Version::try_from(5), Err(TimelockError::Version(5)));
    }

    proptest! {
        #[test]
        fn payloads_read_back(weights in prop::collection::vec(any::<(u16, u16)>(), 0..300), version_key: u64, hotkey: [u8; 32], v4: bool) {
            let (payload, version) = (Payload { hotkey: Hotkey(hotkey), weights, version_key }, if v4 { Version::V4 } else { Version::V3 });
            prop_assert_eq!(Payload::decode(&payload.encode(version), version, Hotkey(hotkey)).unwrap(), payload);
        }
    }
}
