//! LossRating: Plackett–Luce after Weng and Lin (JMLR 12, 2011, algorithm 4) with the constants of OpenSkill.

use super::{miner::MinerScore, trial::Entry};

/// A beginner's mean skill.
pub(super) const MU: f64 = 25.0;
/// A beginner's uncertainty.
pub(super) const SIGMA: f64 = 25.0 / 3.0;
const BETA: f64 = 7.0;
const TAU: f64 = 0.1;
const KAPPA: f64 = 1e-4;

/// Plackett–Luce over the measured entries, the larger gain on random data ranking higher.
pub(super) fn rate(scores: &mut [MinerScore], entries: &[Entry]) {
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
    let before: Vec<(f64, f64)> = players.iter().map(|s| (s.mu, (s.sigma * s.sigma + TAU * TAU).sqrt())).collect();
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
    let strength: Vec<f64> = before.iter().map(|(mu, _)| libm::exp(mu / c)).collect();
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
        (mu + omega * sigma * ratio, sigma * (1.0 - delta * ratio * ratio * ratio).max(KAPPA).sqrt())
    };
    all.clone().map(update).collect()
}
