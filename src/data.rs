//! `tributary data`: turn text into token shards, and look at them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args, Subcommand};
use dataset::{
    BYTES, CollectOptions, DatasetManifest, EndOfText, MANIFEST_FILE, PrepareOptions, Source, SplitManifest, Tokenizer, prepare,
};
use protocol::Digest;
use serde::Serialize;

use crate::output;

/// How many paths a description names.
const MAX_NAMED: usize = 5;

/// Options of `tributary data`.
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Make a data set: token shards, a held-out split, and dataset.json.
    Prepare(PrepareArgs),
    /// Say what a data set consists of.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true), after_help = "\
Whole files (or crates, or books) are held out, so there must be at least two.

Examples:
  tributary data prepare --machine-text --out data --max-bytes 20000000
  tributary data prepare --text ~/books 'notes/*.md' --out data --held-out 0.02
  tributary data prepare --text corpus.parquet more.jsonl --tokenizer gemma/tokenizer.json --out data")]
struct PrepareArgs {
    /// Text: .txt, .md, .jsonl and .parquet files, folders of them, globs.
    #[arg(long, value_name = "PATH", num_args = 1.., group = "source")]
    text: Vec<String>,
    /// Text that any machine with a Rust toolchain holds: its books, and the READMEs and doc comments of crates.
    #[arg(long, group = "source")]
    machine_text: bool,
    /// Where the data set goes; a folder without one.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// `bytes`, or the path of a Hugging Face tokenizer.json.
    #[arg(long, value_name = "bytes|PATH", default_value = BYTES)]
    tokenizer: PathBuf,
    /// The tokenizer's name, as the run's config says it. By default the name of the tokenizer.json's folder.
    #[arg(long, value_name = "NAME")]
    tokenizer_name: Option<String>,
    /// The token that ends a text, e.g. `<eos>`. By default the first common one that the tokenizer has.
    #[arg(long, value_name = "TOKEN")]
    end_of_text: Option<String>,
    /// The most bytes of text.
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Share of the text that no miner is ever assigned.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    held_out: f64,
    /// The field of a .jsonl line, or the column of a Parquet file, that holds the text.
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,
    /// Chooses the order of the texts.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// What the text is, for people; published with the data set. By default the paths' last parts.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The data set's folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Read every file and compare its hash.
    #[arg(long)]
    verify: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: DataArgs) -> Result<()> {
    match args.command {
        DataCommand::Prepare(args) => {
            let (folder, json) = (args.out.clone(), args.json);
            let manifest = prepare(&args.options()?, &folder)?;
            output::report(&Summary::of(&folder, &manifest), json);
        }
        DataCommand::Show(args) => {
            let path = args.folder.join(MANIFEST_FILE);
            let name = || path.display().to_string();
            let manifest = DatasetManifest::from_bytes(&std::fs::read(&path).with_context(name)?).with_context(name)?;
            if args.verify {
                verify(&args.folder, &manifest)?;
            }
            output::report(&Summary::of(&args.folder, &manifest), args.json);
        }
    }
    Ok(())
}

impl PrepareArgs {
    fn options(self) -> Result<PrepareOptions> {
        let tokenizer = self.open_tokenizer()?;
        let description = self.description.unwrap_or_else(|| describe(&self.text));
        let source = if self.machine_text { Source::Machine } else { Source::Paths(self.text) };
        Ok(PrepareOptions {
            collect: CollectOptions { text_field: self.text_field, max_bytes: self.max_bytes, seed: self.seed },
            held_out_share: self.held_out,
            ..PrepareOptions::new(source, description, tokenizer)
        })
    }

    fn open_tokenizer(&self) -> Result<Tokenizer> {
        if self.tokenizer == Path::new(BYTES) {
            return Ok(Tokenizer::Bytes);
        }
        let end_of_text = self.end_of_text.as_deref().map_or(EndOfText::Common, EndOfText::Named);
        let name = self.tokenizer_name.clone().or_else(|| folder_name(&self.tokenizer));
        let name = name.context("the tokenizer.json lies in no named folder; pass --tokenizer-name")?;
        Ok(Tokenizer::load(&name, &self.tokenizer, end_of_text)?)
    }
}

/// Says what text is without telling where on this machine it lies.
pub fn describe(text: &[String]) -> String {
    if text.is_empty() {
        return "books, READMEs and doc comments of the Rust ecosystem".into();
    }
    let last = |path: &String| path.trim_end_matches('/').rsplit('/').next().unwrap_or(path).to_owned();
    let named = text.iter().take(MAX_NAMED).map(last).collect::<Vec<_>>().join(", ");
    match text.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn folder_name(file: &Path) -> Option<String> {
    let folder = std::path::absolute(file).ok()?.parent()?.file_name()?.to_str()?.to_owned();
    Some(folder)
}

/// Fails at the first file that is missing or not the one that dataset.json names.
fn verify(folder: &Path, manifest: &DatasetManifest) -> Result<()> {
    for file in manifest.files() {
        let path = folder.join(&file.name);
        let bytes = std::fs::read(&path).with_context(|| format!("{}: fetch or prepare the data set again", path.display()))?;
        if Digest::of(&bytes) != file.digest {
            bail!("{} does not have the digest that {MANIFEST_FILE} names; fetch or prepare the data set again", path.display());
        }
    }
    Ok(())
}

/// A data set's figures.
#[derive(Debug, Serialize)]
struct Summary {
    folder: PathBuf,
    digest: Digest,
    source: String,
    tokenizer: String,
    vocab_size: u32,
    train: SplitSummary,
    held_out: SplitSummary,
}

#[derive(Debug, Serialize)]
struct SplitSummary {
    documents: u64,
    bytes: u64,
    tokens: u64,
    bytes_per_token: f64,
    shards: usize,
    compressed_bytes: u64,
}

impl Summary {
    fn of(folder: &Path, manifest: &DatasetManifest) -> Self {
        let split = |s: &SplitManifest| SplitSummary {
            documents: s.documents,
            bytes: s.bytes,
            tokens: s.tokens,
            bytes_per_token: s.bytes as f64 / s.tokens as f64,
            shards: s.shards.len(),
            compressed_bytes: s.shards.iter().map(|shard| shard.compressed_bytes).sum(),
        };
        Self {
            folder: folder.to_owned(),
            digest: manifest.digest(),
            source: manifest.source.clone(),
            tokenizer: manifest.tokenizer.name.clone(),
            vocab_size: manifest.tokenizer.vocab_size,
            train: split(&manifest.train),
            held_out: split(&manifest.held_out),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.folder.display(), self.source)?;
        writeln!(f, "digest     {}\ntokenizer  {}, {} ids\n", self.digest, self.tokenizer, self.vocab_size)?;
        let mut table = output::Table::new(1, &["split", "documents", "text", "tokens", "bytes/token", "shards", "on disk"]);
        for (name, split) in [("train", &self.train), ("held-out", &self.held_out)] {
            let (text, tokens) = (output::bytes(split.bytes), output::count(split.tokens));
            let per_token = format!("{:.2}", split.bytes_per_token);
            let disk = output::bytes(split.compressed_bytes);
            table.row([name.into(), split.documents.to_string(), text, tokens, per_token, split.shards.to_string(), disk]);
        }
        table.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_does_not_tell_where_the_text_lies() {
        assert_eq!(describe(&["/home/ann/books/".into(), "notes/*.md".into(), "a.txt".into()]), "books, *.md, a.txt");
        let many: Vec<String> = (0..7).map(|i| format!("dir/{i}")).collect();
        assert_eq!(describe(&many), "0, 1, 2, 3, 4 and 2 more");
        assert_eq!(describe(&[]), "books, READMEs and doc comments of the Rust ecosystem");
    }

    #[test]
    fn a_tokenizer_is_named_after_its_folder() {
        assert_eq!(folder_name(Path::new("models/gemma/tokenizer.json")).as_deref(), Some("gemma"));
        assert_eq!(folder_name(Path::new("/tokenizer.json")), None);
    }
}
