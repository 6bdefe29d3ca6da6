//! One connection to a node: reads at a block, and the submission of signed bytes.

use std::collections::HashMap;
use std::sync::Arc;

use jsonrpsee::ws_client::WsClientBuilder;
use protocol::{Digest, Hotkey};
use subxt::backend::LegacyBackend;
use subxt::config::RpcConfigFor;
use subxt::config::substrate::{AccountId32, H256};
use subxt::dynamic::{self, Value};
use subxt::events::Phase;
use subxt::ext::frame_decode::storage::{IntoDecodableValues, IntoEncodableValues};
use subxt::ext::scale_decode::DecodeAsType;
use subxt::rpcs::RpcClient;
use subxt::rpcs::methods::legacy::{LegacyRpcMethods, NumberOrHex};
use subxt::{OnlineClient, OnlineClientAtBlock, SubstrateConfig};

use super::fault::Fault;
use super::link::shown;
use super::patience::Patience;
use super::record::Record;
use crate::{Block, Commitment, Neuron};

/// Keys per request when a map is read: more than a subnet has neurons, so that a map takes two requests.
const PAGE: u32 = 1000;

/// The most bytes of one answer: Subtensor's blocks take 10 MiB, twice that in hexadecimal, where subxt's own limit is 10 MiB.
const LARGEST_ANSWER: u32 = 32 << 20;
/// The most entries of a map: more than a subnet ever had keys.
const MOST_ENTRIES: usize = 1 << 16;

/// A node and what reads need of it.
pub(super) struct Node {
    /// As it may be shown.
    pub(super) url: String,
    client: OnlineClient<SubstrateConfig>,
    pub(super) rpc: LegacyRpcMethods<RpcConfigFor<SubstrateConfig>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.url)
    }
}

/// What `SubnetInfoRuntimeApi.get_metagraph` says of a subnet, as far as it is needed; fields are found by name.
#[derive(Debug, DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
pub(super) struct Metagraph {
    pub(super) owner_hotkey: [u8; 32],
    pub(super) tempo: u64,
    pub(super) last_step: u64,
    pub(super) min_allowed_weights: u16,
    pub(super) max_weights_limit: u16,
    pub(super) weights_version: u64,
    pub(super) weights_rate_limit: u64,
    pub(super) max_validators: u16,
    pub(super) burn: u64,
    pub(super) immunity_period: u64,
    pub(super) commit_reveal_weights_enabled: bool,
    pub(super) commit_reveal_period: u64,
    hotkeys: Vec<[u8; 32]>,
    coldkeys: Vec<[u8; 32]>,
    validator_permit: Vec<bool>,
    last_update: Vec<u64>,
    emission: Vec<u64>,
    dividends: Vec<u16>,
    incentives: Vec<u16>,
    block_at_registration: Vec<u64>,
    total_stake: Vec<u64>,
}

impl Metagraph {
    /// Whether every list has an entry for each uid.
    fn is_whole(&self) -> bool {
        let uids = self.hotkeys.len();
        let lists = [
            self.coldkeys.len(),
            self.validator_permit.len(),
            self.last_update.len(),
            self.emission.len(),
            self.dividends.len(),
            self.incentives.len(),
            self.block_at_registration.len(),
            self.total_stake.len(),
        ];
        u16::try_from(uids).is_ok() && lists.iter().all(|&list| list == uids)
    }

    /// The neurons, by uid.
    pub(super) fn neurons(&self) -> Vec<Neuron> {
        let neuron = |uid: usize| Neuron {
            uid: uid as u16,
            hotkey: Hotkey(self.hotkeys[uid]),
            coldkey: Hotkey(self.coldkeys[uid]),
            stake: self.total_stake[uid],
            permit: self.validator_permit[uid],
            registered: self.block_at_registration[uid],
            last_update: self.last_update[uid],
            incentive: self.incentives[uid],
            dividends: self.dividends[uid],
            emission: self.emission[uid],
        };
        (0..self.hotkeys.len()).map(neuron).collect()
    }
}

/// An extrinsic in its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Included {
    /// `None` if its dispatch succeeded, otherwise the error's bytes.
    pub(super) failure: Option<Vec<u8>>,
}

pub(super) type At = OnlineClientAtBlock<SubstrateConfig>;

impl Node {
    /// Connects, within `patience`. `config` keeps the metadata of each spec version from connection to connection.
    pub(super) async fn connect(url: &str, config: &SubstrateConfig, patience: &Patience) -> Result<Self, Fault> {
        let connect = async {
            let client = WsClientBuilder::default().max_response_size(LARGEST_ANSWER).request_timeout(patience.request).build(url).await;
            let client = RpcClient::new(client.map_err(|error| Fault::Node(error.to_string()))?);
            let rpc = LegacyRpcMethods::new(client.clone());
            let backend = Arc::new(LegacyBackend::builder().storage_page_size(PAGE).build(client));
            let client = OnlineClient::from_backend_with_config(config.clone(), backend).await?;
            Ok(Self { url: shown(url), client, rpc })
        };
        tokio::time::timeout(patience.connecting, connect).await.unwrap_or_else(|_| Err(Fault::Node("it does not answer".into())))
    }

    pub(super) fn genesis(&self) -> Digest {
        Digest(self.client.genesis_hash().0)
    }

    /// The newest finalized block.
    pub(super) async fn head(&self) -> Result<Block, Fault> {
        let hash = self.rpc.chain_get_finalized_head().await?;
        let header = self.rpc.chain_get_header(Some(hash)).await?.ok_or(Fault::Pruned)?;
        // the runtime counts blocks in 32 bits
        let number = u32::try_from(header.number).map_err(|_| Fault::Node(format!("it names an impossible block, {}", header.number)))?;
        self.stamped(number.into(), hash).await
    }

    /// Block `number`, which must be finalized.
    pub(super) async fn block(&self, number: u64) -> Result<Block, Fault> {
        let hash = self.rpc.chain_get_block_hash(Some(NumberOrHex::Number(number))).await?;
        // another node has finalized it
        let hash = hash.ok_or_else(|| Fault::Node(format!("it lags: it does not know block {number} yet")))?;
        self.stamped(number, hash).await
    }

    async fn stamped(&self, number: u64, hash: H256) -> Result<Block, Fault> {
        let at = self.client.at_block_hash_and_number(hash, number).await?;
        let time_ms = self.value::<(), u64>(&at, "Timestamp", "Now", ()).await?.unwrap_or(0);
        Ok(Block { number, hash: Digest(hash.0), time_ms })
    }

    /// The chain as of `block`.
    pub(super) async fn at(&self, block: &Block) -> Result<At, Fault> {
        Ok(self.client.at_block_hash_and_number(H256(block.hash.0), block.number).await?)
    }

    /// A storage value at some block; `None` if it is absent and has no default.
    pub(super) async fn value<K, V>(&self, at: &At, pallet: &str, entry: &str, key: K) -> Result<Option<V>, Fault>
    where
        K: IntoEncodableValues + IntoDecodableValues + Send + Sync,
        V: DecodeAsType + Send + Sync,
    {
        match at.storage().fetch(dynamic::storage::<K, V>(pallet, entry), key).await {
            Ok(value) => Ok(Some(value.decode()?)),
            Err(subxt::error::StorageError::NoValueFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A subnet; `None` if there is none of that number.
    pub(super) async fn metagraph(&self, at: &At, netuid: u16) -> Result<Option<Metagraph>, Fault> {
        let call = dynamic::runtime_api_call::<_, Option<Metagraph>>("SubnetInfoRuntimeApi", "get_metagraph", (netuid,));
        let metagraph = at.runtime_apis().call(call).await?;
        match metagraph.as_ref().is_none_or(Metagraph::is_whole) {
            true => Ok(metagraph),
            false => Err(Fault::Codec("the lists of get_metagraph differ in length".into())),
        }
    }

    /// Everybody's bucket, by hotkey.
    pub(super) async fn buckets(&self, at: &At, netuid: u16) -> Result<Vec<(Hotkey, String)>, Fault> {
        let address = dynamic::storage::<(u16, [u8; 32]), Value>("Commitments", "CommitmentOf");
        let mut entries = at.storage().iter(address, (netuid,)).await?;
        let mut buckets = Vec::new();
        let mut read = 0;
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            read += 1;
            if read > MOST_ENTRIES {
                return Err(Fault::Codec(format!("more than {MOST_ENTRIES} commitments in one subnet")));
            }
            let (_, hotkey) = entry.key().and_then(|key| key.decode()).map_err(Fault::codec)?;
            buckets.extend(bucket_of(&entry.value().decode_as::<Value>()?).map(|url| (Hotkey(hotkey), url)));
        }
        buckets.sort();
        Ok(buckets)
    }

    /// What a key committed last.
    pub(super) async fn record(&self, at: &At, netuid: u16, hotkey: Hotkey) -> Result<Option<Record>, Fault> {
        let stored: Option<Value> = match at
            .storage()
            .try_fetch(dynamic::storage::<(u16, [u8; 32]), Value>("Commitments", "CommitmentOf"), (netuid, hotkey.0))
            .await?
        {
            Some(value) => Some(value.decode_as()?),
            None => None,
        };
        Ok(stored.as_ref().and_then(record_of))
    }

    /// The announcements that a block includes, in its order. Calls wrapped in others (batches, proxies) are passed over.
    pub(super) async fn announcements(&self, block: &Block, netuid: u16) -> Result<Vec<Commitment>, Fault> {
        let at = self.at(block).await?;
        let extrinsics = at.extrinsics().fetch().await?;
        let mut found = Vec::new();
        for extrinsic in extrinsics.iter() {
            // an extrinsic that does not decode is nobody's commitment
            let Ok(extrinsic) = extrinsic else { continue };
            if (extrinsic.pallet_name(), extrinsic.call_name()) != ("Commitments", "set_commitment") {
                continue;
            }
            let Some(hotkey) = extrinsic.address_bytes().and_then(account_of) else { continue };
            let fields: HashMap<_, _> = extrinsic.iter_call_data_fields().map(|field| (field.name().to_owned(), field)).collect();
            let of_subnet = fields.get("netuid").is_some_and(|field| field.decode_as::<u16>().is_ok_and(|n| n == netuid));
            let info = fields.get("info").and_then(|field| field.decode_as::<Value>().ok());
            let Some(record) = info.filter(|_| of_subnet).as_ref().and_then(Record::from_info) else { continue };
            if !record.announcement.is_empty() {
                let index = extrinsic.index() as u32;
                found.push(Commitment { block: block.number, index, hotkey, data: record.announcement });
            }
        }
        if found.is_empty() {
            return Ok(found);
        }
        let failures = self.failures(&at).await?;
        found.retain(|commitment| !failures.contains_key(&commitment.index));
        Ok(found)
    }

    /// The dispatch errors of a block's extrinsics, by index.
    async fn failures(&self, at: &At) -> Result<HashMap<u32, Vec<u8>>, Fault> {
        let events = at.events().fetch().await?;
        let mut failures = HashMap::new();
        for event in events.iter() {
            let event = event?;
            if let Phase::ApplyExtrinsic(index) = event.phase()
                && (event.pallet_name(), event.event_name()) == ("System", "ExtrinsicFailed")
            {
                failures.insert(index, event.field_bytes().to_vec());
            }
        }
        Ok(failures)
    }

    /// Looks for an extrinsic in a block, by its hash.
    pub(super) async fn find(&self, block: &Block, is_it: impl Fn(H256) -> bool) -> Result<Option<Included>, Fault> {
        let Some(details) = self.rpc.chain_get_block(Some(H256(block.hash.0))).await? else {
            return Err(Fault::Pruned);
        };
        let at = self.at(block).await?;
        let hash = |bytes: &[u8]| subxt::config::Hasher::hash(at.hasher(), bytes);
        let Some(index) = details.block.extrinsics.iter().position(|bytes| is_it(hash(&bytes.0))) else {
            return Ok(None);
        };
        let failure = self.failures(&at).await?.remove(&(index as u32));
        Ok(Some(Included { failure }))
    }

    /// The nonce of an account's next extrinsic, those in the pool counted.
    pub(super) async fn nonce(&self, account: Hotkey) -> Result<u64, Fault> {
        Ok(self.rpc.system_account_next_index(&AccountId32(account.0)).await?)
    }
}

/// Whether a runtime has a call.
pub(super) fn has_call(at: &At, pallet: &str, call: &str) -> bool {
    at.metadata_ref().pallet_by_name(pallet).is_some_and(|pallet| pallet.call_variant_by_name(call).is_some())
}

/// The record in a `Registration`.
fn record_of(registration: &Value) -> Option<Record> {
    use subxt::ext::scale_value::At as _;
    Record::from_info(registration.at("info")?)
}

fn bucket_of(registration: &Value) -> Option<String> {
    record_of(registration).map(|record| record.bucket).filter(|url| !url.is_empty())
}

/// The account of an extrinsic's address, `MultiAddress::Id`.
fn account_of(address: &[u8]) -> Option<Hotkey> {
    match address.split_first()? {
        (0, id) => id.try_into().ok().map(Hotkey),
        _ => None,
    }
}
