//! A score sheet as two tables: what was found in the round, and where every miner stands after it.

use std::fmt;

use protocol::score::{Outcome, Trial};

use super::{Follows, Line, Objection, Sheet};
use crate::{
    fate::Fate,
    output::{Table, count, figure, wrapped},
};

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (run {})", self.name, self.run)?;
        writeln!(f, "round   {}, recorded in block {} by {}", self.round, self.block, self.lead)?;
        writeln!(f, "record  {}\nroot    {}\nsheet   {}, signed by the lead", self.record, self.root, self.score_sheet)?;
        writeln!(f, "        {}", self.checks())?;
        writeln!(f, "tokens  {} measured", count(self.tokens))?;
        writeln!(f, "effect  {:.3} standard errors: how much more a typical miner gains on its assigned data", self.effect)?;
        writeln!(f, "others  {}\n", self.others())?;
        self.found().fmt(f)?;
        writeln!(f, "\n")?;
        let notes = self.notes();
        if !notes.is_empty() {
            writeln!(f, "{notes}\n")?;
        }
        self.standing().fmt(f)?;
        match self.burnt > 0.0 {
            true => write!(f, "\nburnt, by way of the owner's uid: {:.1} %", 100.0 * self.burnt),
            false => Ok(()),
        }
    }
}

impl Sheet {
    fn checks(&self) -> String {
        let before = match self.round {
            0 => "from nothing, as the first round's do".to_owned(),
            round => format!("from round {}'s sheet", round - 1),
        };
        let scores = match self.follows {
            Follows::Yes => format!("scores follow {before}: yes"),
            Follows::No => format!("scores follow {before}: NO"),
            Follows::Unknown => format!("scores follow {before}: that sheet cannot be had"),
        };
        format!("{scores}; the record applies what follows: {}", if self.selection_follows { "yes" } else { "NO" })
    }

    fn others(&self) -> String {
        let signed = match self.countersigned.len() {
            0 => "no other validator countersigned".to_owned(),
            1 => "1 other validator countersigned".to_owned(),
            many => format!("{many} other validators countersigned"),
        };
        match self.dissents.len() {
            0 => format!("{signed}, none contradicts"),
            1 => format!("{signed}, with 1 contradiction"),
            many => format!("{signed}, with {many} contradictions"),
        }
    }

    /// What was found in the round.
    fn found(&self) -> Table {
        let mut table = Table::new(3, &["uid", "hotkey", "verdict", "random", "assigned", "z", "norm", "overlap"]);
        for line in &self.miners {
            let measured = |of: &dyn Fn(&Outcome) -> Option<String>| line.outcome.as_ref().and_then(of).unwrap_or_else(|| "-".to_owned());
            table.row([
                line.uid.to_string(),
                line.short(),
                line.fate.word(),
                measured(&|outcome| trials(outcome).map(|(_, random)| gain(random))),
                measured(&|outcome| trials(outcome).map(|(assigned, _)| gain(assigned))),
                line.advantage.map_or_else(|| "-".to_owned(), |z| figure(z, 2)),
                measured(&|outcome| if let Outcome::Measured { norm, .. } = outcome { Some(format!("{norm:.2}")) } else { None }),
                measured(&|outcome| if let Outcome::Measured { overlap, .. } = outcome { Some(percent(*overlap)) } else { None }),
            ]);
        }
        table
    }

    /// Why some payloads were not applied, and who contradicts.
    fn notes(&self) -> String {
        let unclear = |line: &&Line| matches!(line.fate, Fate::Useless { .. } | Fate::Unmeasured | Fate::Refused { .. });
        let whys = self.miners.iter().filter(unclear).map(|line| format!("uid {}, {}: {}", line.uid, line.fate.word(), line.fate.why()));
        let contradictions = self.dissents.iter().map(Objection::words);
        whys.chain(contradictions).map(|note| wrapped(&note, 0, 4)).collect::<Vec<_>>().join("\n")
    }

    /// Where every miner stands after the round.
    fn standing(&self) -> Table {
        let mut table = Table::new(2, &["uid", "hotkey", "gain", "trains", "mu", "sigma", "missed", "kept", "score", "share"]);
        for line in &self.miners {
            let score = &line.standing;
            table.row([
                line.uid.to_string(),
                line.short(),
                figure(score.gain, 2),
                format!("{:.3}", line.trains),
                format!("{:.2}", score.mu),
                format!("{:.2}", score.sigma),
                score.missed.to_string(),
                format!("{:.2}", line.kept),
                format!("{:.3}", score.score),
                percent(line.share),
            ]);
        }
        table
    }
}

impl Line {
    fn short(&self) -> String {
        format!("{:.12}…", self.hotkey.ss58())
    }
}

impl Objection {
    /// Who contradicts what, in a line.
    pub fn words(&self) -> String {
        let by = self.by_uid.map_or_else(|| self.by.to_string(), |uid| format!("validator {uid}"));
        format!("uid {}: {by} contradicts the sheet: {}", self.uid, self.reason)
    }
}

fn trials(outcome: &Outcome) -> Option<(&Trial, &Trial)> {
    match outcome {
        Outcome::Measured { assigned, random, .. } => Some((assigned, random)),
        Outcome::Refused(_) | Outcome::Unmeasured => None,
    }
}

fn gain(trial: &Trial) -> String {
    format!("{} ± {}", figure(trial.gain(), 4), figure(trial.std_error, 4).trim_start_matches('+'))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
