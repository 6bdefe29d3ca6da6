//! One subnet's state, and what a block does to it.

use super::scenario::{RootSells, SubnetScenario};
use crate::RAO_PER_TAO;
use crate::emission::{
    AlphaSplit, Excess, FLOW_SMOOTHING, Fixed, Flow, MOVING_ALPHA, OWNER_CUT, PRICE_HALVING_BLOCKS, Pool, SwapError, block_emission,
    injection, moving_price, root_proportion,
};

/// A stake behind a validator, in rao.
#[derive(Clone, Debug)]
pub(super) struct Stake {
    /// Index of the account.
    pub account: usize,
    /// Index of the validator.
    pub validator: usize,
    pub amount: u64,
}

/// A miner with the alpha it has kept, in rao.
#[derive(Clone, Debug)]
pub(super) struct Miner {
    pub account: usize,
    pub incentive: u16,
    pub alpha: u64,
}

/// A subnet. Amounts in rao.
#[derive(Clone, Debug)]
pub(super) struct Subnet {
    pub config: SubnetScenario,
    pub pool: Pool,
    /// All alpha that exists: in the pool and out of it.
    pub issued: u64,
    pub moving_price: Fixed,
    pub flow: Flow,
    /// Blocks since the start call.
    pub age: u64,
    /// Index of the owner's account.
    pub owner: usize,
    pub owner_alpha: u64,
    /// What the market holds.
    pub market_alpha: u64,
    /// What the chain bought and keeps.
    pub chain_alpha: u64,
    /// What the next epoch pays.
    pub pending: AlphaSplit,
    pub stakes: Vec<Stake>,
    pub miners: Vec<Miner>,
    /// The users' net flow of TAO since the last block.
    users: i64,
    /// The chain's own.
    protocol: i64,
}

/// What a block needs to know of the rest of the chain.
pub(super) struct Surroundings {
    pub excess: Excess,
    pub root_sells: RootSells,
    pub root_stake: u64,
    pub tao_weight: Fixed,
    /// Whether the average prices sum to more than 1.
    pub above_one: bool,
}

impl Subnet {
    pub(super) fn new(config: SubnetScenario, owner: usize, stakes: Vec<Stake>, miners: Vec<Miner>, fee: u16) -> Self {
        let pool = Pool { tao: config.tao * RAO_PER_TAO, alpha: config.alpha * RAO_PER_TAO, fee };
        let market_alpha = config.market_alpha * RAO_PER_TAO;
        Self {
            pool,
            issued: pool.alpha + market_alpha + stakes.iter().map(|stake| stake.amount).sum::<u64>(),
            moving_price: pool.price().min(Fixed::ONE),
            flow: Flow::default(),
            age: config.age,
            owner,
            owner_alpha: 0,
            market_alpha,
            chain_alpha: 0,
            pending: AlphaSplit::default(),
            stakes,
            miners,
            users: 0,
            protocol: 0,
            config,
        }
    }

    /// The alpha outside the pool as found with those who have it.
    pub(super) fn held(&self) -> u64 {
        let stakes: u64 = self.stakes.iter().map(|stake| stake.amount).sum();
        let miners: u64 = self.miners.iter().map(|miner| miner.alpha).sum();
        stakes + miners + self.owner_alpha + self.market_alpha + self.chain_alpha + self.pending.total()
    }

    /// Gives the subnet its part of the block's TAO, creates its alpha, and moves its averages; the rao of TAO that were created.
    pub(super) fn emit(&mut self, tao: Fixed, around: &Surroundings) -> Result<u64, SwapError> {
        let alpha = block_emission(self.issued);
        let cap = match around.excess {
            Excess::Inject => Fixed::whole(alpha),
            Excess::Buy => Fixed::whole(alpha).times(self.root_proportion(around)),
        };
        let given = injection(tao, self.pool.price(), cap, around.excess);
        if given.buy > 0 {
            self.chain_alpha += self.free(|pool| pool.buy(given.buy))?;
        }
        self.pool.inject(given.tao, given.alpha)?;
        self.protocol += (given.tao + given.buy) as i64;
        self.issued += given.alpha + alpha;
        let mut split = AlphaSplit::of(alpha, OWNER_CUT, self.root_proportion(around));
        if around.root_sells == RootSells::AboveOne && !around.above_one {
            self.issued -= std::mem::take(&mut split.root);
        }
        self.pending.add(split);
        Ok(given.tao + given.buy)
    }

    /// Moves the averages by one block.
    pub(super) fn average(&mut self) {
        self.age += 1;
        self.moving_price = moving_price(self.moving_price, self.pool.price(), self.age, PRICE_HALVING_BLOCKS, MOVING_ALPHA);
        self.flow = self.flow.after(std::mem::take(&mut self.users), std::mem::take(&mut self.protocol), FLOW_SMOOTHING);
    }

    fn root_proportion(&self, around: &Surroundings) -> Fixed {
        root_proportion(around.root_stake, around.tao_weight, self.issued)
    }

    /// A swap of the chain's own, which pays no fee.
    fn free<T>(&mut self, swap: impl FnOnce(&mut Pool) -> T) -> T {
        let fee = std::mem::take(&mut self.pool.fee);
        let out = swap(&mut self.pool);
        self.pool.fee = fee;
        out
    }

    /// Somebody buys alpha with `tao` rao.
    pub(super) fn buy(&mut self, tao: u64) -> Result<u64, SwapError> {
        let alpha = self.pool.buy(tao)?;
        self.users += tao as i64;
        Ok(alpha)
    }

    /// Somebody sells `alpha` rao.
    pub(super) fn sell(&mut self, alpha: u64) -> Result<u64, SwapError> {
        let tao = self.pool.sell(alpha)?;
        self.users -= tao as i64;
        Ok(tao)
    }

    /// The chain sells `alpha` rao of root's dividends.
    pub(super) fn sell_for_root(&mut self, alpha: u64) -> Result<u64, SwapError> {
        let tao = self.free(|pool| pool.sell(alpha))?;
        self.protocol -= tao as i64;
        Ok(tao)
    }

    /// What `alpha` rao are worth at the pool's price, in rao of TAO.
    pub(super) fn worth(&self, alpha: u64) -> u64 {
        Fixed::whole(alpha).times(self.pool.price()).floor()
    }
}
