//! Bittensor's Subtensor, over JSON-RPC: finalized blocks, neurons, commitments, weights.
//!
//! Everything is read as of one finalized block and found by name in the node's own metadata, since runtimes drift: what this runtime lacks is
//! [`ChainError::NotInThisRuntime`]. Several nodes may be given; requests go to one of them, and to the next where it fails, lags or belongs to another chain.

pub mod dev;
mod fault;
mod link;
mod node;
mod patience;
mod record;
mod refusals;
mod submit;
mod timelocked;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use protocol::{Digest, Hotkey, Keypair};
pub use subxt::dynamic::Value;

use link::Link;
use node::{Metagraph, Node};
pub use patience::Patience;
use record::{MAX_URL, Record};
pub use submit::Call;
use submit::account;

use crate::timelock::BeaconKey;
use crate::weights::{IsOwner, check_entries};
use crate::{Block, Chain, ChainError, CommitReveal, Commitment, Earnings, MAX_COMMITMENT, Neuron, Subnet};

/// Blocks whose hash, time and announcements are kept.
const KEPT: usize = 4096;
/// Blocks that are read at the same time.
const PARALLEL: usize = 8;
/// The pallet of subnets, neurons and weights.
const SUBTENSOR: &str = "SubtensorModule";

/// A chain of Subtensor's, through one or more of its nodes.
#[derive(Debug)]
pub struct Subtensor {
    link: Link,
    beacon: BeaconKey,
    submitting: tokio::sync::Mutex<()>,
    blocks: Mutex<BTreeMap<u64, Block>>,
    announced: Mutex<BTreeMap<(u16, u64), Vec<Commitment>>>,
}

/// Inserts, and forgets the oldest beyond [`KEPT`].
fn keep<K: Ord, V>(map: &Mutex<BTreeMap<K, V>>, key: K, value: V) {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    map.insert(key, value);
    while map.len() > KEPT {
        map.pop_first();
    }
}

fn kept<K: Ord, V: Clone>(map: &Mutex<BTreeMap<K, V>>, key: &K) -> Option<V> {
    map.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
}

impl Subtensor {
    /// Connects to the first of several nodes of one chain, given as `ws://` or `wss://` URLs separated by commas.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`] says of each node why it cannot be used.
    pub async fn open(urls: &str) -> Result<Self, ChainError> {
        Self::open_with(urls, Patience::default()).await
    }

    /// As [`open`](Self::open), with other waiting times.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(urls: &str, patience: Patience) -> Result<Self, ChainError> {
        let urls: Vec<String> = urls.split(',').map(|url| url.trim().to_owned()).collect();
        if urls.iter().any(|url| !(url.starts_with("ws://") || url.starts_with("wss://"))) {
            return Err(ChainError::Url(urls.iter().map(|url| link::shown(url)).collect::<Vec<_>>().join(",")));
        }
        let link = Link::open(urls, patience).await?;
        let beacon = BeaconKey::quicknet();
        Ok(Self { link, beacon, submitting: tokio::sync::Mutex::new(()), blocks: Mutex::default(), announced: Mutex::default() })
    }

    /// Block `number`, which must not be beyond the head.
    async fn block_at(&self, number: u64) -> Result<Block, ChainError> {
        if let Some(block) = kept(&self.blocks, &number) {
            return Ok(block);
        }
        let head = self.link.head();
        if number > head.number {
            return Err(ChainError::FutureBlock { block: number, head: head.number });
        }
        let block = self.link.read(|node| async move { node.block(number).await }).await?;
        keep(&self.blocks, number, block);
        Ok(block)
    }

    async fn metagraph(&self, netuid: u16, at: u64) -> Result<Metagraph, ChainError> {
        let block = self.block_at(at).await?;
        let metagraph = self.link.read(|node| async move { node.metagraph(&node.at(&block).await?, netuid).await }).await?;
        metagraph.ok_or(ChainError::SubnetNotExists(netuid))
    }

    async fn exists(&self, netuid: u16) -> Result<(), ChainError> {
        let block = self.link.head();
        let read =
            |node: Arc<Node>| async move { node.value::<_, bool>(&node.at(&block).await?, SUBTENSOR, "NetworksAdded", (netuid,)).await };
        match self.link.read(read).await? {
            Some(true) => Ok(()),
            _ => Err(ChainError::SubnetNotExists(netuid)),
        }
    }

    async fn uid_of(&self, netuid: u16, hotkey: Hotkey, block: &Block) -> Result<Option<u16>, ChainError> {
        let read =
            |node: Arc<Node>| async move { node.value::<_, u16>(&node.at(block).await?, SUBTENSOR, "Uids", (netuid, hotkey.0)).await };
        self.link.read(read).await
    }

    async fn announcements(&self, netuid: u16, number: u64) -> Result<Vec<Commitment>, ChainError> {
        if let Some(found) = kept(&self.announced, &(netuid, number)) {
            return Ok(found);
        }
        let block = self.block_at(number).await?;
        let found = self.link.read(|node| async move { node.announcements(&block, netuid).await }).await?;
        keep(&self.announced, (netuid, number), found.clone());
        Ok(found)
    }

    /// Commits a key's record.
    async fn put_record(&self, signer: &Keypair, netuid: u16, record: &Record) -> Result<(), ChainError> {
        let arguments = vec![Value::u128(netuid.into()), record.to_info()];
        let refused = self.submit(signer, &Call { pallet: "Commitments", name: "set_commitment", arguments }).await;
        refused.map(drop).map_err(|error| match error {
            ChainError::Refused { name, .. } if name == "AccountNotAllowedCommit" => {
                ChainError::AccountNotAllowedCommit { hotkey: signer.hotkey(), netuid }
            }
            other => other,
        })
    }

    async fn own_record(&self, signer: &Keypair, netuid: u16) -> Result<Record, ChainError> {
        let block = self.link.head();
        let record = self.link.read(|node| async move { node.record(&node.at(&block).await?, netuid, signer.hotkey()).await }).await?;
        Ok(record.unwrap_or(Record { bucket: String::new(), announcement: Vec::new() }))
    }
}

fn row(weights: &[(u16, u16)]) -> [Value; 2] {
    let column = |of: fn(&(u16, u16)) -> u16| Value::unnamed_composite(weights.iter().map(|entry| Value::u128(of(entry).into())));
    [column(|entry| entry.0), column(|entry| entry.1)]
}

#[async_trait]
impl Chain for Subtensor {
    async fn genesis(&self) -> Result<Digest, ChainError> {
        Ok(self.link.genesis())
    }

    async fn head(&self) -> Result<Block, ChainError> {
        Ok(self.link.head())
    }

    async fn block(&self, number: u64) -> Result<Option<Block>, ChainError> {
        match self.block_at(number).await {
            Err(ChainError::FutureBlock { .. }) => Ok(None),
            block => block.map(Some),
        }
    }

    async fn next_block(&self, after: u64) -> Result<Block, ChainError> {
        Ok(self.link.next(after).await)
    }

    async fn subnet(&self, netuid: u16) -> Result<Subnet, ChainError> {
        let block = self.link.head();
        let metagraph = self.metagraph(netuid, block.number).await?;
        let (stake_threshold, timelocked) = self
            .link
            .read(|node| async move {
                let at = node.at(&block).await?;
                let threshold = node.value::<(), u64>(&at, SUBTENSOR, "StakeThreshold", ()).await?.unwrap_or(0);
                Ok((threshold, timelocked::version(&node, &at).await?))
            })
            .await?;
        let commit_reveal = CommitReveal { timelocked, period: metagraph.commit_reveal_period };
        Ok(Subnet {
            netuid,
            owner: Hotkey(metagraph.owner_hotkey),
            tempo: metagraph.tempo,
            weights_rate_limit: metagraph.weights_rate_limit,
            last_epoch: metagraph.last_step,
            stake_threshold,
            max_validators: metagraph.max_validators,
            version_key: metagraph.weights_version,
            min_allowed_weights: metagraph.min_allowed_weights,
            max_weight_limit: metagraph.max_weights_limit,
            immunity_period: metagraph.immunity_period,
            burn: metagraph.burn,
            earnings: Earnings::NewestEpoch,
            commit_reveal: metagraph.commit_reveal_weights_enabled.then_some(commit_reveal),
        })
    }

    async fn neurons(&self, netuid: u16, at: u64) -> Result<Vec<Neuron>, ChainError> {
        Ok(self.metagraph(netuid, at).await?.neurons())
    }

    async fn set_bucket(&self, signer: &Keypair, netuid: u16, url: &str) -> Result<(), ChainError> {
        self.exists(netuid).await?;
        if url.is_empty() || url.len() > MAX_URL || !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ChainError::BucketUrl { bytes: url.len(), most: MAX_URL });
        }
        if self.own_record(signer, netuid).await?.bucket == url {
            return Ok(());
        }
        self.put_record(signer, netuid, &Record { bucket: url.to_owned(), announcement: Vec::new() }).await
    }

    async fn buckets(&self, netuid: u16) -> Result<Vec<(Hotkey, String)>, ChainError> {
        self.exists(netuid).await?;
        let block = self.link.head();
        self.link.read(|node| async move { node.buckets(&node.at(&block).await?, netuid).await }).await
    }

    async fn commit(&self, signer: &Keypair, netuid: u16, data: &[u8]) -> Result<(), ChainError> {
        self.exists(netuid).await?;
        if data.is_empty() || data.len() > MAX_COMMITMENT {
            return Err(ChainError::SpaceLimitExceeded(data.len()));
        }
        let Record { bucket, announcement } = self.own_record(signer, netuid).await?;
        if announcement == data {
            return Ok(());
        }
        self.put_record(signer, netuid, &Record { bucket, announcement: data.to_vec() }).await
    }

    async fn commitments(&self, netuid: u16, blocks: RangeInclusive<u64>) -> Result<Vec<Commitment>, ChainError> {
        self.exists(netuid).await?;
        let last = (*blocks.end()).min(self.link.head().number);
        let found: Vec<Vec<Commitment>> =
            stream::iter(*blocks.start()..=last).map(|number| self.announcements(netuid, number)).buffered(PARALLEL).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn balance(&self, account: Hotkey) -> Result<u64, ChainError> {
        #[derive(subxt::ext::scale_decode::DecodeAsType)]
        #[decode_as_type(crate_path = "subxt::ext::scale_decode")]
        struct Account {
            data: Funds,
        }
        #[derive(subxt::ext::scale_decode::DecodeAsType)]
        #[decode_as_type(crate_path = "subxt::ext::scale_decode")]
        struct Funds {
            free: u64,
        }
        let block = self.link.head();
        let read =
            |node: Arc<Node>| async move { node.value::<_, Account>(&node.at(&block).await?, "System", "Account", (account.0,)).await };
        Ok(self.link.read(read).await?.map_or(0, |account| account.data.free))
    }

    async fn burned_register(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey) -> Result<u16, ChainError> {
        self.exists(netuid).await?;
        let unknown = || ChainError::HotKeyNotRegisteredInSubNet { hotkey, netuid };
        if let Some(uid) = self.uid_of(netuid, hotkey, &self.link.head()).await? {
            return Ok(uid);
        }
        let arguments = vec![Value::u128(netuid.into()), account(hotkey)];
        let call = Call { pallet: SUBTENSOR, name: "burned_register", arguments };
        let block = match self.submit(coldkey, &call).await {
            Ok(block) => block,
            Err(error) => {
                let burn = self.subnet(netuid).await?.burn;
                return Err(self.explain_payment(error, coldkey.hotkey(), burn).await);
            }
        };
        self.uid_of(netuid, hotkey, &block).await?.ok_or_else(unknown)
    }

    async fn add_stake(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey, rao: u64) -> Result<(), ChainError> {
        self.exists(netuid).await?;
        let arguments = vec![account(hotkey), Value::u128(netuid.into()), Value::u128(rao.into())];
        match self.submit(coldkey, &Call { pallet: SUBTENSOR, name: "add_stake", arguments }).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain_payment(error, coldkey.hotkey(), rao).await),
        }
    }

    async fn set_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<(), ChainError> {
        let hotkey = signer.hotkey();
        let (subnet, head) = (self.subnet(netuid).await?, self.link.head().number);
        let neurons = self.neurons(netuid, head).await?;
        let me = neurons.iter().find(|neuron| neuron.hotkey == hotkey);
        let me = me.ok_or(ChainError::HotKeyNotRegisteredInSubNet { hotkey, netuid })?;
        // Subtensor takes a weight for oneself and ignores it
        check_entries(weights, me.uid, IsOwner(hotkey == subnet.owner), neurons.len())?;
        let [uids, values] = row(weights);
        let arguments = vec![Value::u128(netuid.into()), uids, values, Value::u128(subnet.version_key.into())];
        let call = Call { pallet: SUBTENSOR, name: "set_weights", arguments };
        match self.submit(signer, &call).await {
            Ok(block) => match self.weights_at(netuid, me.uid, &block).await? {
                stored if stored == weights => Ok(()),
                stored => Err(ChainError::WeightsDiffer { block: block.number, stored: stored.len() }),
            },
            Err(error) => Err(self.explain(error, netuid, hotkey).await),
        }
    }

    async fn commit_weights(&self, signer: &Keypair, netuid: u16, commitment: Digest) -> Result<(), ChainError> {
        self.exists(netuid).await?;
        let arguments = vec![Value::u128(netuid.into()), Value::from_bytes(commitment.0)];
        match self.submit(signer, &Call { pallet: SUBTENSOR, name: "commit_weights", arguments }).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(error, netuid, signer.hotkey()).await),
        }
    }

    async fn reveal_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)], salt: &[u16]) -> Result<(), ChainError> {
        let subnet = self.subnet(netuid).await?;
        let [uids, values] = row(weights);
        let salt = Value::unnamed_composite(salt.iter().map(|word| Value::u128((*word).into())));
        let arguments = vec![Value::u128(netuid.into()), uids, values, salt, Value::u128(subnet.version_key.into())];
        match self.submit(signer, &Call { pallet: SUBTENSOR, name: "reveal_weights", arguments }).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(error, netuid, signer.hotkey()).await),
        }
    }

    async fn commit_timelocked_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<u64, ChainError> {
        self.commit_timelocked(signer, netuid, weights).await
    }

    async fn weights(&self, netuid: u16, uid: u16) -> Result<Vec<(u16, u16)>, ChainError> {
        self.exists(netuid).await?;
        self.weights_at(netuid, uid, &self.link.head()).await
    }
}

impl Subtensor {
    async fn weights_at(&self, netuid: u16, uid: u16, block: &Block) -> Result<Vec<(u16, u16)>, ChainError> {
        let read = |node: Arc<Node>| async move {
            node.value::<_, Vec<(u16, u16)>>(&node.at(block).await?, SUBTENSOR, "Weights", (netuid, uid)).await
        };
        Ok(self.link.read(read).await?.unwrap_or_default())
    }
}
