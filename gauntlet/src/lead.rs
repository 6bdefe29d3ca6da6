//! A lead's two acts in a round: the seal list and the record. Each goes to the own bucket first and to the chain after, and is
//! made once: a lead that restarts finds what it had published and commits the same again.

use std::collections::BTreeMap;

use checkpoints::{Close, Event, Replica};
use protocol::{
    Announcement, Applied, Digest, Document, ObjectKey, Record, SealList, Sealed, Signed, Validator as Ranked,
    score::{Entry, ScoreSheet, advance},
};

use crate::{Validator, ValidatorError};

impl Validator {
    /// Publishes and commits the seal list of the current round.
    pub(crate) async fn close_round(&mut self, envelopes: &BTreeMap<u16, Vec<u8>>) -> Result<(), ValidatorError> {
        let (run, round) = (self.run.id, self.replica.anchor.round);
        let entries = envelopes.iter().map(|(uid, envelope)| Sealed { uid: *uid, envelope: envelope.clone() }).collect();
        let list = self.publish_once(&ObjectKey::SealList(round), SealList { run, round, entries }).await?;
        self.announce(Announcement::SealList { run, round, digest: list.digest() }).await?;
        self.events.tell(Event::Closed { round, listed: list.value.entries.len() }).await;
        Ok(())
    }

    /// Publishes and commits score sheet and record of the current round.
    pub(crate) async fn record_round(&mut self, close: &Close, ranks: &[Ranked], entries: Vec<Entry>) -> Result<(), ValidatorError> {
        let (run, round) = (self.run.id, self.replica.anchor.round);
        let scores = advance(&self.replica.anchor.scores, &entries, &self.replica.terms.judge, &self.run.manifest.pay);
        let sheet = ScoreSheet { run, round, seal_list: close.list.digest(), entries, scores };
        let sheet = self.publish_once(&ObjectKey::ScoreSheet(round), sheet).await?;
        let Some(record) = self.make_record(&sheet, close, ranks).await? else { return Ok(()) };
        let record = self.publish_once(&ObjectKey::Record(round), record).await?;
        self.announce(Announcement::Record { run, round, digest: record.digest() }).await
    }

    async fn make_record(&mut self, sheet: &Signed<ScoreSheet>, close: &Close, ranks: &[Ranked]) -> Result<Option<Record>, ValidatorError> {
        let replica: &Replica = &self.replica;
        let select = sheet.value.select(&replica.terms.judge);
        let applied: Vec<Applied> =
            select.iter().map(|e| Applied { uid: e.uid, hotkey: e.hotkey, payload: e.payload, weight: 1.0 }).collect();
        let known = replica.opened();
        let Some(payloads) = checkpoints::fetch_applied(&self.run, replica.anchor.round, &applied, &close.list.value, known).await? else {
            return Ok(None);
        };
        let (_, root) = replica.next_state(&applied, &payloads, &mut self.watch)?;
        Ok(Some(Record {
            run: self.run.id,
            round: replica.anchor.round,
            previous: replica.anchor.record,
            seal_list: close.list.digest(),
            score_sheet: sheet.digest(),
            validators: ranks.to_vec(),
            open_block: replica.anchor.open_block,
            applied,
            base_root: replica.root,
            root,
        }))
    }

    /// Signs and uploads a document, or returns the one that is already there.
    pub(crate) async fn publish_once<T: Document>(&self, key: &ObjectKey, document: T) -> Result<Signed<T>, ValidatorError> {
        if let Some(bytes) = self.bucket.get(key, T::CAP).await?
            && let Ok(signed) = Signed::<T>::parse(&bytes)
            && signed.signer == self.keypair.hotkey()
        {
            return Ok(signed);
        }
        let signed = Signed::new(document, &self.keypair);
        self.bucket.put(key, signed.to_bytes().to_vec().into()).await?;
        Ok(signed)
    }

    /// Commits a lead's announcement, in other bytes if it was committed before: it did not count then.
    pub(crate) async fn announce(&self, announcement: Announcement) -> Result<(), ValidatorError> {
        let (chain, netuid) = (&self.run.chain, self.run.manifest.chain.netuid);
        let head = chain.head().await?.number;
        let earlier = chain.commitments(netuid, self.replica.anchor.record_block..=head).await?;
        let me = self.keypair.hotkey();
        let said = earlier.iter().any(|c| c.hotkey == me && Announcement::decode(&c.data).as_ref() == Some(&announcement));
        let bytes = if said { announcement.encode_again(head + 1) } else { announcement.encode() };
        Ok(chain.commit(&self.keypair, netuid, &bytes).await?)
    }

    /// Says on the chain that the bytes behind a digest cannot be had.
    pub(crate) async fn report_withheld(&self, digest: Digest) -> Result<(), ValidatorError> {
        let round = self.replica.anchor.round;
        let announcement = Announcement::Withheld { run: self.run.id, round, digest };
        // said once is said; the chain passes over the same bytes
        Ok(self.run.chain.commit(&self.keypair, self.run.manifest.chain.netuid, &announcement.encode()).await?)
    }
}
