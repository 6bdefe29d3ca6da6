//! What became of a miner's payload in a round, in words.

use protocol::{Refusal, score::Verdict};
use serde::Serialize;

use crate::output;

/// What became of a miner's payload in a round.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Fate {
    /// It entered the model.
    Applied,
    /// It would have, but as many as fit rated higher.
    Reserve {
        /// Its place after them, from 1.
        place: usize,
    },
    /// It gains no more than `least` nats per token on random data.
    Useless {
        /// What it gains.
        gain: f64,
        /// What it had to exceed.
        least: f64,
    },
    /// Not measured, and its sender had to be.
    Unmeasured,
    /// Refused.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// It is not on the seal list.
    NotListed,
}

impl From<&Verdict<'_>> for Fate {
    fn from(verdict: &Verdict<'_>) -> Self {
        match *verdict {
            Verdict::Applied => Self::Applied,
            Verdict::Reserve(place) => Self::Reserve { place: place + 1 },
            Verdict::Useless { gain, least } => Self::Useless { gain, least },
            Verdict::Unmeasured => Self::Unmeasured,
            Verdict::Refused(refusal) => Self::Refused { refusal: refusal.clone() },
        }
    }
}

impl Fate {
    /// What it is called.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Reserve { .. } => "reserve",
            Self::Useless { .. } => "useless",
            Self::Unmeasured => "unmeasured",
            Self::Refused { .. } => "refused",
            Self::NotListed => "not listed",
        }
    }

    /// What it is called, with a reserve's place.
    pub fn word(&self) -> String {
        match self {
            Self::Reserve { place } => format!("reserve {place}"),
            _ => self.kind().to_owned(),
        }
    }

    /// Why, in a clause.
    pub fn why(&self) -> String {
        match self {
            Self::Applied => "it entered the model".into(),
            Self::Reserve { .. } => "it lowers the loss, but as many as a record takes are rated higher".into(),
            Self::Useless { gain, least } => {
                format!(
                    "it gains {} nats per token on random data and had to exceed {}",
                    output::figure(*gain, 4),
                    output::figure(*least, 4)
                )
            }
            Self::Unmeasured => "it was not measured; only miners with a record of useful work enter the model so, and only so many".into(),
            Self::Refused { refusal } => output::foreign(&refusal.to_string()),
            Self::NotListed => "no sealed payload of it was found when the round closed".into(),
        }
    }

    /// What its sender should look into, if anything.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Applied | Self::Unmeasured => None,
            Self::Reserve { .. } => {
                Some("its updates are good and others' are better: do all of the round's inner steps on its own assignment")
            }
            Self::Useless { .. } => {
                Some("its updates do not lower the loss: check that it trains on the run's data, and its inner learning rate")
            }
            Self::Refused { refusal } => Some(remedy(refusal)),
            Self::NotListed => Some("check that the miner runs, is in step with the chain, and that others can read its bucket"),
        }
    }
}

/// What to do about a refusal.
fn remedy(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Envelope(_) => "its signed envelope cannot be read: run this run's version, and let nothing else write to its bucket",
        Refusal::WrongSigner => "start the miner with the wallet and hotkey that hold this uid, and give each hotkey its own bucket",
        Refusal::WrongRun => "start the miner with this run's --run address, and let nothing else write to its bucket",
        Refusal::WrongRound => "it uploads for another round: check that it is in step with the chain, and that nobody copies old files",
        Refusal::WrongRoot => "it trains from another state than the run's: stop it, and start it again with an empty --home",
        Refusal::WrongSize { .. } => "such a payload cannot be this run's: run the miner of this run's version, unchanged",
        Refusal::SealedDigest => {
            "its bucket holds other bytes than were announced: check that uploads finish and nothing else writes there"
        }
        Refusal::Unopenable => "its key does not open its upload: run one miner per hotkey, and keep its --home across restarts",
        Refusal::PayloadDigest => {
            "its upload opens to other bytes than announced: run one miner per hotkey, of this run's version, unchanged"
        }
        Refusal::Malformed(_) => "its payload breaks the format: run the miner of this run's version, unchanged",
        Refusal::WrongOwner => "its payload was made for another miner, run, round or state: each payload must be made for its own round",
        Refusal::Missing => "its upload could not be fetched: check that its bucket is readable for others, and fast enough",
        Refusal::NotRevealed => "the key was not in the bucket in time: check that the miner can reach its bucket after the close",
        Refusal::Outlier { .. } => {
            "its update is far larger than the others': check its inner learning rate, and that its loss does not explode"
        }
        Refusal::Copy { .. } => "each uid must train by itself and anew each round: do not run several uids on one training",
        Refusal::LossNotFinite => "its update breaks the model: its training diverged; check its learning rate and its machine's memory",
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// One of each kind.
    pub fn every_refusal() -> Vec<Refusal> {
        use Refusal::*;
        vec![
            Envelope("x".into()),
            WrongSigner,
            WrongRun,
            WrongRound,
            WrongRoot,
            WrongSize { found: 1, least: 2, most: 3 },
            SealedDigest,
            Unopenable,
            PayloadDigest,
            Malformed("x".into()),
            WrongOwner,
            Missing,
            NotRevealed,
            Outlier { percent: 900 },
            Copy { uid: 1, round: 2, percent: 90 },
            LossNotFinite,
        ]
    }

    #[test]
    fn every_refusal_has_advice_of_its_own() {
        let all: Vec<&str> = every_refusal().iter().map(remedy).collect();
        let different: std::collections::BTreeSet<&&str> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert!(remedy(&Refusal::NotRevealed).contains("key was not in the bucket in time"));
    }

    #[test]
    fn verdicts_keep_what_they_say() {
        assert_eq!(Fate::from(&Verdict::Reserve(0)).word(), "reserve 1");
        let useless = Fate::from(&Verdict::Useless { gain: -0.01, least: 0.002 });
        assert_eq!(useless.why(), "it gains -0.0100 nats per token on random data and had to exceed +0.0020");
        let missing = Fate::from(&Verdict::Refused(&Refusal::Missing));
        assert_eq!((missing.word().as_str(), missing.why()), ("refused", Refusal::Missing.to_string()));
        assert!(Fate::Applied.advice().is_none() && Fate::NotListed.advice().is_some());
    }
}
