use proptest::prelude::*;

use super::*;
use crate::test_data::Random;

fn by_sorting(values: &[f32], k: usize) -> Vec<u16> {
    let mut order: Vec<u16> = (0..values.len() as u16).collect();
    order.sort_by(|&a, &b| values[usize::from(b)].abs().total_cmp(&values[usize::from(a)].abs()).then(a.cmp(&b)));
    order.truncate(k);
    order.sort_unstable();
    order
}

/// Checks every floor, with buffers that an earlier selection left behind.
fn check_top_k(values: &[f32], k: usize) {
    let expected = by_sorting(values, k);
    let (mut scratch, mut picked) = (Scratch::default(), vec![7; 9]);
    for floor in Floor::available() {
        top_k(floor, &[1.0; 4096], 3000, &mut scratch, &mut picked);
        top_k(floor, values, k, &mut scratch, &mut picked);
        assert_eq!(picked, expected, "{floor:?}, k = {k} of {}", values.len());
    }
}

fn check_group_max(values: &[f32]) {
    for group in [16, 32, 64] {
        let starts = (0..).step_by(group);
        let expected: Vec<u16> = values.chunks(group).zip(starts).map(|(part, start)| start + by_sorting(part, 1)[0]).collect();
        let mut picked = vec![7; 9];
        for floor in Floor::available() {
            group_max(floor, values, group, &mut picked);
            assert_eq!(picked, expected, "{floor:?}, groups of {group} in {}", values.len());
        }
    }
}

/// Values with many ties, without, near the smallest and near the largest numbers.
fn values() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        Just((-4i32..4).prop_map(|v| v as f32).boxed()),
        Just(any::<i32>().prop_map(|v| v as f32 * 1e-9).boxed()),
        Just((0u32..99, any::<bool>()).prop_map(|(bits, minus)| f32::from_bits(bits | u32::from(minus) << 31)).boxed()),
        Just(any::<f32>().prop_map(|v| if v.is_finite() { v } else { f32::MAX }).boxed()),
    ];
    value.prop_flat_map(|value| prop_oneof![proptest::collection::vec(value.clone(), 1..=4096), proptest::collection::vec(value, 4096)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn selection_agrees_with_sorting(values in values(), share in 0.0f64..1.0) {
        let n = values.len();
        for k in [1, 64, 128, 512, 1 + (share * 40.0) as usize, 1 + (share * (n - 1) as f64) as usize, n] {
            check_top_k(&values, k.min(n));
        }
        check_group_max(&values);
    }

    #[test]
    fn accumulation_rounds_twice(values in values(), beta in 0.0f32..1.0, width in 1usize..70) {
        let n = values.len() / 2;
        let (feedback, gradient) = (&values[..n], &values[n..2 * n]);
        let sums: Vec<f32> = feedback.iter().zip(gradient).map(|(e, g)| { let product = beta * e; product + g }).collect();
        let stride = width + 3;
        for floor in Floor::available() {
            prop_assert_eq!(all_finite(floor, feedback, gradient, beta), sums.iter().all(|sum| sum.is_finite()));
            // As many whole rows as the stride allows; what lies between them stays.
            let mut moved = feedback.to_vec();
            let mut chunk = vec![0.0; (n / stride).max(1) * width];
            if n >= stride {
                accumulate(floor, &mut moved, gradient, beta, Rows { width, stride }, &mut chunk);
                let inside = |i: usize| i % stride < width && i / stride < n / stride;
                let expected = (0..n).map(|i| if inside(i) { sums[i] } else { feedback[i] });
                prop_assert!(moved.iter().map(|v| v.to_bits()).eq(expected.map(f32::to_bits)));
                let expected = (0..n).filter(|&i| inside(i)).map(|i| sums[i].to_bits());
                prop_assert!(chunk.iter().map(|v| v.to_bits()).eq(expected));
            }
        }
    }

    #[test]
    fn pair_errors_agree_with_the_definition(
        fixed in proptest::collection::vec(0u16..4096, 1..400),
        pairs in proptest::collection::vec((0u32..4096, 0u32..4096).prop_map(|(low, more)| (low, low + more)), PAIRS),
    ) {
        let table = Pairs { low: std::array::from_fn(|i| pairs[i].0), high: std::array::from_fn(|i| pairs[i].1) };
        let square = |u: u32, (low, high): (u32, u32)| u64::from(u.abs_diff(low).min(u.abs_diff(high)).pow(2));
        let error = |&pair: &(u32, u32)| fixed.iter().map(|&u| square(u.into(), pair)).sum::<u64>();
        let expected: Vec<u64> = pairs.iter().map(error).collect();
        for floor in Floor::available() {
            let mut errors = [7; PAIRS];
            pair_errors(floor, &fixed, &table, &mut errors);
            prop_assert_eq!(&errors[..], &expected[..]);
        }
    }
}

#[test]
fn every_k_of_a_chunk() {
    let mut random = Random::new(1);
    let smooth: Vec<f32> = (0..4096).map(|_| random.gaussian() as f32).collect();
    let ties: Vec<f32> = smooth.iter().map(|v| (v * 2.0).round()).collect();
    for values in [smooth, ties] {
        for k in (1..=600).chain((600..=4096).step_by(97)) {
            check_top_k(&values, k);
        }
    }
}

#[test]
fn every_length() {
    let mut random = Random::new(2);
    let values: Vec<f32> = (0..4096).map(|_| random.gaussian() as f32).collect();
    for n in (1..=300).chain((301..4096).step_by(61)) {
        check_top_k(&values[..n], 1 + n / 64);
        check_group_max(&values[4096 - n..]);
    }
}

#[test]
fn ties_go_to_the_lowest_index_and_zeros_are_equal() {
    check_top_k(&[0.0, -0.0, 2.0, -2.0, 2.0], 2);
    check_group_max(&[0.0, -0.0, 2.0, -2.0, 2.0]);
    for constant in [0.0, -0.0, 1.5, f32::MAX, f32::from_bits(1)] {
        let mut values = [constant; 4096];
        values.iter_mut().step_by(3).for_each(|v| *v = -*v);
        [1, 64, 512, 4095, 4096].into_iter().for_each(|k| check_top_k(&values, k));
        check_group_max(&values);
    }
}

#[test]
fn few_values_in_a_chunk_of_zeros() {
    let mut values = [0.0f32; 4096];
    values[4000] = f32::from_bits(1);
    values[77] = -f32::from_bits(2);
    check_top_k(&values, 2);
    check_top_k(&values, 64);
    values[4095] = f32::MAX;
    [1, 2, 3, 64].into_iter().for_each(|k| check_top_k(&values, k));
    check_group_max(&values);
}

#[test]
fn one_value_that_is_not_finite_is_found_anywhere() {
    for floor in Floor::available() {
        for n in [1, 7, 64, 1000, 5000] {
            for at in [0, n / 2, n - 1] {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let (fine, mut spoilt) = (vec![1.0; n], vec![f32::MAX; n]);
                    assert!(all_finite(floor, &fine, &spoilt, 0.5));
                    spoilt[at] = bad;
                    assert!(!all_finite(floor, &fine, &spoilt, 0.5));
                    assert!(!all_finite(floor, &spoilt, &fine, 0.5));
                }
            }
        }
        assert!(!all_finite(floor, &[f32::MAX], &[f32::MAX], 0.9), "an overflow of the sum");
    }
}

#[test]
fn the_best_floor_is_available() {
    assert!(Floor::available().contains(&Floor::best()));
}
