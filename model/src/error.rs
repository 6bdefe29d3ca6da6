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
    /// libtorch failed, most often for lack of memory.
    #[error("libtorch: {0}")]
    Torch(String),
}

impl ModelError {
    pub(crate) fn torch(error: tch::TchError) -> Self {
        Self::Torch(first_line(&error))
    }

    pub(crate) fn not_restored(error: tch::TchError) -> Self {
        Self::NotRestored(first_line(&error))
    }
}

/// What comes after it is a C++ stack.
fn first_line(error: &tch::TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
