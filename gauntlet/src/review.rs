//! Another's score sheet beside the entries found here: where they contradict each other, and whether it lies.

use std::collections::BTreeMap;

use protocol::{
    Judge, Refusal,
    score::{Entry, Outcome},
};

use crate::{compare::History, verdict::contradiction};

/// A sheet and what is known here of the same seal list.
pub(crate) struct Review<'a> {
    /// The sheet's round.
    pub round: u64,
    pub theirs: &'a [Entry],
    pub own: &'a BTreeMap<u16, Entry>,
    pub history: &'a History,
    pub judge: &'a Judge,
}

impl<'a> Review<'a> {
    fn pairs(&self) -> impl Iterator<Item = (&'a Entry, &'a Entry)> {
        let own = self.own;
        self.theirs.iter().filter_map(move |theirs| Some((theirs, own.get(&theirs.uid)?)))
    }

    /// Own entries that contradict the sheet's, and in which words.
    pub fn contradictions(&self) -> Vec<(&'a Entry, String)> {
        let alike = self.is_alike();
        let told = self.pairs().filter(|(theirs, _)| !self.is_of_unknown_past(theirs));
        told.filter_map(|(theirs, own)| Some((own, contradiction(theirs, own, self.judge, alike)?))).collect()
    }

    /// Whether the sheet's testimony is false.
    ///
    /// What somebody's bucket gave to one reader and not to another is nobody's lie, nor is what follows from it; but if a lead misses more
    /// than a third of what was sound here, and not just one, that many miners would have to conspire against it.
    pub fn is_a_lie(&self) -> bool {
        let sound = |entry: &Entry| entry.outcome.refusal().is_none();
        let (mut missed, mut all) = (0, 0);
        for (theirs, _) in self.pairs().filter(|(_, own)| sound(own)) {
            missed += usize::from(is_missing(theirs));
            all += 1;
        }
        let alike = self.is_alike();
        let lie =
            |(theirs, own): (&Entry, &Entry)| !self.is_excused(theirs, own) && contradiction(theirs, own, self.judge, alike).is_some();
        (missed > 1 && missed * 3 > all) || self.pairs().any(lie)
    }

    /// Whether both have the same payloads: what follows from comparing them is the same then.
    fn is_alike(&self) -> bool {
        self.pairs().all(|(theirs, own)| is_missing(theirs) == is_missing(own))
    }

    /// Whether a bucket that discriminates between readers, or a validator that has not seen all rounds, may explain the difference.
    fn is_excused(&self, theirs: &Entry, own: &Entry) -> bool {
        is_missing(theirs)
            || is_missing(own)
            || self.is_of_unknown_past(theirs)
            || match (theirs.outcome.refusal(), own.outcome.refusal()) {
                (Some(Refusal::Outlier { .. }), _) => !self.is_alike(),
                // a lead that started since cannot know what an earlier round's payloads were
                (_, Some(Refusal::Copy { round, .. })) if *round < self.round => true,
                (Some(Refusal::Copy { uid, round, .. }), _) | (_, Some(Refusal::Copy { uid, round, .. })) if *round == self.round => {
                    self.pairs().any(|(theirs, own)| theirs.uid == *uid && is_missing(theirs) != is_missing(own))
                }
                _ => false,
            }
    }

    /// Whether it is refused as a copy of an earlier round's payload that was not seen here.
    fn is_of_unknown_past(&self, theirs: &Entry) -> bool {
        let Outcome::Refused(Refusal::Copy { uid, round, .. }) = theirs.outcome else { return false };
        round < self.round && round + u64::from(self.judge.history) >= self.round && !self.history.has(round, uid)
    }
}

/// Whether its owner's bucket may have given others what it did not give here.
fn is_missing(entry: &Entry) -> bool {
    entry.outcome.refusal().is_some_and(Refusal::depends_on_reader)
}

#[cfg(test)]
mod tests {
    use protocol::{Digest, Hotkey, score::Trial};

    use super::*;

    fn entry(uid: u16, outcome: Outcome) -> Entry {
        Entry { uid, hotkey: Hotkey([uid as u8; 32]), payload: Digest::default(), outcome }
    }

    fn sound(uid: u16) -> Entry {
        let trial = |gain: f64| Trial { before: 2.0, after: 2.0 - gain, std_error: 0.01, tokens: 64 };
        entry(uid, Outcome::Measured { assigned: trial(0.2), random: trial(0.1), work: 1.0, norm: 1.0, overlap: 0.0 })
    }

    fn refused(uid: u16, refusal: Refusal) -> Entry {
        entry(uid, Outcome::Refused(refusal))
    }

    fn copy(uid: u16, of: u16, round: u64) -> Entry {
        refused(uid, Refusal::Copy { uid: of, round, percent: 95 })
    }

    /// Of nine miners, all sound but for these: contradictions and whether round 5's sheet lies.
    fn review(theirs: &[Entry], own: &[Entry]) -> (Vec<u16>, bool) {
        let with = |changed: &[Entry]| -> Vec<Entry> {
            let of = |uid| changed.iter().find(|e| e.uid == uid).cloned().unwrap_or_else(|| sound(uid));
            (0..9).map(of).collect()
        };
        let (theirs, own) = (with(theirs), with(own).into_iter().map(|e| (e.uid, e)).collect());
        let (history, judge) = (History::default(), Judge::default());
        let review = Review { round: 5, theirs: &theirs, own: &own, history: &history, judge: &judge };
        (review.contradictions().into_iter().map(|(own, _)| own.uid).collect(), review.is_a_lie())
    }

    #[test]
    fn what_one_reader_gets_and_another_does_not_is_no_lie_unless_it_is_more_than_a_third_of_all() {
        for refusal in [Refusal::NotRevealed, Refusal::Missing, Refusal::SealedDigest, Refusal::Unopenable, Refusal::PayloadDigest] {
            let missing = |count: u16| (0..count).map(|uid| refused(uid, refusal.clone())).collect::<Vec<_>>();
            let lies = [0, 1, 3, 4, 9].map(|count| review(&missing(count), &[]).1);
            assert_eq!(lies, [false, false, false, true, true], "{refusal}");
            assert_eq!(review(&missing(2), &[]).0, [0, 1], "it is contradicted all the same");
            assert_eq!(review(&[], &missing(9)), (vec![], false), "what is missing here may be there");
        }
        assert!(review(&[refused(1, Refusal::WrongOwner)], &[]).1 && review(&[refused(1, Refusal::LossNotFinite)], &[]).1);
        assert!(!review(&[refused(1, Refusal::LossNotFinite)], &[entry(1, Outcome::Unmeasured)]).1, "it was not tried here");
    }

    #[test]
    fn a_copy_of_what_one_of_them_does_not_have_is_no_lie() {
        // B is a copy of A, and A shows its key to one of them only
        let hidden = refused(0, Refusal::NotRevealed);
        assert_eq!(review(std::slice::from_ref(&hidden), &[copy(1, 0, 5)]), (vec![0, 1], false));
        assert_eq!(review(&[copy(1, 0, 5)], std::slice::from_ref(&hidden)), (vec![1], false));
        // if both have it, or nobody has, it is
        assert!(review(&[], &[copy(1, 0, 5)]).1 && review(&[copy(1, 0, 5)], &[]).1);
        assert!(review(&[hidden.clone(), copy(1, 0, 5)], &[hidden]).1);
    }

    #[test]
    fn what_was_not_seen_of_earlier_rounds_is_no_lie() {
        assert_eq!(review(&[copy(1, 0, 4)], &[]), (vec![], false), "nothing is known of round 4 here");
        assert!(review(&[copy(1, 0, 1)], &[]).1, "so far back nobody looks");
        assert_eq!(review(&[], &[copy(1, 0, 4)]), (vec![1], false), "the lead may have started since");
    }

    #[test]
    fn norms_are_held_against_the_same_medians_only() {
        let outlier = refused(1, Refusal::Outlier { percent: 900 });
        assert!(review(std::slice::from_ref(&outlier), &[]).1);
        assert!(!review(&[outlier, refused(0, Refusal::Missing)], &[]).1);
    }
}
