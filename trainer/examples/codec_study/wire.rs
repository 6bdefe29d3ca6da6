//! The one place that knows how the compression crate is asked to encode, and what its payloads can say.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use compression::{Codec, ErrorFeedback, Format, Grid, Group, Header, Indices, Layout, Payload, Quantizer, encode};

use crate::{
    coding::{Select, SentChunk, Values},
    sizes::IndexCode,
};

/// Makes payloads.
pub struct Wire {
    format: Arc<Format>,
}

impl Wire {
    /// `None` where the crate has no such codec.
    pub fn new(select: Select, values: Values, indices: IndexCode, layout: &Arc<Layout>) -> Result<Option<Self>> {
        let quantizer = match values {
            Values::None => return Ok(None),
            Values::Sign1 => Quantizer::Sign1,
            Values::Sign2 => Quantizer::Sign2,
            Values::Reference => Quantizer::Reference,
        };
        let indices = match indices {
            IndexCode::Packed12 => Indices::Packed12,
            IndexCode::EliasFano => Indices::EliasFano,
            IndexCode::Golomb => Indices::Golomb,
        };
        let codec = match select {
            Select::TopK(k) => Codec::top_k(k, quantizer, indices),
            Select::GroupMax(group) => Codec::group_max(Group::of(group).context("no such group")?, quantizer),
        };
        Ok(Some(Self { format: Arc::new(Format::uniform(layout.clone(), codec)?) }))
    }

    /// How a tensor of this number is cut into chunks.
    pub fn grid(&self, tensor: usize) -> Grid {
        self.format.grid(tensor)
    }

    /// Encodes, and reads back what was encoded as any node would. Also the number of bytes.
    pub fn send(&self, header: &Header, feedback: &mut ErrorFeedback, gradient: &[Vec<f32>], beta: f32) -> Result<(Payload, usize)> {
        let bytes = encode(&self.format, header, feedback, gradient, beta)?;
        Ok((Payload::parse(&bytes, &self.format)?, bytes.len()))
    }
}

/// What a payload says of each tensor's chunks.
pub fn chunks(payload: &Payload, grids: &[Grid]) -> Vec<Vec<SentChunk>> {
    let sent = |tensor, number| {
        let coded = payload.chunk(tensor, number);
        let (indices, values): (Vec<u16>, Vec<f32>) = coded.values().into_iter().map(|(index, value)| (index as u16, value)).unzip();
        let (codes, scale) = match coded.codec.quantizer {
            Quantizer::Sign1 => (Vec::new(), Some(coded.scale)),
            Quantizer::Sign2 => (coded.codes().map(|code| code & 1).collect(), Some(coded.scale)),
            Quantizer::Reference => (coded.codes().collect(), None),
        };
        SentChunk { indices, values, codes, scale }
    };
    let of_tensor = |(tensor, grid): (usize, &Grid)| (0..grid.chunks()).map(|number| sent(tensor, number)).collect();
    grids.iter().enumerate().map(of_tensor).collect()
}
