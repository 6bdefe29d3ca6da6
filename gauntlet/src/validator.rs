//! The validator.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use chain::{Block, weights::Submitter};
use checkpoints::{Close, Event, Events, Follower, Identity, Progress, Role, RoundLog, Run, Shutdown, Step};
use dataset::{Dataset, Split};
use futures::StreamExt;
use model::{Device, Llama};
use protocol::{
    Announcement, Hotkey, Sealed, Vote,
    round::{Ballot, Candidate, Turn},
    score::{Entry, sample},
};
use tokio::task::JoinHandle;

use crate::{
    ValidatorError,
    books::Books,
    compare::{History, Sketcher},
    envelopes::Envelopes,
    judge::{Bench, Judgement, Seeds, fetch_all},
    pace::Pace,
    settle::Examined,
    verdict::{in_words, most_surprising, spot_checks},
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
    /// What it makes of its measurements. Exists to be caught, in the arena.
    pub distortion: Option<Distortion>,
}

/// How a lying validator changes what it found of a payload.
#[derive(Clone)]
pub struct Distortion(pub Arc<dyn Fn(&mut Entry) + Send + Sync>);

impl fmt::Debug for Distortion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Distortion")
    }
}

/// A running validator.
pub struct Validator {
    pub(crate) node: Follower,
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) model: Llama,
    pub(crate) held_out: Vec<Vec<u32>>,
    pub(crate) judgement: Judgement,
    pub(crate) books: Books,
    pub(crate) envelopes: Envelopes,
    pub(crate) history: History,
    pub(crate) submitter: Submitter,
    /// The round in which an own record came to nothing.
    given_up: Option<u64>,
    /// What was found of another's record.
    pub(crate) examined: Option<Examined>,
    /// The newest vote.
    pub(crate) said: Option<Announcement>,
    pub(crate) distortion: Option<Distortion>,
    /// What others must not foresee follows from this.
    secret: [u8; 32],
    sketcher: Sketcher,
    pace: Pace,
    /// The snapshot that is going up.
    pub(crate) publishing: Option<JoinHandle<()>>,
    /// The bundle that is going up.
    pub(crate) bundling: Option<JoinHandle<()>>,
}

/// How far a closed round's record is.
#[derive(Clone, Copy)]
enum Stage<'a> {
    /// There is none that could stand.
    None,
    /// One waits for votes.
    Pending(&'a Step),
    /// One was committed, and its bytes are missing.
    Awaited,
}

/// The least time that a payload's bucket has, whatever is left of the round: a store may have to be asked several times.
const LEAST_PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const BOOKS: &str = "scores.safetensors";
/// Weights that were committed by their hash and are to be revealed.
const COMMITTED_WEIGHTS: &str = "committed-weights.json";

impl Validator {
    /// Restores a validator from its home directory, or starts a new one.
    ///
    /// # Errors
    /// [`ValidatorError`] says what is missing.
    pub async fn start(run: Arc<Run>, options: ValidatorOptions, events: Events, shutdown: Shutdown) -> Result<Self, ValidatorError> {
        run.check_data(options.dataset.digest())?;
        let node = Follower::start(run, options.identity, events, shutdown).await?;
        let books = node.home.load::<Books>(BOOKS)?.map(|saved| saved.meta).unwrap_or_default();
        let submitter = Submitter::open(node.run.manifest.chain.netuid, &node.home.dir().join(COMMITTED_WEIGHTS))?;
        let model = Llama::new(&node.run.manifest.model, options.device)?;
        let held_out = held_out(&options.dataset, node.run.manifest.model.sequence_length, options.held_out)?;
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        let sketcher = Sketcher::new(&node.run.format, &secret);
        node.ready(Some(node.uid)).await;
        Ok(Self {
            node,
            dataset: options.dataset,
            model,
            held_out,
            judgement: Judgement::default(),
            books,
            envelopes: Envelopes::default(),
            history: History::default(),
            submitter,
            given_up: None,
            examined: None,
            said: None,
            distortion: options.distortion,
            secret,
            sketcher,
            pace: Pace::default(),
            publishing: None,
            bundling: None,
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

    /// Before the close: looks for envelopes and closes the round when it is this validator's turn.
    async fn collect(&mut self, log: &RoundLog, head: u64) -> Result<(), ValidatorError> {
        let me = self.node.hotkey();
        let Some(rank) = log.plan.rank_of(&me).filter(|rank| Envelopes::are_due(&log.plan, *rank, head)) else { return Ok(()) };
        // an own list that does not stand never will
        let is_done = log.seal_lists.iter().any(|list| list.lead == me);
        let Follower { run, replica, .. } = &self.node;
        self.envelopes.look(run, log, replica, head).await?;
        // looking may have taken this validator past its span
        let head = run.chain.head().await?.number;
        if is_done || log.plan.seal_rank(head + 1) != Some(rank) {
            return Ok(());
        }
        let entries = self.envelopes.all();
        let all_sealed = log.all_sealed(run, &replica.anchor, replica.root, &entries);
        if log.plan.seal_turn(&me, head + 1, all_sealed) == Turn::Act {
            self.close_round(entries).await?;
        }
        Ok(())
    }

    /// After the close: measures as lead, as next in rank once the lead is late, or to check on the lead. Then it records the round in its
    /// turn, or says what it makes of another's record that waits for votes.
    async fn judge_round(&mut self, log: &RoundLog, close: &Close, record: Stage<'_>, head: u64) -> Result<(), ValidatorError> {
        let pending = if let Stage::Pending(step) = record { Some(step) } else { None };
        let me = self.node.hotkey();
        let Some(rank) = log.plan.rank_of(&me) else { return Ok(()) };
        let Some(seeds) = self.seeds(close).await? else { return Ok(()) };
        self.gather(log, close, head).await?;
        if !self.compared(log, close, head) {
            return Ok(());
        }
        let replica = &self.node.replica;
        // every uid on a list that stands has an owner
        let listed = close.list.value.entries.iter().filter_map(|e| Some((e.uid, *log.hotkeys.get(&e.uid)?)));
        let listed: Vec<(u16, Hotkey)> = listed.collect();
        let sample = sample(&listed, &replica.anchor.standing, &seeds.closed, &replica.terms.judge);
        let another_leads = pending.is_some() || (rank > 0 && head < log.plan.record_due(close.block));
        let in_full = !another_leads || self.distortion.is_some() || !self.believes(log, pending);
        let wanted = if in_full { sample.clone() } else { self.checks(&listed, pending, &seeds) };
        let left = self.time_left(log, close, head).await?;
        self.measure(&wanted, &seeds, left).await?;
        match record {
            Stage::Pending(step) if step.record.signer != me && self.judgement.unmeasured(&wanted).is_empty() => {
                let in_full = self.judgement.unmeasured(&sample).is_empty();
                self.vote_on(step, in_full).await
            }
            Stage::None => self.record_in_turn(log, close, &sample).await,
            Stage::Pending(_) | Stage::Awaited => Ok(()),
        }
    }

    /// Whether the lead whose record is there, or who is to make it, is taken at its word but for a few checks: nobody who is believed
    /// contradicts it.
    fn believes(&self, log: &RoundLog, pending: Option<&Step>) -> bool {
        let trusts = |hotkey: &Hotkey| self.books.trusts(hotkey, self.node.round());
        let first = log.plan.ranks.first().map(|v| v.hotkey);
        let Some(lead) = pending.map(|step| step.record.signer).or(first) else { return false };
        let accuses = |b: &&Ballot| {
            let about = pending.is_some_and(|step| step.record.digest() == b.digest);
            about && b.vote == Vote::Contradicts && log.plan.rank_of(&b.by).is_some() && trusts(&b.by)
        };
        trusts(&lead) && !log.ballots.iter().any(|b| accuses(&b))
    }

    /// Whom to measure of another lead's round: a few by a secret lot, and whose line in the record's sheet surprises most.
    fn checks(&self, listed: &[(u16, Hotkey)], pending: Option<&Step>, seeds: &Seeds) -> BTreeSet<u16> {
        let uids: Vec<u16> = listed.iter().map(|(uid, _)| *uid).collect();
        let mut checks = spot_checks(&uids, &seeds.closed, &self.secret, self.node.replica.terms.judge.spot_checks as usize);
        checks.extend(pending.and_then(|step| most_surprising(&step.sheet.value.entries, &self.books.standing)));
        checks
    }

    /// Says on the chain whether a record agrees with what was measured here.
    async fn vote_on(&mut self, step: &Step, in_full: bool) -> Result<(), ValidatorError> {
        let digest = step.record.digest();
        // somebody's accusation may have been looked into since
        if self.examined.as_ref().is_none_or(|known| known.record != digest || (in_full && !known.in_full)) {
            self.examined = self.examine(step, in_full).await;
        }
        let Some(Examined { lies, .. }) = self.examined else { return Ok(()) };
        self.vote(digest, if lies { Vote::Contradicts } else { Vote::Agrees }).await
    }

    /// Records the round once all of `sample` was measured, if it is this validator's span.
    async fn record_in_turn(&mut self, log: &RoundLog, close: &Close, sample: &BTreeSet<u16>) -> Result<(), ValidatorError> {
        let (me, round) = (self.node.hotkey(), self.node.round());
        // an own record that does not stand, and waits for nothing, never will
        if let Some(own) = log.records(close.block).iter().find(|record| record.lead == me) {
            if self.given_up != Some(round) {
                self.given_up = Some(round);
                let void = self.node.replica.void().iter().find(|(void, _)| void == own);
                let why = void.map_or("was voted down or missed", |(_, why)| why);
                self.node
                    .warn(format!("round {round}: this validator's own record does not stand: {why}; leaving the round to others"))
                    .await;
            }
            return Ok(());
        }
        let Some(entries) = self.judgement.complete(close, sample) else { return Ok(()) };
        // measuring may have taken this validator past its span
        let head = self.node.run.chain.head().await?.number;
        if log.plan.record_turn(&me, close.block, head + 1, true) == Turn::Act {
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

    /// Fetches and checks what is still missing of the list's payloads, those of the best miners first: newcomers that keep their readers
    /// waiting are at the end of the queue.
    async fn gather(&mut self, log: &RoundLog, close: &Close, head: u64) -> Result<(), ValidatorError> {
        let (round, root) = (self.node.round(), self.node.replica.root);
        self.judgement.enter(close.list.digest());
        let owner = |sealed: &Sealed| log.hotkeys.get(&sealed.uid).copied().unwrap_or(Hotkey([0; 32]));
        let wanted = close.list.value.entries.iter().filter(|e| self.judgement.is_open(e.uid));
        let mut wanted: Vec<(Sealed, Hotkey)> = wanted.map(|sealed| (sealed.clone(), owner(sealed))).collect();
        let standing = &self.node.replica.anchor.standing;
        let score = |hotkey: &Hotkey| standing.miners.iter().find(|s| s.hotkey == *hotkey).map_or(0.0, |s| s.score);
        wanted.sort_by(|(_, a), (_, b)| score(b).total_cmp(&score(a)));
        let patience = (self.time_left(log, close, head).await? / 2).max(LEAST_PATIENCE);
        let mut fetched = std::pin::pin!(fetch_all(self.node.run.clone(), (round, root), wanted, patience));
        while let Some(fetched) = fetched.next().await {
            self.judgement.gather(&mut self.node.replica, fetched?);
        }
        Ok(())
    }

    /// Whether the payloads stand side by side: once all are there, or once no more keys count.
    fn compared(&mut self, log: &RoundLog, close: &Close, head: u64) -> bool {
        if self.judgement.is_compared() {
            return true;
        }
        let replica = &self.node.replica;
        let open = close.list.value.entries.iter().any(|e| self.judgement.is_open(e.uid));
        if open && head < log.plan.reveal_due(close.block) {
            return false;
        }
        let left_off = self.envelopes.left_off(&self.node.run, log, close, replica.root);
        self.judgement.compare(replica, left_off, &replica.anchor.standing, &self.sketcher, &mut self.history);
        true
    }

    /// Until the first lead's time for the record is over, or the span of whoever comes after; by the chain's newest block time.
    async fn time_left(&self, log: &RoundLog, close: &Close, head: u64) -> Result<Duration, ValidatorError> {
        let chain = &self.node.run.chain;
        let time = |block: Option<Block>| block.map(|b| b.time_ms);
        let (newest, before) = (time(chain.block(head).await?), time(chain.block(head.saturating_sub(1)).await?));
        let block = newest.zip(before).map_or(0, |(newest, before)| newest.saturating_sub(before));
        let blocks = log.plan.record_due(close.block).checked_sub(head).unwrap_or(log.plan.times.span);
        // a chain that is one block old has no pace yet
        Ok(if block == 0 { Duration::MAX } else { Duration::from_millis(blocks.max(1).saturating_mul(block)) })
    }

    /// Tries those of `uids` that were not tried yet.
    async fn measure(&mut self, uids: &BTreeSet<u16>, seeds: &Seeds, left: Duration) -> Result<(), ValidatorError> {
        let round = self.node.round();
        let waiting = self.judgement.unmeasured(uids);
        let batches = self.pace.affordable(&self.node.replica.terms.judge, waiting.len(), left);
        for uid in waiting {
            if self.node.shutdown.requested() {
                break;
            }
            let Follower { run, replica, watch, .. } = &mut self.node;
            let mut bench = Bench { run, dataset: &self.dataset, model: &mut self.model, watch, pace: &mut self.pace, batches };
            let Some(entry) = self.judgement.measure(&mut bench, replica, uid, seeds)? else { continue };
            if let Some(Distortion(distort)) = &self.distortion {
                distort(entry);
            }
            let (verdict, gain) = (in_words(entry), entry.outcome.gain());
            self.node.events.tell(Event::Judged { round, uid, verdict, gain }).await;
        }
        Ok(())
    }

    /// A committed digest has no bytes: a span after it, says so on the chain.
    async fn wait_for_bytes(&mut self, log: &RoundLog, missing: &Candidate, head: u64) -> Result<(), ValidatorError> {
        let me = self.node.hotkey();
        if missing.lead != me && log.plan.rank_of(&me).is_some() && head >= missing.block + log.plan.times.span {
            self.vote(missing.digest, Vote::Withheld).await?;
        }
        Ok(())
    }

    async fn act(&mut self, progress: Progress, head: u64) -> Result<(), ValidatorError> {
        match progress {
            Progress::Stepped(_) => Ok(()),
            Progress::Training(log) => self.collect(&log, head).await,
            Progress::Closed(log, close) => self.judge_round(&log, &close, Stage::None, head).await,
            Progress::Pending(log, step) => self.judge_round(&log, &step.close, Stage::Pending(&step), head).await,
            Progress::Awaiting(log, missing, close) => {
                self.wait_for_bytes(&log, &missing, head).await?;
                match close {
                    Some(close) => self.judge_round(&log, &close, Stage::Awaited, head).await,
                    None => Ok(()),
                }
            }
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
        while let Some(progress) = self.node.advance_and_copy().await? {
            let head = self.node.head.unwrap_or_default();
            if let Progress::Stepped(step) = progress {
                self.settle(&step).await?;
                self.judgement = Judgement::default();
                stepped = true;
                continue;
            }
            if stepped {
                self.pay(head).await?;
            } else if self.submitter.must_reveal() {
                self.follow_weights(self.node.uid).await?;
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
