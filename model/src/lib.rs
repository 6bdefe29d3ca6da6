#![doc = include_str!("../README.md")]

mod backward;
mod batch;
mod collective;
mod device;
mod error;
mod ffi;
mod forward;
mod llama;
mod optimizer;
mod packing;
mod patch;
pub mod probe;
mod ranks;
mod sampling;
mod threads;
mod weights;

pub use backward::Activations;
pub use batch::{Staged, Stager};
pub use device::{CUDA_LIBRARY_VARIABLE, Device, Devices, set_threads};
pub use error::ModelError;
pub use llama::Llama;
pub use optimizer::{InnerOptimizer, OptimizerState, StepReport};
pub use ranks::{Ranks, Whole};
