//! Reproducible payloads for the tests of the public interface.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;

use compression::{Codec, ErrorFeedback, Header, Indices, Layout, Payload, Quantizer, TensorSpec, encode};

pub const HEADER: Header = Header { run: [1; 32], round: 7, hotkey: [2; 32], base_root: [3; 32] };

pub fn codec(k: u16) -> Codec {
    Codec { k, quantizer: Quantizer::Sign2, indices: Indices::Packed12 }
}

pub fn layout(shapes: &[&[usize]]) -> Arc<Layout> {
    let tensors = shapes.iter().enumerate().map(|(i, shape)| TensorSpec::new(format!("t{i}"), shape)).collect();
    Arc::new(Layout::new(tensors).unwrap())
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
pub fn payload_bytes(layout: &Layout, codec: &Codec, seed: u64) -> Vec<u8> {
    let gradient = Random(seed).tensors(layout);
    encode(codec, layout, &HEADER, &mut ErrorFeedback::zeros(layout), &gradient, 0.95).unwrap()
}

pub fn payload(layout: &Arc<Layout>, codec: &Codec, seed: u64) -> Payload {
    Payload::parse(payload_bytes(layout, codec, seed), layout, codec).unwrap()
}

/// Makes the closing hash fit the bytes before it.
pub fn reseal(bytes: &mut [u8]) {
    let content = bytes.len() - 32;
    let hash = blake3::hash(&bytes[..content]);
    bytes[content..].copy_from_slice(hash.as_bytes());
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
