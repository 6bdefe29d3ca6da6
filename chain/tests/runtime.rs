//! The formulas of `emission` against what a Subtensor runtime did, block by block.
//!
//! `runtime/emission-300.json` holds storage at the end of each of 77 blocks in two runs, as read from runtime spec 300 (July 2025) executed on a local
//! development chain with two subnets: without TAO on root, then with 50,000 and with weights set, by which one validator pays one miner. Numbers
//! are strings of rao, or of the bits that the runtime stores (`moving_price` with 32 binary places, `sqrt_price` with 64). `stakes` are those of
//! both owners, the validator and the miner. Two blocks of each run include a stake operation.

#![allow(clippy::unwrap_used)]

use chain::emission::{AlphaSplit, Excess, Fixed, Pool, block_emission, by_price, injection, moving_price, root_proportion};
use serde::{Deserialize, Deserializer, de::Error as _};

#[derive(Deserialize)]
struct Run {
    #[serde(deserialize_with = "number")]
    tao_weight: u64,
    #[serde(deserialize_with = "number")]
    owner_cut: u16,
    #[serde(deserialize_with = "number")]
    moving_alpha: u128,
    #[serde(deserialize_with = "number")]
    fee: u16,
    blocks: Vec<Block>,
}

#[derive(Deserialize)]
struct Block {
    block: u64,
    /// Calls that people made.
    calls: Vec<Call>,
    #[serde(deserialize_with = "number")]
    issuance: u64,
    #[serde(deserialize_with = "number")]
    root: u64,
    subnets: Vec<Observed>,
}

#[derive(Deserialize)]
struct Call {
    call: String,
    /// Index among the block's subnets.
    subnet: usize,
    #[serde(deserialize_with = "number")]
    amount: u64,
}

#[derive(Deserialize)]
struct Observed {
    #[serde(deserialize_with = "number")]
    tao: u64,
    #[serde(deserialize_with = "number")]
    alpha_in: u64,
    #[serde(deserialize_with = "number")]
    alpha_out: u64,
    #[serde(deserialize_with = "number")]
    moving_price: u128,
    #[serde(deserialize_with = "number")]
    sqrt_price: u128,
    #[serde(deserialize_with = "number")]
    liquidity: u64,
    #[serde(deserialize_with = "number")]
    tao_in_emission: u64,
    #[serde(deserialize_with = "number")]
    alpha_in_emission: u64,
    #[serde(deserialize_with = "number")]
    alpha_out_emission: u64,
    #[serde(deserialize_with = "number")]
    pending: u64,
    #[serde(deserialize_with = "number")]
    pending_owner: u64,
    #[serde(deserialize_with = "number")]
    pending_swapped: u64,
    #[serde(deserialize_with = "number")]
    pending_root: u64,
    #[serde(deserialize_with = "number")]
    first_emission: u64,
    #[serde(deserialize_with = "number")]
    halving: u64,
    /// Alpha behind both owners, the validator and the miner; only in the second run.
    stakes: Vec<String>,
}

fn number<'de, D: Deserializer<'de>, T: std::str::FromStr>(from: D) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no number that fits")))
}

impl Observed {
    /// The price of the runtime's pool, which keeps its root with 64 binary places.
    fn price(&self) -> Fixed {
        let (whole, rest) = (self.sqrt_price >> 64, self.sqrt_price & u128::from(u64::MAX));
        Fixed::from_bits((((whole * whole) << 64) + 2 * whole * rest + ((rest * rest) >> 64)) >> 32)
    }

    fn alpha_issuance(&self) -> u64 {
        self.alpha_in + self.alpha_out
    }

    /// The runtime's pool as a constant product: TAO = L · √price, alpha = L / √price.
    fn virtual_pool(&self, sqrt_price: u128) -> Pool {
        let liquidity = u128::from(self.liquidity);
        Pool { tao: ((liquidity * sqrt_price) >> 64) as u64, alpha: ((liquidity << 64) / sqrt_price) as u64, fee: 0 }
    }
}

fn runs() -> Vec<Run> {
    serde_json::from_str(include_str!("runtime/emission-300.json")).unwrap()
}

/// Every two successive blocks, as (run, before, after).
fn steps(runs: &[Run]) -> impl Iterator<Item = (&Run, &Block, &Block)> {
    runs.iter().flat_map(|run| run.blocks.windows(2).map(move |two| (run, &two[0], &two[1])))
}

/// That runtime keeps 2 % for the validators of its nodes; its constant 0.98 is a 32-bit float.
fn subnets_part(emission: u64) -> Fixed {
    Fixed::whole(emission).times(Fixed::from_bits((f64::from(0.98f32) * f64::from(2.0f32).powi(32)) as u128))
}

#[test]
fn tao_and_alpha_go_into_pools_to_the_last_rao() {
    let runs = runs();
    let mut seen = 0;
    for (_, before, after) in steps(&runs) {
        let prices: Vec<Fixed> = before.subnets.iter().map(|subnet| Fixed::from_bits(subnet.moving_price)).collect();
        let parts = by_price(subnets_part(block_emission(before.issuance)), &prices, &vec![Fixed::ZERO; prices.len()]);
        for ((part, was), is) in parts.into_iter().zip(&before.subnets).zip(&after.subnets) {
            let alpha = block_emission(was.alpha_issuance());
            let given = injection(part, was.price(), Fixed::whole(alpha), Excess::Inject);
            let observed = (is.tao_in_emission, is.alpha_in_emission, is.alpha_out_emission);
            assert_eq!((given.tao, given.alpha, alpha), observed, "block {}", after.block);
            seen += 1;
        }
        if after.calls.is_empty() {
            let created: u64 = after.subnets.iter().map(|subnet| subnet.tao_in_emission).sum();
            assert_eq!(after.issuance - before.issuance, created, "block {}", after.block);
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn average_prices_move_to_the_last_bit() {
    let runs = runs();
    let mut seen = 0;
    for (run, before, after) in steps(&runs).filter(|(_, _, after)| after.calls.is_empty()) {
        for (was, is) in before.subnets.iter().zip(&after.subnets) {
            let age = after.block - (is.first_emission - 1);
            let average = Fixed::from_bits(was.moving_price);
            let next = moving_price(average, is.price(), age, is.halving, Fixed::from_bits(run.moving_alpha));
            assert_eq!(next.bits(), is.moving_price, "block {}", after.block);
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

/// What a block's alpha is split into.
fn split(run: &Run, before: &Block, was: &Observed, is: &Observed) -> AlphaSplit {
    let issuance = was.alpha_issuance() + is.alpha_in_emission + is.alpha_out_emission;
    let root = root_proportion(before.root, Fixed::ratio(run.tao_weight, u64::MAX), issuance);
    AlphaSplit::of(is.alpha_out_emission, run.owner_cut, root)
}

/// The splits of blocks that only add to what is pending; in others an epoch paid it out.
fn splits(runs: &[Run]) -> Vec<(AlphaSplit, &Observed, &Observed)> {
    let mut splits = Vec::new();
    for (run, before, after) in steps(runs) {
        let subnets = before.subnets.iter().zip(&after.subnets).filter(|(_, is)| is.pending_owner > 0);
        splits.extend(subnets.map(|(was, is)| (split(run, before, was, is), was, is)));
    }
    splits
}

#[test]
fn owner_and_root_get_their_alpha_to_the_last_rao_and_miners_and_validators_up_to_two_more_that_the_runtime_drops() {
    let runs = runs();
    let splits = splits(&runs);
    assert!(splits.len() > 100 && splits.iter().any(|(split, ..)| split.root > 0));
    for (split, was, is) in splits {
        assert_eq!(split.owner, is.pending_owner - was.pending_owner);
        assert_eq!(split.root, is.pending_swapped - was.pending_swapped);
        // three parts are each rounded down there, of which two are exact here
        let dropped = split.miners + split.validators - (is.pending - was.pending);
        assert!(dropped <= 2, "{dropped}");
    }
}

#[test]
fn root_dividends_are_sold_for_the_runtimes_tao_within_two_rao() {
    let runs = runs();
    let off = splits(&runs).into_iter().map(|(split, was, is)| {
        let tao = is.virtual_pool(was.sqrt_price).sell(split.root).unwrap();
        tao.abs_diff(is.pending_root - was.pending_root)
    });
    assert!(off.max() <= Some(2));
}

#[test]
fn people_swap_at_the_runtimes_rate_within_two_rao() {
    let runs = runs();
    let mut seen = 0;
    for (run, before, after) in steps(&runs) {
        for Call { call, subnet, amount } in &after.calls {
            let (was, is) = (&before.subnets[*subnet], &after.subnets[*subnet]);
            let mut pool = is.virtual_pool(was.sqrt_price);
            // root's alpha is sold first, and leaves those who hold alpha
            let root = split(run, before, was, is).root;
            let sold = pool.sell(root).unwrap();
            pool.fee = run.fee;
            let (ours, observed) = match call.as_str() {
                "add_stake" => (pool.buy(*amount).unwrap(), is.alpha_out + root - was.alpha_out - is.alpha_out_emission),
                _ => (pool.sell(*amount).unwrap(), was.tao + is.tao_in_emission - sold - is.tao),
            };
            assert!(ours.abs_diff(observed) <= 2, "block {}: {call} gives {observed}, here {ours}", after.block);
            seen += 1;
        }
    }
    assert_eq!(seen, 4);
}

#[test]
fn epochs_pay_the_owner_to_the_last_rao_and_miner_and_validator_within_two_rao_per_block() {
    let runs = runs();
    let mut seen = 0;
    for run in &runs {
        for s in 0..2 {
            // what is pending is known from the first epoch seen
            let mut due: Option<(AlphaSplit, u64)> = None;
            for two in run.blocks.windows(2) {
                let (was, is) = (&two[0].subnets[s], &two[1].subnets[s]);
                if let Some((pot, blocks)) = &mut due {
                    pot.add(split(run, &two[0], was, is));
                    *blocks += 1;
                }
                if is.pending_owner > 0 {
                    continue;
                }
                if let Some((pot, blocks)) = due.replace((AlphaSplit::default(), 0)).filter(|_| !is.stakes.is_empty()) {
                    let earned = |who: usize| is.stakes[who].parse::<u64>().unwrap() - was.stakes[who].parse::<u64>().unwrap();
                    let [owner, validator, miner] = [s, 2, 3].map(earned);
                    assert_eq!(owner, pot.owner, "block {}", two[1].block);
                    assert!(miner.abs_diff(pot.miners) <= 2 * blocks, "miner {miner}, here {}", pot.miners);
                    assert!(validator.abs_diff(pot.validators) <= 2 * blocks, "validator {validator}, here {}", pot.validators);
                    seen += 1;
                }
            }
        }
    }
    assert!(seen >= 3, "{seen}");
}
