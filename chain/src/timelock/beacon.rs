//! A beacon's keys and signatures: BLS, public keys in G2, signatures in G1.

use std::fmt;

use ark_bls12_381::{Bls12_381, Fr, G1Affine, G1Projective, G2Affine, g1};
use ark_ec::hashing::{HashToCurve, curve_maps::wb::WBMap, map_to_curve_hasher::MapToCurveBasedHasher};
use ark_ec::pairing::Pairing;
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::{PrimeField, field_hashers::DefaultFieldHasher};
use ark_serialize::CanonicalSerialize;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{TimelockError, quicknet, sha256};

/// The suite of drand's signatures in G1.
const DOMAIN: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";

/// A beacon's public key: a point of G2, 96 bytes compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeaconKey(pub(super) G2Affine);

/// A beacon's signature of a round: a point of G1, 48 bytes compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(pub(super) G1Affine);

impl BeaconKey {
    /// The key of drand's quicknet.
    ///
    /// # Panics
    /// Never: the constant is a point.
    pub fn quicknet() -> Self {
        let bytes = hex::decode(quicknet::PUBLIC_KEY).expect("the constant is hex");
        Self::from_bytes(&bytes).expect("the constant is a point of G2")
    }

    /// Reads 96 bytes.
    ///
    /// # Errors
    /// [`TimelockError::Point`] if they are no point of G2's prime-order group, or the one at infinity, under which anybody could decrypt.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TimelockError> {
        point(bytes, "public key").map(Self)
    }

    /// Its 96 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        compressed(&self.0)
    }

    /// Whether `signature` is this beacon's of `round`: e(signature, G2) = e(H1(id), key).
    pub fn verify(&self, round: u64, signature: &Signature) -> bool {
        Bls12_381::pairing(signature.0, G2Affine::generator()) == Bls12_381::pairing(round_point(round), self.0)
    }
}

impl Signature {
    /// Reads 48 bytes.
    ///
    /// # Errors
    /// [`TimelockError::Point`] if they are no point of G1's prime-order group, or the one at infinity.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TimelockError> {
        point(bytes, "signature").map(Self)
    }

    /// Its 48 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        compressed(&self.0)
    }
}

/// A beacon with its secret, for tests and embedded chains. The secret is wiped on drop and never printed.
#[derive(Clone)]
pub struct Beacon(Zeroizing<Fr>);

impl fmt::Debug for Beacon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Beacon(..)")
    }
}

impl Beacon {
    /// The beacon whose secret scalar is SHA256(seed), big-endian, mod the group's order.
    pub fn from_seed(seed: &[u8]) -> Self {
        let digest = Zeroizing::new(sha256(&[seed]));
        Self(Zeroizing::new(Fr::from_be_bytes_mod_order(&*digest)))
    }

    /// Its public key: secret · G2.
    pub fn key(&self) -> BeaconKey {
        BeaconKey((G2Affine::generator() * *self.0).into_affine())
    }

    /// Its signature of `round`: secret · H1(id).
    pub fn sign(&self, round: u64) -> Signature {
        Signature((round_point(round) * *self.0).into_affine())
    }
}

/// H1(id): the point of G1 that a round's identity is hashed to.
pub(super) fn round_point(round: u64) -> G1Affine {
    let hasher = MapToCurveBasedHasher::<G1Projective, DefaultFieldHasher<Sha256, 128>, WBMap<g1::Config>>::new(DOMAIN)
        .expect("the curve's own map is well formed");
    hasher.hash(&sha256(&[&round.to_be_bytes()])).expect("every digest is hashed to a point")
}

/// A checked point, of exactly these bytes and not at infinity.
pub(super) fn point<P: AffineRepr>(bytes: &[u8], what: &'static str) -> Result<P, TimelockError> {
    let mut rest = bytes;
    let point = P::deserialize_compressed(&mut rest).map_err(|_| TimelockError::Point(what))?;
    if rest.is_empty() && !point.is_zero() { Ok(point) } else { Err(TimelockError::Point(what)) }
}

pub(super) fn compressed(value: &impl CanonicalSerialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.compressed_size());
    value.serialize_compressed(&mut bytes).expect("a vector takes every byte");
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// What drand published for round 1000 of quicknet.
    const ROUND_1000: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";

    #[test]
    fn quicknets_signature_verifies_for_its_round_only() {
        let signature = Signature::from_bytes(&hex::decode(ROUND_1000).unwrap()).unwrap();
        assert!(BeaconKey::quicknet().verify(1000, &signature));
        assert!(!BeaconKey::quicknet().verify(1001, &signature));
        assert!(!Beacon::from_seed(b"another").key().verify(1000, &signature));
    }

    #[test]
    fn a_private_beacon_signs_what_its_key_verifies() {
        let beacon = Beacon::from_seed(b"embedded");
        let key = BeaconKey::from_bytes(&beacon.key().to_bytes()).unwrap();
        let signature = Signature::from_bytes(&beacon.sign(7).to_bytes()).unwrap();
        assert!(key.verify(7, &signature) && !key.verify(8, &signature));
        assert_eq!(format!("{beacon:?}"), "Beacon(..)");
    }

    #[test]
    fn what_is_no_point_is_refused() {
        let mut infinity = vec![0; 96];
        infinity[0] = 0xc0;
        let good = Beacon::from_seed(b"x").key().to_bytes();
        let long = [good.as_slice(), &[0]].concat();
        // 2 is no x coordinate of a point in the right subgroup
        let mut outside = vec![0; 96];
        (outside[0], outside[95]) = (0x80, 2);
        for bad in [&[][..], &good[..95], &long, &infinity, &outside, &[0xff; 96]] {
            assert_eq!(BeaconKey::from_bytes(bad), Err(TimelockError::Point("public key")), "{bad:?}");
        }
        infinity.truncate(48);
        assert_eq!(Signature::from_bytes(&infinity), Err(TimelockError::Point("signature")));
    }
}
