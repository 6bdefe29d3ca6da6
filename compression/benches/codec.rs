//! Encode, decode and transition throughput, counted in bytes of f32 pseudo-gradient, and the ratio to f32.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use compression::{
    Codec, ErrorFeedback, Header, Indices, Layout, MergeOver, Payload, Quantizer, Rule, State, TensorSpec, Weighted, encode, payload_len,
    transition,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SHAPE: [usize; 2] = [2048, 2048];
const HEADER: Header = Header { run: [0; 32], round: 0, hotkey: [0; 32], base_root: [0; 32] };

/// Sums of four uniform integers: nearly Gaussian, the same everywhere.
fn pseudo_gradient(elements: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bytes = (state >> 32) as u32;
        (bytes.to_le_bytes().iter().map(|&b| i32::from(b)).sum::<i32>() - 510) as f32 / 65536.0 + (state >> 40 & 0xFFF) as f32 * 1e-9
    };
    (0..elements).map(|_| next()).collect()
}

fn bench(c: &mut Criterion) {
    let layout = Arc::new(Layout::new(vec![TensorSpec::new("w", &SHAPE)]).unwrap());
    let codec = Codec { k: 64, quantizer: Quantizer::Sign2, indices: Indices::Packed12 };
    let dense_bytes = 4 * layout.parameters() as u64;
    println!("ratio to f32: {:.1}", dense_bytes as f64 / payload_len(&layout, &codec) as f64);
    let gradient = vec![pseudo_gradient(layout.parameters())];
    let mut feedback = ErrorFeedback::zeros(&layout);
    let bytes = encode(&codec, &layout, &HEADER, &mut feedback, &gradient, 0.95).unwrap();
    let payload = Payload::parse(bytes.clone(), &layout, &codec).unwrap();

    let mut group = c.benchmark_group("codec");
    group.sample_size(10).throughput(Throughput::Bytes(dense_bytes));
    group.bench_function("encode", |b| b.iter(|| encode(&codec, &layout, &HEADER, &mut feedback, &gradient, 0.95).unwrap()));
    group.bench_function("parse", |b| b.iter(|| Payload::parse(bytes.clone(), &layout, &codec).unwrap()));
    group.bench_function("to_dense", |b| b.iter(|| black_box(&payload).to_dense()));
    let mut state = State::new(layout.clone(), 0, gradient.clone()).unwrap();
    let record = [Weighted { payload: &payload, weight: 1.0 }; 20];
    let rule = Rule { lr: 0.65, over: MergeOver::Senders };
    group.bench_function("transition of 20", |b| b.iter(|| transition(&mut state, &record, &rule).unwrap()));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
