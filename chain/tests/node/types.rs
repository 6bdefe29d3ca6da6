//! The runtime's types, as far as the client meets them: names, indices and layouts are the real runtime's.

use parity_scale_codec::{Decode, Encode, Error, Input, Output};
use scale_info::build::{Fields, Variants};
use scale_info::{Path, Type, TypeInfo};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Encode, Decode, TypeInfo)]
pub struct AccountId32(pub [u8; 32]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct H256(pub [u8; 32]);

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct BoundedVec<T>(pub Vec<T>);

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub enum RuntimeCall {
    #[codec(index = 0)]
    System(SystemCall),
    #[codec(index = 2)]
    Timestamp(TimestampCall),
    #[codec(index = 7)]
    SubtensorModule(SubtensorCall),
    #[codec(index = 11)]
    Utility(UtilityCall),
    #[codec(index = 18)]
    Commitments(CommitmentsCall),
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
#[allow(non_camel_case_types)]
pub enum SystemCall {
    #[codec(index = 0)]
    remark { remark: Vec<u8> },
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
#[allow(non_camel_case_types)]
pub enum TimestampCall {
    #[codec(index = 0)]
    set {
        #[codec(compact)]
        now: u64,
    },
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
#[allow(non_camel_case_types)]
pub enum SubtensorCall {
    #[codec(index = 0)]
    set_weights { netuid: u16, dests: Vec<u16>, weights: Vec<u16>, version_key: u64 },
    #[codec(index = 2)]
    add_stake { hotkey: AccountId32, netuid: u16, amount_staked: u64 },
    #[codec(index = 7)]
    burned_register { netuid: u16, hotkey: AccountId32 },
    #[codec(index = 96)]
    commit_weights { netuid: u16, commit_hash: H256 },
    #[codec(index = 97)]
    reveal_weights { netuid: u16, uids: Vec<u16>, values: Vec<u16>, salt: Vec<u16>, version_key: u64 },
    #[codec(index = 113)]
    commit_timelocked_weights { netuid: u16, commit: BoundedVec<u8>, reveal_round: u64, commit_reveal_version: u16 },
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
#[allow(non_camel_case_types)]
pub enum UtilityCall {
    #[codec(index = 0)]
    batch { calls: Vec<RuntimeCall> },
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
#[allow(non_camel_case_types)]
pub enum CommitmentsCall {
    #[codec(index = 0)]
    set_commitment { netuid: u16, info: CommitmentInfo },
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct CommitmentInfo {
    pub fields: BoundedVec<Data>,
}

/// A field of a commitment: nothing, or up to 128 bytes whose length is the variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    None,
    Raw(Vec<u8>),
}

impl Encode for Data {
    fn encode_to<T: Output + ?Sized>(&self, out: &mut T) {
        match self {
            Self::None => out.push_byte(0),
            Self::Raw(bytes) => {
                out.push_byte(bytes.len() as u8 + 1);
                out.write(bytes);
            }
        }
    }
}

impl Decode for Data {
    fn decode<I: Input>(input: &mut I) -> Result<Self, Error> {
        match input.read_byte()? {
            0 => Ok(Self::None),
            variant @ 1..=129 => {
                let mut bytes = vec![0; usize::from(variant) - 1];
                input.read(&mut bytes)?;
                Ok(Self::Raw(bytes))
            }
            _ => Err("a variant of commitments' data that this node does not know".into()),
        }
    }
}

/// `None`, then `Raw0([u8; 0])` to `Raw128([u8; 128])`.
macro_rules! data_type {
    ($($n:literal)*) => {
        Type::builder().path(Path::new("Data", module_path!())).variant(
            Variants::new()
                .variant("None", |v| v.index(0))
                $(.variant(concat!("Raw", $n), |v| v.index($n + 1).fields(Fields::unnamed().field(|f| f.ty::<[u8; $n]>()))))*,
        )
    };
}

impl TypeInfo for Data {
    type Identity = Self;

    #[rustfmt::skip]
    fn type_info() -> Type {
        data_type!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127 128)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct Registration {
    pub deposit: u64,
    pub block: u32,
    pub info: CommitmentInfo,
}

#[derive(Clone, Debug, Default, Encode, Decode, TypeInfo)]
pub struct AccountInfo {
    pub nonce: u32,
    pub consumers: u32,
    pub providers: u32,
    pub sufficients: u32,
    pub data: AccountData,
}

#[derive(Clone, Debug, Default, Encode, Decode, TypeInfo)]
pub struct AccountData {
    pub free: u64,
    pub reserved: u64,
    pub frozen: u64,
    pub flags: u128,
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub struct EventRecord {
    pub phase: Phase,
    pub event: RuntimeEvent,
    pub topics: Vec<H256>,
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub enum Phase {
    ApplyExtrinsic(u32),
    Finalization,
    Initialization,
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub enum RuntimeEvent {
    #[codec(index = 0)]
    System(SystemEvent),
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub enum SystemEvent {
    #[codec(index = 0)]
    ExtrinsicSuccess { dispatch_info: DispatchEventInfo },
    #[codec(index = 1)]
    ExtrinsicFailed { dispatch_error: DispatchError, dispatch_info: DispatchEventInfo },
}

#[derive(Clone, Debug, Default, Encode, Decode, TypeInfo)]
pub struct DispatchEventInfo {
    pub weight: Weight,
    pub class: DispatchClass,
    pub pays_fee: Pays,
}

#[derive(Clone, Debug, Default, Encode, Decode, TypeInfo)]
pub struct Weight {
    #[codec(compact)]
    pub ref_time: u64,
    #[codec(compact)]
    pub proof_size: u64,
}

#[derive(Clone, Debug, Default, Encode, Decode, TypeInfo)]
pub enum DispatchClass {
    #[default]
    Normal,
    Operational,
    Mandatory,
}

#[derive(Clone, Debug, Default, Encode, Decode, TypeInfo)]
pub enum Pays {
    #[default]
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub enum DispatchError {
    #[codec(index = 0)]
    Other,
    #[codec(index = 2)]
    BadOrigin,
    #[codec(index = 3)]
    Module(ModuleError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, TypeInfo)]
pub struct ModuleError {
    pub index: u8,
    pub error: [u8; 4],
}

/// Errors of `SubtensorModule`, pallet 7.
#[derive(Clone, Copy, Debug, Encode, Decode, TypeInfo)]
#[scale_info(capture_docs = "always")]
pub enum SubtensorError {
    /// The hotkey has no uid here.
    #[codec(index = 5)]
    HotKeyNotRegisteredInSubNet,
    /// The hotkey has less stake than weights need.
    #[codec(index = 11)]
    NotEnoughStakeToSetWeights,
    /// The coldkey has less than the amount.
    #[codec(index = 13)]
    NotEnoughBalanceToStake,
    /// The uid holds no permit.
    #[codec(index = 16)]
    NeuronNoValidatorPermit,
    /// As many uids as values.
    #[codec(index = 17)]
    WeightVecNotEqualSize,
    /// A uid twice.
    #[codec(index = 18)]
    DuplicateUids,
    /// A uid that is nobody's.
    #[codec(index = 19)]
    UidVecContainInvalidOne,
    /// Too few entries.
    #[codec(index = 20)]
    WeightVecLengthIsLow,
    /// The hotkey has a uid already.
    #[codec(index = 22)]
    HotKeyAlreadyRegisteredInSubNet,
    /// The rate limit has not passed.
    #[codec(index = 29)]
    SettingWeightsTooFast,
    /// The version key is another.
    #[codec(index = 30)]
    IncorrectWeightVersionKey,
    /// Nothing was committed.
    #[codec(index = 52)]
    NoWeightsCommitFound,
    /// What is revealed was not committed.
    #[codec(index = 53)]
    InvalidRevealCommitHashNotMatch,
    /// Weights must be committed first.
    #[codec(index = 54)]
    CommitRevealEnabled,
    /// Weights are set in the open.
    #[codec(index = 55)]
    CommitRevealDisabled,
    /// No subnet of this number.
    #[codec(index = 76)]
    SubnetNotExists,
    /// The epoch to reveal is yet to come.
    #[codec(index = 79)]
    RevealTooEarly,
    /// Timelocked weights of another version.
    #[codec(index = 110)]
    IncorrectCommitRevealVersion,
}

/// Errors of `Commitments`, pallet 18.
#[derive(Clone, Copy, Debug, Encode, Decode, TypeInfo)]
#[scale_info(capture_docs = "always")]
pub enum CommitmentsError {
    /// More than three fields.
    #[codec(index = 0)]
    TooManyFieldsInCommitmentInfo,
    /// The account has no uid here.
    #[codec(index = 1)]
    AccountNotAllowedCommit,
    /// Too many bytes in this epoch.
    #[codec(index = 2)]
    SpaceLimitExceeded,
}

fn module(index: u8, error: impl Encode) -> DispatchError {
    DispatchError::Module(ModuleError { index, error: [error.encode()[0], 0, 0, 0] })
}

impl From<SubtensorError> for DispatchError {
    fn from(error: SubtensorError) -> Self {
        module(7, error)
    }
}

impl From<CommitmentsError> for DispatchError {
    fn from(error: CommitmentsError) -> Self {
        module(18, error)
    }
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub enum MultiAddress {
    #[codec(index = 0)]
    Id(AccountId32),
}

#[derive(Clone, Debug, Encode, Decode, TypeInfo)]
pub enum MultiSignature {
    #[codec(index = 1)]
    Sr25519([u8; 64]),
}
