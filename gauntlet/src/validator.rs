//! The validator.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use checkpoints::{Close, Event, Events, Follower, Identity, Progress, Role, RoundLog, Run, Shutdown};
use dataset::{Dataset, Split};
use futures::StreamExt;
use model::{Device, Llama};
use protocol::{
    Digest, Document, Envelope, Hotkey, ObjectKey, Sealed,
    round::{Candidate, Turn},
};
use storage::Limits;

use crate::{
    ValidatorError,
    books::Books,
    judge::{Bench, Judgement, Seeds, fetch_all},
    verdict::{in_words, spot_checks},
};

/// What a validator needs besides the run.
#[derive(Debug)]
pub struct ValidatorOptions {
    /// Who it is.
    pub identity: Identity,
    /// The run's tokens.
    pub dataset: Arc<Dataset>,
    /// Where to measure.
    pub device: Device,
    /// Held-out sequences to measure after each round that it leads; 0 measures none.
    pub held_out: usize,
}

/// A running validator.
pub struct Validator {
    pub(crate) node: Follower,
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) model: Llama,
    pub(crate) held_out: Vec<Vec<u32>>,
    pub(crate) judgement: Judgement,
    pub(crate) books: Books,
    envelopes: Envelopes,
    missing_since: Option<(Digest, u64)>,
}

/// A round's envelopes so far, by uid.
#[derive(Debug, Default)]
struct Envelopes {
    round: u64,
    found: BTreeMap<u16, Vec<u8>>,
}

pub(crate) const BOOKS: &str = "scores.safetensors";
/// Envelopes that are fetched at a time.
const FETCHES: usize = 32;
/// An envelope is small and is asked for again at the next block: a bucket that does not answer must not hold up the close.
const PATIENCE: Limits = Limits {
    deadline: Duration::from_secs(5),
    slowest: 1 << 20,
    attempts: 2,
    pause: Duration::from_millis(100),
    longest_pause: Duration::from_secs(1),
};

impl Validator {
    /// Restores a validator from its home directory, or starts a new one.
    ///
    /// # Errors
    /// [`ValidatorError`] says what is missing.
    pub async fn start(run: Arc<Run>, options: ValidatorOptions, events: Events, shutdown: Shutdown) -> Result<Self, ValidatorError> {
        run.check_data(options.dataset.digest())?;
        let node = Follower::start(run, options.identity, events, shutdown).await?;
        let books = node.home.load::<Books>(BOOKS)?.map(|saved| saved.meta).unwrap_or_default();
        let model = Llama::new(&node.run.manifest.model, options.device)?;
        let held_out = held_out(&options.dataset, node.run.manifest.model.sequence_length, options.held_out)?;
        node.ready(Some(node.uid)).await;
        Ok(Self {
            node,
            dataset: options.dataset,
            model,
            held_out,
            judgement: Judgement::default(),
            books,
            envelopes: Envelopes::default(),
            missing_since: None,
        })
    }

    /// Follows the chain, block by block, until asked to stop.
    ///
    /// # Errors
    /// [`ValidatorError`], when going on makes no sense.
    pub async fn run(mut self) -> Result<(), ValidatorError> {
        if self.node.round() == 0 {
            self.measure_held_out().await?;
        }
        checkpoints::follow(self).await
    }

    /// Before the close: gathers envelopes and closes the round when it is this validator's turn.
    async fn collect(&mut self, log: &RoundLog, head: u64) -> Result<(), ValidatorError> {
        let me = self.node.hotkey();
        let rank = log.plan.rank_of(&me);
        if rank.is_none() || log.plan.seal_rank(head + 1) != rank {
            return Ok(());
        }
        self.fetch_envelopes(log).await?;
        let sealed = |(&uid, envelope): (&u16, &Vec<u8>)| Sealed { uid, envelope: envelope.clone() };
        let entries: Vec<Sealed> = self.envelopes.found.iter().map(sealed).collect();
        let Follower { run, replica, .. } = &self.node;
        let all_sealed = log.all_sealed(run, &replica.anchor, replica.root, &entries);
        if log.plan.seal_turn(&me, head + 1, all_sealed) == Turn::Act {
            self.close_round(entries).await?;
        }
        Ok(())
    }

    async fn fetch_envelopes(&mut self, log: &RoundLog) -> Result<(), ValidatorError> {
        let round = self.node.round();
        if self.envelopes.round != round {
            self.envelopes = Envelopes { round, ..Envelopes::default() };
        }
        let mut buckets = self.node.run.buckets().await?;
        let missing = log.hotkeys.iter().filter(|(uid, _)| !self.envelopes.found.contains_key(uid));
        let asked: Vec<_> = missing.filter_map(|(uid, hotkey)| Some((*uid, buckets.remove(hotkey)?.with_limits(PATIENCE)))).collect();
        let fetches = asked.into_iter().map(|(uid, bucket)| async move {
            // a bucket that fails costs its owner the round and nobody else anything
            Some((uid, bucket.get(&ObjectKey::Envelope(round), Envelope::CAP).await.ok()??.to_vec()))
        });
        let mut fetched = futures::stream::iter(fetches).buffer_unordered(FETCHES);
        while let Some(envelope) = fetched.next().await {
            self.envelopes.found.extend(envelope);
        }
        Ok(())
    }

    /// After the close: measures as lead, or as next in rank once the lead is late, and records the round in its turn.
    async fn judge_round(&mut self, log: &RoundLog, close: &Close, head: u64) -> Result<(), ValidatorError> {
        let me = self.node.hotkey();
        let Some(rank) = log.plan.rank_of(&me) else { return Ok(()) };
        let Some(seeds) = self.seeds(close).await? else { return Ok(()) };
        let mut uids: Vec<u16> = close.list.value.entries.iter().map(|e| e.uid).collect();
        if rank > 0 && head < log.plan.record_due(close.block) {
            uids = spot_checks(&uids, &seeds.closed, &me, self.node.replica.terms.judge.spot_checks as usize);
        }
        self.judge(log, close, &uids, &seeds).await?;
        let Some(entries) = self.judgement.complete(close) else { return Ok(()) };
        let all_judged = uids.iter().all(|uid| !self.judgement.is_open(*uid));
        // measuring may have taken this validator past its span
        let head = self.node.run.chain.head().await?.number;
        if log.plan.record_turn(&me, close.block, head + 1, all_judged) == Turn::Act {
            self.record_round(close, &log.plan.ranks, entries).await?;
        }
        Ok(())
    }

    /// `None` while the first block after the close is not there.
    async fn seeds(&self, close: &Close) -> Result<Option<Seeds>, ValidatorError> {
        let open = self.node.run.chain.block(self.node.replica.anchor.open_block).await?;
        let closed = self.node.run.chain.block(close.block + 1).await?;
        Ok(open.zip(closed).map(|(open, closed)| Seeds { open: open.hash, closed: closed.hash }))
    }

    async fn judge(&mut self, log: &RoundLog, close: &Close, uids: &[u16], seeds: &Seeds) -> Result<(), ValidatorError> {
        let (round, root) = (self.node.round(), self.node.replica.root);
        self.judgement.enter(close.list.digest());
        // every uid on a list that stands has an owner
        let owner = |sealed: &Sealed| log.hotkeys.get(&sealed.uid).copied().unwrap_or(Hotkey([0; 32]));
        let wanted = close.list.value.entries.iter().filter(|e| uids.contains(&e.uid) && self.judgement.is_open(e.uid));
        let wanted = wanted.map(|sealed| (sealed.clone(), owner(sealed))).collect();
        let mut fetched = std::pin::pin!(fetch_all(self.node.run.clone(), round, root, wanted));
        while let Some(fetched) = fetched.next().await {
            if self.node.shutdown.requested() {
                break;
            }
            let Follower { run, replica, watch, .. } = &mut self.node;
            let mut bench = Bench { run, dataset: &self.dataset, model: &mut self.model, watch };
            let entry = self.judgement.judge(&mut bench, replica, fetched?, seeds)?;
            let (verdict, gain) = (in_words(entry), entry.outcome.gain());
            self.node.events.tell(Event::Judged { round, uid: entry.uid, verdict, gain }).await;
        }
        Ok(())
    }

    /// A committed digest has no bytes: after a span of waiting, says so on the chain.
    async fn wait_for_bytes(&mut self, log: &RoundLog, missing: &Candidate, head: u64) -> Result<(), ValidatorError> {
        let since = match self.missing_since {
            Some((digest, since)) if digest == missing.digest => since,
            _ => head,
        };
        self.missing_since = Some((missing.digest, since));
        let me = self.node.hotkey();
        if missing.lead != me && log.plan.rank_of(&me).is_some() && head >= since + log.plan.times.span {
            self.report_withheld(missing.digest).await?;
        }
        Ok(())
    }

    async fn act(&mut self, progress: Progress, head: u64) -> Result<(), ValidatorError> {
        match progress {
            Progress::Stepped(_) => Ok(()),
            Progress::Training(log) => self.collect(&log, head).await,
            Progress::Closed(log, close) => self.judge_round(&log, &close, head).await,
            Progress::Awaiting(log, missing) => self.wait_for_bytes(&log, &missing, head).await,
        }
    }
}

impl Role for Validator {
    type Error = ValidatorError;

    fn node(&mut self) -> &mut Follower {
        &mut self.node
    }

    async fn tick(&mut self) -> Result<(), ValidatorError> {
        let mut stepped = false;
        while let Some(progress) = self.node.advance().await? {
            let head = self.node.head.unwrap_or_default();
            if let Progress::Stepped(step) = progress {
                self.settle(&step).await?;
                stepped = true;
                continue;
            }
            if stepped {
                self.pay(head).await?;
            }
            return self.act(progress, head).await;
        }
        Ok(())
    }
}

/// Evenly spread held-out windows.
fn held_out(dataset: &Dataset, length: usize, count: usize) -> Result<Vec<Vec<u32>>, ValidatorError> {
    let windows = dataset.windows(Split::HeldOut, length);
    let count = (count as u64).min(windows);
    Ok((0..count).map(|i| dataset.window(Split::HeldOut, i * windows / count, length)).collect::<Result<_, _>>()?)
}
