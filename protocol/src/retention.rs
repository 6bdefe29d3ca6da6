//! What stays in the buckets of a run, and for how long. Every owner applies the same rule to its own bucket.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Checkpoints, ConfigError, ObjectKey};

/// So many of the newest snapshots keep the payloads that come after them: one may turn out to be unreadable, or its owner may leave.
const SPARE: usize = 2;
/// More than any run has of rounds, or of snapshots.
const MOST: u64 = 1 << 40;

/// How long owners keep what a run has put in their buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Payloads, their keys, bundles and snapshots stay for this many rounds. Without it, everything stays for ever.
    pub rounds: Option<u64>,
    /// Of older snapshots, one in this many stays for ever.
    pub one_in: u64,
}

impl Default for Retention {
    /// What is deleted is gone, so that must be asked for.
    fn default() -> Self {
        Self { rounds: None, one_in: 10 }
    }
}

impl Retention {
    pub(crate) fn validate(&self, checkpoints: &Checkpoints) -> Result<(), ConfigError> {
        // whoever starts at a snapshot has the time until the next but one to catch up
        let least = checkpoints.every.saturating_mul(2);
        if let Some(rounds) = self.rounds
            && !(least..=MOST).contains(&rounds)
        {
            let problem =
                format!("{rounds} rounds is not between {least}, the span of two snapshots, and {MOST}; leave it out to keep all");
            return Err(ConfigError::new("retention", "rounds", problem));
        }
        if !(1..=MOST).contains(&self.one_in) {
            return Err(ConfigError::new("retention", "one_in", format!("{} is not between 1 and {MOST}", self.one_in)));
        }
        Ok(())
    }

    /// What stays, as seen by a node that stands before round `head`. `snapshots`: rounds of complete snapshots that fit the log, in any
    /// order; genesis, which everybody can make, counts as one.
    pub fn at(&self, head: u64, checkpoints: &Checkpoints, snapshots: &[u64]) -> Keep {
        let milestone = checkpoints.every.saturating_mul(self.one_in);
        let Some(rounds) = self.rounds else { return Keep { floor: 0, milestone } };
        let mut starts: Vec<u64> = snapshots.iter().copied().filter(|round| *round <= head).collect();
        starts.sort_unstable();
        starts.dedup();
        let spare = starts.iter().rev().nth(SPARE - 1).copied().unwrap_or(0);
        Keep { floor: head.saturating_sub(rounds).min(spare), milestone }
    }
}

/// What stays at one place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Keep {
    /// The first round whose payloads, keys and bundles stay, and from which on every snapshot stays.
    pub floor: u64,
    /// Of earlier snapshots, those after a multiple of so many rounds stay.
    pub milestone: u64,
}

/// What becomes of an object, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeping {
    /// Stays for ever: the log, or what the run began with.
    Log,
    /// Stays for now.
    Recent,
    /// Stays for ever: one snapshot in so many.
    Milestone,
    /// Stays: nothing that this version knows.
    Foreign,
    /// Goes: a payload, key or bundle of an earlier round.
    Expired,
    /// Goes: a file of an earlier snapshot.
    Thinned,
}

impl Keeping {
    /// Whether the object goes.
    pub fn goes(self) -> bool {
        matches!(self, Self::Expired | Self::Thinned)
    }
}

impl fmt::Display for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "stays for ever: part of the log, or of what the run began with",
            Self::Recent => "stays for now: catching up may need it",
            Self::Milestone => "stays for ever: one snapshot in so many does",
            Self::Foreign => "stays: it is no object of a run that this version knows",
            Self::Expired => "goes: it is older than the rounds that are kept, and than the last two snapshots",
            Self::Thinned => "goes: a snapshot older than the rounds that are kept, and none of those that stay for ever",
        })
    }
}

impl Keep {
    /// What becomes of the object behind a key; `None` is one that no key names.
    pub fn verdict(&self, key: Option<&ObjectKey>) -> Keeping {
        match key {
            None => Keeping::Foreign,
            Some(ObjectKey::Payload(round) | ObjectKey::PayloadKey(round) | ObjectKey::Bundle(round)) if *round < self.floor => {
                Keeping::Expired
            }
            Some(ObjectKey::Payload(_) | ObjectKey::PayloadKey(_) | ObjectKey::Bundle(_)) => Keeping::Recent,
            Some(ObjectKey::Checkpoint { round, .. }) if *round >= self.floor => Keeping::Recent,
            Some(ObjectKey::Checkpoint { round, .. }) if self.is_milestone(*round) => Keeping::Milestone,
            Some(ObjectKey::Checkpoint { .. }) => Keeping::Thinned,
            // an envelope is within the seal list anyway; the miner's own is some hundred bytes
            Some(
                ObjectKey::Manifest
                | ObjectKey::Dataset(_)
                | ObjectKey::Envelope(_)
                | ObjectKey::SealList(_)
                | ObjectKey::ScoreSheet(_)
                | ObjectKey::Record(_)
                | ObjectKey::Countersign(..)
                | ObjectKey::Copy { .. },
            ) => Keeping::Log,
        }
    }

    /// Whether the snapshot of this round stays for ever.
    pub fn is_milestone(&self, round: u64) -> bool {
        round.is_multiple_of(self.milestone.max(1))
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
