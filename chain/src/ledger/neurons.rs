//! Neurons, with the history of their standing: one row per uid and block at which it changed.

use protocol::Hotkey;
use rusqlite::{OptionalExtension, Row, params};

use super::calls::Kind;
use super::db::{Tx, U64};
use super::error::Fault;
use crate::{ChainError, MAX_SUPPLY, Neuron, yuma};

/// The most uids; consensus is quadratic in their number.
const MAX_UIDS: u16 = 1024;

/// Neurons with their newest standing up to block ?1.
macro_rules! neurons_sql {
    ($rest:literal) => {
        concat!(
            "SELECT n.uid, hotkey, coldkey, registered, stake, permit, last_update, incentive, dividends, emission
             FROM neuron n JOIN standing s ON s.uid = n.uid
             AND s.block = (SELECT max(block) FROM standing WHERE uid = n.uid AND block <= ?1) ",
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
        let mut statement = self.conn.prepare_cached(neurons_sql!("WHERE hotkey = ?2"))?;
        Ok(statement.query_row(params![U64(self.next()), hotkey.0], neuron_of).optional()?)
    }

    /// The hotkey of `uid` at the head.
    pub(super) fn hotkey_of(&self, uid: u16) -> Result<Option<Hotkey>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT hotkey FROM neuron WHERE uid = ?1 AND registered <= ?2")?;
        Ok(statement.query_row(params![uid, U64(self.head.number)], |row| row.get(0)).optional()?.map(Hotkey))
    }

    /// How many uids there are, those on their way included.
    pub(super) fn uids(&self) -> Result<u16, Fault> {
        Ok(self.conn.prepare_cached("SELECT count(*) FROM neuron")?.query_row([], |row| row.get(0))?)
    }

    pub(super) fn insert_neuron(&self, uid: u16, hotkey: Hotkey, coldkey: Hotkey, block: u64) -> Result<(), Fault> {
        let mut statement = self.conn.prepare_cached("INSERT INTO neuron (uid, hotkey, coldkey, registered) VALUES (?1, ?2, ?3, ?4)")?;
        statement.execute(params![uid, hotkey.0, coldkey.0, U64(block)])?;
        let permit = hotkey == self.config.owner;
        let (stake, incentive, dividends, emission) = (0, 0, 0, 0);
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

    /// Gives `hotkey` the next uid, or returns the one it has.
    pub(super) fn register(&self, hotkey: Hotkey, coldkey: Hotkey) -> Result<u16, Fault> {
        if let Some(neuron) = self.neuron(&hotkey)? {
            return Ok(neuron.uid);
        }
        let uid = self.uids()?;
        if uid >= MAX_UIDS {
            return Err(ChainError::NoNeuronIdAvailable(MAX_UIDS).into());
        }
        self.operate(Kind::Register, [hotkey.0, coldkey.0].concat())?;
        self.insert_neuron(uid, hotkey, coldkey, self.next())?;
        Ok(uid)
    }

    pub(super) fn add_stake(&self, hotkey: Hotkey, rao: u64) -> Result<(), Fault> {
        let refused = ChainError::HotKeyNotRegisteredInSubNet { hotkey, netuid: self.config.netuid };
        let mut neuron = self.neuron(&hotkey)?.ok_or(refused)?;
        neuron.stake = neuron.stake.checked_add(rao).filter(|&stake| stake <= MAX_SUPPLY).ok_or(ChainError::StakeTooLarge(rao))?;
        self.operate(Kind::Stake, [&hotkey.0[..], &rao.to_le_bytes()].concat())?;
        self.put_standing(&neuron, self.next())?;
        // epochs give the permits, but a new network must be able to judge before its first one
        if self.next() <= self.config.tempo { self.grant_permits() } else { Ok(()) }
    }

    fn grant_permits(&self) -> Result<(), Fault> {
        let neurons = self.neurons(self.next())?;
        let stake: Vec<u64> = neurons.iter().map(|neuron| neuron.stake).collect();
        for (mut neuron, permit) in neurons.into_iter().zip(yuma::permits(&stake, Some(0), &self.config.yuma)) {
            if neuron.permit != permit {
                neuron.permit = permit;
                self.put_standing(&neuron, self.next())?;
            }
        }
        Ok(())
    }
}
