//! One chunk: what is selected of it, and what the selected values are sent as.

use crate::chunk::Chunk;
use crate::codec::{Codec, Select};
use crate::floor::Floor;
use crate::floor::encode::{Rows, Scratch, accumulate, group_max, top_k};
use crate::quantize::{Coder, Reference};
use crate::section::lowest_indices;

/// The work on one chunk after the other, with buffers kept between them.
#[derive(Default)]
pub(crate) struct ChunkEncoder {
    values: Vec<f32>,
    scratch: Scratch,
    picked: Vec<u16>,
    selected: Vec<f32>,
    fixed: Vec<u16>,
    codes: Vec<u16>,
    scale: Option<u8>,
    table: [f32; 4],
}

impl ChunkEncoder {
    /// `feedback = beta * feedback + gradient`, each operation rounded on its own.
    pub fn accumulate(&mut self, chunk: Chunk, feedback: &mut [f32], gradient: &[f32], beta: f32) {
        self.values.resize(chunk.elements(), 0.0);
        let rows = Rows { width: chunk.width, stride: chunk.stride };
        accumulate(Floor::best(), &mut feedback[chunk.start..], &gradient[chunk.start..], beta, rows, &mut self.values);
    }

    /// `residual = residual + merged`; `merged` is in the chunk's order already.
    pub fn add(&mut self, chunk: Chunk, residual: &mut [f32], merged: &[f32]) {
        self.values.clear();
        for (row, merged) in chunk.rows().zip(merged.chunks(chunk.width)) {
            for (residual, merged) in residual[row].iter_mut().zip(merged) {
                *residual += merged;
                self.values.push(*residual);
            }
        }
    }

    /// Picks the values to send.
    pub fn select(&mut self, codec: &Codec) {
        match codec.select {
            Select::TopK { .. } => {
                let k = codec.chunk_k(self.values.len());
                top_k(Floor::best(), &self.values, k, &mut self.scratch, &mut self.picked);
            }
            Select::GroupMax { group } => group_max(Floor::best(), &self.values, group.elements(), &mut self.picked),
        }
        self.selected.clear();
        self.selected.extend(self.picked.iter().map(|&i| self.values[usize::from(i)]));
    }

    /// Codes the picked values. A chunk that is sent as zeros has the lowest indices. `reference` is the tensor's quantizer, if that is its kind.
    pub fn quantize(&mut self, codec: &Codec, reference: Option<Reference>) {
        let coder = Coder::choose(codec.quantizer, &self.selected, reference, Floor::best(), &mut self.fixed);
        self.table = coder.table();
        self.scale = coder.scale();
        if self.scale == Some(0) {
            let k = self.picked.len();
            self.picked.clear();
            self.picked.extend(lowest_indices(codec.select, k));
        }
        self.codes.clear();
        self.codes.extend(self.picked.iter().map(|&index| u16::from(coder.code(self.values[usize::from(index)]))));
    }

    /// What is sent: (index, value), by ascending index.
    pub fn sent(&self) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.picked.iter().zip(&self.codes).map(|(&index, &code)| (usize::from(index), self.table[usize::from(code)]))
    }

    /// Subtracts what is sent from the chunk's feedback.
    pub fn subtract_sent(&self, chunk: Chunk, feedback: &mut [f32]) {
        for (index, value) in self.sent() {
            feedback[chunk.position(index)] -= value;
        }
    }

    /// The picked values as they were.
    pub fn selected(&self) -> &[f32] {
        &self.selected
    }

    /// The indices to send, ascending.
    pub fn picked(&self) -> &[u16] {
        &self.picked
    }

    /// The codes, in the order of the indices.
    pub fn codes(&self) -> &[u16] {
        &self.codes
    }

    /// The scale code, if the quantizer has one.
    pub fn scale(&self) -> Option<u8> {
        self.scale
    }
}
