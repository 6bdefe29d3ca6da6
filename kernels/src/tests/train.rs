//! The training step's kernels against f64.

use super::{Buffers, FLOATS, Random};
use crate::{Float, Kernels, Rotation};

/// Inputs as they are once rounded to the element's type.
fn inputs(random: &mut Random, count: usize, factor: f32, float: Float) -> Vec<f32> {
    let value = |value: f32| if float == Float::Bf16 { half::bf16::from_f32(value).to_f32() } else { value };
    (0..count).map(|_| value(factor * random.value())).collect()
}

/// Tensors in a machine's memory, and their addresses.
fn put<'a, const N: usize>(kernels: &'a Kernels, tensors: [&[f32]; N], float: Float) -> (Buffers<'a>, [u64; N]) {
    let buffers = Buffers::new(&*kernels.machine, &tensors.map(<[f32]>::to_vec), float);
    let addresses = std::array::from_fn(|i| buffers.memory[i].address);
    (buffers, addresses)
}

/// Rounded once from nearly exact: half a unit of the type's last place, and what exp2 and sums of f32 are away.
fn assert_close(what: &str, float: Float, found: &[f32], expected: &[f64], scale: f64) {
    let unit = if float == Float::Bf16 { 1.0 / 256.0 } else { 4e-6 };
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let distance = (f64::from(*found) - expected).abs();
        assert!(distance <= unit * expected.abs() + 4e-6 * scale, "{what} {float:?}, element {i}: {found:e}, not {expected:e}");
    }
}

fn check_cross_entropy(kernels: &Kernels) {
    let mut random = Random(7);
    for ([rows, vocabulary], factor) in [([1, 1], 1.0), ([3, 37], 4.0), ([2, 2052], 90.0), ([2, 1030], 1e-3), ([1, 5000], 30.0)] {
        for float in FLOATS {
            let logits = inputs(&mut random, rows * vocabulary, factor, float);
            let targets: Vec<i64> = (0..rows).map(|row| [vocabulary as i64 - 1, 0, vocabulary as i64 / 2][row]).collect();
            let at = kernels.machine.put(targets.iter().flat_map(|target| target.to_le_bytes()).collect()).unwrap();
            let (on_logits, [logits_at]) = put(kernels, [&logits], float);
            let (losses, [losses_at]) = put(kernels, [&vec![0.0; rows]], Float::F32);
            // SAFETY: all memory is this function's and as large as it must be.
            unsafe { kernels.cross_entropy(float, [logits_at, at.address, losses_at], [rows, vocabulary]).unwrap() };
            let (mut gradients, mut expected) = (Vec::new(), Vec::new());
            for (row, target) in logits.chunks(vocabulary).zip(&targets) {
                let largest = row.iter().copied().fold(f32::MIN, f32::max);
                let exponentials: Vec<f64> = row.iter().map(|x| (f64::from(*x) - f64::from(largest)).exp()).collect();
                let sum: f64 = exponentials.iter().sum();
                expected.push(sum.ln() + f64::from(largest) - f64::from(row[*target as usize]));
                gradients.extend(exponentials.iter().enumerate().map(|(i, e)| e / sum - if i as i64 == *target { 1.0 } else { 0.0 }));
            }
            assert_close("loss", Float::F32, &losses.read()[0], &expected, f64::from(factor).max(1.0));
            assert_close("gradient", float, &on_logits.read()[0], &gradients, 1.0);
        }
    }
}

fn silu(x: f64) -> (f64, f64) {
    let share = 1.0 / (1.0 + (-x).exp());
    (x * share, share * (1.0 + x * (1.0 - share)))
}

fn check_swiglu(kernels: &Kernels) {
    let mut random = Random(8);
    for [rows, width] in [[1, 1], [3, 30], [5, 64], [2, 1028]] {
        for float in FLOATS {
            let (gate_up, gradient) = (inputs(&mut random, 2 * rows * width, 9.0, float), inputs(&mut random, rows * width, 2.0, float));
            let (memory, [gate_up_at, to, gradient_at, to_gate_up]) =
                put(kernels, [&gate_up, &vec![0.0; rows * width], &gradient, &vec![0.0; 2 * rows * width]], float);
            // SAFETY: all memory is this function's and as large as it must be.
            unsafe {
                kernels.swiglu(float, [gate_up_at, to], [rows, width]).unwrap();
                kernels.swiglu_backward(float, [gate_up_at, gradient_at, to_gate_up], [rows, width]).unwrap();
            }
            let (mut expected, mut gradients) = (Vec::new(), Vec::new());
            for (row, given) in gate_up.chunks(2 * width).zip(gradient.chunks(width)) {
                let (gate, up) = row.split_at(width);
                let each = || gate.iter().zip(up).zip(given).map(|((g, u), d)| (silu(f64::from(*g)), f64::from(*u), f64::from(*d)));
                expected.extend(each().map(|((value, _), up, _)| value * up));
                gradients.extend(each().map(|((_, slope), up, given)| given * up * slope));
                gradients.extend(each().map(|((value, _), _, given)| given * value));
            }
            let found = memory.read();
            assert_close("swiglu", float, &found[1], &expected, 9.0);
            assert_close("swiglu's gradient", float, &found[3], &gradients, 18.0);
        }
    }
}

/// What is not a number must show in the loss: the GPU's own one, whose bits are all ones, rounds up to -0 if they are taken for a number.
fn check_not_a_number(kernels: &Kernels) {
    for float in FLOATS {
        let (memory, [from, to]) = put(kernels, [&[f32::from_bits(0x7FFF_FFFF), 1.0], &[0.0]], float);
        // SAFETY: all memory is this function's and as large as it must be.
        unsafe { kernels.swiglu(float, [from, to], [1, 1]).unwrap() };
        assert!(memory.read()[1][0].is_nan(), "{float:?}");
    }
}

fn check_rotary(kernels: &Kernels) {
    let mut random = Random(9);
    for (rows, length, heads, rotated, width) in [(1, 1, 1, 1, 2), (6, 3, 4, 3, 6), (5, 5, 3, 2, 16), (9, 3, 5, 0, 8)] {
        for float in FLOATS {
            let half = width / 2;
            let from = inputs(&mut random, rows * heads * width, 1.0, float);
            let angle = |i: usize| f64::from((i as f32 * 0.7).sin() * 9.0);
            let tables = [f64::cos, f64::sin].map(|f| (0..length * half).map(|i| f(angle(i)) as f32).collect::<Vec<f32>>());
            let (memory, [from_at, to, back]) = put(kernels, [&from, &vec![0.0; from.len()], &vec![0.0; from.len()]], float);
            let (_tables, on_tables) = put(kernels, [&tables[0], &tables[1]], Float::F32);
            let turn = Rotation { rows, length, heads, rotated, width, backward: false };
            // SAFETY: all memory is this function's and as large as it must be.
            unsafe {
                kernels.rotary(float, [from_at, to], on_tables, turn).unwrap();
                kernels.rotary(float, [to, back], on_tables, Rotation { backward: true, ..turn }).unwrap();
            }
            let mut expected: Vec<f64> = from.iter().copied().map(f64::from).collect();
            for (number, head) in expected.chunks_mut(width).enumerate().filter(|(number, _)| number % heads < rotated) {
                for i in 0..half {
                    let (sin, cos) = angle(number / heads % length * half + i).sin_cos();
                    let (x, y) = (head[i], head[i + half]);
                    (head[i], head[i + half]) = (x * cos - y * sin, y * cos + x * sin);
                }
            }
            let found = memory.read();
            assert_close("rotary", float, &found[1], &expected, 2.0);
            let original: Vec<f64> = from.iter().copied().map(f64::from).collect();
            // what was turned is turned back from what it was rounded to
            assert_close("rotary, undone", float, &found[2], &original, if float == Float::Bf16 { 2000.0 } else { 2.0 });
        }
    }
}

pub fn check_training(kernels: &Kernels) {
    check_cross_entropy(kernels);
    check_swiglu(kernels);
    check_rotary(kernels);
    check_not_a_number(kernels);
}
