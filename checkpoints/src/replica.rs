//! A node's copy of the replicated state machine: follows the log, checks each record's facts, takes the step, compares roots.

use std::{collections::HashMap, sync::Arc};

use compression::{Payload, State, TransitionError, Weighted, transition};
use protocol::{
    Applied, Countersign, Digest, ObjectKey, Record, SealContext, SealList, Signed,
    round::{Candidate, Fate},
    score::ScoreSheet,
};

use crate::{
    Anchor, Run, RunError, Terms,
    copies::Fetched,
    event::{Event, Phase, Stopwatch},
    facts::{Documents, Place, fetch},
    log::{Absent, RoundLog, check_seal_list},
    payloads::fetch_applied,
};

/// The seal list that stands in the current round.
#[derive(Clone, Debug)]
pub struct Close {
    /// Block that committed it.
    pub block: u64,
    /// The list.
    pub list: Signed<SealList>,
}

/// A record whose facts hold, with what was needed to check it.
#[derive(Clone, Debug)]
pub struct Step {
    /// The record.
    pub record: Signed<Record>,
    /// The lead's score sheet.
    pub sheet: Signed<ScoreSheet>,
    /// The seal list.
    pub close: Close,
    /// The payloads applied.
    pub payloads: Vec<Payload>,
}

impl Step {
    /// The step as an event.
    pub fn event(&self) -> Event {
        let record = &self.record.value;
        let applied: Vec<u16> = record.applied.iter().map(|a| a.uid).collect();
        let listed = self.close.list.value.entries.iter().map(|e| e.uid);
        let left_out = listed.filter(|uid| !applied.contains(uid)).collect();
        Event::Stepped { round: record.round, root: record.root, applied, left_out }
    }
}

/// How far a replica came.
#[derive(Debug)]
pub enum Progress {
    /// The round's record was applied; the replica stands at the next round.
    Stepped(Arc<Step>),
    /// A record whose facts hold waits for the validators' votes.
    Pending(RoundLog, Arc<Step>),
    /// No seal list stands yet.
    Training(RoundLog),
    /// The round is closed, and there is no record that could stand.
    Closed(RoundLog, Box<Close>),
    /// The bytes behind this digest are missing; of a record's, with the round's close.
    Awaiting(RoundLog, Candidate, Option<Box<Close>>),
}

/// State and place in the log.
#[derive(Debug)]
pub struct Replica {
    /// The run.
    pub run: Arc<Run>,
    /// θ at [`Anchor::round`].
    pub state: Arc<State>,
    /// Its root.
    pub root: Digest,
    /// Place in the log.
    pub anchor: Anchor,
    /// The terms of the round last looked at.
    pub terms: Terms,
    close: Option<(Candidate, Close)>,
    opened: HashMap<Digest, Payload>,
    void: Vec<(Candidate, &'static str)>,
    /// The current round's seal lists that were found void.
    void_lists: Vec<Candidate>,
    /// The record whose facts hold, what it leads to, and the state after it.
    pending: Option<(Candidate, Arc<Step>, Box<State>)>,
    /// Records that are void only because their root is not the one computed here, with the latter.
    disputed: Vec<(Signed<Record>, Digest)>,
    fetched: Vec<Fetched>,
}

impl Replica {
    /// At round 0.
    ///
    /// # Errors
    /// [`RunError::GenesisRoot`].
    pub fn genesis(run: Arc<Run>) -> Result<Self, RunError> {
        let state = run.genesis_state()?;
        let anchor = Anchor::genesis(run.id, &run.manifest);
        Ok(Self::at(run, state, anchor))
    }

    /// At a place known from a snapshot or from the home directory.
    pub fn at(run: Arc<Run>, state: State, anchor: Anchor) -> Self {
        let root = Digest(state.root());
        let terms = Terms::of_manifest(&run.manifest, anchor.round);
        Self {
            run,
            state: Arc::new(state),
            root,
            anchor,
            terms,
            close: None,
            opened: HashMap::new(),
            void: Vec::new(),
            void_lists: Vec::new(),
            pending: None,
            disputed: Vec::new(),
            fetched: Vec::new(),
        }
    }

    /// Gives the replica a payload that was fetched and checked already, so that it need not be fetched again.
    pub fn remember(&mut self, payload: Payload) {
        self.opened.insert(Digest(payload.digest()), payload);
    }

    /// The payloads remembered for the current round, by digest.
    pub fn opened(&self) -> &HashMap<Digest, Payload> {
        &self.opened
    }

    /// The current round's records that were found void, and the first wrong fact of each.
    pub fn void(&self) -> &[(Candidate, &'static str)] {
        &self.void
    }

    /// The committed documents that the last call of [`Self::advance`] fetched, void ones too, whatever came of it.
    pub fn fetched(&self) -> &[Fetched] {
        &self.fetched
    }

    /// Looks at the chain up to `head` and takes at most one step.
    ///
    /// # Errors
    /// [`RunError`]; nothing has changed then.
    pub async fn advance(&mut self, head: u64, watch: &mut Stopwatch) -> Result<Progress, RunError> {
        self.fetched.clear();
        let log = RoundLog::read(&self.run, &self.anchor, head).await?;
        self.terms = self.run.terms(&self.anchor).await?;
        let close = match self.find_close(&log, head).await {
            Ok(Some(close)) => close,
            Ok(None) => return Ok(Progress::Training(log)),
            Err(missing) => return Ok(Progress::Awaiting(log, missing, None)),
        };
        // others may have countersigned since: then it is this node that is wrong
        for (record, ours) in &self.disputed {
            self.check_divergence(&log, record, *ours).await?;
        }
        for (candidate, fate) in log.in_turn(close.block, head) {
            match self.try_record(&log, &close, &candidate, fate, watch).await? {
                Tried::Stepped(step) => return Ok(Progress::Stepped(step)),
                Tried::Pending(step) => return Ok(Progress::Pending(log, step)),
                Tried::Missing => return Ok(Progress::Awaiting(log, candidate, Some(Box::new(close)))),
                Tried::PassedOver => {}
            }
        }
        Ok(Progress::Closed(log, Box::new(close)))
    }

    /// Checks a record unless its fate needs no look at it, and takes the step if it stands.
    async fn try_record(
        &mut self,
        log: &RoundLog,
        close: &Close,
        candidate: &Candidate,
        fate: Fate,
        watch: &mut Stopwatch,
    ) -> Result<Tried, RunError> {
        let known = self.pending.take_if(|(known, ..)| known == candidate);
        if matches!(fate, Fate::VotedDown | Fate::Withheld) || self.void.iter().any(|(void, _)| void == candidate) {
            return Ok(Tried::PassedOver);
        }
        let checked = match known {
            Some((_, step, next)) => Checked::Holds(step, next),
            None => self.check_record(log, close, candidate, watch).await?,
        };
        Ok(match (checked, fate) {
            (Checked::Holds(step, next), Fate::Stands(since)) => {
                self.take(&step, *next, (candidate.block, since));
                Tried::Stepped(step)
            }
            (Checked::Holds(step, next), _) => {
                self.pending = Some((candidate.clone(), step.clone(), next));
                Tried::Pending(step)
            }
            (Checked::Missing, _) => Tried::Missing,
            (Checked::Void(why), _) => {
                tracing::warn!(round = self.anchor.round, lead = %candidate.lead, record = %candidate.digest, why, "void record");
                self.void.push((candidate.clone(), why));
                Tried::PassedOver
            }
        })
    }

    /// The seal list that stands, if any; `Err` names the first whose bytes are missing.
    async fn find_close(&mut self, log: &RoundLog, head: u64) -> Result<Option<Close>, Candidate> {
        let void_lists = self.void_lists.clone();
        for candidate in log.lists_in_force(head).iter().filter(|list| !void_lists.contains(list)) {
            if let Some((known, close)) = &self.close
                && known == candidate
            {
                return Ok(Some(close.clone()));
            }
            match fetch::<SealList>(&self.run, candidate, ObjectKey::SealList(self.anchor.round), &mut self.fetched).await {
                Ok(list) if check_seal_list(&self.run, (&self.anchor, self.root), log, candidate, &list) => {
                    let close = Close { block: candidate.block, list };
                    // what was found of records holds under one seal list only
                    self.forget_records();
                    self.close = Some((candidate.clone(), close.clone()));
                    return Ok(Some(close));
                }
                Ok(_) | Err(Absent::Void) => self.void_lists.push(candidate.clone()),
                Err(Absent::Missing) => return Err(candidate.clone()),
            }
        }
        Ok(None)
    }

    async fn check_record(
        &mut self,
        log: &RoundLog,
        close: &Close,
        candidate: &Candidate,
        watch: &mut Stopwatch,
    ) -> Result<Checked, RunError> {
        let round = self.anchor.round;
        let place = Place { run: &self.run, anchor: &self.anchor, root: self.root, terms: &self.terms };
        let (record, sheet) = match place.documents(log, close, candidate, &mut self.fetched).await? {
            Documents::Hold(documents) => *documents,
            Documents::Missing => return Ok(Checked::Missing),
            Documents::Void(why) => return Ok(Checked::Void(why)),
        };
        let applied = &record.value.applied;
        let Some(payloads) = fetch_applied(&self.run, round, applied, &close.list.value, &self.opened).await? else {
            return Ok(Checked::Missing);
        };
        if applied.iter().zip(&payloads).any(|(a, p)| !self.owned(a, p)) {
            return Ok(Checked::Void("a payload names another owner"));
        }
        let (next, root) = match self.next_state(applied, &payloads, watch) {
            Err(RunError::Transition { source: TransitionError::NonFinite(_), .. }) => return Ok(Checked::Void("its state is not finite")),
            other => other?,
        };
        if root != record.value.root {
            self.check_divergence(log, &record, root).await?;
            self.disputed.push((record, root));
            return Ok(Checked::Void("wrong root"));
        }
        let step = Step { record, sheet, close: close.clone(), payloads };
        Ok(Checked::Holds(Arc::new(step), Box::new(next)))
    }

    fn owned(&self, applied: &Applied, payload: &Payload) -> bool {
        let context = SealContext { run: self.run.id, round: self.anchor.round, hotkey: applied.hotkey, base_root: self.root };
        crate::payloads::owned_by(payload, &context)
    }

    /// The state after applying `payloads`, and its root.
    ///
    /// # Errors
    /// [`RunError::Transition`].
    pub fn next_state(&self, applied: &[Applied], payloads: &[Payload], watch: &mut Stopwatch) -> Result<(State, Digest), RunError> {
        let round = self.anchor.round;
        let mut next = State::clone(&self.state);
        let weighted: Vec<Weighted> = applied.iter().zip(payloads).map(|(a, payload)| Weighted { payload, weight: a.weight }).collect();
        watch
            .measure(Phase::Step, || transition(&mut next, &weighted, &self.terms.rule))
            .map_err(|source| RunError::Transition { round, source })?;
        let root = watch.measure(Phase::Hash, || Digest(next.root()));
        Ok((next, root))
    }

    /// An error if holders of most of the stake besides the lead's signed a root that differs from `ours`: then this node is the wrong one.
    /// The lead's own word does not count, or one with most of the stake could hold everybody up with a false root.
    async fn check_divergence(&self, log: &RoundLog, record: &Signed<Record>, ours: Digest) -> Result<(), RunError> {
        let (mut agree, mut total) = (0u128, 0u128);
        for validator in log.plan.ranks.iter().filter(|v| v.hotkey != record.signer) {
            total += u128::from(validator.stake);
            if self.countersigned(&validator.hotkey, record).await {
                agree += u128::from(validator.stake);
            }
        }
        if agree * 2 > total {
            let round = self.anchor.round;
            return Err(RunError::Diverged { round, ours, theirs: record.value.root });
        }
        Ok(())
    }

    async fn countersigned(&self, validator: &protocol::Hotkey, record: &Signed<Record>) -> bool {
        let Ok(Some(bucket)) = self.run.bucket_of(validator).await else { return false };
        let key = ObjectKey::Countersign(record.value.round, record.digest());
        let Ok(Some(bytes)) = bucket.get(&key, <Countersign as protocol::Document>::CAP).await else { return false };
        Signed::<Countersign>::parse(&bytes).is_ok_and(|c| c.signer == *validator && c.value.record == record.digest())
    }

    /// `blocks`: those in which the record was committed and from which on it counts.
    fn take(&mut self, step: &Step, next: State, blocks: (u64, u64)) {
        self.state = Arc::new(next);
        self.root = step.record.value.root;
        self.anchor = Anchor::after(&step.record, &step.sheet.value, step.close.block, blocks);
        self.close = None;
        self.opened.clear();
        self.void_lists.clear();
        self.forget_records();
    }

    fn forget_records(&mut self) {
        self.void.clear();
        self.disputed.clear();
        self.pending = None;
    }
}

enum Tried {
    Stepped(Arc<Step>),
    Pending(Arc<Step>),
    Missing,
    PassedOver,
}

enum Checked {
    Holds(Arc<Step>, Box<State>),
    Missing,
    Void(&'static str),
}
