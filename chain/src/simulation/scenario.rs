//! What is simulated: as typed, in whole TAO, alpha and percent; checked when it becomes a [`Simulation`](super::Simulation).

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::emission::{DEFAULT_FEE, Excess, SwapError};

/// Why there is no simulation.
#[derive(Debug, Error)]
pub enum SimulationError {
    /// The text is no scenario.
    #[error("the scenario does not parse: {0}")]
    Toml(#[from] toml::de::Error),
    /// A field has a value that makes no sense.
    #[error("{field} of {whose} is {found}; it must be {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// Of what: a subnet, a validator, the scenario.
        whose: String,
        /// What it is.
        found: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// A list that must have entries has none, or has a name twice.
    #[error("{0}")]
    Names(String),
    /// Somebody stakes behind a validator that is not there.
    #[error("{staker} stakes behind {validator}, which is no validator; add a [[validator]] of that name")]
    UnknownValidator {
        /// Who stakes.
        staker: String,
        /// The missing name.
        validator: String,
    },
    /// Pools and root hold more TAO than there is.
    #[error("pools and root hold {held} TAO, but only {issuance} are issued; raise `issuance`")]
    Unfunded {
        /// TAO in pools and on root.
        held: u64,
        /// TAO issued.
        issuance: u64,
    },
    /// A pool refused a swap.
    #[error("subnet {subnet}, block {block}: {source}")]
    Swap {
        /// The subnet's name.
        subnet: String,
        /// Block of the simulation.
        block: u64,
        /// What the pool said.
        source: SwapError,
    },
}

/// By what the block's TAO is shared among subnets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shares {
    /// The moving average of the alpha price.
    #[default]
    Price,
    /// The moving average of the net flow of TAO.
    Flow,
}

/// When dividends of root are sold for TAO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootSells {
    /// While the average prices of all subnets sum to more than 1; else they are recycled (Subtensor in 2026).
    #[default]
    AboveOne,
    /// Always (Subtensor in 2025).
    Always,
}

/// A scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// TAO that exist at the start. What is neither in pools nor on root is the market's.
    pub issuance: u64,
    /// What a TAO on root weighs beside an alpha, in percent.
    #[serde(default = "tao_weight")]
    pub tao_weight: u64,
    /// Blocks from epoch to epoch.
    #[serde(default = "tempo")]
    pub tempo: u64,
    /// By what the block's TAO is shared.
    #[serde(default)]
    pub shares: Shares,
    /// What becomes of TAO that has no alpha to go with it.
    #[serde(default = "excess")]
    pub excess: Excess,
    /// When dividends of root are sold.
    #[serde(default)]
    pub root_sells: RootSells,
    /// Fee of swaps by people, of 65,535; the chain's own swaps are free.
    #[serde(default = "fee")]
    pub fee: u16,
    /// Validators, each on every subnet.
    #[serde(default, rename = "validator")]
    pub validators: Vec<ValidatorScenario>,
    /// TAO staked on root.
    #[serde(default, rename = "root")]
    pub root: Vec<StakeScenario>,
    /// Subnets.
    #[serde(default, rename = "subnet")]
    pub subnets: Vec<SubnetScenario>,
}

/// A validator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidatorScenario {
    /// Its name.
    pub name: String,
    /// What it takes of its stakers' dividends, in percent.
    #[serde(default = "take")]
    pub take: u64,
}

/// A stake behind a validator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StakeScenario {
    /// Whose it is; a validator's own, too, earns as a stake.
    pub staker: String,
    /// Behind whom.
    pub validator: String,
    /// How much: alpha on a subnet, TAO on root.
    pub amount: u64,
}

/// A miner.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinerScenario {
    /// Its name.
    pub name: String,
    /// Its incentive, of any scale.
    pub incentive: u16,
}

/// A subnet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetScenario {
    /// Its name.
    pub name: String,
    /// Its owner's name.
    pub owner: String,
    /// TAO in the pool.
    pub tao: u64,
    /// Alpha in the pool.
    pub alpha: u64,
    /// Alpha that is held by people who neither stake nor mine.
    #[serde(default)]
    pub market_alpha: u64,
    /// Blocks since the start call. The average price starts at the pool's.
    #[serde(default)]
    pub age: u64,
    /// TAO per day with which the market buys alpha.
    #[serde(default)]
    pub buys: u64,
    /// Alpha per day that the market sells.
    #[serde(default)]
    pub sells: u64,
    /// What the owner sells of what it earns, in percent.
    #[serde(default)]
    pub owner_sells: u64,
    /// What miners sell of what they earn, in percent.
    #[serde(default)]
    pub miners_sell: u64,
    /// Alpha staked behind validators.
    #[serde(default, rename = "stake")]
    pub stakes: Vec<StakeScenario>,
    /// Miners.
    #[serde(default, rename = "miner")]
    pub miners: Vec<MinerScenario>,
}

const fn tao_weight() -> u64 {
    18
}

const fn tempo() -> u64 {
    360
}

const fn excess() -> Excess {
    Excess::Buy
}

const fn fee() -> u16 {
    DEFAULT_FEE
}

const fn take() -> u64 {
    18
}

impl Scenario {
    /// Reads TOML.
    ///
    /// # Errors
    /// [`SimulationError::Toml`], with the line.
    pub fn parse(text: &str) -> Result<Self, SimulationError> {
        Ok(toml::from_str(text)?)
    }
}
