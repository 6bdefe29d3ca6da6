//! What measuring a payload costs with a copy of the parameters and in place: `cargo bench -p model --bench judge [-- --quick]`.
//!
//! Milliseconds of CPU time of the whole process, so that other processes do not count; libtorch has one thread. All rows of a table are
//! measured in turn, run by run, on one model, one payload and 32 sequences. Where [`Llama::stepped`] is at work, losses are checked to be those of
//! the copy, bit by bit, before anything is measured.

#[path = "../tests/common/mod.rs"]
mod common;

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;

use compression::{Codec, ErrorFeedback, Format, Header, Indices, Payload, Quantizer, State, encode, try_step};
use cpu_time::ProcessTime;
use model::{Llama, ModelError};
use protocol::{Architecture, RunConfig};

const DEMO: &str = include_str!("../../configs/demo.toml");
const SEQUENCES: usize = 32;
/// Values of a full chunk.
const K: u16 = 64;
/// 16 as a pair of element and value, and 12 in the model: a place and an old value.
const BYTES_PER_CHANGE: usize = 28;
/// The manifest's share of the outer rate that is tried, times the rate.
const STEP: f32 = 0.325;
/// Payloads of a round, which share the losses of the random batch before.
const PAYLOADS: f64 = 20.0;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Without the `--bench` that `cargo bench` adds this is a test that the bench works.
    let is_quick = !args.iter().any(|arg| arg == "--bench") || args.iter().any(|arg| arg == "--quick");
    let runs = if is_quick { 1 } else { 15 };
    let demo = RunConfig::parse(DEMO)?.model;
    let larger = Architecture { hidden_size: 320, layers: 5, heads: 10, kv_heads: 5, intermediate_size: 880, ..demo.clone() };
    for (name, architecture) in [("demo", demo), ("ten times the demo", larger)] {
        let mut bench = Bench::new(&architecture)?;
        bench.check()?;
        bench.print(name, runs)?;
    }
    Ok(())
}

type Outcome = Result<(), Box<dyn Error>>;

/// What is measured on.
struct Bench {
    model: Llama,
    state: State,
    payload: Payload,
    /// Sequences that the payload's miner was given.
    own: Vec<Vec<u32>>,
    /// Sequences that all payloads share.
    random: Vec<Vec<u32>>,
}

/// A way to judge, or a part of one.
type Work = fn(&mut Bench) -> Outcome;

const PASS: usize = 0;
const COPY: [usize; 2] = [1, 2];
const PATCH: usize = 4;
const EVALUATIONS: [usize; 2] = [5, 6];
const PAYLOAD: [usize; 2] = [7, 8];
const WORKS: [(&str, Work); 9] = [
    ("one pass: losses of 32 sequences", |bench| bench.pass()),
    ("θ copied, payload taken off it", |bench| bench.try_step().map(drop)),
    ("copy loaded", |bench| Ok(bench.model.load(bench.state.model())?)),
    ("payload decoded", |bench| bench.decode()),
    ("payload decoded, step taken and undone", |bench| bench.in_place(|_, _| Ok(vec![]))),
    ("evaluation on a copy", |bench| bench.on_copy()),
    ("evaluation in place", |bench| bench.in_place(|model, [own, _]| model.sequence_losses(own))),
    ("payload on copies: 2 loads, 4 passes", |bench| bench.judge_on_copies()),
    ("payload in place: 3 passes", |bench| bench.judge_in_place()),
];

impl Bench {
    fn new(architecture: &Architecture) -> Result<Self, Box<dyn Error>> {
        let layout = Arc::new(architecture.layout()?);
        let format = Arc::new(Format::uniform(layout.clone(), Codec::top_k(K, Quantizer::Sign2, Indices::Golomb))?);
        let header = Header { run: [0; 32], round: 0, hotkey: [0; 32], base_root: [0; 32] };
        let gradient = common::parameters(architecture, 2);
        let bytes = encode(&format, &header, &mut ErrorFeedback::zeros(&layout), &gradient, 1.0)?;
        let payload = Payload::parse(&bytes, &format)?;
        let state = State::new(layout, 0, common::parameters(architecture, 1))?;
        let mut windows = common::batch(architecture, 2 * SEQUENCES, architecture.sequence_length + 1);
        let random = windows.split_off(SEQUENCES);
        Ok(Self { model: common::model(architecture), state, payload, own: windows, random })
    }

    fn pass(&self) -> Outcome {
        black_box(self.model.sequence_losses(&self.own)?);
        Ok(())
    }

    fn try_step(&self) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
        Ok(black_box(try_step(&self.state, &self.payload, STEP)?))
    }

    fn decode(&self) -> Outcome {
        black_box(self.payload.sent());
        Ok(())
    }

    fn in_place(&mut self, work: impl FnOnce(&Llama, [&[Vec<u32>]; 2]) -> Result<Vec<f64>, ModelError>) -> Outcome {
        let changes = self.payload.sent();
        black_box(self.model.stepped(STEP, &changes, |model| work(model, [&self.own, &self.random]))?);
        Ok(())
    }

    fn on_copy(&mut self) -> Outcome {
        let tried = self.try_step()?;
        self.model.load(&tried)?;
        self.pass()
    }

    fn judge_on_copies(&mut self) -> Outcome {
        self.model.load(self.state.model())?;
        self.pass()?;
        black_box(self.model.sequence_losses(&self.random)?);
        self.on_copy()?;
        black_box(self.model.sequence_losses(&self.random)?);
        Ok(())
    }

    fn judge_in_place(&mut self) -> Outcome {
        self.pass()?;
        self.in_place(|model, [own, random]| {
            black_box(model.sequence_losses(own)?);
            model.sequence_losses(random)
        })
    }

    /// Refuses to measure what is not the same.
    fn check(&mut self) -> Outcome {
        self.model.load(&self.try_step()?)?;
        let on_copy = self.model.sequence_losses(&self.own)?;
        self.model.load(self.state.model())?;
        let changes = self.payload.sent();
        let in_place = self.model.stepped(STEP, &changes, |model| model.sequence_losses(&self.own))?;
        let is_restored =
            self.model.parameters()?.iter().flatten().zip(self.state.model().iter().flatten()).all(|(a, b)| a.to_bits() == b.to_bits());
        if in_place == on_copy && is_restored { Ok(()) } else { Err("a step in place differs from one on a copy".into()) }
    }

    /// Median milliseconds of each work. The model goes back to θ before each, at no cost to it.
    fn measure(&mut self, runs: usize) -> Result<[f64; WORKS.len()], Box<dyn Error>> {
        let mut times = [const { Vec::new() }; WORKS.len()];
        for _ in 0..runs {
            for ((_, work), times) in WORKS.iter().zip(&mut times) {
                self.model.load(self.state.model())?;
                let start = ProcessTime::try_now()?;
                work(self)?;
                times.push(start.try_elapsed()?.as_secs_f64() * 1e3);
            }
        }
        Ok(times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        }))
    }

    fn print(&mut self, name: &str, runs: usize) -> Outcome {
        let times = self.measure(runs)?;
        let pass = times[PASS];
        println!("\n{name}: {} parameters, {} of them sent, median of {runs} runs\n", self.model.parameter_count(), self.sent());
        println!("| what | CPU ms | ÷ one pass |\n|---|--:|--:|");
        for ((what, _), time) in WORKS.iter().zip(times) {
            println!("| {what} | {time:.2} | {:.4} |", time / pass);
        }
        self.summarize(&times);
        Ok(())
    }

    fn summarize(&self, times: &[f64; WORKS.len()]) {
        let (pass, [copy, load]) = (times[PASS], COPY.map(|work| times[work]));
        let [on_copy, in_place] = EVALUATIONS.map(|work| 60e3 / times[work]);
        let [copies, alone] = PAYLOAD.map(|work| times[work]);
        let shared = alone + pass / PAYLOADS;
        let two_passes = 2.0 * pass;
        let [on_copy_share, in_place_share] = [copy + 2.0 * load, times[PATCH]].map(|time| 100.0 * time / pass);
        println!("| … and its share of the round's pass, one of {PAYLOADS} payloads | {shared:.2} | {:.4} |\n", shared / pass);
        println!("evaluations per minute: {on_copy:.1} on a copy, {in_place:.1} in place, {:.3} times as many", in_place / on_copy);
        println!("a copy and two loads take {on_copy_share:.2} % of a pass, a step in place and back {in_place_share:.2} %");
        println!("a payload takes {:.3} times two passes on copies, {:.3} times in place", copies / two_passes, shared / two_passes);
        let bytes = [4 * self.model.parameter_count(), BYTES_PER_CHANGE * self.sent()];
        println!("bytes beside θ and the model, by count: {} on a copy, {} in place", bytes[0], bytes[1]);
    }

    /// Elements that the payload changes.
    fn sent(&self) -> usize {
        self.payload.sent().iter().map(Vec::len).sum()
    }
}
