#![doc = include_str!("../README.md")]

mod books;
mod error;
mod judge;
mod lead;
mod settle;
mod validator;
mod verdict;

pub use error::ValidatorError;
pub use validator::{Validator, ValidatorOptions};
