//! Blocks: numbers, hashes, and the epoch at the end of each `tempo`-th.

use protocol::Digest;
use rusqlite::{OptionalExtension, Row, params};

use super::calls::Call;
use super::db::{Tx, U64};
use super::error::Fault;
use crate::Block;

pub(super) fn block_of(row: &Row<'_>) -> rusqlite::Result<Block> {
    Ok(Block { number: row.get::<_, U64>(0)?.0, hash: Digest(row.get(1)?), time_ms: row.get::<_, U64>(2)?.0 })
}

/// The hash of the block after `previous`: BLAKE3-derive of its hash, the number, the time and the digest of the calls included.
fn hash(previous: &Digest, number: u64, time_ms: u64, calls: &[Call]) -> Digest {
    let calls: Vec<Vec<u8>> = calls.iter().map(Call::to_bytes).collect();
    let parts: Vec<&[u8]> = calls.iter().map(Vec::as_slice).collect();
    let digest = Digest::derive("tributary 2026 ledger calls v1", &parts);
    Digest::derive("tributary 2026 ledger block v1", &[&previous.0, &number.to_le_bytes(), &time_ms.to_le_bytes(), &digest.0])
}

impl Tx<'_> {
    /// The block that takes what is submitted now.
    pub(super) fn next(&self) -> u64 {
        self.head.number + 1
    }

    pub(super) fn insert_block(&self, block: &Block) -> Result<(), Fault> {
        let mut statement = self.conn.prepare_cached("INSERT INTO block (number, hash, time_ms) VALUES (?1, ?2, ?3)")?;
        statement.execute(params![U64(block.number), block.hash.0, U64(block.time_ms)])?;
        Ok(())
    }

    pub(super) fn block(&self, number: u64) -> Result<Option<Block>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT number, hash, time_ms FROM block WHERE number = ?1")?;
        Ok(statement.query_row([U64(number)], block_of).optional()?)
    }

    /// Makes the blocks up to `number`, if there are any to make.
    pub(super) fn produce_until(&mut self, number: u64) -> Result<(), Fault> {
        while self.head.number < number {
            self.head = self.successor()?;
            self.insert_block(&self.head)?;
            if self.head.number.is_multiple_of(self.config.tempo) {
                self.run_epoch()?;
            }
            if self.head.number.is_multiple_of(self.config.burn.interval) {
                self.adjust_burn()?;
            }
        }
        Ok(())
    }

    fn successor(&self) -> Result<Block, Fault> {
        let number = self.next();
        let time_ms = self.config.time_ms(number);
        Ok(Block { number, time_ms, hash: hash(&self.head.hash, number, time_ms, &self.calls_in(number)?) })
    }

    /// Recomputes every block's hash and verifies every call's signature.
    pub(super) fn audit(&self) -> Result<(), Fault> {
        let damaged = |number: u64, what: &str| Fault::Damaged(format!("block {number} {what}"));
        let mut at =
            Tx { conn: self.conn, config: self.config, genesis: self.genesis, head: Block { number: 0, hash: self.genesis, time_ms: 0 } };
        while at.head.number < self.head.number {
            let number = at.next();
            at.head = at.successor()?;
            if self.block(number)? != Some(at.head) {
                return Err(damaged(number, "is missing, or its hash is not that of what it includes"));
            }
            if !self.calls_in(number)?.iter().all(|call| call.is_authentic(self)) {
                return Err(damaged(number, "includes a call that its signer did not sign"));
            }
        }
        Ok(())
    }
}
