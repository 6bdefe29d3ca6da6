//! After a record: countersignature, books, held-out loss, snapshot, weights. A store that fails here costs what was to be published, since
//! the round is not looked at again.

use checkpoints::{Event, Phase, Step, write_snapshot};
use dataset::Split;
use protocol::{
    Countersign, Dissent, ObjectKey,
    score::{self, Entry, MinerScore},
};

use crate::{Validator, ValidatorError, validator::BOOKS, verdict::contradiction};

/// Size of a snapshot's files.
const SHARD_BYTES: usize = 1 << 30;

impl Validator {
    /// Everything that follows from a record but weights, which follow the newest.
    pub(crate) async fn settle(&mut self, step: &Step) -> Result<(), ValidatorError> {
        let round = step.record.value.round;
        let dissents = self.countersign(step).await;
        // the terms are still those of the round just taken
        let (judge, pay) = (&self.node.replica.terms.judge, &self.node.run.manifest.pay);
        let counted = self.books.enter(&step.sheet.value, &dissents, judge, pay);
        self.node.home.save(BOOKS, &self.books, &[])?;
        self.node.keep(step).await?;
        if counted {
            self.node.events.tell(Event::Scores { round, scores: self.books.scores.clone() }).await;
        }
        if step.record.signer == self.node.hotkey() {
            self.measure_held_out().await?;
            self.snapshot().await;
        }
        self.node.tell_usage().await;
        Ok(())
    }

    /// Compares the sheet with own measurements; agreement and dissent are both published. Returns the own entries where it dissents.
    async fn countersign(&self, step: &Step) -> Vec<Entry> {
        let (record, round, me) = (&step.record, step.record.value.round, self.node.hotkey());
        if record.signer == me || !record.value.validators.iter().any(|v| v.hotkey == me) {
            return Vec::new();
        }
        let z = self.node.replica.terms.judge.z;
        let found = step.sheet.value.entries.iter().filter_map(|theirs| {
            let own = self.judgement.of(record.value.seal_list, theirs.uid)?;
            Some((own.clone(), Dissent { uid: theirs.uid, reason: contradiction(theirs, own, z)? }))
        });
        let (own, dissents): (Vec<Entry>, Vec<Dissent>) = found.unzip();
        for dissent in &dissents {
            self.node.events.tell(Event::Dissent { round, uid: dissent.uid, reason: dissent.reason.clone() }).await;
        }
        let digest = record.digest();
        let document = Countersign { run: self.node.run.id, round, record: digest, dissents };
        if let Err(error) = self.publish_once(&ObjectKey::Countersign(round), document, |there| there.record == digest).await {
            self.node.warn(format!("countersignature of round {round}: {error}; there will be none")).await;
        }
        own
    }

    pub(crate) async fn measure_held_out(&mut self) -> Result<(), ValidatorError> {
        if self.held_out.is_empty() {
            return Ok(());
        }
        let (model, node, windows) = (&mut self.model, &mut self.node, &self.held_out);
        let losses = node.watch.measure(Phase::Judge, || {
            tokio::task::block_in_place(|| {
                model.load(node.replica.state.model())?;
                model.sequence_losses(windows)
            })
        })?;
        let tokens = (windows.len() * node.run.manifest.model.sequence_length) as f64;
        let bytes = tokens * self.dataset.bytes_per_token(Split::HeldOut);
        let bits_per_byte = losses.iter().sum::<f64>() / std::f64::consts::LN_2 / bytes;
        node.events.tell(Event::HeldOut { round: node.round(), bits_per_byte }).await;
        Ok(())
    }

    async fn snapshot(&self) {
        let (node, round) = (&self.node, self.node.round());
        if !round.is_multiple_of(node.run.manifest.checkpoints.every) {
            return;
        }
        let written =
            write_snapshot(&node.bucket, &node.replica.state, node.run.id, &node.replica.anchor, &node.keypair, SHARD_BYTES).await;
        match written {
            Ok(manifest) => {
                let bytes = manifest.value.shards.iter().map(|s| s.bytes).sum();
                node.events.tell(Event::Published { round, what: "snapshot".into(), bytes }).await;
            }
            Err(error) => node.warn(format!("snapshot of round {round}: {error}; the next one is another chance")).await,
        }
    }

    /// Sets weights once per epoch. When they were set last is read from the chain, so that what did not get there is set again.
    pub(crate) async fn pay(&self, head: u64) -> Result<(), ValidatorError> {
        let (chain, manifest) = (&self.node.run.chain, &self.node.run.manifest);
        let netuid = manifest.chain.netuid;
        let (subnet, neurons) = (chain.subnet(netuid).await?, chain.neurons(netuid, head).await?);
        let hotkey = self.node.hotkey();
        let Some(me) = neurons.iter().find(|n| n.hotkey == hotkey) else { return Ok(()) };
        if head + 1 < me.last_update + subnet.tempo.max(subnet.weights_rate_limit) {
            return Ok(());
        }
        // a uid may have changed hands since its score was earned
        let holds = |s: &&MinerScore| neurons.iter().any(|n| (n.uid, n.hotkey) == (s.uid, s.hotkey));
        let scores: Vec<MinerScore> = self.books.scores.iter().filter(holds).cloned().collect();
        if scores.iter().all(|s| s.score <= 0.0) && chain.weights(netuid, me.uid).await?.is_empty() {
            return Ok(());
        }
        let owner = neurons.iter().find(|n| n.hotkey == subnet.owner).map_or(0, |n| n.uid);
        let mut weights = score::weights(&scores, &manifest.pay, owner);
        weights.retain(|(uid, _)| *uid != me.uid || *uid == owner);
        if weights.is_empty() {
            return Ok(());
        }
        match chain.set_weights(&self.node.keypair, netuid, &weights).await {
            Ok(()) => self.node.events.tell(Event::Weights { weights }).await,
            Err(error) => self.node.warn(format!("weights: {error}; trying again after the next round")).await,
        }
        Ok(())
    }
}
