//! Why a chain refuses or fails. Refusals carry the names that Subtensor's pallets give them.

use protocol::Hotkey;

use crate::MAX_COMMITMENT;
use crate::ledger::LedgerError;

/// What a [`Chain`](crate::Chain) answers instead of a result.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// An address that names no chain.
    #[error("{0:?} names no chain: write ledger:///absolute/path.sqlite or ledger:relative/path.sqlite")]
    Url(String),
    /// A Subtensor node, which this version cannot speak to.
    #[error("{0:?} is a Subtensor node, which this version does not support yet: use ledger:///path/to/file.sqlite")]
    SubtensorUnsupported(String),
    /// No such subnet on this chain.
    #[error("SubnetNotExists: this chain has no subnet {0}")]
    SubnetNotExists(u16),
    /// A block that is not finalized yet.
    #[error("block {block} is not there yet, the newest finalized block is {head}")]
    FutureBlock {
        /// The block asked for.
        block: u64,
        /// The newest one.
        head: u64,
    },
    /// The signer has no uid in the subnet.
    #[error("HotKeyNotRegisteredInSubNet: {hotkey} has no uid in subnet {netuid}, register it first")]
    HotKeyNotRegisteredInSubNet {
        /// The signer.
        hotkey: Hotkey,
        /// The subnet.
        netuid: u16,
    },
    /// Only registered hotkeys may put bytes or a bucket on the chain.
    #[error("AccountNotAllowedCommit: {hotkey} has no uid in subnet {netuid}, register it first")]
    AccountNotAllowedCommit {
        /// The signer.
        hotkey: Hotkey,
        /// The subnet.
        netuid: u16,
    },
    /// Stake below the subnet's threshold.
    #[error("NotEnoughStakeToSetWeights: {stake} rao staked, the subnet asks for {threshold}")]
    NotEnoughStakeToSetWeights {
        /// The signer's stake, in rao.
        stake: u64,
        /// The subnet's threshold, in rao.
        threshold: u64,
    },
    /// Only permitted validators may set weights.
    #[error("NeuronNoValidatorPermit: uid {0} may not set weights: permits go to the largest stakes at each epoch")]
    NeuronNoValidatorPermit(u16),
    /// Weights set again before the rate limit passed.
    #[error("SettingWeightsTooFast: the subnet takes weights of uid {uid} again from block {next}")]
    SettingWeightsTooFast {
        /// The signer's uid.
        uid: u16,
        /// The first block that may include its next weights.
        next: u64,
    },
    /// A weight vector without entries.
    #[error("WeightVecLengthIsLow: a weight vector needs at least one entry")]
    WeightVecLengthIsLow,
    /// A uid that appears twice.
    #[error("DuplicateUids: uid {0} appears twice in the weights")]
    DuplicateUids(u16),
    /// A uid that the subnet does not have.
    #[error("UidVecContainInvalidOne: the subnet has no uid {0}")]
    UidVecContainInvalidOne(u16),
    /// Only the owner's uid may weigh itself.
    #[error("SelfWeight: uid {0} may not set a weight for itself")]
    SelfWeight(u16),
    /// More bytes than a commitment may have.
    #[error("SpaceLimitExceeded: a commitment has 1 to {MAX_COMMITMENT} bytes, this one has {0}")]
    SpaceLimitExceeded(usize),
    /// A bucket address that is empty, too long or not printable.
    #[error("a bucket's address has 1 to {most} printable ASCII characters on this chain, this one has {bytes} bytes")]
    BucketUrl {
        /// Its length.
        bytes: usize,
        /// The longest that this chain takes.
        most: usize,
    },
    /// The call's signature is not the named signer's.
    #[error("BadProof: the call's signature is not that of {0}")]
    BadProof(Hotkey),
    /// The subnet has no uid left.
    #[error("NoNeuronIdAvailable: the subnet has all its {0} uids")]
    NoNeuronIdAvailable(u16),
    /// More stake than there is currency.
    #[error("{0} rao are more than the currency's supply")]
    StakeTooLarge(u64),
    /// A storage, call or runtime function that this chain does not have.
    #[error("{what} is not in this runtime ({runtime}): the chain is of another version, or does not offer it")]
    NotInThisRuntime {
        /// Its name, such as `SubtensorModule.set_weights`.
        what: String,
        /// The chain's name and spec version.
        runtime: String,
    },
    /// The embedded ledger's own failures.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
