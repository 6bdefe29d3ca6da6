//! Where a node starts: from its home directory, from the newest public snapshot, or from genesis.

use std::sync::Arc;

use compression::Layout;

use protocol::{
    Announcement, Hotkey, ObjectKey, Record, Signed, Validator,
    round::{Ballot, Candidate, Fate, RoundPlan},
    score::ScoreSheet,
};
use storage::Bucket;

use crate::{
    Anchor, Expected, Form, Home, Replica, Run, RunError, Said, SnapshotManifest, Trust, fetch_document, list_snapshots, read_manifest,
    snapshot::{MAX_LISTED, read_state},
};

/// How many snapshots of one validator are looked at, the newest first.
const OFFERS: usize = 16;

/// The replica a node starts with. What came after it is replayed from the log, with every fact checked.
///
/// # Errors
/// [`RunError`] if the home directory, the chain or the genesis state fail; a snapshot that is refused is only passed over.
pub async fn join(run: &Arc<Run>, home: &Home) -> Result<Replica, RunError> {
    if let Some(replica) = home.load_replica(run)? {
        return Ok(replica);
    }
    match newest_snapshot(run, None).await? {
        Some(replica) => Ok(replica),
        None => Replica::genesis(run.clone()),
    }
}

/// A snapshot that a permitted validator publishes; nothing of it is checked yet.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The state's round.
    pub round: u64,
    /// Who publishes it.
    pub validator: Hotkey,
    /// Where it lies.
    pub bucket: Bucket,
}

/// Every permitted validator's newest public snapshots (or those of `round`), newest first.
///
/// # Errors
/// Only the chain's own; a bucket that cannot be listed offers nothing.
pub async fn offers(run: &Run, round: Option<u64>) -> Result<Vec<Offer>, RunError> {
    offers_of(run, round, OFFERS).await
}

/// Every permitted validator's public snapshots, old ones too, newest first.
///
/// # Errors
/// As [`offers`].
pub async fn all_offers(run: &Run) -> Result<Vec<Offer>, RunError> {
    offers_of(run, None, MAX_LISTED).await
}

/// Up to `most` of each validator.
async fn offers_of(run: &Run, round: Option<u64>, most: usize) -> Result<Vec<Offer>, RunError> {
    let head = run.chain.head().await?.number;
    let mut offers: Vec<Offer> = Vec::new();
    for Validator { hotkey: validator, .. } in run.ranks(head).await?.1 {
        let Some(bucket) = run.bucket_of(&validator).await? else { continue };
        let rounds = list_snapshots(&bucket).await.unwrap_or_default().into_iter().rev();
        let wanted = rounds.filter(|found| round.is_none_or(|wanted| wanted == *found)).take(most);
        offers.extend(wanted.map(|round| Offer { round, validator, bucket: bucket.clone() }));
    }
    // stable: equal rounds stay in order of rank
    offers.sort_by_key(|offer| std::cmp::Reverse(offer.round));
    Ok(offers)
}

impl Offer {
    /// Reads the snapshot's manifest: the validator signed it, and its state is the one after a record on the chain.
    ///
    /// # Errors
    /// [`RunError::Snapshot`] and [`RunError::OffChain`] for a snapshot that is refused, else the chain's own.
    pub async fn check(&self, run: &Run) -> Result<Signed<SnapshotManifest>, RunError> {
        let layout = run.manifest.state_layout();
        let signed = read_manifest(&self.bucket, self.round, &layout).await?;
        self.expected(run, &layout).check(&signed, Form::F32)?;
        if on_log(run, &signed.value).await? {
            Ok(signed)
        } else {
            Err(RunError::OffChain { round: self.round, validator: self.validator })
        }
    }

    /// Reads the snapshot into memory and checks all of it: as [`Offer::check`], and hashes and root.
    ///
    /// # Errors
    /// As [`Offer::check`].
    pub async fn read(&self, run: &Arc<Run>) -> Result<Replica, RunError> {
        let (layout, signed) = (run.manifest.state_layout(), self.check(run).await?);
        let state = read_state(&self.bucket, &signed, &self.expected(run, &layout)).await?;
        Ok(Replica::at(run.clone(), state, signed.value.anchor))
    }

    /// What a snapshot of this run by this validator must be.
    pub fn expected<'a>(&'a self, run: &Run, layout: &'a Arc<Layout>) -> Expected<'a> {
        Expected { run: run.id, layout, trust: Trust::Signers(std::slice::from_ref(&self.validator)) }
    }
}

/// The newest public snapshot (or that of `round`) which a permitted validator signed and whose record is on the chain.
///
/// # Errors
/// Only the chain's own; a snapshot that is refused is passed over with a warning.
pub async fn newest_snapshot(run: &Arc<Run>, round: Option<u64>) -> Result<Option<Replica>, RunError> {
    for offer in offers(run, round).await? {
        match offer.read(run).await {
            Ok(replica) => return Ok(Some(replica)),
            Err(error @ (RunError::Snapshot(_) | RunError::OffChain { .. })) => {
                tracing::warn!(round = offer.round, validator = %offer.validator, %error, "trying the next snapshot");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether a snapshot's root and place in the log are those after a record that its lead committed in the block it says, and for which the
/// votes were cast by the block it says. Whether that record was the first of its round, only a replay can tell.
async fn on_log(run: &Run, snapshot: &SnapshotManifest) -> Result<bool, RunError> {
    let Anchor { round, open_block, record_block, since, record: digest, .. } = snapshot.anchor;
    let Some(round) = round.checked_sub(1) else { return Ok(false) };
    if open_block > record_block || since > run.chain.head().await?.number {
        return Ok(false);
    }
    let wanted = Announcement::Record { run: run.id, round, digest };
    for said in run.said(record_block..=record_block).await?.into_iter().filter(|said| said.what == wanted) {
        let candidate = Candidate { lead: said.by, block: said.block, digest };
        let Ok(record) = fetch_document::<Record>(run, &candidate, &ObjectKey::Record(round)).await else { continue };
        if fate(run, &record.value, &candidate, open_block, since).await? != Fate::Stands(since) {
            continue;
        }
        let by_sheet = Candidate { digest: record.value.score_sheet, ..candidate };
        let Ok(sheet) = fetch_document::<ScoreSheet>(run, &by_sheet, &ObjectKey::ScoreSheet(round)).await else { continue };
        let close = Announcement::SealList { run: run.id, round, digest: record.value.seal_list };
        let closed = run.said(open_block..=open_block).await?.iter().any(|said| said.what == close);
        let anchor = (record.value.round == round).then(|| Anchor::after(&record, &sheet.value, open_block, (record_block, since)));
        if closed && record.value.root == snapshot.root && anchor.as_ref() == Some(&snapshot.anchor) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the votes up to block `head` make of a record, after a close in block `close`. One that cannot have been made then, whatever it says
/// of itself, is as good as voted down.
///
/// # Errors
/// Only the chain's own.
pub async fn fate(run: &Run, record: &Record, candidate: &Candidate, close: u64, head: u64) -> Result<Fate, RunError> {
    if record.open_block > close || close > candidate.block || candidate.block > head {
        return Ok(Fate::VotedDown);
    }
    let (_, ranks) = run.ranks(record.open_block).await?;
    // where the round began does not bear on votes
    let plan = RoundPlan { times: run.manifest.round.clone(), anchor: record.open_block, ranks };
    let ballot = |said: Said| match said.what {
        Announcement::Vote { run: id, round, digest, vote } if (id, round) == (run.id, record.round) => {
            Some(Ballot { by: said.by, block: said.block, digest, vote })
        }
        _ => None,
    };
    let ballots: Vec<Ballot> = run.said(candidate.block..=head).await?.into_iter().filter_map(ballot).collect();
    Ok(plan.fate(candidate, close, &ballots, head))
}
