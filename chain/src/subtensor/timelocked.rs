//! Weights under a timelock: committed now, opened by the chain itself when a beacon's round has come.

use std::sync::Arc;

use protocol::Keypair;
use subxt::dynamic::{self, Value};

use super::fault::Fault;
use super::node::{At, Node, has_call};
use super::{Call, SUBTENSOR, Subtensor};
use crate::schedule::{Rule, Schedule};
use crate::timelock::{self, BeaconKey, Payload, Version};
use crate::{Block, Chain as _, ChainError, Subnet};

/// The call by which runtimes of 2025 take timelocked weights, in their version 3.
const OLD: &str = "commit_crv3_weights";
/// The call by which later ones do.
const NEW: &str = "commit_timelocked_weights";
/// Blocks from the head within which a commit is expected to be included.
const INCLUSION: u64 = 3;
/// A block's time where the runtime does not say.
const BLOCK_MS: u64 = 12_000;

/// The version of timelocked weights that a runtime takes.
pub(super) async fn version(node: &Node, at: &At) -> Result<Option<u16>, Fault> {
    if !has_call(at, SUBTENSOR, NEW) {
        return Ok(has_call(at, SUBTENSOR, OLD).then_some(3));
    }
    match node.value::<(), u16>(at, SUBTENSOR, "CommitRevealWeightsVersion", ()).await {
        Err(Fault::Missing(_)) => Ok(Some(4)),
        version => version,
    }
}

impl Subtensor {
    /// Uses another beacon than drand's quicknet, as development chains do.
    #[must_use]
    pub fn with_beacon(self, beacon: BeaconKey) -> Self {
        Self { beacon, ..self }
    }

    /// Commits a row under a timelock; returns the block in which the chain should open it.
    pub(super) async fn commit_timelocked(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)]) -> Result<u64, ChainError> {
        let subnet = self.subnet(netuid).await?;
        let rule = subnet.commit_reveal.ok_or_else(|| refused("CommitRevealDisabled", "the subnet takes weights in the open"))?;
        let version = match rule.timelocked {
            Some(4) => Version::V4,
            Some(3) => Version::V3,
            other => {
                let what = format!("timelocked weights of version 3 or 4 (it asks for {other:?})");
                return Err(ChainError::NotInThisRuntime { what, runtime: "the subnet's rule".into() });
            }
        };
        let (schedule, head, block_ms) = self.settled_schedule(netuid).await?;
        let never = || refused("NoEpochs", "the subnet's tempo is 0, so that nothing is ever revealed");
        let expected = head.number + INCLUSION;
        let round = schedule.reveal_round(expected, rule.period, head.time_ms, block_ms).ok_or_else(never)?;
        let payload = Payload { hotkey: signer.hotkey(), weights: weights.to_vec(), version_key: subnet.version_key };
        let sealed = timelock::encrypt(&self.beacon, round, &payload.encode(version))?;
        let block = match self.submit(signer, &self.timelocked_call(&subnet, sealed, round, version).await?).await {
            Ok(block) => block,
            Err(error) => return Err(self.explain(error, netuid, signer.hotkey()).await),
        };
        if schedule.epoch_at(block.number) != schedule.epoch_at(expected) {
            tracing::warn!(block = block.number, expected, "the commit was included an epoch later than foreseen; it is opened later too");
        }
        schedule.opening(block.number, rule.period).ok_or_else(never)
    }

    async fn timelocked_call(&self, subnet: &Subnet, sealed: Vec<u8>, round: u64, version: Version) -> Result<Call, ChainError> {
        let head = &self.link.head();
        let new = self.link.read(|node| async move { Ok(has_call(&node.at(head).await?, SUBTENSOR, NEW)) }).await?;
        let mut arguments = vec![Value::u128(subnet.netuid.into()), Value::from_bytes(sealed), Value::u128(round.into())];
        if new {
            arguments.push(Value::u128(version.number().into()));
        }
        Ok(Call { pallet: SUBTENSOR, name: if new { NEW } else { OLD }, arguments })
    }

    /// The subnet's schedule, once its epoch will not turn before a commit is included.
    async fn settled_schedule(&self, netuid: u16) -> Result<(Schedule, Block, u64), ChainError> {
        loop {
            let head = self.link.head();
            let (schedule, block_ms) = self.schedule(netuid, &head).await?;
            let turns = schedule.epoch_at(head.number + 1) != schedule.epoch_at(head.number + INCLUSION);
            // a tempo shorter than inclusion turns all the time
            if !turns || u64::from(schedule.tempo) <= INCLUSION {
                return Ok((schedule, head, block_ms));
            }
            self.link.next(head.number).await;
        }
    }

    async fn schedule(&self, netuid: u16, block: &Block) -> Result<(Schedule, u64), ChainError> {
        let read = |node: Arc<Node>| async move {
            let at = node.at(block).await?;
            let tempo = node.value::<_, u16>(&at, SUBTENSOR, "Tempo", (netuid,)).await?.unwrap_or(0);
            let rule = match node.value::<_, u64>(&at, SUBTENSOR, "LastEpochBlock", (netuid,)).await {
                Err(Fault::Missing(_)) => Rule::Modulo { netuid },
                last => {
                    let entry = async |name| Ok::<_, Fault>(node.value::<_, u64>(&at, SUBTENSOR, name, (netuid,)).await?.unwrap_or(0));
                    Rule::Stored {
                        last: last?.unwrap_or(0),
                        pending: entry("PendingEpochAt").await?,
                        index: entry("SubnetEpochIndex").await?,
                        since_step: entry("BlocksSinceLastStep").await?,
                    }
                }
            };
            let half = at.constants().entry(dynamic::constant::<u64>("Timestamp", "MinimumPeriod"));
            let block_ms = half.map_or(BLOCK_MS, |half| half.saturating_mul(2).max(1));
            Ok((Schedule { block: block.number, tempo, rule }, block_ms))
        };
        self.link.read(read).await
    }
}

fn refused(name: &str, why: &str) -> ChainError {
    ChainError::Refused { call: format!("{SUBTENSOR}.{NEW}"), name: name.into(), why: why.into() }
}
