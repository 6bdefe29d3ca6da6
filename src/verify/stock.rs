//! What buckets still have of the rounds' payloads.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use checkpoints::{Run, Survey, survey};
use protocol::{Hotkey, ObjectKey};
use serde::Serialize;
use storage::Bucket;

use super::log::Round;

/// The payloads, keys and bundles that can be had.
pub struct Stock {
    shelves: HashMap<Hotkey, Shelf>,
}

/// What one bucket has of them.
enum Shelf {
    Listed(HashSet<ObjectKey>),
    /// It cannot be listed, as plain web servers cannot.
    Asked(Bucket),
}

/// How the payloads that a round applied can be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Uids whose payload, or its key, is not in its owner's bucket.
    pub absent: Vec<u16>,
    /// Whether anybody has a bundle.
    pub bundled: bool,
    /// Whether nothing is needed.
    pub empty: bool,
}

impl Holding {
    /// Whether the round can be replayed, if the bytes are what they should be.
    pub fn is_whole(&self) -> bool {
        self.absent.is_empty() || self.bundled
    }
}

impl Stock {
    /// Lists everybody's bucket, for the first `rounds` rounds: what anybody says to have of others is not counted.
    ///
    /// # Errors
    /// Only the chain's own; a bucket that cannot be listed is asked object by object.
    pub async fn take(run: &Run, rounds: u64) -> Result<Self> {
        let mut shelves = HashMap::new();
        for (hotkey, bucket) in run.buckets().await? {
            let mut keys = HashSet::new();
            let surveyed = survey(&bucket, |_, key| {
                if let Some(key @ (ObjectKey::Payload(round) | ObjectKey::PayloadKey(round) | ObjectKey::Bundle(round))) = key
                    && *round < rounds
                {
                    keys.insert(key.clone());
                }
            });
            let shelf = if matches!(surveyed.await, Ok(Survey::Whole)) { Shelf::Listed(keys) } else { Shelf::Asked(bucket) };
            shelves.insert(hotkey, shelf);
        }
        Ok(Self { shelves })
    }

    /// How a round's payloads can be had.
    pub async fn holding(&self, number: u64, round: &Round) -> Holding {
        let mut holding = Holding { empty: round.applied.is_empty(), ..Holding::default() };
        for applied in &round.applied {
            let has = async |key| match self.shelves.get(&applied.hotkey) {
                Some(shelf) => shelf.has(&key).await,
                None => false,
            };
            if !has(ObjectKey::Payload(number)).await || !has(ObjectKey::PayloadKey(number)).await {
                holding.absent.push(applied.uid);
            }
        }
        for shelf in self.shelves.values() {
            holding.bundled = holding.bundled || shelf.has(&ObjectKey::Bundle(number)).await;
        }
        holding
    }
}

impl Shelf {
    async fn has(&self, key: &ObjectKey) -> bool {
        match self {
            Self::Listed(keys) => keys.contains(key),
            Self::Asked(bucket) => bucket.size(key).await.is_ok_and(|size| size.is_some()),
        }
    }
}

/// Rounds as spans, first and last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Spans(Vec<(u64, u64)>);

impl FromIterator<u64> for Spans {
    /// Rounds must ascend.
    fn from_iter<I: IntoIterator<Item = u64>>(rounds: I) -> Self {
        let mut spans: Vec<(u64, u64)> = Vec::new();
        for round in rounds {
            match spans.last_mut() {
                Some((_, last)) if *last + 1 == round => *last = round,
                _ => spans.push((round, round)),
            }
        }
        Self(spans)
    }
}

impl Spans {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let span = |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first} to {last}") };
        f.write_str(&self.0.iter().map(span).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_in_a_row_are_one_span() {
        let spans: Spans = [0, 1, 2, 5, 7, 8].into_iter().collect();
        assert_eq!(spans.to_string(), "0 to 2, 5, 7 to 8");
        assert!(Spans::from_iter([]).is_empty() && !spans.is_empty());
    }

    #[test]
    fn a_bundle_stands_in_for_payloads_that_are_gone() {
        let holding = |absent: &[u16], bundled| Holding { absent: absent.to_vec(), bundled, empty: false };
        assert!(holding(&[], false).is_whole() && holding(&[3], true).is_whole());
        assert!(!holding(&[3], false).is_whole());
    }
}
