//! The codec's figures as one table: `cargo bench -p compression [-- [--quick] [--elements N]]`.
//!
//! All rows are of one run on the same data: a matrix of 4096 rows whose 64×64 tiles have log-normal scales. Where `TRIBUTARY_PYTHON`
//! names a Python that has PyTorch, the rows of `reference.py` are part of the table, and a column says what our figures are divided by its.

#[path = "support/data.rs"]
mod data;
#[path = "support/table.rs"]
mod table;

use std::error::Error;
use std::sync::Arc;

use compression::{
    CHUNK_ELEMENTS, Codec, ErrorFeedback, Format, Group, Header, Indices, Layout, MergeOver, Payload, Quantizer, Rule, Select, State,
    TensorSpec, Weighted, encode, transition,
};
use data::{Distribution, pseudo_gradient};
use rayon::prelude::*;
use table::{Options, Table};

type Outcome = Result<(), Box<dyn Error>>;

const HEADER: Header = Header { run: [0; 32], round: 0, hotkey: [0; 32], base_root: [0; 32] };
const BETA: f32 = 0.95;
/// Payloads of the merged record.
const RECORD: usize = 20;
/// Rounds of error feedback before anything is encoded for a figure.
const ROUNDS_BEFORE: u64 = 8;
/// Values of a full chunk in every top-k here.
const K: u16 = 64;

fn main() -> Outcome {
    let options = Options::from_args(std::env::args().skip(1))?;
    let mut table = Table::new(&options)?;
    let bench = Bench { layout: Arc::new(Layout::new(vec![TensorSpec::new("w", &options.shape)])?), shape: options.shape };
    bench.coding(&mut table)?;
    bench.merge(&mut table)?;
    bench.errors(&mut table)
}

/// The tensor that everything is measured on.
struct Bench {
    layout: Arc<Layout>,
    shape: [usize; 2],
}

impl Bench {
    fn elements(&self) -> usize {
        self.layout.parameters()
    }

    fn f32_bytes(&self) -> usize {
        4 * self.elements()
    }

    fn format(&self, codec: Codec) -> Result<Arc<Format>, Box<dyn Error>> {
        Ok(Arc::new(Format::uniform(self.layout.clone(), codec)?))
    }

    /// A fresh pseudo-gradient in place of the last one.
    fn refill(&self, gradient: &mut [Vec<f32>], distribution: Distribution, seed: u64) {
        pseudo_gradient(self.shape, distribution, seed, &mut gradient[0]);
    }

    fn zeros(&self) -> Vec<Vec<f32>> {
        vec![vec![0.0; self.elements()]]
    }

    /// Sizes, encoding and decoding, with error feedback that earlier rounds have left.
    fn coding(&self, table: &mut Table) -> Outcome {
        let format = self.format(Codec::top_k(K, Quantizer::Sign2, Indices::Golomb))?;
        let (mut feedback, mut gradient) = (ErrorFeedback::zeros(&self.layout), self.zeros());
        for round in 0..ROUNDS_BEFORE {
            self.refill(&mut gradient, Distribution::Gaussian, round);
            encode(&format, &HEADER, &mut feedback, &gradient, BETA)?;
        }
        self.refill(&mut gradient, Distribution::Gaussian, ROUNDS_BEFORE);
        let round = Round { bench: self, feedback, gradient };
        round.sizes(table)?;
        round.encode(table)?;
        round.decode(table)
    }

    /// A record's payloads into θ, beside a copy of as many elements.
    fn merge(&self, table: &mut Table) -> Outcome {
        let codecs = [Codec::top_k(K, Quantizer::Sign2, Indices::EliasFano), Codec::group_max(Group::G32, Quantizer::Sign1)];
        let mut records = [vec![], vec![]];
        let mut gradient = self.zeros();
        for sender in 0..RECORD as u64 {
            self.refill(&mut gradient, Distribution::Gaussian, sender);
            for (codec, record) in codecs.iter().zip(&mut records) {
                let format = self.format(*codec)?;
                let bytes = encode(&format, &HEADER, &mut ErrorFeedback::zeros(&self.layout), &gradient, BETA)?;
                record.push(Payload::parse(&bytes, &format)?);
            }
        }
        let mut target = self.zeros().remove(0);
        let source = &gradient[0];
        let copy_all = |(): &mut ()| {
            let run = source.len().div_ceil(rayon::current_num_threads());
            target.par_chunks_mut(run).zip(source.par_chunks(run)).for_each(|(target, source)| target.copy_from_slice(source));
        };
        let copy = table.speed("copy", "f32", self.f32_bytes(), || (), copy_all);
        let mut state = State::new(self.layout.clone(), 0, gradient)?;
        let rule = Rule { lr: 0.65, over: MergeOver::Senders, resparsify: None };
        for (codec, payloads) in codecs.iter().zip(&records) {
            let record: Vec<_> = payloads.iter().map(|payload| Weighted { payload, weight: 1.0 }).collect();
            let (name, codec) = (format!("merge of {RECORD}"), codec.to_string());
            let step = |(): &mut ()| transition(&mut state, &record, &rule).expect("a record of the state's own layout");
            let merge = table.speed(&name, &codec, self.f32_bytes(), || (), step);
            // Copying moves every element twice; so does a merge, which reads the payloads besides.
            let per_copied = 1.0 + payloads.iter().map(bytes_in_memory).sum::<usize>() as f64 / (2 * self.f32_bytes()) as f64;
            table.share("… of copy's θ per second", &codec, merge, copy, 1.0);
            table.share("… of copy's moved bytes", &codec, merge, copy, per_copied);
        }
        Ok(())
    }

    /// What the quantizers lose of the values that are sent.
    fn errors(&self, table: &mut Table) -> Outcome {
        let mut gradient = self.zeros();
        for distribution in [Distribution::Gaussian, Distribution::Laplace, Distribution::StudentT(5), Distribution::StudentT(3)] {
            self.refill(&mut gradient, distribution, 0);
            for quantizer in [Quantizer::Sign2, Quantizer::Sign1, Quantizer::Reference] {
                let format = self.format(Codec::top_k(K, quantizer, Indices::EliasFano))?;
                let bytes = encode(&format, &HEADER, &mut ErrorFeedback::zeros(&self.layout), &gradient, BETA)?;
                let error = squared_error(&Payload::parse(&bytes, &format)?, &gradient[0]);
                table.figure(&format!("squared error, {distribution}"), &format!("{quantizer:?}"), "of energy", error, "");
            }
        }
        Ok(())
    }
}

/// The squared error of a tensor's sent values over the energy of what they stand for.
fn squared_error(payload: &Payload, sent: &[f32]) -> f64 {
    let of_chunk = |number: usize| {
        let coded = payload.chunk(0, number);
        let pairs = coded.values().into_iter().map(|(index, value)| (f64::from(sent[coded.chunk.position(index)]), f64::from(value)));
        pairs.fold([0.0, 0.0], |[error, energy], (a, v)| [error + (a - v).powi(2), energy + a.powi(2)])
    };
    let chunks = 0..payload.format().grid(0).chunks();
    let [error, energy] = chunks.into_par_iter().map(of_chunk).reduce(|| [0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
    error / energy
}

/// What a miner has before it encodes.
struct Round<'a> {
    bench: &'a Bench,
    feedback: ErrorFeedback,
    gradient: Vec<Vec<f32>>,
}

impl Round<'_> {
    fn payload(&self, format: &Format) -> Result<Vec<u8>, Box<dyn Error>> {
        Ok(encode(format, &HEADER, &mut self.feedback.clone(), &self.gradient, BETA)?)
    }

    fn sizes(&self, table: &mut Table) -> Outcome {
        for quantizer in [Quantizer::Sign2, Quantizer::Sign1] {
            let top_k = [Indices::Packed12, Indices::EliasFano, Indices::Golomb].map(|indices| Codec::top_k(K, quantizer, indices));
            let group_max = [Group::G16, Group::G32, Group::G64].map(|group| Codec::group_max(group, quantizer));
            for codec in top_k.into_iter().chain(group_max) {
                let format = self.bench.format(codec)?;
                let bytes = self.payload(&format)?.len();
                let grid = format.grid(0);
                let values: usize = (0..grid.chunks()).map(|chunk| codec.chunk_k(grid.chunk(chunk).elements())).sum();
                let note = format!("{:.3} bits per value", 8.0 * bytes as f64 / values as f64);
                table.figure("ratio to f32", &codec.to_string(), "", self.bench.f32_bytes() as f64 / bytes as f64, &note);
            }
            let bits = index_bound(K.into()) + f64::from(quantizer.code_bits());
            let codec = format!("top-k {K}, {quantizer:?}");
            let ratio = (32 * CHUNK_ELEMENTS) as f64 / (f64::from(K) * bits);
            table.figure("… and its bound", &codec, "", ratio, &format!("{bits:.3} bits per value"));
        }
        Ok(())
    }

    fn encode(&self, table: &mut Table) -> Outcome {
        for codec in [
            Codec::top_k(K, Quantizer::Sign2, Indices::Golomb),
            Codec::top_k(K, Quantizer::Sign2, Indices::EliasFano),
            Codec::top_k(K, Quantizer::Sign1, Indices::Golomb),
            Codec::group_max(Group::G32, Quantizer::Sign1),
        ] {
            let format = self.bench.format(codec)?;
            let feedback = || self.feedback.clone();
            table.speed("encode", &codec.to_string(), self.bench.f32_bytes(), feedback, |feedback| {
                encode(&format, &HEADER, feedback, &self.gradient, BETA).expect("it was encoded for its size")
            });
        }
        Ok(())
    }

    fn decode(&self, table: &mut Table) -> Outcome {
        for codec in [
            Codec::top_k(K, Quantizer::Sign2, Indices::Packed12),
            Codec::top_k(K, Quantizer::Sign2, Indices::EliasFano),
            Codec::top_k(K, Quantizer::Sign2, Indices::Golomb),
            Codec::group_max(Group::G32, Quantizer::Sign1),
        ] {
            let format = self.bench.format(codec)?;
            let bytes = self.payload(&format)?;
            let payload = Payload::parse(&bytes, &format)?;
            let name = codec.to_string();
            table.speed(
                "parse: hashes, checks",
                &name,
                bytes.len(),
                || (),
                |()| Payload::parse(&bytes, &format).expect("it was parsed before"),
            );
            table.speed(
                "parse, digest known: one hash, checks",
                &name,
                bytes.len(),
                || (),
                |()| Payload::parse_named(&bytes, payload.digest(), &format).expect("it was parsed before"),
            );
            // Golomb codes are Elias-Fano in memory.
            if !matches!(codec.select, Select::TopK { indices: Indices::Golomb, .. }) {
                table.speed("decode from memory", &name, bytes_in_memory(&payload), || (), |()| decode_all(&payload));
            }
            let section = bytes.len().div_ceil(format.sections());
            table.speed("bare BLAKE3", &name, bytes.len(), || (), |()| hash_all(&bytes, section));
        }
        Ok(())
    }
}

/// The bytes that a payload is decoded from.
fn bytes_in_memory(payload: &Payload) -> usize {
    (0..payload.format().sections()).map(|section| payload.section(section).len()).sum()
}

/// Indices and values of all chunks.
fn decode_all(payload: &Payload) {
    (0..payload.format().sections()).into_par_iter().for_each(|section| {
        payload.for_each_chunk(section, |_, _, indices, values| {
            std::hint::black_box((indices, values));
        });
    });
}

/// The hashes of runs of bytes.
fn hash_all(bytes: &[u8], run: usize) {
    bytes.par_chunks(run).for_each(|run| {
        std::hint::black_box(blake3::hash(run));
    });
}

/// Bits per index of the shortest code for sets of `k` of 4096: log2 of their number, over k.
fn index_bound(k: usize) -> f64 {
    let bits: f64 = (0..k).map(|i| ((CHUNK_ELEMENTS - i) as f64 / (k - i) as f64).log2()).sum();
    bits / k as f64
}
