//! Calls: the ledger's log. Each is stamped with the block that includes it; what a call means is read from the log.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use protocol::{Digest, Domain, Hotkey, Keypair, verify};
use rusqlite::{OptionalExtension, Row, params};

use super::db::{Tx, U64};
use super::error::Fault;
use crate::{ChainError, Commitment, MAX_BUCKET_URL, MAX_COMMITMENT, Neuron};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A bucket's address; signed.
    Bucket,
    /// A commitment's bytes; signed.
    Commit,
    /// (uid, weight) pairs, each two u16 LE; signed.
    Weights,
    /// Hotkey ‖ coldkey, by the operator.
    Register,
    /// Hotkey ‖ rao u64 LE, by the operator.
    Stake,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Bucket, Self::Commit, Self::Weights, Self::Register, Self::Stake];

    fn name(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Commit => "commit",
            Self::Weights => "weights",
            Self::Register => "register",
            Self::Stake => "stake",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A call in its block. Operator's calls have no signer: who may write the file may make them.
#[derive(Clone, Debug)]
pub(super) struct Call {
    block: u64,
    kind: Kind,
    body: Vec<u8>,
    proof: Option<(Hotkey, [u8; 64])>,
}

impl Call {
    /// The bytes that the block's hash binds.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let (signer, signature) = self.proof.map_or((vec![], vec![]), |(signer, signature)| (signer.0.to_vec(), signature.to_vec()));
        [self.kind.name().as_bytes(), b"\0", &signer, &signature, &self.body].concat()
    }

    /// What the signer signs: a digest of ledger, subnet, block, kind and body, as an extrinsic's payload is signed on Substrate.
    fn message(&self, tx: &Tx<'_>) -> Digest {
        let netuid = tx.config.netuid.to_le_bytes();
        let parts: [&[u8]; 5] = [&tx.genesis.0, &netuid, &self.block.to_le_bytes(), self.kind.name().as_bytes(), &self.body];
        Digest::derive("tributary 2026 ledger call v1", &parts)
    }

    /// Whether the signature, where the kind needs one, is the signer's.
    pub(super) fn is_authentic(&self, tx: &Tx<'_>) -> bool {
        match (self.kind, &self.proof) {
            (Kind::Register | Kind::Stake, proof) => proof.is_none(),
            (_, Some((signer, signature))) => verify(signer, Domain::Call, &self.message(tx).0, signature),
            (_, None) => false,
        }
    }
}

/// Weights as a call's body.
fn encode(weights: &[(u16, u16)]) -> Vec<u8> {
    weights.iter().flat_map(|(uid, weight)| [uid.to_le_bytes(), weight.to_le_bytes()]).flatten().collect()
}

fn decode(body: &[u8]) -> Vec<(u16, u16)> {
    body.as_chunks::<4>().0.iter().map(|&[a, b, c, d]| (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))).collect()
}

impl Tx<'_> {
    /// Puts a call into the next block, if its signature holds.
    fn insert(&self, call: &Call) -> Result<(), Fault> {
        if !call.is_authentic(self) {
            let signer = call.proof.map_or(Hotkey([0; 32]), |(signer, _)| signer);
            return Err(ChainError::BadProof(signer).into());
        }
        let (signer, signature) = call.proof.map(|(signer, signature)| (signer.0, signature)).unzip();
        let mut statement = self.conn.prepare_cached(
            "INSERT INTO call (block, idx, kind, signer, body, signature)
             VALUES (?1, (SELECT count(*) FROM call WHERE block = ?1), ?2, ?3, ?4, ?5)",
        )?;
        statement.execute(params![U64(call.block), call.kind.name(), signer, call.body, signature])?;
        Ok(())
    }

    /// Puts an operator's call into the next block.
    pub(super) fn operate(&self, kind: Kind, body: Vec<u8>) -> Result<(), Fault> {
        self.insert(&Call { block: self.next(), kind, body, proof: None })
    }

    fn submit(&self, signer: &Keypair, kind: Kind, body: &[u8]) -> Result<(), Fault> {
        let mut call = Call { block: self.next(), kind, body: body.to_vec(), proof: None };
        call.proof = Some((signer.hotkey(), signer.sign(Domain::Call, &call.message(self).0)));
        self.insert(&call)
    }

    /// The calls that block `number` includes, in order.
    pub(super) fn calls_in(&self, number: u64) -> Result<Vec<Call>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT kind, signer, signature, body FROM call WHERE block = ?1 ORDER BY idx")?;
        let rows = statement.query_map([U64(number)], |row| call_of(row, number))?;
        rows.map(|call| call?.ok_or_else(|| Fault::Damaged(format!("block {number} includes a call of no known kind")))).collect()
    }

    /// The body of the signer's newest call of a kind, up to `block`.
    fn newest(&self, kind: Kind, signer: &Hotkey, block: u64) -> Result<Option<Vec<u8>>, Fault> {
        let mut statement = self.conn.prepare_cached(
            "SELECT body FROM call WHERE kind = ?1 AND signer = ?2 AND block <= ?3 ORDER BY block DESC, idx DESC LIMIT 1",
        )?;
        Ok(statement.query_row(params![kind.name(), signer.0, U64(block)], |row| row.get(0)).optional()?)
    }

    fn may_commit(&self, hotkey: Hotkey) -> Result<(), Fault> {
        match self.neuron(&hotkey)? {
            Some(_) => Ok(()),
            None => Err(ChainError::AccountNotAllowedCommit { hotkey, netuid: self.config.netuid }.into()),
        }
    }

    pub(super) fn set_bucket(&self, signer: &Keypair, url: &str) -> Result<(), Fault> {
        if url.is_empty() || url.len() > MAX_BUCKET_URL || !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ChainError::BucketUrl { bytes: url.len(), most: MAX_BUCKET_URL }.into());
        }
        self.may_commit(signer.hotkey())?;
        if self.newest(Kind::Bucket, &signer.hotkey(), self.next())?.as_deref() == Some(url.as_bytes()) {
            return Ok(());
        }
        self.submit(signer, Kind::Bucket, url.as_bytes())
    }

    pub(super) fn buckets(&self) -> Result<Vec<(Hotkey, String)>, Fault> {
        let mut statement = self.conn.prepare_cached(
            "SELECT signer, body FROM call WHERE kind = 'bucket' AND signer IS NOT NULL AND block <= ?1 ORDER BY block, idx",
        )?;
        let rows = statement.query_map([U64(self.head.number)], |row| Ok((Hotkey(row.get(0)?), row.get::<_, Vec<u8>>(1)?)))?;
        let newest: BTreeMap<_, _> = rows.collect::<Result<_, _>>()?;
        Ok(newest.into_iter().map(|(hotkey, url)| (hotkey, String::from_utf8_lossy(&url).into_owned())).collect())
    }

    pub(super) fn commit(&self, signer: &Keypair, data: &[u8]) -> Result<(), Fault> {
        if data.is_empty() || data.len() > MAX_COMMITMENT {
            return Err(ChainError::SpaceLimitExceeded(data.len()).into());
        }
        self.may_commit(signer.hotkey())?;
        let mut statement = self.conn.prepare_cached("SELECT 1 FROM call WHERE kind = 'commit' AND signer = ?1 AND body = ?2")?;
        if statement.exists(params![signer.hotkey().0, data])? {
            return Ok(());
        }
        self.submit(signer, Kind::Commit, data)
    }

    pub(super) fn commitments(&self, blocks: &RangeInclusive<u64>) -> Result<Vec<Commitment>, Fault> {
        let last = (*blocks.end()).min(self.head.number);
        let mut statement = self.conn.prepare_cached(
            "SELECT block, idx, signer, body FROM call WHERE block BETWEEN ?1 AND ?2 AND kind = 'commit' ORDER BY block, idx",
        )?;
        let rows = statement.query_map([U64(*blocks.start()), U64(last)], |row| {
            Ok(Commitment { block: row.get::<_, U64>(0)?.0, index: row.get(1)?, hotkey: Hotkey(row.get(2)?), data: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn set_weights(&self, signer: &Keypair, weights: &[(u16, u16)]) -> Result<(), Fault> {
        let hotkey = signer.hotkey();
        let refused = ChainError::HotKeyNotRegisteredInSubNet { hotkey, netuid: self.config.netuid };
        let mut neuron = self.neuron(&hotkey)?.ok_or(refused)?;
        self.may_weigh(&neuron)?;
        self.check_weights(neuron.uid, weights)?;
        self.submit(signer, Kind::Weights, &encode(weights))?;
        neuron.last_update = self.next();
        self.put_standing(&neuron, self.next())
    }

    /// Stake, permit and rate limit, in the order in which Subtensor checks them.
    fn may_weigh(&self, neuron: &Neuron) -> Result<(), ChainError> {
        let threshold = self.config.yuma.stake_threshold;
        if neuron.stake < threshold && neuron.hotkey != self.config.owner {
            return Err(ChainError::NotEnoughStakeToSetWeights { stake: neuron.stake, threshold });
        }
        if !neuron.permit {
            return Err(ChainError::NeuronNoValidatorPermit(neuron.uid));
        }
        // an update at block 0 is the genesis registration, which limits nobody
        let next = if neuron.last_update == 0 { 0 } else { neuron.last_update.saturating_add(self.config.weights_rate_limit) };
        if self.next() < next {
            return Err(ChainError::SettingWeightsTooFast { uid: neuron.uid, next });
        }
        Ok(())
    }

    fn check_weights(&self, own: u16, weights: &[(u16, u16)]) -> Result<(), Fault> {
        let mut seen = BTreeSet::new();
        let uids = self.uids()?;
        for &(uid, _) in weights {
            if !seen.insert(uid) {
                return Err(ChainError::DuplicateUids(uid).into());
            }
            if uid >= uids {
                return Err(ChainError::UidVecContainInvalidOne(uid).into());
            }
            if uid == own && uid != 0 {
                return Err(ChainError::SelfWeight(uid).into());
            }
        }
        if weights.is_empty() { Err(ChainError::WeightVecLengthIsLow.into()) } else { Ok(()) }
    }

    /// The newest weights of `hotkey` at the head.
    pub(super) fn weights_of(&self, hotkey: &Hotkey) -> Result<Vec<(u16, u16)>, Fault> {
        Ok(decode(&self.newest(Kind::Weights, hotkey, self.head.number)?.unwrap_or_default()))
    }
}

fn call_of(row: &Row<'_>, block: u64) -> rusqlite::Result<Option<Call>> {
    let kind = row.get_ref(0)?.as_str()?;
    let signer: Option<[u8; 32]> = row.get(1)?;
    let proof = signer.map(Hotkey).zip(row.get(2)?);
    let body = row.get(3)?;
    Ok(Kind::of(kind).map(|kind| Call { block, kind, body, proof }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::ledger::db::Db;
    use crate::{Blocks, LedgerConfig};

    use super::*;

    #[test]
    fn nobody_calls_in_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let [owner, thief] = [1, 2].map(|n| Keypair::from_seed(&[n; 32]));
        let mut db = Db::create(&dir.path().join("chain.sqlite"), &LedgerConfig::new(Blocks::Manual, owner.hotkey())).unwrap();
        let mut call = Call { block: 1, kind: Kind::Commit, body: b"x".to_vec(), proof: None };
        let by_thief = db.read(|tx| Ok(thief.sign(Domain::Call, &call.message(tx).0))).unwrap();
        for proof in [None, Some((owner.hotkey(), by_thief)), Some((owner.hotkey(), [0; 64]))] {
            call.proof = proof;
            assert!(matches!(db.write(|tx| tx.insert(&call)), Err(ChainError::BadProof(_))));
        }
        // a right signature holds for its own block and bytes alone
        let by_owner = db.read(|tx| Ok(owner.sign(Domain::Call, &call.message(tx).0))).unwrap();
        call.proof = Some((owner.hotkey(), by_owner));
        for other in
            [Call { block: 2, ..call.clone() }, Call { body: b"y".to_vec(), ..call.clone() }, Call { kind: Kind::Bucket, ..call.clone() }]
        {
            assert!(matches!(db.write(|tx| tx.insert(&other)), Err(ChainError::BadProof(_))));
        }
        db.write(|tx| tx.insert(&call)).unwrap();
        assert_eq!(db.read(|tx| Ok(tx.calls_in(1)?.len())).unwrap(), 1);
    }

    #[test]
    fn weights_survive_their_encoding() {
        let weights = [(0, 65535), (258, 1)];
        assert_eq!(encode(&weights), [0, 0, 255, 255, 2, 1, 1, 0]);
        assert_eq!(decode(&encode(&weights)), weights);
    }
}
