//! One refusal for each way in which a data set can be wrong.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use dataset::{DatasetError, DatasetManifest, MAX_SHARD_TOKENS, ManifestError, Split, TokenizerFile, prepare};
use protocol::Digest;

const SHARD: &str = "train-00001.bin.zst";

/// The error of opening a prepared data set after `spoil` had its way with the second training shard's bytes.
fn open_spoiled_shard(spoil: impl FnOnce(&mut Vec<u8>)) -> DatasetError {
    let root = tempfile::tempdir().unwrap();
    let (folder, _) = common::prepared(root.path());
    let mut bytes = fs::read(folder.join(SHARD)).unwrap();
    spoil(&mut bytes);
    fs::write(folder.join(SHARD), bytes).unwrap();
    common::open(&folder).unwrap_err()
}

fn names(path: &Path, file: &str) -> bool {
    path.file_name().unwrap() == file
}

#[test]
fn a_missing_shard_or_manifest() {
    for file in [SHARD, "dataset.json"] {
        let root = tempfile::tempdir().unwrap();
        let (folder, _) = common::prepared(root.path());
        fs::remove_file(folder.join(file)).unwrap();
        assert!(matches!(common::open(&folder).unwrap_err(), DatasetError::Missing(path) if names(&path, file)));
    }
}

#[test]
fn a_truncated_oversized_or_corrupt_shard() {
    let truncated = open_spoiled_shard(|bytes| bytes.truncate(bytes.len() - 1));
    assert!(matches!(truncated, DatasetError::Truncated { path, expected, found } if names(&path, SHARD) && found == expected - 1));
    let oversized = open_spoiled_shard(|bytes| bytes.push(0));
    assert!(matches!(oversized, DatasetError::Oversized { path, expected, found } if names(&path, SHARD) && found == expected + 1));
    let corrupt = open_spoiled_shard(|bytes| bytes[10] ^= 1);
    assert!(matches!(corrupt, DatasetError::Corrupt(path) if names(&path, SHARD)));
}

/// The error of opening a data set whose preparer put `content`, of 1000 tokens by the manifest, into the second training shard.
fn open_forged_shard(content: &[u8], raw_blake3: Option<Digest>) -> DatasetError {
    let root = tempfile::tempdir().unwrap();
    let (folder, mut manifest) = common::prepared(root.path());
    let shard = &mut manifest.train.shards[1];
    assert_eq!(shard.tokens, 1000);
    shard.compressed_bytes = content.len() as u64;
    shard.compressed_blake3 = Digest::of(content);
    shard.raw_blake3 = raw_blake3.unwrap_or(Digest([7; 32]));
    fs::write(folder.join(SHARD), content).unwrap();
    fs::write(folder.join("dataset.json"), manifest.to_bytes()).unwrap();
    let cache = root.path().join("cache");
    let error = dataset::Dataset::open(&folder, &cache).unwrap_err();
    let left: Vec<_> = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "only the good first shard is cached: {left:?}");
    error
}

#[test]
fn a_shard_that_is_not_what_its_preparer_says() {
    let compressed = |bytes: usize| zstd::bulk::compress(&vec![0; bytes], 3).unwrap();
    assert!(matches!(open_forged_shard(b"not zstd at all", None), DatasetError::NotZstd { path, .. } if names(&path, SHARD)));
    assert!(matches!(open_forged_shard(&compressed(1998), None), DatasetError::ContentShorter { expected: 2000, found: 1998, .. }));
    assert!(matches!(open_forged_shard(&compressed(2000), None), DatasetError::ContentDigest(path) if names(&path, SHARD)));
    let cut = &compressed(2000)[..10];
    assert!(matches!(open_forged_shard(cut, None), DatasetError::NotZstd { .. }));
}

#[test]
fn a_zstd_bomb_is_bounded() {
    // 32 MiB of zeros in about a kilobyte
    let bomb = zstd::bulk::compress(&vec![0; 32 << 20], 19).unwrap();
    assert!(bomb.len() < 2000, "{}", bomb.len());
    assert!(matches!(open_forged_shard(&bomb, None), DatasetError::ContentLonger { expected: 2000, .. }));
}

#[test]
fn a_token_beyond_the_vocabulary_is_not_handed_out() {
    let root = tempfile::tempdir().unwrap();
    let (folder, mut manifest) = common::prepared(root.path());
    let raw = [0xff, 0xff].repeat(1000);
    let content = zstd::bulk::compress(&raw, 3).unwrap();
    let shard = &mut manifest.train.shards[1];
    (shard.compressed_bytes, shard.compressed_blake3, shard.raw_blake3) = (content.len() as u64, Digest::of(&content), Digest::of(&raw));
    fs::write(folder.join(SHARD), content).unwrap();
    fs::write(folder.join("dataset.json"), manifest.to_bytes()).unwrap();
    let data = common::open(&folder).unwrap();
    assert!(data.window(Split::Train, 0, 500).is_ok());
    let error = data.window(Split::Train, 2, 500).unwrap_err();
    assert!(matches!(error, DatasetError::Tokenizer(dataset::TokenizerError::UnknownToken { id: 65535, vocab_size: 257 })));
}

#[test]
fn preparing_over_a_data_set() {
    let root = tempfile::tempdir().unwrap();
    let (folder, _) = common::prepared(root.path());
    let again = prepare(&common::options(&root.path().join("texts")), &folder);
    assert!(matches!(again, Err(DatasetError::AlreadyPrepared(path)) if names(&path, "dataset.json")));
}

#[test]
fn a_shard_size_that_no_reader_accepts() {
    let root = tempfile::tempdir().unwrap();
    for shard_tokens in [0, MAX_SHARD_TOKENS + 1] {
        let options = dataset::PrepareOptions { shard_tokens, ..common::options(&common::texts(root.path(), 2)) };
        assert!(matches!(prepare(&options, &root.path().join("data")), Err(DatasetError::ShardTokens(n)) if n == shard_tokens));
    }
}

/// The error of reading a valid manifest after `spoil`.
fn refused(spoil: impl FnOnce(&mut DatasetManifest)) -> ManifestError {
    let root = tempfile::tempdir().unwrap();
    let (folder, mut manifest) = common::prepared(root.path());
    spoil(&mut manifest);
    fs::write(folder.join("dataset.json"), manifest.to_bytes()).unwrap();
    match common::open(&folder).unwrap_err() {
        DatasetError::Manifest { path, source } if names(&path, "dataset.json") => source,
        other => panic!("{other}"),
    }
}

#[test]
fn a_manifest_that_lies_about_sizes() {
    let huge = refused(|m| m.train.shards[0].tokens = u64::MAX);
    assert!(matches!(huge, ManifestError::ShardTokens { file, tokens: u64::MAX } if file == "train-00000.bin.zst"));
    assert!(matches!(refused(|m| m.train.shards[0].tokens = 0), ManifestError::ShardTokens { .. }));
    assert!(matches!(refused(|m| m.held_out.shards[0].compressed_bytes = 1 << 40), ManifestError::CompressedBytes { .. }));
    assert!(matches!(refused(|m| m.held_out.shards[0].compressed_bytes = 0), ManifestError::CompressedBytes { .. }));
    assert!(matches!(refused(|m| m.train.tokens += 1), ManifestError::Totals { split: Split::Train, .. }));
    assert!(matches!(refused(|m| m.held_out.bytes = 0), ManifestError::Totals { split: Split::HeldOut, .. }));
    assert!(matches!(refused(|m| m.train.documents = m.train.tokens), ManifestError::Totals { .. }));
    assert!(matches!(refused(|m| m.held_out.shards.clear()), ManifestError::ShardCount { split: Split::HeldOut, shards: 0 }));
}

#[test]
fn a_stated_size_beyond_the_content_allocates_nothing() {
    // the largest shard that may be stated: half a gigabyte of tokens in a file of 20 bytes
    let root = tempfile::tempdir().unwrap();
    let (folder, mut manifest) = common::prepared(root.path());
    let content = zstd::bulk::compress(&[0; 2000], 3).unwrap();
    let shard = &mut manifest.train.shards[0];
    manifest.train.tokens += MAX_SHARD_TOKENS - shard.tokens;
    shard.tokens = MAX_SHARD_TOKENS;
    (shard.compressed_bytes, shard.compressed_blake3) = (content.len() as u64, Digest::of(&content));
    fs::write(folder.join("train-00000.bin.zst"), content).unwrap();
    fs::write(folder.join("dataset.json"), manifest.to_bytes()).unwrap();
    assert!(matches!(common::open(&folder).unwrap_err(), DatasetError::ContentShorter { found: 2000, .. }));
}

#[test]
fn a_manifest_with_an_impossible_tokenizer() {
    assert!(matches!(refused(|m| m.tokenizer.vocab_size = 300), ManifestError::Vocabulary { .. }));
    assert!(matches!(refused(|m| m.tokenizer.end_of_text = 257), ManifestError::Vocabulary { .. }));
    assert!(matches!(refused(|m| m.tokenizer.name = "words".into()), ManifestError::TokenizerFile));
    let file = |bytes| Some(TokenizerFile { blake3: Digest::default(), bytes });
    assert!(matches!(refused(|m| m.tokenizer.file = file(1)), ManifestError::TokenizerFile));
    let huge = refused(|m| (m.tokenizer.name, m.tokenizer.file) = ("words".into(), file(u64::MAX)));
    assert!(matches!(huge, ManifestError::TokenizerFile));
}

#[test]
fn a_manifest_of_another_version_or_without_names() {
    assert!(matches!(refused(|m| m.version = 2), ManifestError::Version(2)));
    assert!(matches!(refused(|m| m.source.clear()), ManifestError::Text { field: "source", bytes: 0, .. }));
    assert!(matches!(refused(|m| m.tokenizer.name = "n".repeat(257)), ManifestError::Text { field: "tokenizer name", .. }));
}

#[test]
fn bytes_that_are_no_manifest() {
    let root = tempfile::tempdir().unwrap();
    let (_, manifest) = common::prepared(root.path());
    let bytes = manifest.to_bytes();
    assert_eq!(DatasetManifest::from_bytes(&bytes).unwrap(), manifest);
    // through a map ordered by key: the fields are declared in canonical order
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(serde_json::to_vec(&value).unwrap(), bytes);
    let too_large = vec![b' '; dataset::MAX_DATASET_MANIFEST_BYTES as usize + 1];
    assert!(matches!(DatasetManifest::from_bytes(&too_large), Err(ManifestError::TooLarge(_))));
    assert!(matches!(DatasetManifest::from_bytes(b"{}"), Err(ManifestError::Parse(_))));
    let pretty = serde_json::to_vec_pretty(&manifest).unwrap();
    assert!(matches!(DatasetManifest::from_bytes(&pretty), Err(ManifestError::NotCanonical)));
    let more = String::from_utf8(bytes).unwrap().replace("{\"held_out\"", "{\"extra\":1,\"held_out\"");
    assert!(matches!(DatasetManifest::from_bytes(more.as_bytes()), Err(ManifestError::Parse(_))));
}
