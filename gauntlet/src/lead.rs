//! A lead's two acts in a round: the seal list and the record. Each goes to the own bucket first and to the chain after, and is
//! made once: a lead that restarts finds what it had published and commits the same again.

use checkpoints::{Close, Event};
use compression::Payload;
use protocol::{
    Announcement, Applied, Digest, Document, ObjectKey, Record, SealList, Sealed, Signed, Validator as Ranked, Vote,
    score::{Entry, ScoreSheet},
};
use storage::StorageError;
use tokio::task::spawn_blocking;

use crate::{Validator, ValidatorError};

impl Validator {
    /// Publishes and commits the seal list of the current round.
    pub(crate) async fn close_round(&mut self, entries: Vec<Sealed>) -> Result<(), ValidatorError> {
        let (run, round) = (self.node.run.id, self.node.round());
        let list = SealList { run, round, entries };
        // whatever was fetched by the time of an earlier one is as good
        let Some(list) = self.publish_once(&ObjectKey::SealList(round), list, |there| (there.run, there.round) == (run, round)).await?
        else {
            return Ok(());
        };
        self.announce(Announcement::SealList { run, round, digest: list.digest() }).await?;
        self.node.events.tell(Event::Closed { round, listed: list.value.entries.len() }).await;
        Ok(())
    }

    /// Publishes and commits score sheet and record of the current round.
    pub(crate) async fn record_round(&mut self, close: &Close, ranks: &[Ranked], entries: Vec<Entry>) -> Result<(), ValidatorError> {
        let (run, round, seal_list) = (self.node.run.id, self.node.round(), close.list.digest());
        let replica = &self.node.replica;
        let (before, judge, pay) = (replica.anchor.standing.clone(), replica.terms.judge.clone(), self.node.run.manifest.pay.clone());
        let standing = before.advance(&entries, &judge, &pay);
        let sheet = ScoreSheet { run, round, seal_list, entries, standing };
        let fits = |there: &ScoreSheet| there.seal_list == seal_list && there.follows(&before, &judge, &pay);
        let Some(sheet) = self.publish_once(&ObjectKey::ScoreSheet(round), sheet, fits).await? else { return Ok(()) };
        let Some((record, payloads)) = self.make_record(&sheet, close, ranks).await? else { return Ok(()) };
        let same = record.clone();
        let Some(record) = self.publish_once(&ObjectKey::Record(round), record, |there| *there == same).await? else { return Ok(()) };
        self.announce(Announcement::Record { run, round, digest: record.digest() }).await?;
        self.publish_bundle(round, payloads).await;
        Ok(())
    }

    /// Publishes a record's payloads as one bundle, beside what follows: at size that takes longer than the round has for its record. A miner may
    /// have shown its payload to this validator only.
    async fn publish_bundle(&mut self, round: u64, payloads: Vec<Payload>) {
        // a record that applies nothing has no bundle
        if payloads.is_empty() {
            return;
        }
        if self.bundling.as_ref().is_some_and(|task| !task.is_finished()) {
            self.node.warn(format!("bundle of round {round}: the one before is still going up, so this one is left out")).await;
            return;
        }
        let (bucket, events) = (self.node.bucket.clone(), self.node.events.clone());
        self.bundling = Some(tokio::spawn(async move {
            let encoded = spawn_blocking(move || compression::encode_bundle(&payloads.iter().collect::<Vec<_>>())).await;
            let uploaded = match encoded {
                Ok(Ok(bundle)) => bucket.put_large(&ObjectKey::Bundle(round), bundle.into()).await.map_err(|error| error.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = uploaded {
                let message = format!("bundle of round {round}: {error}; whoever cannot get a payload will wait");
                events.tell(Event::Warning { message }).await;
            }
        }));
    }

    /// The record and the payloads that it applies.
    async fn make_record(
        &mut self,
        sheet: &Signed<ScoreSheet>,
        close: &Close,
        ranks: &[Ranked],
    ) -> Result<Option<(Record, Vec<Payload>)>, ValidatorError> {
        let (run, replica) = (&self.node.run, &self.node.replica);
        let select = sheet.value.select(&replica.terms.judge, &run.manifest.pay);
        let applied: Vec<Applied> =
            select.iter().map(|e| Applied { uid: e.uid, hotkey: e.hotkey, payload: e.payload, weight: 1.0 }).collect();
        let known = replica.opened();
        let Some(payloads) = checkpoints::fetch_applied(run, replica.anchor.round, &applied, &close.list.value, known).await? else {
            return Ok(None);
        };
        let (_, root) = replica.next_state(&applied, &payloads, &mut self.node.watch)?;
        let record = Record {
            run: run.id,
            round: replica.anchor.round,
            previous: replica.anchor.record,
            seal_list: close.list.digest(),
            score_sheet: sheet.digest(),
            validators: ranks.to_vec(),
            open_block: replica.anchor.open_block,
            applied,
            base_root: replica.root,
            root,
        };
        Ok(Some((record, payloads)))
    }

    /// Signs and uploads a document, or returns the one that is already there. `None`, with a warning, if that one does not fit: it may
    /// be committed, and then everybody needs its bytes, so it stays, and this act is the next rank's.
    pub(crate) async fn publish_once<T: Document>(
        &self,
        key: &ObjectKey,
        document: T,
        fits: impl Fn(&T) -> bool,
    ) -> Result<Option<Signed<T>>, ValidatorError> {
        let Some(bytes) = self.node.bucket.get(key, T::CAP).await? else {
            let signed = Signed::new(document, &self.node.keypair);
            self.node.bucket.put(key, signed.to_bytes().to_vec().into()).await?;
            return Ok(Some(signed));
        };
        let there = Signed::<T>::parse(&bytes).ok().filter(|there| there.signer == self.node.hotkey() && fits(&there.value));
        if there.is_none() {
            self.node.warn(format!("{key} in the own bucket is of another course of the round; leaving the round to others")).await;
        }
        Ok(there)
    }

    /// Signs and uploads a document in place of an earlier one.
    pub(crate) async fn publish_newest<T: Document + PartialEq>(&self, key: &ObjectKey, document: T) -> Result<(), StorageError> {
        if let Some(bytes) = self.node.bucket.get(key, T::CAP).await? {
            if Signed::<T>::parse(&bytes).is_ok_and(|there| there.signer == self.node.hotkey() && there.value == document) {
                return Ok(());
            }
            self.node.bucket.delete(key).await?;
        }
        self.node.bucket.put(key, Signed::new(document, &self.node.keypair).to_bytes().to_vec().into()).await
    }

    /// Commits a lead's announcement, in other bytes if it was committed before: it did not count then.
    async fn announce(&self, announcement: Announcement) -> Result<(), ValidatorError> {
        let (chain, netuid) = (&self.node.run.chain, self.node.run.manifest.chain.netuid);
        let head = chain.head().await?.number;
        let earlier = self.node.run.said(self.node.replica.anchor.since..=head).await?;
        let me = self.node.hotkey();
        let bytes = if earlier.iter().any(|said| said.by == me && said.what == announcement) {
            announcement.encode_again(head + 1)
        } else {
            announcement.encode()
        };
        Ok(chain.commit(&self.node.keypair, netuid, &bytes).await?)
    }

    /// Says on the chain what this validator makes of another's seal list or record.
    pub(crate) async fn vote(&mut self, digest: Digest, vote: Vote) -> Result<(), ValidatorError> {
        let (run, round) = (&self.node.run, self.node.round());
        let announcement = Announcement::Vote { run: run.id, round, digest, vote };
        // said once is said
        if self.said.as_ref() != Some(&announcement) {
            run.chain.commit(&self.node.keypair, run.manifest.chain.netuid, &announcement.encode()).await?;
            self.said = Some(announcement);
        }
        Ok(())
    }
}
