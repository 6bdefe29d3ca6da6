#![doc = include_str!("../README.md")]

mod batch;
mod device;
mod error;
mod ffi;
mod forward;
mod llama;
mod optimizer;
mod packing;
mod patch;
pub mod probe;
mod sampling;

pub use device::{CUDA_LIBRARY_VARIABLE, Device, set_threads};
pub use error::ModelError;
pub use llama::Llama;
pub use optimizer::{InnerOptimizer, OptimizerState, StepReport};
