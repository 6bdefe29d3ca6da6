//! An epoch on the ledger: Yuma consensus over the weights set so far, then the pay of all blocks since the epoch before.

use std::collections::BTreeMap;

use protocol::Hotkey;
use rusqlite::params;

use super::db::Tx;
use super::error::Fault;
use crate::{
    Neuron, emission,
    yuma::{self, Row},
};

impl Tx<'_> {
    /// Runs the epoch that ends the head block, after all its calls.
    pub(super) fn run_epoch(&self) -> Result<(), Fault> {
        let block = self.head.number;
        let last_epoch = block - self.config.tempo;
        let neurons = self.neurons(block)?;
        let outputs = yuma::epoch(&self.epoch_inputs(&neurons, last_epoch)?, &self.config.yuma);
        let per_block = self.config.emission_per_block;
        let pot = emission::issued(per_block, block) - emission::issued(per_block, last_epoch);
        let pay = emission::split(pot, 0, &outputs.incentive, &outputs.validator_pay);
        self.pay_out(&neurons, &pay)?;
        for (uid, mut neuron) in neurons.into_iter().enumerate() {
            neuron.permit = outputs.permit[uid];
            neuron.incentive = outputs.incentive[uid];
            neuron.dividends = outputs.dividends[uid];
            neuron.emission += pay.own[uid] + pay.dividends[uid];
            self.put_standing(&neuron, block)?;
        }
        self.store_bonds(&outputs.bonds)
    }

    /// Pays coldkeys: the owner and miners to their own, validators' dividends to their own by the take and to all stakers by stake.
    fn pay_out(&self, neurons: &[Neuron], pay: &emission::Pay) -> Result<(), Fault> {
        let block = self.head.number;
        let mut credits: BTreeMap<Hotkey, u64> = BTreeMap::new();
        for (uid, neuron) in neurons.iter().enumerate() {
            *credits.entry(neuron.coldkey).or_default() += pay.own[uid];
            let (coldkeys, stakes): (Vec<_>, Vec<_>) = self.stakers(&neuron.hotkey, block)?.into_iter().unzip();
            let (own, shares) = emission::take_and_stakers(pay.dividends[uid], self.config.take, &stakes);
            for (coldkey, share) in coldkeys.into_iter().zip(shares).chain([(neuron.coldkey, own)]) {
                *credits.entry(coldkey).or_default() += share;
            }
        }
        for (coldkey, rao) in credits.into_iter().filter(|&(_, rao)| rao > 0) {
            self.put_balance(&coldkey, block, self.balance(&coldkey, block)? + rao)?;
        }
        Ok(())
    }

    fn epoch_inputs(&self, neurons: &[Neuron], last_epoch: u64) -> Result<yuma::Inputs, Fault> {
        let n = neurons.len();
        let mut weights = vec![Row::new(); n];
        for neuron in neurons.iter().filter(|neuron| neuron.permit) {
            weights[usize::from(neuron.uid)] = self.weights_of(neuron)?;
        }
        Ok(yuma::Inputs {
            block: self.head.number,
            last_epoch,
            owner: Some(0),
            stake: neurons.iter().map(|neuron| neuron.stake).collect(),
            permit: neurons.iter().map(|neuron| neuron.permit).collect(),
            registered: neurons.iter().map(|neuron| neuron.registered).collect(),
            last_update: neurons.iter().map(|neuron| neuron.last_update).collect(),
            open_commit: neurons.iter().map(|neuron| self.oldest_open_commit(neuron)).collect::<Result<_, _>>()?,
            weights,
            bonds: self.stored_bonds(n)?,
            emission: 0,
        })
    }

    /// The bonds that the last epoch left; none of uids that came since.
    fn stored_bonds(&self, n: usize) -> Result<Vec<Row>, Fault> {
        let mut bonds = vec![Row::new(); n];
        let mut statement = self.conn.prepare_cached("SELECT uid, row FROM bonds")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (uid, bytes): (u16, Vec<u8>) = (row.get(0)?, row.get(1)?);
            if let Some(row) = bonds.get_mut(usize::from(uid)) {
                let values = bytes.as_chunks::<2>().0.iter().copied().map(u16::from_le_bytes);
                *row = (0..).zip(values).filter(|&(_, bond)| bond > 0).collect();
            }
        }
        Ok(bonds)
    }

    /// Keeps each row as n u16 LE, by uid.
    fn store_bonds(&self, bonds: &[Row]) -> Result<(), Fault> {
        let mut statement = self.conn.prepare_cached("INSERT OR REPLACE INTO bonds (uid, row) VALUES (?1, ?2)")?;
        for (uid, row) in bonds.iter().enumerate() {
            let mut values = vec![[0; 2]; bonds.len()];
            for &(j, bond) in row {
                values[usize::from(j)] = bond.to_le_bytes();
            }
            statement.execute(params![uid as u32, values.as_flattened()])?;
        }
        Ok(())
    }
}
