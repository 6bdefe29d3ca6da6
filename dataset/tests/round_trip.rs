//! Text in, the same tokens out.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use dataset::{Dataset, DatasetError, EndOfText, ManifestError, Split, Tokenizer, collect, prepare, split};
use protocol::Digest;

/// What the split's shards must hold, from the documents themselves.
fn expected(options: &dataset::PrepareOptions, side: Split) -> (Vec<u32>, u64) {
    let splits = split(collect(&options.source, &options.collect).unwrap(), options.held_out_share).unwrap();
    let documents = if side == Split::Train { splits.train } else { splits.held_out };
    let mut tokens = Vec::new();
    for document in &documents {
        tokens.extend(options.tokenizer.encode(&document.text).unwrap());
        tokens.push(options.tokenizer.end_of_text());
    }
    (tokens, documents.iter().map(|document| document.text.len() as u64).sum())
}

fn assert_holds(data: &Dataset, options: &dataset::PrepareOptions) {
    for side in Split::ALL {
        let (tokens, bytes) = expected(options, side);
        assert_eq!(data.tokens(side), tokens.len() as u64);
        assert_eq!(data.manifest().split(side).bytes, bytes);
        assert_eq!(data.bytes_per_token(side), bytes as f64 / tokens.len() as f64);
        for len in [1, 7, 999, 1000, 1001, 2500] {
            let windows = data.windows(side, len);
            assert_eq!(windows, (tokens.len() as u64 - 1) / len as u64);
            for index in 0..windows {
                let start = index as usize * len;
                assert_eq!(data.window(side, index, len).unwrap(), tokens[start..=start + len], "{side} {index} {len}");
            }
            assert!(matches!(data.window(side, windows, len), Err(DatasetError::Window { .. })));
        }
        assert_eq!(data.windows(side, 0), 0);
        assert_eq!(data.windows(side, usize::MAX), 0);
        assert!(matches!(data.window(side, u64::MAX, 1), Err(DatasetError::Window { .. })));
    }
}

#[test]
fn windows_are_the_source_tokens_across_shard_borders() {
    let root = tempfile::tempdir().unwrap();
    let (folder, manifest) = common::prepared(root.path());
    assert!(manifest.train.shards.len() > 2 && manifest.held_out.shards.len() > 1);
    let data = common::open(&folder).unwrap();
    assert_holds(&data, &common::options(&root.path().join("texts")));
    assert_eq!(data.digest(), manifest.digest());
}

#[test]
fn a_hugging_face_tokenizer_travels_with_its_data() {
    let root = tempfile::tempdir().unwrap();
    // 70,000 words, so that ids need four bytes
    let vocab: Vec<String> =
        (0..70_000).map(|id| format!("\"{}\":{id}", if id < 60_000 { format!("w{id}") } else { format!("{}", id - 60_000) })).collect();
    let json = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{{"type":"Whitespace"}},
            "post_processor":null,"decoder":null,"model":{{"type":"WordLevel","vocab":{{{},"</s>":70000}},"unk_token":"w0"}}}}"#,
        vocab.join(",")
    );
    let tokenizer = Tokenizer::from_json("words", json.clone().into_bytes(), EndOfText::Common).unwrap();
    let options = dataset::PrepareOptions { tokenizer, ..common::options(&common::texts(root.path(), 20)) };
    let folder = root.path().join("data");
    let manifest = prepare(&options, &folder).unwrap();
    assert_eq!((manifest.token_bytes(), manifest.tokenizer.vocab_size, manifest.tokenizer.end_of_text), (4, 70_001, 70_000));
    let data = common::open(&folder).unwrap();
    assert_holds(&data, &options);
    assert_eq!(data.tokenizer().unwrap().json(), Some(json.as_bytes()));
    assert_eq!(data.tokenizer().unwrap().end_of_text(), 70_000);
    let mut lying = manifest;
    lying.tokenizer.vocab_size += 1;
    std::fs::write(folder.join("dataset.json"), lying.to_bytes()).unwrap();
    let refused = common::open(&folder).unwrap().tokenizer().unwrap_err();
    assert!(matches!(refused, DatasetError::Manifest { source: ManifestError::Vocabulary { vocab_size: 70_002, .. }, .. }));
    std::fs::write(folder.join("tokenizer.json"), json.replace("w1\"", "v1\"")).unwrap();
    assert!(matches!(data.tokenizer(), Err(DatasetError::Corrupt(_))));
}

#[test]
fn the_same_text_gives_the_same_digest() {
    let root = tempfile::tempdir().unwrap();
    let options = common::options(&common::texts(root.path(), 20));
    let first = prepare(&options, &root.path().join("a")).unwrap();
    let second = prepare(&options, &root.path().join("b")).unwrap();
    assert_eq!(first.digest(), second.digest());
    let mut reseeded = options;
    reseeded.collect.seed = 1;
    assert_ne!(prepare(&reseeded, &root.path().join("c")).unwrap().digest(), first.digest());
}

#[test]
fn the_files_listed_are_the_files_there() {
    let root = tempfile::tempdir().unwrap();
    let (folder, manifest) = common::prepared(root.path());
    let files = common::open(&folder).unwrap().files();
    for file in &files {
        let bytes = std::fs::read(folder.join(&file.name)).unwrap();
        assert_eq!((bytes.len() as u64, Digest::of(&bytes)), (file.bytes, file.digest), "{}", file.name);
    }
    let listed: BTreeSet<_> = files.iter().map(|file| file.name.clone()).collect();
    let present: BTreeSet<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(listed, present);
    assert_eq!(files.last().map(|file| file.digest), Some(manifest.digest()));
}

#[test]
fn a_cache_is_shared_and_heals() {
    let root = tempfile::tempdir().unwrap();
    let (folder, manifest) = common::prepared(root.path());
    let cache = root.path().join("cache");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| Dataset::open(&folder, &cache).unwrap());
        }
    });
    let cached = cache.join(format!("{}.bin", manifest.train.shards[0].raw_blake3));
    let good = std::fs::read(&cached).unwrap();
    std::fs::remove_file(&cached).unwrap();
    std::fs::write(&cached, vec![0; good.len()]).unwrap();
    Dataset::open(&folder, &cache).unwrap();
    assert_eq!(std::fs::read(&cached).unwrap(), good);
    // with a whole cache, the compressed shards are not needed
    std::fs::remove_file(folder.join("train-00000.bin.zst")).unwrap();
    Dataset::open(&folder, &cache).unwrap();
}
