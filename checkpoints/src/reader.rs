//! The log read by itself: every document, signature, link, turn and vote is checked, without a payload and without a tensor. What only
//! payloads can show, the roots above all, is taken on the word of the stake that agreed.

use std::{collections::HashSet, sync::Arc};

use protocol::{
    Digest, ObjectKey, Record, SealList, Signed,
    round::{Candidate, Fate},
    score::ScoreSheet,
};

use crate::{
    Anchor, Close, Run, RunError,
    facts::{Documents, Place},
    log::{Absent, RoundLog, check_seal_list, fetch_document},
};

/// A place in the log, and the root that the state has there according to it.
#[derive(Clone, Debug)]
pub struct LogReader {
    /// The run.
    pub run: Arc<Run>,
    /// Place in the log.
    pub anchor: Anchor,
    /// The state's root, as the record before says.
    pub root: Digest,
    /// Records that are passed over as if their payloads had shown them void.
    pub passed_over: HashSet<Digest>,
}

/// A record that stands, as far as the log shows.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The record.
    pub record: Signed<Record>,
    /// The lead's score sheet.
    pub sheet: Signed<ScoreSheet>,
    /// The seal list.
    pub close: Close,
    /// Block that committed the record.
    pub block: u64,
    /// Whether holders of most stake, the lead's with it, said that they agree; else nobody contradicted it in time.
    pub agreed: bool,
    /// Whether another record could stand, if the payloads of this one showed it void.
    pub has_rivals: bool,
}

/// What comes next in the log.
#[derive(Debug)]
pub enum Reading {
    /// A record; the reader stands after it.
    Record(Box<Logged>),
    /// No record stands yet.
    End,
    /// The bytes behind this digest cannot be had.
    Missing(RoundLog, Candidate),
    /// No record stands, and the first that could have has this wrong fact.
    Void(Candidate, &'static str),
}

impl LogReader {
    /// At round 0.
    pub fn genesis(run: Arc<Run>) -> Self {
        let (anchor, root) = (Anchor::genesis(run.id, &run.manifest), run.manifest.genesis_root);
        Self { run, anchor, root, passed_over: HashSet::new() }
    }

    /// Reads on by one record, on the chain up to block `head`.
    ///
    /// Of several records that could stand, the one that most stake agreed on does: whoever agreed has seen the payloads. Without such a
    /// one it is the first, as if its payloads had been seen; [`Logged::has_rivals`] says that there is a doubt.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn advance(&mut self, head: u64) -> Result<Reading, RunError> {
        if head < self.anchor.open_block {
            return Ok(Reading::End);
        }
        let log = RoundLog::read(&self.run, &self.anchor, head).await?;
        let close = match self.find_close(&log, head).await {
            Ok(Some(close)) => close,
            Ok(None) => return Ok(Reading::End),
            Err(missing) => return Ok(Reading::Missing(log, missing)),
        };
        let passed_over = |(candidate, fate): &(Candidate, Fate)| {
            matches!(fate, Fate::VotedDown | Fate::Withheld) || self.passed_over.contains(&candidate.digest)
        };
        let possible = log.in_turn(close.block, head).into_iter().filter(|record| !passed_over(record));
        let (agreed, others): (Vec<_>, Vec<_>) = possible.partition(|(candidate, fate)| is_agreed(&log, close.block, candidate, *fate));
        let (mut void, mut left) = (None, agreed.len() + others.len());
        for (candidate, fate) in agreed.into_iter().chain(others) {
            left -= 1;
            match (self.look(&log, &close, &candidate).await?, fate) {
                (Documents::Hold(documents), Fate::Stands(since)) => {
                    let (record, sheet) = *documents;
                    self.anchor = Anchor::after(&record, &sheet.value, close.block, (candidate.block, since));
                    self.root = record.value.root;
                    let agreed = is_agreed(&log, close.block, &candidate, fate);
                    let logged = Logged { record, sheet, close, block: candidate.block, agreed, has_rivals: left > 0 };
                    return Ok(Reading::Record(Box::new(logged)));
                }
                (Documents::Hold(_), _) => return Ok(Reading::End),
                (Documents::Missing, _) => return Ok(Reading::Missing(log, candidate)),
                (Documents::Void(why), _) => void = void.or(Some((candidate, why))),
            }
        }
        Ok(void.map_or(Reading::End, |(candidate, why)| Reading::Void(candidate, why)))
    }

    async fn look(&self, log: &RoundLog, close: &Close, candidate: &Candidate) -> Result<Documents, RunError> {
        let terms = self.run.terms(&self.anchor).await?;
        let place = Place { run: &self.run, anchor: &self.anchor, root: self.root, terms: &terms };
        place.documents(log, close, candidate, &mut Vec::new()).await
    }

    /// The seal list that stands, if any; `Err` names the first whose bytes are missing.
    async fn find_close(&self, log: &RoundLog, head: u64) -> Result<Option<Close>, Candidate> {
        for candidate in log.lists_in_force(head) {
            match fetch_document::<SealList>(&self.run, &candidate, &ObjectKey::SealList(self.anchor.round)).await {
                Ok(list) if check_seal_list(&self.run, (&self.anchor, self.root), log, &candidate, &list) => {
                    return Ok(Some(Close { block: candidate.block, list }));
                }
                Ok(_) | Err(Absent::Void) => {}
                Err(Absent::Missing) => return Err(candidate),
            }
        }
        Ok(None)
    }
}

/// Whether votes, and not their absence, let a record stand.
fn is_agreed(log: &RoundLog, close: u64, candidate: &Candidate, fate: Fate) -> bool {
    matches!(fate, Fate::Stands(since) if since < log.plan.votes_due(close, candidate.block))
}
