//! The kernel against `compression::transition`, bit for bit: one body of tests, run by the CPU under the host shim and by a device.
#![allow(clippy::unwrap_used)]

mod host;

use std::sync::Arc;

use compression::{
    Codec, ErrorFeedback, Format, Group, Header, Indices, Layout, MergeOver, Payload, Quantizer, Rule, State, TensorSpec, TransitionError,
    Weighted, encode,
};

use crate::plan::{self, Step};
use crate::{KernelError, Kernels, devices};
use host::{Host, Order};

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

fn payload(format: &Arc<Format>, kind: Kind, seed: u64, factor: f32) -> Payload {
    let layout = format.layout();
    let mut random = Random(seed);
    let mut value = |_| match (kind, random.bits() % 100) {
        (Kind::Spread, _) => factor * random.value(),
        (Kind::Ties, _) => factor.copysign(random.value()),
        (Kind::Outliers, 0) => factor * 4.0,
        (Kind::Outliers, 1..4) => factor * random.value() * 0.01,
        (Kind::Zero | Kind::Outliers, _) => 0.0,
    };
    let gradient: Vec<Vec<f32>> = layout.tensors().iter().map(|t| (0..t.len()).map(&mut value).collect()).collect();
    let header = Header { run: [1; 32], round: 7, hotkey: [2; 32], base_root: [3; 32] };
    let bytes = encode(format, &header, &mut ErrorFeedback::zeros(layout), &gradient, 1.0).unwrap();
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

/// Whether `step` takes `state` where `compression::transition` takes it; what it did to it otherwise.
fn compare(step: &impl Step, state: &State, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), String> {
    let (mut expected, mut found) = (state.clone(), state.clone());
    compression::transition(&mut expected, payloads, rule).unwrap();
    plan::transition(step, &mut found, payloads, rule).map_err(|error| error.to_string())?;
    assert_eq!(found.round, expected.round);
    assert_ne!(expected.tensors(), state.tensors(), "a step that changes nothing shows nothing");
    for (t, (expected, found)) in expected.tensors().iter().zip(found.tensors()).enumerate() {
        if let Some(i) = (0..expected.len()).find(|&i| expected[i].to_bits() != found[i].to_bits()) {
            return Err(format!("{:?}, element {i}: {:e} instead of {:e}", SHAPES[t], found[i], expected[i]));
        }
    }
    Ok(())
}

fn check_records_of_one_to_five(step: &impl Step) {
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
            let found = compare(step, &state, &weighted(&payloads[..count], &WEIGHTS), &rule(0.65, over));
            assert_eq!(found, Ok(()), "{over:?}, {count} payloads, {:?}", format.codecs());
        }
    }
}

fn check_subnormals(step: &impl Step) {
    let layout = layout();
    let codec = Codec::top_k(700, Quantizer::Sign2, Indices::EliasFano);
    let format = Arc::new(Format::uniform(layout.clone(), codec).unwrap());
    let payloads: Vec<Payload> = [1, 2, 3].map(|seed| payload(&format, Kind::Spread, seed, 1e-4)).into();
    let mut random = Random(5);
    let state = state(&layout, || if random.bits().is_multiple_of(3) { -0.0 } else { random.subnormal() });
    for over in [MergeOver::Senders, MergeOver::All] {
        // Products, sums and steps lie below the smallest normal number; what only the first payload sent adds up to zero.
        let found = compare(step, &state, &weighted(&payloads, &[1e-44, 3e-36, 2e-40]), &rule(1e-36, over));
        assert_eq!(found, Ok(()), "{over:?}");
    }
}

fn check_refusals(step: &impl Step) {
    let layout = layout();
    let payloads = [payload(&mixed(&layout), Kind::Spread, 1, 1.0)];
    let before = state(&layout, || f32::MAX);
    let refusal = |payloads: &[Weighted<'_>], lr: f32| {
        let mut state = before.clone();
        let rule = rule(lr, MergeOver::Senders);
        let expected = compression::transition(&mut state, payloads, &rule).unwrap_err();
        match plan::transition(step, &mut state, payloads, &rule) {
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
fn check_lossy_merges(step: &impl Step) {
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
        match (plan::transition(step, &mut found, &record, &rule), expected) {
            (Err(KernelError::Transition(found)), Err(expected)) => assert_eq!(found, expected),
            (Err(KernelError::Lossy), Ok(())) => {}
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
        assert!(found == before, "a refused record changed the state");
    }
}

fn check_all(step: &impl Step) {
    check_records_of_one_to_five(step);
    check_subnormals(step);
    check_refusals(step);
    check_lossy_merges(step);
}

#[test]
fn the_source_on_the_cpu_is_the_transition() {
    let source = crate::image::SOURCE.to_str().unwrap();
    for order in [Order::Ascending, Order::Descending] {
        check_all(&Host::build(source, order));
    }
}

/// The shim is worth something only if it notices what it is there to notice.
#[test]
fn every_missing_barrier_is_noticed() {
    let source = crate::image::SOURCE.to_str().unwrap();
    let barriers: Vec<usize> = source.match_indices("__syncthreads();").map(|(at, _)| at).collect();
    assert_eq!(barriers.len(), 2);
    let layout = layout();
    // Not k = 4096: there each thread would add only to the coordinates that it clears.
    let format = Arc::new(Format::uniform(layout.clone(), codecs()[3]).unwrap());
    let payloads: Vec<Payload> = (0..3).map(|r| payload(&format, Kind::Spread, r, 1.0)).collect();
    let state = state(&layout, || 1.0);
    let rule = rule(0.65, MergeOver::Senders);
    for at in barriers {
        let broken = [&source[..at], &source[at + "__syncthreads();".len()..]].concat();
        let fails = |order| compare(&Host::build(&broken, order), &state, &weighted(&payloads, &WEIGHTS), &rule).is_err();
        assert!(fails(Order::Ascending) || fails(Order::Descending), "{}", &source[at..at + 60]);
    }
}

/// Says so where there is no device, rather than passing unseen.
#[test]
fn a_device_is_the_transition() {
    let devices = devices();
    if devices.is_empty() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            Kernels::load(0, folder.path()),
            Err(KernelError::NoDriver | KernelError::NoDevice { .. } | KernelError::Driver(_))
        ));
        eprintln!("no CUDA device: skipped");
    }
    for (number, device) in devices.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        check_all(&Kernels::load(number, folder.path()).unwrap());
        eprintln!("device {number}, {}, {}: the same bits as the CPU", device.name, device.arch);
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(Kernels::load(devices.len(), folder.path()).is_err(), "there is no such device");
}
