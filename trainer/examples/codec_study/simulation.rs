//! One run: R miners in turn, on one θ.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};
use compression::{CHUNK_ELEMENTS, ErrorFeedback, Header, MergeOver, Rule, State};
use dataset::{Dataset, Split, bits_per_byte};
use model::{InnerOptimizer, Llama};
use protocol::{Assignment, Digest, Hotkey, Manifest, Merge, RunConfig};
use safetensors::{Dtype, tensor::TensorView};

use crate::{
    RunArgs, Switch,
    coding::{Coder, Message, Variant, accumulated},
    report::{Loss, Report, RoundFigures, Setting},
    statistics::{self, Sample},
};

/// Held-out sequences that are measured at once.
const BATCH: usize = 16;

/// A run under way.
pub struct Simulation<'a> {
    args: &'a RunArgs,
    manifest: Manifest,
    dataset: Dataset,
    held_out: Vec<Vec<u32>>,
    model: Llama,
    miners: Vec<Miner>,
    state: State,
    coder: Coder,
}

/// What a miner keeps from round to round.
struct Miner {
    hotkey: Hotkey,
    optimizer: InnerOptimizer,
    feedback: ErrorFeedback,
}

impl<'a> Simulation<'a> {
    /// Reads config and data and makes the initial weights.
    pub fn new(args: &'a RunArgs, variant: Variant) -> Result<Self> {
        let text = fs::read_to_string(&args.config).with_context(|| args.config.display().to_string())?;
        let mut config = RunConfig::parse(&text).with_context(|| args.config.display().to_string())?;
        config.inner.steps = args.inner_steps.unwrap_or(config.inner.steps);
        ensure!(config.outer.resparsify.is_none(), "re-sparsified merges are not simulated");
        let mut manifest = Manifest::draft(config)?;
        // initial weights follow from the launch: each seed is another chain
        manifest.chain.genesis = seed_digest(args.seed);
        let dataset = Dataset::open(&args.data, &args.data.join(".cache"))?;
        ensure!(dataset.manifest().tokenizer.name == manifest.data.tokenizer, "the data set has another tokenizer than the config");
        let layout = manifest.layout();
        let model = Llama::new(&manifest.model, args.device)?;
        let miner = |number: u8| {
            let optimizer = InnerOptimizer::new(&model, &manifest.inner)?;
            Ok(Miner { hotkey: Hotkey([number; 32]), optimizer, feedback: ErrorFeedback::zeros(&layout) })
        };
        let miners = (0..args.miners).map(miner).collect::<Result<_>>()?;
        let held_out = held_out(&dataset, manifest.model.sequence_length, args.eval_sequences)?;
        let state = protocol::genesis::initial_state(&manifest);
        let coder = Coder::new(variant, layout)?;
        Ok(Self { args, manifest, dataset, held_out, model, miners, state, coder })
    }

    /// All rounds.
    pub fn run(mut self, report: &mut Report) -> Result<()> {
        report.setting = Some(self.setting());
        report.values_per_chunk = self.coder.sparse().map_or(CHUNK_ELEMENTS, |(select, ..)| select.count(CHUNK_ELEMENTS));
        let mut bytes = Vec::new();
        self.evaluate(None, report)?;
        for round in 0..self.args.rounds {
            let (messages, training) = self.round(round, report)?;
            bytes.extend(messages.iter().map(|message| self.coder.bytes(message)));
            let start = Instant::now();
            let rule = self.rule(round);
            self.coder.merge(&mut self.state, &messages, &rule)?;
            report.seconds.code += start.elapsed().as_secs_f64();
            if (round + 1).is_multiple_of(self.args.eval_every) || round + 1 == self.args.rounds {
                self.evaluate(Some(training), report)?;
            }
        }
        report.finish(&bytes, self.state.layout().parameters());
        Ok(())
    }

    fn setting(&self) -> Setting {
        Setting {
            config: self.manifest.name.clone(),
            parameters: self.state.layout().parameters(),
            miners: self.args.miners,
            inner_steps: self.manifest.inner.steps,
            batch: self.manifest.inner.batch,
            sequence_length: self.manifest.model.sequence_length,
            beta: self.manifest.compression.beta,
        }
    }

    fn rule(&self, round: u64) -> Rule {
        let outer = &self.manifest.outer;
        let over = match outer.merge {
            Merge::Senders => MergeOver::Senders,
            Merge::All => MergeOver::All,
        };
        Rule { lr: outer.lr.at(round), over, resparsify: None }
    }

    /// Every miner's message, and their mean training loss.
    fn round(&mut self, round: u64, report: &mut Report) -> Result<(Vec<Message>, f64)> {
        let (mut messages, mut samples, mut training) = (Vec::new(), Vec::new(), 0.0);
        let beta = self.manifest.compression.beta;
        for number in 0..self.miners.len() {
            let start = Instant::now();
            let (gradient, loss) = self.train(number, round)?;
            training += loss / self.miners.len() as f64;
            report.seconds.train += start.elapsed().as_secs_f64();

            let start = Instant::now();
            let miner = &mut self.miners[number];
            let dump = self.args.dump.as_deref().filter(|_| dumped(round, self.args.rounds));
            let measured = self.args.stats == Switch::On && self.coder.sparse().is_some();
            let sample = (measured || dump.is_some()).then(|| accumulated(&miner.feedback, &gradient, beta));
            if let (Some(folder), Some(tensors)) = (dump, &sample) {
                save(&folder.join(format!("round-{round:04}-miner-{number}.safetensors")), &self.state, tensors)?;
            }
            report.seconds.statistics += start.elapsed().as_secs_f64();

            let start = Instant::now();
            let header = Header { run: [0; 32], round, hotkey: miner.hotkey.0, base_root: [0; 32] };
            let message = self.coder.send(&header, &mut miner.feedback, gradient, beta)?;
            report.seconds.code += start.elapsed().as_secs_f64();
            if let (true, Some(accumulated), Some(sent)) = (measured, sample, self.coder.chunks(&message)) {
                samples.push(Sample { accumulated, sent });
            }
            messages.push(message);
        }
        let start = Instant::now();
        if let Some(codec) = self.coder.sparse().filter(|_| !samples.is_empty()) {
            report
                .figures
                .push(RoundFigures { round, classes: statistics::measure(self.state.layout(), self.coder.grids(), codec, &samples) });
        }
        report.seconds.statistics += start.elapsed().as_secs_f64();
        Ok((messages, training))
    }

    /// H inner steps of one miner from θ, as a real miner takes them: its moments stay, the schedule follows the round.
    fn train(&mut self, number: usize, round: u64) -> Result<(Vec<Vec<f32>>, f64)> {
        let (inner, length) = (&self.manifest.inner, self.manifest.model.sequence_length);
        let Miner { hotkey, optimizer, .. } = &mut self.miners[number];
        let open = Digest::of(&round.to_le_bytes());
        let assignment = Assignment::miner(&seed_digest(self.args.seed), &open, hotkey, self.dataset.windows(Split::Train, length));
        self.model.load(self.state.tensors())?;
        let mut losses = 0.0;
        for done in 0..inner.steps {
            let indices = assignment.indices(u64::from(done) * u64::from(inner.batch), inner.batch as usize);
            let windows = indices.into_iter().map(|i| self.dataset.window(Split::Train, i, length));
            let batch = windows.collect::<Result<Vec<_>, _>>()?;
            losses += optimizer.step_at(&mut self.model, &batch, round * u64::from(inner.steps) + u64::from(done))?.loss;
        }
        let end = self.model.parameters()?;
        let pairs = self.state.tensors().iter().zip(&end);
        let gradient = pairs.map(|(start, end)| start.iter().zip(end).map(|(s, e)| s - e).collect()).collect();
        Ok((gradient, losses / f64::from(inner.steps)))
    }

    fn evaluate(&mut self, training: Option<f64>, report: &mut Report) -> Result<()> {
        let start = Instant::now();
        self.model.load(self.state.tensors())?;
        let mut nats = 0.0;
        for batch in self.held_out.chunks(BATCH) {
            nats += self.model.sequence_losses(batch)?.iter().sum::<f64>();
        }
        let tokens = self.held_out.len() * self.manifest.model.sequence_length;
        let bytes = tokens as f64 * self.dataset.bytes_per_token(Split::HeldOut);
        let loss = Loss { round: self.state.round, bits_per_byte: bits_per_byte(nats, bytes.round() as u64), training };
        report.losses.push(loss);
        report.seconds.evaluate += start.elapsed().as_secs_f64();
        eprintln!("{} seed {}: round {}: {:.4} bits per byte", report.variant, report.seed, loss.round, loss.bits_per_byte);
        Ok(())
    }
}

fn seed_digest(seed: u64) -> Digest {
    Digest::of(&[b"codec study".as_slice(), &seed.to_le_bytes()].concat())
}

/// Windows spread evenly over the held-out text, the same ones for every run.
fn held_out(dataset: &Dataset, length: usize, count: u64) -> Result<Vec<Vec<u32>>> {
    let windows = dataset.windows(Split::HeldOut, length);
    let count = count.clamp(1, windows);
    Ok((0..count).map(|i| dataset.window(Split::HeldOut, i * windows / count, length)).collect::<Result<_, _>>()?)
}

/// Whether a round's accumulators are kept: one of the early ones, one in the middle, the last.
fn dumped(round: u64, rounds: u64) -> bool {
    [rounds / 4, rounds / 2, rounds.saturating_sub(1)].contains(&round)
}

fn save(path: &Path, state: &State, tensors: &[Vec<f32>]) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|tensor| tensor.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let specs = state.layout().tensors().iter().zip(&bytes);
    let views = specs.map(|(spec, bytes)| Ok((spec.name.clone(), TensorView::new(Dtype::F32, spec.shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>>>()?;
    safetensors::serialize_to_file(views, None, path).with_context(|| path.display().to_string())
}
