#![doc = include_str!("../README.md")]

#[cfg_attr(not(test), expect(dead_code, reason = "opened for Access::Own next"))]
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
