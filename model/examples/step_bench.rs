use model::*; use model::tch::*; use std::time::Instant;
fn main() {
    let a = protocol::Architecture { vocab_size: 257, hidden_size: 128, layers: 3, heads: 4, kv_heads: 2, head_dim: 32, intermediate_size: 352, sequence_length: 128, rope_theta: 1e4, norm_eps: 1e-5, tied_embeddings: true, init_std: 0.02 };
    set_threads(1);
    let mut m = Llama::new(&a, Device::Cpu).unwrap();
    let mut s = 1u64;
    let mut r = || { s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); (s >> 33) as f32 / (1u64 << 31) as f32 - 0.5 };
    let t: Vec<Vec<f32>> = a.tensors().iter().map(|(sp, i)| (0..sp.len()).map(|_| match i { protocol::Init::Ones => 1.0, protocol::Init::Normal(d) => d * 3.46 * r() }).collect()).collect();
    m.load(&t).unwrap();
    let toks: Vec<i64> = (0..8 * 129).map(|i: i64| (i * i * 31 + i * 7) % 257).collect();
    let w = Tensor::from_slice(&toks).view([8, 129]);
    let (mut f, mut b) = (vec![], vec![]);
    for i in 0..200 {
        let t0 = Instant::now();
        let l = m.loss(&w).unwrap();
        let t1 = Instant::now();
        let ps: Vec<&Tensor> = m.ps();
        let g = Tensor::f_run_backward(&[&l], &ps, false, false).unwrap();
        let t2 = Instant::now();
        if i == 0 { println!("{} {}", l.double_value(&[]) / 1024.0, g[2].norm().double_value(&[])); }
        f.push((t1 - t0).as_secs_f64()); b.push((t2 - t1).as_secs_f64());
    }
    f.sort_by(f64::total_cmp); b.sort_by(f64::total_cmp);
    println!("fwd {:.2} ms bwd {:.2} ms (median); min {:.2} {:.2}", f[100] * 1e3, b[100] * 1e3, f[0]*1e3, b[0]*1e3);
}
