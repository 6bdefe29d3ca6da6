//! What can go wrong with text, tokenizers and data sets: one kind for each thing a caller can do about it.

use std::{io, path::PathBuf};

use crate::manifest::{DATASET_VERSION, MAX_DATASET_MANIFEST_BYTES, MAX_SHARD_TOKENS, MAX_SHARDS};
use crate::tokenizer::MAX_TOKENIZER_BYTES;

/// The file system refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path:?}: {source}")]
pub struct FileError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: names the action and the path.
    pub(crate) fn at(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { action, path, source }
    }
}

/// Why no documents come out of a source of text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A path or glob that names nothing.
    #[error("{0:?} names no text file: give a text, Markdown, .jsonl or .parquet file, a folder of them, or a glob")]
    NoMatch(String),
    /// A glob with a syntax error.
    #[error("{glob:?} is not a glob: {reason}")]
    Glob {
        /// As typed.
        glob: String,
        /// Where it is wrong.
        reason: String,
    },
    /// The source holds nothing but white space.
    #[error("no text in {0}: every document is empty")]
    Empty(String),
    /// Neither the toolchain's books nor crate sources lie on this machine.
    #[error("no text found on this machine: add the books with `rustup component add rust-docs`, or name text files yourself")]
    NoMachineText,
    /// A plain text file in another encoding.
    #[error("{0:?} is not UTF-8 text: convert it or leave it out")]
    NotUtf8(PathBuf),
    /// A line of a .jsonl file that is not an object with the text field.
    #[error("{path:?} line {line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with the line.
        reason: String,
    },
    /// A Parquet file that cannot be decoded.
    #[error("{path:?} is not a readable Parquet file: {source}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: parquet::errors::ParquetError,
    },
    /// A Parquet file without the text column.
    #[error("{path:?} has no string column {column:?}: its columns are {found}")]
    Column {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// The columns there are, separated by commas.
        found: String,
    },
    /// A split by group of fewer than two groups.
    #[error("all text comes from one file or crate ({0:?}): training and held-out text need at least two")]
    OneGroup(String),
    /// A share that leaves one side empty.
    #[error("the held-out share {0} is not between 0 and 1")]
    HeldOutShare(f64),
}

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Larger than [`MAX_TOKENIZER_BYTES`].
    #[error("tokenizer {name:?}: its tokenizer.json has {bytes} bytes, more than {MAX_TOKENIZER_BYTES}")]
    TooLarge {
        /// The tokenizer's name.
        name: String,
        /// Bytes found.
        bytes: u64,
    },
    /// The name of the built-in tokenizer, or none, given to a Hugging Face tokenizer.
    #[error("{0:?} cannot name a tokenizer.json: choose another name")]
    Name(String),
    /// Not a tokenizer.json that the `tokenizers` library reads.
    #[error("tokenizer {name:?}: not a usable tokenizer.json: {reason}")]
    Parse {
        /// The tokenizer's name.
        name: String,
        /// What the library said.
        reason: String,
    },
    /// No token ends a text.
    #[error("tokenizer {name:?} has no end-of-text token {wanted}: name one of its tokens")]
    EndOfText {
        /// The tokenizer's name.
        name: String,
        /// What was looked for.
        wanted: String,
    },
    /// The library failed on a text.
    #[error("tokenizer {name:?} failed: {reason}")]
    Failed {
        /// The tokenizer's name.
        name: String,
        /// What the library said.
        reason: String,
    },
    /// An id beyond the vocabulary.
    #[error("token id {id} is not below the vocabulary's {vocab_size}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab_size: u32,
    },
}

/// Why a `dataset.json` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_DATASET_MANIFEST_BYTES`].
    #[error("it has {0} bytes, more than {MAX_DATASET_MANIFEST_BYTES}")]
    TooLarge(u64),
    /// Not the JSON of a data set.
    #[error("it cannot be read: {0}")]
    Parse(String),
    /// Written by another version of the format.
    #[error("it has format version {0}, this is {DATASET_VERSION}")]
    Version(u32),
    /// Valid, but not byte for byte what this crate writes, so its digest would not be its content's.
    #[error("it is not in canonical form")]
    NotCanonical,
    /// A name or a description that is empty or too long.
    #[error("its {field} has {bytes} bytes, not 1 to {limit}")]
    Text {
        /// Which text.
        field: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// A vocabulary that no tokenizer has, or an end-of-text token outside it.
    #[error("its vocabulary of {vocab_size} with end-of-text token {end_of_text} is not that of a tokenizer {name:?}")]
    Vocabulary {
        /// The tokenizer's name.
        name: String,
        /// Stated number of ids.
        vocab_size: u32,
        /// Stated end-of-text id.
        end_of_text: u32,
    },
    /// A byte tokenizer with a file, another one without, or a file of a size that is not read.
    #[error("its tokenizer file is missing, superfluous, or not of 1 to {MAX_TOKENIZER_BYTES} bytes")]
    TokenizerFile,
    /// No shards, or too many.
    #[error("its {split} split has {shards} shards, not 1 to {MAX_SHARDS}")]
    ShardCount {
        /// Which split.
        split: crate::Split,
        /// Shards listed.
        shards: usize,
    },
    /// A shard of a size that is not read.
    #[error("its shard {file} has {tokens} tokens, not 1 to {MAX_SHARD_TOKENS}")]
    ShardTokens {
        /// Which shard.
        file: String,
        /// Tokens stated.
        tokens: u64,
    },
    /// A compressed size that zstd never makes of so many tokens.
    #[error("its shard {file} has {bytes} compressed bytes, not 1 to {limit}")]
    CompressedBytes {
        /// Which shard.
        file: String,
        /// Bytes stated.
        bytes: u64,
        /// The most that so many tokens can take.
        limit: u64,
    },
    /// The split's totals contradict its shards.
    #[error(
        "its {split} split counts {tokens} tokens, {documents} documents and {bytes} bytes, which its shards of {sum} tokens cannot hold"
    )]
    Totals {
        /// Which split.
        split: crate::Split,
        /// Tokens stated.
        tokens: u64,
        /// Documents stated.
        documents: u64,
        /// Text bytes stated.
        bytes: u64,
        /// Tokens of its shards.
        sum: u64,
    },
}

/// Why a data set cannot be prepared, opened or read.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The text cannot be collected.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The folder holds a data set already.
    #[error("{0:?} exists: remove that data set or prepare into another folder")]
    AlreadyPrepared(PathBuf),
    /// A shard size that no reader accepts.
    #[error("{0} tokens per shard is not between 1 and {MAX_SHARD_TOKENS}")]
    ShardTokens(u64),
    /// `dataset.json` is refused.
    #[error("{path:?} describes no data set that can be used: {source}; fetch or prepare the data set again")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// A file that the data set needs is not there.
    #[error("{0:?} is missing: fetch or prepare the data set again")]
    Missing(PathBuf),
    /// A file is shorter than `dataset.json` says.
    #[error("{path:?} is truncated: {found} of {expected} bytes; fetch it again")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes stated.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A file is longer than `dataset.json` says.
    #[error("{path:?} is too long: {found} bytes instead of {expected}; fetch it again")]
    Oversized {
        /// The file.
        path: PathBuf,
        /// Bytes stated.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A file of the right size with other bytes.
    #[error("{0:?} is corrupt, its BLAKE3 is not the one in dataset.json: fetch it again")]
    Corrupt(PathBuf),
    /// A shard that is what `dataset.json` names, but not zstd.
    #[error("{path:?} cannot be decompressed: {source}; whoever prepared the data set must do so again")]
    NotZstd {
        /// The shard.
        path: PathBuf,
        /// What the decoder said.
        source: io::Error,
    },
    /// A shard that decompresses to more than its tokens; decompression stopped there.
    #[error("{path:?} decompresses to more than its {expected} bytes: whoever prepared the data set must do so again")]
    ContentLonger {
        /// The shard.
        path: PathBuf,
        /// Bytes that its tokens take.
        expected: u64,
    },
    /// A shard that decompresses to less than its tokens.
    #[error("{path:?} decompresses to {found} of {expected} bytes: whoever prepared the data set must do so again")]
    ContentShorter {
        /// The shard.
        path: PathBuf,
        /// Bytes that its tokens take.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A shard that decompresses to other tokens than `dataset.json` names.
    #[error("{0:?} decompresses to other tokens than dataset.json says: whoever prepared the data set must do so again")]
    ContentDigest(PathBuf),
    /// A window beyond the split's end.
    #[error("window {index} of the {split} split does not exist: with {len} tokens each it has {windows}")]
    Window {
        /// Which split.
        split: crate::Split,
        /// The window asked for.
        index: u64,
        /// Tokens per window.
        len: usize,
        /// Windows there are.
        windows: u64,
    },
}
