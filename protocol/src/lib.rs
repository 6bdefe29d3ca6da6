#![doc = include_str!("../README.md")]

mod architecture;
mod config;
pub mod genesis;
mod ids;
mod keys;
mod manifest;
mod objects;

pub use architecture::{Architecture, Init};
pub use config::{
    Checkpoints, Compression, ConfigError, DataConfig, Indices, Inner, Judge, JudgeMode, Merge, Outer, Pay, Quantizer, RoundTimes,
    RunConfig, Schedule,
};
pub use ids::{Digest, Hotkey, ParseIdError, RunId, SS58_PREFIX};
pub use keys::{Domain, Keypair, verify};
pub use manifest::{ChainSection, DataSection, Launch, MANIFEST_VERSION, MAX_MANIFEST_BYTES, Manifest, ManifestError};
pub use objects::ObjectKey;
