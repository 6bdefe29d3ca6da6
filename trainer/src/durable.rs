//! What a miner must not lose: error feedback, optimizer moments, and the payload it stands by.

use checkpoints::{Home, HomeError, in_layout_order};
use compression::{ErrorFeedback, Layout};
use model::OptimizerState;
use protocol::PayloadKey;
use serde::{Deserialize, Serialize};

const FILE: &str = "miner.safetensors";

/// A payload that is sealed and not yet settled by a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// Its round.
    pub round: u64,
    /// The key, secret until the close.
    #[serde(with = "hex_bytes")]
    pub key: Vec<u8>,
    /// The signed envelope.
    #[serde(with = "hex_bytes")]
    pub envelope: Vec<u8>,
    /// The payload, not sealed.
    #[serde(with = "hex_bytes")]
    pub payload: Vec<u8>,
}

impl Pending {
    pub(crate) fn key(&self) -> PayloadKey {
        self.key.as_slice().try_into().unwrap_or_default()
    }
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

#[derive(Serialize, Deserialize)]
struct Meta {
    step: u64,
    pending: Option<Pending>,
}

/// Everything, as one file: whole or not at all.
#[derive(Debug)]
pub(crate) struct Durable {
    pub error_feedback: ErrorFeedback,
    pub optimizer: OptimizerState,
    pub pending: Option<Pending>,
}

impl Durable {
    pub(crate) fn save(&self, home: &Home, layout: &Layout) -> Result<(), HomeError> {
        let groups = [("feedback", self.error_feedback.tensors()), ("first", &self.optimizer.first), ("second", &self.optimizer.second)];
        let named = groups.iter().flat_map(|(group, tensors)| {
            layout.tensors().iter().zip(*tensors).map(move |(spec, data)| (format!("{group}/{}", spec.name), data.as_slice()))
        });
        home.save(FILE, &Meta { step: self.optimizer.step, pending: self.pending.clone() }, &named.collect::<Vec<_>>())
    }

    /// `None` if nothing was saved yet.
    pub(crate) fn load(home: &Home, layout: &Layout) -> Result<Option<Self>, HomeError> {
        let Some(saved) = home.load::<Meta>(FILE)? else { return Ok(None) };
        let damaged = || HomeError::Damaged { path: home.dir().join(FILE), problem: "its tensors are not this run's".into() };
        let group = |prefix: &str| {
            let of_group = saved.tensors.iter().filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_owned(), data.clone())));
            in_layout_order(layout, of_group.collect()).filter(|t| compression::check_lengths(layout, t).is_ok()).ok_or_else(damaged)
        };
        let error_feedback = ErrorFeedback::from_tensors(layout, group("feedback/")?).map_err(|_| damaged())?;
        let optimizer = OptimizerState { step: saved.meta.step, first: group("first/")?, second: group("second/")? };
        Ok(Some(Self { error_feedback, optimizer, pending: saved.meta.pending }))
    }
}
