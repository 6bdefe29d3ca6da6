//! What a ledger is created with. All of it is bound by the genesis hash.

use std::time::{Duration, SystemTime};

use protocol::{Digest, Hotkey};
use serde::{Deserialize, Serialize};

use super::LedgerError;
use super::burn::Burn;
use crate::{Block, MAX_SUPPLY, RAO_PER_TAO, yuma};

/// The most uids; consensus is quadratic in their number.
const MAX_UIDS: u16 = 1024;

/// Time from block to block where blocks do not follow the wall clock: Subtensor's 12 seconds.
pub const VIRTUAL_BLOCK_MS: u64 = 12_000;

/// Where blocks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blocks {
    /// The wall clock: one each `block_ms`, whether or not anybody looks.
    Wall {
        /// Milliseconds from block to block.
        block_ms: u64,
    },
    /// Virtual time: the next one appears when every live participant waits for it.
    Lockstep,
    /// By hand: only [`Ledger::advance`](super::Ledger::advance) makes them.
    Manual,
}

/// A new ledger's configuration; [`LedgerConfig::new`] gives Subtensor's defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerConfig {
    /// Where blocks come from.
    pub blocks: Blocks,
    /// Time of block 0, in milliseconds since 1970.
    pub start_ms: u64,
    /// The number of the one subnet.
    pub netuid: u16,
    /// The subnet owner's hotkey, which gets uid 0.
    pub owner: Hotkey,
    /// The subnet owner's coldkey.
    pub owner_coldkey: Hotkey,
    /// Blocks from epoch to epoch: block b ends with an epoch if `tempo` divides b.
    pub tempo: u64,
    /// Blocks between two weight settings of one uid.
    pub weights_rate_limit: u64,
    /// What rows of weights must name at least; 0 asks for nothing.
    pub version_key: u64,
    /// The fewest entries of a row, or all uids where there are fewer.
    pub min_allowed_weights: u16,
    /// The largest share of a row that one entry may have, of 65,535.
    pub max_weight_limit: u16,
    /// Epochs from committing a row by its hash to revealing it; `None` if rows are set in the open.
    pub reveal_period: Option<u64>,
    /// How many uids there can be.
    pub max_uids: u16,
    /// Blocks after its registration in which a uid is not replaced, unless all are as young.
    pub immunity_period: u64,
    /// The price of a registration.
    pub burn: Burn,
    /// What a validator's coldkey keeps of dividends before stakers share the rest, of 65,535.
    pub take: u16,
    /// Rao that each block creates.
    pub emission_per_block: u64,
    /// Parameters of consensus, stake threshold and number of permits among them.
    pub yuma: yuma::Params,
}

impl LedgerConfig {
    /// Subtensor's defaults, from now on: netuid 1, tempo 360, rate limit 100, 256 uids, immunity of 4,096 blocks, a take of 18 %, one TAO per
    /// block; weights in the open; and `owner` as its own coldkey.
    pub fn new(blocks: Blocks, owner: Hotkey) -> Self {
        Self {
            blocks,
            start_ms: now_ms(),
            netuid: 1,
            owner,
            owner_coldkey: owner,
            tempo: 360,
            weights_rate_limit: 100,
            version_key: 0,
            min_allowed_weights: 1,
            max_weight_limit: u16::MAX,
            reveal_period: None,
            max_uids: 256,
            immunity_period: 4_096,
            burn: Burn::default(),
            take: 11_796,
            emission_per_block: RAO_PER_TAO,
            yuma: yuma::Params::default(),
        }
    }

    /// Refuses what would make the ledger's arithmetic meaningless.
    pub(super) fn validate(&self) -> Result<(), LedgerError> {
        let refuse = |wrong, what| if wrong { Err(LedgerError::Config(what)) } else { Ok(()) };
        refuse(self.tempo == 0, "a tempo of 0 blocks")?;
        refuse(self.blocks == Blocks::Wall { block_ms: 0 }, "blocks of 0 ms")?;
        refuse(self.yuma.max_validators == 0, "0 validators")?;
        refuse(!(1..=MAX_UIDS).contains(&self.max_uids), "0 uids, or more than 1,024")?;
        refuse(self.max_weight_limit == 0, "a limit of 0 on every weight")?;
        refuse(self.reveal_period.is_some_and(|period| !(1..=100).contains(&period)), "a reveal period other than 1 to 100 epochs")?;
        let Burn { start, min, max, interval, target } = self.burn;
        refuse(interval == 0 || target == 0, "a burn that adapts over 0 blocks or to 0 registrations")?;
        refuse(min > start || start > max || max > MAX_SUPPLY, "a burn outside its bounds, or bounds beyond the supply")?;
        refuse(self.yuma.bonds_moving_average > 1_000_000, "a bonds moving average above 1,000,000 millionths")
    }

    /// The configuration as stored and hashed.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and integers can be written")
    }

    /// Hash of block 0 for a stored configuration.
    pub(super) fn genesis(json: &str) -> Digest {
        Digest::derive("tributary 2026 ledger genesis v1", &[json.as_bytes()])
    }

    /// The time of block `number`.
    pub(super) fn time_ms(&self, number: u64) -> u64 {
        let block_ms = match self.blocks {
            Blocks::Wall { block_ms } => block_ms,
            Blocks::Lockstep | Blocks::Manual => VIRTUAL_BLOCK_MS,
        };
        self.start_ms.saturating_add(number.saturating_mul(block_ms))
    }

    /// The block that the wall clock has reached; 0 where blocks do not follow it.
    pub(super) fn wall_block(&self) -> u64 {
        match self.blocks {
            Blocks::Wall { block_ms } => now_ms().saturating_sub(self.start_ms) / block_ms,
            Blocks::Lockstep | Blocks::Manual => 0,
        }
    }

    /// How long to sleep until the block after `head` is due by the wall clock, if blocks follow it; at most a second, as the clock may be set.
    pub(super) fn until_next(&self, head: &Block) -> Option<Duration> {
        let due = || self.time_ms(head.number + 1).saturating_sub(now_ms());
        matches!(self.blocks, Blocks::Wall { .. }).then(|| Duration::from_millis(due().clamp(1, 1_000)))
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
