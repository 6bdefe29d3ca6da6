//! One round's payloads on their way to a score sheet: fetched and checked, compared with each other, tried out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use checkpoints::{Close, PAYLOADS_AT_ONCE, Phase, Replica, Run, RunError, Stopwatch, check_envelope, fetch_payload};
use compression::Payload;
use dataset::{Dataset, Split};
use futures::{Stream, StreamExt};
use model::{Llama, ModelError};
use protocol::{
    Assignment, Digest, Envelope, Hotkey, Refusal, Sealed, Signed,
    score::{Entry, Outcome, Standing, Trial},
};

use crate::{
    ValidatorError,
    compare::{Candidate, Compared, History, Sketcher, compare},
    envelopes::LeftOff,
    pace::{Batches, Pace},
};

/// What is known of one seal list's payloads so far, by uid.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    list: Digest,
    gathered: BTreeMap<u16, Gathered>,
    compared: Option<BTreeMap<u16, Compared>>,
    entries: BTreeMap<u16, Entry>,
    /// Who is missing on the list.
    pub left_off: Vec<LeftOff>,
    random: Option<Batch>,
}

/// Sequences and their summed losses under the base state.
#[derive(Clone, Debug)]
struct Batch {
    windows: Vec<Vec<u32>>,
    before: Vec<f64>,
}

/// What measuring needs to look at.
pub(crate) struct Bench<'a> {
    pub run: &'a Run,
    pub dataset: &'a Arc<Dataset>,
    pub model: &'a mut Llama,
    pub watch: &'a mut Stopwatch,
    pub pace: &'a mut Pace,
    /// Sequences per payload; those of the random batch hold for the round's first payload and all after.
    pub batches: Batches,
}

/// Hashes that nobody could foresee.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds {
    /// Of the round's open block.
    pub open: Digest,
    /// Of the first block after the close.
    pub closed: Digest,
}

/// One envelope of the seal list, and whether there is a sound payload behind it.
#[derive(Debug)]
struct Gathered {
    hotkey: Hotkey,
    /// The payload's digest by the envelope, if the envelope is sound.
    claim: Digest,
    found: Result<Signed<Envelope>, Refusal>,
}

/// What became of one envelope of the seal list.
pub(crate) struct Fetched {
    uid: u16,
    hotkey: Hotkey,
    claim: Digest,
    found: Result<(Signed<Envelope>, Payload), Refusal>,
}

/// Whether a miner may still make up for a refusal before the reveal is due.
fn may_improve(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Missing | Refusal::NotRevealed)
}

/// Checks envelopes and fetches their payloads, a few at a time and in this order; what comes is given out as it comes. Each has
/// `patience`, so that a bucket that trickles makes room for the next. `round` and `root` are those of the base state.
pub(crate) fn fetch_all(
    run: Arc<Run>,
    (round, root): (u64, Digest),
    sealed: Vec<(Sealed, Hotkey)>,
    patience: Duration,
) -> impl Stream<Item = Result<Fetched, RunError>> {
    let fetches = sealed.into_iter().map(move |(sealed, owner)| {
        let run = run.clone();
        async move { fetch(&run, round, root, &sealed, owner, patience).await }
    });
    futures::stream::iter(fetches).buffer_unordered(PAYLOADS_AT_ONCE)
}

async fn fetch(run: &Run, round: u64, root: Digest, sealed: &Sealed, hotkey: Hotkey, patience: Duration) -> Result<Fetched, RunError> {
    let uid = sealed.uid;
    let envelope = match check_envelope(run, round, root, hotkey, sealed) {
        Ok(envelope) => envelope,
        Err(refusal) => return Ok(Fetched { uid, hotkey, claim: Digest::default(), found: Err(refusal) }),
    };
    let claim = envelope.value.payload;
    let found = match run.bucket_of(&hotkey).await? {
        Some(bucket) => match tokio::time::timeout(patience, fetch_payload(run, &bucket, &envelope)).await {
            Ok(fetched) => fetched.map(|payload| (envelope, payload)),
            Err(_) => Err(Refusal::Missing),
        },
        None => Err(Refusal::Missing),
    };
    Ok(Fetched { uid, hotkey, claim, found })
}

impl Judgement {
    /// Forgets everything if `list` is another than before.
    pub fn enter(&mut self, list: Digest) {
        if self.list != list {
            *self = Self { list, ..Self::default() };
        }
    }

    /// Whether it is about this list.
    pub fn is_of(&self, list: Digest) -> bool {
        self.list == list
    }

    /// What was found of `uid` on the list.
    pub fn of(&self, list: Digest, uid: u16) -> Option<&Entry> {
        self.entries.get(&uid).filter(|_| self.is_of(list))
    }

    /// What was found of everybody on the list.
    pub fn all(&self, list: Digest) -> &BTreeMap<u16, Entry> {
        static NONE: BTreeMap<u16, Entry> = BTreeMap::new();
        if self.is_of(list) { &self.entries } else { &NONE }
    }

    /// Whether what was gathered has been compared: from then on nothing more comes in.
    pub fn is_compared(&self) -> bool {
        self.compared.is_some()
    }

    /// Whether `uid` still has to be looked for.
    pub fn is_open(&self, uid: u16) -> bool {
        !self.is_compared() && self.gathered.get(&uid).is_none_or(|g| g.found.as_ref().is_err_and(may_improve))
    }

    /// Takes in what was fetched; the payload is kept with the replica, which needs it for the step.
    pub fn gather(&mut self, replica: &mut Replica, fetched: Fetched) {
        let Fetched { uid, hotkey, claim, found } = fetched;
        let found = found.map(|(envelope, payload)| {
            replica.remember(payload);
            envelope
        });
        self.gathered.insert(uid, Gathered { hotkey, claim, found });
    }

    /// Compares the sound payloads with each other and with those before; after that every line has an entry, measured or not.
    pub fn compare(&mut self, replica: &Replica, left_off: Vec<LeftOff>, standing: &Standing, sketcher: &Sketcher, history: &mut History) {
        let (round, judge) = (replica.anchor.round, &replica.terms.judge);
        self.left_off = left_off;
        let score = |hotkey: &Hotkey| standing.miners.iter().find(|s| s.hotkey == *hotkey).map_or(0.0, |s| s.score);
        let sound = self.gathered.iter().filter(|(_, gathered)| gathered.found.is_ok());
        let candidates: Vec<Candidate> = sound
            .filter_map(|(&uid, gathered)| {
                let payload = replica.opened().get(&gathered.claim)?;
                let (norms, sketch) = (compression::norms(payload), sketcher.sketch(payload));
                Some(Candidate { uid, hotkey: gathered.hotkey, norms, sketch, score: score(&gathered.hotkey) })
            })
            .collect();
        let compared = compare(&candidates, history, round, judge);
        history.keep(round, &candidates, &compared, judge);
        let compared: BTreeMap<u16, Compared> = compared.into_iter().map(|compared| (compared.uid, compared)).collect();
        let entry = |(&uid, gathered): (&u16, &Gathered)| {
            let copied = compared.get(&uid).and_then(|c| c.refusal.clone());
            let refusal = gathered.found.as_ref().err().cloned().or(copied);
            let outcome = refusal.map_or(Outcome::Unmeasured, Outcome::Refused);
            (uid, Entry { uid, hotkey: gathered.hotkey, payload: gathered.claim, outcome })
        };
        self.entries = self.gathered.iter().map(entry).collect();
        self.compared = Some(compared);
    }

    /// Those of `uids` that are sound and were not measured yet.
    pub fn unmeasured(&self, uids: &BTreeSet<u16>) -> Vec<u16> {
        let waiting = self.entries.values().filter(|e| e.outcome == Outcome::Unmeasured);
        waiting.map(|e| e.uid).filter(|uid| uids.contains(uid)).collect()
    }

    /// One entry for each line of the list, once all of `sample` was measured.
    pub fn complete(&self, close: &Close, sample: &BTreeSet<u16>) -> Option<Vec<Entry>> {
        if self.compared.is_none() || !self.unmeasured(sample).is_empty() {
            return None;
        }
        close.list.value.entries.iter().map(|e| self.of(close.list.digest(), e.uid).cloned()).collect()
    }

    /// Tries one payload that was found sound; `None` if `uid` has none.
    pub fn measure(
        &mut self,
        bench: &mut Bench<'_>,
        replica: &Replica,
        uid: u16,
        seeds: &Seeds,
    ) -> Result<Option<&mut Entry>, ValidatorError> {
        let compared = self.compared.as_ref().and_then(|compared| compared.get(&uid)).cloned();
        let gathered = self.gathered.get(&uid).and_then(|g| Some((g.found.as_ref().ok()?.clone(), replica.opened().get(&g.claim)?)));
        let (Some(compared), Some((envelope, payload))) = (compared, gathered) else { return Ok(None) };
        let outcome = self.try_payload(bench, replica, (&envelope, payload), &compared, seeds)?;
        let Some(entry) = self.entries.get_mut(&uid) else { return Ok(None) };
        entry.outcome = outcome;
        Ok(Some(entry))
    }

    fn try_payload(
        &mut self,
        bench: &mut Bench<'_>,
        replica: &Replica,
        (envelope, payload): (&Signed<Envelope>, &Payload),
        compared: &Compared,
        seeds: &Seeds,
    ) -> Result<Outcome, ValidatorError> {
        let judge = &replica.terms.judge;
        let length = bench.run.manifest.model.sequence_length;
        let own = assigned(bench, envelope, seeds)?;
        let random = match self.random.take() {
            Some(batch) => batch,
            // the first payload of the round: the base state is not in the model yet
            None => base_losses(bench, replica, random(bench, seeds)?)?,
        };
        let (step, changes) = (judge.step * replica.terms.rule.lr, changes(payload, &compared.clip));
        let (model, start) = (&mut *bench.model, Instant::now());
        let (before, after, random_after) = bench.watch.compute(Phase::Judge, || {
            let before = model.sequence_losses(&own)?;
            let tried = |model: &Llama| Ok((model.sequence_losses(&own)?, model.sequence_losses(&random.windows)?));
            let (after, random_after) = model.stepped(step, &changes, tried)?;
            Ok::<_, ModelError>((before, after, random_after))
        })?;
        bench.pace.count((2 * own.len() + random.windows.len()) as u32, start.elapsed());
        let finite = [&before, &after, &random.before, &random_after].iter().all(|losses| losses.iter().all(|x| x.is_finite()));
        let outcome = if finite {
            let (assigned, random) = (Trial::paired(&before, &after, length), Trial::paired(&random.before, &random_after, length));
            let work = bench.run.manifest.claimed_work(envelope.value.sequences);
            Outcome::Measured { assigned, random, work, norm: compared.norm, overlap: compared.overlap }
        } else {
            Outcome::Refused(Refusal::LossNotFinite)
        };
        self.random = Some(random);
        Ok(outcome)
    }
}

/// A payload's values, those of each tensor times its clip factor.
fn changes(payload: &Payload, clip: &[f32]) -> Vec<Vec<(usize, f32)>> {
    let mut changes = payload.sent();
    for (tensor, factor) in changes.iter_mut().zip(clip).filter(|(_, factor)| **factor != 1.0) {
        tensor.iter_mut().for_each(|(_, value)| *value *= factor);
    }
    changes
}

/// Puts the base state into the model and measures it.
fn base_losses(bench: &mut Bench<'_>, replica: &Replica, windows: Vec<Vec<u32>>) -> Result<Batch, ValidatorError> {
    let model = &mut *bench.model;
    let before = bench.watch.compute(Phase::Judge, || {
        model.load(replica.state.model())?;
        model.sequence_losses(&windows)
    })?;
    Ok(Batch { windows, before })
}

/// Different sequences of those that the envelope says were trained.
fn assigned(bench: &Bench<'_>, envelope: &Signed<Envelope>, seeds: &Seeds) -> Result<Vec<Vec<u32>>, ValidatorError> {
    let manifest = &bench.run.manifest;
    let length = manifest.model.sequence_length;
    let trained = envelope.value.sequences.clamp(1, manifest.full_work());
    let assignment = Assignment::miner(&bench.run.id, &seeds.open, &envelope.signer, bench.dataset.windows(Split::Train, length));
    let places = Assignment::miner(&bench.run.id, &seeds.closed, &envelope.signer, trained).distinct(bench.batches.assigned as usize);
    let windows = places.into_iter().map(|place| bench.dataset.window(Split::Train, assignment.indices(place, 1)[0], length));
    Ok(windows.collect::<Result<_, _>>()?)
}

/// The round's random batch.
fn random(bench: &Bench<'_>, seeds: &Seeds) -> Result<Vec<Vec<u32>>, ValidatorError> {
    let length = bench.run.manifest.model.sequence_length;
    let draws = Assignment::random(&bench.run.id, &seeds.closed, bench.dataset.windows(Split::Train, length));
    let windows = draws.indices(0, bench.batches.random as usize).into_iter();
    Ok(windows.map(|i| bench.dataset.window(Split::Train, i, length)).collect::<Result<_, _>>()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "judge_tests.rs"]
mod tests;
