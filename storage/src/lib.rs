#![doc = include_str!("../README.md")]

mod aws_profile;
mod bucket;
mod budget;
mod client;
mod error;
mod faults;
mod limits;
mod open;
mod prices;
pub mod server;
mod stores;
mod transfer;

pub use bucket::{Bucket, Listed, Traffic};
pub use budget::{Budget, Rates};
pub use error::{Cause, StorageError};
pub use faults::{Fault, Faults, FaultsError, Operation};
pub use limits::Limits;
pub use open::Access;
pub use prices::{Bill, Month, Prices};
pub use stores::Stores;
pub use transfer::Download;
