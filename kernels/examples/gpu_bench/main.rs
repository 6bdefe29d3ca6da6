//! How fast the kernels are on this machine's first GPU, as shares of its copy bandwidth measured in the same run, and against the same steps in PyTorch.
//!
//!     gpu_bench [MATRICES] > bench.json      # of 8192 x 8192, 15 by default: a billion parameters; some 17 GB of GPU memory
//!
//! Needs a driver and NVRTC. The reference is `reference.py` beside this file, run by `python3` where that has torch; set REFERENCE to its path if it lies
//! elsewhere. Prints a table to standard error and JSON to standard output.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use compression::{Codec, Format, Header, Indices, Layout, MergeOver, Payload, Quantizer, Rule, TensorSpec, Weighted};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use kernels::{Elements, Float, KernelError, Kernels, Place, PseudoGradient, Rotation, Theta, devices, write_payload};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Side of a matrix.
const SIDE: usize = 8192;
const REPEATS: usize = 11;
/// Payloads of a record.
const PAYLOADS: u64 = 20;
const HEADER: Header = Header { run: [1; 32], round: 7, hotkey: [2; 32], base_root: [3; 32] };

/// Tensors on the device that are all alike, and the same elements each.
struct Tensors {
    memory: Vec<CudaSlice<u8>>,
    float: Float,
    stream: Arc<CudaStream>,
}

impl Tensors {
    /// `count` matrices of normal numbers of this standard deviation.
    fn normal(stream: &Arc<CudaStream>, count: usize, float: Float, deviation: f32, seed: u64) -> Result<Self> {
        let mut random = Normal(seed);
        let bytes: Vec<u8> = match float {
            Float::F32 => (0..SIDE * SIDE).flat_map(|_| (deviation * random.next()).to_le_bytes()).collect(),
            Float::Bf16 => (0..SIDE * SIDE).flat_map(|_| half::bf16::from_f32(deviation * random.next()).to_le_bytes()).collect(),
        };
        let memory = (0..count).map(|_| stream.clone_htod(&bytes)).collect::<std::result::Result<_, _>>()?;
        Ok(Self { memory, float, stream: stream.clone() })
    }

    fn elements(&self) -> Vec<Elements> {
        // SAFETY: the memory has as many elements, and this program does one thing after the other, all on one stream.
        let elements = |memory: &CudaSlice<u8>| unsafe { Elements::new(memory.device_ptr(&self.stream).0, SIDE * SIDE, self.float) };
        self.memory.iter().map(elements).collect()
    }
}

/// Numbers that are nearly normal: the sum of twelve uniform ones less six.
struct Normal(u64);

impl Normal {
    fn next(&mut self) -> f32 {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..12).map(|_| uniform()).sum::<f32>() - 6.0
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// One line of the report.
struct Line {
    what: String,
    elements: f64,
    /// Moved per element.
    bytes: f64,
    seconds: f64,
}

impl Line {
    fn per_second(&self) -> f64 {
        self.elements * self.bytes / self.seconds
    }
}

struct Bench {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    format: Arc<Format>,
    matrices: usize,
    lines: Vec<Line>,
}

impl Bench {
    fn new(matrices: usize) -> Result<Self> {
        let kernels = Kernels::shared(0)?;
        kernels.measure();
        let spec = |number| TensorSpec::new(format!("matrix {number}"), &[SIDE, SIDE]);
        let layout = Arc::new(Layout::new((0..matrices).map(spec).collect())?);
        let format = Arc::new(Format::uniform(layout, Codec::top_k(64, Quantizer::Sign2, Indices::Golomb))?);
        Ok(Self { kernels, stream: CudaContext::new(0)?.default_stream(), format, matrices, lines: Vec::new() })
    }

    fn parameters(&self) -> f64 {
        (self.matrices * SIDE * SIDE) as f64
    }

    /// A line about all parameters.
    fn line(&mut self, what: impl Into<String>, bytes: f64, seconds: f64) {
        self.lines.push(Line { what: what.into(), elements: self.parameters(), bytes, seconds });
    }

    /// Seconds of the last kernel, again and again, after one run to warm up.
    fn measure(&self, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
        run()?;
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            run()?;
            times.push(self.kernels.last_run()?.ok_or("no kernel ran")?.as_secs_f64());
        }
        Ok(median(times))
    }

    fn copy(&mut self) -> Result<()> {
        let from = Tensors::normal(&self.stream, self.matrices, Float::F32, 1.0, 1)?;
        let mut to = Tensors::normal(&self.stream, self.matrices, Float::F32, 1.0, 2)?;
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            let events = || self.stream.record_event(Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT));
            let begin = events()?;
            for (from, to) in from.memory.iter().zip(&mut to.memory) {
                self.stream.memcpy_dtod(from, to)?;
            }
            times.push(f64::from(begin.elapsed_ms(&events()?)?) / 1e3);
        }
        self.line("copy", 8.0, median(times));
        Ok(())
    }

    fn gradient(&self, theta: Float, feedback: Float, seed: u64) -> Result<[Tensors; 3]> {
        let tensors = |float, deviation, seed| Tensors::normal(&self.stream, self.matrices, float, deviation, seed);
        Ok([tensors(theta, 0.02, seed)?, tensors(theta, 0.02, seed + 1)?, tensors(feedback, 1e-3, seed + 2)?])
    }

    fn encode(&mut self) -> Result<()> {
        for (theta, feedback) in
            [(Float::F32, Float::F32), (Float::Bf16, Float::F32), (Float::F32, Float::Bf16), (Float::Bf16, Float::Bf16)]
        {
            let tensors = self.gradient(theta, feedback, 3)?;
            let gradient = pseudo_gradient(&tensors);
            let kernel = self.measure(|| {
                self.kernels.encode_to(std::io::sink(), &self.format, &HEADER, &gradient, 0.95)?;
                Ok(())
            })?;
            let bytes = 2 * theta.bytes() + 2 * feedback.bytes();
            self.line(format!("encode, θ {theta:?}, e {feedback:?}"), bytes as f64, kernel);
        }
        Ok(())
    }

    /// What a miner does: a share of everything, whose θ and error feedback lie with the device or with the host; and the file that comes of it.
    fn shards(&mut self) -> Result<()> {
        let [before, after, _] = self.gradient(Float::F32, Float::F32, 3)?;
        let [before, after] = [&before, &after].map(|tensors| tensors.elements().into_iter().enumerate().collect::<Vec<_>>());
        for place in [Place::Device, Place::Host] {
            let mut shard = self.kernels.shard(&self.format, 0, 1, Some(place))?;
            shard.begin(&before);
            let kernel = self.measure(|| {
                shard.encode(&after, 0.95);
                shard.finish()?;
                Ok(())
            })?;
            self.line(format!("encode, θ and e with the {place:?}"), 16.0, kernel);
            let path = std::env::temp_dir().join("tributary-bench.payload");
            let begin = Instant::now();
            shard.encode(&after, 0.95);
            let sections = shard.finish()?;
            write_payload(BufWriter::new(File::create(&path)?), &self.format, &HEADER, &[sections])?;
            self.line(format!("to a payload file, with the {place:?}"), 16.0, begin.elapsed().as_secs_f64());
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<()> {
        let payload = |seed| -> Result<Payload> {
            let tensors = self.gradient(Float::Bf16, Float::Bf16, 100 * seed)?;
            let bytes = self.kernels.encode_to(Vec::new(), &self.format, &HEADER, &pseudo_gradient(&tensors), 0.95)?;
            Ok(Payload::parse(&bytes, &self.format)?)
        };
        let payloads = (1..=PAYLOADS).map(payload).collect::<Result<Vec<_>>>()?;
        let record: Vec<Weighted<'_>> = payloads.iter().map(|payload| Weighted { payload, weight: 1.0 }).collect();
        let rule = Rule { lr: 0.7, over: MergeOver::Senders, resparsify: None };
        let sent: usize = (0..self.format.sections()).map(|section| self.format.section_bytes(section)).sum();
        let payload_bytes = PAYLOADS as f64 * sent as f64 / self.parameters();
        let [tensors, shadow] = [Float::F32, Float::Bf16].map(|float| Tensors::normal(&self.stream, self.matrices, float, 0.02, 9));
        let (tensors, shadow) = (tensors?, shadow?);
        for (name, shadow, bytes) in [("apply", Vec::new(), 8.0), ("apply, with a shadow", shadow.elements(), 10.0)] {
            let theta = Theta { tensors: tensors.elements(), shadow };
            let kernel = self.measure(|| Ok(self.kernels.step(&theta, &record, &rule)?))?;
            self.line(format!("{name}, {PAYLOADS} payloads"), bytes + payload_bytes, kernel);
        }
        Ok(())
    }

    /// The kernels of a training step in bf16, on 16,384 tokens of a model as in configs/1b.toml; of its logits a quarter.
    fn training(&mut self) -> Result<()> {
        const TOKENS: usize = 16_384;
        let (vocabulary, width, heads) = (128_256, 8192, 48);
        let (kernels, stream) = (self.kernels.clone(), self.stream.clone());
        let zeros = |bytes: usize| stream.alloc_zeros::<u8>(bytes);
        let at = |memory: &CudaSlice<u8>| memory.device_ptr(&stream).0;
        let [logits, targets, losses] = [TOKENS / 4 * vocabulary * 2, TOKENS * 8, TOKENS * 4].map(zeros);
        let (logits, targets, losses) = (logits?, targets?, losses?);
        let [pair, other_pair, half, tables] = [4, 4, 2, 4].map(|bytes| zeros(TOKENS * width * bytes));
        let (pair, other_pair, half, tables) = (pair?, other_pair?, half?, tables?);
        let rotation = Rotation { rows: TOKENS, length: 2048, heads, rotated: 40, width: 64, backward: false };
        // SAFETY: the memory has these sizes and more, lives until the end of this function, and all is done on one stream.
        let cross_entropy =
            || unsafe { kernels.cross_entropy(Float::Bf16, [at(&logits), at(&targets), at(&losses)], [TOKENS / 4, vocabulary]) };
        // SAFETY: as above.
        let swiglu = || unsafe { kernels.swiglu(Float::Bf16, [at(&pair), at(&half)], [TOKENS, width]) };
        // SAFETY: as above.
        let backward = || unsafe { kernels.swiglu_backward(Float::Bf16, [at(&pair), at(&half), at(&other_pair)], [TOKENS, width]) };
        // SAFETY: as above.
        let rotary = || unsafe { kernels.rotary(Float::Bf16, [at(&pair), at(&other_pair)], [at(&tables); 2], rotation) };
        let mut measure = |what: &str, elements: usize, bytes, run: &dyn Fn() -> std::result::Result<(), KernelError>| -> Result<()> {
            let seconds = self.measure(|| Ok(run()?))?;
            self.lines.push(Line { what: what.into(), elements: elements as f64, bytes, seconds });
            Ok(())
        };
        measure("cross entropy and its gradient, bf16", TOKENS / 4 * vocabulary, 6.0, &cross_entropy)?;
        measure("SwiGLU, bf16", TOKENS * width, 6.0, &swiglu)?;
        measure("SwiGLU's gradient, bf16", TOKENS * width, 10.0, &backward)?;
        measure("rotary embedding, bf16", TOKENS * heads * 64, 4.0, &rotary)
    }

    /// Milliseconds of the same encoding in PyTorch.
    fn reference(&mut self) {
        let path = std::env::var("REFERENCE").unwrap_or_else(|_| "kernels/examples/gpu_bench/reference.py".into());
        match Command::new("python3").arg(path).arg(self.matrices.to_string()).output() {
            Ok(output) if output.status.success() => {
                if let Ok(milliseconds) = String::from_utf8_lossy(&output.stdout).trim().parse::<f64>() {
                    self.line("encode in PyTorch, as the reference does it", 16.0, milliseconds / 1e3);
                }
            }
            Ok(output) => eprintln!("no reference: {}", String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => eprintln!("no reference: python3 does not run ({error})"),
        }
    }

    fn report(&self, name: &str) -> Result<()> {
        let copy = self.lines[0].per_second();
        let mut rows = Vec::new();
        eprintln!("{name}, {:.3e} parameters, {} repeats, median", self.parameters(), REPEATS);
        for line in &self.lines {
            let Line { what, bytes, seconds, .. } = line;
            let share = line.per_second() / copy;
            eprintln!(
                "{what:<44} {bytes:>6.2} B/element {:>9.3} ms {:>8.1} GB/s {:>6.1} %",
                seconds * 1e3,
                line.per_second() / 1e9,
                share * 100.0
            );
            rows.push(format!("{{\"what\":\"{what}\",\"bytes_per_element\":{bytes},\"seconds\":{seconds},\"share_of_copy\":{share}}}"));
        }
        println!("{{\"device\":\"{name}\",\"parameters\":{},\"lines\":[{}]}}", self.parameters(), rows.join(","));
        Ok(())
    }
}

fn pseudo_gradient([before, after, feedback]: &[Tensors; 3]) -> PseudoGradient {
    let feedback = feedback.elements();
    PseudoGradient { before: before.elements(), after: after.elements(), next_feedback: feedback.clone(), feedback }
}

fn main() -> Result<()> {
    let matrices = std::env::args().nth(1).map_or(Ok(15), |count| count.parse())?;
    let name = devices().first().ok_or("there is no CUDA device here: nothing to measure")?.name.clone();
    let mut bench = Bench::new(matrices)?;
    bench.copy()?;
    bench.encode()?;
    bench.shards()?;
    bench.apply()?;
    bench.training()?;
    bench.reference();
    bench.report(&name)
}
