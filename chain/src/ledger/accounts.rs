//! Coldkeys' balances and stakes, with their history: one row per account and block at which it changed.

use protocol::Hotkey;
use rusqlite::{OptionalExtension, params};

use super::db::{Tx, U64};
use super::error::Fault;
use crate::{ChainError, MAX_SUPPLY, Neuron, yuma};

/// The sum, unless it is more than there can be.
fn plus(amount: u64, rao: u64) -> Result<u64, ChainError> {
    amount.checked_add(rao).filter(|&sum| sum <= MAX_SUPPLY).ok_or(ChainError::StakeTooLarge(rao))
}

impl Tx<'_> {
    /// What `account` has at the end of block `at`, unstaked.
    pub(super) fn balance(&self, account: &Hotkey, at: u64) -> Result<u64, Fault> {
        let mut statement =
            self.conn.prepare_cached("SELECT rao FROM balance WHERE account = ?1 AND block <= ?2 ORDER BY block DESC LIMIT 1")?;
        Ok(statement.query_row(params![account.0, U64(at)], |row| row.get::<_, U64>(0)).optional()?.map_or(0, |rao| rao.0))
    }

    pub(super) fn put_balance(&self, account: &Hotkey, block: u64, rao: u64) -> Result<(), Fault> {
        let mut statement = self.conn.prepare_cached("INSERT OR REPLACE INTO balance (account, block, rao) VALUES (?1, ?2, ?3)")?;
        statement.execute(params![account.0, U64(block), U64(rao)])?;
        Ok(())
    }

    /// Adds to a balance in the next block.
    pub(super) fn credit(&self, account: &Hotkey, rao: u64) -> Result<(), Fault> {
        let balance = plus(self.balance(account, self.next())?, rao)?;
        self.put_balance(account, self.next(), balance)
    }

    /// Takes from a balance in the next block.
    pub(super) fn debit(&self, account: &Hotkey, rao: u64) -> Result<(), Fault> {
        let balance = self.balance(account, self.next())?;
        let left = balance.checked_sub(rao).ok_or(ChainError::NotEnoughBalanceToStake { balance, needed: rao })?;
        self.put_balance(account, self.next(), left)
    }

    /// The coldkeys with a stake behind `hotkey` at the end of block `at`, and how much, by coldkey.
    pub(super) fn stakers(&self, hotkey: &Hotkey, at: u64) -> Result<Vec<(Hotkey, u64)>, Fault> {
        let mut statement = self.conn.prepare_cached(
            "SELECT coldkey, rao FROM stake s WHERE hotkey = ?1 AND rao > 0
             AND block = (SELECT max(block) FROM stake WHERE hotkey = s.hotkey AND coldkey = s.coldkey AND block <= ?2) ORDER BY coldkey",
        )?;
        let rows = statement.query_map(params![hotkey.0, U64(at)], |row| Ok((Hotkey(row.get(0)?), row.get::<_, U64>(1)?.0)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What all coldkeys have behind `hotkey`, with what is on its way into the next block.
    pub(super) fn total_stake(&self, hotkey: &Hotkey) -> Result<u64, Fault> {
        Ok(self.stakers(hotkey, self.next())?.into_iter().map(|(_, rao)| rao).sum())
    }

    fn stake(&self, hotkey: &Hotkey, coldkey: &Hotkey) -> Result<u64, Fault> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT rao FROM stake WHERE hotkey = ?1 AND coldkey = ?2 AND block <= ?3 ORDER BY block DESC LIMIT 1")?;
        let stake = statement.query_row(params![hotkey.0, coldkey.0, U64(self.next())], |row| row.get::<_, U64>(0)).optional()?;
        Ok(stake.map_or(0, |rao| rao.0))
    }

    fn put_stake(&self, hotkey: &Hotkey, coldkey: &Hotkey, rao: u64) -> Result<(), Fault> {
        let mut statement =
            self.conn.prepare_cached("INSERT OR REPLACE INTO stake (hotkey, coldkey, block, rao) VALUES (?1, ?2, ?3, ?4)")?;
        statement.execute(params![hotkey.0, coldkey.0, U64(self.next()), U64(rao)])?;
        Ok(())
    }

    /// Stakes what the operator mints, in the name of the neuron's coldkey.
    pub(super) fn endow(&self, hotkey: Hotkey, rao: u64) -> Result<(), Fault> {
        let neuron = self.registered(hotkey)?;
        let coldkey = neuron.coldkey;
        self.raise_stake(neuron, &coldkey, rao)
    }

    pub(super) fn add_stake(&self, coldkey: &Hotkey, hotkey: Hotkey, rao: u64) -> Result<(), Fault> {
        let neuron = self.registered(hotkey)?;
        if rao == 0 {
            return Err(ChainError::AmountTooLow(rao).into());
        }
        self.debit(coldkey, rao)?;
        self.raise_stake(neuron, coldkey, rao)
    }

    fn raise_stake(&self, mut neuron: Neuron, coldkey: &Hotkey, rao: u64) -> Result<(), Fault> {
        neuron.stake = plus(neuron.stake, rao)?;
        let stake = self.stake(&neuron.hotkey, coldkey)? + rao;
        self.put_stake(&neuron.hotkey, coldkey, stake)?;
        self.restake(&neuron)
    }

    /// Returns a stake to its coldkey's balance, whether or not the hotkey still has a uid.
    pub(super) fn remove_stake(&self, coldkey: &Hotkey, hotkey: Hotkey, rao: u64) -> Result<(), Fault> {
        if rao == 0 {
            return Err(ChainError::AmountTooLow(rao).into());
        }
        let staked = self.stake(&hotkey, coldkey)?;
        let left = staked.checked_sub(rao).ok_or(ChainError::NotEnoughStakeToWithdraw { staked, asked: rao })?;
        self.put_stake(&hotkey, coldkey, left)?;
        self.credit(coldkey, rao)?;
        match self.neuron(&hotkey)? {
            Some(mut neuron) => {
                neuron.stake -= rao;
                self.restake(&neuron)
            }
            None => Ok(()),
        }
    }

    /// Records a neuron's new stake.
    fn restake(&self, neuron: &Neuron) -> Result<(), Fault> {
        self.put_standing(neuron, self.next())?;
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
