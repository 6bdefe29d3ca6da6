#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use dataset::{DatasetError, DatasetManifest, PrepareOptions, Source, Tokenizer, prepare};

/// A folder with `files` text files of a few hundred different bytes each.
pub fn texts(root: &Path, files: usize) -> PathBuf {
    let folder = root.join("texts");
    std::fs::create_dir_all(&folder).unwrap();
    for file in 0..files {
        let text: String = (0..40).map(|line| format!("file {file}, line {line}\n")).collect();
        std::fs::write(folder.join(format!("{file:03}.txt")), text).unwrap();
    }
    folder
}

pub fn options(texts: &Path) -> PrepareOptions {
    let source = Source::Paths(vec![texts.to_str().unwrap().to_owned()]);
    PrepareOptions { shard_tokens: 1000, held_out_share: 0.2, ..PrepareOptions::new(source, "counted lines", Tokenizer::Bytes) }
}

/// A data set of 20 files in `root/data`.
pub fn prepared(root: &Path) -> (PathBuf, DatasetManifest) {
    let folder = root.join("data");
    let manifest = prepare(&options(&texts(root, 20)), &folder).unwrap();
    (folder, manifest)
}

/// Opens the data set with a fresh cache.
pub fn open(folder: &Path) -> Result<dataset::Dataset, DatasetError> {
    let cache = tempfile::tempdir().unwrap();
    dataset::Dataset::open(folder, cache.path())
}
