//! What a check found, and how deep it went.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use checkpoints::Run;
use protocol::{Digest, Keep, ObjectKey, RunId};
use serde::Serialize;

use super::{
    Found, Gone, Level, Replayed,
    stock::{Holding, Spans},
};
use crate::output;

/// What a check found.
#[derive(Debug, Serialize)]
pub struct Verdict {
    run: RunId,
    level: Level,
    /// The round from which on steps were replayed.
    from: Option<u64>,
    /// Rounds that hold.
    rounds: u64,
    /// The state's root after them.
    root: Digest,
    log: Read,
    retention: Kept,
    /// What the run's retention no longer keeps, and nobody has.
    gone: Rounds,
    /// What it should keep.
    missing: Missing,
    /// Where the last state was written.
    snapshot: Option<PathBuf>,
}

/// What the log alone shows.
#[derive(Debug, Serialize)]
struct Read {
    rounds: usize,
    /// Rounds in which most stake agreed on the record; nobody contradicted the others in time.
    agreed: usize,
    countersigned: usize,
    dissenting: usize,
    /// Rounds of snapshots that fit.
    snapshots: Vec<u64>,
    /// Rounds of snapshots that do not fit, or are not whole.
    refused: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Kept {
    rounds: Option<u64>,
    #[serde(flatten)]
    keep: Keep,
}

#[derive(Debug, Default, Serialize)]
struct Rounds {
    payloads: Spans,
    bundles: Spans,
    snapshots: Spans,
}

#[derive(Debug, Serialize)]
struct Missing {
    /// Rounds whose payloads nobody gives, neither one by one nor in a bundle.
    lost: Spans,
    /// Some payload of the round is not in its owner's bucket; a bundle may have it.
    #[serde(flatten)]
    rounds: Rounds,
}

impl Verdict {
    /// Of what is left of a run. `upto` rounds were to be replayed; `lost` turned out not to be there, or not to be what they
    /// should.
    pub fn new(run: &Run, found: &Found, upto: u64, replayed: Option<&Replayed>, lost: &[Gone]) -> Self {
        let (Found { log, holdings, keep }, every) = (found, run.manifest.checkpoints.every);
        let end = log.rounds.len() as u64;
        let of = |rounds: std::ops::Range<u64>, wanted: &dyn Fn(&Holding) -> bool| -> Spans {
            let numbered = (0..).zip(holdings).filter(|(number, _)| rounds.contains(number));
            numbered.filter(|(_, holding)| !holding.empty && wanted(holding)).map(|(number, _)| number).collect()
        };
        let goes = |round: u64| keep.verdict(Some(&ObjectKey::Checkpoint { round, file: String::new() })).goes();
        let without_snapshot = |wanted: &dyn Fn(u64) -> bool| -> Spans {
            let due = (1..=end).filter(|round| round.is_multiple_of(every));
            due.filter(|round| !log.snapshots.contains_key(round) && wanted(*round)).collect()
        };
        let of_kind = |rounds: std::ops::Range<u64>, snapshots: Spans| Rounds {
            payloads: of(rounds.clone(), &|holding| !holding.absent.is_empty()),
            bundles: of(rounds, &|holding| !holding.bundled),
            snapshots,
        };
        let unreadable: BTreeSet<u64> = lost.iter().map(|gone| gone.round).collect();
        let lost = (keep.floor..end).filter(|round| {
            let holding = holdings.get(*round as usize);
            unreadable.contains(round) || holding.is_some_and(|holding| !holding.empty && !holding.is_whole())
        });
        let missing = Missing { lost: lost.collect(), rounds: of_kind(keep.floor..end, without_snapshot(&|round| !goes(round))) };
        let gone = of_kind(0..keep.floor, without_snapshot(&goes));
        Self {
            run: run.id,
            level: replayed.map_or(Level::Signatures, |replayed| replayed.start.level()),
            from: replayed.map(|replayed| replayed.start.round()),
            rounds: replayed.map_or(upto, |replayed| replayed.replica.anchor.round),
            root: replayed.map_or_else(|| log.root(upto), |replayed| replayed.replica.root),
            log: Read {
                rounds: log.rounds.len(),
                agreed: log.agreed,
                countersigned: log.countersigned,
                dissenting: log.dissenting,
                snapshots: log.snapshots.keys().copied().collect(),
                refused: log.refused.iter().copied().collect(),
            },
            retention: Kept { rounds: run.manifest.retention.rounds, keep: *keep },
            gone,
            missing,
            snapshot: None,
        }
    }

    /// The same, when the last state was written somewhere.
    pub fn with_snapshot(self, folder: Option<PathBuf>) -> Self {
        Self { snapshot: folder, ..self }
    }

    /// Whether that is what was asked for, and nothing is missing that should be there.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn outcome(&self, asked: Option<Level>, lost: &[Gone]) -> Result<()> {
        if !self.missing.lost.is_empty() {
            let named = lost.iter().find(|gone| gone.round >= self.retention.keep.floor);
            let detail = named.map_or_else(String::new, |gone| format!(" ({gone})"));
            bail!("the payloads of round(s) {} are missing, although the run's retention keeps them{detail}", self.missing.lost);
        }
        match asked {
            Some(asked) if asked != self.level => {
                let gone =
                    if self.gone.payloads.is_empty() { String::new() } else { format!("; payloads of {} are gone", self.gone.payloads) };
                bail!("what is left does not allow level {}: {}{gone}", name(asked), self.reached())
            }
            _ => Ok(()),
        }
    }

    fn reached(&self) -> String {
        let Self { rounds, from, .. } = self;
        match (self.level, from) {
            (Level::Genesis, _) => format!("replay from genesis: all {rounds} rounds were replayed, every root is equal"),
            (Level::Snapshot, Some(from)) if from == rounds => {
                format!("replay from snapshot {from}: its tensors have the log's root; no round after it was replayed")
            }
            (Level::Snapshot, Some(from)) => {
                format!("replay from snapshot {from}: rounds {from} to {} were replayed, every root is equal", rounds.saturating_sub(1))
            }
            _ => format!("signatures: the log of {rounds} rounds holds; nothing was replayed"),
        }
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Signatures => "signatures",
        Level::Snapshot => "snapshot",
        Level::Genesis => "genesis",
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [("payloads", &self.payloads), ("bundles", &self.bundles), ("snapshots", &self.snapshots)];
        let kinds = kinds.iter().filter(|(_, spans)| !spans.is_empty()).map(|(kind, spans)| format!("{kind} of {spans}"));
        let told = kinds.collect::<Vec<_>>().join("; ");
        f.write_str(if told.is_empty() { "nothing" } else { &told })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Read { rounds, agreed, countersigned, dissenting, snapshots, refused } = &self.log;
        let words = |name: &str, text: String| format!("{name:<10} {}", output::wrapped(&text, 11, 11).trim_start());
        let mut line = |name: &str, text: String| writeln!(f, "{}", words(name, text));
        line(
            "log",
            format!(
                "{rounds} rounds: signatures, links, turns and votes hold; most stake agreed on {agreed} of the records, nobody contradicted \
                 the others; {countersigned} countersignatures, {dissenting} with dissents"
            ),
        )?;
        let spans = |rounds: &[u64]| rounds.iter().copied().collect::<Spans>().to_string();
        if !snapshots.is_empty() {
            line("snapshots", format!("of {} fit the log and are whole", spans(snapshots)))?;
        }
        if !refused.is_empty() {
            line("refused", format!("snapshots of {}", spans(refused)))?;
        }
        match self.retention.rounds {
            None => line("retention", "everything is kept for ever".into())?,
            Some(kept) => line("retention", format!("{kept} rounds are kept: payloads from round {} on", self.retention.keep.floor))?,
        }
        line("gone", format!("{}, by the run's retention", self.gone))?;
        line("missing", self.missing.rounds.to_string())?;
        if !self.missing.lost.is_empty() {
            line("lost", format!("payloads of {}: neither one by one nor in a bundle", self.missing.lost))?;
        }
        if let Some(folder) = &self.snapshot {
            line("written", format!("snapshot in {}", folder.display()))?;
        }
        line("root", format!("{} after {} rounds", self.root, self.rounds))?;
        write!(f, "{}", words("level", self.reached()))
    }
}
