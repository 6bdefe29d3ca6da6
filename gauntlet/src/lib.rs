#![doc = include_str!("../README.md")]

mod error;
mod judge;
mod lead;
mod validator;

pub use error::ValidatorError;
pub use validator::{Validator, ValidatorOptions};
