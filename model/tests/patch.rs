//! Steps tried out on the only copy of the parameters.
#![allow(clippy::unwrap_used)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::{architecture, batch, model, noise};
use compression::{Codec, ErrorFeedback, Format, Group, Header, Indices, Payload, Quantizer, State, encode, try_step};
use model::{Llama, ModelError};
use proptest::prelude::*;

type Changes = Vec<Vec<(usize, f32)>>;

fn bits(tensors: &[Vec<f32>]) -> Vec<Vec<u32>> {
    tensors.iter().map(|tensor| tensor.iter().map(|x| x.to_bits()).collect()).collect()
}

/// What [`compression::try_step`] does to an element, two roundings.
fn stepped(mut theta: Vec<Vec<f32>>, step: f32, changes: &Changes) -> Vec<Vec<f32>> {
    for (tensor, changes) in theta.iter_mut().zip(changes) {
        changes.iter().for_each(|&(element, change)| tensor[element] -= step * change);
    }
    theta
}

fn share_of(shape: &protocol::Architecture, seed: u64, shares: &[f32]) -> Changes {
    let mut noise = noise(seed);
    let tensors = shape.tensors().into_iter().zip(shares.iter().cycle());
    let picked = |((spec, _), share): ((compression::TensorSpec, _), &f32)| {
        let chosen: Vec<usize> = (0..spec.len()).filter(|_| noise().abs() < *share).collect();
        chosen.into_iter().map(|element| (element, noise())).collect()
    };
    tensors.map(picked).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Shares of 0 and 1 stand for untouched and for whole tensors.
    #[test]
    fn a_step_is_taken_and_undone_bit_for_bit(
        seed in any::<u64>(),
        tied in any::<bool>(),
        step in prop_oneof![Just(0.65f32), -2.0f32..2.0, Just(1e30f32)],
        shares in prop::collection::vec(prop_oneof![Just(0.0f32), Just(1.0f32), 0.0f32..0.2], 1..7),
    ) {
        let shape = architecture(tied);
        let mut model = model(&shape);
        let mut theta = common::parameters(&shape, seed);
        (theta[0][1], theta[0][2], theta[2][3]) = (-0.0, f32::from_bits(1), f32::from_bits(0x7FC0_1234));
        model.load(&theta).unwrap();
        let changes = share_of(&shape, seed ^ 1, &shares);
        let inside = model.stepped(step, &changes, Llama::parameters).unwrap();
        prop_assert!(bits(&inside) == bits(&stepped(theta.clone(), step, &changes)));
        prop_assert!(bits(&model.parameters().unwrap()) == bits(&theta));
    }
}

#[test]
fn failing_work_leaves_nothing_behind() {
    let shape = architecture(true);
    let mut model = model(&shape);
    let before = model.parameters().unwrap();
    let changes = share_of(&shape, 5, &[0.3]);
    let failed = model.stepped(1.0, &changes, |model| {
        assert_ne!(model.parameters().unwrap(), before);
        model.sequence_losses(&[])
    });
    assert_eq!(failed.unwrap_err(), ModelError::Empty);
    assert_eq!(bits(&model.parameters().unwrap()), bits(&before));
    let panicking = AssertUnwindSafe(|| model.stepped(1.0, &changes, |_| -> Result<(), ModelError> { panic!("a bug in the work") }));
    assert!(catch_unwind(panicking).is_err());
    assert_eq!(bits(&model.parameters().unwrap()), bits(&before));
}

#[test]
fn refuses_changes_that_do_not_fit() {
    let shape = architecture(false);
    let mut model = model(&shape);
    let before = model.parameters().unwrap();
    let none: Changes = vec![vec![]; before.len()];
    let mut refusal =
        |changes: &Changes| model.stepped(1.0, changes, |_| -> Result<(), ModelError> { panic!("nothing may run") }).unwrap_err();
    let with = |tensor: usize, elements: &[usize]| {
        let mut changes = none.clone();
        changes[0] = vec![(0, 1.0)];
        changes[tensor] = elements.iter().map(|&element| (element, 1.0)).collect();
        changes
    };
    let count = |found| ModelError::Shape { what: "number of tensors".into(), found, expected: before.len() };
    assert_eq!(refusal(&none[1..].to_vec()), count(before.len() - 1));
    assert_eq!(refusal(&[none.clone(), vec![vec![]]].concat()), count(before.len() + 1));
    let tensor = || String::from("model.layers.0.self_attn.k_proj.weight");
    assert_eq!(refusal(&with(3, &[7, 288])), ModelError::Element { tensor: tensor(), element: 288, len: 288 });
    assert_eq!(refusal(&with(3, &[usize::MAX])), ModelError::Element { tensor: tensor(), element: usize::MAX, len: 288 });
    assert_eq!(refusal(&with(3, &[7, 7])), ModelError::Order { tensor: tensor(), element: 7, previous: 7 });
    assert_eq!(refusal(&with(3, &[7, 9, 8])), ModelError::Order { tensor: tensor(), element: 8, previous: 9 });
    assert_eq!(bits(&model.parameters().unwrap()), bits(&before));
}

/// A payload measured in place has the losses that it has on a copy of its own.
#[test]
fn losses_are_those_of_a_model_that_was_loaded() {
    let codecs = [Codec::top_k(64, Quantizer::Sign2, Indices::Golomb), Codec::group_max(Group::G32, Quantizer::Sign1)];
    for (tied, codec) in [true, false].into_iter().zip(codecs) {
        let shape = architecture(tied);
        let layout = Arc::new(shape.layout().unwrap());
        let (theta, gradient) = (common::parameters(&shape, 1), common::parameters(&shape, 2));
        let format = Arc::new(Format::uniform(layout.clone(), codec).unwrap());
        let header = Header { run: [0; 32], round: 0, hotkey: [0; 32], base_root: [0; 32] };
        let bytes = encode(&format, &header, &mut ErrorFeedback::zeros(&layout), &gradient, 1.0).unwrap();
        let payload = Payload::parse(&bytes, &format).unwrap();
        let batch = batch(&shape, 5, 17);

        let (mut patched, mut loaded) = (model(&shape), model(&shape));
        let before = patched.sequence_losses(&batch).unwrap();
        let inside = patched.stepped(0.3, &payload.sent(), |model| Ok((model.sequence_losses(&batch)?, model.parameters()?))).unwrap();
        let tried = try_step(&State::new(layout, 0, theta).unwrap(), &payload, 0.3).unwrap();
        loaded.load(&tried).unwrap();
        assert_eq!(bits(&inside.1), bits(&tried));
        assert_eq!(inside.0, loaded.sequence_losses(&batch).unwrap());
        assert_ne!(inside.0, before);
        assert_eq!(patched.sequence_losses(&batch).unwrap(), before);
    }
}
