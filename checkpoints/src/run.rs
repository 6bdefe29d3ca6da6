//! A run as a node sees it: the manifest, the chain it lives on, and everybody's buckets.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
};

use crate::terms::Amendments;
use chain::{Chain, ChainError, Commitment, Neuron};
use compression::{Format, Layout, State};
use protocol::{Announcement, Digest, Hotkey, MAX_MANIFEST_BYTES, Manifest, ManifestError, ObjectKey, RunId, Validator};
use storage::{Access, Bucket, StorageError, Stores};

/// What somebody announced on the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// Who.
    pub by: Hotkey,
    /// In which block.
    pub block: u64,
    /// What.
    pub what: Announcement,
}

/// Why a run cannot be joined or followed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// No manifest at the run's address.
    #[error("no run at {0}: it has no manifest.json; check the address, or launch a run there")]
    NoManifest(String),
    /// The manifest is refused.
    #[error("{url}: {source}")]
    Manifest {
        /// The run's address.
        url: String,
        /// Why.
        source: ManifestError,
    },
    /// The address ends in another run id than the manifest's.
    #[error("{url} holds run {found}, not the run its address names; do not trust this store")]
    WrongRun {
        /// The run's address.
        url: String,
        /// The manifest's own id.
        found: RunId,
    },
    /// The chain is not the one the manifest names.
    #[error("this chain's genesis is {found}, the run lives on {expected}; pass the right --chain")]
    WrongChain {
        /// The chain's genesis.
        found: Digest,
        /// The manifest's.
        expected: Digest,
    },
    /// The hotkey has no uid.
    #[error("{hotkey} is not registered on subnet {netuid}; register it with `tributary chain register`")]
    NotRegistered {
        /// The node's hotkey.
        hotkey: Hotkey,
        /// The subnet.
        netuid: u16,
    },
    /// The data set at hand is not the run's.
    #[error(
        "the data set has digest {found}, the run trains on {expected}; leave out --data to download the run's own, or name a folder that holds it"
    )]
    WrongData {
        /// Digest of the data set at hand.
        found: Digest,
        /// The manifest's.
        expected: Digest,
    },
    /// The initial tensors do not have the manifest's root.
    #[error("the genesis state has root {found}, the manifest says {expected}; this build or this machine computes wrongly")]
    GenesisRoot {
        /// Computed here.
        found: Digest,
        /// In the manifest.
        expected: Digest,
    },
    /// The state found here differs from what most validators' stake signed.
    #[error(
        "round {round}: this node's root {ours} differs from the signed root {theirs}; see that this build is the run's, and check this machine's memory"
    )]
    Diverged {
        /// The round.
        round: u64,
        /// Computed here.
        ours: Digest,
        /// In the countersigned record.
        theirs: Digest,
    },
    /// A snapshot that does not stand on this run's log.
    #[error("the snapshot of round {round} by {validator} is not the state after a record on the chain, or that record cannot be had")]
    OffChain {
        /// The state's round.
        round: u64,
        /// Who published it.
        validator: Hotkey,
    },
    /// A snapshot was refused.
    #[error(transparent)]
    Snapshot(#[from] crate::CheckpointError),
    /// The home directory failed.
    #[error(transparent)]
    Home(#[from] crate::HomeError),
    /// A transition could not be computed.
    #[error("round {round}: {source}")]
    Transition {
        /// The round.
        round: u64,
        /// Why.
        source: compression::TransitionError,
    },
}

/// A run: what it is, where it lives, and what follows from its manifest.
#[derive(Debug)]
pub struct Run {
    /// The run's identity.
    pub id: RunId,
    /// The manifest.
    pub manifest: Manifest,
    /// What payloads look like.
    pub format: Arc<Format>,
    /// The launcher's folder: manifest, data set, amendments.
    pub folder: Bucket,
    /// The chain.
    pub chain: Arc<dyn Chain>,
    stores: Stores,
    pub(crate) amendments: tokio::sync::Mutex<Amendments>,
    buckets: Mutex<HashMap<Hotkey, (String, Bucket)>>,
}

/// The folder of a run, its manifest and its id, checked against its address. Needs no chain.
///
/// # Errors
/// [`RunError`] says what does not fit.
pub async fn open_folder(url: &str, stores: &Stores) -> Result<(Bucket, Manifest, RunId), RunError> {
    let folder = stores.open(url, Access::Trusted)?;
    let bytes = folder.get(&ObjectKey::Manifest, MAX_MANIFEST_BYTES).await?.ok_or_else(|| RunError::NoManifest(url.into()))?;
    let manifest = Manifest::from_bytes(&bytes).map_err(|source| RunError::Manifest { url: url.into(), source })?;
    let id = manifest.run_id();
    if named_run(url).is_some_and(|named| named != id) {
        return Err(RunError::WrongRun { url: url.into(), found: id });
    }
    Ok((folder, manifest, id))
}

/// The run that an address names by its last part, if that is a run's id; options behind it do not count.
fn named_run(url: &str) -> Option<RunId> {
    url.split('?').next()?.trim_end_matches('/').rsplit('/').next()?.parse().ok()
}

impl Run {
    /// Reads the manifest at `url` and checks it against its address and the chain. `stores` opens buckets; of it follows how far other
    /// nodes' are trusted: [`Access::Foreign`] on a public network, [`Access::Trusted`] in a lab, where they may be local folders.
    ///
    /// # Errors
    /// [`RunError`] says what does not fit.
    pub async fn open(url: &str, chain: Arc<dyn Chain>, stores: impl Into<Stores>) -> Result<Arc<Self>, RunError> {
        let stores = stores.into();
        let (folder, manifest, id) = open_folder(url, &stores).await?;
        let genesis = chain.genesis().await?;
        if genesis != manifest.chain.genesis {
            return Err(RunError::WrongChain { found: genesis, expected: manifest.chain.genesis });
        }
        Ok(Arc::new(Self {
            id,
            format: manifest.format(),
            manifest,
            folder,
            chain,
            stores,
            amendments: Default::default(),
            buckets: Mutex::default(),
        }))
    }

    /// How this node opens buckets.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Whether a data set, by its digest, is the run's.
    ///
    /// # Errors
    /// [`RunError::WrongData`].
    pub fn check_data(&self, found: Digest) -> Result<(), RunError> {
        let expected = self.manifest.data.digest;
        if found == expected { Ok(()) } else { Err(RunError::WrongData { found, expected }) }
    }

    /// The state at round 0, its root checked against the manifest's.
    ///
    /// # Errors
    /// [`RunError::GenesisRoot`].
    pub fn genesis_state(&self) -> Result<State, RunError> {
        let state = protocol::genesis::initial_state(&self.manifest);
        let found = Digest(state.root());
        let expected = self.manifest.genesis_root;
        if found == expected { Ok(state) } else { Err(RunError::GenesisRoot { found, expected }) }
    }

    /// Where `hotkey`'s objects are read; `None` if it has no bucket on the chain or an unusable one.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn bucket_of(&self, hotkey: &Hotkey) -> Result<Option<Bucket>, ChainError> {
        Ok(self.buckets().await?.remove(hotkey))
    }

    /// Everybody's buckets; addresses that cannot be opened are passed over.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn buckets(&self) -> Result<HashMap<Hotkey, Bucket>, ChainError> {
        let listed = self.chain.buckets(self.manifest.chain.netuid).await?;
        let mut known = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        for (hotkey, url) in listed {
            if known.get(&hotkey).is_none_or(|(old, _)| *old != url)
                && let Ok(bucket) = self.stores.open_peer(&url)
            {
                known.insert(hotkey, (url, bucket.join(&self.id.to_string())));
            }
        }
        Ok(known.iter().map(|(hotkey, (_, bucket))| (*hotkey, bucket.clone())).collect())
    }

    /// What was announced in these blocks, in the chain's order; other commitments are passed over.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn said(&self, blocks: RangeInclusive<u64>) -> Result<Vec<Said>, ChainError> {
        let commitments = self.chain.commitments(self.manifest.chain.netuid, blocks).await?;
        let said = |c: Commitment| Some(Said { by: c.hotkey, block: c.block, what: Announcement::decode(&c.data)? });
        Ok(commitments.into_iter().filter_map(said).collect())
    }

    /// The neurons as of block `at` and the validators among them, by rank in a round that opens there. Nobody has a rank where that
    /// block is not there yet.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn ranks(&self, at: u64) -> Result<(Vec<Neuron>, Vec<Validator>), ChainError> {
        let neurons = self.chain.neurons(self.manifest.chain.netuid, at).await?;
        let Some(block) = self.chain.block(at).await? else { return Ok((neurons, Vec::new())) };
        let permitted = neurons.iter().filter(|n| n.permit && n.stake > 0);
        let validators = permitted.map(|n| Validator { hotkey: n.hotkey, stake: n.stake }).collect();
        Ok((neurons, protocol::round::rank_validators(validators, &block.hash)))
    }

    /// The model's tensors. The state of a run with lossy merges has more: [`Manifest::state_layout`].
    pub fn layout(&self) -> &Arc<Layout> {
        self.format.layout()
    }

    /// The fewest and the most bytes of a sealed payload of this run.
    pub fn sealed_len(&self) -> RangeInclusive<u64> {
        let opened = compression::payload_len(&self.format);
        protocol::sealed_len(*opened.start())..=protocol::sealed_len(*opened.end())
    }

    /// Bytes read from other nodes' buckets so far.
    pub fn downloaded(&self) -> u64 {
        let known = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        self.folder.traffic().down + known.values().map(|(_, bucket)| bucket.traffic().down).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_run_whatever_options_follow() {
        let id = Digest::of(b"run");
        for url in ["s3://bucket/ID", "s3://bucket/ID/", "s3://bucket/ID?endpoint=http://127.0.0.1:9000", "https://host/a/ID/?region=x/y"] {
            assert_eq!(named_run(&url.replace("ID", &id.to_string())), Some(id), "{url}");
        }
        assert_eq!(named_run(&format!("s3://bucket/latest?endpoint=http://host/{id}")), None);
    }
}
