//! What a demo needs before its processes start: text, keys, ledger, run.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use chain::{Blocks, Chain, Ledger, LedgerConfig, Phrase, RAO_PER_TAO, Wallet};
use dataset::{CollectOptions, PrepareOptions, Source, Tokenizer};
use protocol::{Keypair, RunConfig};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::store::{self, RUN_BUCKET, Store, StoreServer};
use super::{DemoArgs, subtensor};
use crate::{cli, context, data, launch};

const MARKER: &str = "demo.json";
const WALLET: &str = "demo";
/// Name of the run's config in the folder, where `tributary launch` reads it.
const CONFIG: &str = "config.toml";

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Trains.
    Miner,
    /// Uploads noise.
    Cheat,
    /// Measures and records.
    Validator,
    /// Bundles.
    Aggregator,
}

impl Role {
    /// Whether it sends payloads.
    pub fn mines(self) -> bool {
        matches!(self, Self::Miner | Self::Cheat)
    }
}

/// One process of the demo.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Name of the process, its hotkey and its home directory.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Its uid.
    pub uid: u16,
    /// Its address.
    pub hotkey: String,
}

/// A demo's folder and what lies in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lab {
    /// The folder, absolute.
    pub dir: PathBuf,
    /// The run's address.
    pub run: String,
    /// The chain's address.
    pub chain: String,
    /// The subnet.
    pub netuid: u16,
    /// The processes.
    pub nodes: Vec<Node>,
    /// Bytes of training text per token.
    pub bytes_per_token: f64,
    /// Where the S3 server listens, if the demo has one.
    #[serde(default)]
    pub s3: Option<SocketAddr>,
    /// The faults that the nodes' requests to stores suffer, if any.
    #[serde(default)]
    pub faults: Option<PathBuf>,
}

impl Lab {
    /// Prepares a new demo and starts its server, if it has one; an earlier demo in the folder is removed.
    pub async fn create(args: &DemoArgs) -> Result<(Self, Option<StoreServer>)> {
        let dir = std::path::absolute(&args.dir)?;
        let faults = args.faults.as_deref().map(checked_faults).transpose()?;
        remove_earlier(&dir)?;
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let (config, text) = read_config(args.config.as_deref())?;
        eprintln!("preparing text");
        let data = dir.join("data");
        let bytes_per_token = prepare_text(args, &config, &data)?;
        let wallets = dir.join("wallets");
        let wallet = Wallet::create(&wallets, WALLET, &Phrase::generate()?, None)?;
        let owner = wallet.create_hotkey("owner", &Phrase::generate()?)?;
        let store = dir.join("store");
        fs::create_dir_all(&store)?;
        let store_url = context::url_of(&store.display().to_string())?;
        let place = match &args.chain {
            Some(url) => subtensor::settle(url, &wallet, &owner, args).await?,
            None => ledger_beside(&store, &wallet, &owner, args).await?,
        };
        let server = match args.store {
            Store::Folders => None,
            Store::S3 => Some(StoreServer::start(&dir, None).await?),
        };
        let s3 = server.as_ref().map(|server| server.address);
        let run = match s3 {
            None => launch::launch(config, &store_url, &*place.chain, place.netuid, place.start, &data, &owner).await?.url,
            Some(address) => {
                fs::write(dir.join(CONFIG), text)?;
                launch_over_s3(&dir, &store::url(address, RUN_BUCKET), &place).await?
            }
        };
        let Place { url: chain, netuid, nodes, .. } = place;
        let lab = Self { dir, run, chain, netuid, nodes, bytes_per_token, s3, faults };
        fs::create_dir_all(lab.logs())?;
        fs::write(lab.dir.join(MARKER), serde_json::to_vec_pretty(&lab)?)?;
        Ok((lab, server))
    }

    /// Reads an earlier demo and starts its server again, if it has one.
    pub async fn load(dir: &Path) -> Result<(Self, Option<StoreServer>)> {
        let path = dir.join(MARKER);
        let bytes = fs::read(&path).with_context(|| format!("{} holds no demo to resume", dir.display()))?;
        let lab: Self = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
        let server = match lab.s3 {
            None => None,
            Some(address) => Some(StoreServer::start(&lab.dir, Some(address)).await?),
        };
        Ok((lab, server))
    }

    /// The ledger, if that is the chain.
    pub fn ledger(&self) -> Result<Option<Ledger>> {
        Ok(self.chain.strip_prefix("ledger:").map(|path| Ledger::open(Path::new(path))).transpose()?)
    }

    /// Folder of the processes' logs.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The run's log: every event of every process, a JSON line each.
    pub fn events(&self) -> PathBuf {
        self.dir.join("events.jsonl")
    }

    /// Folder of the wallets.
    pub fn wallets(&self) -> PathBuf {
        self.dir.join("wallets")
    }

    /// The wallet's name.
    pub fn wallet(&self) -> &'static str {
        WALLET
    }

    /// A node's home directory.
    pub fn home(&self, node: &Node) -> PathBuf {
        self.dir.join("homes").join(&node.name)
    }
}

/// The path of a file of faults that can be read, absolute.
fn checked_faults(path: &Path) -> Result<PathBuf> {
    cli::read_faults(path)?;
    Ok(std::path::absolute(path)?)
}

fn remove_earlier(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    if dir.join(MARKER).exists() {
        return fs::remove_dir_all(dir).with_context(|| format!("removing the earlier demo in {}", dir.display()));
    }
    if fs::read_dir(dir)?.next().is_some() {
        bail!("{} is not empty and holds no demo; choose another --dir", dir.display());
    }
    Ok(())
}

/// Launches the run as `tributary launch` does, by a process that signs as the run's bucket's owner; the run's address.
async fn launch_over_s3(dir: &Path, store_url: &str, place: &Place) -> Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("launch").arg(dir.join(CONFIG)).args(["--json", "--store", store_url, "--chain", &place.url]);
    command.args(["--netuid", &place.netuid.to_string(), "--start-block", &place.start.to_string()]);
    command.args(["--wallet", WALLET, "--hotkey", "owner", "--wallet-path"]).arg(dir.join("wallets")).arg("--data").arg(dir.join("data"));
    store::sign_as(&mut command, dir, RUN_BUCKET)?;
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("launching the run")?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the run could not be launched: {}", told.lines().last().unwrap_or("nothing was said"));
    }
    let launched: serde_json::Value = serde_json::from_slice(&output.stdout).context("what `tributary launch` told")?;
    launched["url"].as_str().map(str::to_owned).context("`tributary launch` told no address")
}

/// The config, and its text.
fn read_config(path: Option<&Path>) -> Result<(RunConfig, String)> {
    let (name, text) = match path {
        Some(path) => (path.display().to_string(), fs::read_to_string(path).with_context(|| path.display().to_string())?),
        None => ("configs/demo.toml".to_owned(), include_str!("../../configs/demo.toml").to_owned()),
    };
    Ok((RunConfig::parse(&text).context(name)?, text))
}

/// Makes the data set and returns its bytes per training token.
fn prepare_text(args: &DemoArgs, config: &RunConfig, out: &Path) -> Result<f64> {
    if config.data.tokenizer != dataset::BYTES {
        bail!("the demo tokenizes to bytes, this config asks for {:?}; use `tributary data prepare` and `launch`", config.data.tokenizer);
    }
    let source = match args.text.as_slice() {
        [] => Source::Machine,
        paths => Source::Paths(paths.to_vec()),
    };
    let mut options = PrepareOptions::new(source, data::describe(&args.text), Tokenizer::Bytes);
    options.collect = CollectOptions { max_bytes: Some(args.max_bytes), ..CollectOptions::default() };
    let train = dataset::prepare(&options, out)?.train;
    Ok(train.bytes as f64 / train.tokens as f64)
}

/// A subnet with the demo's nodes.
pub(super) struct Place {
    pub(super) chain: Arc<dyn Chain>,
    pub(super) url: String,
    pub(super) netuid: u16,
    /// Block at which the run may start.
    pub(super) start: u64,
    pub(super) nodes: Vec<Node>,
}

/// Blocks from epoch to epoch, and between two weight settings.
pub(super) const TEMPO: u64 = 20;

/// A new ledger with every node.
async fn ledger_beside(store: &Path, wallet: &Wallet, owner: &Keypair, args: &DemoArgs) -> Result<Place> {
    let path = store.join(context::LEDGER_FILE);
    let config = LedgerConfig { tempo: TEMPO, weights_rate_limit: TEMPO, ..LedgerConfig::new(Blocks::Lockstep, owner.hotkey()) };
    let ledger = Ledger::create(&path, &config)?;
    let (netuid, coldkey) = (config.netuid, wallet.coldkey_public()?);
    ledger.join("demo")?;
    let mut nodes = crew_of(wallet, args)?;
    for Planned { node, key, stake } in &mut nodes {
        node.uid = ledger.enroll(netuid, key.hotkey(), coldkey)?;
        if *stake > 0 {
            ledger.endow(netuid, key.hotkey(), *stake * RAO_PER_TAO)?;
        }
    }
    // registrations count from the next block on
    let start = ledger.next_block(0).await?.number;
    ledger.leave()?;
    let nodes = nodes.into_iter().map(|planned| planned.node).collect();
    Ok(Place { chain: Arc::new(ledger), url: format!("ledger:{}", path.display()), netuid, start, nodes })
}

/// A node that has a key and no uid yet.
pub(super) struct Planned {
    pub(super) node: Node,
    pub(super) key: Keypair,
    /// In TAO.
    pub(super) stake: u64,
}

/// Every node of the demo with a new hotkey; validators have 1000, 990, … TAO, so that ranks are plain.
pub(super) fn crew_of(wallet: &Wallet, args: &DemoArgs) -> Result<Vec<Planned>> {
    let miner = |i| (format!("miner-{}", i + 1), if i >= args.miners - args.cheats { Role::Cheat } else { Role::Miner }, 0);
    let validator = |i| (format!("validator-{}", i + 1), Role::Validator, 1000u64.saturating_sub(10 * i as u64).max(10));
    let aggregator = ("aggregator".to_owned(), Role::Aggregator, 0);
    let all = (0..args.miners).map(miner).chain((0..args.validators).map(validator)).chain([aggregator]);
    let plan = |(name, role, stake): (String, Role, u64)| {
        let key = wallet.create_hotkey(&name, &Phrase::generate()?)?;
        Ok(Planned { node: Node { name, role, uid: 0, hotkey: key.hotkey().ss58() }, key, stake })
    };
    all.map(plan).collect()
}
