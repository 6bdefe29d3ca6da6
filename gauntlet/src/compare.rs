//! A round's payloads side by side: norms against the round's median, positions against those of other payloads.

use std::collections::{BTreeSet, VecDeque};

use compression::{Format, Payload};
use protocol::{Assignment, Digest, Hotkey, Judge, Refusal};

/// Chunks of a payload that are compared: at k = 64 enough for an error of half a percent.
const CHUNKS: usize = 256;

/// A part of a payload's positions, ascending: of the same chunks for every payload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sketch(Vec<(u32, u16)>);

/// Which chunks are compared: drawn once, and known to this validator alone, so that nobody can change just these.
#[derive(Debug)]
pub(crate) struct Sketcher(Vec<(usize, usize)>);

impl Sketcher {
    /// Draws the chunks; `salt` is secret.
    pub fn new(format: &Format, salt: &[u8; 32]) -> Self {
        let counts: Vec<usize> = (0..format.codecs().len()).map(|tensor| format.grid(tensor).chunks()).collect();
        let all: usize = counts.iter().sum();
        let mut drawn: BTreeSet<usize> = (0..all.min(CHUNKS)).collect();
        if all > CHUNKS {
            let draws = Assignment::random(&Digest::default(), &Digest(*salt), all as u64).indices(0, CHUNKS);
            drawn = draws.into_iter().map(|i| i as usize).collect();
        }
        let find = |mut number: usize| {
            let tensor = counts.iter().position(|&count| {
                let here = number < count;
                number -= if here { 0 } else { count };
                here
            });
            (tensor.unwrap_or_default(), number)
        };
        Self(drawn.into_iter().map(find).collect())
    }

    /// The compared part of a payload.
    pub fn sketch(&self, payload: &Payload) -> Sketch {
        let chunks = (0u32..).zip(&self.0);
        let sent = chunks.flat_map(|(number, &(tensor, chunk))| {
            let values = payload.chunk(tensor, chunk).values().into_iter();
            values.filter(|(_, value)| *value != 0.0).map(move |(index, _)| (number, index as u16))
        });
        Sketch(sent.collect())
    }
}

impl Sketch {
    /// The share of its positions that `other` has too; 0 if it has none.
    pub fn overlap(&self, other: &Self) -> f64 {
        let (mut i, mut j, mut common) = (0, 0, 0usize);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            common += usize::from(a == b);
            i += usize::from(a <= b);
            j += usize::from(b <= a);
        }
        common as f64 / self.0.len().max(1) as f64
    }
}

/// One sound payload of the round.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub uid: u16,
    pub hotkey: Hotkey,
    /// Norm of each tensor's values.
    pub norms: Vec<f64>,
    pub sketch: Sketch,
    /// Its owner's score before the round: of two equal payloads of one round the one of the better known miner counts.
    pub score: f64,
}

/// What the comparison says of a payload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compared {
    pub uid: u16,
    /// Why it is refused, if it is.
    pub refusal: Option<Refusal>,
    /// What each tensor's values are multiplied by before the payload is tried: as the merge clips norms to their median.
    pub clip: Vec<f32>,
    /// Its norm relative to the round's median.
    pub norm: f64,
    /// The largest share of positions in common with another payload.
    pub overlap: f64,
}

/// The payloads of the rounds before.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<(u64, Originals)>);

/// A round's payloads that were nobody else's, by uid and owner.
type Originals = Vec<(u16, Hotkey, Sketch)>;

impl History {
    /// Keeps a round's payloads, and as many rounds as the manifest says. Copies are not kept: their owners' originals, sent again after
    /// they were not applied, would look like copies of them.
    pub fn keep(&mut self, round: u64, candidates: &[Candidate], compared: &[Compared], judge: &Judge) {
        self.0.retain(|(known, _)| *known < round && known + u64::from(judge.history) >= round);
        let copied = |c: &&Candidate| compared.iter().any(|o| o.uid == c.uid && matches!(o.refusal, Some(Refusal::Copy { .. })));
        let originals = candidates.iter().filter(|c| !copied(c));
        self.0.push_back((round, originals.map(|c| (c.uid, c.hotkey, c.sketch.clone())).collect()));
        while self.0.len() > judge.history as usize {
            self.0.pop_front();
        }
    }

    /// Whether a payload of `uid` was seen in `round`, and was nobody else's.
    pub fn has(&self, round: u64, uid: u16) -> bool {
        self.0.iter().any(|(known, originals)| *known == round && originals.iter().any(|(original, ..)| *original == uid))
    }

    /// Another miner's payload of the rounds before that `candidate` has most in common with: share, uid, round. A miner's own do not
    /// count: what was not applied goes back into its error feedback and is sent again.
    fn closest(&self, candidate: &Candidate) -> Option<(f64, u16, u64)> {
        let all = self.0.iter().flat_map(|(round, kept)| kept.iter().map(move |(uid, hotkey, other)| (*round, *uid, hotkey, other)));
        let others = all.filter(|(_, _, hotkey, _)| **hotkey != candidate.hotkey);
        others.map(|(round, uid, _, other)| (candidate.sketch.overlap(other), uid, round)).max_by(|a, b| a.0.total_cmp(&b.0))
    }
}

/// Compares a round's sound payloads with each other and with those before. A payload that is mostly another miner's is refused; then whatever is far above the median norm of the rest.
///
/// Within a round nobody can know another's payload, since it is sealed. Equal ones are one party's under several names, and one of them counts.
pub(crate) fn compare(candidates: &[Candidate], history: &History, round: u64, judge: &Judge) -> Vec<Compared> {
    let mut order: Vec<&Candidate> = candidates.iter().collect();
    order.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.uid.cmp(&b.uid)));
    let mut originals: Vec<&Candidate> = Vec::new();
    let mut compared = Vec::new();
    for candidate in order {
        let same_round = originals.iter().map(|other| (candidate.sketch.overlap(&other.sketch), other.uid, round));
        let closest = same_round.chain(history.closest(candidate)).max_by(|a, b| a.0.total_cmp(&b.0));
        let (overlap, uid, of_round) = closest.unwrap_or((0.0, candidate.uid, round));
        let copied = overlap >= judge.overlap;
        if !copied {
            originals.push(candidate);
        }
        let refusal = copied.then(|| Refusal::Copy { uid, round: of_round, percent: percent(overlap) });
        compared.push(Compared { uid: candidate.uid, refusal, clip: Vec::new(), norm: 0.0, overlap });
    }
    let medians = medians(&originals);
    let typical = lower_median(originals.iter().map(|c| total(&c.norms)).collect());
    for compared in &mut compared {
        let Some(candidate) = candidates.iter().find(|c| c.uid == compared.uid) else { continue };
        compared.norm = if typical > 0.0 { total(&candidate.norms) / typical } else { 1.0 };
        compared.clip = candidate.norms.iter().zip(&medians).map(|(norm, median)| clip(*norm, *median)).collect();
        if compared.refusal.is_none() && compared.norm > judge.outlier {
            compared.refusal = Some(Refusal::Outlier { percent: percent(compared.norm) });
        }
    }
    compared.sort_by_key(|c| c.uid);
    compared
}

fn percent(share: f64) -> u32 {
    (share * 100.0).round() as u32
}

/// As in the merge: values above the median norm are scaled down to it.
fn clip(norm: f64, median: f64) -> f32 {
    if norm > median { (median / norm) as f32 } else { 1.0 }
}

fn total(norms: &[f64]) -> f64 {
    norms.iter().map(|n| n * n).sum::<f64>().sqrt()
}

fn medians(candidates: &[&Candidate]) -> Vec<f64> {
    let tensors = candidates.first().map_or(0, |c| c.norms.len());
    (0..tensors).map(|tensor| lower_median(candidates.iter().map(|c| c.norms[tensor]).collect())).collect()
}

fn lower_median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use compression::{Codec, ErrorFeedback, Header, Indices, Layout, Quantizer, TensorSpec};

    use super::*;

    const SHAPES: [&[usize]; 3] = [&[300, 200], &[64], &[128, 64]];

    fn format() -> Arc<Format> {
        let specs = SHAPES.iter().enumerate().map(|(i, shape)| TensorSpec { name: format!("t{i}"), shape: shape.to_vec() });
        let layout = Arc::new(Layout::new(specs.collect()).unwrap());
        Arc::new(Format::uniform(layout, Codec::top_k(64, Quantizer::Sign1, Indices::Golomb)).unwrap())
    }

    /// A payload of pseudo-random values, `scale` times as large; `changed` of the elements are another seed's.
    fn payload(seed: u64, scale: f32, changed: f64, other: u64) -> Payload {
        let format = format();
        let mut next = {
            let mut state = 1u64;
            move || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as f64 / f64::from(1u32 << 31)
            }
        };
        let value = |seed: u64, t: usize, i: usize| {
            let hash = Digest::derive("test", &[&seed.to_le_bytes(), &(t as u64).to_le_bytes(), &(i as u64).to_le_bytes()]).0;
            (f32::from(hash[0]) - 127.5) * f32::from(hash[1]) * 1e-7 * scale
        };
        let lengths = format.layout().tensors().iter().map(TensorSpec::len).enumerate();
        let gradient: Vec<Vec<f32>> = lengths
            .map(|(t, len)| (0..len).map(|i| if next() < changed { value(other, t, i) } else { value(seed, t, i) }).collect())
            .collect();
        let header = Header { run: [0; 32], round: 0, hotkey: [0; 32], base_root: [0; 32] };
        let bytes = compression::encode(&format, &header, &mut ErrorFeedback::zeros(format.layout()), &gradient, 0.95).unwrap();
        Payload::parse(&bytes, &format).unwrap()
    }

    fn candidate(uid: u16, payload: &Payload, score: f64) -> Candidate {
        let sketcher = Sketcher::new(payload.format(), &[7; 32]);
        Candidate { uid, hotkey: Hotkey([uid as u8; 32]), norms: compression::norms(payload), sketch: sketcher.sketch(payload), score }
    }

    fn refused(compared: &[Compared]) -> Vec<(u16, Option<Refusal>)> {
        compared.iter().map(|c| (c.uid, c.refusal.clone())).collect()
    }

    #[test]
    fn work_of_its_own_passes_and_a_changed_copy_does_not() {
        let judge = Judge::default();
        let mut own: Vec<Candidate> = (1..5).map(|uid| candidate(uid, &payload(u64::from(uid), 1.0, 0.0, 0), 1.0)).collect();
        let compared = compare(&own, &History::default(), 4, &judge);
        assert!(compared.iter().all(|c| c.refusal.is_none() && c.overlap < 0.1), "{compared:?}");
        // uid 2's work with a tenth of the elements changed, by someone better known and by someone less known
        for (score, loser) in [(2.0, 2), (0.5, 9)] {
            own.truncate(4);
            own.push(candidate(9, &payload(2, 1.0, 0.1, 77), score));
            let compared = compare(&own, &History::default(), 4, &judge);
            let copies: Vec<u16> =
                compared.iter().filter(|c| matches!(c.refusal, Some(Refusal::Copy { round: 4, .. }))).map(|c| c.uid).collect();
            assert_eq!(copies, [loser], "{:?}", refused(&compared));
        }
    }

    #[test]
    fn what_was_sent_in_a_round_before_is_refused_and_its_owner_is_not() {
        let judge = Judge { history: 2, ..Judge::default() };
        let mut history = History::default();
        let earlier = [candidate(1, &payload(1, 1.0, 0.0, 0), 1.0)];
        history.keep(6, &earlier, &[], &judge);
        let now = [candidate(1, &payload(11, 1.0, 0.0, 0), 1.0), candidate(2, &payload(1, 1.0, 0.1, 5), 9.0)];
        let compared = compare(&now, &history, 7, &judge);
        assert_eq!(compared[0].refusal, None);
        assert!(matches!(compared[1].refusal, Some(Refusal::Copy { uid: 1, round: 6, percent: 75..=95 })), "{compared:?}");
        // what was not applied is sent again by its owner
        let again = [candidate(1, &payload(1, 1.0, 0.0, 0), 1.0)];
        assert_eq!(compare(&again, &history, 7, &judge)[0].refusal, None);
        let again = [candidate(3, &payload(1, 1.0, 0.0, 0), 1.0)];
        assert_eq!(compare(&again, &history, 7, &judge)[0].refusal, Some(Refusal::Copy { uid: 1, round: 6, percent: 100 }));
        history.keep(7, &now, &compared, &judge);
        history.keep(8, &[], &[], &judge);
        assert!(history.has(7, now[0].uid) && !history.has(7, 99) && (1..9).all(|uid| !history.has(6, uid)));
        assert_eq!(compare(&again, &history, 9, &judge)[0].refusal, None, "beyond the manifest's history");
    }

    #[test]
    fn norms_are_clipped_as_in_the_merge_and_outliers_refused() {
        let judge = Judge::default();
        let scales = [(1, 1.0), (2, 1.0), (3, 2.0), (4, 10.0), (5, 0.1)];
        let all: Vec<Candidate> = scales.iter().map(|&(uid, scale)| candidate(uid, &payload(u64::from(uid), scale, 0.0, 0), 1.0)).collect();
        let compared = compare(&all, &History::default(), 0, &judge);
        let of = |uid: u16| compared.iter().find(|c| c.uid == uid).unwrap();
        assert!(matches!(of(4).refusal, Some(Refusal::Outlier { percent: 900..=1100 })), "{:?}", of(4));
        assert!([1, 2, 3, 5].iter().all(|uid| of(*uid).refusal.is_none()), "{:?}", refused(&compared));
        assert!((of(3).norm - 2.0).abs() < 0.1 && of(3).clip.iter().all(|c| (c - 0.5).abs() < 0.05), "{:?}", of(3));
        assert!(of(5).clip.iter().all(|c| *c == 1.0));
    }

    #[test]
    fn nothing_overlaps_with_nothing() {
        let zero = candidate(1, &payload(1, 0.0, 0.0, 0), 0.0);
        let all = [zero.clone(), Candidate { uid: 2, hotkey: Hotkey([2; 32]), ..zero }];
        assert!(compare(&all, &History::default(), 0, &Judge::default()).iter().all(|c| c.refusal.is_none() && c.overlap == 0.0));
        assert!(compare(&[], &History::default(), 0, &Judge::default()).is_empty());
    }

    #[test]
    fn large_payloads_are_compared_by_a_secret_part() {
        let specs = vec![TensorSpec { name: "t".into(), shape: vec![64 * 40, 64 * 40] }];
        let format = Format::uniform(Arc::new(Layout::new(specs).unwrap()), Codec::top_k(64, Quantizer::Sign1, Indices::Golomb)).unwrap();
        let (one, other) = (Sketcher::new(&format, &[1; 32]), Sketcher::new(&format, &[2; 32]));
        assert!(one.0.len() > CHUNKS * 8 / 10 && one.0.len() <= CHUNKS);
        assert!(one.0.iter().all(|&(tensor, chunk)| tensor == 0 && chunk < 1600));
        assert!(one.0.iter().filter(|c| other.0.contains(c)).count() < CHUNKS / 2);
    }
}
