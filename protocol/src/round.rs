//! A round's phases as pure functions of blocks and of what the chain says.
//!
//! ```text
//! record t−1          close t            reveal due        record due
//!     │── train ─────────│── reveal ────────│── judge ────────│
//!     │   rank 0 closes ─┤ span │ rank 1 …  │                 ├ span │ rank 1 …
//!     └── rank 0 may close early             └ rank 0 records from the close on
//! ```
//!
//! Each lead acts in its own span: rank 0 up to one span past the due block, rank 1 in the span after, and so on; after the last
//! rank the first follows again, so that a run whose validators were all gone goes on with whoever returns.

use std::collections::HashMap;

use crate::{Digest, Hotkey, RoundTimes, Validator, Vote};

/// Where a round stands on the chain before its close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundPlan {
    /// Lengths of the phases.
    pub times: RoundTimes,
    /// Block from which the record before counts (the start block for round 0).
    pub anchor: u64,
    /// Validators by rank at the round's open block.
    pub ranks: Vec<Validator>,
}

/// Orders validators by rank for one round: drawn by lot one after the other, each with a chance in proportion to its stake. `seed` is the
/// hash of the round's open block.
///
/// So a lead's work, and the harm that a bad one can do, are shared in proportion to stake.
pub fn rank_validators(mut validators: Vec<Validator>, seed: &Digest) -> Vec<Validator> {
    validators.sort_by_key(|v| v.hotkey);
    let mut lots = blake3::Hasher::new_derive_key("tributary 2026 ranks v1").update(&seed.0).finalize_xof();
    let mut ranked = Vec::with_capacity(validators.len());
    while !validators.is_empty() {
        let total: u128 = validators.iter().map(|v| u128::from(v.stake)).sum();
        let mut lot = [0; 16];
        lots.fill(&mut lot);
        let drawn = drawn(&validators, u128::from_le_bytes(lot) % total.max(1));
        ranked.push(validators.remove(drawn));
    }
    ranked
}

/// Whose stake, laid end to end, covers `lot`.
fn drawn(validators: &[Validator], lot: u128) -> usize {
    let mut end = 0;
    let covers = |v: &Validator| {
        end += u128::from(v.stake);
        lot < end
    };
    validators.iter().position(covers).unwrap_or(0)
}

/// What a lead should do about a seal list or a record now, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Commit now.
    Act,
    /// It is another rank's span, or too early; look again at this block.
    Wait(u64),
}

impl RoundPlan {
    /// Block at which the round's training time ends.
    pub fn close_due(&self) -> u64 {
        self.anchor + self.times.train
    }

    /// Last block at which a revealed key counts.
    pub fn reveal_due(&self, close: u64) -> u64 {
        close + self.times.reveal
    }

    /// End of the first lead's own time for the record.
    pub fn record_due(&self, close: u64) -> u64 {
        self.reveal_due(close) + self.times.judge
    }

    /// The rank of a validator.
    pub fn rank_of(&self, hotkey: &Hotkey) -> Option<usize> {
        self.ranks.iter().position(|v| v.hotkey == *hotkey)
    }

    /// The rank whose seal list may be included in `block`. Before [`Self::close_due`] it counts only as an early close.
    pub fn seal_rank(&self, block: u64) -> Option<usize> {
        self.rank_in_span(self.anchor, self.close_due(), block)
    }

    /// Whether a seal list that `by` commits in `block` may end the round for whoever is still uploading. An early one does not: it counts
    /// only if it lists all that are waited for.
    pub fn ends_uploads(&self, by: &Hotkey, block: u64) -> bool {
        block >= self.close_due() && self.rank_of(by).is_some_and(|rank| self.seal_rank(block) == Some(rank))
    }

    /// The rank whose record may be included in `block`, after a close in block `close`. None in the block after it: its hash chooses what
    /// is measured, so that a record there was made without.
    pub fn record_rank(&self, close: u64, block: u64) -> Option<usize> {
        self.rank_in_span(close + 1, self.record_due(close), block)
    }

    fn rank_in_span(&self, after: u64, due: u64, block: u64) -> Option<usize> {
        if block <= after || self.ranks.is_empty() {
            return None;
        }
        let spans = block.saturating_sub(due + 1) / self.times.span;
        Some((spans % self.ranks.len() as u64) as usize)
    }

    /// Whether `me` should commit its seal list for inclusion in `next`; `all_sealed`: every uid of the previous record has sealed.
    pub fn seal_turn(&self, me: &Hotkey, next: u64, all_sealed: bool) -> Turn {
        let early = self.times.early_close && all_sealed;
        match self.seal_rank(next) {
            Some(rank) if self.rank_of(me) == Some(rank) && (next >= self.close_due() || early) => Turn::Act,
            _ => Turn::Wait(next),
        }
    }

    /// Whether `me` should commit its record for inclusion in `next`; `all_judged`: nothing more can come in.
    pub fn record_turn(&self, me: &Hotkey, close: u64, next: u64, all_judged: bool) -> Turn {
        match self.record_rank(close, next) {
            Some(rank) if self.rank_of(me) == Some(rank) && (next > self.reveal_due(close) || all_judged) => Turn::Act,
            _ => Turn::Wait(next),
        }
    }
}

/// One digest that an entitled lead committed, in the chain's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who committed it.
    pub lead: Hotkey,
    /// Block of the commitment.
    pub block: u64,
    /// What was committed.
    pub digest: Digest,
}

/// A validator's vote, and where it stands on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// Who voted.
    pub by: Hotkey,
    /// Block of the vote.
    pub block: u64,
    /// The seal list or record that it is about.
    pub digest: Digest,
    /// What it says.
    pub vote: Vote,
}

/// What became of a record by the validators' votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its validators have time to vote until the end of this block.
    Open(u64),
    /// If its facts hold, it counts from this block on.
    Stands(u64),
    /// Most stake contradicts it.
    VotedDown,
    /// Hardly anybody can have its bytes.
    Withheld,
}

impl RoundPlan {
    /// The last block in which votes of agreement or contradiction count for a record that was committed in `block`, after a close in block
    /// `close`: everybody has the first lead's time to measure, a span in which bytes may turn up, and a span to vote.
    pub fn votes_due(&self, close: u64, block: u64) -> u64 {
        self.record_due(close).max(block) + 2 * self.times.span
    }

    /// The last block for a round, closed in block `close`, to come to a record that is not voted down: every rank has had its span, and
    /// the votes on its record their time.
    pub fn patience(&self, close: u64) -> u64 {
        self.record_due(close) + (self.ranks.len() as u64 + 2) * self.times.span
    }

    /// What the votes up to block `head` make of a record that was committed after a close in block `close`; `ballots` are in the chain's
    /// order, and a validator's later vote takes the place of its earlier one.
    ///
    /// The record stands once its lead and those who agree hold more than half of the permitted stake, and is voted down once those who
    /// contradict it, or miss its bytes, do; without either it stands when the votes are due, so that a run goes on with whoever is there.
    /// A lead with more than half of the stake needs nobody.
    ///
    /// It counts as withheld once holders of more than half of the stake *besides the lead's* miss the bytes: then hardly anybody could go
    /// on. Such votes count from a span after the record on, before which nobody honest casts one, and without an end, unless most of that
    /// stake has agreed, and so had the bytes, before.
    pub fn fate(&self, record: &Candidate, close: u64, ballots: &[Ballot], head: u64) -> Fate {
        let (missed_from, votes_due) = (record.block + self.times.span, self.votes_due(close, record.block));
        let counts = |b: &&Ballot| match b.vote {
            Vote::Withheld => b.block >= missed_from,
            Vote::Agrees | Vote::Contradicts => (record.block..=votes_due).contains(&b.block),
        };
        let mut poll = Poll::new(&self.ranks, record);
        let needs_nobody = poll.is_majority(poll.lead);
        for ballot in ballots.iter().filter(counts) {
            poll.cast(ballot);
            let [agree, missing, contradict] = [Vote::Agrees, Vote::Withheld, Vote::Contradicts].map(|vote| poll.stake_of(vote));
            if needs_nobody && poll.is_most_of_the_rest(agree) {
                return Fate::Stands(record.block);
            }
            if !needs_nobody && poll.is_majority(poll.lead + agree) {
                return Fate::Stands(ballot.block);
            }
            if contradict > 0 && ballot.block <= votes_due && poll.is_majority(missing + contradict) {
                return Fate::VotedDown;
            }
            if poll.is_most_of_the_rest(missing) {
                return Fate::Withheld;
            }
        }
        if needs_nobody {
            Fate::Stands(record.block)
        } else if head >= votes_due {
            Fate::Stands(votes_due)
        } else {
            Fate::Open(votes_due)
        }
    }

    /// Whether holders of more than half of the permitted stake besides the lead's said that a seal list's bytes are withheld. The first
    /// that is not and whose facts hold stands; while the bytes of an earlier one are missing, nobody can know, and all wait.
    pub fn is_withheld<'a>(&self, list: &Candidate, ballots: impl Iterator<Item = &'a Ballot>) -> bool {
        let mut poll = Poll::new(&self.ranks, list);
        let missed_from = list.block + self.times.span;
        ballots.filter(|b| b.vote == Vote::Withheld && b.block >= missed_from).for_each(|b| poll.cast(b));
        poll.is_most_of_the_rest(poll.stake_of(Vote::Withheld))
    }
}

/// The votes on one digest, by stake.
struct Poll<'a> {
    ranks: &'a [Validator],
    candidate: &'a Candidate,
    votes: HashMap<Hotkey, Vote>,
    total: u128,
    lead: u128,
}

impl<'a> Poll<'a> {
    fn new(ranks: &'a [Validator], candidate: &'a Candidate) -> Self {
        let stake = |of: &dyn Fn(&Validator) -> bool| ranks.iter().filter(|v| of(v)).map(|v| u128::from(v.stake)).sum();
        let (total, lead) = (stake(&|_| true), stake(&|v| v.hotkey == candidate.lead));
        Self { ranks, candidate, votes: HashMap::new(), total, lead }
    }

    /// Counts a vote, unless it is about something else or the lead's own.
    fn cast(&mut self, ballot: &Ballot) {
        if ballot.digest == self.candidate.digest && ballot.by != self.candidate.lead {
            self.votes.insert(ballot.by, ballot.vote);
        }
    }

    fn stake_of(&self, vote: Vote) -> u128 {
        self.ranks.iter().filter(|v| self.votes.get(&v.hotkey) == Some(&vote)).map(|v| u128::from(v.stake)).sum()
    }

    fn is_majority(&self, stake: u128) -> bool {
        stake * 2 > self.total
    }

    fn is_most_of_the_rest(&self, stake: u128) -> bool {
        stake * 2 > self.total - self.lead
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan() -> RoundPlan {
        let ranks = [(1, 30), (2, 20), (3, 10)].map(|(k, stake)| Validator { hotkey: Hotkey([k; 32]), stake });
        let times = RoundTimes { train: 10, upload: 1, reveal: 3, judge: 4, span: 2, early_close: true };
        RoundPlan { times, anchor: 100, ranks: ranks.to_vec() }
    }

    fn candidate(lead: u8, digest: &[u8]) -> Candidate {
        Candidate { lead: Hotkey([lead; 32]), block: 0, digest: Digest::of(digest) }
    }

    #[test]
    fn uploads_end_with_the_list_of_whose_turn_it_is_and_not_before_the_close_is_due() {
        let plan = plan();
        let ends = |lead: u8, block: u64| plan.ends_uploads(&Hotkey([lead; 32]), block);
        assert!(!ends(1, 105) && !ends(1, 109), "an early list");
        for block in 110..130 {
            let lead = plan.seal_rank(block).map(|rank| rank as u8 + 1).unwrap();
            assert!((1..=3).all(|k| ends(k, block) == (k == lead)), "block {block}");
        }
        assert!(!ends(9, 115), "somebody without a rank");
    }

    #[test]
    fn ranks_are_lots_in_proportion_to_stake() {
        let validators: Vec<Validator> =
            [(1, 40), (2, 20), (3, 30), (4, 10)].map(|(k, stake)| Validator { hotkey: Hotkey([k; 32]), stake }).into();
        let ranked = |seed: u32| rank_validators(validators.clone(), &Digest::of(&seed.to_le_bytes()));
        let reversed: Vec<Validator> = validators.iter().rev().cloned().collect();
        assert_eq!(rank_validators(reversed, &Digest::of(&7u32.to_le_bytes())), ranked(7), "the order they come in does not matter");
        let (mut first, mut before) = ([0; 5], 0);
        for seed in 0..4000 {
            let order: Vec<u8> = ranked(seed).iter().map(|v| v.hotkey.0[0]).collect();
            assert_eq!(
                {
                    let mut all = order.clone();
                    all.sort_unstable();
                    all
                },
                [1, 2, 3, 4]
            );
            first[order[0] as usize] += 1;
            before += usize::from(order.iter().position(|k| *k == 3) < order.iter().position(|k| *k == 4));
        }
        for (k, share) in [(1, 0.4), (2, 0.2), (3, 0.3), (4, 0.1)] {
            assert!((f64::from(first[k]) / 4000.0 - share).abs() < 0.03, "{first:?}");
        }
        // of 3 and 4, whoever is drawn first: 30 to 10
        assert!((before as f64 / 4000.0 - 0.75).abs() < 0.03, "{before}");
        assert_eq!(rank_validators(vec![], &Digest::default()), []);
    }

    #[test]
    fn spans_follow_each_other_and_wrap_around() {
        let plan = plan();
        assert_eq!(plan.seal_rank(100), None);
        let ranks: Vec<_> = (101..=120).map(|b| plan.seal_rank(b).unwrap()).collect();
        assert_eq!(ranks, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 0, 0, 1, 1]);
        assert_eq!(plan.record_rank(110, 110), None);
        assert_eq!(plan.record_rank(110, 119), Some(0));
        assert_eq!(plan.record_rank(110, 120), Some(1));
    }

    #[test]
    fn the_first_lead_closes_early_only_when_all_have_sealed() {
        let plan = plan();
        let (first, second) = (Hotkey([1; 32]), Hotkey([2; 32]));
        assert_eq!(plan.seal_turn(&first, 103, false), Turn::Wait(103));
        assert_eq!(plan.seal_turn(&first, 103, true), Turn::Act);
        assert_eq!(plan.seal_turn(&second, 103, true), Turn::Wait(103));
        assert_eq!(plan.seal_turn(&first, 110, false), Turn::Act);
        assert_eq!(plan.seal_turn(&second, 113, false), Turn::Act);
        let mut late = plan.clone();
        late.times.early_close = false;
        assert_eq!(late.seal_turn(&first, 103, true), Turn::Wait(103));
    }

    #[test]
    fn a_record_waits_for_the_reveal_unless_all_is_judged() {
        let plan = plan();
        let first = Hotkey([1; 32]);
        assert_eq!(plan.record_turn(&first, 110, 112, false), Turn::Wait(112));
        assert_eq!(plan.record_turn(&first, 110, 112, true), Turn::Act);
        assert_eq!(plan.record_turn(&first, 110, 114, false), Turn::Act);
        assert_eq!(plan.record_turn(&Hotkey([9; 32]), 110, 114, true), Turn::Wait(114));
    }

    fn ballots(votes: &[(u8, u64, Vote)]) -> Vec<Ballot> {
        votes.iter().map(|&(k, block, vote)| Ballot { by: Hotkey([k; 32]), block, digest: Digest::of(b"a"), vote }).collect()
    }

    /// A plan of validators with these stakes, and a record of the first in block 112 after a close in block 110: votes count to block 121.
    fn fate(stakes: &[u64], votes: &[(u8, u64, Vote)], head: u64) -> Fate {
        let ranks = (1..).zip(stakes).map(|(k, &stake)| Validator { hotkey: Hotkey([k; 32]), stake }).collect();
        let plan = RoundPlan { ranks, ..plan() };
        assert_eq!(plan.votes_due(110, 112), 121);
        plan.fate(&Candidate { block: 112, ..candidate(1, b"a") }, 110, &ballots(votes), head)
    }

    use Vote::{Agrees, Contradicts, Withheld};

    #[test]
    fn a_record_stands_once_most_stake_is_behind_it() {
        let stakes = [40, 20, 20, 20];
        assert_eq!(fate(&stakes, &[], 120), Fate::Open(121));
        assert_eq!(fate(&stakes, &[(2, 114, Agrees)], 114), Fate::Stands(114), "60 of 100");
        assert_eq!(fate(&[30, 30, 30, 10], &[(4, 113, Agrees), (2, 115, Agrees)], 120), Fate::Stands(115));
        assert_eq!(fate(&[50, 50], &[], 120), Fate::Open(121), "half is not most");
        assert_eq!(fate(&[60, 40], &[(2, 113, Contradicts)], 113), Fate::Stands(112), "a lead with most of the stake needs nobody");
        assert_eq!(fate(&[5], &[], 112), Fate::Stands(112));
    }

    #[test]
    fn a_record_is_voted_down_once_most_stake_contradicts_it_and_never_by_less() {
        let stakes = [40, 20, 20, 20];
        let two = [(2, 113, Contradicts), (3, 113, Contradicts)];
        assert_eq!(fate(&stakes, &two, 120), Fate::Open(121));
        assert_eq!(fate(&stakes, &two, 121), Fate::Stands(121), "those who are silent had their time");
        let three = [two[0], two[1], (4, 121, Contradicts)];
        assert_eq!(fate(&stakes, &three, 121), Fate::VotedDown);
        assert_eq!(fate(&stakes, &[two[0], two[1], (4, 122, Contradicts)], 130), Fate::Stands(121), "too late");
        assert_eq!(fate(&stakes, &[two[0], two[1], (4, 121, Withheld)], 121), Fate::VotedDown, "or misses the bytes");
        assert_eq!(fate(&stakes, &[two[0], two[1], (4, 122, Withheld)], 130), Fate::Stands(121), "that, too, in time");
        // a liar with two fifths of the stake cannot keep an honest record from standing
        assert_eq!(fate(&[20, 40, 20, 20], &[(2, 112, Contradicts), (3, 114, Agrees), (4, 114, Agrees)], 114), Fate::Stands(114));
        assert_eq!(
            fate(&[35, 40, 25], &[(2, 114, Withheld), (3, 114, Agrees)], 118),
            Fate::Withheld,
            "the price of going on without bytes"
        );
        assert_eq!(fate(&[35, 40, 25], &[(2, 113, Withheld), (3, 114, Agrees)], 118), Fate::Stands(114), "not before a span is over");
    }

    #[test]
    fn bytes_that_come_as_late_as_can_be_leave_time_to_contradict_them() {
        // a record in the last block of its lead's span, whose bytes are there just before they are missed
        let plan = plan();
        let last = plan.record_due(110) + plan.times.span;
        assert_eq!((plan.record_rank(110, last), plan.record_rank(110, last + 1)), (Some(0), Some(1)));
        assert!(plan.votes_due(110, last) >= last + 2 * plan.times.span, "seen a span after, there is another to vote");
    }

    #[test]
    fn what_was_agreed_on_is_settled_and_what_stood_by_silence_can_only_turn_out_to_be_withheld() {
        let late = |k: u8| (k, 200, Withheld);
        let stakes = [40, 20, 20, 20];
        assert_eq!(fate(&stakes, &[(2, 114, Agrees), late(2), late(3), late(4)], 200), Fate::Stands(114));
        assert_eq!(fate(&stakes, &[late(3)], 200), Fate::Stands(121));
        assert_eq!(fate(&stakes, &[late(3), late(4)], 200), Fate::Withheld);
        // of a lead that needs nobody as well
        assert_eq!(fate(&[60, 20, 20], &[late(2), late(3)], 200), Fate::Withheld);
        assert_eq!(fate(&[60, 20, 20], &[(2, 113, Agrees), (3, 113, Agrees), late(2), late(3)], 200), Fate::Stands(112));
    }

    #[test]
    fn later_votes_take_the_place_of_earlier_ones_and_only_others_with_stake_count() {
        let stakes = [40, 30, 30];
        assert_eq!(fate(&stakes, &[(1, 113, Agrees), (9, 113, Agrees)], 120), Fate::Open(121));
        let changed = [(2, 113, Contradicts), (2, 114, Withheld), (2, 115, Contradicts), (3, 116, Contradicts)];
        assert_eq!(fate(&stakes, &changed[..3], 120), Fate::Open(121));
        assert_eq!(fate(&stakes, &changed, 120), Fate::VotedDown);
        let other = Ballot { digest: Digest::of(b"b"), ..ballots(&[(2, 113, Agrees)])[0] };
        assert_eq!(plan().fate(&Candidate { block: 112, ..candidate(2, b"a") }, 110, &[other], 120), Fate::Open(121));
    }

    #[test]
    fn withheld_bytes_are_passed_over_when_most_other_stake_says_so() {
        let (plan, list) = (plan(), candidate(1, b"a"));
        let withheld = |votes: &[(u8, u64)]| {
            let votes: Vec<_> = votes.iter().map(|&(k, block)| (k, block, Withheld)).collect();
            plan.is_withheld(&list, ballots(&votes).iter())
        };
        assert!(!withheld(&[]));
        // 10 of the other 30 do not suffice, 20 do; the lead's own word, a stranger's and one said twice do not count
        assert!(!withheld(&[(3, 2), (3, 3), (1, 2), (9, 2)]));
        assert!(withheld(&[(2, 2)]));
        assert!(!withheld(&[(2, 1)]), "before a span is over");
        assert!(!plan.is_withheld(&list, ballots(&[(2, 2, Contradicts)]).iter()));
        // alone, nobody is left to say so
        let alone = RoundPlan { ranks: plan.ranks[..1].to_vec(), ..plan.clone() };
        assert!(!alone.is_withheld(&list, ballots(&[(1, 2, Withheld), (2, 2, Withheld)]).iter()));
    }

    prop_compose! {
        fn any_plan()(
            train in 1u64..50, upload in 0u64..5, reveal in 1u64..10, judge in 1u64..10, span in 1u64..6,
            early_close: bool, anchor in 0u64..1000, stakes in prop::collection::vec(1u64..9, 1..6),
        ) -> RoundPlan {
            let validators = stakes.iter().zip(0..).map(|(&stake, k)| Validator { hotkey: Hotkey([k; 32]), stake }).collect();
            let times = RoundTimes { train, upload, reveal, judge, span, early_close };
            RoundPlan { times, anchor, ranks: rank_validators(validators, &Digest([anchor as u8; 32])) }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn exactly_one_rank_is_entitled_per_block_and_spans_wrap(plan in any_plan()) {
            let (n, span) = (plan.ranks.len() as u64, plan.times.span);
            for close in plan.anchor + 1..plan.anchor + 4 {
                let due = plan.record_due(close);
                prop_assert!((plan.anchor..=close + 1).all(|block| plan.record_rank(close, block).is_none()));
                prop_assert!((close + 2..=due + span).all(|block| plan.record_rank(close, block) == Some(0)));
                for block in due + 1..due + 2 * n * span {
                    let rank = plan.record_rank(close, block).expect("somebody leads");
                    prop_assert_eq!(Some(rank), plan.record_rank(close, block + n * span));
                    prop_assert_eq!((rank as u64 + 1) % n, plan.record_rank(close, block + span).expect("somebody leads") as u64);
                }
            }
            for block in plan.anchor + 1..plan.close_due() + 2 * n * span {
                let acting = plan.ranks.iter().filter(|v| plan.seal_turn(&v.hotkey, block, true) == Turn::Act).count();
                let due = block >= plan.close_due() || plan.times.early_close;
                prop_assert_eq!(acting, usize::from(due), "one lead at block {}", block);
            }
        }

        #[test]
        fn a_fate_once_decided_is_the_same_for_whoever_looks_later(
            plan in any_plan(),
            votes in prop::collection::vec((0u8..6, 0u64..40, 0u8..3), 0..12),
            lead in 0u8..6,
        ) {
            let close = plan.anchor + 1;
            let record = Candidate { block: close + 2, ..candidate(lead, b"a") };
            let vote = |v: u8| [Agrees, Contradicts, Withheld][usize::from(v)];
            let mut votes: Vec<(u8, u64, Vote)> = votes.into_iter().map(|(k, after, v)| (k, record.block + after, vote(v))).collect();
            votes.sort_by_key(|(_, block, _)| *block);
            let ballots = ballots(&votes);
            let at = |head: u64| {
                let seen: Vec<Ballot> = ballots.iter().filter(|b| b.block <= head).copied().collect();
                let fate = plan.fate(&record, close, &seen, head);
                // the order of the validators does not matter
                let reversed = RoundPlan { ranks: plan.ranks.iter().rev().cloned().collect(), ..plan.clone() };
                assert_eq!(fate, reversed.fate(&record, close, &seen, head));
                fate
            };
            let due = plan.votes_due(close, record.block);
            let mut decided = at(record.block);
            for head in record.block..due + 60 {
                let now = at(head);
                match (decided, now) {
                    (Fate::Open(until), _) => prop_assert!(until == due && head <= due),
                    // bytes that most others miss are given up, however late
                    (Fate::Stands(_), Fate::Withheld) => {
                        let stake_of = |of: &dyn Fn(&Validator) -> bool| plan.ranks.iter().filter(|v| of(v)).map(|v| v.stake).sum::<u64>();
                        let misses = |v: &Validator| ballots.iter().any(|b| b.by == v.hotkey && b.block <= head && b.vote == Withheld);
                        let others = |v: &Validator| v.hotkey != record.lead;
                        prop_assert!(2 * stake_of(&|v| others(v) && misses(v)) > stake_of(&others));
                    }
                    (before, now) => prop_assert_eq!(before, now),
                }
                decided = now;
            }
            prop_assert!(!matches!(decided, Fate::Open(_)));
        }
    }
}
