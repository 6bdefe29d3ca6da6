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

/// The candidates whose bytes are not voted withheld, in order. The first of them whose facts hold stands; while the bytes of an earlier
/// one are missing, nobody can know, and all wait.
pub fn in_force<'a>(
    candidates: &'a [Candidate],
    ranks: &[Validator],
    withheld: &[(Hotkey, Digest)],
) -> impl Iterator<Item = &'a Candidate> {
    candidates.iter().filter(|candidate| !voted_withheld(candidate, ranks, withheld))
}

/// Whether holders of more than half of the permitted stake besides the lead's said that the bytes are withheld.
fn voted_withheld(candidate: &Candidate, ranks: &[Validator], withheld: &[(Hotkey, Digest)]) -> bool {
    let others = || ranks.iter().filter(|v| v.hotkey != candidate.lead);
    let total: u128 = others().map(|v| u128::from(v.stake)).sum();
    let says_so = |v: &&Validator| withheld.iter().any(|(voter, digest)| *voter == v.hotkey && *digest == candidate.digest);
    let against: u128 = others().filter(says_so).map(|v| u128::from(v.stake)).sum();
    against * 2 > total
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

    #[test]
    fn withheld_bytes_are_passed_over_when_most_other_stake_says_so() {
        let ranks = plan().ranks;
        let candidates = [candidate(1, b"a"), candidate(2, b"b")];
        let vote = |k: u8| (Hotkey([k; 32]), Digest::of(b"a"));
        let first = |votes: &[(Hotkey, Digest)]| in_force(&candidates, &ranks, votes).next().map(|c| c.lead.0[0]);
        assert_eq!(first(&[]), Some(1));
        // 10 of the other 30 do not suffice, 20 do; the lead's own word, a stranger's and one said twice do not count
        assert_eq!(first(&[vote(3), vote(3), vote(1), vote(9)]), Some(1));
        assert_eq!(first(&[vote(2)]), Some(2));
        assert_eq!(first(&[vote(2), (Hotkey([1; 32]), Digest::of(b"b")), (Hotkey([3; 32]), Digest::of(b"b"))]), None);
        // alone, nobody is left to say so
        assert_eq!(in_force(&candidates[..1], &ranks[..1], &[vote(1), vote(2)]).count(), 1);
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
        fn the_order_of_votes_and_of_validators_does_not_matter(
            plan in any_plan(),
            votes in prop::collection::vec((0u8..6, 0u8..4), 0..12),
            leads in prop::collection::vec(0u8..6, 0..4),
        ) {
            let candidates: Vec<Candidate> = leads.iter().zip(0u8..).map(|(&lead, d)| candidate(lead, &[d])).collect();
            let votes: Vec<(Hotkey, Digest)> = votes.iter().map(|&(k, d)| (Hotkey([k; 32]), Digest::of(&[d]))).collect();
            let kept: Vec<&Candidate> = in_force(&candidates, &plan.ranks, &votes).collect();
            let reversed: Vec<(Hotkey, Digest)> = votes.iter().rev().copied().collect();
            let ranks: Vec<Validator> = plan.ranks.iter().rev().cloned().collect();
            prop_assert_eq!(&kept, &in_force(&candidates, &ranks, &reversed).collect::<Vec<_>>());
            // one more vote never brings a candidate back
            let more = [&votes[..], &[(Hotkey([0; 32]), Digest::of(&[0]))]].concat();
            prop_assert!(in_force(&candidates, &plan.ranks, &more).all(|c| kept.contains(&c)));
        }
    }
}
