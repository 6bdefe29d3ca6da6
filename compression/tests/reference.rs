//! The `reference` quantizer against vectors of the deployed reference compressor, see `golden/README.md`.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

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

fn assert_close(ours: &[f32], theirs: &[f32], tolerance: f32, what: &str) {
    assert_eq!(ours.len(), theirs.len());
    for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!((ours - theirs).abs() <= tolerance, "{what} {i}: {ours} instead of {theirs}");
    }
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
        let feedback_after = golden.f32s(&of("ef_out"));
        let tolerance = 1e-6 * largest(&feedback_after);
        assert_close(&values, &looked_up, tolerance, &of("lookup"));
        assert_close(&payload.to_dense()[0], &golden.f32s(&of("decoded")), tolerance, &of("decoded"));
        assert_close(&feedback.tensors()[0], &feedback_after, tolerance, &of("ef_out"));
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

/// Indices and codes that the reference made of a peer's tensor, by chunk and ascending.
fn peer_codes(golden: &Golden, peer: &str) -> Vec<Vec<(usize, u8)>> {
    let unpack = |three: &[u8; 3]| {
        let [low, middle, high] = three.map(usize::from);
        [low | (middle & 15) << 8, middle >> 4 | high << 4]
    };
    let packed = golden.bytes(&format!("{peer}.idx_packed"));
    let coded: Vec<(usize, u8)> = packed.as_chunks().0.iter().flat_map(unpack).zip(golden.bytes(&format!("{peer}.qval"))).collect();
    let mut chunks: Vec<_> = coded.chunks(64).map(<[_]>::to_vec).collect();
    chunks.iter_mut().for_each(|chunk| chunk.sort_unstable());
    chunks
}

/// Four peers, the last of which is clipped, merged over those that sent each coordinate.
#[test]
fn four_peers_are_merged() {
    let golden = Golden::open("aggregate_4peers_128x128");
    let format = golden.format("theta_in");
    let peer = |number: usize| {
        let peer = format!("peer{number}");
        let (mut feedback, dense) = (ErrorFeedback::zeros(format.layout()), golden.f32s(&format!("{peer}.dense")));
        let payload = Payload::parse(&encode(&format, &HEADER, &mut feedback, &[dense], BETA).unwrap(), &format).unwrap();
        let table = golden.table(&peer);
        for (number, theirs) in peer_codes(&golden, &peer).iter().enumerate() {
            let coded = payload.chunk(0, number);
            assert!(coded.values().iter().map(|&(index, _)| index).zip(coded.codes()).eq(theirs.iter().copied()));
            for ((_, value), &(_, code)) in coded.values().into_iter().zip(theirs) {
                assert!((value - table[usize::from(code)]).abs() <= 1e-6 * value.abs());
            }
        }
        payload
    };
    let payloads: Vec<Payload> = (0..4).map(peer).collect();
    let theirs = golden.f32s("block_norms");
    let ours: Vec<f32> = payloads.iter().map(|payload| norms(payload)[0] as f32).collect();
    assert_close(&ours, &theirs, 1e-6 * theirs.iter().copied().fold(f32::MAX, f32::min), "norm");
    let step = |theta: Vec<f32>, lr: f32| {
        let mut state = State::new(format.layout().clone(), 7, vec![theta]).unwrap();
        let entries: Vec<Weighted<'_>> = payloads.iter().map(|payload| Weighted { payload, weight: 1.0 }).collect();
        transition(&mut state, &entries, &Rule { lr, over: MergeOver::Senders, resparsify: None }).unwrap();
        state.tensors()[0].clone()
    };
    // The reference divides by the norm plus 1e-8, we by the norm.
    let (theirs, ours) = (merged(&payloads, 1e-8), merged(&payloads, 0.0));
    let theta = golden.f32s("theta_in");
    let descended = |merged: &[f32]| -> Vec<f32> { theta.iter().zip(merged).map(|(theta, merged)| theta - 0.4 * merged).collect() };
    assert_close(&theirs, &golden.f32s("aggregated"), 1e-9, "aggregated");
    assert_close(&step(vec![0.0; theta.len()], -1.0), &ours, 1e-9, "our aggregate");
    assert_neighbours(&descended(&theirs), &golden.f32s("theta_out"));
    assert_neighbours(&step(theta.clone(), 0.4), &descended(&ours));
    assert_neighbours(&step(theta.clone(), 0.4), &golden.f32s("theta_out"));
}

/// Within 1e-9 where f32 is that fine; elsewhere, since a thousandth of the spacing can tip the rounding, at most one number apart.
fn assert_neighbours(ours: &[f32], theirs: &[f32]) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        let is_close = (ours - theirs).abs() <= 1e-9 || ours.to_bits().abs_diff(theirs.to_bits()) <= 1;
        assert!(is_close, "{ours} instead of {theirs}");
    }
    let equal = ours.iter().zip(theirs).filter(|(ours, theirs)| ours == theirs).count();
    assert!(equal * 100 >= ours.len() * 98, "only {equal} of {} are equal", ours.len());
}

/// The mean over senders of what four payloads say, clipped to the second smallest norm over norm plus `epsilon`.
fn merged(payloads: &[Payload], epsilon: f64) -> Vec<f32> {
    let norms: Vec<f64> = payloads.iter().map(|payload| norms(payload)[0]).collect();
    let mut sorted = norms.clone();
    sorted.sort_by(f64::total_cmp);
    let clipped = |(payload, norm): (&Payload, &f64)| -> Vec<f64> {
        let factor = (sorted[1] / (norm + epsilon)).min(1.0);
        payload.to_dense()[0].iter().map(|&value| factor * f64::from(value)).collect()
    };
    let clipped: Vec<Vec<f64>> = payloads.iter().zip(&norms).map(clipped).collect();
    let mean = |i: usize| {
        let sent: Vec<f64> = clipped.iter().map(|values| values[i]).filter(|&value| value != 0.0).collect();
        if sent.is_empty() { 0.0 } else { (sent.iter().sum::<f64>() / sent.len() as f64) as f32 }
    };
    (0..clipped[0].len()).map(mean).collect()
}

/// The vectors are there to fail: our own quantizer does not reproduce them.
#[test]
fn another_quantizer_differs() {
    let golden = Golden::open("gauss_128x128");
    let format = uniform(&[&[128, 128]], codec(64));
    let payload = round(&golden, 0, &format, &mut ErrorFeedback::zeros(format.layout()));
    assert_ne!(payload.to_dense()[0], golden.f32s("r0.decoded"));
}
