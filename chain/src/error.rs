//! Why a chain refuses or fails. Refusals carry the names that Subtensor's pallets give them.

use protocol::{Digest, Hotkey};

use crate::MAX_COMMITMENT;
use crate::ledger::LedgerError;

/// What a [`Chain`](crate::Chain) answers instead of a result.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// An address that names no chain.
    #[error(
        "{0:?} names no chain: write ledger:///absolute/path.sqlite, ledger:relative/path.sqlite, or the URLs of Subtensor nodes, ws:// or wss://, separated by commas"
    )]
    Url(String),
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
    /// No node of the chain can be used.
    #[error("no node of the chain answers as it should: {0}")]
    Unreachable(String),
    /// A node of some other chain.
    #[error("{url} is a node of another chain: its genesis is {found}, not {expected}")]
    WrongGenesis {
        /// The node.
        url: String,
        /// Its genesis.
        found: Digest,
        /// The chain's.
        expected: Digest,
    },
    /// A node answered a request with a refusal.
    #[error("{url} refuses the request: {message} ({code})")]
    NodeRefused {
        /// The node.
        url: String,
        /// JSON-RPC's code.
        code: i32,
        /// The node's words.
        message: String,
    },
    /// An answer that is not of the form that the node's own metadata says, or that this client expects.
    #[error("what {url} answers cannot be read: {reason}")]
    Undecodable {
        /// The node.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The runtime refuses a call, at the pool or at its dispatch.
    #[error("{name}: {call} is refused{}", if why.is_empty() { String::new() } else { format!(": {why}") })]
    Refused {
        /// The call, as `Pallet.call`.
        call: String,
        /// The runtime's name of the reason.
        name: String,
        /// The runtime's words, if it has any.
        why: String,
    },
    /// A call that no block took.
    #[error("{call} was in no finalized block after {tries} tries: the chain's blocks may be full or halted; try again")]
    NotIncluded {
        /// The call, as `Pallet.call`.
        call: String,
        /// How often it was signed and sent.
        tries: u32,
    },
    /// A row of weights that the chain stores otherwise than it was sent.
    #[error("the weights that block {block} stored ({stored} entries) are not those that were sent")]
    WeightsDiffer {
        /// The block that included them.
        block: u64,
        /// How many entries it stored.
        stored: usize,
    },
    /// The embedded ledger's own failures.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
