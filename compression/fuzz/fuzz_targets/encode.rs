//! Any bits as pseudo-gradient and error feedback.
#![no_main]

use std::sync::LazyLock;

use compression::{EncodeError, ErrorFeedback, encode};
use compression_fuzz::{Case, HEADER, checked, choose, mixed_cases, on_one_thread};
use libfuzzer_sys::fuzz_target;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(mixed_cases);

/// Tensors of the bits of `data`, over and over, raised by `step` each time.
fn tensors(case: &Case, data: &[u8], step: u8) -> Vec<Vec<f32>> {
    let (words, _) = data.as_chunks();
    let mut words = (0u32..).flat_map(|lap| words.iter().map(move |&word| u32::from_le_bytes(word).wrapping_add(lap * u32::from(step))));
    let mut next = || f32::from_bits(words.next().unwrap_or_default());
    case.format.layout().tensors().iter().map(|spec| (0..spec.len()).map(|_| next()).collect()).collect()
}

fuzz_target!(init: on_one_thread(), |data: &[u8]| {
    let (case, data) = choose(&CASES, data);
    let Some((&[beta, step], data)) = data.split_first_chunk() else { return };
    if data.len() < 8 {
        return;
    }
    let beta = f32::from(beta) / 128.0;
    let (feedback, gradient) = data.split_at(data.len() / 2);
    let (before, gradient) = (tensors(case, feedback, step), tensors(case, gradient, step));
    let mut feedback = ErrorFeedback::from_tensors(case.format.layout(), before.clone()).expect("as long as the layout says");
    let sums: Vec<Vec<f32>> = before.iter().zip(&gradient).map(|(e, g)| e.iter().zip(g).map(|(e, g)| beta * e + g).collect()).collect();
    let bits = |tensors: &[Vec<f32>]| tensors.iter().flatten().map(|value| value.to_bits()).collect::<Vec<_>>();
    let bytes = match encode(&case.format, &HEADER, &mut feedback, &gradient, beta) {
        Ok(bytes) => bytes,
        Err(error) => {
            assert!(matches!(error, EncodeError::NonFinite(_)) && !sums.iter().flatten().all(|sum| sum.is_finite()));
            assert!(bits(feedback.tensors()) == bits(&before), "a refusal changes nothing");
            return;
        }
    };
    assert!(sums.iter().flatten().all(|sum| sum.is_finite()));
    let sent = checked(&bytes, &case.format).expect("the encoder's payloads are accepted").to_dense();
    // Where nothing was sent, the sum minus zero is the sum, bit by bit.
    let left: Vec<Vec<f32>> = sums.iter().zip(&sent).map(|(a, v)| a.iter().zip(v).map(|(a, v)| a - v).collect()).collect();
    assert!(bits(feedback.tensors()) == bits(&left), "error feedback is what was not sent");
});
