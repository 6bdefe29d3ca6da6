use super::*;
use crate::Coding;
use crate::test_data::manifest;

fn draw(std: f32, len: usize) -> Vec<f32> {
    initial_tensor(&Digest::of(b"seed"), "tensor", len, Init::Normal(std))
}

#[test]
fn the_integers_are_centred_sums_of_four_words() {
    assert_eq!(element(&[0; 8]), -131_070);
    assert_eq!(element(&[0xff; 8]), 131_070);
    assert_eq!(element(&[1, 0, 0, 1, 0, 0, 0, 0]), 257 - 131_070);
}

#[test]
fn golden_elements() {
    let golden = ["3d2b5749", "3cda8df4", "3c264fc0", "3bac9071"];
    let drawn: Vec<String> = draw(0.02, 4).iter().map(|x| format!("{:08x}", x.to_bits())).collect();
    assert_eq!(drawn, golden);
}

#[test]
fn elements_have_the_mean_and_deviation_asked_for() {
    let n = 100_000;
    let drawn = draw(0.5, n);
    let mean = drawn.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
    let variance = drawn.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n as f64;
    // five standard errors
    assert!(mean.abs() < 5.0 * 0.5 / (n as f64).sqrt(), "{mean}");
    assert!((variance.sqrt() - 0.5).abs() < 5.0 * 0.5 / (2.0 * n as f64).sqrt(), "{variance}");
    // four uniforms cannot reach beyond √12 standard deviations
    assert!(drawn.iter().all(|x| x.abs() < 0.5 * 3.465));
}

#[test]
fn a_tensor_is_a_prefix_of_a_longer_one_and_differs_by_name() {
    let long = draw(0.02, 20_000);
    assert_eq!(draw(0.02, 10_001), long[..10_001]);
    assert_ne!(initial_tensor(&Digest::of(b"seed"), "other", 20_000, Init::Normal(0.02)), long);
    assert_eq!(initial_tensor(&Digest::of(b"seed"), "norm", 3, Init::Ones), [1.0; 3]);
}

#[test]
fn threads_do_not_change_the_root() {
    let manifest = manifest();
    let root = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        Digest(pool.install(|| initial_state(&manifest).root()))
    };
    assert_eq!(root(1), manifest.genesis_root);
    assert_eq!(root(8), manifest.genesis_root);
}

#[test]
fn lossy_merges_add_a_residual_of_zeros() {
    let plain = manifest();
    let mut lossy = plain.clone();
    lossy.outer.resparsify = Some(Coding::default());
    let (without, with) = (initial_state(&plain), initial_state(&lossy));
    let (model, residual) = with.tensors().split_at(without.tensors().len());
    assert_eq!(model, without.tensors());
    assert_eq!(residual.len(), model.len());
    assert!(residual.iter().flatten().all(|x| x.to_bits() == 0));
    assert_ne!(with.root(), without.root());
}

#[test]
fn each_launch_starts_elsewhere() {
    let root = |change: fn(&mut Manifest)| {
        let mut manifest = manifest();
        change(&mut manifest);
        initial_state(&manifest).root()
    };
    let plain = root(|_| ());
    let changes: [fn(&mut Manifest); 5] = [
        |m| m.name.push('x'),
        |m| m.chain.genesis = Digest::of(b"other"),
        |m| m.chain.netuid += 1,
        |m| m.chain.launch_key.0[0] += 1,
        |m| m.chain.start_block += 1,
    ];
    assert!(changes.iter().all(|change| root(*change) != plain));
    assert_eq!(root(|m| m.inner.lr *= 2.0), plain);
}
