//! What commands need again and again: a runtime, a chain, a run, a key, the run's tokens.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, bail};
use chain::{Chain, Ledger, Wallet};
use checkpoints::{Run, write_durably};
use dataset::{Dataset, DatasetFile, DatasetManifest, MANIFEST_FILE, MAX_DATASET_MANIFEST_BYTES};
use protocol::{Digest, Keypair, Manifest, ObjectKey, RunConfig};
use storage::{Access, Bucket};

use crate::cli::{KeyArgs, RunArgs};

/// File name of the ledger beside the runs of a local store.
pub const LEDGER_FILE: &str = "ledger.sqlite";

/// An error with its causes on one line. A cause that the message before it tells already is not told again.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in error.chain() {
        let cause = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if told.last().is_none_or(|before| !before.contains(&cause)) {
            told.push(cause);
        }
    }
    told.join(": ")
}

/// Runs a future on a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the system gives no threads")?
        .block_on(work)
}

/// Reads a run's config; what the parser says is told with its line, without a drawing.
pub fn read_config(path: &Path) -> Result<RunConfig> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    RunConfig::parse(&text).map_err(|error| {
        let line = 1 + text.bytes().take(error.span().map_or(0, |span| span.start)).filter(|byte| *byte == b'\n').count();
        anyhow!("{}, line {line}: {}", path.display(), error.message())
    })
}

/// `path` with a leading `~` replaced by the home directory.
pub fn expand(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// A URL as given, or the absolute `file://` URL of a path.
pub fn url_of(text: &str) -> Result<String> {
    if text.contains("://") {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    let path = std::path::absolute(text).with_context(|| format!("{text:?} is neither a URL nor a path"))?;
    let url = url::Url::from_file_path(&path).map_err(|()| anyhow!("{} cannot be written as a URL", path.display()))?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The local path of a `file://` URL.
pub fn local_path(url: &str) -> Option<PathBuf> {
    url::Url::parse(url).ok().filter(|u| u.scheme() == "file")?.to_file_path().ok()
}

/// The folder that holds a run's folder.
pub fn store_of(run_url: &str) -> String {
    let (place, options) = split_options(run_url);
    let place = place.trim_end_matches('/');
    format!("{}{options}", place.rsplit_once('/').map_or(place, |(store, _)| store))
}

/// Address of a folder or object in a store: options such as `?endpoint=…` stay at the end.
pub fn within(store_url: &str, path: &str) -> String {
    let (place, options) = split_options(store_url);
    format!("{}/{path}{options}", place.trim_end_matches('/'))
}

/// An address and, with their question mark, its options.
fn split_options(url: &str) -> (&str, &str) {
    url.split_at(url.find('?').unwrap_or(url.len()))
}

/// The chain's address: as given, or the ledger beside a local store.
pub fn chain_url(given: Option<&str>, store_url: &str) -> Result<String> {
    match (given, local_path(store_url)) {
        (Some(url), _) => Ok(url.to_owned()),
        (None, Some(store)) => Ok(format!("ledger:{}", store.join(LEDGER_FILE).display())),
        (None, None) => bail!("this store is not a local folder, so the chain must be named: pass --chain"),
    }
}

/// Opens a chain; on an embedded ledger in lockstep, `participant` makes this process one of those the blocks wait for.
pub async fn open_chain(url: &str, participant: Option<&str>) -> Result<Arc<dyn Chain>> {
    match (url.strip_prefix("ledger:"), participant) {
        (Some(path), Some(name)) => {
            let ledger = Ledger::open(Path::new(path)).with_context(|| url.to_owned())?;
            ledger.join(name)?;
            Ok(Arc::new(ledger))
        }
        _ => chain::open(url).await.with_context(|| url.to_owned()),
    }
}

/// Opens a run on its chain.
pub async fn open_run(args: &RunArgs, participant: Option<&str>) -> Result<Arc<Run>> {
    let url = url_of(&args.run)?;
    let chain_url = chain_url(args.chain.as_deref(), &store_of(&url))?;
    let stores = args.link.stores(peers(args, &chain_url))?;
    Ok(Run::open(&url, open_chain(&chain_url, participant).await?, stores).await?)
}

/// How far other nodes' buckets are trusted. An embedded ledger is a lab, where they may be local folders and private addresses; a chain at a
/// private address is not: it may be one's own node of a public one.
fn peers(args: &RunArgs, chain_url: &str) -> Access {
    if args.lab || chain_url.starts_with("ledger:") { Access::Trusted } else { Access::Foreign }
}

/// Opens a wallet.
pub fn open_wallet(args: &KeyArgs) -> Result<Wallet> {
    Ok(Wallet::open(&expand(&args.wallet_path), &args.wallet)?)
}

/// Opens a hotkey.
pub fn open_hotkey(args: &KeyArgs) -> Result<Keypair> {
    Ok(open_wallet(args)?.hotkey(&args.hotkey, None)?)
}

/// The run's tokens: from `given`, from the run's folder if it is local, or downloaded into the home directory.
pub async fn open_dataset(run: &Run, given: Option<&Path>, home: &Path) -> Result<Arc<Dataset>> {
    let local = local_path(run.folder.url()).map(|p| p.join("data"));
    let folder = match given.map(Path::to_owned).or(local) {
        Some(folder) => folder,
        None => fetch_dataset(run, &home.join("data")).await?,
    };
    Ok(Arc::new(Dataset::open(&folder, &home.join("cache"))?))
}

async fn fetch_dataset(run: &Run, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for file in fetch_dataset_manifest(&run.folder, &run.manifest).await?.files() {
        let path = folder.join(&file.name);
        if std::fs::read(&path).is_ok_and(|old| Digest::of(&old) == file.digest) {
            continue;
        }
        let bytes = fetch_dataset_file(&run.folder, &file).await?;
        write_durably(&path, &bytes).with_context(|| path.display().to_string())?;
    }
    Ok(folder.to_owned())
}

/// The data set's table of contents, from a run's folder.
pub async fn fetch_dataset_manifest(folder: &Bucket, manifest: &Manifest) -> Result<DatasetManifest> {
    let key = ObjectKey::Dataset(MANIFEST_FILE.into());
    let bytes = folder.get(&key, MAX_DATASET_MANIFEST_BYTES).await?.with_context(|| missing(MANIFEST_FILE))?;
    if Digest::of(&bytes) != manifest.data.digest {
        bail!("data/{MANIFEST_FILE} is not the data set that the run's manifest names");
    }
    Ok(DatasetManifest::from_bytes(&bytes)?)
}

/// A file of the data set, from a run's folder.
pub async fn fetch_dataset_file(folder: &Bucket, file: &DatasetFile) -> Result<Vec<u8>> {
    let key = ObjectKey::Dataset(file.name.clone());
    let bytes = folder.get_large(&key, file.bytes).await?.with_context(|| missing(&file.name))?;
    if Digest::of(&bytes) != file.digest {
        bail!("data/{} does not have the digest that the data set's manifest names", file.name);
    }
    Ok(bytes.into())
}

fn missing(file: &str) -> String {
    format!("the run's folder has no data/{file}; ask its launcher, or pass --data")
}

/// Opens a node's bucket for writing: as given, or a folder of its own beside the run.
pub fn own_bucket(given: Option<&str>, run: &Run, run_url: &str, keypair: &Keypair) -> Result<Bucket> {
    let url = match given {
        Some(url) => url_of(url)?,
        None => within(&store_of(run_url), &format!("peers/{}", keypair.hotkey())),
    };
    Ok(run.stores().open(&url, Access::Own)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_an_address_stay_at_its_end() {
        let run = within("s3://bucket/path?endpoint=http://host:9000/", "RUN");
        assert_eq!(run, "s3://bucket/path/RUN?endpoint=http://host:9000/");
        assert_eq!(store_of(&run), "s3://bucket/path?endpoint=http://host:9000/");
        assert_eq!((within("file:///a/", "b/c").as_str(), store_of("file:///a/b/").as_str()), ("file:///a/b/c", "file:///a"));
    }

    #[test]
    fn other_nodes_may_point_inward_only_in_a_lab() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            run: RunArgs,
        }
        let access = |more: &[&str], chain: &str| {
            let line = [&["tributary", "--run", "s3://bucket/run"], more].concat();
            peers(&<Line as clap::Parser>::try_parse_from(line).expect("it parses").run, chain)
        };
        for chain in ["wss://entrypoint.example.org", "ws://127.0.0.1:9944", "http://127.0.0.1:9945"] {
            assert_eq!(access(&[], chain), Access::Foreign, "{chain}");
            assert_eq!(access(&["--lab"], chain), Access::Trusted, "{chain}");
            assert_eq!(access(&["--allow-private"], chain), Access::Trusted, "{chain}");
        }
        assert_eq!(access(&[], "ledger:/srv/ledger.sqlite"), Access::Trusted);
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow!("no\n  space").context("a.txt: no space").context("writing");
        assert_eq!(one_line(&error), "writing: a.txt: no space");
    }
}
