//! Neurons, with the history of their standing: one row per uid and block at which it changed.

use std::collections::BTreeMap;

use protocol::Hotkey;
use rusqlite::{OptionalExtension, Row, params};

use super::db::{Tx, U64};
use super::error::Fault;
use crate::{ChainError, Neuron};

/// Neurons with their newest standing up to block ?1: of a uid's holders the newest, and its newest row.
macro_rules! neurons_sql {
    ($rest:literal) => {
        concat!(
            "SELECT n.uid, hotkey, coldkey, registered, stake, permit, last_update, incentive, dividends, emission
             FROM neuron n JOIN standing s ON s.uid = n.uid
             AND s.block = (SELECT max(block) FROM standing WHERE uid = n.uid AND block <= ?1)
             WHERE registered = (SELECT max(registered) FROM neuron WHERE uid = n.uid AND registered <= ?1) ",
            $rest
        )
    };
}

fn neuron_of(row: &Row<'_>) -> rusqlite::Result<Neuron> {
    Ok(Neuron {
        uid: row.get(0)?,
        hotkey: Hotkey(row.get(1)?),
        coldkey: Hotkey(row.get(2)?),
        registered: row.get::<_, U64>(3)?.0,
        stake: row.get::<_, U64>(4)?.0,
        permit: row.get(5)?,
        last_update: row.get::<_, U64>(6)?.0,
        incentive: row.get(7)?,
        dividends: row.get(8)?,
        emission: row.get::<_, U64>(9)?.0,
    })
}

impl Tx<'_> {
    /// All neurons as of the end of block `at`, by uid; a block after the head shows what is on its way into it.
    pub(super) fn neurons(&self, at: u64) -> Result<Vec<Neuron>, Fault> {
        let mut statement = self.conn.prepare_cached(neurons_sql!("ORDER BY n.uid"))?;
        let rows = statement.query_map([U64(at)], neuron_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The neuron of `hotkey`, with what is on its way into the next block.
    pub(super) fn neuron(&self, hotkey: &Hotkey) -> Result<Option<Neuron>, Fault> {
        let mut statement = self.conn.prepare_cached(neurons_sql!("AND hotkey = ?2"))?;
        Ok(statement.query_row(params![U64(self.next()), hotkey.0], neuron_of).optional()?)
    }

    /// The neuron of `uid` at the head.
    pub(super) fn neuron_at(&self, uid: u16) -> Result<Option<Neuron>, Fault> {
        let mut statement = self.conn.prepare_cached(neurons_sql!("AND n.uid = ?2"))?;
        Ok(statement.query_row(params![U64(self.head.number), uid], neuron_of).optional()?)
    }

    /// How many uids there are, those on their way included.
    pub(super) fn uids(&self) -> Result<u16, Fault> {
        Ok(self.conn.prepare_cached("SELECT count(DISTINCT uid) FROM neuron")?.query_row([], |row| row.get(0))?)
    }

    /// Makes `hotkey` the holder of `uid` from `block` on, with whatever stake is behind it.
    pub(super) fn insert_neuron(&self, uid: u16, hotkey: Hotkey, coldkey: Hotkey, block: u64) -> Result<(), Fault> {
        // a uid may change hands twice on its way into one block: the last holder counts
        let mut statement =
            self.conn.prepare_cached("INSERT OR REPLACE INTO neuron (uid, registered, hotkey, coldkey) VALUES (?1, ?2, ?3, ?4)")?;
        statement.execute(params![uid, U64(block), hotkey.0, coldkey.0])?;
        let permit = hotkey == self.config.owner;
        let (stake, incentive, dividends, emission) = (self.total_stake(&hotkey)?, 0, 0, 0);
        let neuron = Neuron { uid, hotkey, coldkey, stake, permit, registered: block, last_update: block, incentive, dividends, emission };
        self.put_standing(&neuron, block)
    }

    /// Records a neuron's standing from `block` on.
    pub(super) fn put_standing(&self, neuron: &Neuron, block: u64) -> Result<(), Fault> {
        let mut statement = self.conn.prepare_cached(
            "INSERT OR REPLACE INTO standing (uid, block, stake, permit, last_update, incentive, dividends, emission)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        statement.execute(params![
            neuron.uid,
            U64(block),
            U64(neuron.stake),
            neuron.permit,
            U64(neuron.last_update),
            neuron.incentive,
            neuron.dividends,
            U64(neuron.emission),
        ])?;
        Ok(())
    }

    /// Gives `hotkey` a uid at the price of the burn, which nobody gets. False if it has one.
    pub(super) fn burned_register(&self, coldkey: &Hotkey, hotkey: Hotkey) -> Result<bool, Fault> {
        if self.neuron(&hotkey)?.is_some() {
            return Ok(false);
        }
        self.debit(coldkey, self.burn()?)?;
        self.register(hotkey, *coldkey)
    }

    /// Gives `hotkey` the next uid, or that of the least useful neuron where all are taken. False if it has one.
    pub(super) fn register(&self, hotkey: Hotkey, coldkey: Hotkey) -> Result<bool, Fault> {
        if self.neuron(&hotkey)?.is_some() {
            return Ok(false);
        }
        // pay goes to the coldkey, so nobody may register another's hotkey again
        if self.first_coldkey(&hotkey)?.is_some_and(|first| first != coldkey) {
            return Err(ChainError::NonAssociatedColdKey(hotkey).into());
        }
        let uids = self.uids()?;
        let uid = if uids < self.config.max_uids { uids } else { self.replaceable()? };
        self.conn.prepare_cached("DELETE FROM bonds WHERE uid = ?1")?.execute([uid])?;
        self.insert_neuron(uid, hotkey, coldkey, self.next())?;
        Ok(true)
    }

    /// The coldkey that registered `hotkey` first.
    fn first_coldkey(&self, hotkey: &Hotkey) -> Result<Option<Hotkey>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT coldkey FROM neuron WHERE hotkey = ?1 ORDER BY registered LIMIT 1")?;
        Ok(statement.query_row([hotkey.0], |row| row.get(0)).optional()?.map(Hotkey))
    }

    /// The uid to replace: of those outside immunity, or of all if there is none, the one that the newest epoch paid least, and of
    /// equals the oldest; never the owner's.
    fn replaceable(&self) -> Result<u16, Fault> {
        let last_epoch = self.head.number - self.head.number % self.config.tempo;
        let before: BTreeMap<_, _> =
            self.neurons(last_epoch.saturating_sub(1))?.into_iter().map(|neuron| ((neuron.uid, neuron.hotkey), neuron.emission)).collect();
        let rank = |neuron: &Neuron| {
            let immune = self.next() - neuron.registered < self.config.immunity_period;
            let earlier = before.get(&(neuron.uid, neuron.hotkey)).copied().unwrap_or(0);
            (immune, neuron.emission.saturating_sub(earlier), neuron.registered, neuron.uid)
        };
        let neurons = self.neurons(self.next())?;
        let least = neurons.iter().skip(1).map(rank).min();
        least.map(|(.., uid)| uid).ok_or_else(|| ChainError::NoNeuronIdAvailable(self.config.max_uids).into())
    }
}
