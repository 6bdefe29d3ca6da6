//! The kernels against `compression`, bit for bit: one body of tests, run by the CPU under the host shim and by a device.
#![allow(clippy::unwrap_used)]

mod driver;
mod host;
mod train;

use std::sync::Arc;

use compression::{
    Codec, EncodeError, ErrorFeedback, Format, Group, Header, Indices, Layout, LayoutError, MergeOver, Payload, Quantizer, Rule, State,
    TensorSpec, TransitionError, Weighted, encode,
};

use crate::image::SOURCE;
use crate::machine::{Machine, Memory, Place};
use crate::{
    Elements, Float, KernelError, Kernels, PseudoGradient, Sections, Shard, Theta, apply, devices, encode as encoding, write_payload,
};
use host::{Host, Order};
use train::check_training;

/// Whole and cut tiles, one row, one column, one element, whole and cut runs, a length whose reference runs are of one element each.
const SHAPES: [&[usize]; 10] = [&[70, 65], &[64, 64], &[3, 43, 30], &[200, 1], &[1, 200], &[1], &[4096], &[9000], &[130, 70], &[1031]];
const WEIGHTS: [f32; 5] = [1.0, 0.3, 1.7, 5.0, 1e-3];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In -1..1.
    fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn subnormal(&mut self) -> f32 {
        f32::from_bits(self.bits() as u32 & 0x807F_FFFF)
    }
}

/// What the elements of a pseudo-gradient look like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Spread,
    /// One magnitude everywhere.
    Ties,
    Zero,
    /// One large value among small ones and zeros: scale pairs whose lower magnitude is zero.
    Outliers,
    /// Elements below the smallest normal number, and some that are just not sent as zero.
    Subnormal,
    /// One element in a hundred near the largest finite number.
    Huge,
}

/// Every selector, index code and quantizer, and several k.
fn codecs() -> [Codec; 10] {
    use Quantizer::{Reference, Sign1, Sign2};
    [
        Codec::top_k(64, Sign2, Indices::Golomb),
        Codec::top_k(4096, Sign2, Indices::EliasFano),
        Codec::top_k(1, Sign1, Indices::Packed12),
        Codec::top_k(300, Sign1, Indices::EliasFano),
        Codec::group_max(Group::G16, Sign2),
        Codec::group_max(Group::G64, Sign1),
        Codec::top_k(64, Reference, Indices::Packed12),
        Codec::top_k(64, Sign2, Indices::Packed12),
        Codec::top_k(300, Reference, Indices::EliasFano),
        Codec::group_max(Group::G32, Reference),
    ]
}

/// Neighbouring tensors have different codecs.
fn mixed(layout: &Arc<Layout>) -> Arc<Format> {
    let codecs = codecs().into_iter().cycle().take(layout.tensors().len()).collect();
    Arc::new(Format::new(layout.clone(), codecs).unwrap())
}

/// Elements of a kind, one after the other.
fn values(kind: Kind, seed: u64, factor: f32) -> impl FnMut() -> f32 {
    let mut random = Random(seed);
    move || match (kind, random.bits() % 100) {
        (Kind::Spread, _) => factor * random.value(),
        (Kind::Ties, _) => factor.copysign(random.value()),
        (Kind::Outliers, 0) => factor * 4.0,
        (Kind::Outliers, 1..4) => factor * random.value() * 0.01,
        (Kind::Zero | Kind::Outliers, _) => 0.0,
        (Kind::Subnormal, 0) => 1e-6 * random.value(),
        (Kind::Subnormal, _) => random.subnormal(),
        (Kind::Huge, 0) => 1e38 * random.value(),
        (Kind::Huge, _) => random.value(),
    }
}

/// Neighbouring tensors have different codecs, all of which a device encodes.
fn mixed_supported(layout: &Arc<Layout>) -> Format {
    let codecs = codecs().into_iter().filter(encoding::is_supported).cycle().take(layout.tensors().len()).collect();
    Format::new(layout.clone(), codecs).unwrap()
}

fn payload(format: &Arc<Format>, kind: Kind, seed: u64, factor: f32) -> Payload {
    let gradient = tensors(format.layout(), kind, seed, factor);
    let bytes = encode(format, &HEADER, &mut ErrorFeedback::zeros(format.layout()), &gradient, 1.0).unwrap();
    Payload::parse(&bytes, format).unwrap()
}

fn layout() -> Arc<Layout> {
    let spec = |(i, shape): (usize, &&[usize])| TensorSpec::new(format!("t{i}"), shape);
    Arc::new(Layout::new(SHAPES.iter().enumerate().map(spec).collect()).unwrap())
}

fn state(layout: &Arc<Layout>, mut element: impl FnMut() -> f32) -> State {
    let tensors = layout.tensors().iter().map(|t| (0..t.len()).map(|_| element()).collect()).collect();
    State::new(layout.clone(), 7, tensors).unwrap()
}

fn rule(lr: f32, over: MergeOver) -> Rule {
    Rule { lr, over, resparsify: None }
}

fn weighted<'a>(payloads: &'a [Payload], weights: &[f32]) -> Vec<Weighted<'a>> {
    payloads.iter().zip(weights).map(|(payload, &weight)| Weighted { payload, weight }).collect()
}

/// [`compression::transition`] with its arithmetic done by a machine; the same checks, the same errors, but for the lossy merges that only the CPU can do.
fn transition(machine: &dyn Machine, state: &mut State, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), KernelError> {
    compression::check_record(state, payloads, rule)?;
    if rule.resparsify.is_some() {
        return Err(KernelError::Lossy);
    }
    if !payloads.is_empty() {
        let memory =
            state.tensors().iter().map(|tensor| machine.put(bytemuck::cast_slice(tensor).to_vec())).collect::<Result<Vec<_>, _>>()?;
        let tensors = memory.iter().zip(state.tensors()).map(|(memory, tensor)| {
            // SAFETY: `memory` holds as many elements, outlives the step, and nobody else knows of it.
            unsafe { Elements::new(memory.address, tensor.len(), Float::F32) }
        });
        apply::step(machine, &Theta { tensors: tensors.collect(), shadow: Vec::new() }, payloads, rule)?;
        let stepped = memory.iter().map(|memory| machine.get(memory)).collect::<Result<Vec<_>, _>>()?;
        for (theta, bytes) in state.tensors_mut().iter_mut().zip(stepped) {
            bytemuck::cast_slice_mut(theta).copy_from_slice(&bytes);
        }
    }
    state.round += 1;
    Ok(())
}

/// Whether `machine` takes `state` where `compression::transition` takes it; what it did to it otherwise.
fn compare(machine: &dyn Machine, state: &State, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), String> {
    let (mut expected, mut found) = (state.clone(), state.clone());
    compression::transition(&mut expected, payloads, rule).unwrap();
    transition(machine, &mut found, payloads, rule).map_err(|error| error.to_string())?;
    assert_eq!(found.round, expected.round);
    assert_ne!(expected.tensors(), state.tensors(), "a step that changes nothing shows nothing");
    for (t, (expected, found)) in expected.tensors().iter().zip(found.tensors()).enumerate() {
        if let Some(i) = (0..expected.len()).find(|&i| expected[i].to_bits() != found[i].to_bits()) {
            return Err(format!("{:?}, element {i}: {:e} instead of {:e}", SHAPES[t], found[i], expected[i]));
        }
    }
    Ok(())
}

fn check_records_of_one_to_five(machine: &dyn Machine) {
    let layout = layout();
    let kinds = [Kind::Spread, Kind::Ties, Kind::Zero, Kind::Outliers, Kind::Spread];
    // Norms that differ by orders of magnitude, so that the larger ones are clipped.
    let formats = codecs().map(|codec| Arc::new(Format::uniform(layout.clone(), codec).unwrap()));
    assert!(formats.iter().any(|format| format.sections_of(SHAPES.len() - 1).len() > 1), "no tensor takes several launches");
    let mut random = Random(99);
    let state = state(&layout, || random.value());
    for (number, format) in formats.into_iter().chain([mixed(&layout)]).enumerate() {
        let payloads: Vec<Payload> = (0..5).map(|r| payload(&format, kinds[r], r as u64, [0.02, 0.7, 1.0, 0.1, 9.0][r])).collect();
        let over = [MergeOver::Senders, MergeOver::All][number % 2];
        for count in [1, 2, 5] {
            let found = compare(machine, &state, &weighted(&payloads[..count], &WEIGHTS), &rule(0.65, over));
            assert_eq!(found, Ok(()), "{over:?}, {count} payloads, {:?}", format.codecs());
        }
    }
}

fn check_subnormals(machine: &dyn Machine) {
    let layout = layout();
    let codec = Codec::top_k(700, Quantizer::Sign2, Indices::EliasFano);
    let format = Arc::new(Format::uniform(layout.clone(), codec).unwrap());
    let payloads: Vec<Payload> = [1, 2, 3].map(|seed| payload(&format, Kind::Spread, seed, 1e-4)).into();
    let mut random = Random(5);
    let state = state(&layout, || if random.bits().is_multiple_of(3) { -0.0 } else { random.subnormal() });
    for over in [MergeOver::Senders, MergeOver::All] {
        // Products, sums and steps lie below the smallest normal number; what only the first payload sent adds up to zero.
        let found = compare(machine, &state, &weighted(&payloads, &[1e-44, 3e-36, 2e-40]), &rule(1e-36, over));
        assert_eq!(found, Ok(()), "{over:?}");
    }
}

fn check_refusals(machine: &dyn Machine) {
    let layout = layout();
    let payloads = [payload(&mixed(&layout), Kind::Spread, 1, 1.0)];
    let before = state(&layout, || f32::MAX);
    let refusal = |payloads: &[Weighted<'_>], lr: f32| {
        let mut state = before.clone();
        let rule = rule(lr, MergeOver::Senders);
        let expected = compression::transition(&mut state, payloads, &rule).unwrap_err();
        match transition(machine, &mut state, payloads, &rule) {
            Err(KernelError::Transition(found)) => assert_eq!(found, expected),
            other => panic!("{other:?} instead of {expected}"),
        }
        assert!(state == before, "a refused record changed the state");
        expected
    };
    assert!(matches!(refusal(&weighted(&payloads, &[1.0]), f32::MAX), TransitionError::NonFinite(_)));
    assert!(matches!(refusal(&weighted(&payloads, &[0.0]), 1.0), TransitionError::Weight { .. }));
}

/// A lossy merge is refused as one only where the CPU would do it; where the CPU refuses too, for the same reason.
fn check_lossy_merges(machine: &dyn Machine) {
    let lossless = layout();
    let lossy = Arc::new(lossless.with_residual().unwrap());
    let payloads = [payload(&mixed(&lossless), Kind::Spread, 1, 1.0)];
    let again = Some(Codec::top_k(64, Quantizer::Sign2, Indices::Golomb));
    let reference = Some(Codec::top_k(64, Quantizer::Reference, Indices::Packed12));
    for (layout, resparsify) in [(&lossless, again), (&lossy, None), (&lossy, reference), (&lossy, again)] {
        let before = state(layout, || 0.0);
        let rule = Rule { resparsify, ..rule(1.0, MergeOver::Senders) };
        let record = weighted(&payloads, &[1.0]);
        let expected = compression::transition(&mut before.clone(), &record, &rule);
        let mut found = before.clone();
        match (transition(machine, &mut found, &record, &rule), expected) {
            (Err(KernelError::Transition(found)), Err(expected)) => assert_eq!(found, expected),
            (Err(KernelError::Lossy), Ok(())) => {}
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
        assert!(found == before, "a refused record changed the state");
    }
}

fn check_transitions(machine: &dyn Machine) {
    check_records_of_one_to_five(machine);
    check_many_payloads(machine);
    check_subnormals(machine);
    check_refusals(machine);
    check_lossy_merges(machine);
}

/// More payloads than are staged at once, and a shadow.
fn check_many_payloads(machine: &dyn Machine) {
    let layout = layout();
    let format = Arc::new(Format::uniform(layout.clone(), Codec::top_k(64, Quantizer::Sign2, Indices::Golomb)).unwrap());
    let payloads: Vec<Payload> = (0..103).map(|r| payload(&format, Kind::Spread, r, 0.1)).collect();
    let weights: Vec<f32> = (0..103).map(|r| 1.0 + r as f32 * 0.37).collect();
    let mut random = Random(3);
    let mut state = state(&layout, || random.value());
    let theta = Buffers::new(machine, state.tensors(), Float::F32);
    let shadow = Buffers::new(machine, state.tensors(), Float::Bf16);
    let rule = rule(0.9, MergeOver::Senders);
    let in_place = Theta { tensors: theta.elements(), shadow: shadow.elements() };
    apply::step(machine, &in_place, &weighted(&payloads, &weights), &rule).unwrap();
    compression::transition(&mut state, &weighted(&payloads, &weights), &rule).unwrap();
    assert_eq!(theta.read(), *state.tensors());
    assert_eq!(shadow.read(), rounded(state.tensors(), Float::Bf16));
    apply::step(machine, &in_place, &[], &rule).unwrap();
    assert_eq!(theta.read(), *state.tensors());
}

/// Tensors in a machine's memory.
struct Buffers<'a> {
    machine: &'a dyn Machine,
    memory: Vec<Memory>,
    lens: Vec<usize>,
    float: Float,
}

impl<'a> Buffers<'a> {
    fn new(machine: &'a dyn Machine, tensors: &[Vec<f32>], float: Float) -> Self {
        let bytes = |tensor: &Vec<f32>| match float {
            Float::F32 => tensor.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>(),
            Float::Bf16 => tensor.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect(),
        };
        let memory = tensors.iter().map(|tensor| machine.put(bytes(tensor)).unwrap()).collect();
        Self { machine, memory, lens: tensors.iter().map(Vec::len).collect(), float }
    }

    fn elements(&self) -> Vec<Elements> {
        // SAFETY: the memory has as many elements and lives as long as this; a test does one thing after the other.
        let elements = |(memory, &len): (&Memory, _)| unsafe { Elements::new(memory.address, len, self.float) };
        self.memory.iter().zip(&self.lens).map(elements).collect()
    }

    fn read(&self) -> Vec<Vec<f32>> {
        let values = |bytes: Vec<u8>| match self.float {
            Float::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Float::Bf16 => bytes.as_chunks().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect(),
        };
        self.memory.iter().map(|memory| values(self.machine.get(memory).unwrap())).collect()
    }
}

fn rounded(tensors: &[Vec<f32>], float: Float) -> Vec<Vec<f32>> {
    let round = |value: &f32| if float == Float::Bf16 { half::bf16::from_f32(*value).to_f32() } else { *value };
    tensors.iter().map(|tensor| tensor.iter().map(round).collect()).collect()
}

const HEADER: Header = Header { run: [1; 32], round: 7, hotkey: [2; 32], base_root: [3; 32] };
const FLOATS: [Float; 2] = [Float::F32, Float::Bf16];

/// Two rounds of `machine` on these tensors, where error feedback moves from one memory into another and then stays, against `compression::encode`.
fn compare_encoding(machine: &dyn Machine, format: &Format, [before, after]: [&[Vec<f32>]; 2], [theta, feedback]: [Float; 2], beta: f32) {
    let [before, after] = [before, after].map(|tensors| rounded(tensors, theta));
    let difference = |(before, after): (&Vec<f32>, &Vec<f32>)| before.iter().zip(after).map(|(before, after)| before - after).collect();
    let gradient: Vec<Vec<f32>> = before.iter().zip(&after).map(difference).collect();
    let mut oracle = ErrorFeedback::zeros(format.layout());
    let [first, second] = [oracle.tensors(), &rounded(&gradient, feedback)].map(|tensors| Buffers::new(machine, tensors, feedback));
    let [before, after] = [before, after].map(|tensors| Buffers::new(machine, &tensors, theta));
    for (from, to) in [(&first, &second), (&second, &second)] {
        let tensors =
            PseudoGradient { before: before.elements(), after: after.elements(), feedback: from.elements(), next_feedback: to.elements() };
        let found = encoding::encode_to(machine, Vec::new(), format, &HEADER, &tensors, beta).unwrap();
        let expected = encode(format, &HEADER, &mut oracle, &gradient, beta).unwrap();
        let next = rounded(oracle.tensors(), feedback);
        let codecs = format.codecs();
        for (tensor, (found, expected)) in to.read().iter().zip(&next).enumerate() {
            let differs = (0..expected.len()).find(|&i| found[i].to_bits() != expected[i].to_bits());
            assert_eq!(differs.map(|i| (i, found[i], expected[i])), None, "{:?}, {}", SHAPES[tensor], codecs[tensor]);
        }
        assert!(found == expected, "not the payload's bytes, {codecs:?}");
        oracle = ErrorFeedback::from_tensors(format.layout(), next).unwrap();
    }
}

fn tensors(layout: &Layout, kind: Kind, seed: u64, factor: f32) -> Vec<Vec<f32>> {
    let mut value = values(kind, seed, factor);
    layout.tensors().iter().map(|t| (0..t.len()).map(|_| value()).collect()).collect()
}

fn check_encodings(machine: &dyn Machine) {
    let layout = layout();
    let zeros = tensors(&layout, Kind::Zero, 0, 0.0);
    for (number, codec) in codecs().into_iter().filter(encoding::is_supported).enumerate() {
        let format = Format::uniform(layout.clone(), codec).unwrap();
        let before = tensors(&layout, Kind::Spread, number as u64, 1.0);
        let kinds = [Kind::Spread, Kind::Ties, Kind::Zero, Kind::Outliers, Kind::Subnormal, Kind::Huge];
        for (kind, theta) in kinds.into_iter().zip(FLOATS.into_iter().cycle().skip(number)) {
            let after = tensors(&layout, kind, 10 + number as u64, 0.02);
            let before = if matches!(kind, Kind::Spread) { &before } else { &zeros };
            compare_encoding(machine, &format, [before, &after], [theta, FLOATS[number / 2 % 2]], 0.95);
        }
    }
    let (before, after) = (tensors(&layout, Kind::Spread, 1, 1.0), tensors(&layout, Kind::Spread, 2, 1.0));
    for (theta, feedback) in FLOATS.into_iter().flat_map(|theta| FLOATS.map(|feedback| (theta, feedback))) {
        compare_encoding(machine, &mixed_supported(&layout), [&before, &after], [theta, feedback], 0.3);
    }
}

fn check_encoding_refusals(machine: &dyn Machine) {
    let layout = layout();
    let zeros = tensors(&layout, Kind::Zero, 0, 0.0);
    let refusal = |format: &Format, after: &[Vec<f32>], [theta, feedback]: [Float; 2], change: &dyn Fn(&mut PseudoGradient)| {
        let [before, after] = [&zeros, after].map(|tensors| Buffers::new(machine, tensors, theta));
        let feedback = Buffers::new(machine, &zeros, feedback);
        let [before, after, feedback] = [before.elements(), after.elements(), feedback.elements()];
        let mut tensors = PseudoGradient { before, after, next_feedback: feedback.clone(), feedback };
        change(&mut tensors);
        encoding::encode_to(machine, Vec::new(), format, &HEADER, &tensors, 1.0).unwrap_err()
    };
    let format = mixed_supported(&layout);
    let name = &layout.tensors()[7].name;
    // The largest finite number stays finite in f32 error feedback only.
    for (value, floats) in
        [(f32::NAN, [Float::F32; 2]), (f32::NEG_INFINITY, [Float::Bf16, Float::F32]), (f32::MAX, [Float::F32, Float::Bf16])]
    {
        let mut after = zeros.clone();
        after[7][8999] = value;
        let refused = refusal(&format, &after, floats, &|_| ());
        assert!(matches!(&refused, KernelError::Encode(EncodeError::NonFinite(tensor)) if tensor == name), "{value}: {refused}");
    }
    let refused = refusal(&format, &zeros, [Float::F32; 2], &|tensors| _ = tensors.after.pop());
    assert!(matches!(refused, KernelError::Layout(LayoutError::Count { .. })), "{refused}");
    let refused = refusal(&format, &zeros, [Float::F32; 2], &|tensors| tensors.before.clear());
    assert!(matches!(refused, KernelError::Layout(LayoutError::Count { found: 0, .. })), "{refused}");
    let refused = refusal(&format, &zeros, [Float::F32; 2], &|tensors| tensors.feedback.swap(0, 1));
    assert!(matches!(refused, KernelError::Layout(LayoutError::Data { .. })), "{refused}");
    let refused = refusal(&format, &zeros, [Float::F32, Float::Bf16], &|tensors| tensors.next_feedback = tensors.before.clone());
    assert!(matches!(refused, KernelError::Float { expected: Float::Bf16, found: Float::F32, .. }), "{refused}");
    let refused = refusal(&mixed(&layout), &zeros, [Float::F32; 2], &|_| ());
    assert!(matches!(refused, KernelError::Codec(_)), "{refused}");
}

/// Three sections, of which tensors share the second.
fn layout_of_sections() -> Arc<Layout> {
    let shapes: [&[usize]; 5] = [&[70, 65], &[1, 64 * 1015], &[130, 70], &[64 * 1020, 1], &[9000]];
    let spec = |(i, shape): (usize, &&[usize])| TensorSpec::new(format!("t{i}"), shape);
    Arc::new(Layout::new(shapes.iter().enumerate().map(spec).collect()).unwrap())
}

/// Ranks that encode their shares, block by block, against `compression::encode`, for two rounds.
fn check_shards(kernels: &Kernels) {
    let layout = layout_of_sections();
    let format = Arc::new(Format::uniform(layout.clone(), Codec::top_k(64, Quantizer::Sign2, Indices::Golomb)).unwrap());
    assert_eq!(format.sections(), 3);
    let mut oracle = ErrorFeedback::from_tensors(&layout, tensors(&layout, Kind::Spread, 5, 0.01)).unwrap();
    for (round, (ranks, place)) in [(1, None), (5, Some(Place::Host))].into_iter().enumerate() {
        let [before, after] = [1, 2].map(|seed| tensors(&layout, Kind::Spread, seed + 2 * round as u64, 1.0));
        let on_machine = [&before, &after].map(|tensors| Buffers::new(&*kernels.machine, tensors, Float::F32));
        let [starts, ends] = on_machine.each_ref().map(|tensors| tensors.elements().into_iter().enumerate().collect::<Vec<_>>());
        let mut shards: Vec<Shard> = (0..ranks).map(|rank| kernels.shard(&format, rank, ranks, place).unwrap()).collect();
        let encode_shards = |shards: &mut [Shard]| {
            for shard in &mut *shards {
                starts.chunks(2).for_each(|block| shard.begin(block));
                ends.chunks(3).for_each(|block| shard.encode(block, 0.9));
            }
            let sections: Vec<Sections> = shards.iter_mut().map(|shard| shard.finish().unwrap()).collect();
            write_payload(Vec::new(), &format, &HEADER, &sections).unwrap()
        };
        shards.iter_mut().for_each(|shard| shard.load_feedback(oracle.tensors()).unwrap());
        let gradient: Vec<Vec<f32>> = before.iter().zip(&after).map(|(b, a)| b.iter().zip(a).map(|(b, a)| b - a).collect()).collect();
        for _ in 0..2 {
            let found = encode_shards(&mut shards);
            assert!(found == encode(&format, &HEADER, &mut oracle, &gradient, 0.9).unwrap(), "not the payload's bytes, {ranks} ranks");
            let mut feedback: Vec<Vec<f32>> = layout.tensors().iter().map(|spec| vec![f32::NAN; spec.len()]).collect();
            shards.iter().for_each(|shard| shard.feedback().unload(&mut feedback).unwrap());
            assert!(feedback == oracle.tensors(), "not the error feedback, {ranks} ranks");
        }
    }
}

fn check_shard_refusals(kernels: &Kernels) {
    let layout = layout_of_sections();
    let format = Arc::new(Format::uniform(layout.clone(), Codec::top_k(64, Quantizer::Sign1, Indices::Golomb)).unwrap());
    let zeros = tensors(&layout, Kind::Zero, 0, 0.0);
    let mut broken = zeros.clone();
    broken[4][4096] = f32::INFINITY;
    let [zeros_there, broken_there] = [&zeros, &broken].map(|tensors| Buffers::new(&*kernels.machine, tensors, Float::F32));
    let mut shard = kernels.shard(&format, 0, 1, None).unwrap();
    type Tensors = Vec<(usize, Elements)>;
    let mut outcome = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = zeros_there.elements().into_iter().enumerate().collect();
        change(&mut tensors);
        shard.begin(&zeros_there.elements().into_iter().enumerate().collect::<Vec<_>>());
        shard.encode(&tensors[..1], 1.0);
        shard.encode(&tensors[1..], 1.0);
        shard.finish()
    };
    let refused = outcome(&|tensors| tensors[4].1 = broken_there.elements()[4]).unwrap_err();
    assert!(matches!(&refused, KernelError::Encode(EncodeError::NonFinite(name)) if name == "t4"), "{refused}");
    let refused = outcome(&|tensors| _ = tensors.pop()).unwrap_err();
    assert!(matches!(refused, KernelError::Unfinished { .. }), "{refused}");
    let refused = outcome(&|tensors| tensors[0].1 = tensors[1].1).unwrap_err();
    assert!(matches!(refused, KernelError::Layout(LayoutError::Data { .. })), "{refused}");
    let refused = outcome(&|tensors| tensors[0].0 = 5).unwrap_err();
    assert!(matches!(refused, KernelError::Layout(LayoutError::Count { .. })), "{refused}");
    // what was refused is forgotten
    let sections = outcome(&|_| ()).unwrap();
    assert!(write_payload(Vec::new(), &format, &HEADER, &[sections.clone(), sections]).is_ok(), "what is there twice counts once");
    assert!(matches!(write_payload(Vec::new(), &format, &HEADER, &[]), Err(KernelError::Unfinished { done: 0, of: 3 })));
    assert!(matches!(shard.load_feedback(&zeros[1..]), Err(KernelError::Layout(LayoutError::Count { .. }))));
    let reference = Arc::new(Format::uniform(layout, Codec::top_k(64, Quantizer::Reference, Indices::Packed12)).unwrap());
    assert!(matches!(kernels.shard(&reference, 0, 1, None), Err(KernelError::Codec(_))));
}

fn check_all(machine: &dyn Machine) {
    check_transitions(machine);
    check_encodings(machine);
    check_encoding_refusals(machine);
}

#[test]
fn the_source_on_the_cpu_is_the_transition() {
    for order in [Order::Ascending, Order::Descending] {
        check_transitions(&Host::build(SOURCE, order));
    }
}

#[test]
fn the_source_on_the_cpu_is_the_encoder() {
    for order in [Order::Ascending, Order::Descending] {
        let host = Host::build(SOURCE, order);
        check_encodings(&host);
        check_encoding_refusals(&host);
    }
}

#[test]
fn the_source_on_the_cpu_encodes_in_shards() {
    let kernels = Kernels { machine: Arc::new(Host::build(SOURCE, Order::Ascending)) };
    check_shards(&kernels);
    check_shard_refusals(&kernels);
}

#[test]
fn the_source_on_the_cpu_trains() {
    for order in [Order::Ascending, Order::Descending] {
        check_training(&Kernels { machine: Arc::new(Host::build(SOURCE, order)) });
    }
}

/// The shim is worth something only if it notices what it is there to notice: without any of the barriers, bits differ or the program stops.
#[test]
fn every_missing_barrier_is_noticed() {
    let layout = layout();
    // Not k = 4096: there each thread would add only to the coordinates that it clears.
    let format = Arc::new(Format::uniform(layout.clone(), codecs()[3]).unwrap());
    let payloads: Vec<Payload> = (0..5).map(|r| payload(&format, Kind::Spread, r, 1.0)).collect();
    // Small beside the sums, whose last bits tell their order.
    let state = state(&layout, || 1e-3);
    let rule = rule(0.65, MergeOver::Senders);
    let [zeros, spread, ties, outliers] = [Kind::Zero, Kind::Spread, Kind::Ties, Kind::Outliers].map(|kind| tensors(&layout, kind, 4, 0.5));
    let sign2 = Format::uniform(layout.clone(), codecs()[0]).unwrap();
    let is_right = |source: &str, order| {
        let kernels = Kernels { machine: Arc::new(Host::build(source, order)) };
        let host = &*kernels.machine;
        let encodes = |after: &[Vec<f32>], format: &Format| compare_encoding(host, format, [&zeros, after], [Float::F32; 2], 0.9);
        let all = || {
            check_training(&kernels);
            assert_eq!(compare(host, &state, &weighted(&payloads, &WEIGHTS), &rule), Ok(()));
            encodes(&spread, &format);
            encodes(&outliers, &format);
            encodes(&spread, &sign2);
            encodes(&ties, &sign2);
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(all)).is_ok()
    };
    assert!(is_right(SOURCE, Order::Ascending) && is_right(SOURCE, Order::Descending));
    let barriers = ["__syncthreads();", "__syncwarp();"];
    for (at, barrier) in barriers.into_iter().flat_map(|barrier| SOURCE.match_indices(barrier)) {
        let broken = [&SOURCE[..at], &SOURCE[at + barrier.len()..]].concat();
        assert!(!is_right(&broken, Order::Ascending) || !is_right(&broken, Order::Descending), "{}", &SOURCE[at - 200..at + 60]);
    }
}

#[test]
fn an_old_driver_is_told_what_to_do() {
    let words = KernelError::OldDriver { version: 12_080 }.to_string();
    assert!(words.contains("CUDA 12.8") && words.contains("580"), "{words}");
}

/// Says so where there is no device, rather than passing unseen, and fails there if TRIBUTARY_GPU is set.
#[test]
fn a_device_gives_the_same_bits() {
    let devices = devices();
    if devices.is_empty() {
        assert!(std::env::var_os("TRIBUTARY_GPU").is_none(), "there is no CUDA device here");
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            Kernels::load(0, Some(folder.path())),
            Err(KernelError::NoDriver | KernelError::NoDevice { .. } | KernelError::Driver(_))
        ));
        eprintln!("no CUDA device: skipped");
    }
    for (number, device) in devices.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let kernels = Kernels::load(number, Some(folder.path())).unwrap();
        check_all(&*kernels.machine);
        check_shards(&kernels);
        check_shard_refusals(&kernels);
        check_training(&kernels);
        eprintln!("device {number}, {}, {}: the same bits as the CPU", device.name, device.arch);
    }
    assert!(Kernels::load(devices.len(), None).is_err(), "there is no such device");
}
