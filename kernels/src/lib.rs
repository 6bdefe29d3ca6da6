#![doc = include_str!("../README.md")]

mod apply;
#[cfg(any(test, feature = "emulation"))]
mod cpp;
mod device;
mod elements;
#[cfg(feature = "emulation")]
mod emulation;
mod encode;
mod floor;
mod image;
mod machine;
mod part;
mod shard;
#[cfg(test)]
mod tests;
mod train;

use std::path::PathBuf;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

pub use apply::Theta;
pub use device::{DeviceInfo, Kernels, devices};
pub use elements::{Elements, Float};
pub use encode::PseudoGradient;
pub use image::{Arch, compile};
pub use machine::Place;
pub use shard::{Feedback, Sections, Shard, write_payload};
pub use train::Rotation;

/// Why a kernel could not be compiled, loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The driver's library is not on this machine.
    #[error("libcuda.so.1 cannot be loaded: install the NVIDIA driver, or run on the CPU")]
    NoDriver,
    /// The driver cannot load what NVRTC makes.
    #[error("the NVIDIA driver is for CUDA {}.{}, the kernels need 13.0: install driver 580 or newer, or run on the CPU", .version / 1000, .version % 1000 / 10)]
    OldDriver {
        /// The newest CUDA that it knows, as it says: 1000 times the major version and 10 times the minor one.
        version: i32,
    },
    /// NVRTC's library is not on this machine.
    #[error(
        "libnvrtc.so.13 cannot be loaded: put it on the library path, or `pip download --no-deps nvidia-cuda-nvrtc==13.0.88`, unzip the wheel \
         and set TRIBUTARY_NVRTC to its folder nvidia/cu13/lib"
    )]
    NoNvrtc,
    /// There is no device of this number.
    #[error("there is no CUDA device {device}: this machine has {found}, numbered from 0")]
    NoDevice {
        /// The number asked for.
        device: usize,
        /// How many devices there are.
        found: usize,
    },
    /// NVRTC refused the source or the architecture.
    #[error("NVRTC cannot compile the kernels for {arch}; an architecture newer than NVRTC needs a newer NVRTC. It says: {log}")]
    Compile {
        /// What it was to be compiled for.
        arch: Arch,
        /// NVRTC's own words.
        log: String,
    },
    /// A compiled image could not be kept.
    #[error("cannot write the compiled kernels to {path}: make the folder writable or choose another one ({source})")]
    Cache {
        /// The image's file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The device's memory has no room.
    #[error(
        "the GPU's memory has no room for the kernels and what they need: mine with --offload, on more --devices, or end what else uses the GPU"
    )]
    OutOfMemory,
    /// The host's memory has no room that could be page-locked.
    #[error(
        "the host has no memory that the GPU could reach for error feedback: mine without --offload if the GPU has room, or end what else uses memory"
    )]
    OutOfHostMemory,
    /// The driver refused something while running.
    #[error("the CUDA driver says: {0}")]
    Driver(DriverError),
    /// Ranks that did not encode all that is theirs.
    #[error("{done} of {of} parts of the payload were encoded; this is a bug")]
    Unfinished {
        /// Parts, or sections, that were.
        done: usize,
        /// How many there are.
        of: usize,
    },
    /// More chunks than one launch has blocks.
    #[error("the model has 2^31 chunks or more, too many for one launch: use the CPU")]
    TooManyChunks,
    /// More rows or columns than a training kernel counts.
    #[error("2^31 rows, columns or blocks are too many for one launch: train with a smaller micro-batch")]
    TooLarge,
    /// Tensors that are not the layout's.
    #[error(transparent)]
    Layout(#[from] compression::LayoutError),
    /// A tensor of another type than its like.
    #[error("tensor {name:?} is {found:?}, it must be {expected:?} as the others")]
    Float {
        /// The tensor.
        name: String,
        /// The others' type.
        expected: Float,
        /// Its type.
        found: Float,
    },
    /// A codec that only the CPU can encode.
    #[error("{0} cannot be encoded on the GPU: use the CPU, or top-k with sign2 or sign1")]
    Codec(compression::Codec),
    /// A merge that is compressed again, which only the CPU can do.
    #[error("lossy merges are not on the GPU yet: apply this record on the CPU")]
    Lossy,
    /// The record cannot be applied.
    #[error(transparent)]
    Transition(#[from] compression::TransitionError),
    /// The pseudo-gradient cannot be encoded.
    #[error(transparent)]
    Encode(#[from] compression::EncodeError),
}

impl From<DriverError> for KernelError {
    fn from(error: DriverError) -> Self {
        if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY { Self::OutOfMemory } else { Self::Driver(error) }
    }
}
