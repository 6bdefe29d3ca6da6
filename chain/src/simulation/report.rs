//! What a simulation shows: a line per day, and who earned what.

use serde::Serialize;

use super::{BLOCKS_PER_DAY, Role, Scenario, Simulation, SimulationError};
use crate::emission::block_emission;

/// A subnet at the end of a day. Amounts in rao.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SubnetDay {
    /// TAO per alpha.
    pub price: f64,
    /// TAO in the pool.
    pub tao: u64,
    /// Alpha in the pool.
    pub alpha: u64,
    /// All alpha that exists.
    pub issued: u64,
}

/// The end of a day. Amounts in rao.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Day {
    /// Days since the start.
    pub day: u64,
    /// TAO that exists.
    pub issued: u64,
    /// TAO that the next block may create.
    pub block_emission: u64,
    /// The subnets.
    pub subnets: Vec<SubnetDay>,
    /// By role as in [`Role::ALL`], what was earned since the start, in TAO at this day's prices.
    pub earned: [u64; 5],
}

/// What somebody earned with one role on one subnet. Amounts in rao.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Earning {
    /// The subnet's name.
    pub subnet: String,
    /// Who.
    pub participant: String,
    /// For what.
    pub role: Role,
    /// Alpha, sold or not.
    pub alpha: u64,
    /// TAO at the price now: of the alpha, or as it was paid on root.
    pub tao: u64,
    /// Part of what all earned on all subnets, by that TAO.
    pub share: f64,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct History {
    /// Names of the subnets.
    pub subnets: Vec<String>,
    /// The start and the end of each day.
    pub days: Vec<Day>,
    /// Who earned what, by subnet and role.
    pub earnings: Vec<Earning>,
}

impl History {
    /// Simulates `days` days.
    ///
    /// # Errors
    /// What [`Simulation::new`] and [`Simulation::step`] say.
    pub fn of(scenario: &Scenario, days: u64) -> Result<Self, SimulationError> {
        let mut simulation = Simulation::new(scenario)?;
        let mut lines = vec![simulation.day()];
        for _ in 0..days {
            for _ in 0..BLOCKS_PER_DAY {
                simulation.step()?;
            }
            lines.push(simulation.day());
        }
        let subnets = scenario.subnets.iter().map(|subnet| subnet.name.clone()).collect();
        Ok(Self { subnets, days: lines, earnings: simulation.earnings() })
    }

    /// What a role earned in all, in rao: alpha of all subnets, and its TAO at the last prices.
    pub fn total(&self, role: Role) -> (u64, u64) {
        let of_role = self.earnings.iter().filter(|earning| earning.role == role);
        of_role.fold((0, 0), |(alpha, tao), earning| (alpha + earning.alpha, tao + earning.tao))
    }
}

impl Simulation {
    /// The state as a day's line.
    pub fn day(&self) -> Day {
        let subnet = |subnet: &super::Subnet| SubnetDay {
            price: subnet.pool.price().to_f64(),
            tao: subnet.pool.tao,
            alpha: subnet.pool.alpha,
            issued: subnet.issued,
        };
        Day {
            day: self.block / BLOCKS_PER_DAY,
            issued: self.issued,
            block_emission: block_emission(self.issued),
            subnets: self.subnets.iter().map(subnet).collect(),
            earned: Role::ALL.map(|role| {
                let of_role = self.earned.iter().filter(|((_, earner, _), _)| *earner == role);
                of_role.map(|((s, ..), &(alpha, tao))| self.subnets[*s].worth(alpha) + tao).sum()
            }),
        }
    }

    /// Who earned what so far.
    pub fn earnings(&self) -> Vec<Earning> {
        let all: u64 = self.day().earned.iter().sum();
        let earning = |(&(s, role, account), &(alpha, tao)): (&(usize, Role, usize), &(u64, u64))| {
            let tao = self.subnets[s].worth(alpha) + tao;
            Earning {
                subnet: self.subnets[s].config.name.clone(),
                participant: self.accounts[account].name.clone(),
                role,
                alpha,
                tao,
                share: tao as f64 / all as f64,
            }
        };
        self.earned.iter().map(earning).collect()
    }
}
