#![doc = include_str!("../README.md")]

mod bucket;
mod client;
mod error;
mod limits;
mod open;

pub use bucket::{Bucket, Traffic};
pub use error::{Cause, StorageError};
pub use limits::Limits;
pub use open::Access;
