//! Inner steps.
#![allow(clippy::unwrap_used)]

mod common;

use common::{architecture, batch, inner, model};
use model::{InnerOptimizer, ModelError};
use protocol::{Architecture, Inner};

fn largest_difference(left: &[Vec<f32>], right: &[Vec<f32>]) -> f32 {
    left.iter().flatten().zip(right.iter().flatten()).map(|(l, r)| (l - r).abs()).fold(0.0, f32::max)
}

#[test]
fn training_lowers_the_loss() {
    for tied in [true, false] {
        let shape = Architecture { kv_heads: if tied { 2 } else { 4 }, ..architecture(tied) };
        let (mut model, batch) = (model(&shape), batch(&shape, 4, 17));
        let mut optimizer = InnerOptimizer::new(&model, &inner(4, 4)).unwrap();
        let losses: Vec<f64> = (0..30).map(|_| optimizer.step(&mut model, &batch).unwrap().loss).collect();
        assert!((losses[0] - 20f64.ln()).abs() < 0.2 && losses[29] < 1.0, "{losses:?}");
        let after: f64 = model.sequence_losses(&batch).unwrap().iter().sum();
        assert!(after / 64.0 < losses[29]);
    }
}

#[test]
fn a_report_tells_loss_norm_and_learning_rate() {
    let mut model = model(&architecture(true));
    let batch = batch(model.architecture(), 2, 9);
    let mut optimizer = InnerOptimizer::new(&model, &inner(2, 2)).unwrap();
    let expected = model.sequence_losses(&batch).unwrap().iter().sum::<f64>() / 16.0;
    let report = optimizer.step(&mut model, &batch).unwrap();
    assert!((report.loss - expected).abs() < 1e-5);
    assert!(report.grad_norm > 0.0);
    assert_eq!(report.lr, inner(2, 2).lr_at(0));
    assert_eq!(optimizer.step(&mut model, &batch).unwrap().lr, inner(2, 2).lr_at(1));
    assert_eq!(optimizer.steps_taken(), 2);
}

/// With β₁ = 0 and a huge ε, AdamW's step is θ − (lr/ε)·g.
fn gradient_descent() -> Inner {
    Inner { beta1: 0.0, eps: 1e6, lr: 1e6, warmup: 0, weight_decay: 0.0, ..inner(3, 3) }
}

#[test]
fn gradients_are_clipped_by_their_norm() {
    let shape = Architecture { init_std: 0.3, ..architecture(true) };
    for (clip, clipped) in [(0.5, true), (1e9, false)] {
        let mut model = model(&shape);
        let rule = Inner { clip, ..gradient_descent() };
        let start = model.parameters().unwrap();
        let mut optimizer = InnerOptimizer::new(&model, &rule).unwrap();
        let report = optimizer.step(&mut model, &batch(&shape, 3, 17)).unwrap();
        let end = model.parameters().unwrap();
        let moved = start.iter().flatten().zip(end.iter().flatten()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        let expected = if clipped { clip } else { report.grad_norm };
        assert!(report.grad_norm > 1.0 && (moved / expected - 1.0).abs() < 1e-3, "{moved} {expected}");
    }
}

/// The gradient along a direction against a difference of losses: the hand-written product's backward pass is right.
#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    for kv_heads in [1, 2, 4] {
        let shape = Architecture { kv_heads, init_std: 0.3, ..architecture(true) };
        let batch = batch(&shape, 3, 17);
        let plain = Inner { clip: 1e9, ..gradient_descent() };
        let mut model = model(&shape);
        let mean = |model: &model::Llama| model.sequence_losses(&batch).unwrap().iter().sum::<f64>() / 48.0;
        let start = model.parameters().unwrap();
        let report = InnerOptimizer::new(&model, &plain).unwrap().step(&mut model, &batch).unwrap();
        let stepped = model.parameters().unwrap();
        let along = |share: f32| -> Vec<Vec<f32>> {
            let mix = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| a + share * (b - a)).collect();
            start.iter().zip(&stepped).map(mix).collect()
        };
        let share = (0.002 / report.grad_norm) as f32;
        model.load(&along(share)).unwrap();
        let down = mean(&model);
        model.load(&along(-share)).unwrap();
        let slope = (mean(&model) - down) / f64::from(2.0 * share);
        assert!((slope / report.grad_norm.powi(2) - 1.0).abs() < 1e-2, "{slope} {}", report.grad_norm.powi(2));
    }
}

#[test]
fn micro_batches_add_up() {
    let shape = architecture(true);
    let batch = batch(&shape, 5, 17);
    let run = |micro_batch| {
        let mut model = model(&shape);
        let mut optimizer = InnerOptimizer::new(&model, &inner(5, micro_batch)).unwrap();
        let reports: Vec<_> = (0..3).map(|_| optimizer.step(&mut model, &batch).unwrap()).collect();
        (reports, optimizer.export().unwrap().first)
    };
    let (whole, parts) = (run(5), run(2));
    for (left, right) in whole.0.iter().zip(&parts.0) {
        assert!((left.loss - right.loss).abs() < 1e-5 && (left.grad_norm - right.grad_norm).abs() < 1e-5);
    }
    assert!(largest_difference(&whole.1, &parts.1) < 1e-5);
}

#[test]
fn an_imported_state_continues_bit_for_bit() {
    let shape = architecture(false);
    let batch = batch(&shape, 4, 17);
    let mut straight = model(&shape);
    let mut optimizer = InnerOptimizer::new(&straight, &inner(4, 2)).unwrap();
    (0..3).for_each(|_| _ = optimizer.step(&mut straight, &batch).unwrap());
    let (state, parameters) = (optimizer.export().unwrap(), straight.parameters().unwrap());

    let mut resumed = model(&shape);
    resumed.load(&parameters).unwrap();
    let mut second = InnerOptimizer::new(&resumed, &inner(4, 2)).unwrap();
    second.import(&state).unwrap();
    for _ in 0..3 {
        assert_eq!(optimizer.step(&mut straight, &batch).unwrap(), second.step(&mut resumed, &batch).unwrap());
    }
    assert_eq!(straight.parameters().unwrap(), resumed.parameters().unwrap());
    assert_eq!(optimizer.export().unwrap(), second.export().unwrap());
}

#[test]
fn a_non_finite_step_changes_nothing() {
    let mut model = model(&architecture(true));
    let batch = batch(model.architecture(), 2, 9);
    let mut optimizer = InnerOptimizer::new(&model, &inner(2, 1)).unwrap();
    optimizer.step(&mut model, &batch).unwrap();
    let state = optimizer.export().unwrap();
    let good = model.parameters().unwrap();
    let mut bad = good.clone();
    bad[2][3] = f32::INFINITY;
    model.load(&bad).unwrap();
    let refused = optimizer.step(&mut model, &batch).unwrap_err();
    assert!(matches!(refused, ModelError::NonFinite { what: "loss", step: 1, .. }), "{refused}");
    assert_eq!(model.parameters().unwrap(), bad);
    assert_eq!(optimizer.export().unwrap(), state);
    model.load(&good).unwrap();
    optimizer.step(&mut model, &batch).unwrap();
}

#[test]
fn refuses_another_architecture() {
    let (mut tied, untied) = (model(&architecture(true)), model(&architecture(false)));
    let mut optimizer = InnerOptimizer::new(&untied, &inner(1, 1)).unwrap();
    let batch = batch(tied.architecture(), 1, 9);
    assert!(matches!(optimizer.step(&mut tied, &batch), Err(ModelError::Shape { .. })));
    let state = InnerOptimizer::new(&tied, &inner(1, 1)).unwrap().export().unwrap();
    assert!(matches!(optimizer.import(&state), Err(ModelError::Shape { .. })));
    assert_eq!(optimizer.steps_taken(), 0);
}
