//! What a miner must not lose, error feedback and the payload it stands by: one file, whole or not at all. And what it had better not lose, the
//! optimizer's moments, in another: they only propose, so that those of an earlier round do.

use std::panic::resume_unwind;

use checkpoints::{Home, HomeError, in_layout_order};
use compression::{ErrorFeedback, Layout};
use model::OptimizerState;
use protocol::{Digest, PayloadKey};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::MinerError;

const FILE: &str = "miner.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const PAYLOAD: &str = "payload";

/// A payload that is sealed and not yet settled by a record. Its key is secret, so this has no `Debug`.
#[derive(Clone, PartialEq)]
pub(crate) struct Pending {
    /// Its round.
    pub round: u64,
    /// Root of the state it was trained from.
    pub base_root: Digest,
    /// The key, secret until the close.
    pub key: PayloadKey,
    /// The signed envelope.
    pub envelope: Vec<u8>,
    /// The payload, not sealed.
    pub payload: Vec<u8>,
}

/// A file that is written while the miner goes on.
#[derive(Default)]
pub(crate) struct Writing(Option<JoinHandle<Result<(), MinerError>>>);

impl Writing {
    /// Waits until it is written, if it is on its way.
    pub async fn done(&mut self) -> Result<(), MinerError> {
        let Some(writing) = &mut self.0 else { return Ok(()) };
        let written = writing.await.unwrap_or_else(|lost| resume_unwind(lost.into_panic()));
        self.0 = None;
        written
    }

    /// Starts to write it anew, after what is on its way.
    pub async fn start(&mut self, write: impl FnOnce() -> Result<(), MinerError> + Send + 'static) -> Result<(), MinerError> {
        self.done().await?;
        self.0 = Some(tokio::task::spawn_blocking(write));
        Ok(())
    }
}

/// What is durable.
#[derive(PartialEq)]
pub(crate) struct Durable {
    pub error_feedback: ErrorFeedback,
    pub pending: Option<Pending>,
}

/// What is small enough for a file's metadata.
#[derive(Serialize, Deserialize)]
struct Meta {
    pending: Option<PendingMeta>,
}

#[derive(Serialize, Deserialize)]
struct PendingMeta {
    round: u64,
    base_root: Digest,
    key: Digest,
    #[serde(with = "hex_bytes")]
    envelope: Vec<u8>,
    payload_len: usize,
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Makes error feedback and payload durable.
pub(crate) fn save(home: &Home, layout: &Layout, error_feedback: &ErrorFeedback, pending: Option<&Pending>) -> Result<(), HomeError> {
    // a payload can be larger than a file's metadata may be
    let payload = pending.map(|p| to_f32(&p.payload)).unwrap_or_default();
    let named = named("feedback", layout, error_feedback.tensors()).chain([(PAYLOAD.to_owned(), payload.as_slice())]).collect::<Vec<_>>();
    let pending = pending.map(|p| PendingMeta {
        round: p.round,
        base_root: p.base_root,
        key: Digest(p.key),
        envelope: p.envelope.clone(),
        payload_len: p.payload.len(),
    });
    home.save(FILE, &Meta { pending }, &named)
}

/// Makes step and moments durable.
pub(crate) fn save_optimizer(home: &Home, layout: &Layout, optimizer: &OptimizerState) -> Result<(), HomeError> {
    let moments = named("first", layout, &optimizer.first).chain(named("second", layout, &optimizer.second)).collect::<Vec<_>>();
    home.save(OPTIMIZER, &optimizer.step, &moments)
}

fn named<'a>(group: &'static str, layout: &'a Layout, tensors: &'a [Vec<f32>]) -> impl Iterator<Item = (String, &'a [f32])> {
    layout.tensors().iter().zip(tensors).map(move |(spec, data)| (format!("{group}/{}", spec.name), data.as_slice()))
}

/// Reads error feedback and payload back; `None` if nothing was saved yet.
pub(crate) fn load(home: &Home, layout: &Layout) -> Result<Option<Durable>, HomeError> {
    let Some(mut saved) = home.load::<Meta>(FILE)? else { return Ok(None) };
    let damaged = || damaged(home, FILE);
    let error_feedback = group("feedback/", layout, &mut saved.tensors).ok_or_else(damaged)?;
    let error_feedback = ErrorFeedback::from_tensors(layout, error_feedback).map_err(|_| damaged())?;
    let payload = saved.tensors.iter().find(|(name, _)| name == PAYLOAD).map_or(&[][..], |(_, data)| data);
    let pending = saved.meta.pending.map(|p| Pending {
        round: p.round,
        base_root: p.base_root,
        key: p.key.0,
        envelope: p.envelope,
        payload: from_f32(payload, p.payload_len),
    });
    Ok(Some(Durable { error_feedback, pending }))
}

/// Reads step and moments back; `None` if nothing was saved yet.
pub(crate) fn load_optimizer(home: &Home, layout: &Layout) -> Result<Option<OptimizerState>, HomeError> {
    let Some(mut saved) = home.load::<u64>(OPTIMIZER)? else { return Ok(None) };
    let mut group = |prefix: &str| group(prefix, layout, &mut saved.tensors).ok_or_else(|| damaged(home, OPTIMIZER));
    Ok(Some(OptimizerState { step: saved.meta, first: group("first/")?, second: group("second/")? }))
}

/// Takes the tensors whose names have a prefix; `None` unless they are the layout's.
fn group(prefix: &str, layout: &Layout, tensors: &mut [(String, Vec<f32>)]) -> Option<Vec<Vec<f32>>> {
    let of_group = tensors.iter_mut().filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_owned(), std::mem::take(data))));
    in_layout_order(layout, of_group.collect()).filter(|tensors| compression::check_lengths(layout, tensors).is_ok())
}

fn damaged(home: &Home, file: &str) -> HomeError {
    HomeError::Damaged { path: home.dir().join(file), problem: "its tensors are not this run's".into() }
}

/// Bytes as the bits of numbers, since a saved file holds nothing else.
fn to_f32(bytes: &[u8]) -> Vec<f32> {
    let word = |part: &[u8]| {
        let mut word = [0; 4];
        word[..part.len()].copy_from_slice(part);
        f32::from_le_bytes(word)
    };
    bytes.chunks(4).map(word).collect()
}

fn from_f32(words: &[f32], len: usize) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).take(len).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use compression::TensorSpec;

    use super::*;

    fn layout() -> Layout {
        Layout::new(vec![TensorSpec { name: "a".into(), shape: vec![2, 2] }, TensorSpec { name: "b".into(), shape: vec![3] }]).unwrap()
    }

    fn tensors(x: f32) -> Vec<Vec<f32>> {
        vec![vec![x; 4], vec![-x; 3]]
    }

    fn durable(pending: Option<Pending>) -> Durable {
        Durable { error_feedback: ErrorFeedback::from_tensors(&layout(), tensors(0.5)).unwrap(), pending }
    }

    fn pending(payload: Vec<u8>) -> Pending {
        Pending { round: 3, base_root: Digest::of(b"root"), key: [9; 32], envelope: vec![1, 2, 3], payload }
    }

    fn write(home: &Home, d: &Durable) {
        save(home, &layout(), &d.error_feedback, d.pending.as_ref()).unwrap();
    }

    #[test]
    fn everything_reads_back_whatever_the_payloads_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        assert!(load(&home, &layout()).unwrap().is_none());
        // signaling and quiet NaNs among the words, and lengths that are no multiple of four
        let hostile: Vec<u8> = [[1, 0, 0xa0, 0x7f], [1, 0, 0xc0, 0xff], [0, 0, 0x80, 0x7f], [0xff; 4]].concat();
        for payload in [vec![], vec![1], hostile.clone(), [&hostile[..], &[5, 6, 7]].concat()] {
            let saved = durable(Some(pending(payload)));
            write(&home, &saved);
            assert!(load(&home, &layout()).unwrap().unwrap() == saved);
        }
        write(&home, &durable(None));
        assert!(load(&home, &layout()).unwrap().unwrap() == durable(None));
    }

    #[test]
    fn moments_read_back_and_only_into_their_model() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        assert!(load_optimizer(&home, &layout()).unwrap().is_none());
        for step in [7, 8] {
            let saved = OptimizerState { step, first: tensors(1.0), second: tensors(2.0) };
            save_optimizer(&home, &layout(), &saved).unwrap();
            assert!(load_optimizer(&home, &layout()).unwrap() == Some(saved));
        }
        let other = Layout::new(vec![TensorSpec { name: "a".into(), shape: vec![2, 2] }, TensorSpec { name: "b".into(), shape: vec![4] }]);
        assert!(matches!(load_optimizer(&home, &other.unwrap()), Err(HomeError::Damaged { .. })));
    }

    #[tokio::test]
    async fn what_is_written_behind_is_written_in_order_and_its_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let home = std::sync::Arc::new(Home::open(dir.path()).unwrap());
        let mut writing = Writing::default();
        for step in 0..20 {
            let home = home.clone();
            let write = move || save_optimizer(&home, &layout(), &OptimizerState { step, first: tensors(1.0), second: tensors(2.0) });
            writing.start(move || Ok(write()?)).await.unwrap();
        }
        writing.done().await.unwrap();
        assert_eq!(load_optimizer(&home, &layout()).unwrap().unwrap().step, 19);
        writing.start(|| Err(HomeError::InUse("x".into()).into())).await.unwrap();
        assert!(writing.start(|| Ok(())).await.is_err());
        writing.done().await.unwrap();
    }

    #[test]
    fn damage_and_another_models_tensors_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        write(&home, &durable(Some(pending(vec![1; 9]))));
        let path = dir.path().join(FILE);
        let sound = fs::read(&path).unwrap();
        for at in [9, sound.len() / 2, sound.len() - 1] {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(matches!(load(&home, &layout()), Err(HomeError::Damaged { .. })), "byte {at}");
        }
        fs::write(&path, &sound[..sound.len() - 4]).unwrap();
        assert!(matches!(load(&home, &layout()), Err(HomeError::Damaged { .. })));
        fs::write(&path, &sound).unwrap();
        let other = Layout::new(vec![TensorSpec { name: "c".into(), shape: vec![4] }]).unwrap();
        assert!(matches!(load(&home, &other), Err(HomeError::Damaged { .. })));
    }
}
