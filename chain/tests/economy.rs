//! Who holds, stakes and earns what on the ledger, and who keeps a uid.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use chain::{Blocks, Burn, Chain, ChainError, Ledger, LedgerConfig, Neuron, RAO_PER_TAO, weights};
use proptest::prelude::*;
use protocol::Keypair;

fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

/// Hotkey n belongs to coldkey n + 100.
fn coldkey(n: u8) -> Keypair {
    key(n + 100)
}

fn ledger(change: impl FnOnce(&mut LedgerConfig)) -> (tempfile::TempDir, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = LedgerConfig::new(Blocks::Manual, key(0).hotkey());
    (config.owner_coldkey, config.tempo, config.weights_rate_limit) = (coldkey(0).hotkey(), 10, 0);
    change(&mut config);
    let ledger = Ledger::create(&dir.path().join("chain.sqlite"), &config).unwrap();
    (dir, ledger)
}

fn enroll(ledger: &Ledger, n: u8, stake: u64) -> u16 {
    let uid = ledger.enroll(1, key(n).hotkey(), coldkey(n).hotkey()).unwrap();
    if stake > 0 {
        ledger.endow(1, key(n).hotkey(), stake).unwrap();
    }
    uid
}

async fn neuron(ledger: &Ledger, uid: u16) -> Neuron {
    let head = ledger.head().await.unwrap().number;
    ledger.neurons(1, head).await.unwrap().swap_remove(uid.into())
}

#[tokio::test]
async fn stakers_share_dividends_after_the_take() {
    let (_dir, ledger) = ledger(|config| config.take = u16::MAX / 5);
    let (validator, miner) = (enroll(&ledger, 1, 600), enroll(&ledger, 2, 0));
    ledger.fund(key(50).hotkey(), 1_000).unwrap();
    ledger.add_stake(&key(50), 1, key(1).hotkey(), 400).await.unwrap();
    ledger.advance(1).unwrap();
    assert_eq!(neuron(&ledger, validator).await.stake, 1_000);
    let stakers = BTreeSet::from([(coldkey(1).hotkey(), 600), (key(50).hotkey(), 400)]);
    assert_eq!(BTreeSet::from_iter(ledger.stakers(1, key(1).hotkey()).await.unwrap()), stakers);
    ledger.set_weights(&key(1), 1, &[(miner, 65535)]).await.unwrap();
    ledger.advance(9).unwrap();
    let pot = 10 * ledger.config().emission_per_block;
    let dividends = pot * 41 / 100;
    assert_eq!(ledger.balance(coldkey(0).hotkey()).await.unwrap(), pot * 18 / 100);
    assert_eq!(ledger.balance(coldkey(2).hotkey()).await.unwrap(), pot * 41 / 100);
    assert_eq!(ledger.balance(key(50).hotkey()).await.unwrap(), 600 + dividends * 4 / 5 * 4 / 10);
    assert_eq!(ledger.balance(coldkey(1).hotkey()).await.unwrap(), dividends / 5 + dividends * 4 / 5 * 6 / 10);
    assert_eq!(neuron(&ledger, validator).await.emission, dividends);

    ledger.remove_stake(&key(50), 1, key(1).hotkey(), 150).await.unwrap();
    let too_much = ledger.remove_stake(&key(50), 1, key(1).hotkey(), 251).await;
    assert!(matches!(too_much, Err(ChainError::NotEnoughStakeToWithdraw { staked: 250, asked: 251 })));
    ledger.advance(1).unwrap();
    assert_eq!(neuron(&ledger, validator).await.stake, 850);
    let stranger = ledger.add_stake(&key(50), 1, key(99).hotkey(), 1).await;
    assert!(matches!(stranger, Err(ChainError::HotKeyNotRegisteredInSubNet { .. })));
}

#[tokio::test]
async fn the_burn_follows_registrations() {
    let burn = Burn { start: 1_000, min: 300, max: 3_000, interval: 5, target: 1 };
    let (_dir, ledger) = ledger(|config| config.burn = burn);
    let price = async || ledger.subnet(1).await.unwrap().burn;
    ledger.fund(coldkey(1).hotkey(), 10_000).unwrap();
    for n in 1..=3 {
        ledger.burned_register(&coldkey(1), 1, key(n).hotkey()).await.unwrap();
    }
    enroll(&ledger, 9, 0);
    ledger.advance(4).unwrap();
    assert_eq!((price().await, ledger.balance(coldkey(1).hotkey()).await.unwrap()), (1_000, 7_000));
    ledger.advance(1).unwrap();
    assert_eq!(price().await, 2_000, "three where one was the target");
    ledger.burned_register(&coldkey(1), 1, key(4).hotkey()).await.unwrap();
    ledger.advance(5).unwrap();
    assert_eq!((price().await, ledger.balance(coldkey(1).hotkey()).await.unwrap()), (2_000, 5_000));
    ledger.advance(15).unwrap();
    assert_eq!(price().await, 300, "halved thrice, but for the minimum");
}

#[tokio::test]
async fn a_full_subnet_replaces_whom_it_paid_least_and_the_past_stays() {
    let (_dir, ledger) = ledger(|config| (config.max_uids, config.immunity_period) = (4, 15));
    let (validator, good, idle) = (enroll(&ledger, 1, 1_000), enroll(&ledger, 2, 0), enroll(&ledger, 3, 0));
    ledger.advance(1).unwrap();
    ledger.set_weights(&key(1), 1, &[(good, 60_000), (idle, 0)]).await.unwrap();
    ledger.advance(24).unwrap();
    let before = ledger.neurons(1, 25).await.unwrap();
    assert_eq!(enroll(&ledger, 4, 0), idle, "it earned nothing, and all are past their immunity");
    ledger.advance(1).unwrap();
    let now = ledger.neurons(1, 26).await.unwrap();
    assert_eq!((now[3].hotkey, now[3].registered, now[3].last_update, now[3].emission), (key(4).hotkey(), 26, 26, 0));
    assert_eq!(ledger.neurons(1, 25).await.unwrap(), before);
    assert_eq!(now[..3], before[..3]);

    // the new one is immune now; of the others the miner earned as much as the validator and is younger by uid
    ledger.set_weights(&key(0), 1, &[(0, 1)]).await.unwrap();
    assert_eq!(enroll(&ledger, 5, 0), validator);
    ledger.advance(1).unwrap();
    assert_eq!(ledger.weights(1, validator).await.unwrap(), [], "weights go with their hotkey");
    assert!(!neuron(&ledger, validator).await.permit);
    assert!(matches!(ledger.set_weights(&key(1), 1, &[(0, 1)]).await, Err(ChainError::HotKeyNotRegisteredInSubNet { .. })));

    // its stake stays its own, and counts again when it comes back, which only its coldkey may bring about
    assert_eq!(ledger.stakers(1, key(1).hotkey()).await.unwrap(), [(coldkey(1).hotkey(), 1_000)]);
    assert!(matches!(ledger.enroll(1, key(1).hotkey(), coldkey(7).hotkey()), Err(ChainError::NonAssociatedColdKey(_))));
    assert_eq!(enroll(&ledger, 1, 0), good);
    ledger.advance(1).unwrap();
    assert_eq!(neuron(&ledger, good).await.stake, 1_000);
    assert_eq!(ledger.weights(1, good).await.unwrap(), [], "what it set before it left is gone");

    // when all are immune one of them goes all the same, the oldest first, but never the owner
    assert_eq!((enroll(&ledger, 6, 0), enroll(&ledger, 7, 0), enroll(&ledger, 8, 0)), (idle, validator, good));
    ledger.advance(1).unwrap();
    assert_eq!(neuron(&ledger, 0).await.hotkey, key(0).hotkey());
    ledger.audit().unwrap();
}

#[tokio::test]
async fn weights_for_a_replaced_miner_are_not_the_new_ones() {
    let (_dir, ledger) = ledger(|config| (config.max_uids, config.immunity_period) = (3, 0));
    let (miner, _validator) = (enroll(&ledger, 2, 0), enroll(&ledger, 1, 1_000));
    ledger.advance(1).unwrap();
    ledger.set_weights(&key(1), 1, &[(miner, 65535)]).await.unwrap();
    ledger.advance(9).unwrap();
    assert_eq!(neuron(&ledger, miner).await.incentive, 65535);
    assert_eq!(enroll(&ledger, 3, 0), miner, "paid as much as the validator, as old, and of the lower uid");
    ledger.advance(1).unwrap();
    assert_eq!(neuron(&ledger, miner).await.incentive, 0);
    ledger.advance(9).unwrap();
    assert_eq!(neuron(&ledger, miner).await.incentive, 0, "the row is older than its registration");
    ledger.set_weights(&key(1), 1, &[(miner, 65535)]).await.unwrap();
    ledger.advance(10).unwrap();
    assert_eq!(neuron(&ledger, miner).await.incentive, 65535);
}

#[tokio::test]
async fn rows_keep_the_subnets_rules() {
    let (_dir, ledger) = ledger(|config| (config.min_allowed_weights, config.max_weight_limit) = (3, u16::MAX / 3));
    for n in 1..=5 {
        enroll(&ledger, n, u64::from(n == 1));
    }
    ledger.advance(1).unwrap();
    let set = async |n, row: &[(u16, u16)]| ledger.set_weights(&key(n), 1, row).await;
    assert!(matches!(set(1, &[(2, 1), (3, 1)]).await, Err(ChainError::WeightVecLengthIsLow)));
    assert!(matches!(set(1, &[(2, 2), (3, 1), (4, 1)]).await, Err(ChainError::MaxWeightExceeded)));
    set(1, &[(2, 9), (3, 9), (4, 9)]).await.unwrap();
    set(0, &[(0, 1)]).await.unwrap();
}

#[tokio::test]
async fn ten_commits_may_be_open() {
    let (_dir, ledger) = ledger(|config| (config.tempo, config.reveal_period) = (20, Some(1)));
    let commit = async |salt| {
        let hash = weights::commitment(&key(0).hotkey(), 1, &[(0, 1)], &[salt], 0);
        ledger.commit_weights(&key(0), 1, hash).await.map(|()| ledger.advance(1).unwrap())
    };
    for salt in 0..10 {
        commit(salt).await.unwrap();
    }
    assert!(matches!(commit(10).await, Err(ChainError::TooManyUnrevealedCommits)));
    ledger.advance(10).unwrap();
    ledger.reveal_weights(&key(0), 1, &[(0, 1)], &[7]).await.unwrap();
    for salt in 10..18 {
        commit(salt).await.unwrap();
    }
    let older = ledger.reveal_weights(&key(0), 1, &[(0, 1)], &[6]).await;
    assert!(matches!(older, Err(ChainError::InvalidRevealCommitHashNotMatch)), "a reveal drops the commits before it");
    assert!(matches!(commit(18).await, Err(ChainError::TooManyUnrevealedCommits)));
    assert!(matches!(ledger.commit_timelocked_weights(&key(0), 1, &[(0, 1)]).await, Err(ChainError::NotInThisRuntime { .. })));
}

/// What somebody does next; keys are 1 to 4.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fund(u8, u64),
    Register(u8, u8),
    Stake(u8, u8, u64),
    Unstake(u8, u8, u64),
    Weigh(u8, u16),
    Blocks(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 1u8..5;
    let rao = || 0..5 * RAO_PER_TAO;
    let step = prop_oneof![
        (key(), rao()).prop_map(|(who, rao)| Step::Fund(who, rao)),
        (key(), key()).prop_map(|(who, hotkey)| Step::Register(who, hotkey)),
        (key(), key(), rao()).prop_map(|(who, hotkey, rao)| Step::Stake(who, hotkey, rao)),
        (key(), key(), rao()).prop_map(|(who, hotkey, rao)| Step::Unstake(who, hotkey, rao)),
        (key(), 0u16..3).prop_map(|(who, uid)| Step::Weigh(who, uid)),
        (1u64..12).prop_map(Step::Blocks),
    ];
    prop::collection::vec(step, 1..40)
}

/// Plays the steps, refusals included, and returns what was minted and what was burned.
async fn play(ledger: &Ledger, steps: &[Step]) -> (u64, u64) {
    let (mut minted, mut burned) = (0, 0);
    for &step in steps {
        match step {
            Step::Fund(who, rao) => minted += ledger.fund(coldkey(who).hotkey(), rao).map_or(0, |()| rao),
            Step::Register(who, hotkey) => {
                ledger.advance(1).unwrap();
                let (hotkey, burn) = (key(hotkey).hotkey(), ledger.subnet(1).await.unwrap().burn);
                let head = ledger.head().await.unwrap().number;
                let known = ledger.neurons(1, head).await.unwrap().iter().any(|neuron| neuron.hotkey == hotkey);
                if ledger.burned_register(&coldkey(who), 1, hotkey).await.is_ok() && !known {
                    burned += burn;
                }
            }
            Step::Stake(who, hotkey, rao) => drop(ledger.add_stake(&coldkey(who), 1, key(hotkey).hotkey(), rao).await),
            Step::Unstake(who, hotkey, rao) => drop(ledger.remove_stake(&coldkey(who), 1, key(hotkey).hotkey(), rao).await),
            Step::Weigh(who, uid) => drop(ledger.set_weights(&key(who), 1, &[(uid, 1)]).await),
            Step::Blocks(blocks) => drop(ledger.advance(blocks).unwrap()),
        }
    }
    (minted, burned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_rao_is_created_or_lost(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let (_dir, ledger) = ledger(|config| (config.max_uids, config.immunity_period) = (3, 7));
            let (minted, burned) = play(&ledger, &steps).await;
            let head = ledger.advance(10).unwrap().number;
            let mut held = 0;
            for n in 0..5 {
                held += ledger.balance(coldkey(n).hotkey()).await.unwrap();
                held += ledger.stakers(1, key(n).hotkey()).await.unwrap().into_iter().map(|(_, rao)| rao).sum::<u64>();
            }
            let issued = (head - head % 10) * ledger.config().emission_per_block;
            assert_eq!(held + burned, minted + issued);
            for neuron in ledger.neurons(1, head).await.unwrap() {
                let staked: u64 = ledger.stakers(1, neuron.hotkey).await.unwrap().into_iter().map(|(_, rao)| rao).sum();
                assert_eq!(neuron.stake, staked);
            }
            ledger.audit().unwrap();
        });
    }
}
