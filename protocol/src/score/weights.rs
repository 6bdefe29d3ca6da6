//! From scores to the chain's weights.

use super::miner::MinerScore;
use crate::{Judge, Pay};

/// Chain weights from scores; the largest becomes 65,535.
///
/// score^power is shared out over the `judge.top` best and, apart from them, over the `pay.reserves` that follow; the burn share goes to
/// `owner_uid`. Where reserves are missing, the best have their part.
pub fn weights(miners: &[MinerScore], judge: &Judge, pay: &Pay, owner_uid: u16) -> Vec<(u16, u16)> {
    let mut ranked: Vec<(u16, f64)> = miners.iter().filter(|s| s.score > 0.0).map(|s| (s.uid, s.score)).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if ranked.is_empty() {
        return vec![(owner_uid, u16::MAX)];
    }
    ranked.truncate(judge.top as usize + pay.reserves as usize);
    let (best, reserves) = ranked.split_at(ranked.len().min(judge.top as usize));
    let reserve = pay.reserve * reserves.len() as f64 / f64::from(pay.reserves.max(1));
    let mut shares = shared(best, (1.0 - pay.burn) * (1.0 - reserve), pay.power);
    shares.extend(shared(reserves, (1.0 - pay.burn) * reserve, pay.power));
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

/// `total` in proportion to the power of the scores, relative to the first and largest, so that no power overflows.
fn shared(scores: &[(u16, f64)], total: f64, power: f64) -> Vec<(u16, f64)> {
    let best = scores.first().map_or(1.0, |(_, score)| *score);
    let powers: Vec<(u16, f64)> = scores.iter().map(|(uid, score)| (*uid, (score / best).powf(power))).collect();
    let sum: f64 = powers.iter().map(|(_, p)| p).sum();
    powers.into_iter().map(|(uid, p)| (uid, total * p / sum)).collect()
}
