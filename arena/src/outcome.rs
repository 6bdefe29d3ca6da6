//! What came of a bout.

use std::collections::BTreeMap;

use chain::Neuron;
use checkpoints::Step;
use protocol::{Digest, Judge, Pay, Refusal, RunId, score::Verdict};
use serde::{Deserialize, Serialize};

use crate::{Seconds, jury::Notes, world::Seat};

/// All that is known after a bout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The run.
    pub run: RunId,
    /// The seed.
    pub seed: u64,
    /// Parameters of the model.
    pub parameters: usize,
    /// The miners, by uid.
    pub miners: Vec<MinerOutcome>,
    /// The validators, by uid.
    pub validators: Vec<ValidatorOutcome>,
    /// The rounds.
    pub rounds: Vec<RoundOutcome>,
    /// Held-out loss: state's round and bits per byte.
    pub held_out: Vec<(u64, f64)>,
    /// Where the population's time went.
    pub seconds: Seconds,
}

/// One miner's fate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MinerOutcome {
    /// Its uid.
    pub uid: u16,
    /// What it is counted under.
    pub class: String,
    /// What it did, in words.
    pub strategy: String,
    /// Rounds whose record applied its payload.
    pub applied: Vec<u64>,
    /// How often it was refused, by reason.
    pub refusals: BTreeMap<String, u32>,
    /// How often its payload was sound and yet not applied, by verdict.
    pub left_out: BTreeMap<String, u32>,
    /// Its incentive on the ledger after each round, of 65,535 for all.
    pub incentive: Vec<u16>,
    /// What the ledger paid it in total, in rao.
    pub emission: u64,
}

impl MinerOutcome {
    /// Rounds until it was applied for the last time, that round included; 0 if it never was. If it was applied in the last round, it
    /// was not excluded.
    pub fn lasted(&self) -> u64 {
        self.applied.last().map_or(0, |round| round + 1)
    }

    fn note(&mut self, verdict: &Verdict<'_>) {
        let left_out = match verdict {
            Verdict::Applied => return,
            Verdict::Refused(refusal) => {
                *self.refusals.entry(kind(refusal)).or_default() += 1;
                return;
            }
            Verdict::Reserve(_) => "reserve",
            Verdict::Useless { .. } => "useless",
            Verdict::Unmeasured => "unmeasured",
        };
        *self.left_out.entry(left_out.into()).or_default() += 1;
    }
}

/// One validator's account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ValidatorOutcome {
    /// Its uid.
    pub uid: u16,
    /// Its stake at the end, in rao.
    pub stake: u64,
    /// Whether it lied.
    pub lies: bool,
    /// Its share of the validators' pay after the last round, of 65,535.
    pub dividends: u16,
    /// What the ledger paid it in total, in rao.
    pub emission: u64,
    /// Rounds whose record is its own.
    pub led: u64,
    /// Rounds in which its turn was first.
    pub first: u64,
    /// How often it contradicted another lead.
    pub dissents: u32,
    /// What went wrong and was survived.
    pub warnings: Vec<String>,
}

/// One round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoundOutcome {
    /// The round.
    pub round: u64,
    /// Block at which its record was seen.
    pub block: u64,
    /// The state's root after it.
    pub root: Digest,
    /// The record's lead.
    pub lead: String,
    /// Whose turn it was first.
    pub first: String,
    /// Envelopes on the seal list.
    pub listed: usize,
    /// Uids applied.
    pub applied: Vec<u16>,
    /// Gain on random data of each payload that was measured, in nats per token.
    pub gains: Vec<(u16, f64)>,
    /// By how many standard errors each one's gain on assigned data exceeded that on random data.
    pub advantages: Vec<(u16, f64)>,
    /// Score of each miner after the round.
    pub scores: Vec<(u16, f64)>,
    /// What each validator with a permit has set on the ledger.
    pub weights: Vec<WeightRow>,
}

/// A validator's row of weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightRow {
    /// The validator.
    pub uid: u16,
    /// Its stake, in rao.
    pub stake: u64,
    /// (uid, weight), the largest 65,535.
    pub weights: Vec<(u16, u16)>,
}

/// Shares of what the ledger paid to all miners.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    /// Of all that was paid during the bout.
    pub total: f64,
    /// Of the incentive after the last round.
    pub last: f64,
}

impl Outcome {
    /// The classes, in order of uid.
    pub fn classes(&self) -> Vec<&str> {
        let mut classes: Vec<&str> = Vec::new();
        for miner in &self.miners {
            if !classes.contains(&miner.class.as_str()) {
                classes.push(&miner.class);
            }
        }
        classes
    }

    /// A class's miners.
    pub fn of_class<'a>(&'a self, class: &'a str) -> impl Iterator<Item = &'a MinerOutcome> {
        self.miners.iter().filter(move |m| m.class == class)
    }

    /// What a class earned; 0 as long as nobody earned anything.
    pub fn payment(&self, class: &str) -> Payment {
        let share = |of: fn(&MinerOutcome) -> u64| {
            let all: u64 = self.miners.iter().map(of).sum();
            let own: u64 = self.of_class(class).map(of).sum();
            if all == 0 { 0.0 } else { own as f64 / all as f64 }
        };
        Payment { total: share(|m| m.emission), last: share(|m| m.incentive.last().copied().unwrap_or_default().into()) }
    }

    /// Held-out loss at the end, in bits per byte.
    pub fn final_loss(&self) -> Option<f64> {
        self.held_out.last().map(|(_, loss)| *loss)
    }
}

/// What the population writes down while a bout lasts.
#[derive(Debug)]
pub(crate) struct Chronicle {
    miners: Vec<MinerOutcome>,
    rounds: Vec<RoundOutcome>,
    held_out: Vec<(u64, f64)>,
    neurons: Vec<Neuron>,
}

impl Chronicle {
    /// Of miners by uid, class and strategy.
    pub fn new(miners: impl Iterator<Item = (u16, String, String)>) -> Self {
        let miner = |(uid, class, strategy)| MinerOutcome {
            uid,
            class,
            strategy,
            applied: Vec::new(),
            refusals: BTreeMap::new(),
            left_out: BTreeMap::new(),
            incentive: Vec::new(),
            emission: 0,
        };
        Self { miners: miners.map(miner).collect(), rounds: Vec::new(), held_out: Vec::new(), neurons: Vec::new() }
    }

    /// Whether nothing is written yet.
    pub fn is_new(&self) -> bool {
        self.held_out.is_empty()
    }

    /// A round's record, and the ledger's neurons and weights at block `head`.
    pub fn round(&mut self, step: &Step, (judge, pay): (&Judge, &Pay), head: u64, (neurons, weights): (&[Neuron], Vec<WeightRow>)) {
        let (record, sheet) = (&step.record.value, &step.sheet.value);
        let verdicts = sheet.verdicts(judge, pay);
        for miner in &mut self.miners {
            if record.applied.iter().any(|a| a.uid == miner.uid) {
                miner.applied.push(record.round);
            }
            if let Some((_, verdict)) = verdicts.iter().find(|(e, _)| e.uid == miner.uid) {
                miner.note(verdict);
            }
            if let Some(neuron) = neurons.iter().find(|n| n.uid == miner.uid) {
                miner.incentive.push(neuron.incentive);
                miner.emission = neuron.emission;
            }
        }
        self.rounds.push(RoundOutcome {
            round: record.round,
            block: head,
            root: record.root,
            lead: step.record.signer.ss58(),
            first: record.validators.first().map(|v| v.hotkey.ss58()).unwrap_or_default(),
            listed: sheet.entries.len(),
            applied: record.applied.iter().map(|a| a.uid).collect(),
            gains: sheet.entries.iter().filter_map(|e| Some((e.uid, e.outcome.gain()?))).collect(),
            advantages: sheet.entries.iter().filter_map(|e| Some((e.uid, e.outcome.advantage()?))).collect(),
            scores: sheet.standing.miners.iter().map(|s| (s.uid, s.score)).collect(),
            weights,
        });
        self.neurons = neurons.to_vec();
    }

    /// Held-out loss of the state of `round`.
    pub fn held_out(&mut self, round: u64, bits_per_byte: f64) {
        self.held_out.push((round, bits_per_byte));
    }

    /// The whole report.
    pub fn finish(self, run: RunId, seed: u64, parameters: usize, validators: Vec<(Seat, bool, Notes)>, seconds: Seconds) -> Outcome {
        let Self { miners, rounds, held_out, neurons } = self;
        let validators = validators.into_iter().map(|(seat, lies, notes)| {
            let neuron = neurons.iter().find(|n| n.uid == seat.uid);
            let name = seat.keypair.hotkey().ss58();
            ValidatorOutcome {
                uid: seat.uid,
                stake: neuron.map_or(0, |n| n.stake),
                lies,
                dividends: neuron.map_or(0, |n| n.dividends),
                emission: neuron.map_or(0, |n| n.emission),
                led: rounds.iter().filter(|r| r.lead == name).count() as u64,
                first: rounds.iter().filter(|r| r.first == name).count() as u64,
                dissents: notes.dissents,
                warnings: notes.warnings,
            }
        });
        Outcome { run, seed, parameters, validators: validators.collect(), miners, rounds, held_out, seconds }
    }
}

/// A refusal's kind, as score sheets write it.
fn kind(refusal: &Refusal) -> String {
    let json = serde_json::to_value(refusal).unwrap_or_default();
    json["reason"].as_str().unwrap_or("refused").to_owned()
}
