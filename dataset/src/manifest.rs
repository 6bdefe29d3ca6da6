//! `dataset.json`: what a data set consists of.

use std::fmt;

use protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::tokenizer::{BYTES, BYTES_END_OF_TEXT, BYTES_VOCAB_SIZE, MAX_TOKENIZER_BYTES, Tokenizer};
use crate::{ManifestError, shard};

/// The format that this crate reads and writes.
pub const DATASET_VERSION: u32 = 1;
/// The manifest's file name.
pub const MANIFEST_FILE: &str = "dataset.json";
/// The name of a Hugging Face tokenizer's file beside the shards.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The largest `dataset.json` that is read.
pub const MAX_DATASET_MANIFEST_BYTES: u64 = 32 << 20;
/// The most shards of a split.
pub const MAX_SHARDS: usize = 50_000;
/// The most tokens of a shard.
pub const MAX_SHARD_TOKENS: u64 = 1 << 28;
/// The longest tokenizer name, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// The longest description, in bytes.
const MAX_SOURCE_BYTES: usize = 4096;
/// Ids are kept below 2^31, so that they fit into any integer tensor.
const MAX_VOCAB_SIZE: u32 = 1 << 31;

/// One side of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What miners may be assigned.
    Train,
    /// What no miner is ever assigned.
    HeldOut,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::HeldOut => "held-out",
        })
    }
}

impl Split {
    /// Both, in the order of the files.
    pub const ALL: [Self; 2] = [Self::Train, Self::HeldOut];

    /// The file name of one of its shards, e.g. `train-00000.bin.zst`.
    pub fn shard_file(self, index: usize) -> String {
        format!("{self}-{index:05}.bin.zst")
    }
}

/// A data set's table of contents. Fields stand in alphabetical order: that is the canonical order of `dataset.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    /// What no miner is ever assigned.
    pub held_out: SplitManifest,
    /// What the text is, for people.
    pub source: String,
    /// How the text became tokens.
    pub tokenizer: TokenizerManifest,
    /// What miners may be assigned.
    pub train: SplitManifest,
    /// [`DATASET_VERSION`].
    pub version: u32,
}

/// One split's totals and shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitManifest {
    /// UTF-8 bytes of the documents; end-of-text tokens count for none.
    pub bytes: u64,
    /// Documents, each followed by an end-of-text token.
    pub documents: u64,
    /// In order of their indices.
    pub shards: Vec<ShardManifest>,
    /// Tokens, end-of-text tokens included.
    pub tokens: u64,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardManifest {
    /// BLAKE3 of the file.
    pub compressed_blake3: Digest,
    /// Bytes of the file.
    pub compressed_bytes: u64,
    /// BLAKE3 of the decompressed tokens.
    pub raw_blake3: Digest,
    /// Tokens inside.
    pub tokens: u64,
}

/// The tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerManifest {
    /// The id after each document.
    pub end_of_text: u32,
    /// The `tokenizer.json`; null for `bytes`.
    pub file: Option<TokenizerFile>,
    /// `bytes`, or what people call it.
    pub name: String,
    /// Every id is below this.
    pub vocab_size: u32,
}

/// The `tokenizer.json` beside the shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerFile {
    /// BLAKE3 of the file.
    pub blake3: Digest,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A file of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetFile {
    /// Its name; a data set has no subfolders.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its BLAKE3.
    pub digest: Digest,
}

impl DatasetManifest {
    /// Reads and validates the bytes of a `dataset.json`.
    ///
    /// # Errors
    /// [`ManifestError`] says what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_DATASET_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(bytes.len() as u64));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| ManifestError::Parse(e.to_string()))?;
        manifest.validate()?;
        if manifest.to_bytes() != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The bytes of `dataset.json`: JSON with sorted keys and no white space.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and integers can be written as JSON")
    }

    /// BLAKE3 of the bytes of `dataset.json`, which names the whole data set.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// One split's totals and shards.
    pub fn split(&self, split: Split) -> &SplitManifest {
        match split {
            Split::Train => &self.train,
            Split::HeldOut => &self.held_out,
        }
    }

    /// Bytes per token in a shard: 2 if every id fits into a u16, else 4.
    pub fn token_bytes(&self) -> u64 {
        shard::token_bytes(self.tokenizer.vocab_size)
    }

    /// Every file, in the order to upload or fetch them: `dataset.json` last, so that whoever finds it finds all.
    pub fn files(&self) -> Vec<DatasetFile> {
        let mut files = Vec::new();
        for split in Split::ALL {
            files.extend(self.split(split).shards.iter().enumerate().map(|(index, shard)| DatasetFile {
                name: split.shard_file(index),
                bytes: shard.compressed_bytes,
                digest: shard.compressed_blake3,
            }));
        }
        if let Some(file) = &self.tokenizer.file {
            files.push(DatasetFile { name: TOKENIZER_FILE.to_owned(), bytes: file.bytes, digest: file.blake3 });
        }
        let own = self.to_bytes();
        files.push(DatasetFile { name: MANIFEST_FILE.to_owned(), bytes: own.len() as u64, digest: Digest::of(&own) });
        files
    }

    pub(crate) fn validate(&self) -> Result<(), ManifestError> {
        if self.version != DATASET_VERSION {
            return Err(ManifestError::Version(self.version));
        }
        let texts = [("source", &self.source, MAX_SOURCE_BYTES), ("tokenizer name", &self.tokenizer.name, MAX_NAME_BYTES)];
        for (field, text, limit) in texts {
            if text.is_empty() || text.len() > limit {
                return Err(ManifestError::Text { field, bytes: text.len(), limit });
            }
        }
        self.tokenizer.validate()?;
        Split::ALL.into_iter().try_for_each(|split| self.split(split).validate(split, self.token_bytes()))
    }
}

impl TokenizerManifest {
    pub(crate) fn of(tokenizer: &Tokenizer) -> Self {
        Self {
            end_of_text: tokenizer.end_of_text(),
            file: tokenizer.json().map(|json| TokenizerFile { blake3: Digest::of(json), bytes: json.len() as u64 }),
            name: tokenizer.name().to_owned(),
            vocab_size: tokenizer.vocab_size(),
        }
    }

    fn validate(&self) -> Result<(), ManifestError> {
        let is_bytes = self.name == BYTES;
        let ids = (self.vocab_size, self.end_of_text);
        if ids.0 > MAX_VOCAB_SIZE || ids.1 >= ids.0 || is_bytes && ids != (BYTES_VOCAB_SIZE, BYTES_END_OF_TEXT) {
            return Err(ManifestError::Vocabulary { name: self.name.clone(), vocab_size: ids.0, end_of_text: ids.1 });
        }
        let file_fits = match &self.file {
            Some(file) => !is_bytes && (1..=MAX_TOKENIZER_BYTES).contains(&file.bytes),
            None => is_bytes,
        };
        if file_fits { Ok(()) } else { Err(ManifestError::TokenizerFile) }
    }
}

impl SplitManifest {
    fn validate(&self, split: Split, token_bytes: u64) -> Result<(), ManifestError> {
        if !(1..=MAX_SHARDS).contains(&self.shards.len()) {
            return Err(ManifestError::ShardCount { split, shards: self.shards.len() });
        }
        for (index, shard) in self.shards.iter().enumerate() {
            if !(1..=MAX_SHARD_TOKENS).contains(&shard.tokens) {
                return Err(ManifestError::ShardTokens { file: split.shard_file(index), tokens: shard.tokens });
            }
            let (bytes, limit) = (shard.compressed_bytes, shard::compressed_limit(shard.tokens * token_bytes));
            if !(1..=limit).contains(&bytes) {
                return Err(ManifestError::CompressedBytes { file: split.shard_file(index), bytes, limit });
            }
        }
        let sum = self.shards.iter().map(|shard| shard.tokens).sum();
        // every document has at least one byte and an end
        if self.tokens != sum || self.documents == 0 || self.documents > self.bytes || self.documents >= self.tokens {
            return Err(ManifestError::Totals { split, tokens: self.tokens, documents: self.documents, bytes: self.bytes, sum });
        }
        Ok(())
    }
}
