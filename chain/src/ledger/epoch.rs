//! An epoch on the ledger: Yuma consensus over the weights set so far, then the pay of all blocks since the epoch before.

use std::collections::BTreeMap;

use ndarray::Array2;
use protocol::Hotkey;
use rusqlite::params;

use super::db::Tx;
use super::error::Fault;
use crate::{Neuron, emission, yuma};

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
            let (own, shares) = emission::delegated(pay.dividends[uid], self.config.take, &stakes);
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
        let mut weights = Array2::zeros((n, n));
        for neuron in neurons.iter().filter(|neuron| neuron.permit) {
            for (uid, weight) in self.weights_of(neuron)? {
                if let Some(entry) = weights.get_mut((usize::from(neuron.uid), usize::from(uid))) {
                    *entry = f64::from(weight);
                }
            }
        }
        Ok(yuma::Inputs {
            block: self.head.number,
            last_epoch,
            owner: Some(0),
            stake: neurons.iter().map(|neuron| neuron.stake).collect(),
            permit: neurons.iter().map(|neuron| neuron.permit).collect(),
            registered: neurons.iter().map(|neuron| neuron.registered).collect(),
            last_update: neurons.iter().map(|neuron| neuron.last_update).collect(),
            weights,
            bonds: self.stored_bonds(n)?,
        })
    }

    /// The bonds that the last epoch left, padded by zeros for uids that came since.
    fn stored_bonds(&self, n: usize) -> Result<Array2<u16>, Fault> {
        let mut bonds = Array2::zeros((n, n));
        let mut statement = self.conn.prepare_cached("SELECT uid, row FROM bonds")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (uid, bytes): (u16, Vec<u8>) = (row.get(0)?, row.get(1)?);
            for (j, bond) in bytes.as_chunks::<2>().0.iter().enumerate() {
                if let Some(entry) = bonds.get_mut((usize::from(uid), j)) {
                    *entry = u16::from_le_bytes(*bond);
                }
            }
        }
        Ok(bonds)
    }

    fn store_bonds(&self, bonds: &Array2<u16>) -> Result<(), Fault> {
        let mut statement = self.conn.prepare_cached("INSERT OR REPLACE INTO bonds (uid, row) VALUES (?1, ?2)")?;
        for (uid, row) in bonds.rows().into_iter().enumerate() {
            let bytes: Vec<u8> = row.iter().flat_map(|bond| bond.to_le_bytes()).collect();
            statement.execute(params![uid as u32, bytes])?;
        }
        Ok(())
    }
}
