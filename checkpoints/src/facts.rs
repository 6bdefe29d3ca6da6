//! What a record's documents must say, as far as that follows from the log alone: no payload and no tensor is needed for it.

use std::mem::discriminant;

use protocol::{
    Applied, Digest, Document, ObjectKey, Record, Refusal, SealList, Sealed, Signed,
    round::Candidate,
    score::{Entry, ScoreSheet},
};

use crate::{
    Anchor, Close, Run, RunError, Terms,
    copies::Fetched,
    log::{Absent, RoundLog, fetch_committed},
    payloads::check_envelope,
};

/// The place in the log that a record is to follow.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub run: &'a Run,
    pub anchor: &'a Anchor,
    /// Root of the state there.
    pub root: Digest,
    pub terms: &'a Terms,
}

/// What the documents behind a committed record are.
pub(crate) enum Documents {
    /// All facts that need no payload hold.
    Hold(Box<(Signed<Record>, Signed<ScoreSheet>)>),
    /// Some bytes cannot be had now.
    Missing,
    /// The first wrong fact.
    Void(&'static str),
}

impl Place<'_> {
    /// Fetches a committed record with its score sheet, and checks all facts that need no payload. What was fetched is added to `fetched`.
    ///
    /// # Errors
    /// Only the chain's own.
    pub async fn documents(
        &self,
        log: &RoundLog,
        close: &Close,
        candidate: &Candidate,
        fetched: &mut Vec<Fetched>,
    ) -> Result<Documents, RunError> {
        let round = self.anchor.round;
        let record = match fetch::<Record>(self.run, candidate, ObjectKey::Record(round), fetched).await {
            Ok(record) => record,
            Err(Absent::Missing) => return Ok(Documents::Missing),
            Err(Absent::Void) => return Ok(Documents::Void("not a record")),
        };
        let by_sheet = Candidate { digest: record.value.score_sheet, ..candidate.clone() };
        let sheet = match fetch::<ScoreSheet>(self.run, &by_sheet, ObjectKey::ScoreSheet(round), fetched).await {
            Ok(sheet) => sheet,
            Err(Absent::Missing) => return Ok(Documents::Missing),
            Err(Absent::Void) => return Ok(Documents::Void("not a score sheet")),
        };
        if let Some(why) = self.wrong_fact(log, close, candidate, &record, &sheet) {
            return Ok(Documents::Void(why));
        }
        let Some(seed) = self.run.chain.block(close.block + 1).await? else { return Ok(Documents::Missing) };
        if !sheet.value.measures_sample(&self.anchor.standing, &seed.hash, &self.terms.judge) {
            return Ok(Documents::Void("does not measure everybody whom the lot fell on"));
        }
        Ok(Documents::Hold(Box::new((record, sheet))))
    }

    /// The first wrong fact that needs no payload.
    fn wrong_fact(
        &self,
        log: &RoundLog,
        close: &Close,
        candidate: &Candidate,
        record: &Signed<Record>,
        sheet: &Signed<ScoreSheet>,
    ) -> Option<&'static str> {
        let (r, s, manifest) = (&record.value, &sheet.value, &self.run.manifest);
        if s.entries.len() != close.list.value.entries.len() {
            return Some("its score sheet does not match the seal list");
        }
        let late = |e: &Entry| matches!(e.outcome.refusal(), Some(Refusal::Missing | Refusal::NotRevealed));
        if candidate.block <= log.plan.reveal_due(close.block) && s.entries.iter().any(late) {
            return Some("refuses a miner as late before its time is over");
        }
        let selected: Vec<Applied> = s
            .select(&self.terms.judge, &manifest.pay)
            .into_iter()
            .map(|e| Applied { uid: e.uid, hotkey: e.hotkey, payload: e.payload, weight: 1.0 })
            .collect();
        let facts = [
            (record.signer == candidate.lead && sheet.signer == candidate.lead, "signed by another than the committing lead"),
            ((r.run, r.round) == (self.run.id, self.anchor.round), "for another run or round"),
            ((s.run, s.round) == (self.run.id, self.anchor.round), "its score sheet is for another run or round"),
            (r.previous == self.anchor.record, "does not follow the record before"),
            (r.seal_list == close.list.digest() && s.seal_list == r.seal_list, "made under another seal list"),
            (r.open_block == self.anchor.open_block && r.validators == log.plan.ranks, "names other validators than the chain"),
            (r.base_root == self.root, "starts from another root"),
            (self.matches_list(log, s, &close.list.value), "its score sheet does not match the seal list"),
            (s.follows(&self.anchor.standing, &self.terms.judge, &manifest.pay), "its scores do not follow from its measurements"),
            (r.applied == selected, "its selection does not follow from its scores"),
        ];
        facts.into_iter().find(|(holds, _)| !holds).map(|(_, why)| why)
    }

    /// Whether a sheet has one line per envelope listed, in order, of the uid's owner, about the payload that the envelope names, and sees
    /// in the envelope itself what everybody sees.
    fn matches_list(&self, log: &RoundLog, sheet: &ScoreSheet, list: &SealList) -> bool {
        let matches = |(entry, sealed): (&Entry, &Sealed)| {
            let Some(&hotkey) = log.hotkeys.get(&sealed.uid) else { return false };
            let found = check_envelope(self.run, self.anchor.round, self.root, hotkey, sealed);
            let said = entry.outcome.refusal();
            let agrees = match found {
                Ok(envelope) => {
                    let claimed = self.run.manifest.claimed_work(envelope.value.sequences);
                    entry.payload == envelope.value.payload
                        && entry.outcome.work().is_none_or(|work| work == claimed)
                        && !said.is_some_and(Refusal::is_of_envelope)
                }
                // compared by kind: another version may word an error otherwise
                Err(found) => said.is_some_and(|said| discriminant(said) == discriminant(&found)),
            };
            (entry.uid, entry.hotkey) == (sealed.uid, hotkey) && agrees
        };
        sheet.entries.len() == list.entries.len() && sheet.entries.iter().zip(&list.entries).all(matches)
    }
}

/// The document behind a candidate; its bytes are added to `fetched`.
pub(crate) async fn fetch<T: Document + Send + 'static>(
    run: &Run,
    candidate: &Candidate,
    key: ObjectKey,
    fetched: &mut Vec<Fetched>,
) -> Result<Signed<T>, Absent> {
    let found = fetch_committed::<T>(run, candidate, &key).await.ok_or(Absent::Missing)?;
    fetched.push(Fetched { lead: candidate.lead, key: key.copy(candidate.digest), bytes: found.bytes });
    found.document.ok_or(Absent::Void)
}
