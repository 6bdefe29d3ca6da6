//! Subnets, stakers, validators, miners and a market over days of blocks: who earns what.
//!
//! Deterministic: the same [`Scenario`] gives the same state at every block, on every machine. Each [`step`](Simulation::step) is a block:
//! its TAO is shared among the subnets, each pool gets its liquidity, each subnet its alpha; averages move; subnets whose tempo is over pay what
//! is pending; once an hour the market buys and sells. [`books`](Simulation::books) holds all that was issued against all that is found.

mod epoch;
mod report;
mod scenario;
mod subnet;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::emission::{Fixed, Flow, SwapError, block_emission, by_flow, by_price};
use crate::{MAX_SUPPLY, RAO_PER_TAO};

pub use report::{Day, Earning, History, SubnetDay};
pub use scenario::{MinerScenario, RootSells, Scenario, Shares, SimulationError, StakeScenario, SubnetScenario, ValidatorScenario};
use subnet::{Miner, Stake, Subnet, Surroundings};

/// Blocks of a day, at 12 s each.
pub const BLOCKS_PER_DAY: u64 = 7_200;
/// Blocks from one trade of the market to the next.
const TRADE_BLOCKS: u64 = 300;
/// Index of the market's account.
const MARKET: usize = 0;

/// What somebody is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Owning a subnet.
    Owner,
    /// Mining.
    Miner,
    /// A validator's take.
    Validator,
    /// Staking alpha behind a validator.
    Staker,
    /// Staking TAO on root behind a validator.
    Root,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Owner, Self::Miner, Self::Validator, Self::Staker, Self::Root];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Miner => "miner",
            Self::Validator => "validator's take",
            Self::Staker => "alpha staker",
            Self::Root => "root staker",
        }
    }
}

#[derive(Clone, Debug)]
struct Account {
    name: String,
    /// Free TAO, in rao.
    tao: u64,
}

#[derive(Clone, Debug)]
struct Validator {
    account: usize,
    /// Of 65,535.
    take: u16,
    /// By subnet, the index of the stake that is its own.
    own_stakes: Vec<usize>,
}

/// What was issued and what is found, in rao.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    /// TAO issued; in accounts, pools and on root.
    pub tao: (u64, u64),
    /// By subnet, alpha issued; in the pool, with people and the chain, and pending.
    pub alpha: Vec<(u64, u64)>,
}

/// The state at the end of a block.
#[derive(Clone, Debug)]
pub struct Simulation {
    block: u64,
    /// TAO issued, in rao.
    issued: u64,
    tempo: u64,
    shares: Shares,
    excess: crate::emission::Excess,
    root_sells: RootSells,
    tao_weight: Fixed,
    accounts: Vec<Account>,
    validators: Vec<Validator>,
    root: Vec<Stake>,
    subnets: Vec<Subnet>,
    /// By subnet, role and account: alpha and TAO earned, in rao.
    earned: BTreeMap<(usize, Role, usize), (u64, u64)>,
}

impl Simulation {
    /// The state before the first block.
    ///
    /// # Errors
    /// [`SimulationError`], which names the field that does not fit.
    pub fn new(scenario: &Scenario) -> Result<Self, SimulationError> {
        check(scenario)?;
        let mut names = Names::default();
        names.index("market");
        let takes = scenario.validators.iter().map(|v| (names.index(&v.name), (v.take * u64::from(u16::MAX) / 100) as u16));
        let takes: Vec<(usize, u16)> = takes.collect();
        let root = names.stakes(&scenario.root, scenario)?;
        let subnets = scenario.subnets.iter().map(|config| {
            let mut stakes = names.stakes(&config.stakes, scenario)?;
            // every validator has a stake of its own, perhaps of 0, to which its take goes
            stakes.extend(takes.iter().enumerate().map(|(validator, &(account, _))| Stake { account, validator, amount: 0 }));
            let miner = |m: &MinerScenario| Miner { account: names.index(&m.name), incentive: m.incentive, alpha: 0 };
            let miners = config.miners.iter().map(miner).collect();
            Ok(Subnet::new(config.clone(), names.index(&config.owner), stakes, miners, scenario.fee))
        });
        let subnets = subnets.collect::<Result<Vec<_>, SimulationError>>()?;
        let count = takes.len();
        let own = |v: usize| subnets.iter().map(|subnet: &Subnet| subnet.stakes.len() - count + v).collect();
        let validators = takes.iter().enumerate().map(|(v, &(account, take))| Validator { account, take, own_stakes: own(v) }).collect();
        let held: u64 = root.iter().map(|stake| stake.amount).sum::<u64>() + subnets.iter().map(|subnet| subnet.pool.tao).sum::<u64>();
        let mut accounts: Vec<Account> = names.0.into_iter().map(|name| Account { name, tao: 0 }).collect();
        accounts[MARKET].tao = scenario.issuance * RAO_PER_TAO - held;
        Ok(Self {
            block: 0,
            issued: scenario.issuance * RAO_PER_TAO,
            tempo: scenario.tempo,
            shares: scenario.shares,
            excess: scenario.excess,
            root_sells: scenario.root_sells,
            tao_weight: Fixed::ratio(scenario.tao_weight, 100),
            accounts,
            validators,
            root,
            subnets,
            earned: BTreeMap::new(),
        })
    }

    /// Makes one block.
    ///
    /// # Errors
    /// [`SimulationError::Swap`] if a pool refuses.
    pub fn step(&mut self) -> Result<(), SimulationError> {
        self.block += 1;
        self.emit()?;
        for s in 0..self.subnets.len() {
            self.subnets[s].average();
            // not all in the same block
            if (self.block + s as u64).is_multiple_of(self.tempo) {
                self.epoch(s)?;
            }
            if self.block.is_multiple_of(TRADE_BLOCKS) {
                self.trade(s).map_err(|source| self.swap_error(s, source))?;
            }
        }
        Ok(())
    }

    /// Shares the block's TAO among the subnets.
    fn emit(&mut self) -> Result<(), SimulationError> {
        let emission = Fixed::whole(block_emission(self.issued));
        let prices: Vec<Fixed> = self.subnets.iter().map(|subnet| subnet.moving_price).collect();
        let parts = match self.shares {
            Shares::Price => by_price(emission, &prices, &vec![Fixed::ZERO; prices.len()]),
            Shares::Flow => by_flow(emission, &self.subnets.iter().map(|subnet| subnet.flow).collect::<Vec<Flow>>()),
        };
        let around = Surroundings {
            excess: self.excess,
            root_sells: self.root_sells,
            root_stake: self.root.iter().map(|stake| stake.amount).sum(),
            tao_weight: self.tao_weight,
            above_one: prices.iter().fold(Fixed::ZERO, |sum, &price| sum.plus(price)) > Fixed::ONE,
        };
        for (s, part) in parts.into_iter().enumerate() {
            self.issued += self.subnets[s].emit(part, &around).map_err(|source| self.swap_error(s, source))?;
        }
        Ok(())
    }

    /// The market buys with an hour's TAO and sells an hour's alpha, as far as it has them.
    fn trade(&mut self, s: usize) -> Result<(), SwapError> {
        let subnet = &mut self.subnets[s];
        let hourly = |per_day: u64| per_day * RAO_PER_TAO / (BLOCKS_PER_DAY / TRADE_BLOCKS);
        let tao = hourly(subnet.config.buys).min(self.accounts[MARKET].tao);
        subnet.market_alpha += subnet.buy(tao)?;
        self.accounts[MARKET].tao -= tao;
        let alpha = hourly(subnet.config.sells).min(subnet.market_alpha);
        self.accounts[MARKET].tao += subnet.sell(alpha)?;
        subnet.market_alpha -= alpha;
        Ok(())
    }

    fn earn(&mut self, subnet: usize, role: Role, account: usize, alpha: u64, tao: u64) {
        if alpha + tao > 0 {
            let earned = self.earned.entry((subnet, role, account)).or_default();
            earned.0 += alpha;
            earned.1 += tao;
        }
    }

    fn swap_error(&self, s: usize, source: SwapError) -> SimulationError {
        SimulationError::Swap { subnet: self.subnets[s].config.name.clone(), block: self.block, source }
    }

    /// What was issued beside what is found.
    pub fn books(&self) -> Books {
        let accounts: u64 = self.accounts.iter().map(|account| account.tao).sum();
        let pools: u64 = self.subnets.iter().map(|subnet| subnet.pool.tao).sum();
        let root: u64 = self.root.iter().map(|stake| stake.amount).sum();
        let alpha = self.subnets.iter().map(|subnet| (subnet.issued, subnet.pool.alpha + subnet.held())).collect();
        Books { tao: (self.issued, accounts + pools + root), alpha }
    }
}

/// Names by index.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn index(&mut self, name: &str) -> usize {
        self.0.iter().position(|known| known == name).unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        })
    }

    fn stakes(&mut self, stakes: &[StakeScenario], scenario: &Scenario) -> Result<Vec<Stake>, SimulationError> {
        let stake =
            |stake: &StakeScenario| {
                let validator = scenario.validators.iter().position(|v| v.name == stake.validator).ok_or_else(|| {
                    SimulationError::UnknownValidator { staker: stake.staker.clone(), validator: stake.validator.clone() }
                })?;
                Ok(Stake { account: self.index(&stake.staker), validator, amount: stake.amount * RAO_PER_TAO })
            };
        stakes.iter().map(stake).collect()
    }
}

/// Refuses what would overflow, divide by nothing, or name two things alike.
fn check(scenario: &Scenario) -> Result<(), SimulationError> {
    const SUPPLY: u64 = MAX_SUPPLY / RAO_PER_TAO;
    let field = |holds: bool, field, whose: &str, found, expected| {
        if holds { Ok(()) } else { Err(SimulationError::Field { field, whose: whose.to_owned(), found, expected }) }
    };
    let percent = |value: u64, name, whose: &str| field(value <= 100, name, whose, value, "at most 100 percent");
    let amount = |value: u64, name, whose: &str| field(value <= SUPPLY, name, whose, value, "at most 21 million");
    amount(scenario.issuance, "issuance", "the scenario")?;
    percent(scenario.tao_weight, "tao_weight", "the scenario")?;
    field(scenario.tempo > 0, "tempo", "the scenario", scenario.tempo, "at least 1 block")?;
    distinct("validator", scenario.validators.iter().map(|v| &v.name))?;
    distinct("subnet", scenario.subnets.iter().map(|subnet| &subnet.name))?;
    for validator in &scenario.validators {
        percent(validator.take, "take", &validator.name)?;
    }
    for stake in &scenario.root {
        amount(stake.amount, "amount", &stake.staker)?;
    }
    for subnet in &scenario.subnets {
        let name = &subnet.name;
        for (value, field) in [(subnet.owner_sells, "owner_sells"), (subnet.miners_sell, "miners_sell")] {
            percent(value, field, name)?;
        }
        for (value, name_of) in [(subnet.buys, "buys"), (subnet.sells, "sells")] {
            amount(value, name_of, name)?;
        }
        for (value, name_of) in [(subnet.tao, "tao"), (subnet.alpha, "alpha")] {
            field(value > 0, name_of, name, value, "more than 0, or there is no price")?;
        }
        let staked = subnet.stakes.iter().map(|stake| stake.amount);
        let alpha = staked.chain([subnet.alpha, subnet.market_alpha]).fold(0, u64::saturating_add);
        amount(alpha, "all alpha", name)?;
    }
    if scenario.subnets.is_empty() {
        return Err(SimulationError::Names("a scenario needs at least one [[subnet]]".into()));
    }
    let held = scenario.root.iter().map(|stake| stake.amount).chain(scenario.subnets.iter().map(|subnet| subnet.tao));
    let held = held.fold(0, u64::saturating_add);
    if held > scenario.issuance { Err(SimulationError::Unfunded { held, issuance: scenario.issuance }) } else { Ok(()) }
}

fn distinct<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<(), SimulationError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(SimulationError::Names(format!("there are two {what}s of the name {name:?}; names must differ")));
        }
    }
    Ok(())
}
