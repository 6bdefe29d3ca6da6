//! An epoch: what is pending is paid, to the last rao.

use super::{Role, Simulation, SimulationError, Stake};
use crate::emission::{Backing, Fixed, SwapError, apportion, dividends, take_and_stakers};

impl Simulation {
    /// Pays what is pending on subnet `s`.
    pub(super) fn epoch(&mut self, s: usize) -> Result<(), SimulationError> {
        self.pay(s).map_err(|source| self.swap_error(s, source))
    }

    fn pay(&mut self, s: usize) -> Result<(), SwapError> {
        let mut due = std::mem::take(&mut self.subnets[s].pending);
        let owner = self.subnets[s].owner;
        self.earn(s, Role::Owner, owner, due.owner, 0);
        let kept = self.sell_some(s, owner, due.owner, self.subnets[s].config.owner_sells)?;
        self.subnets[s].owner_alpha += kept;
        let incentive: Vec<u16> = self.subnets[s].miners.iter().map(|miner| miner.incentive).collect();
        match apportion(due.miners, &incentive) {
            Some(parts) => self.pay_miners(s, &parts)?,
            None => due.validators += due.miners,
        }
        match dividends(due.validators, due.root, self.tao_weight, &self.backing(s)) {
            Some(parts) => self.pay_validators(s, &parts)?,
            // nobody stakes anything anywhere
            None => self.subnets[s].issued -= due.validators + due.root,
        }
        Ok(())
    }

    fn pay_miners(&mut self, s: usize, parts: &[u64]) -> Result<(), SwapError> {
        let percent = self.subnets[s].config.miners_sell;
        for (m, &part) in parts.iter().enumerate() {
            let account = self.subnets[s].miners[m].account;
            self.earn(s, Role::Miner, account, part, 0);
            let kept = self.sell_some(s, account, part, percent)?;
            self.subnets[s].miners[m].alpha += kept;
        }
        Ok(())
    }

    /// Sells `percent` of `alpha` for the account's TAO; the rest.
    fn sell_some(&mut self, s: usize, account: usize, alpha: u64, percent: u64) -> Result<u64, SwapError> {
        let sold = (u128::from(alpha) * u128::from(percent) / 100) as u64;
        self.accounts[account].tao += self.subnets[s].sell(sold)?;
        Ok(alpha - sold)
    }

    /// What stands behind each validator on subnet `s`. All validators agree, so that dividends are as their weighted stake.
    fn backing(&self, s: usize) -> Vec<Backing> {
        let behind = |stakes: &[Stake], v: usize| stakes.iter().filter(|stake| stake.validator == v).map(|stake| stake.amount).sum();
        let backing = |v: usize| {
            let (alpha, root) = (behind(&self.subnets[s].stakes, v), behind(&self.root, v));
            let weighted = Fixed::whole(root).times(self.tao_weight).floor();
            Backing { dividends: alpha + weighted, alpha, root }
        };
        (0..self.validators.len()).map(backing).collect()
    }

    fn pay_validators(&mut self, s: usize, parts: &[(u64, u64)]) -> Result<(), SwapError> {
        for (v, &(alpha, root)) in parts.iter().enumerate() {
            let mut stakes = std::mem::take(&mut self.subnets[s].stakes);
            let (mut taken, shares) = share_out(alpha, self.validators[v].take, v, &stakes);
            for (stake, share) in stakes.iter_mut().zip(shares) {
                stake.amount += share;
                self.earn(s, Role::Staker, stake.account, share, 0);
            }
            self.subnets[s].stakes = stakes;
            taken += self.pay_root(s, v, root)?;
            self.earn(s, Role::Validator, self.validators[v].account, taken, 0);
            let own = self.validators[v].own_stakes[s];
            self.subnets[s].stakes[own].amount += taken;
        }
        Ok(())
    }

    /// Sells validator `v`'s dividends of root for TAO, which is staked for its root stakers; what it takes for itself, in alpha.
    fn pay_root(&mut self, s: usize, v: usize, alpha: u64) -> Result<u64, SwapError> {
        let (taken, _) = take_and_stakers(alpha, self.validators[v].take, &[1]);
        let tao = self.subnets[s].sell_for_root(alpha - taken)?;
        let mut root = std::mem::take(&mut self.root);
        let (_, shares) = share_out(tao, 0, v, &root);
        for (stake, share) in root.iter_mut().zip(shares) {
            stake.amount += share;
            self.earn(s, Role::Root, stake.account, 0, share);
        }
        self.root = root;
        Ok(taken)
    }
}

/// The validator's take of `pot`, and the part of each of `stakes`, which is 0 where it is behind another.
fn share_out(pot: u64, take: u16, validator: usize, stakes: &[Stake]) -> (u64, Vec<u64>) {
    let behind: Vec<u64> = stakes.iter().map(|stake| if stake.validator == validator { stake.amount } else { 0 }).collect();
    take_and_stakers(pot, take, &behind)
}
