//! Rows of weights: their u16 form within a subnet's rules, the hash of a committed row, and a submitter that takes the path the chain asks for.

mod quantize;
mod submitter;

pub use quantize::{QuantizeError, Rules, quantize};
pub use submitter::{Standing, SubmitError, Submitter};

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use protocol::{Digest, Hotkey};

/// The hash that commits `hotkey` to a row: BLAKE2b-256 over SCALE of (hotkey, netuid index as u16, uids, values and salt as
/// sequences of u16, version key as u64), as Subtensor's `reveal_weights` computes it. The netuid index is mechanism · 4096 + netuid.
pub fn commitment(hotkey: &Hotkey, netuid_index: u16, weights: &[(u16, u16)], salt: &[u16], version_key: u64) -> Digest {
    let (uids, values): (Vec<u16>, Vec<u16>) = weights.iter().copied().unzip();
    let mut bytes = [&hotkey.0[..], &netuid_index.to_le_bytes()].concat();
    for vector in [&uids, &values, salt] {
        bytes.extend(compact(vector.len() as u32));
        bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes.extend(version_key.to_le_bytes());
    Digest(Blake2b::<U32>::digest(&bytes).into())
}

/// A length below 2³⁰ in SCALE's compact form: the two lowest bits tell whether one, two or four bytes hold it.
fn compact(length: u32) -> Vec<u8> {
    match length {
        0..0x40 => vec![(length as u8) << 2],
        0x40..0x4000 => ((length as u16) << 2 | 1).to_le_bytes().to_vec(),
        _ => (length << 2 | 2).to_le_bytes().to_vec(),
    }
}

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
