//! The encoder's loops.

mod plain;
#[cfg(test)]
mod tests;

use super::{Floor, Set};
pub(crate) use plain::{PAIRS, Pairs, Rows, Scratch};

/// Defines the functions of one instruction set from the plain loops; `reaching` is the module's own.
macro_rules! instances {
    ($(#[$feature:meta])*) => {
        use super::plain::{self, PAIRS, Pairs, Rows, Scratch};
        $(#[$feature])*
        pub fn accumulate(feedback: &mut [f32], gradient: &[f32], beta: f32, rows: Rows, values: &mut [f32]) {
            plain::accumulate(feedback, gradient, beta, rows, values)
        }
        $(#[$feature])*
        pub fn all_finite(feedback: &[f32], gradient: &[f32], beta: f32) -> bool {
            plain::all_finite(feedback, gradient, beta)
        }
        $(#[$feature])*
        pub fn top_k(values: &[f32], k: usize, scratch: &mut Scratch, picked: &mut Vec<u16>) {
            plain::top_k(values, k, scratch, picked, |lane, bound| reaching(lane, bound))
        }
        $(#[$feature])*
        pub fn group_max(values: &[f32], group: usize, picked: &mut Vec<u16>) {
            plain::group_max(values, group, picked, |lane, bound| reaching(lane, bound))
        }
        $(#[$feature])*
        pub fn pair_errors(fixed: &[u16], pairs: &Pairs, errors: &mut [u64; PAIRS]) {
            plain::pair_errors(fixed, pairs, errors)
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

super::dispatch! { plain: scalar, neon: neon;
    /// `feedback = beta * feedback + gradient`, each operation rounded on its own, for the elements of one chunk, which starts at the first
    /// of both slices; a copy goes into `values`, in the chunk's order.
    fn accumulate(feedback: &mut [f32], gradient: &[f32], beta: f32, rows: Rows, values: &mut [f32]);
    /// Whether `beta * feedback + gradient` is finite everywhere.
    fn all_finite(feedback: &[f32], gradient: &[f32], beta: f32) -> bool;
    /// Puts the indices of the `k` values of largest magnitude into `picked`, ascending; of equal magnitudes the lowest indices win.
    /// `values` holds 1 to 4096 finite values, `k` is 1 to their number.
    fn top_k(values: &[f32], k: usize, scratch: &mut Scratch, picked: &mut Vec<u16>);
    /// Puts the index of the largest magnitude of each `group` consecutive values into `picked`, the lowest index among equals; the last
    /// group may be shorter. `group` is 16, 32 or 64.
    fn group_max(values: &[f32], group: usize, picked: &mut Vec<u16>);
    /// For each pair the sum over `fixed` (values of 12 bits) of the squared distance to the nearer magnitude.
    fn pair_errors(fixed: &[u16], pairs: &Pairs, errors: &mut [u64; PAIRS]);
}
