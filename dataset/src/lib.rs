#![doc = include_str!("../README.md")]

mod documents;
mod error;
mod files;
mod html;
mod machine;
mod manifest;
mod prepare;
mod reader;
mod shard;
mod tokenizer;

pub use documents::{CollectOptions, Document, Source, Splits, collect, split};
pub use error::{DatasetError, FileError, ManifestError, TextError, TokenizerError};
pub use manifest::{
    DATASET_VERSION, DatasetFile, DatasetManifest, MANIFEST_FILE, MAX_DATASET_MANIFEST_BYTES, MAX_SHARD_TOKENS, MAX_SHARDS, ShardManifest,
    Split, SplitManifest, TOKENIZER_FILE, TokenizerFile, TokenizerManifest,
};
pub use prepare::{PrepareOptions, prepare};
pub use reader::Dataset;
pub use tokenizer::{BYTES, EndOfText, HuggingFace, MAX_TOKENIZER_BYTES, Tokenizer};

/// Bits per byte of a text of `bytes` UTF-8 bytes whose tokens together cost `total_nats` of cross-entropy: nats / ln 2 / bytes.
pub fn bits_per_byte(total_nats: f64, bytes: u64) -> f64 {
    total_nats / std::f64::consts::LN_2 / bytes as f64
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_uniform_guess_over_256_bytes_costs_eight_bits_per_byte() {
        let nats = 1000.0 * 256f64.ln();
        assert!((super::bits_per_byte(nats, 1000) - 8.0).abs() < 1e-12);
    }
}
