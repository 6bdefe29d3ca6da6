//! Subnets on a development chain, whose root key is at hand: what the demo and the tests against a real runtime set up.

use std::sync::Arc;

use protocol::{Hotkey, Keypair};
use subxt::dynamic::Value;

use super::node::Node;
use super::{Call, SUBTENSOR, Subtensor, account};
use crate::{Chain as _, ChainError};

/// How often a call that came too soon is repeated, a block later each time.
const PATIENCE: u32 = 40;

/// The development key //Alice, root of development chains. Its seed is public: it protects nothing anywhere.
pub fn alice() -> Keypair {
    const SEED: [u8; 32] = *b"\xe5\xbe\x9a\x50\x92\xb8\x1b\xca\x64\xbe\x81\xd2\x12\xe7\xf2\xf9\xeb\xa1\x83\xbb\x7a\x90\x95\x4f\x7b\x76\x36\x1f\x6e\xdb\x5c\x0a";
    Keypair::from_seed(&SEED)
}

/// What a new subnet asks of its neurons.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Blocks from epoch to epoch.
    pub tempo: u16,
    /// Blocks between two weight settings of one uid.
    pub weights_rate_limit: u64,
    /// Whether weights must be committed first.
    pub commit_reveal: bool,
}

impl Subtensor {
    /// Submits a call as root.
    ///
    /// # Errors
    /// As [`Subtensor::submit`]. An error inside the call is an event of the chain's and not told.
    pub async fn sudo(&self, root: &Keypair, name: &'static str, arguments: Vec<Value>) -> Result<(), ChainError> {
        let inner = Call { pallet: "AdminUtils", name, arguments };
        self.submit(root, &Call { pallet: "Sudo", name: "sudo", arguments: vec![inner.into_value()] }).await.map(drop)
    }

    /// Registers a subnet with `owner` as its first hotkey, started and ready for any number of registrations; returns its number.
    ///
    /// # Errors
    /// As [`Subtensor::submit`].
    pub async fn create_subnet(&self, root: &Keypair, owner: Hotkey, rules: Rules) -> Result<u16, ChainError> {
        self.sudo(root, "sudo_set_network_rate_limit", vec![Value::u128(0)]).await?;
        self.sudo(root, "sudo_set_tx_rate_limit", vec![Value::u128(0)]).await?;
        // the price of a subnet doubles with each, and falls back within this many blocks
        for (name, blocks) in [("sudo_set_lock_reduction_interval", 1), ("sudo_set_admin_freeze_window", 0)] {
            match self.sudo(root, name, vec![Value::u128(blocks)]).await {
                // runtimes of 2025 have no freeze
                Err(ChainError::NotInThisRuntime { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        let arguments = vec![account(owner)];
        let block = self.submit(root, &Call { pallet: SUBTENSOR, name: "register_network", arguments }).await?;
        let netuid = self.newest_subnet(block.number).await?;
        let of_subnet = |value: Value| vec![Value::u128(netuid.into()), value];
        let number = |n: u64| Value::u128(n.into());
        for (name, value) in [
            ("sudo_set_tempo", number(rules.tempo.into())),
            ("sudo_set_weights_set_rate_limit", number(rules.weights_rate_limit)),
            ("sudo_set_commit_reveal_weights_enabled", Value::bool(rules.commit_reveal)),
            ("sudo_set_target_registrations_per_interval", number(1000)),
            ("sudo_set_max_registrations_per_block", number(1000)),
        ] {
            self.sudo(root, name, of_subnet(value)).await?;
        }
        self.start(root, netuid).await?;
        Ok(netuid)
    }

    /// Starts a subnet, as soon as the chain lets it.
    async fn start(&self, root: &Keypair, netuid: u16) -> Result<(), ChainError> {
        let call = Call { pallet: SUBTENSOR, name: "start_call", arguments: vec![Value::u128(netuid.into())] };
        for _ in 0..PATIENCE {
            match self.submit(root, &call).await {
                // a block has come with the attempt
                Err(ChainError::Refused { name, .. }) if name.starts_with("NeedWaitingMoreBlocks") => {}
                started => return started.map(drop),
            }
        }
        self.submit(root, &call).await.map(drop)
    }

    async fn newest_subnet(&self, at: u64) -> Result<u16, ChainError> {
        let block = self.block_at(at).await?;
        let read = |node: Arc<Node>| async move { node.value::<(), u16>(&node.at(&block).await?, SUBTENSOR, "TotalNetworks", ()).await };
        // root is subnet 0, so that the newest of n has number n − 1
        Ok(self.link.read(read).await?.unwrap_or(1).saturating_sub(1))
    }

    /// Sends `rao` from one account to another.
    ///
    /// # Errors
    /// As [`Subtensor::submit`].
    pub async fn transfer(&self, from: &Keypair, to: Hotkey, rao: u64) -> Result<(), ChainError> {
        let arguments = vec![Value::unnamed_variant("Id", [account(to)]), Value::u128(rao.into())];
        self.submit(from, &Call { pallet: "Balances", name: "transfer_keep_alive", arguments }).await.map(drop)
    }

    /// Registers `hotkey`, waiting where a block or an interval has taken all the registrations it may.
    ///
    /// # Errors
    /// As [`burned_register`](crate::Chain::burned_register).
    pub async fn register_patiently(&self, coldkey: &Keypair, netuid: u16, hotkey: Hotkey) -> Result<u16, ChainError> {
        for _ in 0..PATIENCE {
            match self.burned_register(coldkey, netuid, hotkey).await {
                Err(ChainError::Refused { name, .. }) if name == "RateLimitExceeded" || name.starts_with("TooManyRegistrations") => {
                    // on a chain that makes blocks of extrinsics only, this one makes one
                    let remark = Call { pallet: "System", name: "remark", arguments: vec![Value::from_bytes([])] };
                    self.submit(coldkey, &remark).await?;
                }
                registered => return registered,
            }
        }
        self.burned_register(coldkey, netuid, hotkey).await
    }
}
