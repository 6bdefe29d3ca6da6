//! The decoder's and the merge's loops. NEON is part of every aarch64 target, so that plain loops use it there already.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod plain;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::{Floor, Set};
use crate::chunk::Chunk;
use crate::indices::IndexFault as Fault;
use crate::indices::golomb::Split;

super::dispatch! { plain: plain, neon: plain;
    /// Values of `width` bits.
    fn unpack(bytes: &[u8], width: u32, out: &mut [u16]);
    /// Indices from their low parts and bitmap; checks the number of ones and the order.
    fn elias_fano(low: &[u8], bitmap: &[u8], width: u32, out: &mut [u16]) -> Result<(), Fault>;
    /// Low parts and bitmap of indices.
    fn elias_fano_code(indices: &[u16], width: u32, out: &mut [u8]);
    /// Indices of remainders' fixed parts and a stream from bit `at` on; returns the bit behind the chunk's last one.
    fn golomb(low: &[u8], stream: &[u8], at: usize, split: &Split, out: &mut [u16]) -> Result<usize, Fault>;
    /// `table[code]` of codes of `width` bits.
    fn values(codes: &[u8], width: u32, table: &[f32; 4], out: &mut [f32]);
    /// Adds `terms[code]` to the sums and weights at the indices.
    fn add(indices: &[u16], codes: &[u8], width: u32, terms: &[[f32; 2]; 4], sums: &mut [[f32; 2]]);
    /// `theta -= lr * (sum / over)` where somebody sent a value; zeroes the sums.
    fn descend(sums: &mut [[f32; 2]], over_all: Option<f32>, lr: f32, chunk: Chunk, theta: &mut [f32]);
}

/// Has elements, of which there may be fewer, fetched into the cache while something else is worked on, where the machine can be told to.
#[inline]
pub(crate) fn prefetch<T>(elements: &[T], range: Range<usize>) {
    #[cfg(target_arch = "x86_64")]
    for byte in (range.start * size_of::<T>()..range.end * size_of::<T>()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch may be given any address, and every machine of the target has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(elements.as_ptr().cast::<i8>().wrapping_add(byte)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (elements, range);
}
