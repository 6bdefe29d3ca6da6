#![doc = include_str!("../README.md")]

#[expect(dead_code, reason = "nothing opens a bucket with it yet")]
mod aws_profile;
mod bucket;
mod client;
mod error;
mod limits;
mod open;
pub mod server;

pub use bucket::{Bucket, Traffic};
pub use error::{Cause, StorageError};
pub use limits::Limits;
pub use open::Access;
