//! Rows of weights: set in the open, or committed by hash and revealed in the epoch that is due.

use protocol::{Digest, Hotkey};
use rusqlite::params;

use super::action::{Action, Kind, VersionedRow};
use super::db::{Tx, U64};
use super::error::Fault;
use crate::weights::{self, IsOwner, check_entries};
use crate::{ChainError, Neuron};

/// The most commits that a hotkey may have open, as on Subtensor.
const MAX_OPEN_COMMITS: usize = 10;

/// A commit that waits for its reveal.
struct OpenCommit {
    id: i64,
    block: u64,
    epoch: u64,
    hash: Digest,
}

impl Tx<'_> {
    pub(super) fn set_weights(&self, signer: Hotkey, row: &VersionedRow) -> Result<(), Fault> {
        if self.config.reveal_period.is_some() {
            return Err(ChainError::CommitRevealEnabled.into());
        }
        let neuron = self.registered(signer)?;
        self.may_weigh(&neuron, row)?;
        if let Some(next) = self.too_fast(&neuron) {
            return Err(ChainError::SettingWeightsTooFast { uid: neuron.uid, next }.into());
        }
        self.check_weights(neuron.uid, &row.weights)?;
        self.touch(neuron)
    }

    pub(super) fn commit_weights(&self, signer: Hotkey, hash: &Digest) -> Result<(), Fault> {
        let period = self.config.reveal_period.ok_or(ChainError::CommitRevealDisabled)?;
        let neuron = self.registered(signer)?;
        if let Some(next) = self.too_fast(&neuron) {
            return Err(ChainError::CommittingWeightsTooFast { uid: neuron.uid, next }.into());
        }
        let (open, expired): (Vec<_>, Vec<_>) =
            self.commits_of(&signer)?.into_iter().partition(|commit| commit.epoch + period >= self.epoch());
        if open.len() >= MAX_OPEN_COMMITS {
            return Err(ChainError::TooManyUnrevealedCommits.into());
        }
        if let Some(last) = expired.last() {
            self.forget_commits(&signer, last.id)?;
        }
        let mut statement = self.conn.prepare_cached("INSERT INTO weights_commit (hotkey, block, hash) VALUES (?1, ?2, ?3)")?;
        statement.execute(params![signer.0, U64(self.next()), hash.0])?;
        self.touch(neuron)
    }

    /// Takes the row of an open commit, and drops the commits before that one.
    pub(super) fn reveal_weights(&self, signer: Hotkey, row: &VersionedRow, salt: &[u16]) -> Result<(), Fault> {
        let period = self.config.reveal_period.ok_or(ChainError::CommitRevealDisabled)?;
        let hash = weights::commitment(&signer, self.config.netuid, &row.weights, salt, row.version_key);
        let (open, expired): (Vec<_>, Vec<_>) =
            self.commits_of(&signer)?.into_iter().partition(|commit| commit.epoch + period >= self.epoch());
        let Some(commit) = open.iter().find(|commit| commit.hash == hash) else {
            return Err(match (expired.iter().any(|commit| commit.hash == hash), open.is_empty()) {
                (true, _) => ChainError::ExpiredWeightCommit,
                (false, true) => ChainError::NoWeightsCommitFound,
                (false, false) => ChainError::InvalidRevealCommitHashNotMatch,
            }
            .into());
        };
        if commit.epoch + period != self.epoch() {
            return Err(ChainError::RevealTooEarly.into());
        }
        let neuron = self.registered(signer)?;
        self.may_weigh(&neuron, row)?;
        self.check_weights(neuron.uid, &row.weights)?;
        self.forget_commits(&signer, commit.id)
    }

    pub(super) fn registered(&self, hotkey: Hotkey) -> Result<Neuron, Fault> {
        let refused = ChainError::HotKeyNotRegisteredInSubNet { hotkey, netuid: self.config.netuid };
        self.neuron(&hotkey)?.ok_or_else(|| refused.into())
    }

    /// The number of the epoch that will take the weights of the next block.
    fn epoch(&self) -> u64 {
        self.epoch_of(self.next())
    }

    fn epoch_of(&self, block: u64) -> u64 {
        block.saturating_sub(1) / self.config.tempo
    }

    /// The unrevealed commits of `hotkey`, oldest first, expired ones too.
    fn commits_of(&self, hotkey: &Hotkey) -> Result<Vec<OpenCommit>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT id, block, hash FROM weights_commit WHERE hotkey = ?1 ORDER BY id")?;
        let rows = statement.query_map([hotkey.0], |row| {
            let block = row.get::<_, U64>(1)?.0;
            Ok(OpenCommit { id: row.get(0)?, block, epoch: self.epoch_of(block), hash: Digest(row.get(2)?) })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Block of the neuron's oldest commit that can still be revealed in the head's epoch or later.
    pub(super) fn oldest_open_commit(&self, neuron: &Neuron) -> Result<Option<u64>, Fault> {
        let Some(period) = self.config.reveal_period else { return Ok(None) };
        let epoch = self.epoch_of(self.head.number);
        let open = self.commits_of(&neuron.hotkey)?.into_iter().filter(|commit| commit.epoch + period >= epoch);
        Ok(open.map(|commit| commit.block).find(|&block| block >= neuron.registered))
    }

    /// Drops the hotkey's commits up to the one of `id`.
    fn forget_commits(&self, hotkey: &Hotkey, id: i64) -> Result<(), Fault> {
        self.conn.prepare_cached("DELETE FROM weights_commit WHERE hotkey = ?1 AND id <= ?2")?.execute(params![hotkey.0, id])?;
        Ok(())
    }

    /// The next block is the neuron's last update.
    fn touch(&self, mut neuron: Neuron) -> Result<(), Fault> {
        neuron.last_update = self.next();
        self.put_standing(&neuron, self.next())
    }

    /// The first block that may take weights or commits of this neuron again, if that is not the next one.
    fn too_fast(&self, neuron: &Neuron) -> Option<u64> {
        // an update at block 0 is the genesis registration, which limits nobody
        let next = if neuron.last_update == 0 { 0 } else { neuron.last_update.saturating_add(self.config.weights_rate_limit) };
        (self.next() < next).then_some(next)
    }

    /// Stake, version key and permit, in the order in which Subtensor checks them.
    fn may_weigh(&self, neuron: &Neuron, row: &VersionedRow) -> Result<(), ChainError> {
        let threshold = self.config.yuma.stake_threshold;
        if neuron.stake < threshold && neuron.hotkey != self.config.owner {
            return Err(ChainError::NotEnoughStakeToSetWeights { stake: neuron.stake, threshold });
        }
        if row.version_key < self.config.version_key {
            return Err(ChainError::IncorrectWeightVersionKey);
        }
        if neuron.permit { Ok(()) } else { Err(ChainError::NeuronNoValidatorPermit(neuron.uid)) }
    }

    fn check_weights(&self, own: u16, weights: &[(u16, u16)]) -> Result<(), Fault> {
        let uids = self.uids()?;
        // uid 0 is the owner's
        check_entries(weights, own, IsOwner(own == 0), uids.into())?;
        // the owner may always weigh itself alone
        let itself = matches!(weights, [(uid, _)] if *uid == own);
        if !itself && weights.len() < usize::from(self.config.min_allowed_weights.min(uids)) {
            return Err(ChainError::WeightVecLengthIsLow.into());
        }
        if itself || within_limit(weights, self.config.max_weight_limit) { Ok(()) } else { Err(ChainError::MaxWeightExceeded.into()) }
    }

    /// The newest weights of a neuron at the head; those of an earlier holder of its hotkey's uid, or of its own earlier registration, are gone.
    pub(super) fn weights_of(&self, neuron: &Neuron) -> Result<Vec<(u16, u16)>, Fault> {
        let kind = if self.config.reveal_period.is_some() { Kind::RevealWeights } else { Kind::Weights };
        let Some(body) = self.newest(kind, &neuron.hotkey, (neuron.registered, self.head.number))? else {
            return Ok(Vec::new());
        };
        match Action::parse(kind, &body) {
            Some(Action::Weights(row) | Action::RevealWeights { row, .. }) => Ok(row.weights),
            _ => Err(Fault::Damaged(format!("the weights of uid {} cannot be read", neuron.uid))),
        }
    }
}

/// Whether no entry's share of the row exceeds `limit` of 65,535; a limit of 65,535 asks for nothing.
fn within_limit(weights: &[(u16, u16)], limit: u16) -> bool {
    let sum: u64 = weights.iter().map(|&(_, weight)| u64::from(weight)).sum();
    let largest = weights.iter().map(|&(_, weight)| u64::from(weight)).max().unwrap_or(0);
    largest * u64::from(u16::MAX) <= sum * u64::from(limit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::ledger::db::Db;
    use crate::{Blocks, LedgerConfig};

    #[test]
    fn a_commit_is_open_until_its_epoch_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let owner = Hotkey([7; 32]);
        let config = LedgerConfig { tempo: 10, reveal_period: Some(1), ..LedgerConfig::new(Blocks::Manual, owner) };
        let mut db = Db::create(&dir.path().join("chain.sqlite"), &config).unwrap();
        let open_at = |db: &mut Db, block: u64| {
            let look = |tx: &mut Tx<'_>| {
                tx.produce_until(block)?;
                tx.oldest_open_commit(&tx.registered(owner)?)
            };
            db.write(look).unwrap()
        };
        assert_eq!(open_at(&mut db, 3), None);
        db.write(|tx| tx.commit_weights(owner, &Digest([1; 32]))).unwrap();
        assert_eq!([4, 20, 21].map(|block| open_at(&mut db, block)), [Some(4), Some(4), None]);
    }

    #[test]
    fn a_share_at_the_limit_is_within_it() {
        let limit = u16::MAX / 5;
        assert!(within_limit(&[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)], limit));
        assert!(!within_limit(&[(0, 2), (1, 1), (2, 1), (3, 1), (4, 1)], limit));
        assert!(within_limit(&[(0, 7)], u16::MAX));
        assert!(within_limit(&[(0, 0)], 1));
    }
}
