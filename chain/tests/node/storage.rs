//! The runtime's storage: one table of raw keys and values, and the entries that it has.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use frame_metadata::v15::StorageHasher::{self, Blake2_128Concat, Identity, Twox64Concat};
use frame_metadata::v15::{StorageEntryMetadata, StorageEntryModifier, StorageEntryType};
use parity_scale_codec::{Decode, Encode};
use scale_info::{TypeInfo, meta_type};
use sp_crypto_hashing::{blake2_128, twox_64, twox_128};

use super::types::{AccountId32, AccountInfo, EventRecord, H256, Registration};

/// An entry of a pallet's storage, with one hasher for each part of its key.
pub struct Entry<K, V> {
    pub pallet: &'static str,
    pub name: &'static str,
    hashers: &'static [StorageHasher],
    types: PhantomData<(K, V)>,
}

const fn entry<K, V>(pallet: &'static str, name: &'static str, hashers: &'static [StorageHasher]) -> Entry<K, V> {
    Entry { pallet, name, hashers, types: PhantomData }
}

const SUBTENSOR: &str = "SubtensorModule";
/// A hash, the block that committed it, and the first and last block to reveal it.
pub type Commit = (H256, u64, u64, u64);
/// Who committed, in which block, the ciphertext and its round.
pub type Timelocked = (AccountId32, u64, Vec<u8>, u64);

pub const ACCOUNT: Entry<AccountId32, AccountInfo> = entry("System", "Account", &[Blake2_128Concat]);
pub const EVENTS: Entry<(), Vec<EventRecord>> = entry("System", "Events", &[]);
pub const NOW: Entry<(), u64> = entry("Timestamp", "Now", &[]);
pub const NETWORKS_ADDED: Entry<u16, bool> = entry(SUBTENSOR, "NetworksAdded", &[Identity]);
pub const TOTAL_NETWORKS: Entry<(), u16> = entry(SUBTENSOR, "TotalNetworks", &[]);
pub const SUBNETWORK_N: Entry<u16, u16> = entry(SUBTENSOR, "SubnetworkN", &[Identity]);
pub const KEYS: Entry<(u16, u16), AccountId32> = entry(SUBTENSOR, "Keys", &[Identity, Identity]);
pub const UIDS: Entry<(u16, AccountId32), u16> = entry(SUBTENSOR, "Uids", &[Identity, Blake2_128Concat]);
pub const OWNER: Entry<AccountId32, AccountId32> = entry(SUBTENSOR, "Owner", &[Blake2_128Concat]);
pub const STAKE: Entry<(AccountId32, u16), u64> = entry(SUBTENSOR, "TotalHotkeyAlpha", &[Blake2_128Concat, Identity]);
pub const STAKE_THRESHOLD: Entry<(), u64> = entry(SUBTENSOR, "StakeThreshold", &[]);
pub const REGISTERED: Entry<(u16, u16), u64> = entry(SUBTENSOR, "BlockAtRegistration", &[Identity, Identity]);
pub const LAST_UPDATE: Entry<u16, Vec<u64>> = entry(SUBTENSOR, "LastUpdate", &[Identity]);
pub const PERMITS: Entry<u16, Vec<bool>> = entry(SUBTENSOR, "ValidatorPermit", &[Identity]);
pub const WEIGHTS: Entry<(u16, u16), Vec<(u16, u16)>> = entry(SUBTENSOR, "Weights", &[Identity, Identity]);
pub const TEMPO: Entry<u16, u16> = entry(SUBTENSOR, "Tempo", &[Identity]);
pub const RATE_LIMIT: Entry<u16, u64> = entry(SUBTENSOR, "WeightsSetRateLimit", &[Identity]);
pub const VERSION_KEY: Entry<u16, u64> = entry(SUBTENSOR, "WeightsVersionKey", &[Identity]);
pub const BURN: Entry<u16, u64> = entry(SUBTENSOR, "Burn", &[Identity]);
pub const COMMIT_REVEAL: Entry<u16, bool> = entry(SUBTENSOR, "CommitRevealWeightsEnabled", &[Identity]);
pub const COMMIT_REVEAL_VERSION: Entry<(), u16> = entry(SUBTENSOR, "CommitRevealWeightsVersion", &[]);
pub const REVEAL_PERIOD: Entry<u16, u64> = entry(SUBTENSOR, "RevealPeriodEpochs", &[Twox64Concat]);
pub const LAST_EPOCH_BLOCK: Entry<u16, u64> = entry(SUBTENSOR, "LastEpochBlock", &[Identity]);
pub const PENDING_EPOCH: Entry<u16, u64> = entry(SUBTENSOR, "PendingEpochAt", &[Identity]);
pub const EPOCH_INDEX: Entry<u16, u64> = entry(SUBTENSOR, "SubnetEpochIndex", &[Identity]);
pub const SINCE_LAST_STEP: Entry<u16, u64> = entry(SUBTENSOR, "BlocksSinceLastStep", &[Identity]);
pub const COMMITS: Entry<(u16, AccountId32), Vec<Commit>> = entry(SUBTENSOR, "WeightCommits", &[Twox64Concat, Twox64Concat]);
pub const TIMELOCKED: Entry<(u16, u64), Vec<Timelocked>> = entry(SUBTENSOR, "TimelockedWeightCommits", &[Twox64Concat, Twox64Concat]);
pub const COMMITMENT_OF: Entry<(u16, AccountId32), Registration> = entry("Commitments", "CommitmentOf", &[Identity, Twox64Concat]);

/// Every entry, as the metadata tells it, by pallet. Those whose absence is an answer are optional, the others have a default.
pub fn entries() -> Vec<(&'static str, StorageEntryMetadata)> {
    vec![
        ACCOUNT.metadata(Some(AccountInfo::default())),
        EVENTS.metadata(Some(vec![])),
        NOW.metadata(Some(0)),
        NETWORKS_ADDED.metadata(Some(false)),
        TOTAL_NETWORKS.metadata(Some(0)),
        SUBNETWORK_N.metadata(Some(0)),
        KEYS.metadata(Some(AccountId32::default())),
        UIDS.metadata(None),
        OWNER.metadata(Some(AccountId32::default())),
        STAKE.metadata(Some(0)),
        STAKE_THRESHOLD.metadata(Some(0)),
        REGISTERED.metadata(Some(0)),
        LAST_UPDATE.metadata(Some(vec![])),
        PERMITS.metadata(Some(vec![])),
        WEIGHTS.metadata(Some(vec![])),
        TEMPO.metadata(Some(10)),
        RATE_LIMIT.metadata(Some(100)),
        VERSION_KEY.metadata(Some(0)),
        BURN.metadata(Some(0)),
        COMMIT_REVEAL.metadata(Some(false)),
        COMMIT_REVEAL_VERSION.metadata(Some(4)),
        REVEAL_PERIOD.metadata(Some(1)),
        LAST_EPOCH_BLOCK.metadata(Some(0)),
        PENDING_EPOCH.metadata(Some(0)),
        EPOCH_INDEX.metadata(Some(0)),
        SINCE_LAST_STEP.metadata(Some(0)),
        COMMITS.metadata(None),
        TIMELOCKED.metadata(Some(vec![])),
        COMMITMENT_OF.metadata(None),
    ]
}

impl<K: TypeInfo + 'static, V: TypeInfo + Encode + 'static> Entry<K, V> {
    fn metadata(&self, default: Option<V>) -> (&'static str, StorageEntryMetadata) {
        let value = meta_type::<V>();
        let ty = match self.hashers {
            [] => StorageEntryType::Plain(value),
            hashers => StorageEntryType::Map { hashers: hashers.to_vec(), key: meta_type::<K>(), value },
        };
        let modifier = if default.is_some() { StorageEntryModifier::Default } else { StorageEntryModifier::Optional };
        let default = default.map_or(vec![0], |value| value.encode());
        (self.pallet, StorageEntryMetadata { name: self.name, modifier, ty, default, docs: vec![] })
    }
}

/// A key's parts, each encoded.
pub trait Parts {
    fn parts(&self) -> Vec<Vec<u8>>;
}

impl Parts for () {
    fn parts(&self) -> Vec<Vec<u8>> {
        vec![]
    }
}

impl Parts for u16 {
    fn parts(&self) -> Vec<Vec<u8>> {
        vec![self.encode()]
    }
}

impl Parts for AccountId32 {
    fn parts(&self) -> Vec<Vec<u8>> {
        vec![self.encode()]
    }
}

impl<A: Encode, B: Encode> Parts for (A, B) {
    fn parts(&self) -> Vec<Vec<u8>> {
        vec![self.0.encode(), self.1.encode()]
    }
}

impl<K: Parts, V> Entry<K, V> {
    pub fn key(&self, key: &K) -> Vec<u8> {
        let mut raw = [twox_128(self.pallet.as_bytes()), twox_128(self.name.as_bytes())].concat();
        for (part, hasher) in key.parts().iter().zip(self.hashers) {
            match hasher {
                Blake2_128Concat => raw.extend(blake2_128(part)),
                Twox64Concat => raw.extend(twox_64(part)),
                _ => {}
            }
            raw.extend(part);
        }
        raw
    }
}

/// All of the storage at some block.
#[derive(Clone, Debug, Default)]
pub struct State(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl State {
    pub fn get<K: Parts, V: Decode>(&self, entry: &Entry<K, V>, key: K) -> Option<V> {
        let bytes = self.0.get(&entry.key(&key))?;
        Some(V::decode(&mut &bytes[..]).expect("the node wrote it"))
    }

    pub fn or_default<K: Parts, V: Decode + Default>(&self, entry: &Entry<K, V>, key: K) -> V {
        self.get(entry, key).unwrap_or_default()
    }

    pub fn put<K: Parts, V: Encode>(&mut self, entry: &Entry<K, V>, key: K, value: V) {
        self.0.insert(entry.key(&key), value.encode());
    }

    /// The keys under `prefix`, after `start`, `count` at most.
    pub fn keys(&self, prefix: &[u8], count: usize, start: Option<&[u8]>) -> Vec<Vec<u8>> {
        let after = |key: &&Vec<u8>| start.is_none_or(|start| key.as_slice() > start);
        self.0
            .range(prefix.to_vec()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(prefix))
            .filter(after)
            .take(count)
            .cloned()
            .collect()
    }
}
