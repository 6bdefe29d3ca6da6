//! Score sheets: what a validator measured, what follows from it for ratings, selection and pay. Pure: data in, verdict with reasons out.
//!
//! Formulas: LossScore, proof of computation and PeerScore after Gauntlet (arXiv 2505.21684); ratings by Plackett–Luce after Weng and Lin
//! (JMLR 12, 2011, algorithm 4) with the constants of OpenSkill.

use serde::{Deserialize, Serialize};

use crate::{Digest, Document, DocumentError, Domain, Hotkey, Judge, Pay, Refusal, RunId};

const MU: f64 = 25.0;
const SIGMA: f64 = 25.0 / 3.0;
const BETA: f64 = 7.0;
const TAU: f64 = 0.1;
const KAPPA: f64 = 1e-4;
/// Two nodes' recomputed figures agree within this relative difference; `exp` differs in the last bits between machines.
const TOLERANCE: f64 = 1e-6;
/// Bytes of a refusal's own words at most.
const MAX_REASON: usize = 512;

/// Loss before and after trying one payload on one batch, in nats per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Mean loss of the base state.
    pub before: f64,
    /// Mean loss with the payload.
    pub after: f64,
    /// Standard error of the mean difference, over sequences.
    pub std_error: f64,
    /// Tokens measured.
    pub tokens: u64,
}

impl Trial {
    /// LossScore: what the payload gains, in nats per token.
    pub fn gain(&self) -> f64 {
        self.before - self.after
    }

    fn is_sound(&self) -> bool {
        self.before.is_finite() && self.after.is_finite() && self.gain().is_finite() && self.std_error.is_finite() && self.std_error >= 0.0
    }

    /// From per-sequence summed losses of the same sequences of `length` tokens.
    pub fn paired(before: &[f64], after: &[f64], length: usize) -> Self {
        let (n, per) = (before.len() as f64, length as f64);
        let mean = |v: &[f64]| v.iter().sum::<f64>() / (n * per);
        let (before_mean, after_mean) = (mean(before), mean(after));
        let gain = before_mean - after_mean;
        let squares: f64 = before.iter().zip(after).map(|(b, a)| ((b - a) / per - gain).powi(2)).sum();
        let std_error = if before.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { f64::MAX };
        Self { before: before_mean, after: after_mean, std_error, tokens: (before.len() * length) as u64 }
    }
}

/// What became of one entry of the seal list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Not judged, and why.
    Refused(Refusal),
    /// Judged.
    Measured {
        /// On sequences of the miner's own assignment.
        assigned: Trial,
        /// On the round's random batch.
        random: Trial,
    },
}

impl Outcome {
    /// The gain on random data, if measured.
    pub fn gain(&self) -> Option<f64> {
        match self {
            Self::Measured { random, .. } => Some(random.gain()),
            Self::Refused(_) => None,
        }
    }

    /// The reason, if refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Measured { .. } => None,
        }
    }

    /// Whether its figures are finite and its words few and printable.
    fn is_sound(&self) -> bool {
        match self {
            Self::Measured { assigned, random } => assigned.is_sound() && random.is_sound(),
            Self::Refused(refusal) => refusal.words().is_none_or(|w| w.len() <= MAX_REASON && !w.contains(char::is_control)),
        }
    }
}

/// One line of a score sheet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The miner.
    pub uid: u16,
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// BLAKE3 of the payload, as in its envelope.
    pub payload: Digest,
    /// What was found.
    pub outcome: Outcome,
}

/// What is known of a miner over all rounds so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MinerScore {
    /// Its uid when last seen.
    pub uid: u16,
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// LossRating: mean skill.
    pub mu: f64,
    /// LossRating: its uncertainty.
    pub sigma: f64,
    /// Proof of computation μ: moving average of sign(gain on assigned − gain on random data).
    pub computation: f64,
    /// Rounds in which it was measured.
    pub measured: u32,
    /// Rounds in a row without a valid payload.
    pub missed: u32,
    /// PeerScore after penalties: what is paid for.
    pub score: f64,
}

impl MinerScore {
    fn new(uid: u16, hotkey: Hotkey) -> Self {
        Self { uid, hotkey, mu: MU, sigma: SIGMA, computation: 0.0, measured: 0, missed: 0, score: 0.0 }
    }

    /// LossRating's lower bound, μ − 3σ.
    pub fn ordinal(&self) -> f64 {
        self.mu - 3.0 * self.sigma
    }

    /// Whether the rating lies below a beginner's by more than 1.5 of its standard deviations.
    ///
    /// Ratings are relative: of two equally good miners one is always below the other, and must not be shut out for it. Noise among honest
    /// work falls below this bound within five rounds.
    pub fn is_outclassed(&self) -> bool {
        self.mu + 1.5 * self.sigma < MU
    }

    fn agrees(&self, other: &Self) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0);
        // nothing and next to nothing are near each other, yet select differently
        let same_sign = (self.score > 0.0) == (other.score > 0.0);
        same_sign
            && (self.uid, self.hotkey, self.measured, self.missed) == (other.uid, other.hotkey, other.measured, other.missed)
            && near(self.mu, other.mu)
            && near(self.sigma, other.sigma)
            && near(self.computation, other.computation)
            && near(self.score, other.score)
    }
}

/// A validator's public account of a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreSheet {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: u64,
    /// Digest of the seal list judged.
    pub seal_list: Digest,
    /// One entry per line of the seal list, ascending by uid.
    pub entries: Vec<Entry>,
    /// Every miner's scores after the round, ascending by uid.
    pub scores: Vec<MinerScore>,
}

impl Document for ScoreSheet {
    const DOMAIN: Domain = Domain::ScoreSheet;
    const CAP: u64 = 4 << 20;

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("string keys only")
    }

    fn decode(body: &[u8]) -> Result<Self, DocumentError> {
        let sheet: Self = serde_json::from_slice(body).map_err(|e| DocumentError::Body(e.to_string()))?;
        match sheet.entries.iter().find(|e| !e.outcome.is_sound()) {
            None => Ok(sheet),
            Some(entry) => Err(DocumentError::Body(format!("uid {} has figures that are not finite, or unprintable words", entry.uid))),
        }
    }
}

impl ScoreSheet {
    /// Whether the sheet's scores follow from its entries and the scores before.
    pub fn follows(&self, previous: &[MinerScore], judge: &Judge, pay: &Pay) -> bool {
        let expected = advance(previous, &self.entries, judge, pay);
        self.scores.len() == expected.len() && self.scores.iter().zip(&expected).all(|(a, b)| a.agrees(b))
    }

    /// The entries to apply: measured, useful on random data by [`useful_gain`], of miners who are on probation or not outclassed; of
    /// these the `top` best by rating (ties to the lower uid), ascending by uid.
    pub fn select(&self, judge: &Judge) -> Vec<&Entry> {
        let least = useful_gain(&self.entries, judge);
        let score = |uid: u16| self.scores.iter().find(|s| s.uid == uid);
        let rating = |uid: u16| score(uid).map_or(f64::MIN, MinerScore::ordinal);
        let admitted = |uid: u16| score(uid).is_some_and(|s| s.measured <= judge.probation || !s.is_outclassed());
        let useful = |e: &&Entry| e.outcome.gain().is_some_and(|g| g > least) && admitted(e.uid);
        let mut chosen: Vec<&Entry> = self.entries.iter().filter(useful).collect();
        chosen.sort_by(|a, b| rating(b.uid).total_cmp(&rating(a.uid)).then(a.uid.cmp(&b.uid)));
        chosen.truncate(judge.top as usize);
        chosen.sort_by_key(|e| e.uid);
        chosen
    }
}

/// The gain on random data that a payload must exceed to count as useful: zero, or the judge's floor times the round's lower median gain.
///
/// Zero alone would not do: a random direction of plausible norm lowers the loss a little in almost every second round, by luck and to first
/// order, and does harm at full size.
pub fn useful_gain(entries: &[Entry], judge: &Judge) -> f64 {
    let mut gains: Vec<f64> = entries.iter().filter_map(|e| e.outcome.gain()).collect();
    gains.sort_by(f64::total_cmp);
    let median = gains.get(gains.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
    (judge.floor * median).max(0.0)
}

/// Every miner's scores after a round's entries. A uid that changed hands starts anew.
pub fn advance(previous: &[MinerScore], entries: &[Entry], judge: &Judge, pay: &Pay) -> Vec<MinerScore> {
    let taken_over = |s: &MinerScore| entries.iter().any(|e| e.uid == s.uid && e.hotkey != s.hotkey);
    let mut scores: Vec<MinerScore> = previous.iter().filter(|s| !taken_over(s)).cloned().collect();
    for entry in entries {
        match scores.iter_mut().find(|s| s.hotkey == entry.hotkey) {
            Some(score) => score.uid = entry.uid,
            None => scores.push(MinerScore::new(entry.uid, entry.hotkey)),
        }
    }
    scores.sort_by_key(|s| s.uid);
    rate(&mut scores, entries);
    for score in &mut scores {
        let outcome = entries.iter().find(|e| e.hotkey == score.hotkey).map(|e| &e.outcome);
        update(score, outcome, judge, pay);
    }
    scores
}

fn update(score: &mut MinerScore, outcome: Option<&Outcome>, judge: &Judge, pay: &Pay) {
    let Some(Outcome::Measured { assigned, random }) = outcome else {
        score.missed = score.missed.saturating_add(1);
        score.score = if score.missed >= 3 { 0.0 } else { score.score * pay.missing };
        return;
    };
    score.missed = 0;
    score.measured = score.measured.saturating_add(1);
    let own = assigned.gain() - random.gain();
    let sign = if own > 0.0 { 1.0 } else { -1.0 };
    score.computation += judge.mu_rate * (sign - score.computation);
    let computed = score.measured <= judge.mu_rounds || score.computation >= judge.mu_floor;
    let computation = if computed { score.computation.max(0.0) } else { 0.0 };
    score.score = computation * score.ordinal().max(0.0);
}

/// Plackett–Luce over the measured entries, the larger gain on random data ranking higher.
fn rate(scores: &mut [MinerScore], entries: &[Entry]) {
    let gain_of = |s: &MinerScore| entries.iter().find(|e| e.hotkey == s.hotkey).and_then(|e| e.outcome.gain());
    let (mut players, mut gains) = (Vec::new(), Vec::new());
    for score in scores {
        if let Some(gain) = gain_of(score) {
            players.push(score);
            gains.push(gain);
        }
    }
    if players.len() < 2 {
        return;
    }
    let before: Vec<(f64, f64)> = players.iter().map(|s| (s.mu, s.sigma.hypot(TAU))).collect();
    for (player, after) in players.into_iter().zip(plackett_luce(&before, &gains)) {
        (player.mu, player.sigma) = after;
    }
}

/// The new (μ, σ) of every player; equal gains tie. Quadratic in the number of players.
///
/// With `c² = Σ (σ_i² + β²)` and `p_iq = e^(μ_i/c) / Σ_{s: rank_s ≥ rank_q} e^(μ_s/c)`, over all q that rank as high as i or higher, A_q of them tied with q:
/// `Ω_i = σ_i²/c · Σ ([q = i] − p_iq) / A_q`, `Δ_i = σ_i³/c³ · Σ p_iq (1 − p_iq) / A_q`; then `μ_i += Ω_i`, `σ_i ·= √max(1 − Δ_i, κ)`.
fn plackett_luce(before: &[(f64, f64)], gains: &[f64]) -> Vec<(f64, f64)> {
    let c = before.iter().map(|(_, sigma)| sigma * sigma + BETA * BETA).sum::<f64>().sqrt();
    let strength: Vec<f64> = before.iter().map(|(mu, _)| (mu / c).exp()).collect();
    let all = 0..before.len();
    let field: Vec<f64> = all.clone().map(|q| all.clone().filter(|&s| gains[s] <= gains[q]).map(|s| strength[s]).sum()).collect();
    let tied: Vec<f64> = gains.iter().map(|gain| gains.iter().filter(|other| *other == gain).count() as f64).collect();
    let update = |i: usize| {
        let (mu, sigma) = before[i];
        let (mut omega, mut delta) = (0.0, 0.0);
        for q in all.clone().filter(|&q| gains[q] >= gains[i]) {
            let share = strength[i] / field[q];
            omega += (f64::from(u8::from(q == i)) - share) / tied[q];
            delta += share * (1.0 - share) / tied[q];
        }
        let ratio = sigma / c;
        (mu + omega * sigma * ratio, sigma * (1.0 - delta * ratio.powi(3)).max(KAPPA).sqrt())
    };
    all.clone().map(update).collect()
}

/// Chain weights from scores: score^power, normalized over miners, the burn share to `owner_uid`; the largest becomes 65,535.
pub fn weights(scores: &[MinerScore], pay: &Pay, owner_uid: u16) -> Vec<(u16, u16)> {
    let best = scores.iter().map(|s| s.score).fold(0.0, f64::max);
    if best <= 0.0 {
        return vec![(owner_uid, u16::MAX)];
    }
    // relative to the best, so that no power overflows
    let powers: Vec<(u16, f64)> = scores.iter().map(|s| (s.uid, (s.score.max(0.0) / best).powf(pay.power))).collect();
    let total: f64 = powers.iter().map(|(_, p)| p).sum();
    let mut shares: Vec<(u16, f64)> = powers.into_iter().map(|(uid, p)| (uid, (1.0 - pay.burn) * p / total)).collect();
    match shares.iter_mut().find(|(uid, _)| *uid == owner_uid) {
        Some((_, share)) => *share += pay.burn,
        None => shares.push((owner_uid, pay.burn)),
    }
    let most = shares.iter().map(|(_, s)| *s).fold(0.0, f64::max);
    let mut weights: Vec<(u16, u16)> = shares.into_iter().map(|(uid, s)| (uid, (s / most * 65_535.0).round() as u16)).collect();
    weights.retain(|(_, w)| *w > 0);
    weights.sort_unstable();
    weights
}

#[cfg(test)]
#[path = "score_tests.rs"]
mod tests;
