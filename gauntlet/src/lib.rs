#![doc = include_str!("../README.md")]

mod books;
mod compare;
mod envelopes;
mod error;
mod judge;
mod lead;
mod pace;
mod review;
mod settle;
mod validator;
mod verdict;

pub use error::ValidatorError;
pub use validator::{Distortion, Validator, ValidatorOptions};
