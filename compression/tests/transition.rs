//! The transition against a plain restatement of its definition, and the roots that pin it.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{BETA, HEADER, Random, SHAPES, bits, codec, codecs, formats, hex, layout, mix, payload, uniform};
use compression::{
    Codec, ErrorFeedback, Format, Group, Header, Indices, Layout, MergeOver, Payload, Quantizer, Rule, State, TransitionError, Weighted,
    encode, norms, transition, try_step,
};

const BOTH: [MergeOver; 2] = [MergeOver::Senders, MergeOver::All];

fn state(layout: &Arc<Layout>, seed: u64) -> State {
    State::new(layout.clone(), 7, Random(seed).tensors(layout)).unwrap()
}

fn rule(lr: f32, over: MergeOver) -> Rule {
    Rule { lr, over, resparsify: None }
}

fn weighted<'a>(payloads: &'a [Payload], weights: &[f32]) -> Vec<Weighted<'a>> {
    payloads.iter().zip(weights).map(|(payload, &weight)| Weighted { payload, weight }).collect()
}

/// The merged update coordinate by coordinate over dense tensors, zero where nobody sent; norms with one thread in f64.
fn merged(payloads: &[Weighted<'_>], over: MergeOver) -> Vec<Vec<f32>> {
    let dense: Vec<_> = payloads.iter().map(|w| w.payload.to_dense()).collect();
    let all = payloads.iter().fold(0.0f32, |sum, w| sum + w.weight);
    let merge_tensor = |t: usize| -> Vec<f32> {
        let norms: Vec<f64> = payloads.iter().map(|w| norms(w.payload)[t]).collect();
        let mut sorted = norms.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[(sorted.len() - 1) / 2];
        let clip: Vec<f32> = norms.iter().map(|&n| if n == 0.0 { 1.0 } else { (median / n).min(1.0) as f32 }).collect();
        let merge_one = |i: usize| {
            let (mut sum, mut weights) = (0.0f32, 0.0f32);
            for r in (0..payloads.len()).filter(|&r| dense[r][t][i] != 0.0) {
                let factor = payloads[r].weight * clip[r];
                let term = factor * dense[r][t][i];
                sum += term;
                weights += payloads[r].weight;
            }
            if weights == 0.0 { 0.0 } else { sum / if over == MergeOver::All { all } else { weights } }
        };
        (0..dense[0][t].len()).map(merge_one).collect()
    };
    (0..dense[0].len()).map(merge_tensor).collect()
}

/// `θ - lr * merged`; zeros change nothing.
fn descended(theta: &[Vec<f32>], merged: &[Vec<f32>], lr: f32) -> Vec<Vec<f32>> {
    let step = |(&theta, &merged): (&f32, &f32)| {
        let step = lr * merged;
        theta - step
    };
    theta.iter().zip(merged).map(|(theta, merged)| theta.iter().zip(merged).map(step).collect()).collect()
}

/// The state after a record, which must be what the definition says.
fn check_step(mut state: State, payloads: &[Weighted<'_>], rule: &Rule) -> State {
    let expected = descended(state.tensors(), &merged(payloads, rule.over), rule.lr);
    transition(&mut state, payloads, rule).unwrap();
    assert_eq!(state.round, 8);
    assert!(bits(state.tensors()) == bits(&expected), "{:?} {rule:?}", payloads[0].payload.format().codecs());
    state
}

#[test]
fn the_transition_is_its_definition() {
    for format in formats(300) {
        let payloads: Vec<Payload> = (0..4).map(|seed| payload(&format, seed)).collect();
        for over in BOTH {
            for (count, weights) in [(1, [2.0, 0.0, 0.0, 0.0]), (3, [1.0; 4]), (4, [0.3, 1.7, 1.0, 5.0])] {
                check_step(state(format.layout(), 9), &weighted(&payloads[..count], &weights), &rule(0.65, over));
            }
        }
    }
}

#[test]
fn payloads_of_several_sections_are_merged() {
    let format = uniform(&[&[10], &[64 * 1100, 1], &[2, 64 * 1030]], Codec::top_k(500, Quantizer::Sign2, Indices::Golomb));
    let payloads: Vec<Payload> = (0..3).map(|seed| payload(&format, seed)).collect();
    check_step(state(format.layout(), 9), &weighted(&payloads, &[1.0; 3]), &rule(0.65, MergeOver::Senders));
}

#[test]
fn weights_may_be_large_small_and_subnormal() {
    let format = mix();
    let payloads: Vec<Payload> = (0..3).map(|seed| payload(&format, seed)).collect();
    for weights in [[1e30, 1.0, 1e-30], [1e-40, 3e-40, 1e-45], [f32::MIN_POSITIVE; 3]] {
        for over in BOTH {
            check_step(state(format.layout(), 9), &weighted(&payloads, &weights), &rule(0.65, over));
        }
    }
}

#[test]
fn subnormal_steps_are_kept() {
    let format = mix();
    let payloads = [payload(&format, 1), payload(&format, 2)];
    let zeros = format.layout().tensors().iter().map(|t| vec![0.0; t.len()]).collect();
    let zeros = State::new(format.layout().clone(), 7, zeros).unwrap();
    let stepped = check_step(zeros, &weighted(&payloads, &[1.0; 2]), &rule(1e-39, MergeOver::All));
    for theta in stepped.tensors() {
        assert!(theta.iter().any(|v| v.is_subnormal()) && !theta.iter().any(|v| v.is_normal()));
    }
}

/// Where an element might overflow the next tensors are computed beside the old ones, to the same result if none does.
#[test]
fn large_states_take_the_same_step() {
    let format = mix();
    let payloads = [payload(&format, 1), payload(&format, 2)];
    let mut large = state(format.layout(), 9);
    large.tensors_mut()[3][7] = 3e38;
    for over in BOTH {
        check_step(large.clone(), &weighted(&payloads, &[1.0, 2.0]), &rule(0.65, over));
        check_step(state(format.layout(), 9), &weighted(&payloads, &[1.0, 2.0]), &rule(1e36, over));
    }
}

#[test]
fn norms_are_those_of_the_dense_tensors() {
    for format in formats(300).into_iter().chain([uniform(&[&[64 * 1100, 1]], codec(64))]) {
        let payload = payload(&format, 5);
        for (norm, dense) in norms(&payload).into_iter().zip(payload.to_dense()) {
            let expected = dense.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            assert!((norm - expected).abs() <= 1e-12 * expected && norm > 0.0, "{norm} {expected}");
        }
    }
}

#[test]
fn a_large_payload_is_clipped_to_the_lower_median() {
    for codec in codecs(64) {
        let format = uniform(&[&[64, 64]], codec);
        let gradient = Random(1).tensors(format.layout());
        let scaled = |factor: f32| {
            let gradient = vec![gradient[0].iter().map(|v| v * factor).collect::<Vec<_>>()];
            let bytes = encode(&format, &HEADER, &mut ErrorFeedback::zeros(format.layout()), &gradient, BETA).unwrap();
            Payload::parse(&bytes, &format).unwrap()
        };
        let (honest, loud) = ([scaled(1.0), scaled(1.0), scaled(1.0)], [scaled(1.0), scaled(1.0), scaled(8.0)]);
        let roots = [&honest, &loud].map(|payloads| {
            let mut state = state(format.layout(), 2);
            transition(&mut state, &weighted(payloads, &[1.0; 3]), &rule(1.0, MergeOver::Senders)).unwrap();
            state.root()
        });
        assert_eq!(roots[0], roots[1], "{codec}: 8 is a power of two, so that clipping by 1/8 undoes it exactly");
    }
}

#[test]
fn no_payloads_only_advance_the_round() {
    let layout = layout(&SHAPES);
    let mut next = state(&layout, 3);
    transition(&mut next, &[], &rule(1.0, MergeOver::Senders)).unwrap();
    assert_eq!((next.round, next.tensors()), (8, state(&layout, 3).tensors()));
}

#[test]
fn try_step_takes_one_payload_alone() {
    for format in formats(64) {
        let (state, payload) = (state(format.layout(), 3), payload(&format, 4));
        let stepped = try_step(&state, &payload, 0.2).unwrap();
        assert_eq!(bits(&stepped), bits(&descended(state.tensors(), &payload.to_dense(), 0.2)));
        assert_ne!(stepped, state.tensors());
    }
}

#[test]
fn what_is_sent_is_what_try_step_changes() {
    for format in formats(64) {
        let (state, payload) = (state(format.layout(), 3), payload(&format, 4));
        let mut theta = state.tensors().to_vec();
        for (tensor, sent) in theta.iter_mut().zip(payload.sent()) {
            assert!(!sent.is_empty() && sent.is_sorted_by(|(left, _), (right, _)| left < right) && sent.iter().all(|&(_, v)| v != 0.0));
            sent.into_iter().for_each(|(element, value)| tensor[element] -= 0.2 * value);
        }
        assert_eq!(bits(&theta), bits(&try_step(&state, &payload, 0.2).unwrap()));
    }
}

/// A merge that is compressed again: what is lost of it stays in the state's residual, as if the merge were a pseudo-gradient.
#[test]
fn a_lossy_merge_leaves_a_residual() {
    let again = Codec::group_max(Group::G16, Quantizer::Sign1);
    let signs = |codec: &Codec| codec.quantizer != Quantizer::Reference;
    for format in codecs(300).into_iter().filter(signs).map(|codec| uniform(&SHAPES, codec)) {
        let lossy = Format::uniform(format.layout().clone(), again).unwrap();
        let payloads = [payload(&format, 1), payload(&format, 2)];
        let mut state = state(&Arc::new(format.layout().with_residual().unwrap()), 5);
        let (theta, residual) = (state.model().to_vec(), state.tensors()[SHAPES.len()..].to_vec());
        let payloads = weighted(&payloads, &[1.0, 2.0]);
        let mut feedback = ErrorFeedback::from_tensors(format.layout(), residual).unwrap();
        let bytes = encode(&lossy, &HEADER, &mut feedback, &merged(&payloads, MergeOver::All), 1.0).unwrap();
        let sent = Payload::parse(&bytes, &Arc::new(lossy)).unwrap().to_dense();
        transition(&mut state, &payloads, &Rule { lr: 0.65, over: MergeOver::All, resparsify: Some(again) }).unwrap();
        assert!(bits(state.model()) == bits(&descended(&theta, &sent, 0.65)), "{:?}", format.codecs()[0]);
        assert_eq!(&state.tensors()[SHAPES.len()..], feedback.tensors());
    }
}

#[test]
fn rules_that_do_not_fit_the_state_are_refused() {
    let format = mix();
    let payloads = [payload(&format, 1)];
    let refuse = |layout: &Arc<Layout>, resparsify| {
        let mut state = state(layout, 3);
        let before = state.root();
        let rule = Rule { resparsify, ..rule(0.5, MergeOver::All) };
        let refusal = transition(&mut state, &weighted(&payloads, &[1.0]), &rule).unwrap_err();
        assert_eq!(state.root(), before);
        refusal
    };
    let residual = Arc::new(format.layout().with_residual().unwrap());
    assert_eq!(refuse(format.layout(), Some(codec(64))), TransitionError::Residual);
    assert_eq!(refuse(&residual, None), TransitionError::Residual);
    for bad in [codec(0), Codec::top_k(64, Quantizer::Reference, Indices::Packed12)] {
        assert_eq!(refuse(&residual, Some(bad)), TransitionError::Resparsify(bad));
    }
}

#[test]
fn refusals_leave_the_state() {
    let format = mix();
    let payloads = [payload(&format, 1), payload(&format, 2)];
    let before = state(format.layout(), 3);
    let refuse = |payloads: &[Weighted<'_>], lr: f32, mut state: State| {
        let before = state.root();
        let refusal = transition(&mut state, payloads, &rule(lr, MergeOver::All)).unwrap_err();
        assert_eq!((state.root(), state.round), (before, 7));
        refusal
    };
    for weight in [0.0, -1.0, f32::INFINITY] {
        let refusal = refuse(&weighted(&payloads, &[1.0, weight]), 1.0, before.clone());
        assert_eq!(refusal, TransitionError::Weight { payload: 1, weight });
    }
    assert!(matches!(refuse(&weighted(&payloads, &[f32::NAN]), 1.0, before.clone()), TransitionError::Weight { payload: 0, .. }));
    let other = [payload(&uniform(&[&[10]], codec(64)), 1)];
    assert_eq!(refuse(&weighted(&other, &[1.0]), 1.0, before.clone()), TransitionError::Layout(0));
    assert_eq!(try_step(&before, &other[0], 1.0).unwrap_err(), TransitionError::Layout(0));
    let coded = [payload(&format, 1), payload(&uniform(&SHAPES, codec(64)), 1)];
    assert_eq!(refuse(&weighted(&coded, &[1.0; 2]), 1.0, before.clone()), TransitionError::Format(1));
    for lr in [f32::NAN, f32::INFINITY] {
        assert_eq!(refuse(&weighted(&payloads, &[1.0, 1.0]), lr, before.clone()), TransitionError::NonFinite("t0".into()));
    }
    // Weights whose sums overflow make means that are no numbers.
    let heavy = refuse(&weighted(&payloads, &[3e38, 3e38]), 1.0, before.clone());
    assert!(matches!(heavy, TransitionError::NonFinite(_)), "{heavy}");
    let mut huge = before.clone();
    huge.tensors_mut()[2][4999] = f32::INFINITY;
    assert_eq!(refuse(&weighted(&payloads, &[1.0, 1.0]), 1.0, huge), TransitionError::NonFinite("t2".into()));
}

/// Two rounds of three miners, error feedback carried over; the second round's tiny learning rate makes subnormal steps.
fn golden(format: &Arc<Format>) -> (String, String) {
    let layout = format.layout();
    let mut state = state(layout, 11);
    state.tensors_mut().iter_mut().flat_map(|theta| theta.iter_mut().step_by(3)).for_each(|v| *v = 0.0);
    let mut feedback = vec![ErrorFeedback::zeros(layout); 3];
    let mut digests = blake3::Hasher::new();
    for (round, lr, over) in [(7, 0.65, MergeOver::Senders), (8, 1e-38, MergeOver::All)] {
        let base_root = state.root();
        let mut payloads = Vec::new();
        for miner in 0..3u8 {
            let header = Header { run: [1; 32], round, hotkey: [miner; 32], base_root };
            let mut gradient = Random(u64::from(miner) + 100 * round).tensors(layout);
            if miner == 2 {
                gradient[1].fill(0.0);
            }
            let bytes = encode(format, &header, &mut feedback[usize::from(miner)], &gradient, BETA).unwrap();
            payloads.push(Payload::parse(&bytes, format).unwrap());
            digests.update(&payloads[usize::from(miner)].digest());
        }
        transition(&mut state, &weighted(&payloads, &[1.0, 0.7, 2.5]), &rule(lr, over)).unwrap();
    }
    assert!(state.tensors().iter().flat_map(|theta| theta.iter().step_by(3)).any(|v| v.is_subnormal()));
    (hex(&state.root()), hex(digests.finalize().as_bytes()))
}

/// Root and digests of each format of the golden rounds.
const GOLDEN: [(&str, &str); 3] = [
    (
        "4c95b9b71909856e2f35e5acbacbb045ce64cd08088132e1e3aeb094dd77cb0d",
        "54627f2df0026999acbfa8a78d4eb92a69e2dd2a167c8ee90338e8cfe1989eac",
    ),
    (
        "0f15cd1dfd3688ff50eed96218b0337b49122cb2898e1054aa094b5cbfd5ed93",
        "91f3409e332859237a2e0201402a5297aa161ff8669a5c8f5192db5e017b78f3",
    ),
    (
        "48507963af602de1b333b37354023f1428b4ec66bac5c80202ba64dd2ec774ee",
        "9ab4226c1e9ef9dc0646ffc3e2dcae72d140b539b1973a3754474f1f6229a593",
    ),
];

#[test]
fn the_golden_roots_are_reached_with_one_thread_and_with_eight() {
    let formats = [uniform(&SHAPES, codec(200)), uniform(&SHAPES, Codec::top_k(200, Quantizer::Sign1, Indices::Golomb)), mix()];
    for threads in [1, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let reached = formats.each_ref().map(|format| pool.install(|| golden(format)));
        assert_eq!(reached.each_ref().map(|(root, digests)| (&root[..], &digests[..])), GOLDEN, "{threads} threads");
    }
}
