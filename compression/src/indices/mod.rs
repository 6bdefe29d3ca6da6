//! The codes of a chunk's ascending indices.

pub(crate) mod bits;
pub(crate) mod elias_fano;
mod fault;
pub(crate) mod golomb;
pub(crate) mod packed;

pub use fault::IndexFault;
