//! What calls do, and their bodies' bytes.

use protocol::{Digest, Hotkey};

/// The name of what a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bucket,
    Commit,
    Weights,
    CommitWeights,
    RevealWeights,
    BurnedRegister,
    AddStake,
    RemoveStake,
    Register,
    Endow,
    Fund,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Bucket,
        Self::Commit,
        Self::Weights,
        Self::CommitWeights,
        Self::RevealWeights,
        Self::BurnedRegister,
        Self::AddStake,
        Self::RemoveStake,
        Self::Register,
        Self::Endow,
        Self::Fund,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Commit => "commit",
            Self::Weights => "weights",
            Self::CommitWeights => "commit-weights",
            Self::RevealWeights => "reveal-weights",
            Self::BurnedRegister => "burned-register",
            Self::AddStake => "add-stake",
            Self::RemoveStake => "remove-stake",
            Self::Register => "register",
            Self::Endow => "endow",
            Self::Fund => "fund",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the operator makes such calls, without a signature.
    pub(super) fn is_operators(self) -> bool {
        matches!(self, Self::Register | Self::Endow | Self::Fund)
    }
}

/// A row of weights as (uid, weight), and the version of the rules it was made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionedRow {
    pub(crate) version_key: u64,
    pub(crate) weights: Vec<(u16, u16)>,
}

/// What a call does. Numbers are little-endian in its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A bucket's address, by its hotkey.
    Bucket(String),
    /// A commitment's bytes, by the hotkey.
    Commit(Vec<u8>),
    /// Version key u64 ‖ uid u16, weight u16 of each entry; by the hotkey.
    Weights(VersionedRow),
    /// A hash of 32 bytes, by the hotkey.
    CommitWeights(Digest),
    /// Length of the salt u16 ‖ the salt, each u16 ‖ the row as in weights; by the hotkey.
    RevealWeights { row: VersionedRow, salt: Vec<u16> },
    /// The hotkey, by the coldkey.
    BurnedRegister { hotkey: Hotkey },
    /// Hotkey ‖ rao u64, by the coldkey.
    AddStake { hotkey: Hotkey, rao: u64 },
    /// Hotkey ‖ rao u64, by the coldkey.
    RemoveStake { hotkey: Hotkey, rao: u64 },
    /// Hotkey ‖ coldkey, by the operator.
    Register { hotkey: Hotkey, coldkey: Hotkey },
    /// Hotkey ‖ rao u64, by the operator.
    Endow { hotkey: Hotkey, rao: u64 },
    /// Coldkey ‖ rao u64, by the operator.
    Fund { coldkey: Hotkey, rao: u64 },
}

impl Action {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Bucket(_) => Kind::Bucket,
            Self::Commit(_) => Kind::Commit,
            Self::Weights(_) => Kind::Weights,
            Self::CommitWeights(_) => Kind::CommitWeights,
            Self::RevealWeights { .. } => Kind::RevealWeights,
            Self::BurnedRegister { .. } => Kind::BurnedRegister,
            Self::AddStake { .. } => Kind::AddStake,
            Self::RemoveStake { .. } => Kind::RemoveStake,
            Self::Register { .. } => Kind::Register,
            Self::Endow { .. } => Kind::Endow,
            Self::Fund { .. } => Kind::Fund,
        }
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        match self {
            Self::Bucket(url) => url.clone().into_bytes(),
            Self::Commit(data) => data.clone(),
            Self::Weights(row) => row.to_bytes(),
            Self::CommitWeights(hash) => hash.0.to_vec(),
            Self::RevealWeights { row, salt } => {
                // a salt of more than 65,535 entries does not parse again, and so is refused
                let salted = (salt.len() as u16).to_le_bytes().into_iter().chain(salt.iter().flat_map(|x| x.to_le_bytes()));
                salted.chain(row.to_bytes()).collect()
            }
            Self::BurnedRegister { hotkey } => hotkey.0.to_vec(),
            Self::Register { hotkey, coldkey } => [hotkey.0, coldkey.0].concat(),
            Self::AddStake { hotkey: key, rao }
            | Self::RemoveStake { hotkey: key, rao }
            | Self::Endow { hotkey: key, rao }
            | Self::Fund { coldkey: key, rao } => [&key.0[..], &rao.to_le_bytes()].concat(),
        }
    }

    /// The action of a body; `None` unless it is exactly one.
    pub(crate) fn parse(kind: Kind, body: &[u8]) -> Option<Self> {
        Some(match kind {
            Kind::Bucket => Self::Bucket(String::from_utf8(body.to_vec()).ok()?),
            Kind::Commit => Self::Commit(body.to_vec()),
            Kind::Weights => Self::Weights(VersionedRow::parse(body)?),
            Kind::CommitWeights => Self::CommitWeights(Digest(body.try_into().ok()?)),
            Kind::RevealWeights => {
                let (count, rest) = body.split_first_chunk::<2>()?;
                let (salt, row) = rest.split_at_checked(2 * usize::from(u16::from_le_bytes(*count)))?;
                let salt = salt.as_chunks::<2>().0.iter().map(|x| u16::from_le_bytes(*x)).collect();
                Self::RevealWeights { row: VersionedRow::parse(row)?, salt }
            }
            Kind::BurnedRegister => Self::BurnedRegister { hotkey: Hotkey(body.try_into().ok()?) },
            Kind::Register => {
                let (hotkey, coldkey) = body.split_first_chunk::<32>()?;
                Self::Register { hotkey: Hotkey(*hotkey), coldkey: Hotkey(coldkey.try_into().ok()?) }
            }
            Kind::AddStake | Kind::RemoveStake | Kind::Endow | Kind::Fund => {
                let (key, rao) = body.split_first_chunk::<32>()?;
                let (key, rao) = (Hotkey(*key), u64::from_le_bytes(rao.try_into().ok()?));
                match kind {
                    Kind::AddStake => Self::AddStake { hotkey: key, rao },
                    Kind::RemoveStake => Self::RemoveStake { hotkey: key, rao },
                    Kind::Endow => Self::Endow { hotkey: key, rao },
                    _ => Self::Fund { coldkey: key, rao },
                }
            }
        })
    }
}

impl VersionedRow {
    fn to_bytes(&self) -> Vec<u8> {
        let pairs = self.weights.iter().flat_map(|(uid, weight)| [uid.to_le_bytes(), weight.to_le_bytes()]).flatten();
        self.version_key.to_le_bytes().into_iter().chain(pairs).collect()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (version_key, pairs) = bytes.split_first_chunk::<8>()?;
        let (pairs, rest) = pairs.as_chunks::<4>();
        let weights = pairs.iter().map(|&[a, b, c, d]| (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))).collect();
        rest.is_empty().then_some(Self { version_key: u64::from_le_bytes(*version_key), weights })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn actions() -> impl Strategy<Value = Action> {
        let key = || any::<[u8; 32]>().prop_map(Hotkey);
        let row = || {
            (any::<u64>(), prop::collection::vec(any::<(u16, u16)>(), 0..9))
                .prop_map(|(version_key, weights)| VersionedRow { version_key, weights })
        };
        prop_oneof![
            ".{0,9}".prop_map(Action::Bucket),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Action::Commit),
            row().prop_map(Action::Weights),
            any::<[u8; 32]>().prop_map(|hash| Action::CommitWeights(Digest(hash))),
            (row(), prop::collection::vec(any::<u16>(), 0..9)).prop_map(|(row, salt)| Action::RevealWeights { row, salt }),
            key().prop_map(|hotkey| Action::BurnedRegister { hotkey }),
            (key(), key()).prop_map(|(hotkey, coldkey)| Action::Register { hotkey, coldkey }),
            (key(), any::<u64>()).prop_map(|(hotkey, rao)| Action::AddStake { hotkey, rao }),
            (key(), any::<u64>()).prop_map(|(hotkey, rao)| Action::RemoveStake { hotkey, rao }),
            (key(), any::<u64>()).prop_map(|(hotkey, rao)| Action::Endow { hotkey, rao }),
            (key(), any::<u64>()).prop_map(|(coldkey, rao)| Action::Fund { coldkey, rao }),
        ]
    }

    proptest! {
        #[test]
        fn actions_survive_their_bodies(action in actions()) {
            prop_assert_eq!(Kind::of(action.kind().name()), Some(action.kind()));
            prop_assert_eq!(Action::parse(action.kind(), &action.body()), Some(action));
        }

        #[test]
        fn a_body_has_one_meaning(kind in prop::sample::select(&Kind::ALL[..]), body in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(action) = Action::parse(kind, &body) {
                prop_assert_eq!((action.kind(), action.body()), (kind, body));
            }
        }
    }
}
