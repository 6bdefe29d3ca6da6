//! What a bout is held with.

use std::{path::PathBuf, sync::Arc};

use gauntlet::Distortion;
use protocol::{
    RunConfig,
    score::{Entry, Outcome},
};

use crate::{ArenaError, Strategy};

/// Share of the loss that a liar claims as gain on assigned sequences.
const CLAIMED_ASSIGNED: f64 = 0.02;
/// The same on the random batch.
const CLAIMED_RANDOM: f64 = 0.01;

/// A bout: who takes part, on which run, for how long.
pub struct Setup {
    /// What keys and the strategies' random numbers follow from.
    pub seed: u64,
    /// The run's config; [`tiny`] is made for this.
    pub config: RunConfig,
    /// Folder of the tokenized data set.
    pub data: PathBuf,
    /// Rounds to play.
    pub rounds: u64,
    /// The miners, in the order of their uids.
    pub miners: Vec<Contender>,
    /// The validators, most stake first.
    pub validators: Vec<Examiner>,
    /// Blocks of an epoch, and between two weight settings of a validator.
    pub tempo: u64,
    /// Held-out sequences to measure the model on.
    pub held_out: u64,
    /// Rounds between two measurements.
    pub measure_every: u64,
}

impl Setup {
    /// `rounds` rounds of [`tiny`] with one honest validator and an epoch about each round; no miners yet.
    ///
    /// # Errors
    /// [`ArenaError::Setup`] if the built-in config does not fit this version.
    pub fn new(data: PathBuf, seed: u64, rounds: u64) -> Result<Self, ArenaError> {
        let validators = vec![Examiner::honest(1000)];
        Ok(Self { seed, config: tiny()?, data, rounds, miners: Vec::new(), validators, tempo: 4, held_out: 64, measure_every: 5 })
    }

    /// The uid of the miner at a place of `miners`: the owner has 0, validators register first.
    pub fn uid(&self, place: usize) -> u16 {
        (1 + self.validators.len() + place).try_into().unwrap_or(u16::MAX)
    }

    pub(crate) fn check(&self) -> Result<(), ArenaError> {
        let problem = if self.miners.is_empty() {
            "a bout needs at least one miner"
        } else if !self.validators.iter().any(|v| v.stake > 0) {
            "a bout needs a validator with stake"
        } else if self.rounds == 0 || self.measure_every == 0 || self.held_out == 0 {
            "rounds, measure_every and held_out must be at least 1"
        } else {
            return Ok(());
        };
        Err(ArenaError::Setup(problem.into()))
    }
}

/// A miner to be.
pub struct Contender {
    /// What it is counted under.
    pub class: String,
    /// What it does.
    pub strategy: Box<dyn Strategy>,
}

/// A validator to be.
#[derive(Clone)]
pub struct Examiner {
    /// Its stake, in TAO.
    pub stake: u64,
    /// How it lies, if it does.
    pub distortion: Option<Distortion>,
}

impl Examiner {
    /// One that says what it measured.
    pub fn honest(stake: u64) -> Self {
        Self { stake, distortion: None }
    }

    /// One that claims large gains for the miners of these uids and harm by all others, whatever it measured.
    pub fn favouring(stake: u64, uids: Vec<u16>) -> Self {
        let distort = move |entry: &mut Entry| {
            let sign = if uids.contains(&entry.uid) { 1.0 } else { -1.0 };
            if let Outcome::Measured { assigned, random, norm, overlap, .. } = &mut entry.outcome {
                assigned.after = assigned.before * (1.0 - sign * CLAIMED_ASSIGNED);
                random.after = random.before * (1.0 - sign * CLAIMED_RANDOM);
                (*norm, *overlap) = (1.0, 0.0);
            }
        };
        Self { stake, distortion: Some(Distortion(Arc::new(distort))) }
    }
}

/// The config of a run with a model of 0.1 M parameters, one that fifty miners train in turn within minutes.
///
/// # Errors
/// [`ArenaError::Setup`] if it does not fit this version.
pub fn tiny() -> Result<RunConfig, ArenaError> {
    RunConfig::parse(include_str!("tiny.toml")).map_err(|e| ArenaError::Setup(format!("the arena's own config: {}", e.message())))
}
