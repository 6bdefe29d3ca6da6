//! What a miner must not lose: error feedback, optimizer moments, and the payload it stands by. One file, whole or not at all.

use checkpoints::{Home, HomeError, in_layout_order};
use compression::{ErrorFeedback, Layout};
use model::OptimizerState;
use protocol::{Digest, PayloadKey};
use serde::{Deserialize, Serialize};

const FILE: &str = "miner.safetensors";
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

/// What is durable.
#[derive(PartialEq)]
pub(crate) struct Durable {
    pub error_feedback: ErrorFeedback,
    pub optimizer: OptimizerState,
    pub pending: Option<Pending>,
}

/// What is small enough for a file's metadata.
#[derive(Serialize, Deserialize)]
struct Meta {
    step: u64,
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

/// Makes all of it durable.
pub(crate) fn save(
    home: &Home,
    layout: &Layout,
    error_feedback: &ErrorFeedback,
    optimizer: &OptimizerState,
    pending: Option<&Pending>,
) -> Result<(), HomeError> {
    let groups = [("feedback", error_feedback.tensors()), ("first", &optimizer.first), ("second", &optimizer.second)];
    let of_group = |(group, tensors): (&'static str, _)| {
        let named = layout.tensors().iter().zip::<&[Vec<f32>]>(tensors);
        named.map(move |(spec, data)| (format!("{group}/{}", spec.name), data.as_slice()))
    };
    // a payload can be larger than a file's metadata may be
    let payload = pending.map(|p| to_f32(&p.payload)).unwrap_or_default();
    let named: Vec<(String, &[f32])> = groups.into_iter().flat_map(of_group).chain([(PAYLOAD.to_owned(), payload.as_slice())]).collect();
    let pending = pending.map(|p| PendingMeta {
        round: p.round,
        base_root: p.base_root,
        key: Digest(p.key),
        envelope: p.envelope.clone(),
        payload_len: p.payload.len(),
    });
    home.save(FILE, &Meta { step: optimizer.step, pending }, &named)
}

/// Reads it back; `None` if nothing was saved yet.
pub(crate) fn load(home: &Home, layout: &Layout) -> Result<Option<Durable>, HomeError> {
    let Some(mut saved) = home.load::<Meta>(FILE)? else { return Ok(None) };
    let damaged = || HomeError::Damaged { path: home.dir().join(FILE), problem: "its tensors are not this run's".into() };
    let mut group = |prefix: &str| {
        let of_group =
            saved.tensors.iter_mut().filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_owned(), std::mem::take(data))));
        in_layout_order(layout, of_group.collect()).filter(|t| compression::check_lengths(layout, t).is_ok()).ok_or_else(damaged)
    };
    let error_feedback = ErrorFeedback::from_tensors(layout, group("feedback/")?).map_err(|_| damaged())?;
    let optimizer = OptimizerState { step: saved.meta.step, first: group("first/")?, second: group("second/")? };
    let payload = saved.tensors.iter().find(|(name, _)| name == PAYLOAD).map_or(&[][..], |(_, data)| data);
    let pending = saved.meta.pending.map(|p| Pending {
        round: p.round,
        base_root: p.base_root,
        key: p.key.0,
        envelope: p.envelope,
        payload: from_f32(payload, p.payload_len),
    });
    Ok(Some(Durable { error_feedback, optimizer, pending }))
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

    fn durable(pending: Option<Pending>) -> Durable {
        let tensors = |x: f32| vec![vec![x; 4], vec![-x; 3]];
        let error_feedback = ErrorFeedback::from_tensors(&layout(), tensors(0.5)).unwrap();
        Durable { error_feedback, optimizer: OptimizerState { step: 7, first: tensors(1.0), second: tensors(2.0) }, pending }
    }

    fn pending(payload: Vec<u8>) -> Pending {
        Pending { round: 3, base_root: Digest::of(b"root"), key: [9; 32], envelope: vec![1, 2, 3], payload }
    }

    fn write(home: &Home, d: &Durable) {
        save(home, &layout(), &d.error_feedback, &d.optimizer, d.pending.as_ref()).unwrap();
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
