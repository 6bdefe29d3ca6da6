//! What `SubnetInfoRuntimeApi.get_metagraph` answers, by the runtime's names.

use parity_scale_codec::{Compact, Encode};
use scale_info::TypeInfo;

use super::types::AccountId32;

#[derive(Clone, Debug, Default, Encode, TypeInfo)]
pub struct Metagraph {
    #[codec(compact)]
    pub netuid: u16,
    pub name: Vec<Compact<u8>>,
    pub owner_hotkey: AccountId32,
    pub owner_coldkey: AccountId32,
    #[codec(compact)]
    pub block: u64,
    #[codec(compact)]
    pub tempo: u16,
    #[codec(compact)]
    pub last_step: u64,
    #[codec(compact)]
    pub blocks_since_last_step: u64,
    #[codec(compact)]
    pub min_allowed_weights: u16,
    #[codec(compact)]
    pub max_weights_limit: u16,
    #[codec(compact)]
    pub weights_version: u64,
    #[codec(compact)]
    pub weights_rate_limit: u64,
    #[codec(compact)]
    pub max_validators: u16,
    #[codec(compact)]
    pub burn: u64,
    #[codec(compact)]
    pub immunity_period: u16,
    pub commit_reveal_weights_enabled: bool,
    #[codec(compact)]
    pub commit_reveal_period: u64,
    pub hotkeys: Vec<AccountId32>,
    pub coldkeys: Vec<AccountId32>,
    pub active: Vec<bool>,
    pub validator_permit: Vec<bool>,
    pub last_update: Vec<Compact<u64>>,
    pub emission: Vec<Compact<u64>>,
    pub dividends: Vec<Compact<u16>>,
    pub incentives: Vec<Compact<u16>>,
    pub block_at_registration: Vec<Compact<u64>>,
    pub total_stake: Vec<Compact<u64>>,
}
