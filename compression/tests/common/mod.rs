//! Reproducible tensors, formats and payloads for the tests of the public interface.
#![allow(dead_code, clippy::unwrap_used)]

pub mod frames;
pub mod spec;

use std::io::{self, Read};
use std::sync::Arc;

use compression::{Codec, ErrorFeedback, Format, Group, Header, Indices, Layout, Payload, Quantizer, Select, TensorSpec, encode};

pub const HEADER: Header = Header { run: [1; 32], round: 7, hotkey: [2; 32], base_root: [3; 32] };
pub const BETA: f32 = 0.95;
/// Tiles with a narrow edge, a short run, a run over one chunk, and a matrix of three dimensions.
pub const SHAPES: [&[usize]; 4] = [&[70, 65], &[10], &[5000], &[3, 20, 30]];

/// Every way of selecting, writing indices and quantizing.
pub fn codecs(k: u16) -> Vec<Codec> {
    let top_k = [Indices::Packed12, Indices::EliasFano, Indices::Golomb].map(|indices| Select::TopK { k, indices });
    let group_max = [Group::G16, Group::G32, Group::G64].map(|group| Select::GroupMax { group });
    let quantizers = [Quantizer::Sign2, Quantizer::Sign1, Quantizer::Reference];
    let selects = top_k.into_iter().chain(group_max);
    selects.flat_map(|select| quantizers.map(|quantizer| Codec { select, quantizer })).collect()
}

/// The codec that most tests of other things use.
pub fn codec(k: u16) -> Codec {
    Codec::top_k(k, Quantizer::Sign2, Indices::Packed12)
}

/// Tensors whose names sort in the order of the layout.
pub fn layout(shapes: &[&[usize]]) -> Arc<Layout> {
    let digits = shapes.len().to_string().len();
    let tensors = shapes.iter().enumerate().map(|(i, shape)| TensorSpec::new(format!("t{i:0digits$}"), shape)).collect();
    Arc::new(Layout::new(tensors).unwrap())
}

pub fn uniform(shapes: &[&[usize]], codec: Codec) -> Arc<Format> {
    Arc::new(Format::uniform(layout(shapes), codec).unwrap())
}

pub fn mixed(shapes: &[&[usize]], codecs: &[Codec]) -> Arc<Format> {
    Arc::new(Format::new(layout(shapes), codecs.to_vec()).unwrap())
}

/// [`SHAPES`] with four codecs that have neither selection, index code nor quantizer all in common.
pub fn mix() -> Arc<Format> {
    let codecs = [
        Codec::top_k(300, Quantizer::Sign2, Indices::Golomb),
        Codec::group_max(Group::G32, Quantizer::Sign1),
        Codec::top_k(64, Quantizer::Reference, Indices::Packed12),
        Codec::top_k(300, Quantizer::Sign2, Indices::EliasFano),
    ];
    mixed(&SHAPES, &codecs)
}

/// [`SHAPES`] in every codec, and the mix.
pub fn formats(k: u16) -> Vec<Arc<Format>> {
    codecs(k).into_iter().map(|codec| uniform(&SHAPES, codec)).chain([mix()]).collect()
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() >> 1) as usize % bound
    }

    /// A multiple of 2^-12 in -1..1, one of few values so that ties are frequent; one in eight is zero, one in 64 subnormal.
    pub fn value(&mut self) -> f32 {
        let bits = self.bits();
        let coarse = (bits >> 8 & 0xFF) as f32 / 4096.0 + (bits >> 16 & 0xFF) as f32 / 256.0;
        let magnitude = match bits % 64 {
            0 => f32::from_bits((bits >> 40) as u32 & 0x7F_FFFF),
            1..9 => 0.0,
            _ => coarse,
        };
        if bits >> 63 == 1 { -magnitude } else { magnitude }
    }

    pub fn tensors(&mut self, layout: &Layout) -> Vec<Vec<f32>> {
        layout.tensors().iter().map(|t| (0..t.len()).map(|_| self.value()).collect()).collect()
    }
}

/// A payload of random values.
pub fn payload_bytes(format: &Format, seed: u64) -> Vec<u8> {
    let gradient = Random(seed).tensors(format.layout());
    encode(format, &HEADER, &mut ErrorFeedback::zeros(format.layout()), &gradient, BETA).unwrap()
}

pub fn payload(format: &Arc<Format>, seed: u64) -> Payload {
    Payload::parse(&payload_bytes(format, seed), format).unwrap()
}

/// A stream that gives one byte at a time and is interrupted now and then.
pub struct Trickle<'a> {
    rest: &'a [u8],
    interrupted: bool,
}

impl<'a> Trickle<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Self { rest, interrupted: false }
    }
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted && self.rest.len().is_multiple_of(7);
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let one = buffer.len().min(1);
        self.rest.read(&mut buffer[..one])
    }
}

/// The bits of all elements, which tell zeros apart.
pub fn bits(tensors: &[Vec<f32>]) -> Vec<u32> {
    tensors.iter().flatten().map(|v| v.to_bits()).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
