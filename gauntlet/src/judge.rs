//! Measures one round's payloads.

use std::{collections::BTreeMap, sync::Arc};

use checkpoints::{Close, Phase, Replica, Run, RunError, Stopwatch, check_envelope, fetch_payload};
use compression::{Payload, try_step};
use dataset::{Dataset, Split};
use model::Llama;
use protocol::{
    Assignment, Digest, Envelope, Hotkey, Refusal, Signed,
    score::{Entry, Outcome, Trial},
};

use crate::ValidatorError;

/// One round's measurements so far, by uid.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    round: Option<u64>,
    pub entries: BTreeMap<u16, Entry>,
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

/// Whether a miner may still make up for a refusal before the reveal is due.
pub(crate) fn may_improve(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Missing | Refusal::NotRevealed)
}

impl Judgement {
    /// Forgets everything if `round` is another than before.
    pub fn enter(&mut self, round: u64) {
        if self.round != Some(round) {
            *self = Self { round: Some(round), ..Self::default() };
        }
    }

    /// The entries of `round`; none if it was not judged.
    pub fn of(&self, round: u64) -> BTreeMap<u16, Entry> {
        if self.round == Some(round) { self.entries.clone() } else { BTreeMap::new() }
    }

    /// Whether `uid` still has to be looked at.
    pub fn open(&self, uid: u16) -> bool {
        match self.entries.get(&uid).map(|e| &e.outcome) {
            None => true,
            Some(Outcome::Refused(refusal)) => may_improve(refusal),
            Some(Outcome::Measured { .. }) => false,
        }
    }

    /// Checks and measures the seal list's entry of `uid`; `seed` is the hash of the first block after the close, `open` of the round's open block.
    pub async fn judge(
        &mut self,
        bench: &mut Bench<'_>,
        replica: &mut Replica,
        close: &Close,
        uid: u16,
        (open, seed): (&Digest, &Digest),
        hotkey: Option<Hotkey>,
    ) -> Result<(), ValidatorError> {
        let Some(sealed) = close.list.value.entries.iter().find(|e| e.uid == uid) else { return Ok(()) };
        let (round, root) = (replica.anchor.round, replica.root);
        // an unregistered uid has no hotkey; its envelope then counts for nobody
        let owner = hotkey.unwrap_or(Hotkey([0; 32]));
        let checked = check_envelope(bench.run, round, root, owner, sealed);
        let claimed = checked.as_ref().map(|e| e.value.payload).unwrap_or_default();
        let outcome = match checked {
            Err(refusal) => Outcome::Refused(refusal),
            Ok(envelope) => match fetch(bench.run, &envelope).await? {
                Err(refusal) => Outcome::Refused(refusal),
                Ok(payload) => {
                    replica.remember(&payload);
                    self.measure(bench, replica, &payload, &envelope, (open, seed))?
                }
            },
        };
        self.entries.insert(uid, Entry { uid, hotkey: owner, payload: claimed, outcome });
        Ok(())
    }

    fn measure(
        &mut self,
        bench: &mut Bench<'_>,
        replica: &Replica,
        payload: &Payload,
        envelope: &Signed<Envelope>,
        (open, seed): (&Digest, &Digest),
    ) -> Result<Outcome, ValidatorError> {
        let manifest = &bench.run.manifest;
        let length = manifest.model.sequence_length;
        let own_windows = assigned(bench, envelope, open, seed)?;
        let base = replica.state.tensors();
        let random_windows = match &self.random {
            None => Some(random(bench, seed)?),
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

async fn fetch(run: &Run, envelope: &Signed<Envelope>) -> Result<Result<Payload, Refusal>, ValidatorError> {
    match run.bucket_of(&envelope.signer).await? {
        Some(bucket) => Ok(fetch_payload(run, &bucket, envelope).await),
        None => Ok(Err(Refusal::Missing)),
    }
}

/// Sequences drawn from those that the envelope says were trained.
fn assigned(bench: &Bench<'_>, envelope: &Signed<Envelope>, open: &Digest, seed: &Digest) -> Result<Vec<Vec<u32>>, ValidatorError> {
    let manifest = &bench.run.manifest;
    let length = manifest.model.sequence_length;
    let per_round = u64::from(manifest.inner.steps) * u64::from(manifest.inner.batch);
    let trained = envelope.value.sequences.clamp(1, per_round);
    let assignment = Assignment::miner(&bench.run.id, open, &envelope.signer, bench.dataset.windows(Split::Train, length));
    let draws = Assignment::miner(&bench.run.id, seed, &envelope.signer, trained).indices(0, manifest.judge.sequences as usize);
    let windows = draws.into_iter().map(|place| {
        let index = assignment.indices(place, 1)[0];
        bench.dataset.window(Split::Train, index, length)
    });
    Ok(windows.collect::<Result<_, _>>()?)
}

/// The round's random batch.
fn random(bench: &Bench<'_>, seed: &Digest) -> Result<Vec<Vec<u32>>, ValidatorError> {
    let length = bench.run.manifest.model.sequence_length;
    let draws = Assignment::random(&bench.run.id, seed, bench.dataset.windows(Split::Train, length));
    let windows = draws.indices(0, bench.run.manifest.judge.sequences as usize).into_iter();
    Ok(windows.map(|i| bench.dataset.window(Split::Train, i, length)).collect::<Result<_, _>>()?)
}

/// Where `own` contradicts `theirs`, in words.
pub(crate) fn contradiction(theirs: &Entry, own: &Entry, z: f64) -> Option<String> {
    match (&theirs.outcome, &own.outcome) {
        (Outcome::Measured { random: t, assigned: ta }, Outcome::Measured { random: o, assigned: oa }) => {
            [("random", t, o), ("assigned", ta, oa)].into_iter().find_map(|(name, t, o)| {
                let error = t.std_error.hypot(o.std_error);
                let apart = (t.gain() - o.gain()).abs();
                // devices differ in the last digits even on equal sequences
                (apart > z * error && apart > 1e-4 * t.before.abs()).then(|| {
                    format!("{name} gain {:.5} in the sheet, {:.5} measured here, combined standard error {error:.5}", t.gain(), o.gain())
                })
            })
        }
        (Outcome::Refused(refusal), Outcome::Measured { .. }) => Some(format!("refused in the sheet ({refusal}), sound here")),
        (Outcome::Measured { .. }, Outcome::Refused(refusal)) if refusal.is_fact() => {
            Some(format!("measured in the sheet, refused here: {refusal}"))
        }
        _ => None,
    }
}
