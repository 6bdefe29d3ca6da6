//! How the TAO of a block is shared among subnets: by the moving average of the alpha price, or of the flow of TAO.

use super::Fixed;

/// Blocks at which an average price counts half of what it will (Subtensor's `EMAPriceHalvingBlocks`, 4 weeks).
pub const PRICE_HALVING_BLOCKS: u64 = 201_600;
/// The most that one block's price weighs in the average, 0.000003 (Subtensor's `SubnetMovingAlpha`).
pub const MOVING_ALPHA: Fixed = Fixed::from_bits(12_885);
/// What one block's flow weighs in the average, of 2⁶³ (Subtensor's `FlowEmaSmoothingFactor`: half of it is forgotten in 216,000 blocks).
pub const FLOW_SMOOTHING: u64 = 29_597_889_189_277;

/// The moving average of the alpha price, `age` blocks after the subnet's start call: `average + α · (min(price, 1) − average)` with
/// α = `moving_alpha` · age / (age + `halving_blocks`) (Subtensor's `update_moving_price`).
pub fn moving_price(average: Fixed, price: Fixed, age: u64, halving_blocks: u64, moving_alpha: Fixed) -> Fixed {
    let maturity = Fixed::ratio(age, age.saturating_add(halving_blocks));
    let alpha = moving_alpha.times(maturity);
    alpha.times(price.min(Fixed::ONE)).plus(Fixed::ONE.minus(alpha).times(average))
}

/// Each subnet's part of `emission`, in rao with their fraction: in proportion to its average price.
///
/// `burned` is the part of the miners' pay that a subnet's owner withheld in the last epoch; what it keeps from its miners it loses here
/// (Subtensor's `get_shares`). Parts are rounded down, and what that leaves is not created.
///
/// # Panics
/// If the slices differ in length.
pub fn by_price(emission: Fixed, prices: &[Fixed], burned: &[Fixed]) -> Vec<Fixed> {
    assert_eq!(prices.len(), burned.len(), "one entry per subnet");
    let kept: Vec<Fixed> = prices.iter().zip(burned).map(|(price, &burned)| price.times(Fixed::ONE.minus(burned))).collect();
    let all_burned = kept.iter().all(|&weight| weight == Fixed::ZERO);
    in_proportion(emission, if all_burned { prices } else { &kept })
}

/// A subnet's net flows of TAO, averaged over blocks: in rao per block, in steps of 2⁻³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// What stakers paid into the pool, less what they took out.
    pub users: i128,
    /// What the chain itself injected and bought for, less what root dividends took out.
    pub protocol: i128,
}

impl Flow {
    /// The average after one more block, in which `users` and `protocol` rao came in (Subtensor's `get_ema_flow`).
    #[must_use]
    pub fn after(self, users: i64, protocol: i64, smoothing: u64) -> Self {
        let step = |average: i128, flow: i64| average + scaled((i128::from(flow) << 32) - average, smoothing);
        Self { users: step(self.users, users), protocol: step(self.protocol, protocol) }
    }
}

/// ⌊value · factor / 2⁶³⌋.
fn scaled(value: i128, factor: u64) -> i128 {
    let factor = i128::from(factor.min(1 << 63));
    let (whole, rest) = (value >> 63, value & ((1 << 63) - 1));
    whole * factor + ((rest * factor) >> 63)
}

/// Each subnet's part of `emission`, in rao with their fraction: in proportion to its net flow, where that is positive.
///
/// Net is the users' flow less the protocol's; the positive flows of the protocol are scaled down so that together they do not exceed
/// the users' positive ones (Subtensor's `get_shares_flow` with its default cutoff 0 and exponent 1). Without any positive net flow nothing
/// is created.
pub fn by_flow(emission: Fixed, flows: &[Flow]) -> Vec<Fixed> {
    let positive = |flow: i128| flow.max(0).unsigned_abs();
    let total = |of: fn(&Flow) -> i128| Fixed::from_bits(flows.iter().map(|flow| positive(of(flow))).sum());
    let (users, protocol) = (total(|flow| flow.users), total(|flow| flow.protocol));
    let scale = users.over(protocol).min(Fixed::ONE);
    let net: Vec<Fixed> = flows
        .iter()
        .map(|flow| {
            let cost = match flow.protocol {
                gain @ ..0 => gain,
                cost => Fixed::from_bits(cost.unsigned_abs()).times(scale).bits() as i128,
            };
            Fixed::from_bits(positive(flow.users - cost))
        })
        .collect();
    in_proportion(emission, &net)
}

/// `amount` in proportion to `weights`, each part rounded down; all 0 if the weights are.
fn in_proportion(amount: Fixed, weights: &[Fixed]) -> Vec<Fixed> {
    let total = weights.iter().fold(Fixed::ZERO, |sum, &weight| sum.plus(weight));
    weights.iter().map(|&weight| amount.share(weight, total)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::RAO_PER_TAO;

    const TAO: Fixed = Fixed::whole(RAO_PER_TAO);

    fn floors(parts: &[Fixed]) -> Vec<u64> {
        parts.iter().map(|part| part.floor()).collect()
    }

    #[test]
    fn a_subnet_of_thrice_the_price_gets_thrice_the_tao() {
        let prices = [Fixed::ratio(1, 64), Fixed::ratio(3, 64)];
        let parts = by_price(TAO, &prices, &[Fixed::ZERO; 2]);
        assert_eq!(floors(&parts), [250_000_000, 750_000_000]);
    }

    #[test]
    fn what_a_subnet_withholds_from_its_miners_it_loses_to_others_unless_all_do() {
        let prices = [Fixed::ratio(1, 2); 2];
        let half = Fixed::ratio(1, 2);
        assert_eq!(floors(&by_price(TAO, &prices, &[half, Fixed::ZERO])), [333_333_333, 666_666_666]);
        assert_eq!(floors(&by_price(TAO, &prices, &[Fixed::ONE; 2])), [500_000_000; 2]);
    }

    #[test]
    fn an_average_price_closes_half_the_distance_in_as_many_blocks_as_its_factor_says() {
        // α = 2⁻¹⁰ at any age: (1 − α)ⁿ = ½ at n = ln 2 · 2¹⁰ ≈ 710
        let alpha = Fixed::from_bits(1 << 22);
        let average = (1..=710).fold(Fixed::ZERO, |average, age| moving_price(average, Fixed::whole(5), age, 0, alpha));
        assert!((average.to_f64() - 0.5).abs() < 1e-3, "{average:?}: prices above 1 count as 1");
    }

    #[test]
    fn a_flow_is_half_forgotten_in_a_month() {
        let start = Flow { users: 1 << 80, protocol: -(1 << 80) };
        let later = (0..216_000).fold(start, |flow, _| flow.after(0, 0, FLOW_SMOOTHING));
        for (now, then) in [(later.users, start.users), (later.protocol, start.protocol)] {
            assert!((now as f64 / then as f64 - 0.5).abs() < 1e-3);
        }
    }

    #[test]
    fn the_protocols_own_flow_counts_against_a_subnet_and_outflow_earns_nothing() {
        let rao = |rao: i128| rao << 32;
        let flow = |users, protocol| Flow { users: rao(users), protocol: rao(protocol) };
        // protocol flows of 100 in all are scaled to the users' 40: 30 − 10·0.4, 10 − 90·0.4 < 0, −5
        let parts = by_flow(TAO, &[flow(30, 10), flow(10, 90), flow(-5, 0)]);
        assert_eq!(floors(&parts), [1_000_000_000, 0, 0]);
        // net outflow of the protocol is to a subnet's credit
        assert_eq!(floors(&by_flow(TAO, &[flow(30, 0), flow(0, -10)])), [750_000_000, 250_000_000]);
        assert_eq!(floors(&by_flow(TAO, &[flow(-30, 0), flow(0, 10)])), [0, 0]);
    }

    proptest! {
        #[test]
        fn parts_never_exceed_the_emission_and_miss_it_by_less_than_a_rao_each(
            emission in 0..=RAO_PER_TAO,
            subnets in prop::collection::vec((0..1u128 << 32, 0..1u128 << 32, any::<i64>(), any::<i64>()), 1..130),
        ) {
            let (prices, burned): (Vec<_>, Vec<_>) =
                subnets.iter().map(|&(price, burned, ..)| (Fixed::from_bits(price), Fixed::from_bits(burned))).unzip();
            let flows: Vec<Flow> = subnets.iter().map(|&(.., u, p)| Flow { users: u.into(), protocol: p.into() }).collect();
            for parts in [by_price(Fixed::whole(emission), &prices, &burned), by_flow(Fixed::whole(emission), &flows)] {
                let sum: u64 = floors(&parts).iter().sum();
                prop_assert!(sum <= emission);
                prop_assert!(sum == 0 || emission - sum <= parts.len() as u64);
            }
        }
    }
}
