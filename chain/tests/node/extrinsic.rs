//! Signed extrinsics, version 4: decoded by this node's own types, with every byte that is signed checked.

use parity_scale_codec::{Compact, Decode, DecodeAll, Encode, Error, Input};
use protocol::{Domain, Keypair};
use scale_info::build::{Fields, Variants};
use scale_info::{Path, Type, TypeInfo};
use sp_crypto_hashing::blake2_256;

use super::metadata::{Runtime, TRANSACTION_VERSION};
use super::types::{AccountId32, H256, MultiAddress, MultiSignature, RuntimeCall};

/// The blocks in which an extrinsic is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    Immortal,
    /// For `period` blocks from each block that is `phase` modulo `period`.
    Mortal {
        period: u64,
        phase: u64,
    },
}

impl Era {
    /// The block upon which an extrinsic that is valid in block `now` was made.
    pub fn birth(&self, now: u64) -> u64 {
        match *self {
            Self::Immortal => 0,
            Self::Mortal { period, phase } => (now.max(phase) - phase) / period * period + phase,
        }
    }
}

impl Decode for Era {
    fn decode<I: Input>(input: &mut I) -> Result<Self, Error> {
        let first = input.read_byte()?;
        if first == 0 {
            return Ok(Self::Immortal);
        }
        let both = u64::from(first) + 256 * u64::from(input.read_byte()?);
        let period = 2u64 << (both % 16);
        let phase = (both >> 4) * (period >> 12).max(1);
        if period >= 4 && phase < period { Ok(Self::Mortal { period, phase }) } else { Err("no such era".into()) }
    }
}

impl Encode for Era {
    fn encode(&self) -> Vec<u8> {
        match *self {
            Self::Immortal => vec![0],
            Self::Mortal { period, phase } => {
                let log = period.trailing_zeros() as u16 - 1;
                (log | ((phase / (period >> 12).max(1)) << 4) as u16).encode()
            }
        }
    }
}

/// As the real one: a variant for each first byte, since only `Immortal` has no second.
impl TypeInfo for Era {
    type Identity = Self;

    fn type_info() -> Type {
        let mortal = |variants: Variants<_>, first: u8| {
            let name: &'static str = Box::leak(format!("Mortal{first}").into_boxed_str());
            variants.variant(name, |v| v.index(first).fields(Fields::unnamed().field(|f| f.ty::<u8>())))
        };
        let immortal = Variants::new().variant("Immortal", |v| v.index(0));
        Type::builder().path(Path::new("Era", module_path!())).variant((1..=255).fold(immortal, mortal))
    }
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub struct Nothing;
#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub struct CheckMortality(pub Era);
#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub struct CheckNonce(#[codec(compact)] pub u32);
#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub struct ChargeTransactionPayment(#[codec(compact)] pub u64);
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct CheckMetadataHash {
    pub mode: Mode,
}
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub enum Mode {
    Disabled,
    Enabled,
}

/// The extensions' own bytes, in the order of the metadata; empty ones have none.
type Extra = (CheckMortality, CheckNonce, ChargeTransactionPayment, CheckMetadataHash);

/// A signed extrinsic.
#[derive(Clone, Debug)]
pub struct Extrinsic {
    pub bytes: Vec<u8>,
    pub hash: [u8; 32],
    pub signer: AccountId32,
    pub nonce: u32,
    pub call: RuntimeCall,
    /// The call's bytes as they were signed.
    pub call_data: Vec<u8>,
    signature: [u8; 64],
    extra: Extra,
}

/// Why a pool refuses bytes, in the words that real nodes use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    BadProof,
    Stale,
    AncientBirthBlock,
}

impl Invalid {
    pub fn words(self) -> &'static str {
        match self {
            Self::BadProof => "Transaction has a bad signature",
            Self::Stale => "Transaction is outdated",
            Self::AncientBirthBlock => "Transaction has an ancient birth block",
        }
    }
}

impl Extrinsic {
    /// Reads an extrinsic made for `runtime`.
    pub fn decode(bytes: &[u8], runtime: &Runtime) -> Result<Self, Error> {
        let body = Vec::<u8>::decode_all(&mut &bytes[..])?;
        let input = &mut &body[..];
        if input.read_byte()? != 0x84 {
            return Err("not a signed extrinsic of version 4".into());
        }
        let MultiAddress::Id(signer) = MultiAddress::decode(input)?;
        let MultiSignature::Sr25519(signature) = MultiSignature::decode(input)?;
        let extra = Extra::decode(input)?;
        let call_data = input.to_vec();
        let mut canonical = call_data.clone();
        if let Some(pallet) = canonical.first_mut() {
            *pallet = pallet.checked_sub(runtime.shift).ok_or("a pallet that this runtime lacks")?;
        }
        let call = RuntimeCall::decode_all(&mut &canonical[..])?;
        Ok(Self { hash: blake2_256(bytes), bytes: bytes.to_vec(), signer, nonce: extra.1.0, call, call_data, signature, extra })
    }

    /// Checks what is signed: the call, the extensions, the runtime's versions, the genesis and the block upon which it was made, in a block after which
    /// `now` is the next.
    pub fn verify(&self, runtime: &Runtime, now: u64, hash_of: impl Fn(u64) -> Option<[u8; 32]>) -> Result<(), Invalid> {
        let genesis = hash_of(0).map(H256).ok_or(Invalid::AncientBirthBlock)?;
        let birth = hash_of(self.extra.0.0.birth(now)).map(H256).ok_or(Invalid::AncientBirthBlock)?;
        let payload = payload(&self.call_data, &self.extra, runtime, genesis, birth);
        let key = schnorrkel::PublicKey::from_bytes(&self.signer.0).map_err(|_| Invalid::BadProof)?;
        let signature = schnorrkel::Signature::from_bytes(&self.signature).map_err(|_| Invalid::BadProof)?;
        key.verify_simple(b"substrate", &payload, &signature).map_err(|_| Invalid::BadProof)
    }
}

/// The unsigned extrinsic by which a block's author says the time.
pub fn timestamp(now: u64, runtime: &Runtime) -> Vec<u8> {
    let body = [vec![4, 2 + runtime.shift, 0], Compact(now).encode()].concat();
    body.encode()
}

/// An extrinsic of this node's own making, immortal and with nonce `nonce`.
pub fn signed(key: &Keypair, nonce: u32, call: RuntimeCall, runtime: &Runtime, genesis: [u8; 32]) -> Vec<u8> {
    let extra: Extra =
        (CheckMortality(Era::Immortal), CheckNonce(nonce), ChargeTransactionPayment(0), CheckMetadataHash { mode: Mode::Disabled });
    let mut call = call.encode();
    call[0] += runtime.shift;
    let payload = payload(&call, &extra, runtime, H256(genesis), H256(genesis));
    let signature = MultiSignature::Sr25519(key.sign(Domain::Text, &payload));
    let address = MultiAddress::Id(AccountId32(key.hotkey().0));
    [vec![0x84], (address, signature, extra).encode(), call].concat().encode()
}

/// What is signed.
fn payload(call: &[u8], extra: &Extra, runtime: &Runtime, genesis: H256, birth: H256) -> Vec<u8> {
    let metadata_hash: Option<[u8; 32]> = None;
    let additional = (runtime.spec_version, TRANSACTION_VERSION, genesis, birth, metadata_hash);
    let payload = [call.to_vec(), extra.encode(), additional.encode()].concat();
    if payload.len() > 256 { blake2_256(&payload).to_vec() } else { payload }
}
