//! Measures one round's payloads.

use std::{collections::BTreeMap, sync::Arc};

use checkpoints::{Close, Phase, Replica, Run, RunError, Stopwatch, check_envelope, fetch_payload};
use compression::{Payload, try_step};
use dataset::{Dataset, Split};
use futures::{Stream, StreamExt};
use model::Llama;
use protocol::{
    Assignment, Digest, Envelope, Hotkey, Refusal, Sealed, Signed,
    score::{Entry, Outcome, Trial},
};

use crate::ValidatorError;

/// Payloads that are fetched at a time: one slow bucket delays nobody else's payload.
const FETCHES: usize = 8;

/// The measurements of one seal list's payloads so far, by uid.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    list: Digest,
    entries: BTreeMap<u16, Entry>,
    random: Option<Batch>,
}

/// Sequences and their summed losses under the base state.
#[derive(Clone, Debug)]
struct Batch {
    windows: Vec<Vec<u32>>,
    before: Vec<f64>,
}

/// What judging needs to look at.
pub(crate) struct Bench<'a> {
    pub run: &'a Run,
    pub dataset: &'a Arc<Dataset>,
    pub model: &'a mut Llama,
    pub watch: &'a mut Stopwatch,
}

/// Hashes that nobody could foresee.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds {
    /// Of the round's open block.
    pub open: Digest,
    /// Of the first block after the close.
    pub closed: Digest,
}

/// What became of one envelope of the seal list so far.
pub(crate) struct Fetched {
    uid: u16,
    hotkey: Hotkey,
    found: Result<(Signed<Envelope>, Payload), Refusal>,
    /// The payload's digest by the envelope, if the envelope is sound.
    claim: Digest,
}

/// Whether a miner may still make up for a refusal before the reveal is due.
fn may_improve(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Missing | Refusal::NotRevealed)
}

/// Checks envelopes and fetches their payloads, in order, a few at a time. `round` and `root` are those of the base state.
pub(crate) fn fetch_all(
    run: Arc<Run>,
    round: u64,
    root: Digest,
    sealed: Vec<(Sealed, Hotkey)>,
) -> impl Stream<Item = Result<Fetched, RunError>> {
    let fetches = sealed.into_iter().map(move |(sealed, owner)| {
        let run = run.clone();
        async move { fetch(&run, round, root, &sealed, owner).await }
    });
    futures::stream::iter(fetches).buffered(FETCHES)
}

async fn fetch(run: &Run, round: u64, root: Digest, sealed: &Sealed, hotkey: Hotkey) -> Result<Fetched, RunError> {
    let uid = sealed.uid;
    let envelope = match check_envelope(run, round, root, hotkey, sealed) {
        Ok(envelope) => envelope,
        Err(refusal) => return Ok(Fetched { uid, hotkey, found: Err(refusal), claim: Digest::default() }),
    };
    let claim = envelope.value.payload;
    let found = match run.bucket_of(&hotkey).await? {
        Some(bucket) => fetch_payload(run, &bucket, &envelope).await.map(|payload| (envelope, payload)),
        None => Err(Refusal::Missing),
    };
    Ok(Fetched { uid, hotkey, found, claim })
}

impl Judgement {
    /// Forgets everything if `list` is another than before.
    pub fn enter(&mut self, list: Digest) {
        if self.list != list {
            *self = Self { list, ..Self::default() };
        }
    }

    /// What was found of `uid` on the list.
    pub fn of(&self, list: Digest, uid: u16) -> Option<&Entry> {
        self.entries.get(&uid).filter(|_| self.list == list)
    }

    /// Whether `uid` still has to be looked at.
    pub fn is_open(&self, uid: u16) -> bool {
        self.entries.get(&uid).is_none_or(|e| e.outcome.refusal().is_some_and(may_improve))
    }

    /// One entry for each line of the list; `None` while one was never looked at.
    pub fn complete(&self, close: &Close) -> Option<Vec<Entry>> {
        close.list.value.entries.iter().map(|e| self.of(close.list.digest(), e.uid).cloned()).collect()
    }

    /// Measures what was fetched.
    pub fn judge(
        &mut self,
        bench: &mut Bench<'_>,
        replica: &mut Replica,
        fetched: Fetched,
        seeds: &Seeds,
    ) -> Result<&Entry, ValidatorError> {
        let Fetched { uid, hotkey, found, claim } = fetched;
        let outcome = match found {
            Err(refusal) => Outcome::Refused(refusal),
            Ok((envelope, payload)) => {
                replica.remember(&payload);
                self.measure(bench, replica, &payload, &envelope, seeds)?
            }
        };
        self.entries.insert(uid, Entry { uid, hotkey, payload: claim, outcome });
        Ok(&self.entries[&uid])
    }

    fn measure(
        &mut self,
        bench: &mut Bench<'_>,
        replica: &Replica,
        payload: &Payload,
        envelope: &Signed<Envelope>,
        seeds: &Seeds,
    ) -> Result<Outcome, ValidatorError> {
        let manifest = &bench.run.manifest;
        let length = manifest.model.sequence_length;
        let own_windows = assigned(bench, envelope, seeds)?;
        let base = replica.state.model();
        let random_windows = match &self.random {
            None => Some(random(bench, seeds)?),
            Some(_) => None,
        };
        let step = replica.terms.judge.step * replica.terms.rule.lr;
        let round = replica.anchor.round;
        let tried = try_step(&replica.state, payload, step).map_err(|source| RunError::Transition { round, source })?;
        let (model, known) = (&mut *bench.model, &mut self.random);
        let losses = bench.watch.measure(Phase::Judge, || {
            tokio::task::block_in_place(|| {
                model.load(base)?;
                if let Some(windows) = random_windows {
                    let before = model.sequence_losses(&windows)?;
                    *known = Some(Batch { windows, before });
                }
                let own_before = model.sequence_losses(&own_windows)?;
                model.load(&tried)?;
                let own_after = model.sequence_losses(&own_windows)?;
                let random_after = known.as_ref().map(|b| model.sequence_losses(&b.windows)).transpose()?;
                Ok::<_, model::ModelError>((own_before, own_after, random_after.unwrap_or_default()))
            })
        })?;
        let (own_before, own_after, random_after) = losses;
        let before = self.random.as_ref().map(|b| b.before.clone()).unwrap_or_default();
        if [&own_before, &own_after, &before, &random_after].iter().any(|l| l.iter().any(|x| !x.is_finite())) {
            return Ok(Outcome::Refused(Refusal::LossNotFinite));
        }
        let assigned = Trial::paired(&own_before, &own_after, length);
        Ok(Outcome::Measured { assigned, random: Trial::paired(&before, &random_after, length) })
    }
}

/// Sequences drawn from those that the envelope says were trained.
fn assigned(bench: &Bench<'_>, envelope: &Signed<Envelope>, seeds: &Seeds) -> Result<Vec<Vec<u32>>, ValidatorError> {
    let manifest = &bench.run.manifest;
    let length = manifest.model.sequence_length;
    let per_round = u64::from(manifest.inner.steps) * u64::from(manifest.inner.batch);
    let trained = envelope.value.sequences.clamp(1, per_round);
    let assignment = Assignment::miner(&bench.run.id, &seeds.open, &envelope.signer, bench.dataset.windows(Split::Train, length));
    let draws = Assignment::miner(&bench.run.id, &seeds.closed, &envelope.signer, trained).indices(0, manifest.judge.sequences as usize);
    let windows = draws.into_iter().map(|place| {
        let index = assignment.indices(place, 1)[0];
        bench.dataset.window(Split::Train, index, length)
    });
    Ok(windows.collect::<Result<_, _>>()?)
}

/// The round's random batch.
fn random(bench: &Bench<'_>, seeds: &Seeds) -> Result<Vec<Vec<u32>>, ValidatorError> {
    let length = bench.run.manifest.model.sequence_length;
    let draws = Assignment::random(&bench.run.id, &seeds.closed, bench.dataset.windows(Split::Train, length));
    let windows = draws.indices(0, bench.run.manifest.judge.sequences as usize).into_iter();
    Ok(windows.map(|i| bench.dataset.window(Split::Train, i, length)).collect::<Result<_, _>>()?)
}
