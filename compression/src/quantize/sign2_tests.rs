use super::*;
use crate::floor::encode::{Scratch, top_k};
use crate::test_data::Random;

#[test]
fn magnitudes_are_finite_exact_and_capped() {
    assert_eq!(MAX_SCALE, 250);
    assert_eq!(SIGN2[0], [0.0; 4]);
    for (code, &[low, high, ..]) in SIGN2.iter().enumerate().take(251).skip(1) {
        let (p, o) = ((code - 1) % 10, (code as i32 - 1) / 10 - 20);
        assert_eq!(f64::from(low), f64::from(OCTAVE[p].0) / 64.0 * 2f64.powi(o));
        assert_eq!(f64::from(high), f64::from(OCTAVE[p].1) / 64.0 * 2f64.powi(o));
        assert!(0.0 <= low && low < high && high < 49.0);
    }
}

/// The rule of the specification, without the shortcut.
fn by_definition(selected: &[f32]) -> u8 {
    let largest = selected.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    let top = (f64::from(largest).log2().floor() as i32).min(4);
    if largest < 2f32.powi(-20) {
        return 0;
    }
    let u = |v: f32| ((f64::from(v.abs()) * 2f64.powi(11 - top)).trunc() as i64).min(4095);
    let error = |code: i32| -> i64 {
        let (low, high) = match code {
            0 => (0, 0),
            c => {
                let (low, high) = OCTAVE[(c as usize - 1) % 10];
                let to_unit = |m: u16| (f64::from(m) / 64.0 * 2f64.powi((c - 1) / 10 - 20 + 11 - top)) as i64;
                (to_unit(low), to_unit(high))
            }
        };
        selected.iter().map(|&v| (u(v) - low).abs().min((u(v) - high).abs()).pow(2)).sum()
    };
    let searched = (1..=250).filter(|c| (top - 5..=top).contains(&((c - 1) / 10 - 20)));
    std::iter::once(0).chain(searched).min_by_key(|&c| (error(c), c)).unwrap_or(0) as u8
}

#[test]
fn the_scale_is_the_one_of_the_specification() {
    let mut random = Random::new(3);
    let mut fixed = Vec::new();
    for round in 0..600 {
        let spread = 2f64.powi(round % 60 - 45);
        let count = if round % 50 == 0 { 4096 } else { 1 + (round as usize * 7) % 300 };
        let values: Vec<f32> = (0..count).map(|_| (random.student_t(3) * spread) as f32).collect();
        for floor in Floor::available() {
            assert_eq!(choose_scale(floor, &values, &mut fixed), by_definition(&values), "round {round}, {floor:?}");
        }
    }
}

#[test]
fn extremes_have_a_scale() {
    let mut fixed = Vec::new();
    assert_eq!(choose_scale(Floor::best(), &[0.0; 64], &mut fixed), 0);
    assert_eq!(choose_scale(Floor::best(), &[f32::from_bits(1); 64], &mut fixed), 0);
    assert_eq!(choose_scale(Floor::best(), &[f32::MAX; 64], &mut fixed), by_definition(&[f32::MAX; 64]));
    assert!(choose_scale(Floor::best(), &[f32::MAX; 64], &mut fixed) > 240);
    let bottom = choose_scale(Floor::best(), &[2f32.powi(-20); 64], &mut fixed);
    assert_eq!(SIGN2[usize::from(bottom)][usize::from(code(bottom, 2f32.powi(-20)))], 2f32.powi(-20));
}

#[test]
fn codes_pick_the_nearer_magnitude_and_no_negative_zero() {
    for scale in [1u8, 2, 7, 125, 250] {
        let [low, high, ..] = SIGN2[usize::from(scale)];
        assert_eq!(code(scale, low), 0);
        assert_eq!(code(scale, high * 3.0), 1);
        assert_eq!(code(scale, -high), 3);
        assert_eq!(code(scale, (low + high) / 2.0), 1);
        assert_eq!(code(scale, -low * 1.001), if low == 0.0 { 0 } else { 2 });
        assert_eq!(code(scale, -0.0), 0);
    }
    assert_eq!([code(0, 1.0), code(0, -1.0)], [0, 0]);
}

/// Squared error on the selected 64 of 4096 over their energy, chunk scales log-normal with s = 0.3.
fn relative_error(seed: u64, mut draw: impl FnMut(&mut Random) -> f64) -> f64 {
    let mut random = Random::new(seed);
    let (mut scratch, mut picked, mut fixed) = (Scratch::default(), Vec::new(), Vec::new());
    let (mut error, mut energy) = (0.0, 0.0);
    for _ in 0..150 {
        let chunk_scale = (0.3 * random.gaussian()).exp();
        let values: Vec<f32> = (0..4096).map(|_| (draw(&mut random) * chunk_scale) as f32).collect();
        top_k(Floor::best(), &values, 64, &mut scratch, &mut picked);
        let selected: Vec<f32> = picked.iter().map(|&i| values[usize::from(i)]).collect();
        let scale = choose_scale(Floor::best(), &selected, &mut fixed);
        for v in selected {
            let decoded = SIGN2[usize::from(scale)][usize::from(code(scale, v))];
            error += f64::from(v - decoded).powi(2);
            energy += f64::from(v).powi(2);
        }
    }
    error / energy
}

#[test]
fn the_error_on_selected_values_is_small() {
    let figures = [
        relative_error(1, Random::gaussian),
        relative_error(2, Random::laplace),
        relative_error(3, |r| r.student_t(5)),
        relative_error(4, |r| r.student_t(3)),
    ];
    println!("gaussian, laplace, t5, t3: {figures:.4?}");
    for (figure, limit) in figures.into_iter().zip([0.005, 0.015, 0.04, 0.14]) {
        assert!(figure <= limit, "{figures:?}");
    }
}
