//! A run's past rounds as chain and buckets have them: records, score sheets, countersignatures. Reads documents; replays nothing.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use checkpoints::{Absent, Anchor, Run, Terms, fate, fetch_document};
use protocol::{
    Announcement, Countersign, Digest, Document, Hotkey, ObjectKey, Record, RunId, Signed,
    round::{Candidate, Fate, RoundPlan},
    score::{ScoreSheet, Standing},
};
use tokio::task::JoinSet;

/// A round on the record.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The record; its signer is the round's lead.
    pub record: Signed<Record>,
    /// Block that committed it.
    pub block: u64,
    /// Block of its seal list, at which the next round opened.
    pub close: u64,
}

impl Recorded {
    /// The round.
    pub fn round(&self) -> u64 {
        self.record.value.round
    }

    /// Place in the log after it, without standing and payloads; `since`: the block from which it counts.
    pub fn anchor(&self, since: u64) -> Anchor {
        Anchor {
            round: self.round() + 1,
            open_block: self.close,
            record_block: self.block,
            since,
            record: self.record.digest(),
            applied: Vec::new(),
            standing: Standing::default(),
        }
    }

    /// The score sheet that the record names, signed by the same lead.
    ///
    /// # Errors
    /// Where nobody gives bytes of that digest, or they are not a sheet of this round.
    pub async fn sheet(&self, run: &Run) -> Result<ScoreSheet> {
        let (round, lead, digest) = (self.round(), self.record.signer, self.record.value.score_sheet);
        let named = Candidate { lead, block: self.block, digest };
        let fetched = fetch_document::<ScoreSheet>(run, &named, &ObjectKey::ScoreSheet(round)).await;
        let fits = |sheet: &Signed<ScoreSheet>| sheet.signer == lead && (sheet.value.run, sheet.value.round) == (run.id, round);
        match fetched {
            Ok(sheet) if fits(&sheet) => Ok(sheet.value),
            Ok(_) | Err(Absent::Void) => bail!("round {round}: what lead {lead} signed as score sheet {digest} is none of this version's"),
            Err(Absent::Missing) => {
                bail!("round {round}: score sheet {digest} cannot be had; the store of lead {lead} may have removed it, or is down")
            }
        }
    }

    /// What held in the round: the manifest as amended.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn terms(&self, run: &Run) -> Result<Terms> {
        let (round, open_block) = (self.round(), self.record.value.open_block);
        Ok(run.terms(&Anchor { round, open_block, ..Anchor::genesis(run.id, &run.manifest) }).await?)
    }

    /// What the other validators signed about the record, by rank; those of whom nothing can be had are left out.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn countersignatures(&self, run: &Arc<Run>) -> Result<Vec<(Hotkey, Countersign)>> {
        let (round, digest) = (self.round(), self.record.digest());
        let validators = self.record.value.validators.iter().map(|v| v.hotkey);
        let others: Vec<Hotkey> = validators.filter(|hotkey| *hotkey != self.record.signer).collect();
        let buckets = run.buckets().await?;
        let mut fetches = JoinSet::new();
        for (rank, hotkey) in others.into_iter().enumerate() {
            let Some(bucket) = buckets.get(&hotkey).cloned() else { continue };
            fetches.spawn(async move {
                let bytes = bucket.get(&ObjectKey::Countersign(round, digest), Countersign::CAP).await.ok()??;
                let signed = Signed::<Countersign>::parse(&bytes).ok()?;
                let fits = signed.signer == hotkey && signed.value.record == digest;
                fits.then_some((rank, hotkey, signed.value))
            });
        }
        let mut found: Vec<_> = fetches.join_all().await.into_iter().flatten().collect();
        found.sort_by_key(|(rank, ..)| *rank);
        Ok(found.into_iter().map(|(_, hotkey, said)| (hotkey, said)).collect())
    }
}

/// The records that validators announced, from the newest back.
#[derive(Debug)]
pub struct Records<'a> {
    run: &'a Run,
    head: u64,
    /// The first block that was read; nothing before it was.
    from: u64,
    /// What was announced from there on, by whom and where, in the chain's order; the candidates' digests are not set.
    said: Vec<(Candidate, Announcement)>,
}

impl<'a> Records<'a> {
    /// Reads the newest blocks up to `head`; more when they are needed.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn read(run: &'a Run, head: u64) -> Result<Self> {
        let times = &run.manifest.round;
        let mut records = Self { run, head, from: head + 1, said: Vec::new() };
        records.read_back(4 * (times.train + times.reveal + times.judge)).await?;
        Ok(records)
    }

    /// Reads further back, to `blocks` before the head at least. Whether there was anything to read.
    async fn read_back(&mut self, blocks: u64) -> Result<bool> {
        let from = self.head.saturating_sub(blocks).max(self.run.manifest.chain.start_block);
        if from >= self.from {
            return Ok(false);
        }
        let earlier = self.run.said(from..=self.from - 1).await?.into_iter();
        let earlier = earlier.map(|said| (Candidate { lead: said.by, block: said.block, digest: Digest::default() }, said.what));
        self.said.splice(..0, earlier.collect::<Vec<_>>());
        self.from = from;
        Ok(true)
    }

    async fn read_further(&mut self) -> Result<bool> {
        let blocks = (self.head + 1).saturating_sub(self.from).max(1);
        self.read_back(blocks.saturating_mul(4)).await
    }

    /// The newest record that an entitled lead committed on top of another and that its validators' votes let stand, and since when.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn newest(&mut self) -> Result<Option<(Recorded, u64)>> {
        self.newest_that(|_, _| true).await
    }

    /// The newest record that votes, and not their absence, let stand: nobody without a majority of the stake can make one up.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn newest_agreed(&mut self) -> Result<Option<Recorded>> {
        let plan = RoundPlan { times: self.run.manifest.round.clone(), anchor: 0, ranks: Vec::new() };
        let agreed = |recorded: &Recorded, since: u64| since < plan.votes_due(recorded.close, recorded.block);
        Ok(self.newest_that(agreed).await?.map(|(recorded, _)| recorded))
    }

    async fn newest_that(&mut self, wanted: impl Fn(&Recorded, u64) -> bool) -> Result<Option<(Recorded, u64)>> {
        loop {
            let mut records: Vec<(u64, Candidate)> = self.said.iter().filter_map(|(by, said)| record_of(self.run.id, by, said)).collect();
            // stable: within a round, the first in the chain's order comes first
            records.sort_by_key(|(round, _)| std::cmp::Reverse(*round));
            for (round, candidate) in records {
                if let Some((newest, since)) = self.linked(round, &candidate).await?
                    && wanted(&newest, since)
                {
                    return Ok(Some((newest, since)));
                }
            }
            if !self.read_further().await? {
                return Ok(None);
            }
        }
    }

    /// The record of round `upto`, or the newest, and those before it: `count` in all or as many as can be had, the newest first.
    ///
    /// # Errors
    /// If nothing is recorded yet, `upto` is not, or its record cannot be had.
    pub async fn last(&mut self, upto: Option<u64>, count: usize) -> Result<Vec<Recorded>> {
        let (newest, _) =
            self.newest().await?.context("no round of this run is recorded yet; `tributary status` says what it waits for")?;
        let (newest_round, upto) = (newest.round(), upto.unwrap_or(newest.round()));
        if upto > newest_round {
            bail!("round {upto} is not recorded yet; the newest record is of round {newest_round}");
        }
        let (mut next, mut found) = (Some(newest), Vec::new());
        while let Some(recorded) = next.take() {
            let wanted = recorded.round() <= upto;
            if found.len() + usize::from(wanted) < count {
                next = self.before(&recorded).await?;
            }
            if wanted {
                found.push(recorded);
            }
        }
        if found.is_empty() {
            bail!("the record of round {upto} cannot be had: a record between it and round {newest_round} is gone from its lead's store");
        }
        Ok(found)
    }

    /// The record that `next` follows; `None` before round 0, and where its bytes cannot be had.
    async fn before(&mut self, next: &Recorded) -> Result<Option<Recorded>> {
        let Some(round) = next.round().checked_sub(1) else { return Ok(None) };
        let (run, digest) = (self.run, next.record.value.previous);
        let wanted = Announcement::Record { run: run.id, round, digest };
        loop {
            for by in self.said.iter().filter(|(_, said)| *said == wanted).map(|(by, _)| by) {
                let fetched = fetch_document::<Record>(run, &Candidate { digest, ..by.clone() }, &ObjectKey::Record(round)).await;
                if let Ok(record) = fetched
                    && record.signer == by.lead
                    && record.value.round == round
                {
                    return Ok(Some(Recorded { record, block: by.block, close: next.record.value.open_block }));
                }
            }
            if !self.read_further().await? {
                return Ok(None);
            }
        }
    }

    /// Since when the announced record of this digest counts, whose round was closed in block `close`; `None` if it does not.
    async fn since(&self, round: u64, digest: Digest, close: u64) -> Result<Option<u64>> {
        let wanted = Announcement::Record { run: self.run.id, round, digest };
        for by in self.said.iter().filter(|(_, said)| *said == wanted).map(|(by, _)| by) {
            let candidate = Candidate { digest, ..by.clone() };
            let Ok(record) = fetch_document::<Record>(self.run, &candidate, &ObjectKey::Record(round)).await else { continue };
            if record.signer == by.lead
                && record.value.round == round
                && let Fate::Stands(since) = fate(self.run, &record.value, &candidate, close, self.head).await?
            {
                return Ok(Some(since));
            }
        }
        Ok(None)
    }

    /// The record behind a candidate, if it follows an announced record and seal list, its lead's turn had come, and it was not voted down;
    /// and since when it counts.
    async fn linked(&self, round: u64, candidate: &Candidate) -> Result<Option<(Recorded, u64)>> {
        let run = self.run;
        let Ok(record) = fetch_document::<Record>(run, candidate, &ObjectKey::Record(round)).await else { return Ok(None) };
        let value = &record.value;
        let announced = |wanted: Announcement| self.said.iter().find(|(_, said)| *said == wanted).map(|(by, _)| by);
        let before = match round.checked_sub(1) {
            Some(before) => self.since(before, value.previous, value.open_block).await?,
            None => (value.previous == run.id).then_some(run.manifest.chain.start_block),
        };
        let list = announced(Announcement::SealList { run: run.id, round, digest: value.seal_list });
        let (Some(anchor), Some(list)) = (before, list) else { return Ok(None) };
        if record.signer != candidate.lead || (value.run, value.round) != (run.id, round) || value.open_block > candidate.block {
            return Ok(None);
        }
        let plan = RoundPlan { times: run.manifest.round.clone(), anchor, ranks: run.ranks(value.open_block).await?.1 };
        let in_turn = |hotkey, turn: Option<usize>| turn.is_some() && turn == plan.rank_of(hotkey);
        let entitled = in_turn(&list.lead, plan.seal_rank(list.block))
            && in_turn(&candidate.lead, plan.record_rank(list.block, candidate.block))
            && value.validators == plan.ranks;
        let (block, close) = (candidate.block, list.block);
        match fate(run, value, candidate, close, self.head).await? {
            Fate::Stands(since) if entitled => Ok(Some((Recorded { record, block, close }, since))),
            _ => Ok(None),
        }
    }
}

fn record_of(id: RunId, by: &Candidate, said: &Announcement) -> Option<(u64, Candidate)> {
    match said {
        Announcement::Record { run, round, digest } if *run == id => Some((*round, Candidate { digest: *digest, ..by.clone() })),
        _ => None,
    }
}
