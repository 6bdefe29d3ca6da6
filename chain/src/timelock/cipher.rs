//! Encryption to a round, and decryption with its signature.

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit};
use ark_bls12_381::{Bls12_381, Fr, G1Affine, G2Affine};
use ark_ec::pairing::Pairing;
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::PrimeField;
use zeroize::Zeroizing;

use super::beacon::{compressed, point, round_point};
use super::{BeaconKey, Signature, TimelockError, sha256};

/// The most bytes of a ciphertext that Subtensor takes as a commit.
pub const MAX_CIPHERTEXT: usize = 5_000;
/// Bytes of U.
const POINT: usize = 96;
const NONCE: usize = 12;
const SUITE: &[u8] = b"AES_GCM_";

/// 32 bytes that are wiped on drop.
type Secret = Zeroizing<[u8; 32]>;

/// Everything random about one ciphertext; never used twice.
struct Randomness {
    key: Secret,
    sigma: Secret,
    nonce: [u8; NONCE],
}

impl Randomness {
    fn new() -> Result<Self, TimelockError> {
        let mut random = Self { key: Secret::default(), sigma: Secret::default(), nonce: [0; NONCE] };
        for bytes in [&mut random.key[..], &mut random.sigma[..], &mut random.nonce[..]] {
            getrandom::fill(bytes).map_err(|e| TimelockError::Random(e.to_string()))?;
        }
        Ok(random)
    }
}

/// Encrypts `plaintext` so that the beacon's signature of `round` opens it; [the module](super) gives the format.
///
/// # Errors
/// [`TimelockError::TooLong`] if the ciphertext would exceed [`MAX_CIPHERTEXT`], and [`TimelockError::Random`].
pub fn encrypt(beacon: &BeaconKey, round: u64, plaintext: &[u8]) -> Result<Vec<u8>, TimelockError> {
    encrypt_with(beacon, round, plaintext, &Randomness::new()?)
}

fn encrypt_with(beacon: &BeaconKey, round: u64, plaintext: &[u8], random: &Randomness) -> Result<Vec<u8>, TimelockError> {
    let Randomness { key, sigma, nonce } = random;
    let r = exponent(sigma, key);
    let mask = pairing_hash(round_point(round), (beacon.0 * *r).into_affine());
    let sealed = aes(key).encrypt(nonce.into(), plaintext).map_err(|_| TimelockError::TooLong(plaintext.len()))?;
    let body = [vec(&sealed), vec(nonce)].concat();
    let u = compressed(&(G2Affine::generator() * *r).into_affine());
    let wrapped = xor(key, &sha256(&[&**sigma]));
    let ciphertext = [u, vec(&*xor(sigma, &mask)), vec(&*wrapped), vec(&body), vec(SUITE)].concat();
    if ciphertext.len() > MAX_CIPHERTEXT { Err(TimelockError::TooLong(ciphertext.len())) } else { Ok(ciphertext) }
}

/// Opens what [`encrypt`] made for the round of `signature`.
///
/// # Errors
/// [`TimelockError`] says what is malformed; [`TimelockError::NotOpened`] if the signature is not the one.
pub fn decrypt(signature: &Signature, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, TimelockError> {
    let parts = Parts::parse(ciphertext)?;
    let sigma = xor(parts.v, &pairing_hash(signature.0, parts.u));
    let key = xor(parts.w, &sha256(&[&*sigma]));
    if (G2Affine::generator() * *exponent(&sigma, &key)).into_affine() != parts.u {
        return Err(TimelockError::NotOpened);
    }
    let plaintext = aes(&key).decrypt(parts.nonce.into(), parts.sealed).map_err(|_| TimelockError::BodyChanged)?;
    Ok(Zeroizing::new(plaintext))
}

/// A ciphertext whose form was checked.
struct Parts<'a> {
    u: G2Affine,
    v: &'a [u8; 32],
    w: &'a [u8; 32],
    nonce: &'a [u8; NONCE],
    sealed: &'a [u8],
}

impl<'a> Parts<'a> {
    fn parse(ciphertext: &'a [u8]) -> Result<Self, TimelockError> {
        if ciphertext.len() > MAX_CIPHERTEXT {
            return Err(TimelockError::TooLong(ciphertext.len()));
        }
        let (u, mut rest) = ciphertext.split_at_checked(POINT).ok_or(TimelockError::Truncated("point U"))?;
        let v = take_exactly(&mut rest, "masked σ")?;
        let w = take_exactly(&mut rest, "wrapped key")?;
        let mut body = take(&mut rest, "body")?;
        let suite = take(&mut rest, "suite")?;
        let sealed = take(&mut body, "sealed text")?;
        let nonce = take_exactly(&mut body, "nonce")?;
        match rest.len() + body.len() {
            _ if suite != SUITE => Err(TimelockError::Suite),
            0 => Ok(Self { u: point(u, "ciphertext's point U")?, v, w, nonce, sealed }),
            left => Err(TimelockError::TrailingBytes(left)),
        }
    }
}

/// The next length-prefixed part.
fn take<'a>(bytes: &mut &'a [u8], part: &'static str) -> Result<&'a [u8], TimelockError> {
    let truncated = || TimelockError::Truncated(part);
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(truncated)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| truncated())?;
    let (taken, rest) = rest.split_at_checked(length).ok_or_else(truncated)?;
    *bytes = rest;
    Ok(taken)
}

fn take_exactly<'a, const N: usize>(bytes: &mut &'a [u8], part: &'static str) -> Result<&'a [u8; N], TimelockError> {
    let taken = take(bytes, part)?;
    taken.try_into().map_err(|_| TimelockError::Length { part, found: taken.len() as u64, expected: N as u64 })
}

fn vec(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

fn exponent(sigma: &[u8; 32], key: &[u8; 32]) -> Zeroizing<Fr> {
    let digest = Zeroizing::new(sha256(&[sigma, key]));
    Zeroizing::new(Fr::from_be_bytes_mod_order(&*digest))
}

fn pairing_hash(p: G1Affine, q: G2Affine) -> [u8; 32] {
    sha256(&[&compressed(&Bls12_381::pairing(p, q).0)])
}

fn aes(key: &[u8; 32]) -> Aes256Gcm {
    Aes256Gcm::new(key.into())
}

fn xor(a: &[u8; 32], b: &[u8; 32]) -> Secret {
    Zeroizing::new(std::array::from_fn(|i| a[i] ^ b[i]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::super::Beacon;
    use super::*;

    fn fixed() -> Randomness {
        Randomness { key: Zeroizing::new([1; 32]), sigma: Zeroizing::new([2; 32]), nonce: [3; NONCE] }
    }

    fn vector(text: &str) -> Vec<u8> {
        hex::decode(text.trim()).unwrap()
    }

    /// drand's signature of quicknet's round 1000.
    fn round_1000() -> Signature {
        let hex = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";
        Signature::from_bytes(&vector(hex)).unwrap()
    }

    #[test]
    fn a_ciphertext_of_bittensor_drand_opens() {
        // made by bittensor-drand 2.0.0: encrypt_at_round(b"sealed until round 1000", 1000), without its envelope
        let ciphertext = vector(include_str!("../../tests/timelock/bittensor-drand.hex"));
        assert_eq!(*decrypt(&round_1000(), &ciphertext).unwrap(), b"sealed until round 1000");
    }

    #[test]
    fn the_same_randomness_makes_the_published_bytes() {
        let published = vector(include_str!("../../tests/timelock/tributary.hex"));
        let made = encrypt_with(&BeaconKey::quicknet(), 1000, b"tributary", &fixed()).unwrap();
        assert_eq!(hex::encode(&made), hex::encode(&published));
        assert_eq!(*decrypt(&round_1000(), &published).unwrap(), b"tributary");
    }

    #[test]
    fn only_the_rounds_own_signature_opens() {
        let beacon = Beacon::from_seed(b"embedded");
        let ciphertext = encrypt(&beacon.key(), 5, b"row").unwrap();
        assert_eq!(*decrypt(&beacon.sign(5), &ciphertext).unwrap(), b"row");
        for other in [beacon.sign(6), Beacon::from_seed(b"other").sign(5), round_1000()] {
            assert_eq!(decrypt(&other, &ciphertext), Err(TimelockError::NotOpened));
        }
        assert_ne!(encrypt(&beacon.key(), 5, b"row").unwrap(), ciphertext, "no two ciphertexts are alike");
    }

    #[test]
    fn every_flipped_byte_is_refused() {
        let beacon = Beacon::from_seed(b"embedded");
        let signature = beacon.sign(5);
        let ciphertext = encrypt_with(&beacon.key(), 5, b"row", &fixed()).unwrap();
        for place in 0..ciphertext.len() {
            let mut changed = ciphertext.clone();
            changed[place] ^= 1 << (place % 8);
            assert!(decrypt(&signature, &changed).is_err(), "byte {place}");
        }
    }

    #[test]
    fn each_malformation_has_its_name() {
        let beacon = Beacon::from_seed(b"embedded");
        let good = encrypt_with(&beacon.key(), 5, b"row", &fixed()).unwrap();
        let with = |places: &[(usize, u8)]| {
            let mut bytes = good.clone();
            places.iter().for_each(|&(place, value)| bytes[place] = value);
            decrypt(&beacon.sign(5), &bytes).unwrap_err()
        };
        let cut = |length| decrypt(&beacon.sign(5), &good[..length]).unwrap_err();
        for (length, part) in
            [(0, "point U"), (95, "point U"), (100, "masked σ"), (140, "wrapped key"), (190, "body"), (good.len() - 1, "suite")]
        {
            assert_eq!(cut(length), TimelockError::Truncated(part));
        }
        assert_eq!(with(&[(103, 0xff)]), TimelockError::Truncated("masked σ"), "a length of almost 2⁶⁴");
        assert_eq!(with(&[(good.len() - 1, b'-')]), TimelockError::Suite);
        assert_eq!(with(&[(0, 0)]), TimelockError::Point("ciphertext's point U"));
        assert_eq!(with(&[(good.len() - 37, 0)]), TimelockError::BodyChanged, "the tag's last byte");
        assert_eq!(with(&[(96, 31)]), TimelockError::Length { part: "masked σ", found: 31, expected: 32 });
        let long = [good.as_slice(), &[0]].concat();
        assert_eq!(decrypt(&beacon.sign(5), &long), Err(TimelockError::TrailingBytes(1)));
        let most = MAX_CIPHERTEXT - (good.len() - b"row".len());
        assert_eq!(encrypt(&beacon.key(), 5, &vec![0; most]).unwrap().len(), MAX_CIPHERTEXT);
        assert_eq!(encrypt(&beacon.key(), 5, &vec![0; most + 1]), Err(TimelockError::TooLong(MAX_CIPHERTEXT + 1)));
        assert_eq!(decrypt(&beacon.sign(5), &[0; MAX_CIPHERTEXT + 1]), Err(TimelockError::TooLong(MAX_CIPHERTEXT + 1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_is_sealed_opens_again(seed: [u8; 8], round: u64, plaintext in prop::collection::vec(any::<u8>(), 0..600)) {
            let beacon = Beacon::from_seed(&seed);
            let ciphertext = encrypt(&beacon.key(), round, &plaintext).unwrap();
            prop_assert_eq!(&*decrypt(&beacon.sign(round), &ciphertext).unwrap(), &plaintext);
        }

        #[test]
        fn noise_never_opens(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(decrypt(&round_1000(), &bytes).is_err());
        }
    }
}
