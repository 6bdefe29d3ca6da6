//! The network: what it computes, and what it refuses.
#![allow(clippy::unwrap_used)]

mod common;

use common::{architecture, batch, model};
use model::{Device, Llama, ModelError};
use protocol::Architecture;

#[test]
fn untrained_loss_is_the_logarithm_of_the_vocabulary() {
    for tied in [true, false] {
        let model = model(&Architecture { init_std: 0.01, ..architecture(tied) });
        for loss in model.sequence_losses(&batch(model.architecture(), 3, 17)).unwrap() {
            assert!((loss / 16.0 - 20f64.ln()).abs() < 0.1, "{loss}");
        }
    }
}

#[test]
fn parameters_come_back_in_canonical_order() {
    let shape = architecture(false);
    let model = model(&shape);
    let parameters = common::parameters(&shape, 1);
    assert_eq!(model.parameters().unwrap(), parameters);
    assert_eq!(model.parameter_count(), parameters.iter().map(Vec::len).sum::<usize>());
}

/// The same network in plain f64 loops, written from the formulas of Hugging Face's modeling_llama.
#[test]
fn logits_equal_a_plain_reference() {
    for (tied_embeddings, kv_heads) in [(true, 1), (false, 2), (false, 4)] {
        let shape = Architecture { kv_heads, init_std: 0.3, ..architecture(tied_embeddings) };
        let tokens = &batch(&shape, 4, 13)[3];
        let expected = reference::logits(&shape, &common::parameters(&shape, 1), tokens);
        let logits = model(&shape).logits(tokens).unwrap();
        for (got, want) in logits.iter().zip(&expected) {
            assert!((f64::from(*got) - want).abs() < 1e-4 * want.abs().max(1.0), "{got} {want}");
        }
        assert_eq!(logits.len(), expected.len());
    }
}

#[test]
fn losses_follow_from_logits() {
    let model = model(&Architecture { init_std: 0.3, ..architecture(true) });
    let batch = batch(model.architecture(), 3, 12);
    let losses = model.sequence_losses(&batch).unwrap();
    for (sequence, loss) in batch.iter().zip(losses) {
        let logits = model.logits(&sequence[..11]).unwrap();
        let nll =
            |(row, &target): (&[f32], &u32)| row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln() - f64::from(row[target as usize]);
        let expected: f64 = logits.chunks(20).zip(&sequence[1..]).map(nll).sum();
        assert!((loss - expected).abs() < 1e-4, "{loss} {expected}");
    }
}

#[test]
fn later_tokens_do_not_change_earlier_logits() {
    let model = model(&Architecture { init_std: 0.3, ..architecture(true) });
    let (left, mut right) = (vec![3; 10], vec![3; 10]);
    right[7] = 4;
    let (left, right) = (model.logits(&left).unwrap(), model.logits(&right).unwrap());
    assert_eq!(left[..7 * 20], right[..7 * 20]);
    assert_ne!(left[7 * 20..], right[7 * 20..]);
}

#[test]
fn generation_follows_its_seed() {
    let model = model(&Architecture { init_std: 0.3, ..architecture(true) });
    let sample = |seed| model.generate(&[1, 2], 40, 1.0, seed, None).unwrap();
    assert_eq!(sample(5), sample(5));
    assert_ne!(sample(5), sample(6));
    assert_eq!(sample(5).len(), 40);
    let greedy = model.generate(&[1, 2], 40, 0.0, 1, None).unwrap();
    assert_eq!(greedy, model.generate(&[1, 2], 40, 0.0, 2, None).unwrap());
    let stop = greedy[5];
    let first = greedy.iter().position(|&token| token == stop).unwrap();
    assert_eq!(model.generate(&[1, 2], 40, 0.0, 1, Some(stop)).unwrap(), greedy[..first]);
}

#[test]
fn refuses_what_does_not_fit() {
    let mut model = model(&architecture(true));
    let losses = |batch: &[Vec<u32>]| model.sequence_losses(batch).unwrap_err();
    assert_eq!(losses(&[]), ModelError::Empty);
    assert_eq!(losses(&[vec![1; 5], vec![1, 20, 3, 4, 5]]), ModelError::Token { token: 20, vocab_size: 20 });
    assert_eq!(losses(&[vec![u32::MAX; 5]]), ModelError::Token { token: u32::MAX, vocab_size: 20 });
    assert_eq!(losses(&[vec![1; 5], vec![1; 6]]), ModelError::Ragged { index: 1, length: 6, first: 5 });
    assert_eq!(losses(&[vec![1]]), ModelError::Length { index: 0, length: 1, least: 2, most: 17 });
    assert_eq!(losses(&[vec![1; 18]]), ModelError::Length { index: 0, length: 18, least: 2, most: 17 });
    assert_eq!(model.logits(&[]).unwrap_err(), ModelError::Length { index: 0, length: 0, least: 1, most: 16 });
    assert_eq!(model.generate(&[], 1, 0.0, 0, None).unwrap_err(), ModelError::Empty);
    assert_eq!(model.generate(&[20], 1, 0.0, 0, None).unwrap_err(), ModelError::Token { token: 20, vocab_size: 20 });
    assert_eq!(model.generate(&[1], 1, -1.0, 0, None).unwrap_err(), ModelError::Temperature(-1.0));

    let before = model.parameters().unwrap();
    let mut short = before.clone();
    short[1].pop();
    let refused = ModelError::Shape { what: "model.layers.0.input_layernorm.weight".into(), found: 23, expected: 24 };
    assert_eq!(model.load(&short).unwrap_err(), refused);
    let refused = ModelError::Shape { what: "number of tensors".into(), found: 1, expected: 20 };
    assert_eq!(model.load(&before[..1]).unwrap_err(), refused);
    assert_eq!(model.parameters().unwrap(), before);
    let odd = Architecture { head_dim: 5, ..architecture(true) };
    assert!(matches!(Llama::new(&odd, Device::Cpu), Err(ModelError::Architecture(_))));
}

#[test]
fn devices_have_names() {
    for (text, device) in [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))] {
        assert_eq!(text.parse::<Device>().unwrap(), device);
        assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
    }
    for text in ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:+1", "cuda:1:1", "cuda:99999999999999999999"] {
        assert_eq!(text.parse::<Device>().unwrap_err(), ModelError::UnknownDevice(text.into()));
    }
    assert!(Device::Cpu.available());
    assert!(!Device::Cpu.device_name().is_empty());
    assert!(matches!(Llama::new(&architecture(true), Device::Cuda(4096)), Err(ModelError::Unavailable { .. })));
}

mod reference {
    use protocol::Architecture;

    fn linear(x: &[f64], weight: &[f32]) -> Vec<f64> {
        weight.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
    }

    fn norm(x: &[f64], weight: &[f32], eps: f64) -> Vec<f64> {
        let scale = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt().recip();
        x.iter().zip(weight).map(|(x, w)| x * scale * f64::from(*w)).collect()
    }

    /// x·cos + rotate_half(x)·sin, per head.
    fn rotate(x: &[f64], position: usize, shape: &Architecture) -> Vec<f64> {
        let half = shape.head_dim / 2;
        let head = |head: &[f64]| -> Vec<f64> {
            let element = |i: usize| {
                let angle = position as f64 * shape.rope_theta.powf(-2.0 * (i % half) as f64 / shape.head_dim as f64);
                let other = if i < half { -head[i + half] } else { head[i - half] };
                head[i] * angle.cos() + other * angle.sin()
            };
            (0..shape.head_dim).map(element).collect()
        };
        x.chunks(shape.head_dim).flat_map(head).collect()
    }

    fn attend(query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>], shape: &Architecture) -> Vec<f64> {
        let width = shape.head_dim;
        let one = |(head, query): (usize, &[f64])| {
            let of = head / (shape.heads / shape.kv_heads) * width..;
            let score = |key: &Vec<f64>| query.iter().zip(&key[of.clone()]).map(|(q, k)| q * k).sum::<f64>() / (width as f64).sqrt();
            let weights: Vec<f64> = keys.iter().map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            (0..width).map(move |i| weights.iter().zip(values).map(|(w, v)| w / total * v[of.start + i]).sum()).collect::<Vec<f64>>()
        };
        query.chunks(width).enumerate().flat_map(one).collect()
    }

    pub fn logits(shape: &Architecture, parameters: &[Vec<f32>], tokens: &[u32]) -> Vec<f64> {
        let h = shape.hidden_size;
        let add = |x: &mut Vec<f64>, y: Vec<f64>| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        let row = |&token: &u32| parameters[0][token as usize * h..][..h].iter().map(|x| f64::from(*x)).collect();
        let mut states: Vec<Vec<f64>> = tokens.iter().map(row).collect();
        for layer in parameters[1..].chunks_exact(9).take(shape.layers) {
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (position, x) in states.iter_mut().enumerate() {
                let a = norm(x, &layer[0], shape.norm_eps);
                keys.push(rotate(&linear(&a, &layer[2]), position, shape));
                values.push(linear(&a, &layer[3]));
                let attended = attend(&rotate(&linear(&a, &layer[1]), position, shape), &keys, &values, shape);
                add(x, linear(&attended, &layer[4]));
                let a = norm(x, &layer[5], shape.norm_eps);
                let gate = linear(&a, &layer[6]).into_iter().zip(linear(&a, &layer[7])).map(|(g, u)| g / (1.0 + (-g).exp()) * u);
                add(x, linear(&gate.collect::<Vec<_>>(), &layer[8]));
            }
        }
        let (last, head) =
            (&parameters[1 + 9 * shape.layers], if shape.tied_embeddings { &parameters[0] } else { parameters.last().unwrap() });
        states.iter().flat_map(|x| linear(&norm(x, last, shape.norm_eps), head)).collect()
    }
}
