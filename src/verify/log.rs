//! The run's log, read without payloads: how far it goes, what was applied, and which snapshots fit it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Result, bail};
use checkpoints::{LogReader, Logged, Offer, Reading, Run, all_offers, read_manifest};
use protocol::{Applied, Digest, Keep};

use super::missing;
use crate::records::Recorded;

/// A round of the log.
#[derive(Clone, Debug)]
pub struct Round {
    /// Whose payloads were applied.
    pub applied: Vec<Applied>,
    /// The state's root after it.
    pub root: Digest,
}

/// The log, read from genesis to its end.
#[derive(Clone, Debug)]
pub struct Log {
    /// By number.
    pub rounds: Vec<Round>,
    /// Records that most stake agreed on; nobody contradicted the others in time.
    pub agreed: usize,
    /// Countersignatures that hold.
    pub countersigned: usize,
    /// Those of them that contradict something.
    pub dissenting: usize,
    /// Validators' snapshots that fit the log and are whole, by round.
    pub snapshots: BTreeMap<u64, Vec<Offer>>,
    /// Rounds of snapshots that do not.
    pub refused: BTreeSet<u64>,
    reader: LogReader,
}

/// Where a log ends.
enum End {
    Here,
    /// At bytes that cannot be had.
    Missing(String),
    /// At records that all have a wrong fact.
    Void(String),
}

impl Log {
    /// Reads the log up to block `head`.
    ///
    /// Where payloads are gone, a record whose root alone is wrong looks like one that stands. Votes tell; where nobody votes, the longest log
    /// does: no honest lead goes on from a wrong root.
    ///
    /// # Errors
    /// At the first document that cannot be had, and at the first record that should hold and does not.
    pub async fn read(run: &Arc<Run>, head: u64) -> Result<Self> {
        let offers = Self::offers(run).await?;
        let (mut best, mut missing, mut open) = (None::<(Self, End)>, None, vec![Self::genesis(run)]);
        while let Some(mut log) = open.pop() {
            let end = log.read_on(head, &offers, &mut open).await?;
            if let End::Missing(what) = &end {
                missing.get_or_insert(what.clone());
            }
            if best.as_ref().is_none_or(|(best, _)| best.rounds.len() < log.rounds.len()) {
                best = Some((log, end));
            }
        }
        match best {
            Some((log, End::Here)) => Ok(log),
            // the record that cannot be had may be the one that the others follow
            Some((_, End::Void(why) | End::Missing(why))) => bail!(missing.unwrap_or(why)),
            None => Ok(Self::genesis(run)),
        }
    }

    /// The same log, as far as it goes by block `head`, with the snapshots that have come since.
    ///
    /// # Errors
    /// Only the chain's own; what cannot be read on ends it.
    pub async fn later(&self, head: u64) -> Result<Self> {
        let offers = Self::offers(&self.reader.run).await?;
        let mut later = self.clone();
        later.read_on(head, &offers, &mut Vec::new()).await?;
        Ok(later)
    }

    /// Snapshots by round.
    async fn offers(run: &Run) -> Result<BTreeMap<u64, Vec<Offer>>> {
        let mut offers: BTreeMap<u64, Vec<Offer>> = BTreeMap::new();
        for offer in all_offers(run).await? {
            offers.entry(offer.round).or_default().push(offer);
        }
        Ok(offers)
    }

    /// What owners keep who stand at its end.
    pub fn keep(&self) -> Keep {
        let manifest = &self.reader.run.manifest;
        let snapshots: Vec<u64> = self.snapshots.keys().copied().collect();
        manifest.retention.at(self.rounds.len() as u64, &manifest.checkpoints, &snapshots)
    }

    fn genesis(run: &Arc<Run>) -> Self {
        Self {
            rounds: Vec::new(),
            agreed: 0,
            countersigned: 0,
            dissenting: 0,
            snapshots: BTreeMap::new(),
            refused: BTreeSet::new(),
            reader: LogReader::genesis(run.clone()),
        }
    }

    /// Reads on to the end; other ways that the log could go are added to `open`.
    async fn read_on(&mut self, head: u64, offers: &BTreeMap<u64, Vec<Offer>>, open: &mut Vec<Self>) -> Result<End> {
        loop {
            let before = self.reader.clone();
            let round = before.anchor.round;
            match self.reader.advance(head).await? {
                Reading::End => return Ok(End::Here),
                Reading::Void(record, why) => return Ok(End::Void(format!("round {round}: record {} is void: {why}", record.digest))),
                Reading::Missing(log, candidate) => {
                    let missing = missing(&before.run, round, &log, &candidate).await?;
                    return Ok(End::Missing(format!("round {round}: {missing} cannot be had, and the log is to be kept for ever")));
                }
                Reading::Record(logged) => {
                    if logged.agreed {
                        // what most stake agreed on is not in doubt, nor is what led there
                        open.clear();
                    } else if logged.has_rivals {
                        let mut other = Self { reader: before, ..self.clone() };
                        other.reader.passed_over.insert(logged.record.digest());
                        open.push(other);
                    }
                    self.enter(*logged).await?;
                    self.compare(offers.get(&(round + 1)).map_or(&[][..], Vec::as_slice)).await;
                }
            }
        }
    }

    async fn enter(&mut self, logged: Logged) -> Result<()> {
        let Logged { record, close, block, agreed, .. } = logged;
        self.rounds.push(Round { applied: record.value.applied.clone(), root: record.value.root });
        self.agreed += usize::from(agreed);
        let recorded = Recorded { record, block, close: close.block };
        for (_, said) in recorded.countersignatures(&self.reader.run).await? {
            self.countersigned += 1;
            self.dissenting += usize::from(!said.dissents.is_empty());
        }
        Ok(())
    }

    /// Compares the snapshots that are said to be of this place with it.
    async fn compare(&mut self, offers: &[Offer]) {
        let LogReader { run, anchor, root, .. } = &self.reader;
        let layout = run.manifest.state_layout();
        for offer in offers {
            let fits = match read_manifest(&offer.bucket, offer.round, &layout).await {
                Ok(snapshot) => {
                    let value = &snapshot.value;
                    let signed = snapshot.signer == offer.validator && value.run == run.id;
                    signed && value.anchor == *anchor && value.root == *root && offer.is_whole(&snapshot).await
                }
                Err(_) => false,
            };
            if fits {
                self.snapshots.entry(offer.round).or_default().push(offer.clone());
            } else {
                tracing::warn!(round = offer.round, validator = %offer.validator, "a snapshot that does not fit the log, or is not whole");
                self.refused.insert(offer.round);
            }
        }
    }

    /// The root after so many rounds.
    pub fn root(&self, rounds: u64) -> Digest {
        let last = usize::try_from(rounds).ok().and_then(|rounds| self.rounds.get(rounds.checked_sub(1)?));
        last.map_or(self.reader.run.manifest.genesis_root, |round| round.root)
    }
}
