//! One round of a miner with everything but the network: how long each part takes, and the share of inner steps.
//!
//!     round_bench [CONFIG] [DEVICES] [STEPS] [PAYLOADS]      # configs/1b.toml cuda:0 30 20
//!
//! The config's model, batch and codec; tokens are made up. The miner's own payload stands for all of the record's. What is written goes to a folder
//! below the working directory, so to its disk.

use std::error::Error;
use std::time::Instant;

use checkpoints::Home;
use compression::{Header, MergeOver, Payload, Rule, State, Weighted, transition};
use model::{Activations, Devices, Ranks};
use protocol::{Digest, Hasher, Hotkey, Manifest, RunConfig, SealContext, genesis};
use trainer::Encoder;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What took how long, in order; and whether it is training, or happens while the network is waited for.
#[derive(Default)]
struct Clock(Vec<(&'static str, f64, Kind)>);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Inner,
    Alone,
    Beside,
}

impl Clock {
    fn time<T>(&mut self, what: &'static str, kind: Kind, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let result = work()?;
        self.0.push((what, begin.elapsed().as_secs_f64(), kind));
        Ok(result)
    }

    fn report(&self) {
        let sum = |kind| self.0.iter().filter(|(.., of)| *of == kind).map(|(_, seconds, _)| seconds).sum::<f64>();
        let round = sum(Kind::Inner) + sum(Kind::Alone);
        for (what, seconds, kind) in &self.0 {
            let share = 100.0 * seconds / round;
            let beside = if *kind == Kind::Beside { "  while the network is waited for, or the next round trains" } else { "" };
            println!("{what:<28} {seconds:>9.3} s {share:>7.2} %{beside}");
        }
        println!("inner steps are {:.2} % of {round:.2} s", 100.0 * sum(Kind::Inner) / round);
    }
}

fn named<'a>(state: &'a State, tensors: &'a [Vec<f32>]) -> Vec<(String, &'a [f32])> {
    state.layout().tensors().iter().zip(tensors).map(|(spec, tensor)| (spec.name.clone(), tensor.as_slice())).collect()
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.into());
    let (config, devices) = (next("configs/1b.toml"), next("cuda:0").parse::<Devices>()?);
    let (steps, payloads) = (next("30").parse::<u32>()?, next("20").parse::<usize>()?);
    let manifest = Manifest::draft(RunConfig::parse(&std::fs::read_to_string(&config)?)?)?;
    let (inner, shape, format) = (&manifest.inner, &manifest.model, manifest.format());
    let folder = tempfile::tempdir_in(".")?;
    let home = Home::open(folder.path())?;
    let mut state = genesis::initial_state(&manifest);
    let mut ranks = Ranks::new(shape, inner, &devices, Activations::default())?;
    let (mut encoder, why_host) = Encoder::new(&devices, &format, false)?;
    if let Some(reason) = why_host {
        println!("payloads are encoded on the CPU: {reason}");
    }
    let batch = |step: u32| -> Vec<Vec<u32>> {
        let token = |i: usize| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(step) % shape.vocab_size as u32;
        (0..inner.batch as usize).map(|s| (0..=shape.sequence_length).map(|i| token(s * 7919 + i)).collect()).collect()
    };
    let (run, hotkey, base_root) = (Digest([1; 32]), Hotkey([2; 32]), Digest(state.root()));
    let header = Header { run: run.0, round: 0, hotkey: hotkey.0, base_root: base_root.0 };
    let beta = manifest.compression.beta;
    // once for all that is allocated or compiled in the first round
    ranks.load(state.model())?;
    encoder.begin(&mut ranks)?;
    ranks.step_at(&batch(0), 0)?;
    encoder.encode(&mut ranks, state.model(), &format, &header, beta)?;

    let mut clock = Clock::default();
    clock.time("θ to the devices", Kind::Alone, || {
        ranks.load(state.model())?;
        Ok(encoder.begin(&mut ranks)?)
    })?;
    let stager = ranks.stager();
    clock.time("inner steps", Kind::Inner, || {
        let mut next = stager.stage(&batch(0))?;
        for step in 0..steps {
            let current = std::mem::replace(&mut next, stager.stage(&batch(step + 1))?);
            ranks.step_staged(current, u64::from(step))?;
        }
        Ok(())
    })?;
    let bytes = clock.time("encode", Kind::Alone, || Ok(encoder.encode(&mut ranks, state.model(), &format, &header, beta)?))?;
    clock.time("seal", Kind::Alone, || {
        let mut sealed = Hasher::default();
        SealContext { run, round: 0, hotkey, base_root }.segments(&[3; 32], &bytes).for_each(|segment| sealed.update(&segment));
        Ok(sealed.digest())
    })?;
    let feedback = clock.time("error feedback to the host", Kind::Beside, || Ok(encoder.feedback(&format)()?))?;
    clock.time("error feedback to the disk", Kind::Beside, || Ok(home.save("miner", &0, &named(&state, feedback.tensors()))?))?;
    drop(feedback);
    let moments = clock.time("moments to the host", Kind::Beside, || Ok(ranks.export()?))?;
    let both = [named(&state, &moments.first), named(&state, &moments.second)];
    let both = both.into_iter().enumerate().flat_map(|(i, group)| group.into_iter().map(move |(name, data)| (format!("{i}/{name}"), data)));
    clock.time("moments to the disk", Kind::Beside, || Ok(home.save("optimizer", &0, &both.collect::<Vec<_>>())?))?;
    drop(moments);
    let parsed = clock.time("check the payloads", Kind::Beside, || {
        Ok((0..payloads).map(|_| Payload::parse(&bytes, &format)).collect::<std::result::Result<Vec<_>, _>>()?)
    })?;
    let record: Vec<Weighted<'_>> = parsed.iter().map(|payload| Weighted { payload, weight: 1.0 }).collect();
    let rule = Rule { lr: 0.7, over: MergeOver::Senders, resparsify: None };
    clock.time("step", Kind::Alone, || Ok(transition(&mut state, &record, &rule)?))?;
    clock.time("state root", Kind::Alone, || Ok(state.root()))?;
    clock.time("θ to the disk", Kind::Beside, || Ok(home.save("state", &0, &named(&state, state.tensors()))?))?;
    println!(
        "{config} on {devices}: {:.3e} parameters, {steps} inner steps, {payloads} payloads of {:.1} MB",
        state.layout().parameters() as f64,
        bytes.len() as f64 / 1e6
    );
    clock.report();
    Ok(())
}
