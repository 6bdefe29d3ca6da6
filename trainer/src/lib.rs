#![doc = include_str!("../README.md")]

mod durable;
mod encoder;
mod error;
mod miner;
mod strategy;

pub use encoder::Encoder;
pub use error::MinerError;
pub use miner::{Miner, MinerOptions};
pub use strategy::Strategy;
