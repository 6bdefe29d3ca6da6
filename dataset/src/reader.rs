//! Reading tokens, memory-mapped.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use protocol::{DataSection, Digest};

use crate::manifest::{DatasetFile, DatasetManifest, MANIFEST_FILE, MAX_DATASET_MANIFEST_BYTES, Split, TOKENIZER_FILE};
use crate::{DatasetError, EndOfText, FileError, ManifestError, Tokenizer, TokenizerError, shard};

/// A data set whose shards are verified, decompressed and mapped into memory.
#[derive(Debug)]
pub struct Dataset {
    folder: PathBuf,
    manifest: DatasetManifest,
    train: Shards,
    held_out: Shards,
}

#[derive(Debug)]
struct Shards {
    maps: Vec<Mmap>,
    /// The index in the split of each shard's first token.
    starts: Vec<u64>,
}

impl Dataset {
    /// Opens the data set in `folder`. Shards are decompressed once, into `cache`, which any number of processes and data sets may
    /// share; every byte is hashed each time.
    ///
    /// # Errors
    /// [`DatasetError`] names the file that is missing, truncated, too long, corrupt or not what `dataset.json` says.
    pub fn open(folder: &Path, cache: &Path) -> Result<Self, DatasetError> {
        let manifest = read_manifest(&folder.join(MANIFEST_FILE))?;
        fs::create_dir_all(cache).map_err(FileError::at("create", cache))?;
        let train = Shards::open(Split::Train, &manifest, folder, cache)?;
        let held_out = Shards::open(Split::HeldOut, &manifest, folder, cache)?;
        Ok(Self { folder: folder.to_owned(), manifest, train, held_out })
    }

    /// BLAKE3 of `dataset.json`.
    pub fn digest(&self) -> Digest {
        self.manifest.digest()
    }

    /// What a run's manifest says of it.
    pub fn section(&self) -> DataSection {
        DataSection {
            tokenizer: self.manifest.tokenizer.name.clone(),
            source: self.manifest.source.clone(),
            digest: self.digest(),
            train_tokens: self.tokens(Split::Train),
            held_out_tokens: self.tokens(Split::HeldOut),
        }
    }

    /// What `dataset.json` says.
    pub fn manifest(&self) -> &DatasetManifest {
        &self.manifest
    }

    /// The folder that it was opened from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The data set's files, all in [`Dataset::folder`], in the order to upload them.
    pub fn files(&self) -> Vec<DatasetFile> {
        self.manifest.files()
    }

    /// The tokenizer that made it.
    ///
    /// # Errors
    /// [`DatasetError`] if the `tokenizer.json` beside the shards is not the one in the manifest, or not usable.
    pub fn tokenizer(&self) -> Result<Tokenizer, DatasetError> {
        let stated = &self.manifest.tokenizer;
        let Some(file) = &stated.file else { return Ok(Tokenizer::Bytes) };
        let path = self.folder.join(TOKENIZER_FILE);
        let mut json = Vec::new();
        shard::open_verified(&path, file.bytes, file.blake3)?.read_to_end(&mut json).map_err(FileError::at("read", &path))?;
        let tokenizer = Tokenizer::from_json(&stated.name, json, EndOfText::Id(stated.end_of_text))?;
        if tokenizer.vocab_size() != stated.vocab_size {
            let (name, vocab_size, end_of_text) = (stated.name.clone(), stated.vocab_size, stated.end_of_text);
            let source = ManifestError::Vocabulary { name, vocab_size, end_of_text };
            return Err(DatasetError::Manifest { path: self.folder.join(MANIFEST_FILE), source });
        }
        Ok(tokenizer)
    }

    /// Tokens of a split.
    pub fn tokens(&self, split: Split) -> u64 {
        self.manifest.split(split).tokens
    }

    /// Mean UTF-8 bytes of text per token, ends of text included.
    pub fn bytes_per_token(&self, split: Split) -> f64 {
        let split = self.manifest.split(split);
        split.bytes as f64 / split.tokens as f64
    }

    /// How many windows of `len` tokens, each with one token more to predict, a split has: (tokens − 1) / `len`, rounded down.
    pub fn windows(&self, split: Split, len: usize) -> u64 {
        (self.tokens(split) - 1).checked_div(len as u64).unwrap_or(0)
    }

    /// The `len` + 1 tokens from token `index` · `len` on; the last one is the next window's first.
    ///
    /// # Errors
    /// [`DatasetError::Window`] for an index beyond [`Dataset::windows`]; [`TokenizerError::UnknownToken`] if the data set holds an id
    /// beyond its vocabulary.
    pub fn window(&self, split: Split, index: u64, len: usize) -> Result<Vec<u32>, DatasetError> {
        let windows = self.windows(split, len);
        if index >= windows {
            return Err(DatasetError::Window { split, index, len, windows });
        }
        let shards = match split {
            Split::Train => &self.train,
            Split::HeldOut => &self.held_out,
        };
        let tokens = shards.read(index * len as u64, len + 1, self.manifest.token_bytes());
        let vocab_size = self.manifest.tokenizer.vocab_size;
        match tokens.iter().find(|&&token| token >= vocab_size) {
            Some(&id) => Err(TokenizerError::UnknownToken { id, vocab_size }.into()),
            None => Ok(tokens),
        }
    }
}

fn read_manifest(path: &Path) -> Result<DatasetManifest, DatasetError> {
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(DatasetError::Missing(path.to_owned())),
        opened => opened.map_err(FileError::at("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_DATASET_MANIFEST_BYTES + 1).read_to_end(&mut bytes).map_err(FileError::at("read", path))?;
    DatasetManifest::from_bytes(&bytes).map_err(|source| DatasetError::Manifest { path: path.to_owned(), source })
}

impl Shards {
    fn open(split: Split, manifest: &DatasetManifest, folder: &Path, cache: &Path) -> Result<Self, DatasetError> {
        let mut shards = Self { maps: Vec::new(), starts: Vec::new() };
        let mut start = 0;
        for (index, shard) in manifest.split(split).shards.iter().enumerate() {
            shards.maps.push(shard::map(&folder.join(split.shard_file(index)), shard, manifest.token_bytes(), cache)?);
            shards.starts.push(start);
            start += shard.tokens;
        }
        Ok(shards)
    }

    /// `count` tokens from `start` on, which must lie inside the split.
    fn read(&self, start: u64, count: usize, token_bytes: u64) -> Vec<u32> {
        let first = self.starts.partition_point(|&s| s <= start) - 1;
        // a shard's bytes are mapped, so the offset fits into usize
        let offset = ((start - self.starts[first]) * token_bytes) as usize;
        let rest = std::iter::once(&self.maps[first][offset..]).chain(self.maps[first + 1..].iter().map(|map| &map[..]));
        rest.flat_map(|raw| shard::tokens_of(raw, token_bytes)).take(count).collect()
    }
}
