//! `tributary explain`: how a miner fares, why it is paid what it is, and what it can do, in plain words.

mod words;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use chain::{Earnings, Neuron, RAO_PER_TAO};
use checkpoints::Run;
use clap::Args;
use protocol::{
    Computation, Hotkey, Judge, Pay, RunId,
    score::{MinerScore, Outcome, ScoreSheet, Standing},
};
use serde::Serialize;

use crate::{
    cli::RunArgs,
    context,
    fate::Fate,
    output,
    records::{Recorded, Records},
    scores::{Objection, Shares, objections},
    status::mean_weight,
};

/// Options of `tributary explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads the last rounds' public score sheets, their countersignatures and the chain; a uid's predecessors under other hotkeys do not count.

Examples:
  tributary explain 4 --run demo/store/RUN_ID
  tributary explain 4 --run demo/store/RUN_ID --rounds 50 --json")]
pub struct ExplainArgs {
    /// The miner's number on the subnet.
    uid: u16,
    #[command(flatten)]
    run: RunArgs,
    /// How many rounds to look back.
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: ExplainArgs) -> Result<()> {
    let run = context::open_run(&args.run, None).await?;
    output::report(&Explanation::read(&run, args.uid, args.rounds as usize).await?, args.json);
    Ok(())
}

/// How a miner fares.
#[derive(Clone, Debug, Serialize)]
struct Explanation {
    run: RunId,
    name: String,
    uid: u16,
    hotkey: Hotkey,
    /// Whether it holds stake and may set weights.
    validates: bool,
    /// Whether the subnet is its.
    owner: bool,
    /// What became of its payloads, the newest round first.
    rounds: Vec<Round>,
    /// After the newest of these rounds; none if it never was on a seal list.
    standing: Option<Merits>,
    /// δ: how many standard errors more a typical miner gains on its assigned data than on random data.
    effect: f64,
    /// Miners with a score above its own, and miners with any.
    place: (usize, usize),
    /// Its part of the pay by the newest sheet, 0 to 1.
    share: f64,
    chain: OnChain,
    /// Where validators contradict a sheet about it.
    dissents: Vec<Told>,
    advice: Option<&'static str>,
    #[serde(skip)]
    rules: Rules,
}

/// What became of its payload in one round.
#[derive(Clone, Debug, Serialize)]
struct Round {
    round: u64,
    #[serde(flatten)]
    fate: Fate,
    /// Its gain on random data, in nats per token, with the standard error.
    gain: Option<(f64, f64)>,
    /// The round's median gain.
    median: Option<f64>,
    /// By how many standard errors its gain on assigned data exceeds that on random data.
    advantage: Option<f64>,
}

/// Its scores, and what makes them up.
#[derive(Clone, Debug, Serialize)]
struct Merits {
    #[serde(flatten)]
    score: MinerScore,
    /// What its work is worth, before proof of computation and penalties.
    rating: f64,
    trains: f64,
    /// What part of its claims it has trained at most.
    verified: f64,
    /// What is left after the penalty for missing rounds.
    kept_missing: f64,
    /// What is left after the penalty for payloads without a gain.
    kept_negative: f64,
}

/// What the chain gives it.
#[derive(Clone, Debug, Serialize)]
struct OnChain {
    /// The share that each validator's weights give, 0 to 1, by the validator's uid; those that have set none are left out.
    weights: Vec<(u16, f64)>,
    /// The mean of these by stake.
    weight: f64,
    /// Its share of the miners' pay, as Yuma consensus made it.
    incentive: f64,
    /// What it earned: TAO so far, or alpha by the newest epoch, as `earnings` says.
    emission: f64,
    earnings: Earnings,
}

/// A contradiction, and in which round.
#[derive(Clone, Debug, Serialize)]
struct Told {
    round: u64,
    #[serde(flatten)]
    objection: Objection,
}

/// What decides over pay in the newest round.
#[derive(Clone, Debug, Default)]
struct Rules {
    judge: Judge,
    pay: Pay,
}

impl Explanation {
    async fn read(run: &Arc<Run>, uid: u16, rounds: usize) -> Result<Self> {
        let head = run.chain.head().await?.number;
        let neurons = run.chain.neurons(run.manifest.chain.netuid, head).await?;
        let neuron = neurons.iter().find(|n| n.uid == uid).with_context(|| unknown(uid, run.manifest.chain.netuid, &neurons))?;
        let found = Records::read(run, head).await?.last(None, rounds).await?;
        let (mut history, mut dissents, mut standing) = (Vec::new(), Vec::new(), Standing::default());
        for recorded in &found {
            let (sheet, judge) = match (recorded.sheet(run).await, history.is_empty()) {
                (Ok(sheet), _) => (sheet, recorded.terms(run).await?.judge),
                // older ones may be gone
                (Err(_), false) => break,
                (Err(error), true) => return Err(error),
            };
            history.push(Round::of(&sheet, neuron.hotkey, &judge, &run.manifest.pay));
            if history.len() == 1 {
                standing = sheet.standing;
            }
            let round = recorded.round();
            let about = |o: &Objection| o.uid == uid;
            dissents.extend(objections(run, recorded).await?.1.into_iter().filter(about).map(|objection| Told { round, objection }));
        }
        let rules = Rules { judge: newest_terms(run, &found).await?, pay: run.manifest.pay.clone() };
        let shares = Shares::of(run, &standing.miners, &rules.judge).await?;
        let subnet = run.chain.subnet(run.manifest.chain.netuid).await?;
        let mut explanation = Self {
            run: run.id,
            name: run.manifest.name.clone(),
            uid,
            hotkey: neuron.hotkey,
            validates: neuron.permit && neuron.stake > 0,
            owner: subnet.owner == neuron.hotkey,
            standing: standing.miners.iter().find(|s| s.hotkey == neuron.hotkey).map(|s| Merits::of(s, &standing, &rules)),
            effect: standing.effect,
            place: place(&standing, neuron.hotkey),
            share: shares.of_uid(uid),
            chain: OnChain::read(run, neuron, &neurons, subnet.earnings).await?,
            rounds: history,
            dissents,
            advice: None,
            rules,
        };
        explanation.advice = explanation.advice();
        Ok(explanation)
    }

    /// One line of advice, where something is wrong: with the newest payload, or with its scores.
    fn advice(&self) -> Option<&'static str> {
        let newest = self.rounds.first().and_then(|newest| newest.fate.advice());
        match &self.standing {
            None if self.validates || self.owner => None,
            None => Some("if it is to mine, check that the miner runs, is in step with the chain, and that others can read its bucket"),
            Some(merits) => newest.or_else(|| merits.advice(&self.rules.judge)),
        }
    }
}

fn unknown(uid: u16, netuid: u16, neurons: &[Neuron]) -> String {
    let last = neurons.iter().map(|n| n.uid).max();
    let known = last.map_or_else(|| "it has no uids yet".to_owned(), |last| format!("its uids go to {last}"));
    format!("uid {uid} is not registered on subnet {netuid}: {known}; `tributary status` lists them")
}

async fn newest_terms(run: &Run, found: &[Recorded]) -> Result<Judge> {
    match found.first() {
        Some(newest) => Ok(newest.terms(run).await?.judge),
        None => Ok(run.manifest.judge.clone()),
    }
}

/// Miners that score higher, and miners that score at all.
fn place(standing: &Standing, hotkey: Hotkey) -> (usize, usize) {
    let own = standing.miners.iter().find(|s| s.hotkey == hotkey).map_or(0.0, |s| s.score);
    let higher = standing.miners.iter().filter(|s| s.score > own).count();
    (higher, standing.miners.iter().filter(|s| s.score > 0.0).count())
}

impl Round {
    fn of(sheet: &ScoreSheet, hotkey: Hotkey, judge: &Judge, pay: &Pay) -> Self {
        let verdicts = sheet.verdicts(judge, pay);
        let found = verdicts.iter().find(|(entry, _)| entry.hotkey == hotkey);
        let outcome = found.map(|(entry, _)| &entry.outcome);
        let gain = match outcome {
            Some(Outcome::Measured { random, .. }) => Some((random.gain(), random.std_error)),
            _ => None,
        };
        let mut gains: Vec<f64> = sheet.entries.iter().filter_map(|e| e.outcome.gain()).collect();
        gains.sort_by(f64::total_cmp);
        Self {
            round: sheet.round,
            fate: found.map_or(Fate::NotListed, |(_, verdict)| verdict.into()),
            gain,
            median: gains.get(gains.len().saturating_sub(1) / 2).copied(),
            advantage: outcome.and_then(Outcome::advantage),
        }
    }
}

impl Merits {
    fn of(score: &MinerScore, standing: &Standing, rules: &Rules) -> Self {
        let pay = &rules.pay;
        Self {
            rating: score.rating(pay),
            trains: score.trains(),
            verified: standing.verified(score),
            kept_missing: MinerScore { negative: 0, ..score.clone() }.kept(pay),
            kept_negative: MinerScore { missed: 0, ..score.clone() }.kept(pay),
            score: score.clone(),
        }
    }

    fn advice(&self, judge: &Judge) -> Option<&'static str> {
        let doubted = self.score.measured > 0 && !self.believed(judge);
        doubted.then_some("check that it trains on each round's assigned sequences, all that its envelope claims, and on no others")
    }

    /// Whether it looks as if it trained on its assignment.
    fn believed(&self, judge: &Judge) -> bool {
        match judge.computation {
            Computation::Sequential { .. } => self.trains >= 0.5 && self.verified >= 0.8,
            Computation::Average { floor, .. } => self.score.signs >= floor,
        }
    }
}

impl OnChain {
    async fn read(run: &Run, neuron: &Neuron, neurons: &[Neuron], earnings: Earnings) -> Result<Self> {
        let mut rows: Vec<(u64, Vec<(u16, u16)>)> = Vec::new();
        let mut weights = Vec::new();
        for validator in neurons.iter().filter(|n| n.permit && n.stake > 0) {
            let row = run.chain.weights(run.manifest.chain.netuid, validator.uid).await?;
            let total: f64 = row.iter().map(|(_, w)| f64::from(*w)).sum();
            if total > 0.0 {
                let own = row.iter().find(|(to, _)| *to == neuron.uid).map_or(0.0, |(_, w)| f64::from(*w));
                weights.push((validator.uid, own / total));
            }
            rows.push((validator.stake, row));
        }
        Ok(Self {
            weights,
            weight: mean_weight(neuron.uid, &rows),
            incentive: f64::from(neuron.incentive) / f64::from(u16::MAX),
            emission: neuron.emission as f64 / RAO_PER_TAO as f64,
            earnings,
        })
    }
}
