//! Submission: one signed extrinsic, sent until a finalized block includes it or it can be included no more.
//!
//! An extrinsic's bytes are made once and may be sent to several nodes: the same bytes are included once at most. Whether they were is read from the finalized
//! blocks themselves, so that a lost connection loses nothing. The node is asked to watch them too, only to hear early that its pool dropped them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::{Domain, Hotkey, Keypair};
use subxt::SubstrateConfig;
use subxt::config::DefaultExtrinsicParamsBuilder;
use subxt::config::substrate::{AccountId32, H256, MultiSignature};
use subxt::dynamic::Value;
use subxt::error::DispatchError;
use subxt::ext::scale_value::Composite;
use subxt::rpcs::client::RpcSubscription;
use subxt::rpcs::methods::legacy::TransactionStatus;
use subxt::transactions::Signer;

use super::Subtensor;
use super::fault::Fault;
use super::node::Node;
use crate::{Block, ChainError};

/// Blocks within which an extrinsic must be included.
const MORTAL: u64 = 32;
/// How often an extrinsic that was not included, or met a used nonce, is made anew.
const TRIES: u32 = 5;

/// A call by its names in the runtime.
#[derive(Clone, Debug)]
pub struct Call {
    /// The pallet, such as `SubtensorModule`.
    pub pallet: &'static str,
    /// The call, such as `set_weights`.
    pub name: &'static str,
    /// Its arguments, in order.
    pub arguments: Vec<Value>,
}

impl Call {
    /// Names it as `Pallet.call`.
    pub(super) fn title(&self) -> String {
        format!("{}.{}", self.pallet, self.name)
    }

    /// The call as an argument of another, as `Sudo.sudo` takes it.
    pub fn into_value(self) -> Value {
        subxt::dynamic::transaction(self.pallet, self.name, Composite::unnamed(self.arguments)).into_value()
    }
}

/// A key that signs extrinsics.
struct Extrinsics<'a>(&'a Keypair);

impl Signer<SubstrateConfig> for Extrinsics<'_> {
    fn account_id(&self) -> AccountId32 {
        AccountId32(self.0.hotkey().0)
    }

    fn sign(&self, payload: &[u8]) -> MultiSignature {
        // Substrate signs extrinsics in the same context as free text
        MultiSignature::Sr25519(self.0.sign(Domain::Text, payload))
    }
}

/// Signed bytes on their way.
#[derive(Clone, Debug)]
struct Signed {
    bytes: Vec<u8>,
    hash: H256,
    nonce: u64,
    /// The block they are made upon.
    from: u64,
}

/// The last block that may include one of the extrinsics.
fn last_block(sent: &[Signed]) -> u64 {
    sent.iter().map(|signed| signed.from + MORTAL).max().unwrap_or(0)
}

/// A node's words on what becomes of an extrinsic in its pool.
type Watch = RpcSubscription<TransactionStatus<H256>>;

/// What the pool said.
enum Pool {
    /// It has the bytes; the watch is `None` where the node offers none.
    Accepted(Option<Watch>),
    /// The nonce is used, by another extrinsic or by these same bytes, or they are too old.
    Outdated,
}

impl Subtensor {
    /// Submits a call and waits until a finalized block includes it; returns that block.
    ///
    /// What is signed anew keeps its nonce for as long as earlier bytes may still be included, so that the call is made once at most.
    ///
    /// # Errors
    /// [`ChainError::Refused`] with the runtime's own name and words where the pool or the dispatch refuses it, [`ChainError::NotIncluded`] if no block took it,
    /// [`ChainError::NotInThisRuntime`] for a name this runtime lacks, and what the link says.
    pub async fn submit(&self, signer: &Keypair, call: &Call) -> Result<Block, ChainError> {
        // one extrinsic at a time, so that this process never races itself for a nonce
        let _turn = self.submitting.lock().await;
        // of one nonce, so that one of them is included at most
        let mut sent: Vec<Signed> = Vec::new();
        for _ in 0..TRIES {
            let nonce = sent.first().map(|signed| signed.nonce);
            let signed = self.link.read(|node| async move { sign(&node, signer, call, nonce, self.link.head()).await }).await?;
            match self.send(&signed, call).await? {
                Pool::Accepted(watch) => {
                    sent.push(signed);
                    if let Some(block) = self.included(&sent, watch, call).await? {
                        return Ok(block);
                    }
                    tracing::warn!(call = call.title(), "no block included it; signing anew");
                }
                // by another process, if nothing was sent before
                Pool::Outdated if sent.is_empty() => tokio::time::sleep(self.link.patience().anew).await,
                Pool::Outdated => {
                    let last = last_block(&sent);
                    if let Some(block) = self.search(&sent, last, call).await? {
                        return Ok(block);
                    }
                    sent.clear();
                }
            }
        }
        Err(ChainError::NotIncluded { call: call.title(), tries: TRIES })
    }

    /// Hands the bytes to a node's pool.
    async fn send(&self, signed: &Signed, call: &Call) -> Result<Pool, ChainError> {
        let sent = &AtomicBool::new(false);
        let title = &call.title();
        let answer = self
            .link
            .read(|node| async move {
                let before = sent.swap(true, Ordering::Relaxed);
                match submit(&node, &signed.bytes).await {
                    Err(Fault::Refused { code, message }) => verdict(title, code, &message, before),
                    accepted => accepted,
                }
            })
            .await;
        match answer {
            // a pool may have them nevertheless, which only the blocks tell
            Err(ChainError::Unreachable(_)) if sent.load(Ordering::Relaxed) => Ok(Pool::Accepted(None)),
            answer => answer,
        }
    }

    /// The finalized block that includes one of the extrinsics; `None` if none did, and it seems that none will.
    async fn included(&self, sent: &[Signed], watch: Option<Watch>, call: &Call) -> Result<Option<Block>, ChainError> {
        let patience = self.link.patience();
        tokio::select! {
            found = tokio::time::timeout(patience.inclusion, self.search(sent, last_block(sent), call)) => {
                found.unwrap_or_else(|_| Err(ChainError::NotIncluded { call: call.title(), tries: 1 }))
            }
            // a block that took it may still be on its way to this client
            () = dropped(watch, patience.anew) => match self.search(sent, self.link.head().number, call).await? {
                None => self.validity(sent, call).await.map(|()| None),
                found => Ok(found),
            },
            // nodes may drop it without a word
            refusal = self.doubted(sent, call) => match self.search(sent, self.link.head().number, call).await? {
                None => Err(refusal),
                found => Ok(found),
            },
        }
    }

    /// Waits until the runtime finds an extrinsic invalid that is still on its way.
    async fn doubted(&self, sent: &[Signed], call: &Call) -> ChainError {
        loop {
            tokio::time::sleep(self.link.patience().doubt).await;
            if let Err(refusal @ ChainError::Refused { .. }) = self.validity(sent, call).await {
                return refusal;
            }
        }
    }

    /// Looks for the extrinsics in every block after they were made, up to `last`.
    async fn search(&self, sent: &[Signed], last: u64, call: &Call) -> Result<Option<Block>, ChainError> {
        let first = sent.first().map_or(last, |signed| signed.from);
        for number in first + 1..=last {
            if let Some(block) = self.find_at(number, sent, call).await? {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Block `number`, once it is finalized, if it includes one of the extrinsics. An outage is waited out.
    async fn find_at(&self, number: u64, sent: &[Signed], call: &Call) -> Result<Option<Block>, ChainError> {
        loop {
            self.link.next(number - 1).await;
            let found = async {
                let block = self.block_at(number).await?;
                let found = self.link.read(|node| async move { find(&node, &block, sent, call).await }).await?;
                Ok(found.then_some(block))
            };
            match found.await {
                Err(ChainError::Unreachable(reason)) => {
                    tracing::warn!(call = call.title(), reason, "sent; whether it was included is not known yet");
                    tokio::time::sleep(self.link.patience().anew).await;
                }
                found => return found,
            }
        }
    }

    /// Asks the runtime why the pool gave up the newest of the extrinsics; an error if it names a reason that signing anew would not mend.
    async fn validity(&self, sent: &[Signed], call: &Call) -> Result<(), ChainError> {
        /// `TransactionSource::External`.
        const EXTERNAL: u8 = 2;
        let Some(signed) = sent.last() else { return Ok(()) };
        let head = self.link.head().hash.0;
        let question = &[&[EXTERNAL], signed.bytes.as_slice(), &head].concat();
        let ask = |node: Arc<Node>| async move {
            Ok(node.rpc.state_call("TaggedTransactionQueue_validate_transaction", Some(question), Some(H256(head))).await?)
        };
        let answer = match self.link.read(ask).await {
            // a node that does not say leaves the extrinsic to be signed anew
            Err(ChainError::NodeRefused { .. }) => return Ok(()),
            answer => answer?,
        };
        match answer.as_slice() {
            // Err(Invalid(Custom(n)))
            [1, 0, 7, number, ..] => {
                let (name, why) =
                    custom(*number).unwrap_or(("InvalidTransaction", "for a reason of its own that this version has no words for"));
                Err(ChainError::Refused { call: call.title(), name: name.to_owned(), why: why.to_owned() })
            }
            [1, 0, 1, ..] => Err(ChainError::Refused {
                call: call.title(),
                name: "Payment".into(),
                why: "the signer cannot pay its fee: send some TAO to its address".into(),
            }),
            _ => Ok(()),
        }
    }
}

/// Hands bytes to a node's pool, watched if the node can.
async fn submit(node: &Node, bytes: &[u8]) -> Result<Pool, Fault> {
    const NO_METHOD: i32 = -32601;
    match node.rpc.author_submit_and_watch_extrinsic(bytes).await.map_err(Fault::from) {
        Ok(watch) => Ok(Pool::Accepted(Some(watch))),
        Err(Fault::Refused { code: NO_METHOD, .. }) => {
            node.rpc.author_submit_extrinsic(bytes).await?;
            Ok(Pool::Accepted(None))
        }
        Err(fault) => Err(fault),
    }
}

/// Waits until the pool gives up an extrinsic, and `pause` more; for ever if it does not say.
async fn dropped(watch: Option<Watch>, pause: Duration) {
    if let Some(mut watch) = watch {
        while let Some(Ok(status)) = watch.next().await {
            if let TransactionStatus::Invalid | TransactionStatus::Dropped | TransactionStatus::Usurped(_) = status {
                return tokio::time::sleep(pause).await;
            }
        }
    }
    std::future::pending().await
}

/// Signs a call with a nonce, or the account's next one, upon the newest block.
async fn sign(node: &Node, signer: &Keypair, call: &Call, nonce: Option<u64>, head: Block) -> Result<Signed, Fault> {
    let at = node.at(&head).await?;
    let nonce = match nonce {
        Some(nonce) => nonce,
        None => node.nonce(signer.hotkey()).await?,
    };
    let parameters =
        DefaultExtrinsicParamsBuilder::new().nonce(nonce).mortal_from_unchecked(MORTAL, head.number, H256(head.hash.0)).build();
    let transaction = subxt::dynamic::transaction(call.pallet, call.name, call.arguments.clone());
    let mut signable = at.transactions().create_signable_offline(&transaction, parameters)?;
    let signed = signable.sign(&Extrinsics(signer))?;
    Ok(Signed { hash: signed.hash(), bytes: signed.into_encoded(), nonce, from: head.number })
}

/// Whether the block includes one of the extrinsics, if so with success.
async fn find(node: &Node, block: &Block, sent: &[Signed], call: &Call) -> Result<bool, Fault> {
    let Some(included) = node.find(block, |hash| sent.iter().any(|signed| signed.hash == hash)).await? else { return Ok(false) };
    let Some(failure) = included.failure else { return Ok(true) };
    let at = node.at(block).await?;
    let (name, why) = match DispatchError::decode_from(&failure, at.metadata()) {
        Ok(DispatchError::Module(error)) => match error.details() {
            Ok(details) => (details.variant.name.clone(), details.variant.docs.join(" ")),
            Err(_) => (error.details_string(), String::new()),
        },
        Ok(other) => (other.to_string(), String::new()),
        Err(error) => (error.to_string(), String::new()),
    };
    Err(ChainError::Refused { call: call.title(), name, why }.into())
}

/// What a pool's refusal means. `before`: the same bytes were sent before, so that they may be the ones it knows.
fn verdict(call: &str, code: i32, message: &str, before: bool) -> Result<Pool, Fault> {
    const INVALID: i32 = 1010;
    const BANNED: i32 = 1012;
    const KNOWN: i32 = 1013;
    const LOW_PRIORITY: i32 = 1014;
    let plain = message.to_lowercase();
    // the nonce is used, or the blocks are past within which the bytes are valid
    let outdated = ["outdated", "stale", "ancient birth block"].iter().any(|words| plain.contains(words));
    match code {
        KNOWN | BANNED => Ok(Pool::Accepted(None)),
        _ if outdated && before => Ok(Pool::Accepted(None)),
        LOW_PRIORITY => Ok(Pool::Outdated),
        _ if outdated || plain.contains("future") => Ok(Pool::Outdated),
        INVALID => {
            let (name, why) = custom_number(&plain).and_then(custom).unwrap_or(("InvalidTransaction", message));
            Err(ChainError::Refused { call: call.to_owned(), name: name.to_owned(), why: why.to_owned() }.into())
        }
        _ => Err(ChainError::Refused { call: call.to_owned(), name: format!("PoolError{code}"), why: message.to_owned() }.into()),
    }
}

/// The number in a message such as `{"invalid":{"custom":6}}` or `Custom error: 6`.
fn custom_number(message: &str) -> Option<u8> {
    let digits = message.split("custom").nth(1)?;
    let number: String = digits.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    number.parse().ok()
}

/// Subtensor's own reasons (`CustomTransactionError`).
fn custom(number: u8) -> Option<(&'static str, &'static str)> {
    Some(match number {
        1 => ("StakeAmountTooLow", "the amount or the signer's stake is below what the subnet asks for"),
        2 => ("BalanceTooLow", "the signer's balance does not cover it"),
        3 => ("SubnetNotExists", "the chain has no such subnet"),
        4 => ("HotkeyAccountDoesntExist", "nobody ever registered or staked behind this hotkey"),
        5 => ("NotEnoughStakeToWithdraw", "there is less stake behind the hotkey"),
        6 => (
            "RateLimitExceeded",
            "too soon after the signer's last such call, or too many registrations in this interval; wait some blocks",
        ),
        7 => ("InsufficientLiquidity", "the subnet's pool cannot serve this amount"),
        8 => ("SlippageTooHigh", "the price would move beyond the limit"),
        9 => ("TransferDisallowed", "the subnet does not allow transfers"),
        10 => ("HotKeyNotRegisteredInNetwork", "the hotkey has no uid in the subnet, register it first"),
        15 => ("InvalidRevealRound", "the reveal round is not one that the chain waits for"),
        16 => ("CommitNotFound", "the chain has no such commit"),
        17 => ("CommitBlockNotInRevealRange", "the commit's epoch to reveal is not now"),
        18 => ("InputLengthsUnequal", "uids and weights differ in number"),
        19 => ("UidNotFound", "the hotkey has no uid in the subnet"),
        255 => ("BadRequest", "the runtime refuses it without a reason"),
        _ => return None,
    })
}

/// An account as `SubtensorModule` takes it.
pub(super) fn account(hotkey: Hotkey) -> Value {
    Value::from_bytes(hotkey.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: i32, message: &str) -> String {
        match verdict("Pallet.call", code, message, false) {
            Ok(Pool::Accepted(_)) => "accepted".into(),
            Ok(Pool::Outdated) => "outdated".into(),
            Err(Fault::Answer(error)) => match *error {
                ChainError::Refused { name, .. } => name,
                other => other.to_string(),
            },
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn a_pools_refusals_have_names() {
        assert_eq!(refusal(1010, r#"Invalid Transaction {"invalid":{"custom":6}}"#), "RateLimitExceeded");
        assert_eq!(refusal(1010, "Invalid Transaction \"Custom error: 1\""), "StakeAmountTooLow");
        assert_eq!(refusal(1010, "Invalid Transaction \"Transaction has a bad signature\""), "InvalidTransaction");
        assert_eq!(refusal(1010, "Invalid Transaction \"Transaction is outdated\""), "outdated");
        assert_eq!(refusal(1010, r#"{"invalid":{"stale":null}}"#), "outdated");
        assert_eq!(refusal(1010, "Invalid Transaction \"Transaction has an ancient birth block\""), "outdated");
        assert_eq!(refusal(1014, "Priority is too low: (1 vs 1)"), "outdated");
        assert_eq!(refusal(1013, "Transaction Already Imported"), "accepted");
        assert_eq!(refusal(1016, "Immediately Dropped"), "PoolError1016");
    }

    #[test]
    fn bytes_sent_before_may_be_the_ones_that_used_the_nonce() {
        assert!(matches!(verdict("c", 1010, "Transaction is outdated", true), Ok(Pool::Accepted(None))));
    }
}
