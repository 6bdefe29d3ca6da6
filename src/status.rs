//! `tributary status`: where a run stands. Reads the chain and the newest record's documents; replays nothing.

use std::fmt;

use anyhow::Result;
use chain::{Neuron, RAO_PER_TAO};
use checkpoints::{Anchor, RoundLog, Run};
use clap::Args;
use protocol::{
    Digest, Hotkey, RunId,
    round::RoundPlan,
    score::{MinerScore, Standing},
};
use serde::Serialize;

use crate::{
    cli::RunArgs,
    context, output,
    records::{Recorded, Records},
};

/// Options of `tributary status`.
#[derive(Debug, Args)]
#[command(after_help = "\
The newest record is the one that a validator committed in its turn on top of the record before and that the others' votes let stand;
`tributary verify` checks its facts.

Columns: stake and emission in TAO; score is what is paid for, gain the mean gain on random data relative to the rounds' medians,
trains the probability that it trains on its assignment (0 to 1), missed the rounds in a row without a payload, weight the mean share that
validators' weights on the chain give, incentive the share that Yuma consensus made of it.

Examples:
  tributary status --run demo/store/RUN_ID
  watch tributary status --run https://example.org/RUN_ID --chain ledger:ledger.sqlite")]
pub struct StatusArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: StatusArgs) -> Result<()> {
    let run = context::open_run(&args.run, None).await?;
    output::report(&Status::read(&run).await?, args.json);
    Ok(())
}

/// What a round waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    /// For the run's first block.
    Waiting,
    /// For inner steps.
    Training,
    /// For miners to seal.
    Uploading,
    /// For a lead's seal list.
    Closing,
    /// For miners' keys.
    Revealing,
    /// For the first lead's record.
    Judging,
    /// For any lead's record.
    Recording,
    /// For the validators' votes on a record.
    Voting,
}

/// The phase of a round at block `head`, and the block at which it is due to end; `close` is the block that closed the round.
fn phase(plan: &RoundPlan, close: Option<u64>, head: u64) -> (Phase, Option<u64>) {
    let due = plan.close_due();
    match close {
        None if head < due - plan.times.upload => (Phase::Training, Some(due - plan.times.upload)),
        None if head < due => (Phase::Uploading, Some(due)),
        None => (Phase::Closing, None),
        Some(close) if head < plan.reveal_due(close) => (Phase::Revealing, Some(plan.reveal_due(close))),
        Some(close) if head < plan.record_due(close) => (Phase::Judging, Some(plan.record_due(close))),
        Some(_) => (Phase::Recording, None),
    }
}

#[derive(Debug, Serialize)]
struct Status {
    run: RunId,
    name: String,
    block: u64,
    round: u64,
    phase: Phase,
    phase_ends: Option<u64>,
    record: Option<Newest>,
    neurons: Vec<Row>,
}

/// The newest record, as far as can be told without the state.
#[derive(Debug, Serialize)]
struct Newest {
    round: u64,
    block: u64,
    lead: Hotkey,
    digest: Digest,
    root: Digest,
    applied: Vec<u16>,
    #[serde(skip)]
    standing: Standing,
}

/// A neuron's standing; stake and emission in TAO, shares between 0 and 1.
#[derive(Debug, Serialize)]
struct Row {
    uid: u16,
    hotkey: Hotkey,
    role: &'static str,
    stake: f64,
    #[serde(flatten)]
    score: Option<Score>,
    weight: f64,
    incentive: f64,
    dividends: f64,
    emission: f64,
}

#[derive(Debug, Serialize)]
struct Score {
    score: f64,
    /// Mean gain relative to the rounds' medians.
    gain: f64,
    /// Probability that it trains on what it is assigned.
    trains: f64,
    measured: u32,
    missed: u32,
}

impl Status {
    async fn read(run: &Run) -> Result<Self> {
        let (chain, netuid) = (&run.chain, run.manifest.chain.netuid);
        let head = chain.head().await?.number;
        let started = run.manifest.chain.start_block <= head;
        let newest = if started { Records::read(run, head).await?.newest().await? } else { None };
        let anchor = newest.as_ref().map_or_else(|| Anchor::genesis(run.id, &run.manifest), |(recorded, since)| recorded.anchor(*since));
        let (phase, phase_ends) = if started {
            let log = RoundLog::read(run, &anchor, head).await?;
            let close = log.seal_lists.first().map(|list| list.block);
            match close.and_then(|close| log.in_vote(close, head)) {
                Some(due) => (Phase::Voting, Some(due)),
                None => phase(&log.plan, close, head),
            }
        } else {
            (Phase::Waiting, Some(anchor.open_block))
        };
        let record = match &newest {
            Some((recorded, _)) => Some(Newest::of(run, recorded).await),
            None => None,
        };
        let neurons = chain.neurons(netuid, head).await?;
        let mut rows: Vec<(u64, Vec<(u16, u16)>)> = Vec::new();
        for validator in neurons.iter().filter(|n| n.permit) {
            rows.push((validator.stake, chain.weights(netuid, validator.uid).await?));
        }
        let owner = chain.subnet(netuid).await?.owner;
        let scores = record.as_ref().map_or(&[][..], |record| &record.standing.miners);
        let neurons = neurons.iter().map(|neuron| Row::of(neuron, owner, scores, &rows)).collect();
        let name = run.manifest.name.clone();
        Ok(Self { run: run.id, name, block: head, round: anchor.round, phase, phase_ends, record, neurons })
    }
}

impl Newest {
    async fn of(run: &Run, recorded: &Recorded) -> Self {
        let record = &recorded.record.value;
        let sheet = recorded.sheet(run).await;
        Self {
            round: record.round,
            block: recorded.block,
            lead: recorded.record.signer,
            digest: recorded.record.digest(),
            root: record.root,
            applied: record.applied.iter().map(|a| a.uid).collect(),
            standing: sheet.map(|sheet| sheet.standing).unwrap_or_default(),
        }
    }
}

impl Row {
    fn of(neuron: &Neuron, owner: Hotkey, scores: &[MinerScore], rows: &[(u64, Vec<(u16, u16)>)]) -> Self {
        let tao = |rao: u64| rao as f64 / RAO_PER_TAO as f64;
        let share = |of_max: u16| f64::from(of_max) / f64::from(u16::MAX);
        let score = scores.iter().find(|s| s.hotkey == neuron.hotkey);
        Self {
            uid: neuron.uid,
            hotkey: neuron.hotkey,
            role: role(neuron, score, owner),
            stake: tao(neuron.stake),
            score: score.map(Score::of),
            weight: mean_weight(neuron.uid, rows),
            incentive: share(neuron.incentive),
            dividends: share(neuron.dividends),
            emission: tao(neuron.emission),
        }
    }
}

/// What a neuron does, as far as chain and scores tell.
fn role(neuron: &Neuron, score: Option<&MinerScore>, owner: Hotkey) -> &'static str {
    match (neuron.permit && neuron.stake > 0, score) {
        (true, Some(_)) => "both",
        (true, None) => "validator",
        (false, Some(_)) => "miner",
        (false, None) if neuron.hotkey == owner => "owner",
        (false, None) => "other",
    }
}

impl Score {
    fn of(score: &MinerScore) -> Self {
        let MinerScore { score: paid, gain, measured, missed, .. } = *score;
        Self { score: paid, gain, trains: score.trains(), measured, missed }
    }
}

/// The mean over validators, by stake, of the share that each one's row gives to `uid`.
pub fn mean_weight(uid: u16, rows: &[(u64, Vec<(u16, u16)>)]) -> f64 {
    let share = |row: &[(u16, u16)]| {
        let total: f64 = row.iter().map(|(_, w)| f64::from(*w)).sum();
        row.iter().find(|(to, _)| *to == uid).map_or(0.0, |(_, w)| f64::from(*w) / total)
    };
    let voting = || rows.iter().filter(|(stake, row)| *stake > 0 && row.iter().any(|(_, w)| *w > 0));
    let stake: f64 = voting().map(|(stake, _)| *stake as f64).sum();
    let sum: f64 = voting().map(|(stake, row)| *stake as f64 * share(row)).sum();
    if stake > 0.0 { sum / stake } else { 0.0 }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = serde_json::to_value(self.phase).unwrap_or_default();
        let until = self.phase_ends.map(|block| format!(" until block {block}")).unwrap_or_default();
        writeln!(f, "{} (run {})", self.name, self.run)?;
        writeln!(f, "block   {}\nround   {}, {}{until}", self.block, self.round, phase.as_str().unwrap_or_default())?;
        match &self.record {
            Some(Newest { round, block, lead, root, applied, .. }) => {
                let applied = applied.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                writeln!(f, "record  of round {round}, in block {block}, by {lead}\nroot    {root}\napplied {applied}\n")?;
            }
            None => writeln!(f, "record  none yet\n")?,
        }
        let headline =
            ["hotkey", "role", "uid", "stake", "score", "gain", "trains", "missed", "weight", "incentive", "dividends", "emission"];
        let mut table = output::Table::new(2, &headline);
        self.neurons.iter().for_each(|row| table.row(row.cells()));
        table.fmt(f)
    }
}

impl Row {
    fn cells(&self) -> [String; 12] {
        let number = |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
        let share = |share: f64| format!("{:.1} %", 100.0 * share);
        let score = self.score.as_ref();
        [
            format!("{:.12}…", self.hotkey.ss58()),
            self.role.to_owned(),
            self.uid.to_string(),
            format!("{:.0}", self.stake),
            number(score.map(|s| s.score), 3),
            number(score.map(|s| s.gain), 2),
            number(score.map(|s| s.trains), 3),
            score.map_or_else(|| "-".to_owned(), |s| s.missed.to_string()),
            share(self.weight),
            share(self.incentive),
            share(self.dividends),
            format!("{:.3}", self.emission),
        ]
    }
}

#[cfg(test)]
mod tests {
    use protocol::RoundTimes;

    use super::*;

    #[test]
    fn phases_follow_each_other() {
        let times = RoundTimes { train: 10, upload: 2, reveal: 3, judge: 4, span: 2, early_close: true };
        let plan = RoundPlan { times, anchor: 100, ranks: Vec::new() };
        assert_eq!(phase(&plan, None, 100), (Phase::Training, Some(108)));
        assert_eq!(phase(&plan, None, 108), (Phase::Uploading, Some(110)));
        assert_eq!(phase(&plan, None, 110), (Phase::Closing, None));
        assert_eq!(phase(&plan, Some(105), 106), (Phase::Revealing, Some(108)));
        assert_eq!(phase(&plan, Some(105), 108), (Phase::Judging, Some(112)));
        assert_eq!(phase(&plan, Some(105), 112), (Phase::Recording, None));
    }

    #[test]
    fn weights_are_averaged_by_the_stake_that_voted() {
        let rows = [(30, vec![(1, 100), (2, 300)]), (10, vec![(1, 7)]), (0, vec![(2, 1)]), (5, vec![]), (5, vec![(1, 0)])];
        assert!((mean_weight(1, &rows) - (30.0 * 0.25 + 10.0) / 40.0).abs() < 1e-12);
        assert!((mean_weight(2, &rows) - 30.0 * 0.75 / 40.0).abs() < 1e-12);
        assert!(mean_weight(3, &rows).abs() < 1e-12 && mean_weight(1, &[]).abs() < 1e-12);
    }
}
