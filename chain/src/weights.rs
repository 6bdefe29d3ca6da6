//! Rows of weights: their u16 form within a subnet's rules, the hash of a committed row, and a submitter that takes the path the chain asks for.

mod quantize;
mod submitter;

pub use quantize::{QuantizeError, Rules, quantize};
pub use submitter::{Standing, SubmitError, Submitter};

use std::collections::BTreeSet;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use parity_scale_codec::Encode as _;
use protocol::{Digest, Hotkey};

use crate::ChainError;

/// The hash that commits `hotkey` to a row: BLAKE2b-256 over SCALE of (hotkey, netuid index as u16, uids, values and salt as
/// sequences of u16, version key as u64), as Subtensor's `reveal_weights` computes it. The netuid index is mechanism · 4096 + netuid.
pub fn commitment(hotkey: &Hotkey, netuid_index: u16, weights: &[(u16, u16)], salt: &[u16], version_key: u64) -> Digest {
    let (uids, values): (Vec<u16>, Vec<u16>) = weights.iter().copied().unzip();
    let bytes = (hotkey.0, netuid_index, uids, values, salt, version_key).encode();
    Digest(Blake2b::<U32>::digest(&bytes).into())
}

/// What every chain refuses in the row of uid `own`: an entry twice, or for a uid that is none of `uids`, or for itself unless it is the owner's.
pub(crate) fn check_entries(weights: &[(u16, u16)], own: u16, is_owner: IsOwner, uids: usize) -> Result<(), ChainError> {
    let mut seen = BTreeSet::new();
    for &(uid, _) in weights {
        if !seen.insert(uid) {
            return Err(ChainError::DuplicateUids(uid));
        }
        if usize::from(uid) >= uids {
            return Err(ChainError::UidVecContainInvalidOne(uid));
        }
        if uid == own && !is_owner.0 {
            return Err(ChainError::SelfWeight(uid));
        }
    }
    if weights.is_empty() { Err(ChainError::WeightVecLengthIsLow) } else { Ok(()) }
}

/// Whether a row is that of the subnet's owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IsOwner(pub(crate) bool);

#[cfg(test)]
mod commitment_tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_hash_is_that_of_another_implementation() {
        // computed with Python's hashlib.blake2b(digest_size=32) over hand-written SCALE bytes
        let hotkey = Hotkey(std::array::from_fn(|i| i as u8));
        let weights = [(0, 65535), (1, 300), (258, 1)];
        assert_eq!(
            commitment(&hotkey, 1, &weights, &[7, 8, 9], 42).to_string(),
            "943992c87c6ded705c4afbec0938f951922923770ec7c4c8e251d8e79ca13220"
        );
        let row: Vec<(u16, u16)> = (0..100).map(|uid| (uid, uid * 3)).collect();
        assert_eq!(commitment(&hotkey, 4097, &row, &[], 0).to_string(), "0395086fe2d84fb533545cede7f36632e22e747d5f2103a8ba2c78a2c4e4019c");
    }
}
