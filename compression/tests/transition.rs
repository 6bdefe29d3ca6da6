//! The transition against a plain restatement of its definition, and the roots that pin it.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{HEADER, Random, codec, hex, layout, payload};
use compression::{
    Codec, ErrorFeedback, Layout, MergeOver, Payload, Rule, State, TransitionError, Weighted, encode, norms, transition, try_step,
};

const SHAPES: [&[usize]; 4] = [&[70, 65], &[10], &[5000], &[3, 20, 30]];

fn state(layout: &Arc<Layout>, seed: u64) -> State {
    State::new(layout.clone(), 7, Random(seed).tensors(layout)).unwrap()
}

fn weighted<'a>(payloads: &'a [Payload], weights: &[f32]) -> Vec<Weighted<'a>> {
    payloads.iter().zip(weights).map(|(payload, &weight)| Weighted { payload, weight }).collect()
}

/// The definition, coordinate by coordinate over dense tensors; norms with one thread in f64.
fn by_definition(state: &State, payloads: &[Weighted<'_>], rule: &Rule) -> Vec<Vec<f32>> {
    let dense: Vec<_> = payloads.iter().map(|w| w.payload.to_dense()).collect();
    let all = payloads.iter().fold(0.0f32, |sum, w| sum + w.weight);
    let step_tensor = |(t, theta): (usize, &Vec<f32>)| -> Vec<f32> {
        let norms: Vec<f64> = payloads.iter().map(|w| norms(w.payload)[t]).collect();
        let mut sorted = norms.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[(sorted.len() - 1) / 2];
        let clip: Vec<f32> = norms.iter().map(|&n| if n == 0.0 { 1.0 } else { (median / n).min(1.0) as f32 }).collect();
        let step_one = |(i, &theta): (usize, &f32)| {
            let (mut sum, mut over) = (0.0f32, 0.0f32);
            for r in (0..payloads.len()).filter(|&r| dense[r][t][i] != 0.0) {
                let factor = payloads[r].weight * clip[r];
                let term = factor * dense[r][t][i];
                sum += term;
                over += payloads[r].weight;
            }
            if over == 0.0 {
                return theta;
            }
            let mean = sum / if rule.over == MergeOver::All { all } else { over };
            let step = rule.lr * mean;
            theta - step
        };
        theta.iter().enumerate().map(step_one).collect()
    };
    state.tensors().iter().enumerate().map(step_tensor).collect()
}

#[test]
fn the_transition_is_its_definition() {
    let (layout, codec) = (layout(&SHAPES), codec(300));
    let payloads: Vec<Payload> = (0..4).map(|seed| payload(&layout, &codec, seed)).collect();
    for over in [MergeOver::Senders, MergeOver::All] {
        for (count, weights) in [(1, [2.0, 0.0, 0.0, 0.0]), (3, [1.0; 4]), (4, [0.3, 1.7, 1.0, 5.0])] {
            let (mut state, rule) = (state(&layout, 9), Rule { lr: 0.65, over });
            let chosen = weighted(&payloads[..count], &weights);
            let expected = by_definition(&state, &chosen, &rule);
            transition(&mut state, &chosen, &rule).unwrap();
            assert_eq!(state.round, 8);
            let bits = |t: &[Vec<f32>]| t.concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(state.tensors()), bits(&expected), "{over:?} {count}");
        }
    }
}

#[test]
fn norms_are_those_of_the_dense_tensors() {
    let layout = layout(&SHAPES);
    let payload = payload(&layout, &codec(300), 5);
    for (norm, dense) in norms(&payload).into_iter().zip(payload.to_dense()) {
        let expected = dense.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        assert!((norm - expected).abs() <= 1e-12 * expected, "{norm} {expected}");
    }
}

#[test]
fn a_large_payload_is_clipped_to_the_lower_median() {
    let (layout, codec) = (layout(&[&[64, 64]]), codec(64));
    let gradient = Random(1).tensors(&layout);
    let scaled = |factor: f32| {
        let gradient = vec![gradient[0].iter().map(|v| v * factor).collect::<Vec<_>>()];
        let bytes = encode(&codec, &layout, &HEADER, &mut ErrorFeedback::zeros(&layout), &gradient, 0.95).unwrap();
        Payload::parse(bytes, &layout, &codec).unwrap()
    };
    let (honest, loud) = ([scaled(1.0), scaled(1.0), scaled(1.0)], [scaled(1.0), scaled(1.0), scaled(8.0)]);
    let rule = Rule { lr: 1.0, over: MergeOver::Senders };
    let roots = [&honest, &loud].map(|payloads| {
        let mut state = state(&layout, 2);
        transition(&mut state, &weighted(payloads, &[1.0; 3]), &rule).unwrap();
        state.root()
    });
    assert_eq!(roots[0], roots[1], "8 is a power of two, so that clipping by 1/8 undoes it exactly");
}

#[test]
fn no_payloads_only_advance_the_round() {
    let layout = layout(&SHAPES);
    let mut next = state(&layout, 3);
    transition(&mut next, &[], &Rule { lr: 1.0, over: MergeOver::Senders }).unwrap();
    assert_eq!((next.round, next.tensors()), (8, state(&layout, 3).tensors()));
}

#[test]
fn try_step_takes_one_payload_alone() {
    let layout = layout(&SHAPES);
    let (state, payload) = (state(&layout, 3), payload(&layout, &codec(64), 4));
    let stepped = try_step(&state, &payload, 0.2).unwrap();
    let dense = payload.to_dense();
    for ((stepped, theta), dense) in stepped.iter().zip(state.tensors()).zip(&dense) {
        assert!(stepped.iter().zip(theta).zip(dense).all(|((&s, &t), &d)| s == t - 0.2 * d));
    }
    assert_ne!(stepped, state.tensors());
}

#[test]
fn refusals_leave_the_state() {
    let layout = layout(&SHAPES);
    let payloads = [payload(&layout, &codec(64), 1), payload(&layout, &codec(64), 2)];
    let other = [payload(&common::layout(&[&[10]]), &codec(64), 1)];
    let before = state(&layout, 3);
    let refuse = |payloads: &[Weighted<'_>], lr: f32, mut state: State| {
        let before = state.root();
        let refusal = transition(&mut state, payloads, &Rule { lr, over: MergeOver::All }).unwrap_err();
        assert_eq!(state.root(), before);
        refusal
    };
    for weight in [0.0, -1.0, f32::INFINITY] {
        let refusal = refuse(&weighted(&payloads, &[1.0, weight]), 1.0, before.clone());
        assert_eq!(refusal, TransitionError::Weight { payload: 1, weight });
    }
    assert!(matches!(refuse(&weighted(&payloads, &[f32::NAN]), 1.0, before.clone()), TransitionError::Weight { payload: 0, .. }));
    assert_eq!(refuse(&weighted(&other, &[1.0]), 1.0, before.clone()), TransitionError::Layout(0));
    assert_eq!(try_step(&before, &other[0], 1.0).unwrap_err(), TransitionError::Layout(0));
    assert_eq!(refuse(&weighted(&payloads, &[1.0, 1.0]), f32::NAN, before.clone()), TransitionError::NonFinite("t0".into()));
    let mut huge = before.clone();
    huge.tensors_mut()[2][4999] = f32::INFINITY;
    assert_eq!(refuse(&weighted(&payloads, &[1.0, 1.0]), 1.0, huge), TransitionError::NonFinite("t2".into()));
}

/// Two rounds of three miners, error feedback carried over; the second round's tiny learning rate makes subnormal steps.
fn golden() -> (String, String) {
    let (layout, codec): (_, Codec) = (layout(&SHAPES), codec(200));
    let mut state = state(&layout, 11);
    state.tensors_mut()[2].iter_mut().step_by(3).for_each(|v| *v = 0.0);
    let mut feedback = vec![ErrorFeedback::zeros(&layout); 3];
    let mut digests = blake3::Hasher::new();
    for (round, lr, over) in [(7, 0.65, MergeOver::Senders), (8, 1e-37, MergeOver::All)] {
        let base_root = state.root();
        let mut payloads = Vec::new();
        for miner in 0..3u8 {
            let header = compression::Header { run: [1; 32], round, hotkey: [miner; 32], base_root };
            let mut gradient = Random(u64::from(miner) + 100 * round).tensors(&layout);
            if miner == 2 {
                gradient[1].fill(0.0);
            }
            let bytes = encode(&codec, &layout, &header, &mut feedback[usize::from(miner)], &gradient, 0.95).unwrap();
            payloads.push(Payload::parse(bytes, &layout, &codec).unwrap());
            digests.update(&payloads[usize::from(miner)].digest());
        }
        transition(&mut state, &weighted(&payloads, &[1.0, 0.7, 2.5]), &Rule { lr, over }).unwrap();
    }
    assert!(state.tensors()[2].iter().step_by(3).any(|v| v.is_subnormal()));
    (hex(&state.root()), hex(digests.finalize().as_bytes()))
}

#[test]
fn the_golden_root_is_reached_with_one_thread_and_with_eight() {
    for threads in [1, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (root, digests) = pool.install(golden);
        assert_eq!(root, "2242a89f65692a98e932759208ca1d84b90a59ada463fde95297dcf198430e88", "{threads} threads");
        assert_eq!(digests, "40e8fe35aa40ff526553a87f58aa20b1832710c15e4d74eb3222cf9cac99f057", "{threads} threads");
    }
}
