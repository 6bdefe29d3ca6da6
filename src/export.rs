//! `tributary export`: a folder that other tools load.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use checkpoints::{TokenizerSource, export};
use clap::{Args, ValueEnum};
use dataset::Tokenizer;
use protocol::Digest;
use serde::Serialize;

use crate::{output, snapshot::SnapshotArgs};

/// Options of `tributary export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tributary export --run demo/store/RUN_ID --snapshot demo/checkpoint --out model
  python3 -c 'from transformers import AutoModelForCausalLM as M; M.from_pretrained(\"model\")'")]
pub struct ExportArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// What to write.
    #[arg(long, value_enum, default_value_t = Format::Hf)]
    format: Format,
    /// Where it goes; files of the same names are replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A format that other tools read.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// A Hugging Face folder: config.json, safetensors in f32, tokenizer; `transformers` loads it as a Llama.
    Hf,
}

/// Runs the command.
pub async fn run(args: ExportArgs) -> Result<()> {
    let snapshot = args.snapshot.open().await?;
    let tokenizer = snapshot.tokenizer().await?;
    let source = match &tokenizer {
        Tokenizer::Bytes => TokenizerSource::Bytes,
        other => TokenizerSource::Json { json: other.json().unwrap_or_default(), end_of_text: other.end_of_text() },
    };
    match args.format {
        Format::Hf => export(&snapshot.state, &snapshot.manifest.model, source, &args.out)?,
    }
    let parameters = snapshot.state.model().iter().map(Vec::len).sum();
    output::report(
        &Exported { round: snapshot.state.round, root: snapshot.root, parameters, format: args.format, folder: args.out },
        args.json,
    );
    Ok(())
}

#[derive(Debug, Serialize)]
struct Exported {
    round: u64,
    root: Digest,
    parameters: usize,
    format: Format,
    folder: PathBuf,
}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, root, parameters, folder, .. } = self;
        let parameters = output::count(*parameters as u64);
        write!(f, "{parameters} parameters after {round} rounds, root {root}, in {}", folder.display())
    }
}
