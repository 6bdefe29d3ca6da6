#![doc = include_str!("../README.md")]

mod copies;
mod error;
mod event;
mod facts;
mod follower;
mod form;
mod home;
mod huggingface;
mod join;
mod leafwise;
mod log;
mod payloads;
mod pipe;
mod pull;
mod reader;
mod replica;
mod retention;
mod run;
mod shards;
mod shutdown;
mod snapshot;
mod terms;

pub use copies::Fetched;
pub use error::CheckpointError;
pub use event::{Event, Events, Phase, Split, Stopwatch};
pub use follower::{Follower, Identity, Passing, Role, follow};
pub use form::Form;
pub use home::{Home, HomeError, Saved, in_layout_order, write_durably};
pub use huggingface::{TokenizerSource, describe, export};
pub use join::{Offer, all_offers, fate, join, newest_snapshot, offers};
pub use log::{Absent, Anchor, RoundLog, fetch_document};
pub use payloads::{PAYLOADS_AT_ONCE, check_envelope, fetch_applied, fetch_payload};
pub use pull::{Pull, Pulled};
pub use reader::{LogReader, Logged, Reading};
pub use replica::{Close, Progress, Replica, Step};
pub use retention::{Freed, MOST_SURVEYED, Survey, Sweep, keep_at, survey, sweep};
pub use run::{Run, RunError, Said, open_folder};
pub use shutdown::{Shutdown, Stopper};
pub use snapshot::{
    Expected, Rounded, SHARD_BYTES, SNAPSHOT_VERSION, Shard, SnapshotManifest, Trust, list_snapshots, read_manifest, read_snapshot,
    write_snapshot,
};
pub use terms::Terms;
