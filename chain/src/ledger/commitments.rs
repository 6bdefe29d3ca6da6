//! Buckets' addresses and commitments: small public bytes of registered hotkeys.

use std::collections::BTreeMap;

use protocol::Hotkey;
use rusqlite::params;

use super::action::Kind;
use super::db::{Tx, U64};
use super::error::Fault;
use crate::{ChainError, Commitment, MAX_BUCKET_URL, MAX_COMMITMENT};

/// Where a page of commitments begins and ends, and how many it may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// Block and index of the first call that may be on it.
    pub(crate) start: (u64, u32),
    /// The last block.
    pub(crate) end: u64,
    /// The most entries.
    pub(crate) limit: u32,
}

impl Tx<'_> {
    fn may_commit(&self, hotkey: &Hotkey) -> Result<(), Fault> {
        match self.neuron(hotkey)? {
            Some(_) => Ok(()),
            None => Err(ChainError::AccountNotAllowedCommit { hotkey: *hotkey, netuid: self.config.netuid }.into()),
        }
    }

    /// Whether the address is new.
    pub(super) fn set_bucket(&self, signer: &Hotkey, url: &str) -> Result<bool, Fault> {
        if url.is_empty() || url.len() > MAX_BUCKET_URL || !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ChainError::BucketUrl { bytes: url.len(), most: MAX_BUCKET_URL }.into());
        }
        self.may_commit(signer)?;
        Ok(self.newest(Kind::Bucket, signer, (0, self.next()))?.as_deref() != Some(url.as_bytes()))
    }

    pub(super) fn buckets(&self) -> Result<Vec<(Hotkey, String)>, Fault> {
        let mut statement = self.conn.prepare_cached(
            "SELECT signer, body FROM call WHERE kind = 'bucket' AND signer IS NOT NULL AND block <= ?1 ORDER BY block, idx",
        )?;
        let rows = statement.query_map([U64(self.head.number)], |row| Ok((Hotkey(row.get(0)?), row.get::<_, Vec<u8>>(1)?)))?;
        let newest: BTreeMap<_, _> = rows.collect::<Result<_, _>>()?;
        Ok(newest.into_iter().map(|(hotkey, url)| (hotkey, String::from_utf8_lossy(&url).into_owned())).collect())
    }

    /// Whether the signer did not commit to these bytes before.
    pub(super) fn commit(&self, signer: &Hotkey, data: &[u8]) -> Result<bool, Fault> {
        if data.is_empty() || data.len() > MAX_COMMITMENT {
            return Err(ChainError::SpaceLimitExceeded(data.len()).into());
        }
        self.may_commit(signer)?;
        let mut statement = self.conn.prepare_cached("SELECT 1 FROM call WHERE kind = 'commit' AND signer = ?1 AND body = ?2")?;
        Ok(!statement.exists(params![signer.0, data])?)
    }

    /// The commitments of a page up to the head, in the chain's order.
    pub(super) fn commitments(&self, page: Page) -> Result<Vec<Commitment>, Fault> {
        let mut statement = self.conn.prepare_cached(
            "SELECT block, idx, signer, body FROM call
             WHERE (block, idx) >= (?1, ?2) AND block <= ?3 AND kind = 'commit' ORDER BY block, idx LIMIT ?4",
        )?;
        let (block, index) = page.start;
        let rows = statement.query_map(params![U64(block), index, U64(page.end.min(self.head.number)), page.limit], |row| {
            Ok(Commitment { block: row.get::<_, U64>(0)?.0, index: row.get(1)?, hotkey: Hotkey(row.get(2)?), data: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
