//! The chain's own words for a refusal, as the variants of this crate, which say more.

use protocol::Hotkey;

use super::Subtensor;
use crate::{Chain as _, ChainError, Neuron, Subnet};

impl Subtensor {
    /// Why a call about a hotkey's weights was refused.
    pub(super) async fn explain(&self, error: ChainError, netuid: u16, hotkey: Hotkey) -> ChainError {
        let ChainError::Refused { name, .. } = &error else { return error };
        match name.as_str() {
            "HotKeyNotRegisteredInSubNet" | "HotKeyNotRegisteredInNetwork" | "UidNotFound" => {
                ChainError::HotKeyNotRegisteredInSubNet { hotkey, netuid }
            }
            "WeightVecLengthIsLow" => ChainError::WeightVecLengthIsLow,
            "MaxWeightExceeded" => ChainError::MaxWeightExceeded,
            "IncorrectWeightVersionKey" => ChainError::IncorrectWeightVersionKey,
            "CommitRevealEnabled" => ChainError::CommitRevealEnabled,
            "CommitRevealDisabled" => ChainError::CommitRevealDisabled,
            "TooManyUnrevealedCommits" => ChainError::TooManyUnrevealedCommits,
            "NoWeightsCommitFound" | "CommitNotFound" => ChainError::NoWeightsCommitFound,
            "RevealTooEarly" => ChainError::RevealTooEarly,
            "ExpiredWeightCommit" => ChainError::ExpiredWeightCommit,
            "InvalidRevealCommitHashNotMatch" => ChainError::InvalidRevealCommitHashNotMatch,
            _ => match self.standing(netuid, hotkey).await {
                Some((me, subnet)) => with_standing(error, &me, &subnet),
                None => error,
            },
        }
    }

    async fn standing(&self, netuid: u16, hotkey: Hotkey) -> Option<(Neuron, Subnet)> {
        let neurons = self.neurons(netuid, self.link.head().number).await.ok()?;
        let me = neurons.into_iter().find(|neuron| neuron.hotkey == hotkey)?;
        Some((me, self.subnet(netuid).await.ok()?))
    }

    /// Why a call that takes a coldkey's balance was refused.
    pub(super) async fn explain_payment(&self, error: ChainError, coldkey: Hotkey, needed: u64) -> ChainError {
        let ChainError::Refused { name, .. } = &error else { return error };
        let balance = match self.balance(coldkey).await {
            Ok(balance) => balance,
            Err(_) => return error,
        };
        match name.as_str() {
            "Payment" | "BalanceTooLow" | "NotEnoughBalanceToStake" | "NotEnoughBalance" => {
                ChainError::NotEnoughBalanceToStake { balance, needed }
            }
            "StakeAmountTooLow" | "AmountTooLow" => ChainError::AmountTooLow(needed),
            "NonAssociatedColdKey" => ChainError::NonAssociatedColdKey(coldkey),
            _ => error,
        }
    }
}

/// Refusals that depend on who asks.
fn with_standing(error: ChainError, me: &Neuron, subnet: &Subnet) -> ChainError {
    let ChainError::Refused { name, .. } = &error else { return error };
    let next = me.last_update + subnet.weights_rate_limit;
    match name.as_str() {
        "NeuronNoValidatorPermit" => ChainError::NeuronNoValidatorPermit(me.uid),
        "SettingWeightsTooFast" => ChainError::SettingWeightsTooFast { uid: me.uid, next },
        "CommittingWeightsTooFast" => ChainError::CommittingWeightsTooFast { uid: me.uid, next },
        "NotEnoughStakeToSetWeights" => ChainError::NotEnoughStakeToSetWeights { stake: me.stake, threshold: subnet.stake_threshold },
        _ => error,
    }
}
