//! What a validator remembers besides the replica: scores by its own measurements, which its weights follow, and whom it does not believe.

use std::{cmp::Ordering, collections::BTreeMap};

use protocol::{
    Hotkey, Judge, Pay,
    score::{Entry, ScoreSheet, Standing},
};
use serde::{Deserialize, Serialize};

/// Scores as in the records, with this validator's own measurements where it dissents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Books {
    pub standing: Standing,
    /// The first round that is not in the scores.
    pub round: u64,
    /// Leads whose testimony was contradicted, and the first round in which they are believed again.
    distrusted: BTreeMap<Hotkey, u64>,
}

impl Books {
    /// Counts a record's sheet, with `own` entries in place of those it dissents from and beside those it left off. A round counts once,
    /// however often it is replayed; after rounds that were missed, the sheet's scores stand. Whether it counted.
    pub fn enter(&mut self, sheet: &ScoreSheet, own: &[Entry], judge: &Judge, pay: &Pay) -> bool {
        self.standing = match sheet.round.cmp(&self.round) {
            Ordering::Less => return false,
            Ordering::Equal => {
                let mut entries: BTreeMap<u16, &Entry> = sheet.entries.iter().map(|e| (e.uid, e)).collect();
                entries.extend(own.iter().map(|e| (e.uid, e)));
                self.standing.advance(&entries.into_values().cloned().collect::<Vec<_>>(), judge, pay)
            }
            Ordering::Greater => sheet.standing.clone(),
        };
        self.round = sheet.round + 1;
        true
    }

    /// From now on, and for as many rounds as the manifest says, `lead` is checked in full.
    pub fn distrust(&mut self, lead: Hotkey, round: u64, judge: &Judge) {
        let until = self.distrusted.entry(lead).or_default();
        *until = (*until).max(round + 1 + u64::from(judge.distrust));
    }

    /// Hears that `accuser` contradicts a record of `lead`. It has looked where this validator may not have: the lead is checked in full from now
    /// on. But an accusation that was looked into in full, and for which nothing was found, costs the accuser its own word for as long.
    pub fn hear(&mut self, accuser: Hotkey, lead: Hotkey, cleared: bool, round: u64, judge: &Judge) {
        if cleared {
            self.distrust(accuser, round, judge);
        } else if self.trusts(&accuser, round) {
            self.distrust(lead, round, judge);
        }
    }

    /// Whether `lead`'s word of `round` is taken with spot checks only.
    pub fn trusts(&self, lead: &Hotkey, round: u64) -> bool {
        self.distrusted.get(lead).is_none_or(|until| round >= *until)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::{
        Digest, Hotkey,
        score::{MinerScore, Outcome, Trial},
    };

    use super::*;

    fn entry(uid: u16, gain: f64) -> Entry {
        let trial = |gain: f64| Trial { before: 2.0, after: 2.0 - gain, std_error: 0.01, tokens: 64 };
        let outcome = Outcome::Measured { assigned: trial(gain * 2.0), random: trial(gain), work: 1.0, norm: 1.0, overlap: 0.0 };
        Entry { uid, hotkey: Hotkey([uid as u8; 32]), payload: Digest::default(), outcome }
    }

    fn sheet(round: u64, before: &Standing) -> ScoreSheet {
        let entries = vec![entry(1, 0.2), entry(2, 0.1)];
        let standing = before.advance(&entries, &Judge::default(), &Pay::default());
        ScoreSheet { run: Digest::default(), round, seal_list: Digest::default(), entries, standing }
    }

    #[test]
    fn a_round_counts_once_and_a_gap_is_closed_by_the_record() {
        let (judge, pay) = (Judge::default(), Pay::default());
        let mut books = Books::default();
        let first = sheet(0, &Standing::default());
        assert!(books.enter(&first, &[], &judge, &pay));
        assert_eq!((&books.standing, books.round), (&first.standing, 1));
        assert!(!books.enter(&first, &[], &judge, &pay), "replayed");
        assert_eq!(books.standing, first.standing);
        let third = sheet(2, &sheet(1, &first.standing).standing);
        assert!(books.enter(&third, &[], &judge, &pay));
        assert_eq!((books.standing, books.round), (third.standing, 3));
    }

    #[test]
    fn own_measurements_stand_where_they_contradict_the_sheet() {
        let (judge, pay) = (Judge::default(), Pay::default());
        let (mut agreeing, mut dissenting) = (Books::default(), Books::default());
        for round in 0..4 {
            agreeing.enter(&sheet(round, &Standing::default()), &[], &judge, &pay);
            dissenting.enter(&sheet(round, &Standing::default()), &[entry(1, -0.3)], &judge, &pay);
        }
        let rating = |books: &Books, uid: u16| books.standing.of(uid).map(MinerScore::ordinal);
        assert!(rating(&dissenting, 1) < rating(&agreeing, 1));
        assert!(rating(&dissenting, 2) > rating(&agreeing, 2));
    }

    #[test]
    fn a_miner_that_was_left_off_the_list_misses_nothing() {
        let (judge, pay) = (Judge::default(), Pay::default());
        let mut books = Books::default();
        books.enter(&sheet(0, &Standing::default()), &[], &judge, &pay);
        let own = Entry { outcome: Outcome::Unmeasured, ..entry(2, 0.0) };
        let without = ScoreSheet { entries: vec![entry(1, 0.2)], ..sheet(1, &Standing::default()) };
        let mut unaware = books.clone();
        books.enter(&without, &[own], &judge, &pay);
        unaware.enter(&without, &[], &judge, &pay);
        assert_eq!((books.standing.of(2).unwrap().missed, unaware.standing.of(2).unwrap().missed), (0, 1));
    }

    #[test]
    fn an_accusation_is_looked_into_and_a_baseless_one_falls_back() {
        let judge = Judge { distrust: 3, ..Judge::default() };
        let [accuser, lead] = [1, 2].map(|k| Hotkey([k; 32]));
        let mut books = Books::default();
        books.hear(accuser, lead, false, 4, &judge);
        assert!(!books.trusts(&lead, 5) && books.trusts(&accuser, 5));
        books.hear(accuser, lead, true, 6, &judge);
        assert!(!books.trusts(&accuser, 9) && books.trusts(&lead, 8));
        books.hear(accuser, lead, false, 9, &judge);
        assert!(books.trusts(&lead, 10), "nobody hears it now");
        // what is replayed takes nothing back
        books.distrust(accuser, 2, &judge);
        assert!(!books.trusts(&accuser, 9) && books.trusts(&accuser, 10));
    }

    #[test]
    fn distrust_passes() {
        let judge = Judge { distrust: 3, ..Judge::default() };
        let (lead, other) = (Hotkey([1; 32]), Hotkey([2; 32]));
        let mut books = Books::default();
        books.distrust(lead, 4, &judge);
        assert_eq!([4, 5, 7, 8].map(|round| books.trusts(&lead, round)), [false, false, false, true]);
        assert!(books.trusts(&other, 5));
    }
}
