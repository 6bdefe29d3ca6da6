//! Why a chain refuses or fails. Refusals carry the names that Subtensor's pallets give them.

use protocol::{Digest, Hotkey};
use serde::{Deserialize, Serialize};

use crate::MAX_COMMITMENT;
use crate::ledger::LedgerError;
use crate::timelock::TimelockError;

/// What a [`Chain`](crate::Chain) answers instead of a result.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum ChainError {
    /// An address that names no chain.
    #[error(
        "{0:?} names no chain: write ledger:///absolute/path.sqlite, ledger:relative/path.sqlite, http://HOST:PORT of a served ledger, or the URLs of Subtensor nodes, ws:// or wss://, separated by commas"
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
    /// Weights committed again before the rate limit passed.
    #[error("CommittingWeightsTooFast: the subnet takes commits of uid {uid} again from block {next}")]
    CommittingWeightsTooFast {
        /// The signer's uid.
        uid: u16,
        /// The first block that may include its next commit.
        next: u64,
    },
    /// A row with fewer entries than the subnet's `min_allowed_weights`, or none.
    #[error("WeightVecLengthIsLow: the row has fewer entries than the subnet's min_allowed_weights")]
    WeightVecLengthIsLow,
    /// A row of which one entry has more than the subnet's `max_weight_limit`.
    #[error("MaxWeightExceeded: an entry's share of the row is above the subnet's max_weight_limit")]
    MaxWeightExceeded,
    /// A version key below the subnet's.
    #[error("IncorrectWeightVersionKey: the weights name an older version than the subnet asks for, update this software")]
    IncorrectWeightVersionKey,
    /// Weights in the open where the subnet wants them committed first.
    #[error("CommitRevealEnabled: the subnet takes weights only by commit and reveal")]
    CommitRevealEnabled,
    /// A commit or reveal where weights are set in the open.
    #[error("CommitRevealDisabled: the subnet takes weights in the open")]
    CommitRevealDisabled,
    /// More commits than a hotkey may have open.
    #[error("TooManyUnrevealedCommits: reveal the weights committed earlier first")]
    TooManyUnrevealedCommits,
    /// A reveal without an open commit.
    #[error("NoWeightsCommitFound: no commit of this hotkey waits for its reveal")]
    NoWeightsCommitFound,
    /// A reveal before its epoch.
    #[error("RevealTooEarly: this commit is to be revealed in a later epoch")]
    RevealTooEarly,
    /// A reveal after its epoch.
    #[error("ExpiredWeightCommit: the epoch for revealing this commit is over, commit anew")]
    ExpiredWeightCommit,
    /// Revealed weights that are not those committed.
    #[error("InvalidRevealCommitHashNotMatch: no open commit is that of these weights, salt and version key")]
    InvalidRevealCommitHashNotMatch,
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
    #[error("NoNeuronIdAvailable: none of the subnet's {0} uids can be replaced")]
    NoNeuronIdAvailable(u16),
    /// A hotkey that another coldkey registered first.
    #[error("NonAssociatedColdKey: {0} belongs to another coldkey")]
    NonAssociatedColdKey(Hotkey),
    /// A balance below what a call costs.
    #[error("NotEnoughBalanceToStake: the coldkey has {balance} rao, the call needs {needed}")]
    NotEnoughBalanceToStake {
        /// What the coldkey has, in rao.
        balance: u64,
        /// What the call takes, in rao.
        needed: u64,
    },
    /// A stake below what is to be taken from it.
    #[error("NotEnoughStakeToWithdraw: the coldkey has {staked} rao behind this hotkey, {asked} were asked for")]
    NotEnoughStakeToWithdraw {
        /// The coldkey's stake behind the hotkey, in rao.
        staked: u64,
        /// What was asked for, in rao.
        asked: u64,
    },
    /// An amount too small to move.
    #[error("AmountTooLow: {0} rao are too little to move")]
    AmountTooLow(u64),
    /// More stake than there is currency.
    #[error("{0} rao are more than the currency's supply")]
    StakeTooLarge(u64),
    /// A call signed for a block that is over or not next.
    #[error("StaleCall: the call was signed for block {block}, the next block is {next}: sign it again")]
    StaleCall {
        /// The block it was signed for.
        block: u64,
        /// The block that takes calls now.
        next: u64,
    },
    /// A call signed for another chain.
    #[error("OtherGenesis: the call was signed for the chain {found}, this one is {expected}")]
    OtherGenesis {
        /// The genesis that the call names.
        found: Digest,
        /// The chain's genesis.
        expected: Digest,
    },
    /// A call whose body cannot be read.
    #[error("MalformedCall: the body of this {0} call cannot be read")]
    MalformedCall(String),
    /// A server that does not answer, or not as a ledger does.
    #[error("the ledger at {url} {what}")]
    Server {
        /// Its address.
        url: String,
        /// What happened.
        what: String,
    },
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
    /// A row that cannot be sealed under a timelock.
    #[error(transparent)]
    #[serde(skip)]
    Timelock(#[from] TimelockError),
    /// The embedded ledger's own failures.
    #[error(transparent)]
    #[serde(skip)]
    Ledger(#[from] LedgerError),
}
