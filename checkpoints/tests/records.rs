//! Records whose facts are wrong are void for everybody, and the next rank's stands.
#![allow(clippy::unwrap_used)]

mod common;

use chain::Chain as _;
use checkpoints::{Close, Replica};
use common::{Net, Peer};
use protocol::{
    Digest, Hotkey, JudgeMode, Record, Refusal,
    score::{Outcome, ScoreSheet, sample},
};

/// A record that the first lead makes after `spoil` is void for the reason `why`, and the next rank's stands on every node.
async fn void_record(why: &str, spoil: fn(&Net, &mut ScoreSheet, &mut Record)) {
    let net = Net::new().await;
    let mut replica = net.genesis();
    net.round(&mut replica).await;
    let close = net.closed(&replica).await;
    net.record_with(&replica, &close, 0, |sheet, record| spoil(&net, sheet, record)).await;
    assert_eq!(net.void(&mut replica).await, why);
    next_record_stands(&net, replica, &close).await;
}

async fn next_record_stands(net: &Net, mut replica: Replica, close: &Close) {
    let next = net.ranked(&replica).await[1];
    net.record_honestly(&replica, close, 1).await;
    let step = net.step(&mut replica).await;
    assert_eq!(step.record.signer, next.keypair.hotkey());
    let late = net.replayed(replica.anchor.round).await;
    assert_eq!((late.root, late.anchor), (replica.root, replica.anchor));
}

#[tokio::test]
async fn records_with_a_wrong_fact_of_their_own_are_void() {
    void_record("for another run or round", |_, _, r| r.run = Digest::of(b"other")).await;
    void_record("for another run or round", |_, _, r| r.round += 1).await;
    void_record("does not follow the record before", |net, _, r| r.previous = net.run.id).await;
    void_record("made under another seal list", |_, _, r| r.seal_list = Digest::of(b"other")).await;
    void_record("names other validators than the chain", |_, _, r| r.validators[0].stake += 1).await;
    void_record("names other validators than the chain", |_, _, r| r.open_block += 1).await;
    void_record("starts from another root", |_, _, r| r.base_root = Digest::of(b"other")).await;
    void_record("wrong root", |_, _, r| r.root = Digest::of(b"other")).await;
}

#[tokio::test]
async fn records_with_a_wrong_selection_are_void() {
    let why = "its selection does not follow from its scores";
    void_record(why, |_, _, r| r.applied.truncate(2)).await;
    void_record(why, |_, _, r| r.applied.swap(0, 1)).await;
    void_record(why, |_, _, r| r.applied[0].weight = 2.0).await;
    void_record(why, |_, _, r| r.applied[0].weight = f32::NAN).await;
    void_record(why, |_, _, r| r.applied[0].payload = Digest::of(b"other")).await;
    void_record(why, |_, _, r| r.applied[0].hotkey = Hotkey([0; 32])).await;
    void_record(why, |_, _, r| r.applied.push(r.applied[0].clone())).await;
}

#[tokio::test]
async fn records_with_a_wrong_sheet_are_void() {
    void_record("its score sheet is for another run or round", |_, s, _| s.run = Digest::of(b"other")).await;
    void_record("its score sheet is for another run or round", |_, s, _| s.round = 0).await;
    void_record("made under another seal list", |_, s, _| s.seal_list = Digest::of(b"other")).await;
    void_record("its scores do not follow from its measurements", |_, s, _| s.standing.miners[0].mu += 1.0).await;
    void_record("its scores do not follow from its measurements", |_, s, _| s.standing.miners[2].score = 1e308).await;
    void_record("its scores do not follow from its measurements", |_, s, _| s.standing.miners.clear()).await;
    void_record("its scores do not follow from its measurements", |_, s, _| s.standing.effect += 0.1).await;
    // figures of which no gain can be told make it no sheet at all
    void_record("not a score sheet", |_, s, _| {
        let Outcome::Measured { random, .. } = &mut s.entries[0].outcome else { panic!() };
        (random.before, random.after) = (1e308, -1e308);
    })
    .await;
}

#[tokio::test]
async fn records_whose_sheet_is_not_about_the_listed_envelopes_are_void() {
    let why = "its score sheet does not match the seal list";
    void_record(why, |_, s, _| drop(s.entries.pop())).await;
    void_record(why, |_, s, _| s.entries.push(s.entries[0].clone())).await;
    void_record(why, |_, s, _| s.entries[0].uid = s.entries[1].uid).await;
    // a payload that was never sealed, though its own hash is right
    void_record(why, |_, s, _| s.entries[0].payload = Digest::of(b"made after the close")).await;
    void_record(why, |net, s, _| s.entries[0].hotkey = net.validators[0].keypair.hotkey()).await;
    // a sound envelope, slandered
    void_record(why, |_, s, _| s.entries[0].outcome = Outcome::Refused(Refusal::WrongRoot)).await;
}

#[tokio::test]
async fn where_all_are_to_be_measured_a_record_that_leaves_one_unmeasured_is_void() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    net.round(&mut replica).await;
    let close = net.closed(&replica).await;
    publish_unmeasured(&net, &replica, &close, &net.miners[1]).await;
    assert_eq!(net.void(&mut replica).await, NOT_MEASURED);
    next_record_stands(&net, replica, &close).await;
}

const NOT_MEASURED: &str = "does not measure everybody whom the lot fell on";

/// The first lead publishes a sheet that measures everybody but one miner, and what follows from it.
async fn publish_unmeasured(net: &Net, replica: &Replica, close: &Close, left_out: &Peer) {
    let mut sheet = net.sheet(replica, close);
    sheet.entries.iter_mut().find(|e| e.uid == left_out.uid).unwrap().outcome = Outcome::Unmeasured;
    net.publish_sheet(replica, close, net.scored(replica, sheet)).await;
}

/// A network in which the lot falls on one miner per round, after a first round in which all were measured, as newcomers are: with the
/// second round's close, whose seed is on the chain, and the miner whom the lot fell on.
async fn sampled() -> (Net, Replica, Close, u16) {
    let net = Net::with(|config| {
        let judge = &mut config.judge;
        (judge.mode, judge.sample, judge.probation, judge.trust) = (JudgeMode::Sampled, 1, 1, 0.1);
    })
    .await;
    let mut replica = net.genesis();
    net.round(&mut replica).await;
    let close = net.closed(&replica).await;
    let seed = net.ledger.block(close.block + 1).await.unwrap().unwrap();
    let listed: Vec<_> = net.miners.iter().map(|m| (m.uid, m.keypair.hotkey())).collect();
    let chosen = sample(&listed, &replica.anchor.standing, &seed.hash, &replica.terms.judge);
    assert_eq!(chosen.len(), 1);
    (net, replica, close, *chosen.first().unwrap())
}

#[tokio::test]
async fn whom_the_lot_passed_over_may_stay_unmeasured_and_is_applied_for_its_standing() {
    let (net, mut replica, close, chosen) = sampled().await;
    let left_out = net.miners.iter().find(|m| m.uid != chosen).unwrap();
    publish_unmeasured(&net, &replica, &close, left_out).await;
    let step = net.step(&mut replica).await;
    let outcome = |uid| &step.sheet.value.entries.iter().find(|e| e.uid == uid).unwrap().outcome;
    assert_eq!(outcome(left_out.uid), &Outcome::Unmeasured);
    assert!(step.record.value.applied.iter().any(|a| a.uid == left_out.uid));
    assert_eq!(net.replayed(2).await.root, replica.root);
}

#[tokio::test]
async fn whom_the_lot_fell_on_must_be_measured() {
    let (net, mut replica, close, chosen) = sampled().await;
    let left_out = net.miners.iter().find(|m| m.uid == chosen).unwrap();
    publish_unmeasured(&net, &replica, &close, left_out).await;
    assert_eq!(net.void(&mut replica).await, NOT_MEASURED);
    next_record_stands(&net, replica, &close).await;
}

#[tokio::test]
async fn a_newcomer_must_be_measured_whatever_the_lot() {
    let net = Net::with(|config| (config.judge.mode, config.judge.sample, config.judge.probation) = (JudgeMode::Sampled, 1, 2)).await;
    let mut replica = net.genesis();
    for measured in 0..2 {
        assert!(replica.anchor.standing.miners.iter().all(|m| m.measured == measured));
        let close = net.closed(&replica).await;
        publish_unmeasured(&net, &replica, &close, &net.miners[0]).await;
        assert_eq!(net.void(&mut replica).await, NOT_MEASURED);
        net.record_honestly(&replica, &close, 1).await;
        net.step(&mut replica).await;
    }
}
