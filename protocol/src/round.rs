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

use crate::{Digest, Hotkey, RoundTimes, Validator};

/// Where a round stands on the chain before its close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundPlan {
    /// Lengths of the phases.
    pub times: RoundTimes,
    /// Block that committed the record before (the start block for round 0).
    pub anchor: u64,
    /// Validators by rank at the round's open block.
    pub ranks: Vec<Validator>,
}

/// Orders validators by rank: most stake first, ties by hotkey.
pub fn rank_validators(mut validators: Vec<Validator>) -> Vec<Validator> {
    validators.sort_by(|a, b| b.stake.cmp(&a.stake).then(a.hotkey.cmp(&b.hotkey)));
    validators
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

    /// The rank whose record may be included in `block`, after a close in block `close`.
    pub fn record_rank(&self, close: u64, block: u64) -> Option<usize> {
        self.rank_in_span(close, self.record_due(close), block)
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

/// What a node knows of the bytes behind a committed digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Fetched; its facts hold.
    Holds,
    /// Fetched; a fact is wrong.
    Void,
    /// Not to be had so far.
    Missing,
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

/// Which candidate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The candidate at this index is the one.
    At(usize),
    /// The candidate at this index comes first, and its bytes are missing.
    Awaiting(usize),
    /// None was committed so far.
    None,
}

/// The first candidate that is neither void nor voted withheld. `withheld` lists (voter, digest).
pub fn standing(
    candidates: &[Candidate],
    ranks: &[Validator],
    withheld: &[(Hotkey, Digest)],
    mut look: impl FnMut(&Candidate) -> Availability,
) -> Standing {
    for (index, candidate) in candidates.iter().enumerate() {
        if voted_withheld(candidate, ranks, withheld) {
            continue;
        }
        match look(candidate) {
            Availability::Holds => return Standing::At(index),
            Availability::Missing => return Standing::Awaiting(index),
            Availability::Void => {}
        }
    }
    Standing::None
}

/// Whether holders of more than half of the permitted stake besides the lead's said that the bytes are withheld.
pub fn voted_withheld(candidate: &Candidate, ranks: &[Validator], withheld: &[(Hotkey, Digest)]) -> bool {
    let others = || ranks.iter().filter(|v| v.hotkey != candidate.lead);
    let total: u128 = others().map(|v| u128::from(v.stake)).sum();
    let says_so = |v: &&Validator| withheld.iter().any(|(voter, digest)| *voter == v.hotkey && *digest == candidate.digest);
    let against: u128 = others().filter(says_so).map(|v| u128::from(v.stake)).sum();
    against * 2 > total
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn the_first_candidate_whose_facts_hold_stands() {
        let ranks = plan().ranks;
        let candidates = [candidate(1, b"a"), candidate(1, b"b"), candidate(2, b"c")];
        let all = |a, b, c| {
            let known = [a, b, c];
            let mut i = 0;
            standing(&candidates, &ranks, &[], |_| {
                i += 1;
                known[i - 1]
            })
        };
        use Availability::{Holds, Missing, Void};
        assert_eq!(all(Holds, Holds, Holds), Standing::At(0));
        assert_eq!(all(Void, Holds, Holds), Standing::At(1));
        assert_eq!(all(Void, Void, Void), Standing::None);
        assert_eq!(all(Void, Missing, Holds), Standing::Awaiting(1));
    }

    #[test]
    fn withheld_bytes_are_passed_over_when_most_other_stake_says_so() {
        let ranks = plan().ranks;
        let candidates = [candidate(1, b"a"), candidate(2, b"b")];
        let vote = |k: u8| (Hotkey([k; 32]), Digest::of(b"a"));
        let stands = |votes: &[(Hotkey, Digest)]| {
            standing(&candidates, &ranks, votes, |c| if c.digest == Digest::of(b"a") { Availability::Missing } else { Availability::Holds })
        };
        assert_eq!(stands(&[]), Standing::Awaiting(0));
        // 10 of the other 30 do not suffice, 20 do; the lead's own word does not count
        assert_eq!(stands(&[vote(3), vote(1)]), Standing::Awaiting(0));
        assert_eq!(stands(&[vote(2)]), Standing::At(1));
    }
}
