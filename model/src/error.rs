//! Why a model refuses.

use crate::Device;

/// Why a device, a batch, tensors or a step are refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A device's name that is neither `cpu` nor `cuda` with an index.
    #[error("`{0}` is no device; write `cpu`, `cuda` or `cuda:1`")]
    UnknownDevice(String),
    /// The device cannot be used on this machine.
    #[error("{device} cannot be used: {reason}")]
    Unavailable {
        /// The device asked for.
        device: Device,
        /// What is missing, and what to do.
        reason: String,
    },
    /// A shape that no model can have.
    #[error("the architecture is refused: {0}")]
    Architecture(#[from] protocol::ConfigError),
    /// No sequence at all, or an empty prompt.
    #[error("there are no tokens to run; give at least one sequence")]
    Empty,
    /// A sequence of a length that the model cannot take.
    #[error("sequence {index} has {length} tokens; this model takes {least} to {most}")]
    Length {
        /// Position in the batch.
        index: usize,
        /// Its tokens.
        length: usize,
        /// The fewest allowed.
        least: usize,
        /// The most allowed.
        most: usize,
    },
    /// Sequences of different lengths in one batch.
    #[error("sequence {index} has {length} tokens, the first has {first}; a batch's sequences must be of one length")]
    Ragged {
        /// Position in the batch.
        index: usize,
        /// Its tokens.
        length: usize,
        /// The first sequence's tokens.
        first: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab_size}; the data were tokenized for another model")]
    Token {
        /// The id.
        token: u32,
        /// Ids below this exist.
        vocab_size: usize,
    },
    /// A sampling temperature that is negative or not finite.
    #[error("temperature {0} is not a finite number of at least 0")]
    Temperature(f64),
    /// Tensors that do not fit the model.
    #[error("{what}: {found} where {expected} were expected; they belong to another architecture")]
    Shape {
        /// Which tensors, or the name of one.
        what: String,
        /// Elements, or tensors, given.
        found: usize,
        /// Elements, or tensors, that fit.
        expected: usize,
    },
    /// A change of an element that its tensor does not have. Nothing was changed.
    #[error("{tensor} has {len} elements, and element {element} should change; the changes belong to another architecture")]
    Element {
        /// The tensor's name.
        tensor: String,
        /// Row-major.
        element: usize,
        /// Elements below this exist.
        len: usize,
    },
    /// Changes of a tensor that are not in ascending order, each element once. Nothing was changed.
    #[error("{tensor}: element {element} follows element {previous}; sort the changes, and name each element once")]
    Order {
        /// The tensor's name.
        tensor: String,
        /// Row-major.
        element: usize,
        /// The one before it, not smaller.
        previous: usize,
    },
    /// libtorch failed while a step was undone: the parameters are neither the old nor the new ones.
    #[error("libtorch could not put the parameters back after a trial: {0}; load them again before anything else")]
    NotRestored(String),
    /// A loss or a gradient norm that is NaN or infinite. Nothing was changed.
    #[error("inner step {step}: {what} is {value}; nothing was changed, lower the learning rate or load other parameters")]
    NonFinite {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// NaN or ±∞.
        value: f64,
        /// The step that was refused.
        step: u64,
    },
    /// The device, or the host, has not enough memory for what was asked; libtorch's words say how much that was.
    #[error(
        "not enough memory: {0}; end what else uses it, mine with --recompute, --offload or on more --devices, or launch the run with a smaller [inner] \
         micro_batch"
    )]
    OutOfMemory(String),
    /// A CUDA device that failed, or is not there any more. What was on it is lost, and this process cannot use it again.
    #[error(
        "the GPU was lost: {0}; start again, and what is durable goes on; if that fails too, see `nvidia-smi` and the kernel's log, or use another device"
    )]
    DeviceLost(String),
    /// A batch that the ranks cannot share equally.
    #[error("{sequences} sequences do not divide among {ranks} devices; make the batch a multiple of {ranks}, or name fewer devices")]
    Uneven {
        /// In the batch.
        sequences: usize,
        /// That train together.
        ranks: usize,
    },
    /// Devices that cannot train together.
    #[error("{devices} cannot train together: {reason}")]
    Devices {
        /// As they were named.
        devices: String,
        /// What is wrong, and what to do.
        reason: &'static str,
    },
    /// NCCL, or the driver below it, failed or is missing.
    #[error("several GPUs need NCCL: {0}")]
    Nccl(String),
    /// One of several devices cannot go on, so none of them can.
    #[error("the device of rank {rank} stopped: {reason}; the parameters of all ranks are void, start the model again")]
    RankLost {
        /// Which one, counted from 0.
        rank: usize,
        /// What it said.
        reason: String,
    },
    /// libtorch failed in another way.
    #[error("libtorch: {0}")]
    Torch(String),
}

/// What libtorch and CUDA's libraries say when memory is short, on a device and on the host.
const OUT_OF_MEMORY: [&str; 4] = ["out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED"];

/// What CUDA calls the errors after which a process can do nothing more on the device, and those of a device that is gone.
const DEVICE_LOST: [&str; 14] = [
    "device-side assert triggered",
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "misaligned address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "unspecified launch failure",
    "the launch timed out and was terminated",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "no CUDA-capable device",
    "CUDA-capable device(s) is/are busy or unavailable",
    "CUDA error: unknown error",
];

impl ModelError {
    pub(crate) fn torch(error: tch::TchError) -> Self {
        let said = first_line(&error);
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| said.contains(phrase));
        if says(&OUT_OF_MEMORY) {
            Self::OutOfMemory(said)
        } else if says(&DEVICE_LOST) {
            Self::DeviceLost(said)
        } else {
            Self::Torch(said)
        }
    }

    pub(crate) fn not_restored(error: tch::TchError) -> Self {
        Self::NotRestored(first_line(&error))
    }
}

/// What comes after it is a C++ stack.
fn first_line(error: &tch::TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use tch::{Kind, TchError, Tensor};

    use super::*;

    fn sorted(text: &str) -> ModelError {
        ModelError::torch(TchError::Torch(text.to_owned()))
    }

    #[test]
    fn a_lack_of_memory_is_told_apart() {
        for text in [
            "CUDA out of memory. Tried to allocate 31.25 GiB. GPU 0 has a total capacity of 23.65 GiB of which 21.44 GiB is free.\nException raised \
             from malloc at c10/cuda/CUDACachingAllocator.cpp:1600",
            "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/cuda-runtime-api/",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1125899906842624 \
             bytes. Error code 12 (Cannot allocate memory)",
        ] {
            let error = sorted(text);
            let line = error.to_string();
            assert!(matches!(&error, ModelError::OutOfMemory(_)), "{error:?}");
            assert!(line.contains("[inner] micro_batch") && line.lines().count() == 1, "{line}");
        }
    }

    #[test]
    fn libtorch_says_so_when_the_host_has_no_memory() {
        let refused = Tensor::f_empty([1 << 55], (Kind::Float, tch::Device::Cpu)).map_err(ModelError::torch);
        assert!(matches!(&refused, Err(ModelError::OutOfMemory(said)) if said.contains("allocate")), "{refused:?}");
    }

    #[test]
    fn a_lost_gpu_is_told_apart() {
        for text in [
            "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in https://docs.nvidia.com/cuda/cuda-runtime-api/",
            "CUDA error: no CUDA-capable device is detected",
            "CUDA error: unspecified launch failure",
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
            "CUDA error: uncorrectable ECC error encountered",
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
            "CUDA error: unknown error",
        ] {
            let error = sorted(text);
            let line = error.to_string();
            assert!(matches!(&error, ModelError::DeviceLost(_)), "{error:?}");
            assert!(line.contains("start again") && line.lines().count() == 1, "{line}");
        }
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        for text in [
            "CUDA error: no kernel image is available for execution on the device",
            "CUDA error: invalid argument",
            "The size of tensor a (3) must match the size of tensor b (5) at non-singleton dimension 1",
        ] {
            assert_eq!(sorted(text), ModelError::Torch(format!("Internal torch error: {text}")));
        }
    }
}
