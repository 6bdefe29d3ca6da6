//! What can go wrong between this client and a node, sorted by what to do about it.

use std::fmt::Display;

use subxt::error::{
    BackendError, EventsError, ExtrinsicError, OnlineClientAtBlockError, OnlineClientError, RpcError, RuntimeApiError, StorageError,
    StorageValueError,
};

use subxt::ext::frame_decode::extrinsics::{ExtrinsicEncodeError, ExtrinsicInfoError};
use subxt::ext::frame_decode::runtime_apis::{RuntimeApiInfoError, RuntimeApiInputsEncodeError};
use subxt::ext::frame_decode::storage::StorageInfoError;

use crate::ChainError;

/// A failure on the way to an answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection or the node failed: another node, or this one later, may answer.
    Node(String),
    /// The node answered that it refuses the request.
    Refused {
        /// JSON-RPC's code.
        code: i32,
        /// The node's words, and its data where it sent some.
        message: String,
    },
    /// The node no longer has the state of a block.
    Pruned,
    /// A name that the node's runtime does not have.
    Missing(String),
    /// Bytes that do not decode as the metadata says, or values that do not encode so.
    Codec(String),
    /// An answer for the caller, not a failure of the node.
    Answer(Box<ChainError>),
}

impl Fault {
    /// Whether another node may do better.
    pub(super) fn is_nodes(&self) -> bool {
        matches!(self, Self::Node(_) | Self::Pruned)
    }

    pub(super) fn codec(error: impl Display) -> Self {
        Self::Codec(error.to_string())
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(reason) => f.write_str(reason),
            Self::Refused { code, message } => write!(f, "it refuses the request: {message} ({code})"),
            Self::Pruned => f.write_str("it is pruned and no longer has the state of that block; an archive node has"),
            Self::Missing(what) => write!(f, "{what} is not in its runtime"),
            Self::Codec(reason) => write!(f, "its answer and its metadata differ: {reason}"),
            Self::Answer(error) => error.fmt(f),
        }
    }
}

impl From<ChainError> for Fault {
    fn from(error: ChainError) -> Self {
        Self::Answer(Box::new(error))
    }
}

/// How nodes say that they have discarded a block's state.
const DISCARDED: [&str; 3] = ["state already discarded", "unknownblock", "state pruned"];

impl From<subxt::rpcs::Error> for Fault {
    fn from(error: subxt::rpcs::Error) -> Self {
        match error {
            subxt::rpcs::Error::User(error) => {
                let data = error.data.map(|data| format!(" {}", data.get())).unwrap_or_default();
                let message = format!("{}{data}", error.message);
                let plain = message.to_lowercase();
                match DISCARDED.iter().any(|word| plain.contains(word)) {
                    true => Self::Pruned,
                    false => Self::Refused { code: error.code, message },
                }
            }
            other => Self::Node(other.to_string()),
        }
    }
}

impl From<BackendError> for Fault {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Rpc(RpcError::ClientError(error)) => error.into(),
            other => Self::Node(other.to_string()),
        }
    }
}

impl From<OnlineClientError> for Fault {
    fn from(error: OnlineClientError) -> Self {
        match error {
            OnlineClientError::RpcError(error) => error.into(),
            OnlineClientError::CannotGetGenesisHash(error) => error.into(),
            other => Self::Node(other.to_string()),
        }
    }
}

impl From<OnlineClientAtBlockError> for Fault {
    fn from(error: OnlineClientAtBlockError) -> Self {
        use OnlineClientAtBlockError as E;
        match error {
            E::CannotGetCurrentBlock { reason }
            | E::CannotGetBlockHash { reason, .. }
            | E::CannotGetBlockHeader { reason, .. }
            | E::CannotGetSpecVersion { reason, .. } => reason.into(),
            E::BlockNotFound { .. } | E::BlockHeaderNotFound { .. } => Self::Pruned,
            // subxt says no more than this text about a failed request for metadata
            E::CannotGetMetadata { .. } => Self::Node(error.to_string()),
            other => Self::codec(other),
        }
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        use StorageError as E;
        match error {
            E::CannotFetchValue(error) | E::CannotIterateValues(error) | E::StreamFailure(error) => error.into(),
            E::PalletNameNotFound(pallet) => Self::Missing(format!("pallet {pallet}")),
            E::StorageEntryNotFound { pallet_name, entry_name } => Self::Missing(format!("{pallet_name}.{entry_name}")),
            E::StorageInfoError(StorageInfoError::PalletNotFound { pallet_name }) => Self::Missing(format!("pallet {pallet_name}")),
            E::StorageInfoError(StorageInfoError::StorageNotFound { name, pallet_name }) => Self::Missing(format!("{pallet_name}.{name}")),
            other => absent_or_codec(&other),
        }
    }
}

impl From<RuntimeApiError> for Fault {
    fn from(error: RuntimeApiError) -> Self {
        use RuntimeApiError as E;
        match error {
            E::CannotCallApi(error) => error.into(),
            E::TraitNotFound(name) => Self::Missing(format!("runtime API {name}")),
            E::MethodNotFound { trait_name, method_name } => Self::Missing(format!("{trait_name}.{method_name}")),
            E::CouldNotEncodeInputs(RuntimeApiInputsEncodeError::CannotGetInfo(absent)) => match absent {
                RuntimeApiInfoError::TraitNotFound { trait_name } => Self::Missing(format!("runtime API {trait_name}")),
                RuntimeApiInfoError::MethodNotFound { trait_name, method_name } => Self::Missing(format!("{trait_name}.{method_name}")),
                other => Self::codec(other),
            },
            other => absent_or_codec(&other),
        }
    }
}

impl From<ExtrinsicError> for Fault {
    fn from(error: ExtrinsicError) -> Self {
        use ExtrinsicError as E;
        match error {
            E::CannotGetBlockBody(error) | E::ErrorSubmittingTransaction(error) => error.into(),
            E::PalletNameNotFound(pallet) => Self::Missing(format!("pallet {pallet}")),
            E::CallNameNotFound { pallet_name, call_name } => Self::Missing(format!("{pallet_name}.{call_name}")),
            E::BlockNotFound(_) => Self::Pruned,
            E::EncodeError(ExtrinsicEncodeError::CannotGetInfo(absent)) => match absent {
                ExtrinsicInfoError::PalletNotFoundByName { name } => Self::Missing(format!("pallet {name}")),
                ExtrinsicInfoError::CallNotFoundByName { pallet_name, call_name, .. } => {
                    Self::Missing(format!("{pallet_name}.{call_name}"))
                }
                other => Self::codec(other),
            },
            other => absent_or_codec(&other),
        }
    }
}

/// subxt tells some names that the metadata lacks in words only.
fn absent_or_codec(error: &impl Display) -> Fault {
    let message = error.to_string();
    let absent = ["not found: ", "` not found", "does not exist on type"].iter().any(|words| message.contains(words));
    if absent { Fault::Missing(format!("something asked for ({message})")) } else { Fault::Codec(message) }
}

impl From<EventsError> for Fault {
    fn from(error: EventsError) -> Self {
        match error {
            EventsError::CannotFetchEventBytes(error) => error.into(),
            other => Self::codec(other),
        }
    }
}

impl From<StorageValueError> for Fault {
    fn from(error: StorageValueError) -> Self {
        Self::codec(error)
    }
}

impl From<subxt::error::DecodeError> for Fault {
    fn from(error: subxt::error::DecodeError) -> Self {
        Self::codec(error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn from_node(code: i32, message: &str) -> Fault {
        let json = serde_json::json!({ "code": code, "message": message });
        subxt::rpcs::Error::User(serde_json::from_value(json).unwrap()).into()
    }

    #[test]
    fn a_pruned_node_is_told_from_one_that_refuses() {
        let pruned = from_node(4003, "Client error: Api called for an unknown Block: State already discarded for 0xab");
        assert!(matches!(pruned, Fault::Pruned) && pruned.is_nodes());
        let refused = from_node(1010, "Invalid Transaction");
        assert!(matches!(&refused, Fault::Refused { code: 1010, .. }) && !refused.is_nodes());
    }
}
