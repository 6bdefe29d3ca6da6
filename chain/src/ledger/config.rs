//! What a ledger is created with. All of it is bound by the genesis hash.

use std::time::{Duration, SystemTime};

use protocol::{Digest, Hotkey};
use serde::{Deserialize, Serialize};

use super::LedgerError;
use crate::{Block, RAO_PER_TAO, yuma};

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
    /// Rao that each block creates.
    pub emission_per_block: u64,
    /// Parameters of consensus, stake threshold and number of permits among them.
    pub yuma: yuma::Params,
}

impl LedgerConfig {
    /// Subtensor's defaults, from now on: netuid 1, tempo 360, rate limit 100, one TAO per block, and `owner` as its own coldkey.
    pub fn new(blocks: Blocks, owner: Hotkey) -> Self {
        Self {
            blocks,
            start_ms: now_ms(),
            netuid: 1,
            owner,
            owner_coldkey: owner,
            tempo: 360,
            weights_rate_limit: 100,
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
