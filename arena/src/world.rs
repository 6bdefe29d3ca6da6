//! What surrounds a bout: a folder, a ledger in lockstep, a run, keys and buckets.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use chain::{Blocks, Chain as _, Ledger, LedgerConfig, RAO_PER_TAO};
use checkpoints::Run;
use dataset::Dataset;
use protocol::{ChainSection, Digest, Keypair, Launch, Manifest, ObjectKey};
use storage::{Access, Bucket};
use tempfile::TempDir;
use url::Url;

use crate::{ArenaError, Setup};

/// Time of the ledger's first block, fixed so that equal setups have equal runs.
const START_MS: u64 = 1_700_000_000_000;
/// The population's name in lockstep.
const POPULATION: &str = "population";

/// A node's standing.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub uid: u16,
    pub keypair: Keypair,
}

/// A launched run and all who are registered for it.
pub(crate) struct World {
    dir: TempDir,
    /// The population's handle, which takes part in lockstep.
    pub ledger: Arc<Ledger>,
    pub dataset: Arc<Dataset>,
    pub url: String,
    pub miners: Vec<Seat>,
    pub validators: Vec<Seat>,
}

impl World {
    /// Makes ledger, keys and run; blocks wait for every validator to join.
    pub async fn create(setup: &Setup) -> Result<Self, ArenaError> {
        let dir = tempfile::Builder::new().prefix("arena").tempdir()?;
        let dataset = Arc::new(Dataset::open(&setup.data, &dir.path().join("cache"))?);
        let owner = keypair(setup.seed, "owner", 0);
        let config = LedgerConfig {
            start_ms: START_MS,
            tempo: setup.tempo,
            weights_rate_limit: setup.tempo,
            ..LedgerConfig::new(Blocks::Lockstep, owner.hotkey())
        };
        let ledger = Arc::new(Ledger::create(&dir.path().join("ledger.sqlite"), &config)?);
        ledger.join(POPULATION)?;
        let register = |name: &str, number: usize, stake: u64| {
            let keypair = keypair(setup.seed, name, number);
            let uid = ledger.enroll(config.netuid, keypair.hotkey(), keypair.hotkey())?;
            if stake > 0 {
                ledger.endow(config.netuid, keypair.hotkey(), stake.saturating_mul(RAO_PER_TAO))?;
            }
            Ok::<_, ArenaError>(Seat { uid, keypair })
        };
        let validators = setup.validators.iter().enumerate().map(|(i, v)| register("validator", i, v.stake)).collect::<Result<_, _>>()?;
        let miners = (0..setup.miners.len()).map(|i| register("miner", i, 0)).collect::<Result<_, _>>()?;
        // registrations count from the next block on
        let start = ledger.next_block(0).await?.number;
        let url = launch(setup, &dir.path().join("store"), &ledger, start, &dataset, &owner).await?;
        let world = Self { dir, ledger, dataset, url, miners, validators };
        let names: Vec<String> = (0..setup.validators.len()).map(validator_name).collect();
        world.ledger.expect(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(world)
    }

    /// The run as the population sees it.
    pub async fn run(&self) -> Result<Arc<Run>, ArenaError> {
        Ok(Run::open(&self.url, self.ledger.clone(), Access::Trusted).await?)
    }

    /// The ledger's file.
    pub fn ledger_path(&self) -> PathBuf {
        self.dir.path().join("ledger.sqlite")
    }

    /// Where a validator keeps what it must not lose.
    pub fn home(&self, number: usize) -> PathBuf {
        self.dir.path().join("homes").join(number.to_string())
    }

    /// A node's own bucket.
    pub fn bucket(&self, seat: &Seat) -> Result<Bucket, ArenaError> {
        let folder = self.dir.path().join("store").join("peers").join(seat.keypair.hotkey().ss58());
        Ok(Bucket::open(&file_url(&folder)?, Access::Own)?)
    }
}

/// A validator's name in lockstep.
pub(crate) fn validator_name(number: usize) -> String {
    format!("validator-{number}")
}

/// Writes the manifest and returns the run's address. The data set is at hand already.
async fn launch(
    setup: &Setup,
    store: &Path,
    ledger: &Ledger,
    start_block: u64,
    dataset: &Dataset,
    owner: &Keypair,
) -> Result<String, ArenaError> {
    let chain = ChainSection { genesis: ledger.genesis().await?, netuid: ledger.config().netuid, launch_key: owner.hotkey(), start_block };
    let manifest = Manifest::resolve(setup.config.clone(), Launch { chain, data: dataset.section() })?;
    let url = file_url(&store.join(manifest.run_id().to_string()))?;
    Bucket::open(&url, Access::Own)?.put(&ObjectKey::Manifest, manifest.to_bytes().into()).await?;
    Ok(url)
}

fn file_url(path: &Path) -> Result<String, ArenaError> {
    let url = Url::from_file_path(path).map_err(|()| ArenaError::Setup(format!("{} cannot be written as a URL", path.display())))?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn keypair(seed: u64, name: &str, number: usize) -> Keypair {
    let parts: [&[u8]; 3] = [&seed.to_le_bytes(), name.as_bytes(), &(number as u64).to_le_bytes()];
    Keypair::from_seed(&Digest::derive("tributary 2026 arena key v1", &parts).0)
}
