use proptest::prelude::*;

use super::*;
use crate::test_data::index_set;

proptest! {
    #[test]
    fn every_code_is_looked_up(codes in prop::collection::vec(any::<u8>(), 64), count in 0usize..=256, width in 1u32..=2) {
        let table = [-0.0, f32::from_bits(0x7FC0_1234), 1.5, f32::NEG_INFINITY];
        for floor in Floor::available() {
            let mut out = vec![9.0; count];
            values(floor, &codes, width, &table, &mut out);
            for (j, value) in out.iter().enumerate() {
                let bit = j * width as usize;
                let code = codes[bit / 8] >> (bit % 8) & ((1 << width) - 1);
                prop_assert_eq!(value.to_bits(), table[usize::from(code)].to_bits(), "{:?}, value {}", floor, j);
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Sums of numbers that include zeros of both signs and subnormal ones.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.0), Just(-0.0), -2.0f32..2.0, -1e-38f32..1e-38, -1e30f32..1e30]
}

proptest! {
    #[test]
    fn floors_merge_alike(
        (n, indices) in index_set(4096),
        numbers in prop::collection::vec(number(), 4096),
        codes in prop::collection::vec(any::<u8>(), 1024),
        width in 1u32..=2,
        over_all in prop::option::of(0.5f32..3.0),
    ) {
        let mut theta: Vec<f32> = numbers[..n].iter().map(|number| -number).collect();
        theta.iter_mut().step_by(7).for_each(|theta| *theta = f32::from_bits(0xFFC1_2345));
        let mut expected = theta.clone();
        let mut sums = vec![[0.0f32; 2]; n];
        let terms: [[[f32; 2]; 4]; 3] = std::array::from_fn(|payload| std::array::from_fn(|code| [numbers[4 * payload + code], 0.3]));
        let code = |j: usize| codes[j * width as usize / 8] >> (j * width as usize % 8) & ((1 << width) - 1);
        for terms in &terms {
            for (j, &index) in indices.iter().enumerate() {
                let [product, weight] = terms[usize::from(code(j))];
                sums[usize::from(index)][0] += product;
                sums[usize::from(index)][1] += weight;
            }
        }
        for (theta, [sum, over]) in expected.iter_mut().zip(sums) {
            if over != 0.0 {
                *theta -= 0.9 * (sum / over_all.unwrap_or(over));
            }
        }
        for floor in Floor::available() {
            let (mut stepped, mut sums) = (theta.clone(), vec![[0.0f32; 2]; n]);
            for terms in &terms {
                add(floor, &indices, &codes, width, terms, &mut sums);
            }
            let chunk = Chunk { start: 0, stride: n, height: 1, width: n };
            descend(floor, &mut sums, over_all, 0.9, chunk, &mut stepped);
            prop_assert_eq!(bits(&stepped), bits(&expected), "{:?}", floor);
            prop_assert_eq!(bits(sums.as_flattened()), vec![0; 2 * n], "{:?}", floor);
        }
    }
}

#[test]
#[should_panic]
fn an_index_outside_the_chunk_panics() {
    add(Floor::best(), &[1, 5], &[0], 2, &[[1.0; 2]; 4], &mut [[0.0; 2]; 5]);
}
