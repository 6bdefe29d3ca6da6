//! The `reference` quantizer against vectors of the deployed reference compressor, see `golden/README.md`.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::spec::{self, PlainChunk};
use common::{BETA, HEADER, codec, uniform};
use compression::{Codec, ErrorFeedback, Format, Indices, MergeOver, Payload, Quantizer, Rule, State, Weighted, encode, norms, transition};
use safetensors::SafeTensors;

/// A file of golden vectors.
struct Golden(Vec<u8>);

impl Golden {
    fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("safetensors");
        Self(std::fs::read(path).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().data().to_vec()
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.bytes(name).as_chunks().0.iter().map(|&word| usize::from(u16::from_le_bytes(word))).collect()
    }

    /// Table of the values that codes decode to.
    fn table(&self, of: &str) -> Vec<f32> {
        let shift = self.f32s(&format!("{of}.shift"))[0];
        self.f32s(&format!("{of}.lookup")).into_iter().map(|value| value + shift).collect()
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().shape().to_vec()
    }

    fn format(&self, tensor: &str) -> Arc<Format> {
        uniform(&[&self.shape(tensor)], Codec::top_k(64, Quantizer::Reference, Indices::Packed12))
    }
}

/// Encodes a round of a file and returns the payload.
fn round(golden: &Golden, round: usize, format: &Arc<Format>, feedback: &mut ErrorFeedback) -> Payload {
    let gradient = golden.f32s(&format!("r{round}.grad"));
    Payload::parse(&encode(format, &HEADER, feedback, &[gradient], BETA).unwrap(), format).unwrap()
}

fn assert_close(ours: &[f32], theirs: &[f32], tolerance: impl Fn(f32) -> f32, what: &str) {
    assert_eq!(ours.len(), theirs.len());
    for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!((ours - theirs).abs() <= tolerance(*theirs), "{what} {i}: {ours} instead of {theirs}");
    }
}

/// One part in a million.
fn relative(value: f32) -> f32 {
    1e-6 * value.abs()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// Three rounds with our own error feedback carried along.
fn check_rounds(name: &str) {
    let golden = Golden::open(name);
    let format = golden.format("r0.grad");
    let mut feedback = ErrorFeedback::zeros(format.layout());
    for number in 0..3 {
        let payload = round(&golden, number, &format, &mut feedback);
        let of = |what: &str| format!("r{number}.{what}");
        let indices: Vec<usize> = payload.values(0).map(|(_, index, _)| index).collect();
        assert_eq!(indices, golden.indices(&of("idx_sorted")), "{name} round {number}");
        let codes: Vec<u8> = (0..format.grid(0).chunks()).flat_map(|chunk| payload.chunk(0, chunk).codes()).collect();
        assert_eq!(codes, golden.bytes(&of("qval_sorted")), "{name} round {number}");
        let (values, table): (Vec<f32>, _) = (payload.values(0).map(|(_, _, value)| value).collect(), golden.table(&format!("r{number}")));
        let looked_up: Vec<f32> = codes.iter().map(|&code| table[usize::from(code)]).collect();
        assert_close(&values, &looked_up, relative, &of("lookup"));
        assert_close(&payload.to_dense()[0], &golden.f32s(&of("decoded")), relative, &of("decoded"));
        let theirs = golden.f32s(&of("ef_out"));
        let tolerance = 1e-6 * largest(&theirs);
        assert_close(&feedback.tensors()[0], &theirs, |_| tolerance, &of("ef_out"));
    }
}

#[test]
fn gaussian_tiles() {
    check_rounds("gauss_128x128");
}

#[test]
fn tiles_of_odd_dimensions() {
    check_rounds("odd_100x75");
}

#[test]
fn one_small_tile() {
    check_rounds("small_8x8");
}

#[test]
fn runs_of_a_vector() {
    check_rounds("norm_1d_128");
}

/// The reference sends 64 zeros under one code, we under another: both decode to nothing.
#[test]
fn zeros_stay_zeros() {
    let golden = Golden::open("zeros_64x64");
    let format = golden.format("r0.grad");
    let mut feedback = ErrorFeedback::zeros(format.layout());
    for number in 0..3 {
        let payload = round(&golden, number, &format, &mut feedback);
        assert_eq!(payload.values(0).count(), golden.indices(&format!("r{number}.idx")).len());
        assert_eq!(payload.to_dense()[0], golden.f32s(&format!("r{number}.decoded")));
        assert_eq!(feedback.tensors()[0], golden.f32s(&format!("r{number}.ef_out")));
    }
}

/// Among equal magnitudes the reference picks any, so each round starts from its own error feedback, and only magnitudes are compared.
#[test]
fn ties_have_the_same_magnitudes() {
    let golden = Golden::open("ties_64x128");
    let format = golden.format("r0.grad");
    for number in 0..3 {
        let before = match number {
            0 => vec![0.0; golden.f32s("r0.grad").len()],
            _ => golden.f32s(&format!("r{}.ef_out", number - 1)),
        };
        let mut feedback = ErrorFeedback::from_tensors(format.layout(), vec![before]).unwrap();
        let payload = round(&golden, number, &format, &mut feedback);
        let (wanted, theirs) = (golden.f32s(&format!("r{number}.ef_acc")), golden.indices(&format!("r{number}.idx_sorted")));
        for (chunk, theirs) in theirs.chunks(64).enumerate() {
            let coded = payload.chunk(0, chunk);
            let magnitudes = |indices: Vec<usize>| {
                let mut magnitudes: Vec<u32> = indices.iter().map(|&i| wanted[coded.chunk.position(i)].abs().to_bits()).collect();
                magnitudes.sort_unstable();
                magnitudes
            };
            let ours = coded.values().into_iter().map(|(index, _)| index).collect();
            assert_eq!(magnitudes(ours), magnitudes(theirs.to_vec()), "round {number} chunk {chunk}");
        }
    }
}

/// A peer's payload, from the reference's packed indices, which are in any order.
fn peer(golden: &Golden, number: usize, format: &Arc<Format>) -> Payload {
    let of = |what: &str| format!("peer{number}.{what}");
    let (packed, codes, table) = (golden.bytes(&of("idx_packed")), golden.bytes(&of("qval")), golden.table(&format!("peer{number}")));
    let unpack = |three: &[u8; 3]| {
        let [low, middle, high] = three.map(usize::from);
        [low | (middle & 15) << 8, middle >> 4 | high << 4]
    };
    let indices: Vec<usize> = packed.as_chunks().0.iter().flat_map(unpack).collect();
    let chunk = |(indices, codes): (&[usize], &[u8])| {
        let mut sent: Vec<(usize, u8)> = indices.iter().copied().zip(codes.iter().copied()).collect();
        sent.sort_unstable();
        let values = sent.iter().map(|&(index, code)| (index, table[usize::from(code)])).collect();
        PlainChunk { elements: 4096, scale: 0, codes: sent.into_iter().map(|(_, code)| code).collect(), values }
    };
    let chunks = indices.chunks(64).zip(codes.chunks(64)).map(chunk).collect();
    Payload::parse(&spec::payload_bytes(format, &HEADER, &[chunks]), format).unwrap()
}

/// Four peers, the last of which is clipped, merged over those that sent each coordinate.
#[test]
fn four_peers_are_merged() {
    let golden = Golden::open("aggregate_4peers_128x128");
    let format = golden.format("theta_in");
    let payloads: Vec<Payload> = (0..4).map(|number| peer(&golden, number, &format)).collect();
    for (number, payload) in payloads.iter().enumerate() {
        assert_close(&payload.to_dense()[0], &golden.f32s(&format!("peer{number}.dense")), relative, "dense");
    }
    let ours: Vec<f32> = payloads.iter().map(|payload| norms(payload)[0] as f32).collect();
    assert_close(&ours, &golden.f32s("block_norms"), relative, "norm");
    let step = |theta: Vec<f32>, lr: f32| {
        let mut state = State::new(format.layout().clone(), 7, vec![theta]).unwrap();
        let entries: Vec<Weighted<'_>> = payloads.iter().map(|payload| Weighted { payload, weight: 1.0 }).collect();
        transition(&mut state, &entries, &Rule { lr, over: MergeOver::Senders, resparsify: None }).unwrap();
        state.tensors()[0].clone()
    };
    let aggregated = step(vec![0.0; 128 * 128], -1.0);
    assert_close(&aggregated, &golden.f32s("aggregated"), |_| 1e-9, "aggregated");
    assert_close(&step(golden.f32s("theta_in"), 0.4), &golden.f32s("theta_out"), |_| 1e-9, "theta_out");
}

/// The vectors are there to fail: our own quantizer does not reproduce them.
#[test]
fn another_quantizer_differs() {
    let golden = Golden::open("gauss_128x128");
    let format = uniform(&[&[128, 128]], codec(64));
    let payload = round(&golden, 0, &format, &mut ErrorFeedback::zeros(format.layout()));
    assert_ne!(payload.to_dense()[0], golden.f32s("r0.decoded"));
}
