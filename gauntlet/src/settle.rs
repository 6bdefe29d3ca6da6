//! After a record: countersignature, books, held-out loss, snapshot, weights. A store that fails here costs what was to be published, since
//! the round is not looked at again.

use std::collections::HashMap;

use chain::weights::{QuantizeError, Rules, Standing, quantize};
use chain::{Neuron, Subnet};
use checkpoints::{Event, Form, Phase, SHARD_BYTES, Said, Step, write_snapshot};
use dataset::Split;
use protocol::{
    Announcement, Countersign, Digest, Dissent, Hotkey, ObjectKey, Vote,
    score::{self, Entry, MinerScore, Outcome},
};

use crate::{Validator, ValidatorError, envelopes::LeftOff, review::Review, validator::BOOKS};

/// What was found of another's record.
#[derive(Debug)]
pub(crate) struct Examined {
    /// The record.
    pub record: Digest,
    /// Whether its testimony contradicts what was measured here.
    pub lies: bool,
    /// Whether everybody was measured.
    pub in_full: bool,
}

impl Validator {
    /// Everything that follows from a record but weights, which follow the newest.
    pub(crate) async fn settle(&mut self, step: &Step) -> Result<(), ValidatorError> {
        let (round, digest) = (step.record.value.round, step.record.digest());
        let examined = match self.examined.take().filter(|known| known.record == digest) {
            None => self.examine(step, false).await,
            known => known,
        };
        if let Err(error) = self.hear_accusers(step, examined.as_ref()).await {
            self.node.warn(format!("round {round}: {error}; who contradicted its records is not known")).await;
        }
        let own = if examined.is_some() { self.own_entries(step) } else { Vec::new() };
        // the terms are still those of the round just taken
        let (judge, pay) = (&self.node.replica.terms.judge, &self.node.run.manifest.pay);
        let counted = self.books.enter(&step.sheet.value, &own, judge, pay);
        self.node.home.save(BOOKS, &self.books, &[])?;
        self.node.keep(step).await?;
        if counted {
            self.node.events.tell(Event::Scores { round, scores: self.books.standing.miners.clone() }).await;
        }
        if step.record.signer == self.node.hotkey() {
            self.measure_held_out().await?;
            self.snapshot().await;
        }
        self.node.tell_usage().await;
        Ok(())
    }

    /// Compares a record's sheet and seal list with what was seen here, and publishes agreement and dissent. A lead that lied is not
    /// believed from now on. `None` where there is nothing to say: about an own record, without a permit, or if its payloads were not
    /// compared here in time.
    pub(crate) async fn examine(&mut self, step: &Step, in_full: bool) -> Option<Examined> {
        let (record, round, me) = (&step.record, step.record.value.round, self.node.hotkey());
        if record.signer == me || !record.value.validators.iter().any(|v| v.hotkey == me) {
            return None;
        }
        if !self.judgement.is_of(record.value.seal_list) {
            return None;
        }
        if !self.judgement.is_compared() {
            let why = "its record stood before its payloads were compared here";
            self.node.warn(format!("round {round}: {why}; there will be no countersignature")).await;
            return None;
        }
        let review = self.review(step);
        let (lies, found) = (review.is_a_lie(), review.contradictions());
        let contradictions = found.into_iter().map(|(own, reason)| Dissent { uid: own.uid, reason });
        let dissents: Vec<Dissent> = contradictions.chain(self.judgement.left_off.iter().map(LeftOff::dissent)).collect();
        for dissent in &dissents {
            self.node.events.tell(Event::Dissent { round, uid: dissent.uid, reason: dissent.reason.clone() }).await;
        }
        let digest = record.digest();
        let document = Countersign { run: self.node.run.id, round, record: digest, dissents };
        if let Err(error) = self.publish_newest(&ObjectKey::Countersign(round, digest), document).await {
            self.node.warn(format!("countersignature of round {round}: {error}; there will be none")).await;
        }
        if lies {
            self.books.distrust(record.signer, round, &self.node.replica.terms.judge);
        }
        Some(Examined { record: digest, lies, in_full })
    }

    /// Hears who contradicted the round's records on the chain.
    async fn hear_accusers(&mut self, step: &Step, examined: Option<&Examined>) -> Result<(), ValidatorError> {
        let (run, record, me) = (&self.node.run, &step.record.value, self.node.hotkey());
        let since = self.node.replica.anchor.since;
        let mut leads: HashMap<Digest, Hotkey> = HashMap::new();
        let mut accusations: Vec<(Hotkey, Hotkey, Digest)> = Vec::new();
        let permitted = |hotkey: &Hotkey| record.validators.iter().any(|v| v.hotkey == *hotkey);
        for Said { by, what, .. } in run.said(step.close.block..=since).await?.into_iter().filter(|said| permitted(&said.by)) {
            match what {
                Announcement::Record { run: id, round, digest } if (id, round) == (run.id, record.round) => {
                    leads.entry(digest).or_insert(by);
                }
                Announcement::Vote { run: id, round, digest, vote: Vote::Contradicts } if (id, round) == (run.id, record.round) => {
                    accusations.extend(leads.get(&digest).filter(|_| by != me).map(|lead| (by, *lead, digest)));
                }
                _ => {}
            }
        }
        let judge = &self.node.replica.terms.judge;
        for (accuser, lead, digest) in accusations {
            let cleared = lead == me || examined.is_some_and(|e| e.record == digest && e.in_full && !e.lies);
            self.books.hear(accuser, lead, cleared, record.round, judge);
        }
        Ok(())
    }

    /// A record's sheet beside what was found here.
    fn review<'a>(&'a self, step: &'a Step) -> Review<'a> {
        Review {
            round: step.record.value.round,
            theirs: &step.sheet.value.entries,
            own: self.judgement.all(step.record.value.seal_list),
            history: &self.history,
            judge: &self.node.replica.terms.judge,
        }
    }

    /// The entries that count here instead of the sheet's: where it is contradicted, all that were measured if its lead is not believed, and
    /// of those who were left off its list.
    fn own_entries(&self, step: &Step) -> Vec<Entry> {
        let mut own: Vec<Entry> = self.review(step).contradictions().into_iter().map(|(own, _)| own.clone()).collect();
        if self.distortion.is_some() || !self.books.trusts(&step.record.signer, step.record.value.round) {
            let measured = |e: &&Entry| matches!(e.outcome, Outcome::Measured { .. }) && own.iter().all(|o| o.uid != e.uid);
            let more: Vec<Entry> = self.judgement.all(step.record.value.seal_list).values().filter(measured).cloned().collect();
            own.extend(more);
        }
        // a round that they did not miss, unless they had no valid payload in the one before either: an envelope alone is cheap
        let works = |o: &&LeftOff| self.books.standing.miners.iter().all(|s| s.hotkey != o.hotkey || s.missed == 0);
        own.extend(self.judgement.left_off.iter().filter(works).map(LeftOff::entry));
        own
    }

    pub(crate) async fn measure_held_out(&mut self) -> Result<(), ValidatorError> {
        if self.held_out.is_empty() {
            return Ok(());
        }
        let (model, node, windows) = (&mut self.model, &mut self.node, &self.held_out);
        let losses = node.watch.compute(Phase::Judge, || {
            model.load(node.replica.state.model())?;
            model.sequence_losses(windows)
        })?;
        let tokens = (windows.len() * node.run.manifest.model.sequence_length) as f64;
        let bytes = tokens * self.dataset.bytes_per_token(Split::HeldOut);
        let bits_per_byte = losses.iter().sum::<f64>() / std::f64::consts::LN_2 / bytes;
        node.events.tell(Event::HeldOut { round: node.round(), bits_per_byte }).await;
        Ok(())
    }

    /// Publishes a copy of the state beside the work of the rounds to come: at size that takes longer than a round.
    async fn snapshot(&mut self) {
        let (node, round) = (&self.node, self.node.round());
        if !round.is_multiple_of(node.run.manifest.checkpoints.every) {
            return;
        }
        if self.publishing.as_ref().is_some_and(|task| !task.is_finished()) {
            node.warn(format!("snapshot of round {round}: the one before is still going up, so this one is left out; more uplink helps"))
                .await;
            return;
        }
        let (bucket, state, run, anchor) = (node.bucket.clone(), node.replica.state.clone(), node.run.id, node.replica.anchor.clone());
        let (keypair, events) = (node.keypair.clone(), node.events.clone());
        self.publishing = Some(tokio::spawn(async move {
            let event = match write_snapshot(&bucket, &state, run, &anchor, &keypair, SHARD_BYTES).await {
                Ok(manifest) => {
                    let bytes = [Form::F32, Form::Bf16].iter().flat_map(|form| manifest.value.shards(*form)).map(|shard| shard.bytes).sum();
                    Event::Published { round, what: "snapshot".into(), bytes }
                }
                Err(error) => Event::Warning { message: format!("snapshot of round {round}: {error}; the next one is another chance") },
            };
            events.tell(event).await;
        }));
    }

    /// Submits weights once per epoch. When they were set last is read from the chain, so that what did not get there is set again.
    pub(crate) async fn pay(&mut self, head: u64) -> Result<(), ValidatorError> {
        let netuid = self.node.run.manifest.chain.netuid;
        let chain = self.node.run.chain.clone();
        let (subnet, neurons) = (chain.subnet(netuid).await?, chain.neurons(netuid, head).await?);
        let hotkey = self.node.hotkey();
        let Some(me) = neurons.iter().find(|n| n.hotkey == hotkey) else { return Ok(()) };
        self.follow_weights(me.uid).await?;
        if self.submitter.is_waiting() || head + 1 < me.last_update + subnet.tempo.max(subnet.weights_rate_limit) {
            return Ok(());
        }
        let Some(weights) = self.weights(&subnet, &neurons, me).await? else { return Ok(()) };
        if let Err(error) = self.submitter.submit(&*chain, &self.node.keypair, weights).await {
            self.node.warn(format!("weights: {error}; trying again after the next round")).await;
        }
        Ok(())
    }

    /// Reveals what is to be revealed, and tells what was read back: only then do weights count.
    pub(crate) async fn follow_weights(&mut self, uid: u16) -> Result<(), ValidatorError> {
        let chain = self.node.run.chain.clone();
        match self.submitter.follow(&*chain, &self.node.keypair, uid).await? {
            Standing::Idle | Standing::Waiting => {}
            Standing::Confirmed(weights) => self.node.events.tell(Event::Weights { weights }).await,
            Standing::Refused(error) => self.node.warn(format!("revealing weights: {error}; trying again in a few blocks")).await,
            Standing::Lost { block, why } => {
                self.node.warn(format!("weights submitted at block {block} {why}; setting them again")).await;
            }
        }
        Ok(())
    }

    /// The weights that follow from the books, within the subnet's rules; `None` while there is nothing to pay for and nothing to take back.
    async fn weights(&self, subnet: &Subnet, neurons: &[Neuron], me: &Neuron) -> Result<Option<Vec<(u16, u16)>>, ValidatorError> {
        let manifest = &self.node.run.manifest;
        // a uid may have changed hands since its score was earned
        let holds = |s: &&MinerScore| neurons.iter().any(|n| (n.uid, n.hotkey) == (s.uid, s.hotkey));
        let scores: Vec<MinerScore> = self.books.standing.miners.iter().filter(holds).cloned().collect();
        if scores.iter().all(|s| s.score <= 0.0) && self.node.run.chain.weights(subnet.netuid, me.uid).await?.is_empty() {
            return Ok(None);
        }
        let owner = neurons.iter().find(|n| n.hotkey == subnet.owner).map_or(0, |n| n.uid);
        let due = score::weights(&scores, &self.node.replica.terms.judge, &manifest.pay, owner);
        let weight = |uid| due.iter().find(|(u, _)| *u == uid).map_or(0.0, |(_, weight)| f64::from(*weight));
        let may_have = neurons.iter().filter(|n| n.uid != me.uid || n.uid == owner);
        let intended: Vec<(u16, f64)> = may_have.map(|n| (n.uid, weight(n.uid))).collect();
        match quantize(&intended, Rules::new(subnet, neurons.len())) {
            Ok(row) => Ok(Some(row)),
            Err(QuantizeError::Empty) => Ok(None),
            Err(error) => {
                self.node.warn(format!("weights: {error}")).await;
                Ok(None)
            }
        }
    }
}
