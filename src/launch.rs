//! `tributary launch`: a new run's genesis.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use chain::Chain;
use clap::Args;
use dataset::Dataset;
use protocol::{ChainSection, Keypair, Launch, Manifest, ObjectKey, RunConfig, RunId};
use storage::{Access, Bucket};

use crate::{cli::KeyArgs, context};

/// Options of `tributary launch`.
#[derive(Debug, Args)]
pub struct LaunchArgs {
    /// The run's config, e.g. configs/demo.toml.
    pub config: PathBuf,
    /// Where the run's folder goes: a folder, or any object-store URL.
    #[arg(long, value_name = "URL")]
    pub store: String,
    /// The chain. By default the ledger in a local store.
    #[arg(long, value_name = "URL", env = "TRIBUTARY_CHAIN")]
    pub chain: Option<String>,
    /// The subnet.
    #[arg(long, default_value_t = 1)]
    pub netuid: u16,
    /// The tokenized data set, made by `tributary data prepare`.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Block at which round 0 opens. By default the next one.
    #[arg(long, value_name = "BLOCK")]
    pub start_block: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

/// A launched run.
pub struct Launched {
    /// Its identity.
    pub id: RunId,
    /// Address of its folder.
    pub url: String,
}

/// Runs the command.
pub async fn run(args: LaunchArgs) -> Result<()> {
    let config = context::read_config(&args.config)?;
    let store = context::url_of(&args.store)?;
    let chain = context::open_chain(&context::chain_url(args.chain.as_deref(), &store)?, None).await?;
    let keypair = context::open_hotkey(&args.keys)?;
    let start = match args.start_block {
        Some(block) => block,
        None => chain.head().await?.number + 1,
    };
    let launched = launch(config, &store, &*chain, args.netuid, start, &args.data, &keypair).await?;
    let neurons = chain.neurons(args.netuid, chain.head().await?.number).await?;
    if !neurons.iter().any(|n| n.permit && n.stake > 0) {
        eprintln!(
            "no validator has stake on subnet {} yet: unless one has by block {start}, no round of this run can ever close",
            args.netuid
        );
    }
    if args.json {
        say!("{}", serde_json::json!({ "run": launched.id, "url": launched.url }));
    } else {
        say!("run {}\njoin with --run {}", launched.id, launched.url);
    }
    Ok(())
}

/// Resolves `config`, writes data set and manifest (last) into the store, and returns the run's address.
pub async fn launch(
    config: RunConfig,
    store: &str,
    chain: &dyn Chain,
    netuid: u16,
    start_block: u64,
    data: &Path,
    keypair: &Keypair,
) -> Result<Launched> {
    let cache = cache_beside(data)?;
    let dataset = Dataset::open(data, &cache)?;
    if dataset.manifest().tokenizer.name != config.data.tokenizer {
        let (have, want) = (&dataset.manifest().tokenizer.name, &config.data.tokenizer);
        bail!("the data set was made with tokenizer {have:?}, the config says {want:?}");
    }
    let chain = ChainSection { genesis: chain.genesis().await?, netuid, launch_key: keypair.hotkey(), start_block };
    let manifest = Manifest::resolve(config, Launch { chain, data: dataset.section() })?;
    let id = manifest.run_id();
    let url = context::within(store, &id.to_string());
    let folder = Bucket::open(&url, Access::Own)?;
    for file in dataset.files() {
        let bytes = std::fs::read(data.join(&file.name)).with_context(|| file.name.clone())?;
        folder.put_large(&ObjectKey::Dataset(file.name), bytes.into()).await?;
    }
    folder.put(&ObjectKey::Manifest, manifest.to_bytes().into()).await?;
    Ok(Launched { id, url })
}

/// A cache for the shards beside the data set.
fn cache_beside(data: &Path) -> Result<PathBuf> {
    let cache = data.join(".cache");
    std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    Ok(cache)
}
