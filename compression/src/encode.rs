//! From a pseudo-gradient and error feedback to a payload.

use rayon::prelude::*;

use crate::chunk::{CHUNK_ELEMENTS, Chunk, Grid};
use crate::codec::{Codec, payload_len, sections};
use crate::payload::{HASH_BYTES, HEADER_BYTES, Header, Payload};
use crate::select::TopK;
use crate::{Layout, LayoutError, pack, quantize};

/// Why a pseudo-gradient cannot be encoded; the error feedback is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Tensors that are not the layout's.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A NaN, an infinity, or a sum with the error feedback that overflows.
    #[error("tensor {0:?}: the pseudo-gradient plus error feedback is not finite; drop this round's progress")]
    NonFinite(String),
    /// A `k` outside 1 to 4096.
    #[error("k = {0}, it must be 1 to 4096 values per chunk")]
    K(u16),
}

/// What a miner's payloads have not said yet: e in `e ← beta * e + pseudo-gradient - sent`, one vector per tensor in layout order.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorFeedback(Vec<Vec<f32>>);

impl ErrorFeedback {
    /// A beginner's: all zero.
    pub fn zeros(layout: &Layout) -> Self {
        Self(layout.tensors().iter().map(|t| vec![0.0; t.len()]).collect())
    }

    /// Error feedback read back from storage.
    ///
    /// # Errors
    /// [`LayoutError`] if the tensors' lengths are not the layout's.
    pub fn from_tensors(layout: &Layout, tensors: Vec<Vec<f32>>) -> Result<Self, LayoutError> {
        crate::check_lengths(layout, &tensors)?;
        Ok(Self(tensors))
    }

    /// The elements, row-major, in layout order.
    pub fn tensors(&self) -> &[Vec<f32>] {
        &self.0
    }

    /// Puts back what a payload said, because no round applied it: `e ← e + decoded`.
    ///
    /// # Errors
    /// [`LayoutError`] if the payload is for other tensors.
    pub fn absorb(&mut self, payload: &Payload) -> Result<(), LayoutError> {
        crate::check_lengths(payload.layout(), &self.0)?;
        payload.for_each_sent(&mut self.0, |element, value| *element += value);
        Ok(())
    }
}

/// Encodes one round's pseudo-gradient (one vector per tensor in layout order) and moves the error feedback on.
///
/// Per element, each operation rounded to f32 on its own: `a = beta * e + pseudo_gradient`; per chunk the top k of `a` are selected and
/// quantized to `v`; then `e = a - v` where selected, `e = a` elsewhere. The bytes and `e` do not depend on the number of threads.
///
/// # Errors
/// [`EncodeError`]; the error feedback is unchanged then.
pub fn encode(
    codec: &Codec,
    layout: &Layout,
    header: &Header,
    error_feedback: &mut ErrorFeedback,
    pseudo_gradient: &[Vec<f32>],
    beta: f32,
) -> Result<Vec<u8>, EncodeError> {
    if !codec.k_is_valid() {
        return Err(EncodeError::K(codec.k));
    }
    crate::check_lengths(layout, &error_feedback.0)?;
    crate::check_lengths(layout, pseudo_gradient)?;
    check_finite(layout, &error_feedback.0, pseudo_gradient, beta)?;
    let mut bytes = vec![0; payload_len(layout, codec) as usize];
    let content = bytes.len() - HASH_BYTES;
    bytes[..HEADER_BYTES].copy_from_slice(&header.write(layout, codec));
    let mut rest = &mut bytes[HEADER_BYTES..content];
    let mut tasks = Vec::with_capacity(pseudo_gradient.len());
    for ((s, feedback), gradient) in sections(layout, codec).iter().zip(&mut error_feedback.0).zip(pseudo_gradient) {
        let [scales, codes, indices] =
            [s.codes - s.scales, s.indices - s.codes, s.end - s.indices].map(|length| rest.split_off_mut(..length).unwrap_or_default());
        let data = Slices { feedback, gradient, scales, codes, indices };
        tasks.push((s.grid, data));
    }
    tasks.into_par_iter().for_each(|(grid, data)| encode_tensor(codec, grid, data, beta));
    let hash = blake3::hash(&bytes[..content]);
    bytes[content..].copy_from_slice(hash.as_bytes());
    Ok(bytes)
}

fn check_finite(layout: &Layout, feedback: &[Vec<f32>], gradient: &[Vec<f32>], beta: f32) -> Result<(), EncodeError> {
    let finite = |e: &[f32], g: &[f32]| e.iter().zip(g).all(|(e, g)| (beta * e + g).is_finite());
    for ((spec, e), g) in layout.tensors().iter().zip(feedback).zip(gradient) {
        if !e.par_chunks(CHUNK_ELEMENTS).zip(g.par_chunks(CHUNK_ELEMENTS)).all(|(e, g)| finite(e, g)) {
            return Err(EncodeError::NonFinite(spec.name.clone()));
        }
    }
    Ok(())
}

/// The inputs and outputs of one tensor, or of one of its bands.
struct Slices<'a> {
    feedback: &'a mut [f32],
    gradient: &'a [f32],
    scales: &'a mut [u8],
    codes: &'a mut [u8],
    indices: &'a mut [u8],
}

fn encode_tensor(codec: &Codec, grid: Grid, data: Slices<'_>, beta: f32) {
    let feedback = data.feedback.par_chunks_mut(grid.band_elements());
    let gradient = data.gradient.par_chunks(grid.band_elements());
    let scales = data.scales.par_chunks_mut(grid.band_chunks());
    let codes = data.codes.par_chunks_mut(grid.sum_band(0, |n| codec.code_bytes(n)));
    let indices = data.indices.par_chunks_mut(grid.sum_band(0, |n| codec.index_bytes(n)));
    let bands = (feedback, gradient, scales, codes, indices).into_par_iter().enumerate();
    bands.for_each_init(Encoder::default, |encoder, (band, (feedback, gradient, scales, codes, indices))| {
        let data = Slices { feedback, gradient, scales, codes, indices };
        let (mut code_at, mut index_at) = (0, 0);
        for tile in 0..grid.band_chunks() {
            let chunk = grid.chunk_in_band(band, tile);
            let (code_end, index_end) = (code_at + codec.code_bytes(chunk.elements()), index_at + codec.index_bytes(chunk.elements()));
            encoder.accumulate(chunk, &data, beta);
            encoder.choose(codec.chunk_k(chunk.elements()));
            data.scales[tile] = encoder.scale;
            encoder.write(&mut data.codes[code_at..code_end], &mut data.indices[index_at..index_end]);
            encoder.put_back(chunk, data.feedback);
            (code_at, index_at) = (code_end, index_end);
        }
    });
}

/// One chunk's work, with buffers kept between chunks.
#[derive(Default)]
struct Encoder {
    values: Vec<f32>,
    top_k: TopK,
    picked: Vec<u16>,
    selected: Vec<f32>,
    fixed: Vec<i16>,
    scale: u8,
}

impl Encoder {
    /// `values = beta * e + pseudo_gradient`, in the chunk's order.
    fn accumulate(&mut self, chunk: Chunk, data: &Slices<'_>, beta: f32) {
        self.values.clear();
        for row in chunk.rows() {
            let pairs = data.feedback[row.clone()].iter().zip(&data.gradient[row]);
            self.values.extend(pairs.map(|(e, g)| beta * e + g));
        }
    }

    /// Selects `k` values and a scale; a chunk that decodes to zeros has the lowest indices.
    fn choose(&mut self, k: usize) {
        self.top_k.select(&self.values, k, &mut self.picked);
        self.selected.clear();
        self.selected.extend(self.picked.iter().map(|&i| self.values[usize::from(i)]));
        self.scale = quantize::choose_scale(&self.selected, &mut self.fixed);
        if self.scale == 0 {
            self.picked.clear();
            self.picked.extend(0..k as u16);
        }
    }

    /// Writes codes and indices and subtracts what they say from `values`.
    fn write(&mut self, codes: &mut [u8], indices: &mut [u8]) {
        let magnitudes = &quantize::SIGN2[usize::from(self.scale)];
        for (j, &index) in self.picked.iter().enumerate() {
            let value = &mut self.values[usize::from(index)];
            let code = quantize::code(self.scale, *value);
            pack::put_code(codes, j, code);
            pack::put_index(indices, j, index);
            *value -= magnitudes[usize::from(code)];
        }
    }

    fn put_back(&self, chunk: Chunk, feedback: &mut [f32]) {
        for (row, values) in chunk.rows().zip(self.values.chunks(chunk.width)) {
            feedback[row].copy_from_slice(values);
        }
    }
}
