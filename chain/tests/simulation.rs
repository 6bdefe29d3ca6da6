//! The simulation holds its books at every block, and moves as economics says it must.

#![allow(clippy::unwrap_used)]

use chain::{
    emission::Excess,
    simulation::{BLOCKS_PER_DAY, History, Role, RootSells, Scenario, Shares, Simulation, SimulationError},
};
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../economy.toml");

fn example() -> Scenario {
    Scenario::parse(EXAMPLE).unwrap()
}

fn assert_balanced(simulation: &Simulation) {
    let books = simulation.books();
    assert_eq!(books.tao.0, books.tao.1, "TAO issued and found");
    for (issued, found) in books.alpha {
        assert_eq!(issued, found, "alpha issued and found");
    }
}

/// Scenarios of one to four subnets, with stakes that may be nothing and markets that may run dry.
fn any_scenario() -> impl Strategy<Value = Scenario> {
    let subnet = (1..1_000_000u64, 1..1_000_000u64, 0..100_000u64, 0..500_000u64, 0..500_000u64, 0..=100u64, 0..50_000u64);
    let rules = (any::<bool>(), any::<bool>(), any::<bool>(), any::<u16>(), 0..=100u64, 1..50u64, 0..=100u64);
    (prop::collection::vec(subnet, 1..4), rules, 0..1_000_000u64).prop_map(|(subnets, rules, root)| {
        let mut scenario = example();
        (scenario.shares, scenario.excess) =
            (if rules.0 { Shares::Flow } else { Shares::Price }, if rules.1 { Excess::Inject } else { Excess::Buy });
        scenario.root_sells = if rules.2 { RootSells::Always } else { RootSells::AboveOne };
        (scenario.fee, scenario.tao_weight, scenario.tempo, scenario.validators[0].take) = (rules.3, rules.4, rules.5, rules.6);
        scenario.root[0].amount = root;
        let template = scenario.subnets[0].clone();
        scenario.subnets = (subnets.into_iter().enumerate())
            .map(|(n, (tao, alpha, market_alpha, buys, sells, miners_sell, stake))| {
                let mut subnet = template.clone();
                subnet.name = format!("subnet {n}");
                (subnet.tao, subnet.alpha, subnet.market_alpha) = (tao, alpha, market_alpha);
                (subnet.buys, subnet.sells, subnet.miners_sell) = (buys, sells, miners_sell);
                subnet.stakes[0].amount = stake;
                subnet.miners.truncate(n);
                subnet
            })
            .collect();
        scenario
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn all_that_was_issued_is_found_at_every_block(scenario in any_scenario()) {
        let mut simulation = Simulation::new(&scenario).unwrap();
        assert_balanced(&simulation);
        for _ in 0..700 {
            simulation.step().unwrap();
            assert_balanced(&simulation);
        }
    }
}

#[test]
fn a_day_of_the_example_balances_and_issues_at_most_a_halved_tao_per_block() {
    let mut simulation = Simulation::new(&example()).unwrap();
    let start = simulation.day().issued;
    for _ in 0..BLOCKS_PER_DAY {
        simulation.step().unwrap();
        assert_balanced(&simulation);
    }
    let (day, issued) = (simulation.day(), simulation.day().issued - start);
    assert_eq!((day.day, day.block_emission), (1, 500_000_000));
    // rounding may leave up to 2 rao per subnet and block
    let most = 3_600_000_000_000;
    assert!((most - 4 * BLOCKS_PER_DAY..=most).contains(&issued), "{issued}");
}

#[test]
fn owner_miners_and_validators_of_a_subnet_earn_18_41_and_41_percent_of_its_alpha() {
    let mut scenario = example();
    scenario.root.clear();
    scenario.subnets.truncate(1);
    let history = History::of(&scenario, 1).unwrap();
    let alpha = |role: Role| history.total(role).0 as f64;
    let validators = alpha(Role::Validator) + alpha(Role::Staker);
    let all = alpha(Role::Owner) + alpha(Role::Miner) + validators;
    for (earned, part) in [(alpha(Role::Owner), 0.18), (alpha(Role::Miner), 0.41), (validators, 0.41)] {
        assert!((earned / all - part).abs() < 1e-4, "{earned} of {all}");
    }
    // both validators take 18 and 9 % of what 150,000 and 100,000 alpha earn, at first
    let take = alpha(Role::Validator) / validators;
    assert!((take - (0.6 * 0.18 + 0.4 * 0.09)).abs() < 1e-3, "{take}");
}

#[test]
fn buying_lifts_a_price_and_selling_lowers_it() {
    let price = |buys: u64, sells: u64| {
        let mut scenario = example();
        (scenario.subnets[0].buys, scenario.subnets[0].sells) = (buys, sells);
        scenario.subnets[0].owner_sells = 0;
        scenario.subnets[0].miners_sell = 0;
        History::of(&scenario, 2).unwrap().days[2].subnets[0].price
    };
    assert!(price(1_000, 0) > price(0, 0) && price(0, 0) > price(0, 1_000));
}

#[test]
fn by_flow_a_subnet_that_people_leave_gets_no_tao() {
    let mut scenario = example();
    scenario.shares = Shares::Flow;
    for (subnet, (buys, sells)) in scenario.subnets.iter_mut().zip([(2_000, 0), (0, 50_000)]) {
        (subnet.buys, subnet.sells, subnet.owner_sells, subnet.miners_sell) = (buys, sells, 0, 0);
    }
    let days = History::of(&scenario, 3).unwrap().days;
    let of_day = |day: usize, s: usize| days[day].subnets[s].tao;
    assert!(of_day(3, 1) < of_day(2, 1), "nothing comes back for what is taken out");
    // bought for and injected: more than the market paid
    assert!(of_day(3, 0) - of_day(2, 0) > 2_000 * chain::RAO_PER_TAO);
}

#[test]
fn a_scenario_that_cannot_be_is_refused_by_name() {
    let refusal = |change: fn(&mut Scenario)| {
        let mut scenario = example();
        change(&mut scenario);
        Simulation::new(&scenario).unwrap_err()
    };
    assert!(matches!(refusal(|s| s.tempo = 0), SimulationError::Field { field: "tempo", .. }));
    assert!(matches!(refusal(|s| s.subnets[1].alpha = 0), SimulationError::Field { field: "alpha", .. }));
    assert!(matches!(refusal(|s| s.subnets[0].market_alpha = u64::MAX), SimulationError::Field { field: "all alpha", .. }));
    assert!(matches!(refusal(|s| s.validators[0].take = 101), SimulationError::Field { field: "take", .. }));
    assert!(matches!(refusal(|s| s.subnets.clear()), SimulationError::Names(_)));
    assert!(matches!(refusal(|s| s.validators[1].name = "validator-a".into()), SimulationError::Names(_)));
    assert!(matches!(refusal(|s| s.root[0].validator = "nobody".into()), SimulationError::UnknownValidator { .. }));
    assert!(matches!(refusal(|s| s.root[0].amount = 20_000_000), SimulationError::Unfunded { .. }));
    assert!(matches!(Scenario::parse("issuance = -1"), Err(SimulationError::Toml(_))));
}
