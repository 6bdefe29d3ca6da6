//! The transition: payloads clipped, merged in record order and taken as one outer step, bit for bit the same everywhere.
//!
//! Rust evaluates `a * b + c` on f32 as written, two roundings, never fused and never reassociated; every sum below has one order,
//! and no sum crosses threads, so that the number of threads changes nothing.

use std::hint::black_box;
use std::sync::Arc;

use rayon::prelude::*;

use crate::chunk::{CHUNK_ELEMENTS, Chunk, Grid};
use crate::payload::Payload;
use crate::quantize::SIGN2;
use crate::state::State;

/// What a coordinate's weighted sum is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeOver {
    /// The weights of the payloads that sent this coordinate a value other than zero.
    Senders,
    /// The weights of all payloads of the record.
    All,
}

/// The outer step, by manifest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Outer learning rate.
    pub lr: f32,
    /// The mean's denominator.
    pub over: MergeOver,
}

/// A record's entry: a payload and its merge weight.
#[derive(Clone, Copy, Debug)]
pub struct Weighted<'a> {
    /// The payload.
    pub payload: &'a Payload,
    /// Finite and above zero.
    pub weight: f32,
}

/// Why a record cannot be applied; the state is unchanged then.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TransitionError {
    /// A payload for other tensors than the state's.
    #[error("payload {0} is for other tensors than the state's")]
    Layout(usize),
    /// A weight that is zero, negative or not finite.
    #[error("payload {payload} has merge weight {weight}; it must be finite and above zero")]
    Weight {
        /// Number of the payload in the record.
        payload: usize,
        /// Its weight.
        weight: f32,
    },
    /// An element that is NaN or infinite after the step: the record is void.
    #[error("tensor {0:?} would not be finite after this step: the record is void")]
    NonFinite(String),
    /// A thread on which subnormal numbers become zero, so that its results would differ from other nodes'.
    #[error("this process flushes subnormal numbers to zero; turn that off (flush-to-zero, denormals-are-zero) for its worker threads")]
    FlushToZero,
}

/// Applies a record's payloads, in its order, to the state and moves it to the next round.
///
/// Per tensor, with `n_r` = [`norms`] of payload r and `m` their lower median (element `(R - 1) / 2` in ascending order):
/// `c_r = min(1, m / n_r)` in f64, rounded to f32 (1 where `n_r` is 0). Per coordinate, over the payloads that sent it, in order and in f32:
/// `sum += (w_r * c_r) * v_r`, `over += w_r`; or `over` is the sum of all `w_r`. Then `θ ← θ - lr * (sum / over)`. Coordinates
/// that nobody sent stay as they are; no payloads at all only advance the round. Round and base root of the payloads are for the
/// caller to check.
///
/// The next tensors are computed beside the old ones, which doubles the state's memory meanwhile, so that a void record costs nothing else.
///
/// # Errors
/// [`TransitionError`]; the state is unchanged then.
pub fn transition(state: &mut State, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), TransitionError> {
    check_record(state, payloads)?;
    if !payloads.is_empty() {
        let norms: Vec<Vec<f64>> = payloads.iter().map(|entry| norms(entry.payload)).collect();
        let next = |(tensor, theta): (usize, &Vec<f32>)| {
            let of_tensor: Vec<f64> = norms.iter().map(|of_payload| of_payload[tensor]).collect();
            Merge::new(tensor, payloads, &of_tensor, rule).step(state, theta)
        };
        let stepped: Vec<_> = state.tensors().par_iter().enumerate().map(next).collect();
        let stepped = stepped.into_iter().collect::<Result<Vec<Vec<f32>>, _>>()?;
        state.tensors_mut().iter_mut().zip(stepped).for_each(|(theta, next)| *theta = next);
    }
    state.round += 1;
    Ok(())
}

/// What [`transition`] demands of a record before it computes anything: payloads for the state's tensors, weights finite and above zero.
///
/// # Errors
/// [`TransitionError::Layout`] or [`TransitionError::Weight`] of the first payload that breaks a rule.
pub fn check_record(state: &State, payloads: &[Weighted<'_>]) -> Result<(), TransitionError> {
    for (number, &Weighted { payload, weight }) in payloads.iter().enumerate() {
        check_layout(state, payload, number)?;
        if !(weight.is_finite() && weight > 0.0) {
            return Err(TransitionError::Weight { payload: number, weight });
        }
    }
    Ok(())
}

/// `θ - step * decoded` of one payload alone, two roundings per sent element: what its loss score is measured on.
///
/// # Errors
/// [`TransitionError::Layout`] if the payload is for other tensors.
pub fn try_step(state: &State, payload: &Payload, step: f32) -> Result<Vec<Vec<f32>>, TransitionError> {
    check_layout(state, payload, 0)?;
    let mut theta = state.tensors().to_vec();
    payload.for_each_sent(&mut theta, |element, value| *element -= step * value);
    Ok(theta)
}

fn check_layout(state: &State, payload: &Payload, number: usize) -> Result<(), TransitionError> {
    let same = Arc::ptr_eq(state.layout(), payload.layout()) || state.layout() == payload.layout();
    if same { Ok(()) } else { Err(TransitionError::Layout(number)) }
}

/// The Euclidean norm of each tensor's decoded values, in layout order.
///
/// From how often each (scale code, magnitude) occurs: `sqrt` of the sum of `count * magnitude^2`, by ascending scale code and the lower
/// magnitude first, every operation in f64. Counting is exact, so the order of the chunks does not matter.
pub fn norms(payload: &Payload) -> Vec<f64> {
    (0..payload.layout().tensors().len()).into_par_iter().map(|tensor| norm(payload, tensor)).collect()
}

type Histogram = Box<[[u64; 2]; 256]>;

fn norm(payload: &Payload, tensor: usize) -> f64 {
    let count = |mut histogram: Histogram, chunk: usize| {
        let coded = payload.chunk(tensor, chunk);
        let counts = &mut histogram[usize::from(coded.scale)];
        coded.codes().for_each(|code| counts[usize::from(code & 1)] += 1);
        histogram
    };
    let add = |mut a: Histogram, b: Histogram| {
        a.as_flattened_mut().iter_mut().zip(b.as_flattened()).for_each(|(a, b)| *a += b);
        a
    };
    let empty = || Box::new([[0; 2]; 256]);
    let chunks = (0..payload.chunks(tensor)).into_par_iter().with_min_len(256);
    let histogram = chunks.fold(empty, count).reduce(empty, add);
    let mut sum = 0.0f64;
    for (counts, magnitudes) in histogram.iter().zip(&SIGN2) {
        for (&count, &magnitude) in counts.iter().zip(&magnitudes[..2]) {
            let magnitude = f64::from(magnitude);
            sum += count as f64 * (magnitude * magnitude);
        }
    }
    sum.sqrt()
}

/// The merge of one tensor.
struct Merge<'a> {
    tensor: usize,
    payloads: &'a [Weighted<'a>],
    /// `w_r * c_r`.
    factors: Vec<f32>,
    /// The denominator of every sent coordinate, if it is one for all.
    over_all: Option<f32>,
    lr: f32,
}

impl<'a> Merge<'a> {
    fn new(tensor: usize, payloads: &'a [Weighted<'a>], norms: &[f64], rule: &Rule) -> Self {
        let clipped = payloads.iter().zip(clip_factors(norms));
        let over_all = match rule.over {
            MergeOver::Senders => None,
            MergeOver::All => Some(payloads.iter().fold(0.0, |sum, entry| sum + entry.weight)),
        };
        Self { tensor, payloads, factors: clipped.map(|(entry, clip)| entry.weight * clip).collect(), over_all, lr: rule.lr }
    }

    /// The tensor after the step.
    fn step(&self, state: &State, theta: &[f32]) -> Result<Vec<f32>, TransitionError> {
        let spec = &state.layout().tensors()[self.tensor];
        let grid = Grid::new(&spec.shape);
        let mut next = theta.to_vec();
        next.par_chunks_mut(grid.band_elements()).enumerate().try_for_each_init(Sums::new, |sums, (band, elements)| {
            if flushes_to_zero() {
                return Err(TransitionError::FlushToZero);
            }
            for tile in 0..grid.band_chunks() {
                let chunk = grid.chunk_in_band(band, tile);
                self.add_up(band * grid.band_chunks() + tile, chunk.elements(), sums);
                self.descend(chunk, sums, elements);
            }
            let finite = elements.iter().all(|v| v.is_finite());
            if finite { Ok(()) } else { Err(TransitionError::NonFinite(spec.name.clone())) }
        })?;
        Ok(next)
    }

    fn add_up(&self, number: usize, elements: usize, sums: &mut Sums) {
        sums.values[..elements].fill(0.0);
        sums.weights[..elements].fill(0.0);
        for (entry, factor) in self.payloads.iter().zip(&self.factors) {
            for (index, value) in entry.payload.chunk(self.tensor, number).values() {
                if value != 0.0 {
                    sums.values[index] += factor * value;
                    sums.weights[index] += entry.weight;
                }
            }
        }
    }

    fn descend(&self, chunk: Chunk, sums: &Sums, elements: &mut [f32]) {
        let mut rest = sums.values.iter().zip(&sums.weights);
        for row in chunk.rows() {
            for (theta, (&sum, &weight)) in elements[row].iter_mut().zip(rest.by_ref()) {
                if weight != 0.0 {
                    *theta -= self.lr * (sum / self.over_all.unwrap_or(weight));
                }
            }
        }
    }
}

/// A chunk's weighted sums and the weights of its senders.
struct Sums {
    values: Vec<f32>,
    weights: Vec<f32>,
}

impl Sums {
    fn new() -> Self {
        Self { values: vec![0.0; CHUNK_ELEMENTS], weights: vec![0.0; CHUNK_ELEMENTS] }
    }
}

/// The clip factor of each payload from the [`norms`] of one tensor, in record order: `min(1, lower median / norm)` in f64, rounded to
/// f32, and 1 for a norm of 0.
pub fn clip_factors(norms: &[f64]) -> impl Iterator<Item = f32> {
    let mut sorted = norms.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let median = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    norms.iter().map(move |&norm| if norm == 0.0 { 1.0 } else { (median / norm).min(1.0) as f32 })
}

/// Whether this thread loses subnormal results or operands.
fn flushes_to_zero() -> bool {
    let halved = black_box(f32::MIN_POSITIVE) * black_box(0.5);
    let restored = black_box(f32::from_bits(1 << 22)) * black_box(2.0);
    halved.to_bits() != 1 << 22 || restored.to_bits() != f32::MIN_POSITIVE.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_takes_the_lower_median() {
        let clip = |norms: &[f64]| clip_factors(norms).collect::<Vec<_>>();
        assert_eq!(clip(&[4.0, 1.0, 2.0, 8.0]), [0.5, 1.0, 1.0, 0.25]);
        assert_eq!(clip(&[3.0]), [1.0]);
        assert_eq!(clip(&[0.0, 5.0]), [1.0, 0.0]);
        assert!(clip(&[]).is_empty());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_thread_that_flushes_is_noticed() {
        let set_control = |control: u32| {
            // SAFETY: only the flush-to-zero and denormals-are-zero bits differ from the default, on a thread that ends here.
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &control, options(nostack)) }
        };
        let check = |control| {
            std::thread::spawn(move || {
                set_control(control);
                let flushes = flushes_to_zero();
                set_control(0x1F80);
                flushes
            })
        };
        let noticed = [0x1F80, 0x9F80, 0x1FC0].map(|control| check(control).join().ok());
        assert_eq!(noticed, [Some(false), Some(true), Some(true)]);
    }
}
