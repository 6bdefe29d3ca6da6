//! The snapshot that a command works on: a local one, or a public one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use checkpoints::{Expected, Trust, list_snapshots, newest_snapshot, open_folder, read_snapshot};
use clap::Args;
use compression::State;
use dataset::{BYTES, EndOfText, TOKENIZER_FILE, Tokenizer};
use protocol::{Digest, Manifest};
use storage::{Access, Bucket};

use crate::{cli::RunArgs, context};

/// Which snapshot of which run.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    #[command(flatten)]
    run: RunArgs,
    /// A folder with snapshots, as `tributary pull`, `tributary verify --out` and the demo write it; needs no chain. By default the
    /// validators' buckets are searched.
    #[arg(long, value_name = "DIR")]
    snapshot: Option<PathBuf>,
    /// The snapshot after this many rounds. By default the newest.
    #[arg(long, value_name = "N")]
    round: Option<u64>,
}

/// A model whose every byte was checked, and what its run says about it.
pub struct Snapshot {
    /// What the run's manifest says.
    pub manifest: Manifest,
    /// The parameters.
    pub state: State,
    /// Their root.
    pub root: Digest,
    folder: Bucket,
}

impl SnapshotArgs {
    /// Reads and checks the snapshot.
    pub async fn open(&self) -> Result<Snapshot> {
        match &self.snapshot {
            Some(path) => self.open_local(path).await,
            None => self.open_public().await,
        }
    }

    async fn open_public(&self) -> Result<Snapshot> {
        let run = context::open_run(&self.run, None).await?;
        let replica = newest_snapshot(&run, self.round).await?.with_context(|| none_public(self.round))?;
        Ok(Snapshot {
            manifest: run.manifest.clone(),
            state: Arc::unwrap_or_clone(replica.state),
            root: replica.root,
            folder: run.folder.clone(),
        })
    }

    async fn open_local(&self, path: &Path) -> Result<Snapshot> {
        let stores = self.run.link.stores(Access::Trusted)?;
        let (folder, manifest, run) = open_folder(&context::url_of(&self.run.run)?, &stores).await?;
        let bucket = stores.open(&context::url_of(&path.display().to_string())?, Access::Trusted)?;
        let round = match self.round {
            Some(round) => round,
            None => *list_snapshots(&bucket).await?.last().with_context(|| format!("{} holds no snapshot", path.display()))?,
        };
        let expected = Expected { run, layout: &manifest.state_layout(), trust: Trust::Anyone };
        let (state, signed) = read_snapshot(&bucket, round, &expected).await?;
        Ok(Snapshot { manifest, state, root: signed.value.root, folder })
    }
}

/// What to say when no validator publishes what was asked for.
pub fn none_public(round: Option<u64>) -> String {
    let which = round.map_or("a snapshot".to_owned(), |round| format!("a snapshot of round {round}"));
    format!(
        "no validator publishes {which} that passes the checks; wait for the next one, or replay the log with `tributary verify --out DIR`"
    )
}

impl Snapshot {
    /// The run's tokenizer.
    pub async fn tokenizer(&self) -> Result<Tokenizer> {
        tokenizer(&self.folder, &self.manifest).await
    }
}

/// A run's tokenizer, from its folder.
pub async fn tokenizer(folder: &Bucket, manifest: &Manifest) -> Result<Tokenizer> {
    if manifest.data.tokenizer == BYTES {
        return Ok(Tokenizer::Bytes);
    }
    let data = context::fetch_dataset_manifest(folder, manifest).await?;
    let file = data.files().into_iter().find(|file| file.name == TOKENIZER_FILE);
    let json = context::fetch_dataset_file(folder, &file.context("the run's data set has no tokenizer.json")?).await?;
    Ok(Tokenizer::from_json(&data.tokenizer.name, json, EndOfText::Id(data.tokenizer.end_of_text))?)
}
