//! From a pseudo-gradient and error feedback to a payload.

use std::io::{self, Write};

use rayon::prelude::*;

use crate::chunk_encoder::ChunkEncoder;
use crate::codec::{Codec, Quantizer};
use crate::floor::Floor;
use crate::floor::encode::all_finite;
use crate::format::{Form, Format, Part, Place};
use crate::header::Header;
use crate::indices::bits::BitWriter;
use crate::indices::{golomb, packed};
use crate::payload::{BATCH, Payload};
use crate::quantize::Reference;
use crate::scales::ScaleCoder;
use crate::section::encode_indices;
use crate::stream::{PayloadWriter, frame, payload_len};
use crate::{Layout, LayoutError};

/// Why a pseudo-gradient cannot be encoded; unless it is [`EncodeError::Io`], the error feedback is as it was.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Tensors that are not the layout's.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A NaN, an infinity, or a sum with the error feedback that overflows.
    #[error("tensor {0:?}: the pseudo-gradient plus error feedback is not finite; drop this round's progress")]
    NonFinite(String),
    /// The payload cannot be written; this round's error feedback is lost.
    #[error("the payload cannot be written")]
    Io(#[from] io::Error),
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
        crate::check_lengths(payload.format().layout(), &self.0)?;
        payload.for_each_sent(&mut self.0, |element, value| *element += value);
        Ok(())
    }
}

/// Encodes one round's pseudo-gradient (one vector per tensor in layout order) and moves the error feedback on.
///
/// Per element, each operation rounded to f32 on its own: `a = beta * e + pseudo_gradient`; per chunk some of `a` are selected and
/// quantized to `v`; then `e = a - v` where selected, `e = a` elsewhere. The bytes and `e` do not depend on the number of threads.
///
/// # Errors
/// [`EncodeError`]; the error feedback is unchanged then.
pub fn encode(
    format: &Format,
    header: &Header,
    error_feedback: &mut ErrorFeedback,
    pseudo_gradient: &[Vec<f32>],
    beta: f32,
) -> Result<Vec<u8>, EncodeError> {
    let room = *payload_len(format).end() as usize;
    encode_to(Vec::with_capacity(room), format, header, error_feedback, pseudo_gradient, beta)
}

/// [`encode`], written section by section while it is made.
///
/// # Errors
/// [`EncodeError`]; the error feedback is unchanged then, unless it is [`EncodeError::Io`].
pub fn encode_to<W: Write>(
    write: W,
    format: &Format,
    header: &Header,
    error_feedback: &mut ErrorFeedback,
    pseudo_gradient: &[Vec<f32>],
    beta: f32,
) -> Result<W, EncodeError> {
    let layout = format.layout();
    crate::check_lengths(layout, &error_feedback.0)?;
    crate::check_lengths(layout, pseudo_gradient)?;
    check_finite(layout, &error_feedback.0, pseudo_gradient, beta)?;
    let references = fit_references(format, &error_feedback.0, pseudo_gradient, beta);
    let mut writer = PayloadWriter::new(write, format, header)?;
    let gradients = format.split(pseudo_gradient);
    let mut sections: Vec<_> = format.split_mut(&mut error_feedback.0).into_iter().zip(gradients).enumerate().collect();
    for batch in sections.chunks_mut(BATCH) {
        let encoded = batch.par_iter_mut().map_init(SectionEncoder::default, |encoder, (section, (feedback, gradient))| {
            let body = encoder.section(format.parts(*section), feedback, gradient, beta, &references);
            (frame(&body), body)
        });
        encoded.collect::<Vec<_>>().iter().try_for_each(|(frame, body)| writer.section(frame, body))?;
    }
    Ok(writer.finish()?)
}

fn check_finite(layout: &Layout, feedback: &[Vec<f32>], gradient: &[Vec<f32>], beta: f32) -> Result<(), EncodeError> {
    const RUN: usize = 1 << 16;
    for ((spec, e), g) in layout.tensors().iter().zip(feedback).zip(gradient) {
        if !e.par_chunks(RUN).zip(g.par_chunks(RUN)).all(|(e, g)| all_finite(Floor::best(), e, g, beta)) {
            return Err(EncodeError::NonFinite(spec.name.clone()));
        }
    }
    Ok(())
}

/// The quantizer of each tensor that uses the reference, which depends on all its selected values.
fn fit_references(format: &Format, feedback: &[Vec<f32>], gradient: &[Vec<f32>], beta: f32) -> Vec<Option<Reference>> {
    let fit = |(tensor, codec): (usize, &Codec)| {
        if codec.quantizer != Quantizer::Reference {
            return None;
        }
        let grid = format.grid(tensor);
        let mut encoder = ChunkEncoder::default();
        let (mut all, mut feedback) = (Vec::new(), feedback[tensor].clone());
        for number in 0..grid.chunks() {
            encoder.accumulate(grid.chunk(number), &mut feedback, &gradient[tensor], beta);
            encoder.select(codec);
            all.extend_from_slice(encoder.selected());
        }
        Some(Reference::fit(&all))
    };
    format.codecs().par_iter().enumerate().map(fit).collect()
}

/// The coding of one section after the other, with buffers kept between them.
#[derive(Default)]
struct SectionEncoder {
    chunk: ChunkEncoder,
    scales: ScaleCoder,
    stream: BitWriter,
}

impl SectionEncoder {
    /// A section's bytes in a payload.
    fn section(
        &mut self,
        parts: &[Part],
        feedback: &mut [&mut [f32]],
        gradient: &[&[f32]],
        beta: f32,
        references: &[Option<Reference>],
    ) -> Vec<u8> {
        let mut body = vec![0; parts.iter().map(|part| part.bytes(Form::Wire)).sum()];
        let mut start = 0;
        for ((part, feedback), gradient) in parts.iter().zip(feedback).zip(gradient) {
            let reference = references[part.tensor];
            let mut occurs = [false; 4];
            for place in part.places(Form::Wire, start) {
                self.chunk.accumulate(place.chunk, feedback, gradient, beta);
                self.chunk.select(&part.codec);
                self.chunk.quantize(&part.codec, reference);
                self.write(part, &place, &mut body);
                self.chunk.codes().iter().for_each(|&code| occurs[usize::from(code)] = true);
                self.chunk.subtract_sent(place.chunk, feedback);
            }
            if let (Some(range), Some(reference)) = (part.table(start), reference) {
                let table = reference.table(occurs).map(f32::to_le_bytes);
                body[range].copy_from_slice(table.as_flattened());
            }
            start += part.bytes(Form::Wire);
        }
        self.scales = ScaleCoder::default();
        body.extend(std::mem::take(&mut self.stream).finish());
        body
    }

    fn write(&mut self, part: &Part, place: &Place, body: &mut [u8]) {
        let codec = part.codec;
        match self.chunk.scale() {
            Some(scale) if codec.is_golomb() => self.scales.write(scale, &mut self.stream),
            Some(scale) => body[place.scale] = scale,
            None => {}
        }
        packed::encode(self.chunk.codes().iter().copied(), codec.quantizer.code_bits(), &mut body[place.codes.clone()]);
        let (elements, indices, out) = (place.chunk.elements(), self.chunk.picked(), &mut body[place.indices.clone()]);
        if codec.is_golomb() {
            golomb::encode(indices, elements, out, &mut self.stream);
        } else {
            encode_indices(codec.select, indices, elements, out);
        }
    }
}
