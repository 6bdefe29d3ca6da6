//! Calls: the ledger's log. Each is stamped with the block that includes it; what a call means is read from the log.

use protocol::{Digest, Domain, Hotkey, Keypair, verify};
use rusqlite::{OptionalExtension, Row, params};

use super::action::{Action, Kind};
use super::db::{Tx, U64};
use super::error::Fault;
use crate::ChainError;

/// A call in its block. Operator's calls have no signer: who may write the file may make them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) block: u64,
    pub(crate) kind: Kind,
    pub(crate) body: Vec<u8>,
    pub(crate) proof: Option<(Hotkey, [u8; 64])>,
}

impl Call {
    /// An action for `block` of the ledger and subnet named, signed.
    pub(crate) fn signed(genesis: &Digest, netuid: u16, block: u64, action: &Action, signer: &Keypair) -> Self {
        let mut call = Self { block, kind: action.kind(), body: action.body(), proof: None };
        call.proof = Some((signer.hotkey(), signer.sign(Domain::Call, &call.message(genesis, netuid).0)));
        call
    }

    /// The bytes that the block's hash binds.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let (signer, signature) = self.proof.map_or((vec![], vec![]), |(signer, signature)| (signer.0.to_vec(), signature.to_vec()));
        [self.kind.name().as_bytes(), b"\0", &signer, &signature, &self.body].concat()
    }

    /// What the signer signs: a digest of ledger, subnet, block, kind and body, as an extrinsic's payload is signed on Substrate.
    fn message(&self, genesis: &Digest, netuid: u16) -> Digest {
        let parts: [&[u8]; 5] = [&genesis.0, &netuid.to_le_bytes(), &self.block.to_le_bytes(), self.kind.name().as_bytes(), &self.body];
        Digest::derive("tributary 2026 ledger call v1", &parts)
    }

    /// Whether the signature, where the kind needs one, is the signer's.
    pub(super) fn is_authentic(&self, tx: &Tx<'_>) -> bool {
        match &self.proof {
            None => self.kind.is_operators(),
            Some((signer, signature)) => {
                let message = self.message(&tx.genesis, tx.config.netuid);
                !self.kind.is_operators() && verify(signer, Domain::Call, &message.0, signature)
            }
        }
    }

    fn signer(&self) -> Option<Hotkey> {
        self.proof.map(|(signer, _)| signer)
    }
}

impl Tx<'_> {
    /// Signs an action for the next block and applies it.
    pub(super) fn submit(&self, signer: &Keypair, action: &Action) -> Result<Option<u16>, Fault> {
        self.apply(&Call::signed(&self.genesis, self.config.netuid, self.next(), action, signer))
    }

    /// Applies an operator's action in the next block.
    pub(super) fn operate(&self, action: &Action) -> Result<Option<u16>, Fault> {
        self.apply(&Call { block: self.next(), kind: action.kind(), body: action.body(), proof: None })
    }

    /// Puts a call into the next block and does what it says; the uid, where it asks for one. A call that is in its block already is
    /// acknowledged and not applied again, so whoever heard no answer may send the same bytes once more.
    pub(super) fn apply(&self, call: &Call) -> Result<Option<u16>, Fault> {
        if !call.is_authentic(self) {
            return Err(ChainError::BadProof(call.signer().unwrap_or(Hotkey([0; 32]))).into());
        }
        let action = Action::parse(call.kind, &call.body).ok_or_else(|| ChainError::MalformedCall(call.kind.name().into()))?;
        if !self.is_included(call)? {
            if call.block != self.next() {
                return Err(ChainError::StaleCall { block: call.block, next: self.next() }.into());
            }
            if self.perform(&action, call.signer())? {
                self.insert(call)?;
            }
        }
        match action {
            Action::Register { hotkey, .. } | Action::BurnedRegister { hotkey } => Ok(self.neuron(&hotkey)?.map(|neuron| neuron.uid)),
            _ => Ok(None),
        }
    }

    /// Changes the state as an action says; false if that is how it is already.
    fn perform(&self, action: &Action, signer: Option<Hotkey>) -> Result<bool, Fault> {
        let signer = || signer.ok_or(ChainError::BadProof(Hotkey([0; 32])));
        let done = |result: Result<(), Fault>| result.map(|()| true);
        match action {
            Action::Bucket(url) => self.set_bucket(&signer()?, url),
            Action::Commit(data) => self.commit(&signer()?, data),
            Action::Weights(row) => done(self.set_weights(signer()?, row)),
            Action::CommitWeights(hash) => done(self.commit_weights(signer()?, hash)),
            Action::RevealWeights { row, salt } => done(self.reveal_weights(signer()?, row, salt)),
            Action::BurnedRegister { hotkey } => self.burned_register(&signer()?, *hotkey),
            Action::AddStake { hotkey, rao } => done(self.add_stake(&signer()?, *hotkey, *rao)),
            Action::RemoveStake { hotkey, rao } => done(self.remove_stake(&signer()?, *hotkey, *rao)),
            Action::Register { hotkey, coldkey } => self.register(*hotkey, *coldkey),
            Action::Endow { hotkey, rao } => done(self.endow(*hotkey, *rao)),
            Action::Fund { coldkey, rao } => done(self.credit(coldkey, *rao)),
        }
    }

    fn insert(&self, call: &Call) -> Result<(), Fault> {
        let (signer, signature) = call.proof.map(|(signer, signature)| (signer.0, signature)).unzip();
        let mut statement = self.conn.prepare_cached(
            "INSERT INTO call (block, idx, kind, signer, body, signature)
             VALUES (?1, (SELECT count(*) FROM call WHERE block = ?1), ?2, ?3, ?4, ?5)",
        )?;
        statement.execute(params![U64(call.block), call.kind.name(), signer, call.body, signature])?;
        Ok(())
    }

    /// Whether these very bytes, the signature's too, are in the call's block.
    fn is_included(&self, call: &Call) -> Result<bool, Fault> {
        let Some((signer, signature)) = call.proof else {
            return Ok(false);
        };
        let mut statement = self
            .conn
            .prepare_cached("SELECT 1 FROM call WHERE kind = ?1 AND signer = ?2 AND block = ?3 AND signature = ?4 AND body = ?5")?;
        Ok(statement.exists(params![call.kind.name(), signer.0, U64(call.block), signature, call.body])?)
    }

    /// The calls that block `number` includes, in order.
    pub(super) fn calls_in(&self, number: u64) -> Result<Vec<Call>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT kind, signer, signature, body FROM call WHERE block = ?1 ORDER BY idx")?;
        let rows = statement.query_map([U64(number)], |row| call_of(row, number))?;
        rows.map(|call| call?.ok_or_else(|| Fault::Damaged(format!("block {number} includes a call of no known kind")))).collect()
    }

    /// The body of the signer's newest call of a kind, in `blocks` from the first to the last.
    pub(super) fn newest(&self, kind: Kind, signer: &Hotkey, (first, last): (u64, u64)) -> Result<Option<Vec<u8>>, Fault> {
        let mut statement = self.conn.prepare_cached(
            "SELECT body FROM call WHERE kind = ?1 AND signer = ?2 AND block BETWEEN ?3 AND ?4 ORDER BY block DESC, idx DESC LIMIT 1",
        )?;
        Ok(statement.query_row(params![kind.name(), signer.0, U64(first), U64(last)], |row| row.get(0)).optional()?)
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

    use crate::ledger::action::VersionedRow;
    use crate::ledger::db::Db;
    use crate::{Blocks, LedgerConfig};

    use super::*;

    fn db(config: impl FnOnce(&mut LedgerConfig)) -> (tempfile::TempDir, Db, Keypair) {
        let dir = tempfile::tempdir().unwrap();
        let owner = Keypair::from_seed(&[1; 32]);
        let mut new = LedgerConfig::new(Blocks::Manual, owner.hotkey());
        config(&mut new);
        let db = Db::create(&dir.path().join("chain.sqlite"), &new).unwrap();
        (dir, db, owner)
    }

    fn sign(db: &Db, signer: &Keypair, block: u64, action: &Action) -> Call {
        Call::signed(&db.genesis, db.config.netuid, block, action, signer)
    }

    #[test]
    fn nobody_calls_in_another_name() {
        let (_dir, mut db, owner) = db(|_| {});
        let thief = Keypair::from_seed(&[2; 32]);
        let call = sign(&db, &owner, 1, &Action::Commit(b"x".to_vec()));
        let (_, by_thief) = sign(&db, &thief, 1, &Action::Commit(b"x".to_vec())).proof.unwrap();
        let forgeries = [
            Call { proof: None, ..call.clone() },
            Call { proof: Some((owner.hotkey(), by_thief)), ..call.clone() },
            Call { proof: Some((owner.hotkey(), [0; 64])), ..call.clone() },
            // a right signature holds for its own block, kind and bytes alone
            Call { block: 2, ..call.clone() },
            Call { body: b"y".to_vec(), ..call.clone() },
            Call { kind: Kind::Bucket, ..call.clone() },
            // what only the operator may do has no signature that could make it right
            sign(&db, &owner, 1, &Action::Fund { coldkey: owner.hotkey(), rao: 1 }),
        ];
        for forgery in forgeries {
            assert!(matches!(db.write(|tx| tx.apply(&forgery)), Err(ChainError::BadProof(_))), "{forgery:?}");
        }
        db.write(|tx| tx.apply(&call)).unwrap();
        assert_eq!(db.read(|tx| Ok(tx.calls_in(1)?.len())).unwrap(), 1);
    }

    #[test]
    fn a_call_is_applied_once_however_often_it_comes() {
        let (_dir, mut db, owner) = db(|_| {});
        db.write(|tx| tx.operate(&Action::Fund { coldkey: owner.hotkey(), rao: 100 })).unwrap();
        let action = Action::AddStake { hotkey: owner.hotkey(), rao: 10 };
        let (call, again) = (sign(&db, &owner, 1, &action), sign(&db, &owner, 1, &action));
        for call in [&call, &call, &again] {
            db.write(|tx| tx.apply(call)).unwrap();
        }
        db.write(|tx| tx.produce_until(5)).unwrap();
        db.write(|tx| tx.apply(&call)).unwrap();
        assert_eq!(db.read(|tx| tx.balance(&owner.hotkey(), 5)).unwrap(), 80, "two signatures are two calls");
        let late = sign(&db, &owner, 5, &action);
        assert!(matches!(db.write(|tx| tx.apply(&late)), Err(ChainError::StaleCall { block: 5, next: 6 })));
        let early = sign(&db, &owner, 7, &action);
        assert!(matches!(db.write(|tx| tx.apply(&early)), Err(ChainError::StaleCall { block: 7, next: 6 })));
    }

    #[test]
    fn weights_of_an_older_version_are_refused() {
        let (_dir, mut db, owner) = db(|config| config.version_key = 7);
        let mut set = |version_key| {
            let row = VersionedRow { version_key, weights: vec![(0, 1)] };
            db.write(|tx| tx.submit(&owner, &Action::Weights(row)))
        };
        assert!(matches!(set(6), Err(ChainError::IncorrectWeightVersionKey)));
        set(7).unwrap();
    }
}
