//! `tributary scores`: the public score sheets of a run's rounds, checked against the chain and against each other.

mod replay;
mod words;

use std::sync::Arc;

use anyhow::{Result, bail};
use checkpoints::Run;
use clap::Args;
use protocol::{
    Digest, Hotkey, Judge, Pay, RunId,
    score::{self, Entry, MinerScore, Outcome, Standing, Verdict},
};
use serde::Serialize;

use crate::{
    cli::RunArgs,
    context,
    fate::Fate,
    output,
    records::{Recorded, Records},
};

/// Options of `tributary scores`.
#[derive(Debug, Args)]
#[command(after_help = "\
A round's lead measures the payloads and signs a score sheet, which its record on the chain names by digest. This reads the sheets, checks
signature and digest, that the scores follow from the measurements and from the sheet before, and that the record applies what follows.

Columns: random and assigned are what the payload gains, in nats per token with its standard error, on the round's random batch and on
data that its miner was assigned; z is their difference in standard errors; norm is relative to the round's median; overlap the share of
positions in common with another payload; gain the mean of the gains relative to the rounds' medians; trains the probability that it
trains on its assignment; mu and sigma its LossRating; missed the rounds in a row without a valid payload; kept what penalties leave
of its score; share its part of the pay by this sheet.

Examples:
  tributary scores --run demo/store/RUN_ID
  tributary scores --run demo/store/RUN_ID --round 12 --rounds 3
  tributary scores --run demo/store/RUN_ID --replay    # a new validator reaches the same ratings from the public sheets alone")]
pub struct ScoresArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The round; by default the newest on the record.
    #[arg(long, value_name = "N")]
    round: Option<u64>,
    /// How many rounds, up to that one.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "replay")]
    rounds: u32,
    /// Recompute the scores from the oldest sheet on, and compare each sheet's.
    #[arg(long)]
    replay: bool,
    /// Print JSON, one line per round.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: ScoresArgs) -> Result<()> {
    let run = context::open_run(&args.run, None).await?;
    let mut records = Records::read(&run, run.chain.head().await?.number).await?;
    if args.replay {
        let mut all = records.last(args.round, usize::MAX).await?;
        all.reverse();
        output::report(&replay::Replay::of(&run, &all).await?, args.json);
        return Ok(());
    }
    // one more, for what the first one's scores follow from
    let found = records.last(args.round, args.rounds as usize + 1).await?;
    let mut wrong = Vec::new();
    for (at, recorded) in found.iter().enumerate().take(args.rounds as usize).rev() {
        let sheet = Sheet::read(&run, recorded, found.get(at + 1)).await?;
        wrong.extend(sheet.wrong());
        output::report(&sheet, args.json);
    }
    match wrong.first() {
        Some(wrong) => bail!("{wrong}; no node takes such a record"),
        None => Ok(()),
    }
}

/// Whether a sheet's scores follow from its measurements and the scores before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Follows {
    Yes,
    No,
    /// The sheet before cannot be had.
    Unknown,
}

/// A round's score sheet, and what was found about it.
#[derive(Debug, Serialize)]
struct Sheet {
    run: RunId,
    name: String,
    round: u64,
    block: u64,
    lead: Hotkey,
    record: Digest,
    score_sheet: Digest,
    root: Digest,
    /// Tokens measured, on assigned and on random data.
    tokens: u64,
    /// δ after the round, in standard errors.
    effect: f64,
    follows: Follows,
    /// Whether the record applies what follows from the sheet.
    selection_follows: bool,
    countersigned: Vec<Hotkey>,
    dissents: Vec<Objection>,
    /// Share of the pay that is burnt, by way of the owner's uid.
    burnt: f64,
    miners: Vec<Line>,
}

/// A validator's contradiction.
#[derive(Clone, Debug, Serialize)]
pub struct Objection {
    /// The validator.
    pub by: Hotkey,
    /// The validator's uid, if it is still registered.
    pub by_uid: Option<u16>,
    /// The miner whose entry is contradicted.
    pub uid: u16,
    /// Why, in the validator's words made printable.
    pub reason: String,
}

#[derive(Debug, Serialize)]
struct Line {
    uid: u16,
    hotkey: Hotkey,
    #[serde(flatten)]
    fate: Fate,
    /// As in the sheet; none if it is not listed.
    outcome: Option<Outcome>,
    /// By how many standard errors the gain on assigned data exceeds that on random data.
    advantage: Option<f64>,
    standing: MinerScore,
    trains: f64,
    kept: f64,
    share: f64,
}

impl Sheet {
    async fn read(run: &Arc<Run>, recorded: &Recorded, before: Option<&Recorded>) -> Result<Self> {
        let (sheet, terms) = (recorded.sheet(run).await?, recorded.terms(run).await?);
        let (judge, pay, record) = (&terms.judge, &run.manifest.pay, &recorded.record.value);
        let before = match (recorded.round(), before) {
            (0, _) => Some(Standing::default()),
            (_, Some(before)) => before.sheet(run).await.ok().map(|sheet| sheet.standing),
            _ => None,
        };
        let follows = before.map_or(Follows::Unknown, |before| match sheet.follows(&before, judge, pay) {
            true => Follows::Yes,
            false => Follows::No,
        });
        let selected = sheet.select(judge, pay).into_iter().map(|e| (e.uid, e.hotkey, e.payload));
        let applied = record.applied.iter().map(|a| (a.uid, a.hotkey, a.payload));
        let (countersigned, dissents) = objections(run, recorded).await?;
        let shares = Shares::of(run, &sheet.standing.miners, judge).await?;
        let verdicts = sheet.verdicts(judge, pay);
        let line = |score: &MinerScore| {
            let found = verdicts.iter().find(|(entry, _)| entry.hotkey == score.hotkey);
            Line::of(score, found, pay, shares.of_uid(score.uid))
        };
        Ok(Self {
            run: run.id,
            name: run.manifest.name.clone(),
            round: recorded.round(),
            block: recorded.block,
            lead: recorded.record.signer,
            record: recorded.record.digest(),
            score_sheet: record.score_sheet,
            root: record.root,
            tokens: sheet.entries.iter().map(tokens).fold(0, u64::saturating_add),
            effect: sheet.standing.effect,
            follows,
            selection_follows: selected.eq(applied),
            countersigned,
            dissents,
            burnt: shares.of_others(&sheet.standing.miners),
            miners: sheet.standing.miners.iter().map(line).collect(),
        })
    }

    /// What no honest lead publishes.
    fn wrong(&self) -> Option<String> {
        match (self.follows, self.selection_follows) {
            (Follows::No, _) => Some(format!("round {}: the sheet's scores do not follow from its measurements", self.round)),
            (_, false) => Some(format!("round {}: the record does not apply what follows from its sheet", self.round)),
            _ => None,
        }
    }
}

impl Line {
    fn of(score: &MinerScore, found: Option<&(&Entry, Verdict<'_>)>, pay: &Pay, share: f64) -> Self {
        let outcome = found.map(|(entry, _)| entry.outcome.clone());
        Self {
            uid: score.uid,
            hotkey: score.hotkey,
            fate: found.map_or(Fate::NotListed, |(_, verdict)| verdict.into()),
            advantage: outcome.as_ref().and_then(Outcome::advantage),
            outcome,
            trains: score.trains(),
            kept: score.kept(pay),
            share,
            standing: score.clone(),
        }
    }
}

/// Tokens that an entry was measured on.
fn tokens(entry: &Entry) -> u64 {
    match &entry.outcome {
        Outcome::Measured { assigned, random, .. } => assigned.tokens.saturating_add(random.tokens),
        Outcome::Refused(_) | Outcome::Unmeasured => 0,
    }
}

/// Who countersigned a record, and where they contradict its sheet.
pub async fn objections(run: &Arc<Run>, recorded: &Recorded) -> Result<(Vec<Hotkey>, Vec<Objection>)> {
    let countersignatures = recorded.countersignatures(run).await?;
    let neurons = run.chain.neurons(run.manifest.chain.netuid, recorded.record.value.open_block).await?;
    let uid_of = |hotkey: Hotkey| neurons.iter().find(|n| n.hotkey == hotkey).map(|n| n.uid);
    let mut dissents = Vec::new();
    for (by, said) in &countersignatures {
        let objection = |uid, reason: &str| Objection { by: *by, by_uid: uid_of(*by), uid, reason: output::foreign(reason) };
        dissents.extend(said.dissents.iter().map(|d| objection(d.uid, &d.reason)));
    }
    Ok((countersignatures.into_iter().map(|(by, _)| by).collect(), dissents))
}

/// Who is paid which part, by scores alone: what a validator that has nothing to contradict puts on the chain.
#[derive(Debug)]
pub struct Shares(Vec<(u16, f64)>);

impl Shares {
    /// By the newest scores, under a round's terms.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn of(run: &Run, miners: &[MinerScore], judge: &Judge) -> Result<Self> {
        let chain = &run.manifest.chain;
        let neurons = run.chain.neurons(chain.netuid, run.chain.head().await?.number).await?;
        let owner = run.chain.subnet(chain.netuid).await?.owner;
        let owner = neurons.iter().find(|n| n.hotkey == owner).map_or(0, |n| n.uid);
        // a uid that changed hands is paid nothing for its predecessor
        let holds = |s: &&MinerScore| neurons.iter().any(|n| (n.uid, n.hotkey) == (s.uid, s.hotkey));
        let held: Vec<MinerScore> = miners.iter().filter(holds).cloned().collect();
        let weights = score::weights(&held, judge, &run.manifest.pay, owner);
        let total: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
        Ok(Self(weights.into_iter().map(|(uid, weight)| (uid, f64::from(weight) / total)).collect()))
    }

    /// The share of a uid, 0 to 1.
    pub fn of_uid(&self, uid: u16) -> f64 {
        self.0.iter().find(|(of, _)| *of == uid).map_or(0.0, |(_, share)| *share)
    }

    /// The share of those that are none of `miners`.
    fn of_others(&self, miners: &[MinerScore]) -> f64 {
        self.0.iter().filter(|(uid, _)| miners.iter().all(|s| s.uid != *uid)).fold(0.0, |sum, (_, share)| sum + share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(follows: Follows, selection_follows: bool) -> Sheet {
        let d = Digest::default();
        Sheet {
            run: d,
            name: "demo".into(),
            round: 7,
            block: 70,
            lead: Hotkey([1; 32]),
            record: d,
            score_sheet: d,
            root: d,
            tokens: 0,
            effect: 0.5,
            follows,
            selection_follows,
            countersigned: Vec::new(),
            dissents: Vec::new(),
            burnt: 0.5,
            miners: Vec::new(),
        }
    }

    #[test]
    fn a_sheet_that_no_node_takes_is_named() {
        let of = |follows, selection| {
            let sheet = sheet(follows, selection);
            (sheet.wrong(), sheet.to_string())
        };
        assert!(of(Follows::Yes, true).0.is_none() && of(Follows::Unknown, true).0.is_none());
        let (wrong, words) = of(Follows::No, true);
        assert!(wrong.is_some_and(|w| w.contains("round 7: the sheet's scores do not follow")) && words.contains("round 6's sheet: NO;"));
        let (wrong, words) = of(Follows::Unknown, false);
        assert!(
            wrong.is_some_and(|w| w.contains("does not apply")) && words.contains("cannot be had; the record applies what follows: NO")
        );
        assert!(words.ends_with("owner's uid: 50.0 %"), "{words}");
    }
}
