//! What a validator remembers besides the replica: scores by its own measurements, which its weights follow.

use std::cmp::Ordering;

use protocol::{
    Judge, Pay,
    score::{Entry, MinerScore, ScoreSheet, advance},
};
use serde::{Deserialize, Serialize};

/// Scores as in the records, with this validator's own measurements where it dissents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Books {
    pub scores: Vec<MinerScore>,
    /// The first round that is not in the scores.
    pub round: u64,
}

impl Books {
    /// Counts a record's sheet, with `own` entries in place of those it dissents from. A round counts once, however often it is replayed;
    /// after rounds that were missed, the sheet's scores stand. Whether it counted.
    pub fn enter(&mut self, sheet: &ScoreSheet, own: &[Entry], judge: &Judge, pay: &Pay) -> bool {
        self.scores = match sheet.round.cmp(&self.round) {
            Ordering::Less => return false,
            Ordering::Equal => {
                let replaced = |e: &Entry| own.iter().find(|own| own.uid == e.uid).unwrap_or(e).clone();
                advance(&self.scores, &sheet.entries.iter().map(replaced).collect::<Vec<_>>(), judge, pay)
            }
            Ordering::Greater => sheet.scores.clone(),
        };
        self.round = sheet.round + 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use protocol::{
        Digest, Hotkey,
        score::{Outcome, Trial},
    };

    use super::*;

    fn entry(uid: u16, gain: f64) -> Entry {
        let trial = |gain: f64| Trial { before: 2.0, after: 2.0 - gain, std_error: 0.01, tokens: 64 };
        let outcome = Outcome::Measured { assigned: trial(gain * 2.0), random: trial(gain) };
        Entry { uid, hotkey: Hotkey([uid as u8; 32]), payload: Digest::default(), outcome }
    }

    fn sheet(round: u64, before: &[MinerScore]) -> ScoreSheet {
        let entries = vec![entry(1, 0.2), entry(2, 0.1)];
        let scores = advance(before, &entries, &Judge::default(), &Pay::default());
        ScoreSheet { run: Digest::default(), round, seal_list: Digest::default(), entries, scores }
    }

    #[test]
    fn a_round_counts_once_and_a_gap_is_closed_by_the_record() {
        let (judge, pay) = (Judge::default(), Pay::default());
        let mut books = Books::default();
        let first = sheet(0, &[]);
        assert!(books.enter(&first, &[], &judge, &pay));
        assert_eq!((&books.scores, books.round), (&first.scores, 1));
        assert!(!books.enter(&first, &[], &judge, &pay), "replayed");
        assert_eq!(books.scores, first.scores);
        let third = sheet(2, &sheet(1, &first.scores).scores);
        assert!(books.enter(&third, &[], &judge, &pay));
        assert_eq!((books.scores, books.round), (third.scores, 3));
    }

    #[test]
    fn own_measurements_stand_where_they_contradict_the_sheet() {
        let (judge, pay) = (Judge::default(), Pay::default());
        let (mut agreeing, mut dissenting) = (Books::default(), Books::default());
        for round in 0..4 {
            agreeing.enter(&sheet(round, &[]), &[], &judge, &pay);
            dissenting.enter(&sheet(round, &[]), &[entry(1, -0.3)], &judge, &pay);
        }
        let rating = |books: &Books, uid: u16| books.scores.iter().find(|s| s.uid == uid).map(MinerScore::ordinal);
        assert!(rating(&dissenting, 1) < rating(&agreeing, 1));
        assert!(rating(&dissenting, 2) > rating(&agreeing, 2));
    }
}
