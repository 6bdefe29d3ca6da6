//! What client and server agree on.

use std::time::Duration;

use protocol::{Digest, Hotkey};
use serde::{Deserialize, Serialize};

use crate::ledger::action::Kind;
use crate::ledger::calls::Call;

/// The longest request body: a full row of weights with a long salt, in hex.
pub(super) const MAX_CALL_BYTES: usize = 64 << 10;
/// The longest answer that a client reads.
pub(super) const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The most commitments in one answer.
pub(super) const MAX_COMMITMENTS: u32 = 1_000;
/// How long an answer may wait for the next block.
pub(super) const LONG_POLL: Duration = Duration::from_secs(20);
/// How long a request may take, its body and a long poll included.
pub(super) const REQUEST: Duration = Duration::from_secs(30);

/// A call on its way to the server. The signature holds for this genesis, subnet and block alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignedCall {
    pub(super) genesis: Digest,
    pub(super) netuid: u16,
    pub(super) block: u64,
    pub(super) kind: String,
    #[serde(with = "hex::serde")]
    pub(super) body: Vec<u8>,
    pub(super) signer: Hotkey,
    #[serde(with = "hex::serde")]
    pub(super) signature: [u8; 64],
}

impl SignedCall {
    /// `None` for a call without a signature.
    pub(super) fn new(genesis: Digest, netuid: u16, call: Call) -> Option<Self> {
        let (signer, signature) = call.proof?;
        Some(Self { genesis, netuid, block: call.block, kind: call.kind.name().into(), body: call.body, signer, signature })
    }

    /// `None` for a kind that does not exist.
    pub(super) fn into_call(self) -> Option<Call> {
        let kind = Kind::of(&self.kind)?;
        Some(Call { block: self.block, kind, body: self.body, proof: Some((self.signer, self.signature)) })
    }
}
