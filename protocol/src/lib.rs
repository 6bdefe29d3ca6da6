#![doc = include_str!("../README.md")]

mod architecture;
mod assignment;
mod config;
pub mod genesis;
mod ids;
mod judging;
mod keys;
mod manifest;
mod messages;
mod objects;
mod refusal;
mod retention;
pub mod round;
pub mod score;
mod sealing;
mod signed;
#[cfg(test)]
mod test_data;

pub use architecture::{Architecture, Init};
pub use assignment::Assignment;
pub use config::{
    Checkpoints, Coding, Compression, ConfigError, DataConfig, Indices, Inner, Merge, Outer, Quantizer, RoundTimes, RunConfig, Schedule,
};
pub use ids::{Digest, Hasher, Hotkey, ParseIdError, RunId, SS58_PREFIX};
pub use judging::{Computation, Judge, JudgeMode, Pay, Rating};
pub use keys::{Domain, Keypair, verify};
pub use manifest::{ChainSection, DataSection, Launch, MANIFEST_VERSION, MAX_MANIFEST_BYTES, Manifest, ManifestError, canonical_json};
pub use messages::{Announcement, Applied, Change, Countersign, Dissent, Envelope, MAX_NEURONS, Record, SealList, Sealed, Validator, Vote};
pub use objects::ObjectKey;
pub use refusal::Refusal;
pub use retention::{Keep, Keeping, Retention};
pub use sealing::{Opener, PayloadKey, SealContext, sealed_len};
pub use signed::{Document, DocumentError, Signed};
