//! The transition: payloads clipped, merged in record order and taken as one outer step, bit for bit the same everywhere.
//!
//! Rust evaluates `a * b + c` on f32 as written, two roundings, never fused and never reassociated; every sum below has one order,
//! and no sum crosses threads, so that the number of threads changes nothing.

use std::hint::black_box;

use rayon::prelude::*;

use crate::chunk::{CHUNK_ELEMENTS, Chunk};
use crate::chunk_encoder::ChunkEncoder;
use crate::codec::{Codec, Quantizer};
use crate::floor::{Floor, decode};
use crate::format::{Form, Format, Part};
use crate::payload::Payload;
use crate::quantize::{MAX_MAGNITUDE, scale_table};
use crate::section::{CodedChunk, Decoded, add_place, high_magnitudes};
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
    /// How the merged update is compressed again before it is taken, if at all; what is lost stays in the state's residual.
    pub resparsify: Option<Codec>,
}

/// What a step adds to an element's magnitude at most, per unit of learning rate. A merged value is a weighted mean of decoded ones, none above
/// [`MAX_MAGNITUDE`]; rounding at most doubles it, where weights are subnormal, and both it and the step are rounded once more. A residual
/// grows by no more than the merged value, hence the one besides the learning rate.
const LONGEST_STEP: f64 = 4.0 * MAX_MAGNITUDE as f64;

/// How many chunks ahead a payload's bytes are fetched.
const CHUNKS_AHEAD: usize = 4;

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
    /// A state with a residual and a rule without compression of the merged update, or the other way round.
    #[error("the state's residual does not fit the rule: a merge that is compressed again needs one, others must not have one")]
    Residual,
    /// A codec for the merged update that depends on the whole tensor, or is none.
    #[error("a merged update cannot be compressed as {0}")]
    Resparsify(Codec),
    /// A payload that is coded in another way than the record's first.
    #[error("payload {0} is coded in another way than the first of its record")]
    Format(usize),
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
/// The step is taken in place. Only where an element might overflow, which no value of a payload and no sane learning rate can bring about, the
/// next tensors are computed beside the old ones first.
///
/// # Errors
/// [`TransitionError`]; the state is unchanged then.
pub fn transition(state: &mut State, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), TransitionError> {
    check_record(state, payloads, rule)?;
    if let Some(first) = payloads.first() {
        check_threads()?;
        let merge = Merge::new(first.payload.format(), payloads, rule);
        let heaviest: f64 = payloads.iter().map(|entry| f64::from(entry.weight)).sum::<f64>() * f64::from(MAX_MAGNITUDE);
        let reach = state.reach() + LONGEST_STEP * (1.0 + f64::from(rule.lr.abs()));
        if reach < f64::from(f32::MAX) && heaviest < f64::from(f32::MAX) / 2.0 {
            state.change_within(reach, |tensors| merge.step(tensors));
        } else {
            let mut next = state.tensors().to_vec();
            merge.step(&mut next);
            check_finite(state, &next)?;
            state.tensors_mut().iter_mut().zip(next).for_each(|(theta, next)| *theta = next);
        }
    }
    state.round += 1;
    Ok(())
}

/// What [`transition`] demands before it computes anything: payloads for the state's tensors and all of one format, weights finite and above
/// zero; a rule that can be followed, and a state with a residual exactly where it needs one.
///
/// # Errors
/// [`TransitionError::Layout`], [`TransitionError::Format`] or [`TransitionError::Weight`] of the first payload that breaks a rule; then
/// [`TransitionError::Residual`] or [`TransitionError::Resparsify`].
pub fn check_record(state: &State, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), TransitionError> {
    for (number, entry) in payloads.iter().enumerate() {
        check_layout(state, entry.payload, number)?;
        check_entry(payloads, number)?;
    }
    check_rule(state, rule)
}

/// What [`check_record`] demands of the payloads whatever the state.
///
/// # Errors
/// [`TransitionError::Format`] or [`TransitionError::Weight`] of the first payload that breaks a rule.
pub fn check_payloads(payloads: &[Weighted<'_>]) -> Result<(), TransitionError> {
    (0..payloads.len()).try_for_each(|number| check_entry(payloads, number))
}

fn check_entry(payloads: &[Weighted<'_>], number: usize) -> Result<(), TransitionError> {
    let Weighted { payload, weight } = payloads[number];
    if payload.format() != payloads[0].payload.format() {
        return Err(TransitionError::Format(number));
    }
    if weight.is_finite() && weight > 0.0 { Ok(()) } else { Err(TransitionError::Weight { payload: number, weight }) }
}

fn check_rule(state: &State, rule: &Rule) -> Result<(), TransitionError> {
    if state.layout().has_residual() != rule.resparsify.is_some() {
        return Err(TransitionError::Residual);
    }
    match rule.resparsify {
        Some(codec) if codec.quantizer == Quantizer::Reference || codec.impossible_k().is_some() => Err(TransitionError::Resparsify(codec)),
        _ => Ok(()),
    }
}

/// `θ - step * decoded` of one payload alone, two roundings per sent element: what its loss score is measured on.
///
/// # Errors
/// [`TransitionError::Layout`] if the payload is for other tensors.
pub fn try_step(state: &State, payload: &Payload, step: f32) -> Result<Vec<Vec<f32>>, TransitionError> {
    check_layout(state, payload, 0)?;
    check_threads()?;
    let mut theta = state.model().to_vec();
    payload.for_each_sent(&mut theta, |element, value| *element -= step * value);
    Ok(theta)
}

fn check_layout(state: &State, payload: &Payload, number: usize) -> Result<(), TransitionError> {
    if state.layout().model() == payload.format().layout().tensors() { Ok(()) } else { Err(TransitionError::Layout(number)) }
}

/// The Euclidean norm of each tensor's decoded values, in layout order.
///
/// From how often each (scale code, magnitude) occurs: `sqrt` of the sum of `count * magnitude^2`, by ascending scale code and the lower
/// magnitude first, every operation in f64. Counting is exact, so the order of the chunks does not matter. With the reference quantizer,
/// which has a table per part instead of scales, the sum goes over the parts in order, and over the codes of each.
pub fn norms(payload: &Payload) -> Vec<f64> {
    (0..payload.format().codecs().len()).into_par_iter().map(|tensor| norm(payload, tensor)).collect()
}

fn norm(payload: &Payload, tensor: usize) -> f64 {
    let format = payload.format();
    let quantizer = format.codecs()[tensor].quantizer;
    let mut histogram = [[0u64; 2]; 256];
    let mut sum = 0.0f64;
    let mut add = |count: u64, value: f32| sum += count as f64 * (f64::from(value) * f64::from(value));
    for section in format.sections_of(tensor) {
        for part in format.parts(section).iter().filter(|part| part.tensor == tensor) {
            let mut codes = [(0, 0.0); 4];
            for place in part.places(Form::Memory, part.offset) {
                let bytes = payload.section(section);
                if quantizer == Quantizer::Reference {
                    let counts = CodedChunk::new(bytes, part, &place).counts();
                    codes = std::array::from_fn(|code| (codes[code].0 + counts[code].0, counts[code].1));
                } else {
                    let [low, high] = &mut histogram[usize::from(bytes[place.scale])];
                    let highs = high_magnitudes(quantizer, &bytes[place.codes.clone()]);
                    (*low, *high) = (*low + place.k as u64 - highs, *high + highs);
                }
            }
            codes.iter().for_each(|&(count, value)| add(count, value));
        }
    }
    for (scale, [low, high]) in (0..=255).zip(histogram).filter(|(_, counts)| *counts != [0, 0]) {
        let [low_magnitude, high_magnitude, ..] = scale_table(quantizer, scale).copied().unwrap_or_default();
        add(low, low_magnitude);
        add(high, high_magnitude);
    }
    sum.sqrt()
}

/// The merge of a record.
struct Merge<'a> {
    format: &'a Format,
    payloads: &'a [Weighted<'a>],
    /// Per tensor, `w_r * c_r` of each payload.
    factors: Vec<Vec<f32>>,
    /// The denominator of every sent coordinate, if it is one for all.
    over_all: Option<f32>,
    lr: f32,
    resparsify: Option<Codec>,
}

/// Room for one chunk's work.
struct Room {
    decoded: Decoded,
    /// Weighted sum and senders' weight of each element; zeros between chunks.
    sums: Vec<[f32; 2]>,
    encoder: ChunkEncoder,
}

impl<'a> Merge<'a> {
    fn new(format: &'a Format, payloads: &'a [Weighted<'a>], rule: &Rule) -> Self {
        let norms: Vec<Vec<f64>> = payloads.par_iter().map(|entry| norms(entry.payload)).collect();
        let factors = |tensor: usize| {
            let of_tensor: Vec<f64> = norms.iter().map(|of_payload| of_payload[tensor]).collect();
            payloads.iter().zip(clip_factors(&of_tensor)).map(|(entry, clip)| entry.weight * clip).collect()
        };
        let over_all = match rule.over {
            MergeOver::Senders => None,
            MergeOver::All => Some(payloads.iter().fold(0.0, |sum, entry| sum + entry.weight)),
        };
        Self {
            format,
            payloads,
            factors: (0..format.codecs().len()).map(factors).collect(),
            over_all,
            lr: rule.lr,
            resparsify: rule.resparsify,
        }
    }

    /// Takes the step on all tensors, chunk by chunk.
    fn step(&self, tensors: &mut [Vec<f32>]) {
        let (theta, residual) = tensors.split_at_mut(self.factors.len());
        let mut residual = if residual.is_empty() { Vec::new() } else { self.format.split_mut(residual) };
        residual.resize_with(self.format.sections(), Vec::new);
        let sections = self.format.split_mut(theta).into_par_iter().zip(residual).enumerate();
        sections.for_each_init(Room::new, |room, (section, (theta, mut residual))| {
            for (number, (part, theta)) in self.format.parts(section).iter().zip(theta).enumerate() {
                let residual = residual.get_mut(number).map(|part| &mut **part);
                self.step_part(section, part, theta, residual, room);
            }
        });
    }

    fn step_part(&self, section: usize, part: &Part, theta: &mut [f32], mut residual: Option<&mut [f32]>, room: &mut Room) {
        let entries = self.payloads.iter().zip(&self.factors[part.tensor]);
        let entries: Vec<_> = entries.map(|(entry, &factor)| (entry.payload.section(section), [factor, entry.weight])).collect();
        for place in part.places(Form::Memory, part.offset) {
            let sums = &mut room.sums[..place.chunk.elements()];
            let Chunk { start, stride, height, width } = place.chunk;
            let rows = height.div_ceil(entries.len());
            for (number, &(bytes, factors)) in entries.iter().enumerate() {
                // The next tile's elements and bytes of a few chunks later are on their way from memory while values are added.
                for row in number * rows..height.min((number + 1) * rows) {
                    let next = start + row * stride + width;
                    decode::prefetch(theta, next..next + width);
                }
                for range in [&place.codes, &place.indices] {
                    let distance = CHUNKS_AHEAD * range.len();
                    decode::prefetch(bytes, range.start + distance..range.end + distance);
                }
                add_place(bytes, part, &place, &mut room.decoded, factors, sums);
            }
            match (self.resparsify, residual.as_deref_mut()) {
                (Some(codec), Some(residual)) => self.descend_lossily(place.chunk, codec, theta, residual, room),
                _ => decode::descend(Floor::best(), sums, self.over_all, self.lr, place.chunk, theta),
            }
        }
    }

    /// `a = residual + merged`, selected and quantized to v as a payload's chunk is; `θ -= lr * v`, `residual = a - v`.
    fn descend_lossily(&self, chunk: Chunk, codec: Codec, theta: &mut [f32], residual: &mut [f32], room: &mut Room) {
        let Room { decoded, sums, encoder } = room;
        let merged = decoded.values_mut(chunk.elements());
        for (merged, [sum, over]) in merged.iter_mut().zip(sums) {
            *merged = if *over == 0.0 { 0.0 } else { *sum / self.over_all.unwrap_or(*over) };
            (*sum, *over) = (0.0, 0.0);
        }
        encoder.add(chunk, residual, merged);
        encoder.select(&codec);
        encoder.quantize(&codec, None);
        for (index, value) in encoder.sent().filter(|&(_, value)| value != 0.0) {
            theta[chunk.position(index)] -= self.lr * value;
        }
        encoder.subtract_sent(chunk, residual);
    }
}

impl Room {
    fn new() -> Self {
        Self { decoded: Decoded::default(), sums: vec![[0.0; 2]; CHUNK_ELEMENTS], encoder: ChunkEncoder::default() }
    }
}

fn check_finite(state: &State, tensors: &[Vec<f32>]) -> Result<(), TransitionError> {
    let is_finite = |theta: &Vec<f32>| theta.par_chunks(1 << 16).all(|elements| elements.iter().all(|v| v.is_finite()));
    match tensors.iter().position(|theta| !is_finite(theta)) {
        Some(tensor) => Err(TransitionError::NonFinite(state.layout().tensors()[tensor].name.clone())),
        None => Ok(()),
    }
}

/// Whether all threads that may take part keep subnormal numbers.
fn check_threads() -> Result<(), TransitionError> {
    let flushes = flushes_to_zero() || rayon::broadcast(|_| flushes_to_zero()).contains(&true);
    if flushes { Err(TransitionError::FlushToZero) } else { Ok(()) }
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
