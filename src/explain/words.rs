//! An explanation in words, section by section, in lines of at most 120 columns.

use std::{collections::BTreeMap, fmt};

use chain::Earnings;
use protocol::{Computation, Rating, score::MinerScore};

use super::{Explanation, Merits, Round};
use crate::{
    fate::Fate,
    output::{figure, wrapped},
};

/// Validators whose weights are named one by one.
const NAMED: usize = 4;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "uid {}, {}, in run {}", self.uid, self.hotkey, self.name)?;
        let mut sections = vec![("Payloads", self.payloads())];
        if let Some(merits) = &self.standing {
            sections.push(("Training", self.training(merits)));
            sections.push(("Penalties", self.penalties(merits)));
            sections.push(("Score", vec![self.score(merits)]));
        }
        sections.push(("Pay", self.pay()));
        for (title, paragraphs) in sections {
            writeln!(f, "\n{title}")?;
            for paragraph in paragraphs {
                writeln!(f, "{}", wrapped(&paragraph, 2, 4))?;
            }
        }
        let advice = format!("Advice: {}.", self.advice.unwrap_or("none; nothing is wrong"));
        write!(f, "\n{}", wrapped(&advice, 0, 4))
    }
}

impl Explanation {
    fn payloads(&self) -> Vec<String> {
        let mut lines = vec![self.summary()];
        if self.owner {
            lines.push("It is the subnet's owner, which needs no payloads.".to_owned());
        }
        if self.validates {
            lines.push("It holds stake and may set weights, so it is a validator, which needs no payloads.".to_owned());
        }
        if self.rounds.iter().any(|r| r.gain.is_some()) {
            lines.push(
                "A payload's gain is by how much it lowers the model's loss on data drawn at random, in nats per token, the unit of loss; \
                 the round's median is what the typical payload of that round gained."
                    .to_owned(),
            );
        }
        // rounds without a payload are told together
        for rounds in self.rounds.chunk_by(|a, b| a.fate == Fate::NotListed && b.fate == Fate::NotListed) {
            match rounds {
                [newest, .., oldest] => lines.push(format!("rounds {} to {}: {}", oldest.round, newest.round, newest.words())),
                _ => lines.extend(rounds.iter().map(|round| format!("round {}: {}", round.round, round.words()))),
            }
        }
        lines.extend(self.dissents.iter().map(|told| format!("Round {}, {}", told.round, told.objection.words())));
        lines
    }

    /// How often it was listed, and what came of it.
    fn summary(&self) -> String {
        let mut fates: BTreeMap<&str, usize> = BTreeMap::new();
        let listed = self.rounds.iter().filter(|r| r.fate != Fate::NotListed);
        listed.clone().for_each(|r| *fates.entry(r.fate.kind()).or_default() += 1);
        let rounds = match self.rounds.len() {
            1 => "the last round".to_owned(),
            many => format!("the last {many} rounds"),
        };
        let list = "The seal list, the list of uploads with which a round closes,";
        match listed.count() {
            0 => format!("{list} did not name it in {rounds}."),
            count => {
                let fates: Vec<String> = fates.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
                format!("{list} named it {count} times in {rounds}: {}.", fates.join(", "))
            }
        }
    }

    fn training(&self, merits: &Merits) -> Vec<String> {
        let why = "Whoever trains on some data gains more on it than on random data. So it is tried on both: on the data that it was \
                   assigned and on random data.";
        let belief = match self.rules.judge.computation {
            _ if merits.score.measured == 0 => "It was not measured so far, so the chance that it does counts as one half.".to_owned(),
            Computation::Sequential { .. } => {
                let verdict = match merits.trains {
                    0.95.. => "it does train on its assigned data",
                    ..0.05 => "it does not train on its assigned data",
                    _ => "it is open whether it trains on its assigned data",
                };
                let (n, chance) = (merits.score.measured, percent(merits.trains));
                format!("By all measurements so far ({n}) {verdict}: the probability that it does is {chance}.")
            }
            Computation::Average { floor, rounds, .. } => format!(
                "The moving average over its measurements ({}), +1 where it gains more on assigned data and -1 where it does not, is {}; \
                 its score is multiplied by that, and is nothing while it is below {floor} after {rounds} measurements.",
                merits.score.measured,
                figure(merits.score.signs, 2)
            ),
        };
        let advantages: Vec<f64> = self.rounds.iter().filter_map(|r| r.advantage).collect();
        let evidence = match advantages.len() {
            0 => "These rounds have no measurement of it.".to_owned(),
            n => format!(
                "In these rounds its gain on assigned data was ahead by {} standard errors (the size of chance differences) in the mean of {n} \
                 measurements; a typical miner of this run is ahead by {}, one that trains on other data by about 0.",
                figure(advantages.iter().sum::<f64>() / n as f64, 2),
                figure(self.effect, 2)
            ),
        };
        vec![why.to_owned(), belief, evidence]
    }

    fn penalties(&self, merits: &Merits) -> Vec<String> {
        let mut lines = Vec::new();
        if merits.score.missed > 0 {
            let (missed, left) = (merits.score.missed, percent(merits.kept_missing));
            lines.push(format!(
                "Rounds in a row without a valid payload: {missed}. That leaves {left} of its score; the next valid payload lifts it."
            ));
        }
        if merits.kept_negative < 1.0 {
            let (negative, left) = (merits.score.negative, percent(merits.kept_negative));
            let (in_a_row, of_eight) = (negative.trailing_ones(), negative.count_ones());
            lines.push(match in_a_row >= 3 {
                true => format!(
                    "Its last measurements, {in_a_row} in a row, showed no gain. That leaves {left} of its score; a payload that gains lifts it."
                ),
                false => format!(
                    "Of its last 8 measurements {of_eight} showed no gain. That leaves {left} of its score, until at most 4 of the last 8 do."
                ),
            });
        }
        if lines.is_empty() {
            lines.push("None holds.".to_owned());
        }
        lines
    }

    fn score(&self, merits: &Merits) -> String {
        let MinerScore { score, work, gain, signs, .. } = &merits.score;
        let what = match self.rules.pay.rating {
            Rating::Gain => {
                let (work, gain) = (percent(*work), figure(*gain, 2));
                format!(
                    "the share of a round's full work that it claims, {work} in the mean, times its mean gain in units of the rounds' medians, {gain}, of which what exceeds 1 counts by its root"
                )
            }
            Rating::LossRating => {
                "its rank among the others over all rounds, as LossRating's mean less three times its uncertainty".to_owned()
            }
        };
        let computation = match self.rules.judge.computation {
            Computation::Sequential { .. } => format!(
                "{:.3} (the chance that it trains on its assigned data) × {:.3} (the part of its claims that shows in its gains, {} at most, to the fourth power)",
                merits.trains,
                merits.verified.powi(4),
                percent(merits.verified)
            ),
            Computation::Average { .. } => format!("{:.3} (training on its assigned data)", signs.max(0.0)),
        };
        let negative = if merits.rating < 0.0 { "; below 0 counts as 0" } else { "" };
        let kept = merits.kept_missing * merits.kept_negative;
        format!(
            "{score:.3}: {} ({what}{negative}) × {computation} × {kept:.2} (penalties).",
            figure(merits.rating, 3).trim_start_matches('+')
        )
    }

    fn pay(&self) -> Vec<String> {
        let chain = &self.chain;
        let mut lines = vec![self.share()];
        lines.push(match chain.weights.len() {
            0 => "No validator has set weights on the chain yet.".to_owned(),
            count => {
                let mut given: Vec<String> =
                    chain.weights.iter().take(NAMED).map(|(by, share)| format!("validator {by} {}", percent(*share))).collect();
                if count > NAMED {
                    given.push(format!("{} more", count - NAMED));
                }
                format!(
                    "Of the validators' weights on the chain it has {} (mean by stake; {}). They are set once per epoch, the chain's pay period, and follow the scores.",
                    percent(chain.weight),
                    given.join(", ")
                )
            }
        });
        let also = if self.validates { ", for validating too" } else { "" };
        let earned = match chain.earnings {
            Earnings::Total => format!("So far it earned {:.3} TAO{also}.", chain.emission),
            Earnings::NewestEpoch => format!("The newest epoch gave it {:.3} alpha{also}.", chain.emission),
        };
        lines.push(format!("The chain's consensus over these weights gives it {} of the miners' pay. {earned}", percent(chain.incentive)));
        lines
    }

    /// What the newest sheet alone would pay, and why.
    fn share(&self) -> String {
        let (higher, paid) = self.place;
        let pay = &self.rules.pay;
        let score = self.standing.as_ref().map_or(0.0, |s| s.score.score);
        match (score > 0.0, self.share > 0.0) {
            (true, true) => {
                let reserves = match higher >= self.rules.judge.top as usize {
                    true => format!(", as one of the reserves, to whom {} of the pay go", percent(pay.reserve)),
                    false => String::new(),
                };
                format!(
                    "By the newest sheet its share is {}{reserves}: its score is number {} of {paid}, and pay goes with score to the power of {}.",
                    percent(self.share),
                    higher + 1,
                    pay.power
                )
            }
            (true, false) => format!(
                "By the newest sheet it is paid nothing: its score is number {} of {paid}, and only the first {} are paid, or its share is too \
                 small for a weight.",
                higher + 1,
                u64::from(self.rules.judge.top) + u64::from(pay.reserves)
            ),
            (false, true) => format!("By the newest sheet {} go to it as the owner's uid, whose weight is burnt.", percent(self.share)),
            (false, false) if self.standing.is_none() => {
                "By the newest sheet it is paid nothing: it never had a payload on a seal list.".to_owned()
            }
            (false, false) => {
                format!("By the newest sheet it is paid nothing: {}.", self.standing.as_ref().map_or("", Merits::why_nothing))
            }
        }
    }
}

impl Merits {
    /// Why a score of 0 is one.
    fn why_nothing(&self) -> &'static str {
        match self {
            _ if self.score.measured == 0 => "none of its payloads was measured so far",
            _ if self.rating <= 0.0 => "its payloads do not lower the loss, in the mean",
            _ if self.kept_missing * self.kept_negative <= 0.0 => "a penalty leaves nothing of its score",
            _ => "it is not taken to train on its assigned data",
        }
    }
}

impl Round {
    fn words(&self) -> String {
        let word = self.fate.word();
        let gain = self.gain.map(|(gain, error)| {
            let of_median =
                self.median.filter(|m| *m > 0.0).map(|m| format!(", {:.2} times the round's median", gain / m)).unwrap_or_default();
            format!("gain {} ± {}{of_median}", figure(gain, 4), figure(error, 4).trim_start_matches('+'))
        });
        match (&self.fate, gain) {
            (Fate::Applied, Some(gain)) => format!("{word}: {gain}"),
            (Fate::Useless { least, .. }, Some(gain)) => format!("{word}: {gain}, and had to gain more than {}", figure(*least, 4)),
            (Fate::Applied, None) => format!("{word} without being measured, since its sender has shown useful work often enough"),
            (_, Some(gain)) => format!("{word}: {}; {gain}", self.fate.why()),
            (_, None) => format!("{word}: {}", self.fate.why()),
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use protocol::{
        Digest, Hotkey, Refusal,
        score::{MinerScore, Standing},
    };

    use super::*;
    use crate::{
        explain::{OnChain, Rules},
        fate,
    };

    fn round(round: u64, fate: Fate, gain: Option<f64>) -> Round {
        Round { round, fate, gain: gain.map(|gain| (gain, 0.001)), median: Some(0.02), advantage: gain.map(|_| 1.5) }
    }

    fn explanation(score: Option<MinerScore>, rounds: Vec<Round>) -> Explanation {
        let rules = Rules::default();
        let mut explanation = Explanation {
            run: Digest::default(),
            name: "demo".into(),
            uid: 3,
            hotkey: Hotkey([3; 32]),
            validates: false,
            owner: false,
            rounds,
            standing: score.map(|score| Merits::of(&score, &Standing::default(), &rules)),
            effect: 1.0,
            place: (1, 4),
            share: 0.25,
            chain: OnChain { weights: vec![(5, 0.2), (6, 0.3)], weight: 0.25, incentive: 0.26, emission: 1.5, earnings: Earnings::Total },
            dissents: Vec::new(),
            advice: None,
            rules,
        };
        explanation.advice = explanation.advice();
        explanation
    }

    fn honest() -> MinerScore {
        MinerScore { gain: 1.1, work: 1.0, evidence: 5.0, measured: 12, score: 1.09, ..MinerScore::new(3, Hotkey([3; 32])) }
    }

    /// The text on one line, since it is wrapped anywhere.
    fn flat(explanation: &Explanation) -> String {
        explanation.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn good_work_needs_no_advice() {
        let text = flat(&explanation(Some(honest()), vec![round(7, Fate::Applied, Some(0.03)), round(6, Fate::Applied, None)]));
        for expected in [
            "named it 2 times in the last 2 rounds: 2 applied.",
            "round 7: applied: gain +0.0300 ± 0.0010, 1.50 times the round's median",
            "round 6: applied without being measured",
            "it does train on its assigned data: the probability that it does is 99.3 %.",
            "None holds.",
            "Score 1.090: 1.049 (",
            "× 0.993 (the chance that it trains on its assigned data) × 1.000 (the part of its claims that shows in its gains, 100.0 % at most",
            "its score is number 2 of 4",
            "it has 25.0 % (mean by stake; validator 5 20.0 %, validator 6 30.0 %).",
            "So far it earned 1.500 TAO.",
            "Advice: none",
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
    }

    #[test]
    fn each_way_to_fail_has_its_words_and_no_line_is_long() {
        let mut fates: Vec<Fate> = fate::tests::every_refusal().into_iter().map(|refusal| Fate::Refused { refusal }).collect();
        fates.push(Fate::Refused { refusal: Refusal::Malformed("long ".repeat(100)) });
        fates.extend([Fate::NotListed, Fate::Unmeasured, Fate::Reserve { place: 2 }, Fate::Useless { gain: -0.01, least: 0.002 }]);
        for fate in fates {
            let (kind, advice) = (fate.kind(), fate.advice());
            let text = explanation(Some(honest()), vec![round(7, fate, None)]).to_string();
            assert!(text.contains(&format!("round 7: {kind}")), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
            assert!(text.ends_with(&format!("\nAdvice: {}.", advice.unwrap_or("none; nothing is wrong"))), "advice is one line: {text}");
        }
    }

    #[test]
    fn penalties_say_what_lifts_them() {
        let of = |missed, negative| flat(&explanation(Some(MinerScore { missed, negative, ..honest() }), Vec::new()));
        assert!(of(2, 0).contains("without a valid payload: 2. That leaves 56.2 % of its score; the next valid payload lifts it."));
        assert!(of(3, 0).contains("That leaves 0.0 % of its score"));
        assert!(of(0, 0b0111).contains("3 in a row, showed no gain. That leaves 0.0 %"));
        assert!(of(0, 0b1101_1010).contains("Of its last 8 measurements 5 showed no gain. That leaves 25.0 %"));
        let both = of(1, 0b1101_1010);
        assert!(both.contains("leaves 75.0 %") && both.contains("leaves 25.0 %") && both.contains("× 0.19 (penalties)"), "{both}");
    }

    #[test]
    fn a_reserve_is_told_what_reserves_share() {
        let mut reserve = explanation(Some(honest()), Vec::new());
        assert!(!flat(&reserve).contains("reserves"));
        reserve.place = (20, 25);
        let text = flat(&reserve);
        assert!(text.contains("as one of the reserves, to whom 25.0 % of the pay go: its score is number 21 of 25"), "{text}");
    }

    #[test]
    fn whoever_does_not_train_is_told_so() {
        let score = MinerScore { evidence: -5.0, score: 0.0, ..honest() };
        let doubted = explanation(Some(score), vec![round(7, Fate::Applied, Some(0.02))]);
        let text = flat(&Explanation { share: 0.0, ..doubted });
        assert!(text.contains("it does not train on its assigned data: the probability that it does is 0.7 %."), "{text}");
        assert!(text.contains("paid nothing: it is not taken to train on its assigned data."), "{text}");
        assert!(text.contains("Advice: check that it trains on each round's assigned sequences"), "{text}");
    }

    #[test]
    fn rounds_without_a_payload_are_told_together() {
        let mut rounds: Vec<Round> = (4..=9).rev().map(|n| round(n, Fate::NotListed, None)).collect();
        rounds.insert(2, round(99, Fate::Applied, Some(0.01)));
        let text = flat(&Explanation { share: 0.0, ..explanation(None, rounds) });
        assert!(text.contains("rounds 8 to 9: not listed") && text.contains("rounds 4 to 7: not listed"), "{text}");
        assert!(text.contains("it never had a payload on a seal list") && text.contains("Advice: if it is to mine"), "{text}");
    }
}
