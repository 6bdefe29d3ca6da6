//! From text to shards.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::documents::{CollectOptions, Document, Source, collect, split};
use crate::manifest::{
    DATASET_VERSION, DatasetManifest, MANIFEST_FILE, MAX_SHARD_TOKENS, Split, SplitManifest, TOKENIZER_FILE, TokenizerManifest,
};
use crate::{DatasetError, FileError, Tokenizer, shard};

/// Documents that are tokenized at once.
const BATCH: usize = 1024;

/// What to make a data set of.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Where the text comes from.
    pub source: Source,
    /// What the text is, for people; published with the data set.
    pub description: String,
    /// How documents are found, capped and ordered.
    pub collect: CollectOptions,
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// The share of the text that is held out, in whole groups (crates, books, files).
    pub held_out_share: f64,
    /// Tokens per shard; the last one of a split has fewer.
    pub shard_tokens: u64,
}

impl PrepareOptions {
    /// Everything from `source`, 5 % of it held out, 2^25 tokens per shard.
    pub fn new(source: Source, description: impl Into<String>, tokenizer: Tokenizer) -> Self {
        let description = description.into();
        Self { source, description, collect: CollectOptions::default(), tokenizer, held_out_share: 0.05, shard_tokens: 1 << 25 }
    }
}

/// Makes a data set in `folder`. The same text, options and version of this crate give the same bytes; `dataset.json` is written last.
///
/// # Errors
/// [`DatasetError`] if the folder has a data set, the text cannot be collected, split or tokenized, or a file cannot be written.
pub fn prepare(options: &PrepareOptions, folder: &Path) -> Result<DatasetManifest, DatasetError> {
    let manifest_path = folder.join(MANIFEST_FILE);
    if manifest_path.exists() {
        return Err(DatasetError::AlreadyPrepared(manifest_path));
    }
    if !(1..=MAX_SHARD_TOKENS).contains(&options.shard_tokens) {
        return Err(DatasetError::ShardTokens(options.shard_tokens));
    }
    let splits = split(collect(&options.source, &options.collect)?, options.held_out_share)?;
    fs::create_dir_all(folder).map_err(FileError::at("create", folder))?;
    let manifest = DatasetManifest {
        held_out: write_split(Split::HeldOut, &splits.held_out, options, folder)?,
        source: options.description.clone(),
        tokenizer: TokenizerManifest::of(&options.tokenizer),
        train: write_split(Split::Train, &splits.train, options, folder)?,
        version: DATASET_VERSION,
    };
    manifest.validate().map_err(|source| DatasetError::Manifest { path: manifest_path.clone(), source })?;
    if let Some(json) = options.tokenizer.json() {
        write_file(&folder.join(TOKENIZER_FILE), json)?;
    }
    write_file(&manifest_path, &manifest.to_bytes())?;
    tracing::info!(train = manifest.train.tokens, held_out = manifest.held_out.tokens, digest = %manifest.digest(), "data set prepared");
    Ok(manifest)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    shard::write_atomically(path, |file| file.write_all(bytes).map_err(FileError::at("write", path)))
}

fn write_split(split: Split, documents: &[Document], options: &PrepareOptions, folder: &Path) -> Result<SplitManifest, DatasetError> {
    let tokenizer = &options.tokenizer;
    let token_bytes = shard::token_bytes(tokenizer.vocab_size());
    let shard_bytes = (options.shard_tokens * token_bytes) as usize;
    let mut manifest = SplitManifest { bytes: 0, documents: documents.len() as u64, shards: Vec::new(), tokens: 0 };
    let mut raw = Vec::new();
    let finish = |raw: &[u8], manifest: &mut SplitManifest| {
        let shard = shard::write(&folder.join(split.shard_file(manifest.shards.len())), raw, token_bytes)?;
        manifest.tokens += shard.tokens;
        manifest.shards.push(shard);
        Ok::<_, FileError>(())
    };
    for batch in documents.chunks(BATCH) {
        let texts: Vec<&str> = batch.iter().map(|document| document.text.as_str()).collect();
        manifest.bytes += texts.iter().map(|text| text.len() as u64).sum::<u64>();
        for tokens in tokenizer.encode_batch(&texts)? {
            shard::append_tokens(&mut raw, &tokens, token_bytes);
            shard::append_tokens(&mut raw, &[tokenizer.end_of_text()], token_bytes);
        }
        let whole = raw.len() - raw.len() % shard_bytes;
        raw[..whole].chunks(shard_bytes).try_for_each(|shard| finish(shard, &mut manifest))?;
        raw.drain(..whole);
    }
    if !raw.is_empty() {
        finish(&raw, &mut manifest)?;
    }
    Ok(manifest)
}
