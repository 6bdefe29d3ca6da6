//! Several ranks on the CPU against one.
#![allow(clippy::unwrap_used)]

mod common;

use common::{architecture, batch, inner, model, parameters};
use model::{Activations, Device, Devices, InnerOptimizer, ModelError, OptimizerState, Ranks, StepReport, Whole, set_threads};
use protocol::Architecture;

const STEPS: u64 = 8;

fn cpus(ranks: usize) -> Devices {
    vec!["cpu"; ranks].join(",").parse().unwrap()
}

fn ranks(shape: &Architecture, ranks: usize, micro_batch: u32, activations: Activations) -> Ranks {
    set_threads(1);
    let mut ranks = Ranks::new(shape, &inner(12, micro_batch), &cpus(ranks), activations).unwrap();
    ranks.load(&parameters(shape, 1)).unwrap();
    ranks
}

/// Everything that comes of some steps.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    reports: Vec<StepReport>,
    parameters: Vec<Vec<f32>>,
    state: OptimizerState,
}

fn train(ranks: &mut Ranks, shape: &Architecture, steps: std::ops::Range<u64>) -> Outcome {
    let batch = batch(shape, 12, 17);
    let reports = steps.map(|step| ranks.step_at(&batch, step).unwrap()).collect();
    Outcome { reports, parameters: ranks.parameters().unwrap(), state: ranks.export().unwrap() }
}

/// The largest relative difference of losses and norms, and the largest difference of parameters.
fn distance(left: &Outcome, right: &Outcome) -> (f64, f32) {
    let relative = |a: f64, b: f64| (a / b - 1.0).abs();
    let pairs = left.reports.iter().zip(&right.reports);
    let reports = pairs.map(|(l, r)| relative(l.loss, r.loss).max(relative(l.grad_norm, r.grad_norm))).fold(0.0, f64::max);
    let pairs = left.parameters.iter().flatten().zip(right.parameters.iter().flatten());
    (reports, pairs.map(|(l, r)| (l - r).abs()).fold(0.0, f32::max))
}

/// Ranks add the same f32 sums in another order. Losses and norms are sums of hundreds of rounded terms: a few units in the last place, 6e-8 each.
/// AdamW divides a gradient by its own size, so that a rounding error of a small gradient moves a parameter by as large a part of a step of 1e-2:
/// 1e-5 is a thousandth of one step, after eight.
#[test]
fn several_ranks_train_as_one() {
    for tied in [true, false] {
        let shape = Architecture { kv_heads: if tied { 1 } else { 2 }, ..architecture(tied) };
        for micro_batch in [12, 2] {
            let one = train(&mut ranks(&shape, 1, micro_batch, Activations::Kept), &shape, 0..STEPS);
            for number in [2, 3, 4, 6] {
                let several = train(&mut ranks(&shape, number, micro_batch, Activations::Kept), &shape, 0..STEPS);
                let (reports, parameters) = distance(&several, &one);
                assert!(reports < 1e-6 && parameters < 1e-5, "{number} ranks: {reports:e} {parameters:e}");
                assert_eq!(several.state.step, STEPS);
            }
        }
    }
}

#[test]
fn one_rank_is_the_model_and_its_optimizer() {
    let shape = architecture(true);
    let (mut model, batch) = (model(&shape), batch(&shape, 12, 17));
    let mut optimizer = InnerOptimizer::new(&model, &inner(12, 5)).unwrap();
    let reports = (0..STEPS).map(|_| optimizer.step(&mut model, &batch).unwrap()).collect();
    let expected = Outcome { reports, parameters: model.parameters().unwrap(), state: optimizer.export().unwrap() };
    assert_eq!(train(&mut ranks(&shape, 1, 5, Activations::Kept), &shape, 0..STEPS), expected);
}

#[test]
fn what_is_computed_again_has_the_same_bits() {
    for (tied, number) in [(true, 1), (false, 1), (true, 2), (false, 3)] {
        let shape = architecture(tied);
        let outcome = |activations| train(&mut ranks(&shape, number, 2, activations), &shape, 0..3);
        assert_eq!(outcome(Activations::Kept), outcome(Activations::Recomputed));
    }
}

#[test]
fn the_same_ranks_give_the_same_bits_again() {
    let shape = architecture(true);
    let outcome = || train(&mut ranks(&shape, 3, 2, Activations::Recomputed), &shape, 0..3);
    assert_eq!(outcome(), outcome());
}

#[test]
fn another_number_of_ranks_goes_on() {
    let shape = architecture(true);
    let straight = train(&mut ranks(&shape, 2, 3, Activations::Kept), &shape, 0..STEPS);
    let half = train(&mut ranks(&shape, 2, 3, Activations::Kept), &shape, 0..STEPS / 2);
    for number in [1, 2, 3] {
        let mut resumed = ranks(&shape, number, 3, Activations::Recomputed);
        resumed.load(&half.parameters).unwrap();
        resumed.import(&half.state).unwrap();
        assert_eq!(resumed.export().unwrap(), half.state);
        assert_eq!(resumed.parameters().unwrap(), half.parameters);
        let rest = train(&mut resumed, &shape, STEPS / 2..STEPS);
        let straight = Outcome { reports: straight.reports[STEPS as usize / 2..].to_vec(), ..straight.clone() };
        let (reports, parameters) = distance(&rest, &straight);
        assert!(reports < 1e-6 && parameters < 1e-5, "{number} ranks: {reports:e} {parameters:e}");
        if number == 2 {
            assert_eq!(rest, straight);
        }
    }
}

/// Token 19 is in the last rank's sequences only, so that only its loss is NaN.
#[test]
fn what_is_not_finite_on_one_rank_is_refused_on_all() {
    let shape = Architecture { tied_embeddings: false, ..architecture(false) };
    let mut ranks = ranks(&shape, 3, 2, Activations::Recomputed);
    let good = batch(&shape, 12, 17);
    ranks.step_at(&good, 0).unwrap();
    let (parameters, state) = (ranks.parameters().unwrap(), ranks.export().unwrap());
    let mut bad = parameters.clone();
    bad[0][19 * shape.hidden_size] = f32::INFINITY;
    ranks.load(&bad).unwrap();
    let mut sequences = vec![vec![1; 17]; 12];
    assert!(ranks.step_at(&sequences, 1).is_ok());
    ranks.load(&bad).unwrap();
    ranks.import(&state).unwrap();
    sequences[11][3] = 19;
    let refused = ranks.step_at(&sequences, 1).unwrap_err();
    assert!(matches!(refused, ModelError::NonFinite { what: "loss", step: 1, .. }), "{refused}");
    assert_eq!(ranks.parameters().unwrap(), bad);
    assert_eq!(ranks.export().unwrap(), state);
    ranks.load(&parameters).unwrap();
    ranks.step_at(&good, 1).unwrap();
}

#[test]
fn refuses_what_does_not_divide_or_does_not_fit() {
    let shape = architecture(true);
    set_threads(1);
    let uneven = Ranks::new(&shape, &inner(10, 5), &cpus(4), Activations::Kept).err().unwrap();
    assert_eq!(uneven, ModelError::Uneven { sequences: 10, ranks: 4 });
    let mut ranks = ranks(&shape, 3, 2, Activations::Kept);
    let before = (ranks.parameters().unwrap(), ranks.export().unwrap());
    assert_eq!(ranks.step_at(&batch(&shape, 4, 17), 0).unwrap_err(), ModelError::Uneven { sequences: 4, ranks: 3 });
    assert_eq!(ranks.step_at(&[], 0).unwrap_err(), ModelError::Empty);
    let mut wrong = batch(&shape, 12, 17);
    wrong[7][3] = 20;
    assert_eq!(ranks.step_at(&wrong, 0).unwrap_err(), ModelError::Token { token: 20, vocab_size: 20 });
    let other = parameters(&architecture(false), 1);
    assert!(matches!(ranks.load(&other), Err(ModelError::Shape { .. })));
    let state = OptimizerState { step: 5, first: other.clone(), second: other };
    assert!(matches!(ranks.import(&state), Err(ModelError::Shape { .. })));
    assert_eq!((ranks.parameters().unwrap(), ranks.export().unwrap()), before);
    ranks.step_at(&batch(&shape, 12, 17), 0).unwrap();
}

#[test]
fn devices_are_named_together() {
    let named = |text: &str| text.parse::<Devices>();
    assert_eq!(named("cpu").unwrap(), Devices::from(Device::Cpu));
    assert_eq!(named("0,1").unwrap().as_slice(), [Device::Cuda(0), Device::Cuda(1)]);
    assert_eq!(named("cuda:2,cuda").unwrap().to_string(), "cuda:2,cuda:0");
    assert_eq!(named("cpu,cpu").unwrap().to_string(), "cpu,cpu");
    for text in ["", ",", "0,", "gpu", "-1"] {
        assert!(matches!(named(text), Err(ModelError::UnknownDevice(_))), "{text}");
    }
    for text in ["0,0", "cuda,0", "cpu,0"] {
        assert!(matches!(named(text), Err(ModelError::Devices { .. })), "{text}");
    }
    assert!(matches!(
        Ranks::new(&architecture(true), &inner(2, 1), &named("4095,4096").unwrap(), Activations::Kept),
        Err(ModelError::Unavailable { .. })
    ));
}

/// Every rank sees every tensor once, whole and with the bits that come out.
#[test]
fn a_visit_shows_the_parameters_to_every_rank() {
    for (tied, number) in [(true, 1), (false, 1), (true, 3), (false, 4)] {
        let shape = architecture(tied);
        let mut ranks = ranks(&shape, number, 3, Activations::Kept);
        ranks.step_at(&batch(&shape, 12, 17), 0).unwrap();
        let expected = ranks.parameters().unwrap();
        let mut seen: Vec<Vec<Option<Vec<f32>>>> = vec![vec![None; expected.len()]; number];
        let read = |seen: &mut Vec<Option<Vec<f32>>>, tensors: &[Whole]| {
            for whole in tensors {
                // SAFETY: the tensor is in this process's memory while it is shown, and nobody writes to it.
                let elements = unsafe { std::slice::from_raw_parts(whole.address as *const f32, whole.len) };
                assert!(seen[whole.tensor].replace(elements.to_vec()).is_none(), "tensor {} comes twice", whole.tensor);
            }
        };
        ranks.visit(&mut seen, read).unwrap();
        for seen in seen {
            assert!(seen.into_iter().map(Option::unwrap).eq(expected.iter().cloned()), "{number} ranks");
        }
    }
}
