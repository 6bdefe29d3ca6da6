#![doc = include_str!("../README.md")]

mod device;
mod error;
mod ffi;
pub mod llama;
mod packing;
pub use tch;

pub use device::{CUDA_LIBRARY_VARIABLE, Device, set_threads};
pub use error::ModelError;
pub use llama::Llama;
