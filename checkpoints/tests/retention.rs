//! What goes from buckets, in which order, and how far the log can be read without payloads.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use checkpoints::{
    Freed, LogReader, Offer, Reading, Replica, Survey, Sweep, keep_at, list_snapshots, offers, survey, sweep, write_snapshot,
};
use common::{Net, Peer, garbage, replace};
use protocol::{Checkpoints, Digest, Keep, Keeping, ObjectKey, Record, Retention, Signed, Vote};
use storage::Bucket;

/// Rounds kept; a snapshot may come after each.
const KEPT: u64 = 2;

async fn network() -> Net {
    Net::with(|config| {
        config.checkpoints = Checkpoints { every: 1 };
        config.retention = Retention { rounds: Some(KEPT), one_in: 3 };
    })
    .await
}

async fn snapshot(by: &Peer, net: &Net, replica: &Replica) {
    write_snapshot(&by.bucket, &replica.state, net.run.id, &replica.anchor, &by.keypair, 4096).await.unwrap();
}

async fn paths(bucket: &Bucket) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let surveyed = survey(bucket, |listed, _| {
        found.insert(listed.path.clone());
    });
    assert_eq!(surveyed.await.unwrap(), Survey::Whole);
    found
}

#[tokio::test]
async fn a_sweep_deletes_what_goes_shows_everything_and_may_be_repeated() {
    let net = network().await;
    let bucket = &net.miners[0].bucket;
    for round in 0..3 {
        for key in [ObjectKey::Envelope(round), ObjectKey::Payload(round), ObjectKey::PayloadKey(round)] {
            bucket.put(&key, vec![1; 10].into()).await.unwrap();
        }
    }
    let foreign = ObjectKey::Dataset("theirs".into());
    bucket.put(&foreign, "x".into()).await.unwrap();
    let keep = Keep { floor: 2, milestone: 3 };
    let before = paths(bucket).await;
    for mode in [Sweep::DryRun, Sweep::Delete] {
        let mut seen = BTreeSet::new();
        let freed = sweep(bucket, &keep, mode, |listed, key, keeping| {
            assert_eq!(keeping, keep.verdict(key), "{}", listed.path);
            seen.insert(listed.path.clone());
        });
        assert_eq!((freed.await.unwrap(), &seen), (Freed { objects: 4, bytes: 40 }, &before));
        let kept = before.iter().filter(|path| mode == Sweep::DryRun || !keep.verdict(ObjectKey::parse(path).as_ref()).goes());
        assert_eq!(paths(bucket).await, kept.cloned().collect());
    }
    assert_eq!(sweep(bucket, &keep, Sweep::Delete, |_, _, _| ()).await.unwrap(), Freed::default());
}

#[tokio::test]
async fn what_is_left_of_a_snapshot_is_never_taken_for_one() {
    let net = network().await;
    let mut replica = net.genesis();
    let keeper = &net.validators[0];
    for _ in 0..2 {
        net.round(&mut replica).await;
        snapshot(keeper, &net, &replica).await;
    }
    let keep = Keep { floor: 2, milestone: 3 };
    // as a sweep that was killed in its midst leaves it: without a manifest, and with some files
    let manifest = ObjectKey::Checkpoint { round: 1, file: "manifest".into() };
    let mut doomed = Vec::new();
    sweep(&keeper.bucket, &keep, Sweep::DryRun, |listed, _, keeping| {
        if keeping == Keeping::Thinned {
            doomed.push(listed.path.clone());
        }
    })
    .await
    .unwrap();
    assert!(doomed.contains(&manifest.to_string()) && doomed.len() > 3, "{doomed:?}");
    keeper.bucket.delete(&manifest).await.unwrap();
    assert_eq!(list_snapshots(&keeper.bucket).await.unwrap(), [2]);
    sweep(&keeper.bucket, &keep, Sweep::Delete, |_, _, _| ()).await.unwrap();
    let left = paths(&keeper.bucket).await;
    assert!(doomed.iter().all(|path| !left.contains(path)) && left.iter().any(|path| path.starts_with("checkpoints/00000002/")));
    // those that are newer, and those that stay for ever, are whole
    assert_eq!(list_snapshots(&keeper.bucket).await.unwrap(), [2]);
}

async fn newest(net: &Net) -> Offer {
    offers(&net.run, None).await.unwrap().remove(0)
}

#[tokio::test]
async fn payloads_stay_until_two_sound_snapshots_are_newer() {
    let net = network().await;
    let mut replica = net.genesis();
    let floor = async |head: u64| keep_at(&net.run, head).await.unwrap().floor;
    for _ in 0..4 {
        net.round(&mut replica).await;
    }
    assert_eq!(floor(4).await, 0, "there is genesis only");
    snapshot(&net.validators[0], &net, &replica).await;
    assert_eq!(floor(4).await, 0);
    net.round(&mut replica).await;
    snapshot(&net.validators[1], &net, &replica).await;
    assert_eq!((floor(5).await, floor(4).await), (3, 0), "whoever stands at round 4 knows one snapshot only");
    assert_eq!(floor(7).await, 4, "the last two snapshots stay within reach");
    // files are gone, or cut short: nobody can start there
    let offer = newest(&net).await;
    assert!(offer.round == 5 && offer.is_sound(&net.run).await.unwrap());
    let leaves = ObjectKey::Checkpoint { round: 5, file: "leaves".into() };
    let shard = paths(&offer.bucket).await.into_iter().find(|path| path.starts_with("checkpoints/00000005/model-")).unwrap();
    for (key, bytes) in [(leaves, None), (ObjectKey::parse(&shard).unwrap(), Some("short"))] {
        let bucket = &net.validators[1].bucket;
        let whole = bucket.get(&key, 1 << 20).await.unwrap().unwrap();
        bucket.delete(&key).await.unwrap();
        if let Some(bytes) = bytes {
            bucket.put(&key, bytes.into()).await.unwrap();
        }
        assert!(!offer.is_sound(&net.run).await.unwrap(), "{key}");
        assert_eq!(floor(5).await, 0, "{key}");
        replace(bucket, &key, whole).await;
    }
    assert_eq!(floor(5).await, 3);
}

#[tokio::test]
async fn a_snapshot_whose_record_nobody_agreed_on_keeps_nothing_from_going() {
    let net = network().await;
    let mut replica = net.genesis();
    for _ in 0..4 {
        net.round(&mut replica).await;
    }
    snapshot(&net.validators[0], &net, &replica).await;
    // the next record stands by silence, as one that a single validator makes up would
    let close = net.closed(&replica).await;
    let block = net.record_honestly(&replica, &close, 0).await;
    let times = &net.run.manifest.round;
    net.before((close.block + times.reveal + times.judge).max(block) + 2 * times.span + 1).await;
    net.step(&mut replica).await;
    snapshot(&net.validators[1], &net, &replica).await;
    let offer = newest(&net).await;
    assert!(offer.round == 5 && offer.check(&net.run).await.is_ok() && !offer.is_sound(&net.run).await.unwrap());
    assert_eq!(keep_at(&net.run, 5).await.unwrap().floor, 0);
}

/// Reads to the end; rounds, and how it ended.
async fn read(net: &Net, mut reader: LogReader) -> (LogReader, u64, Reading) {
    let mut rounds = 0;
    loop {
        match reader.advance(net.head().await).await.unwrap() {
            Reading::Record(_) => rounds += 1,
            end => return (reader, rounds, end),
        }
    }
}

#[tokio::test]
async fn the_log_reads_the_same_without_payloads() {
    let net = network().await;
    let mut replica = net.genesis();
    for _ in 0..3 {
        net.round(&mut replica).await;
    }
    for miner in &net.miners {
        for round in 0..3 {
            miner.bucket.delete(&ObjectKey::Payload(round)).await.unwrap();
        }
    }
    let (reader, rounds, end) = read(&net, LogReader::genesis(net.run.clone())).await;
    assert!(rounds == 3 && matches!(end, Reading::End), "{end:?}");
    assert_eq!((&reader.anchor, reader.root), (&replica.anchor, replica.root));
}

#[tokio::test]
async fn a_document_that_is_gone_or_wrong_ends_the_reading() {
    let net = network().await;
    let mut replica = net.genesis();
    net.round(&mut replica).await;
    let close = net.closed(&replica).await;
    net.record_with(&replica, &close, 0, |sheet, _| sheet.standing.miners.clear()).await;
    let (_, rounds, end) = read(&net, LogReader::genesis(net.run.clone())).await;
    assert!(rounds == 1 && matches!(end, Reading::Void(_, "its scores do not follow from its measurements")), "{end:?}");
    let lead = net.validators.iter().find(|v| v.keypair.hotkey() == close.list.signer).unwrap();
    lead.bucket.delete(&ObjectKey::SealList(1)).await.unwrap();
    let (_, _, end) = read(&net, LogReader::genesis(net.run.clone())).await;
    assert!(matches!(&end, Reading::Missing(_, candidate) if candidate.digest == close.list.digest()), "{end:?}");
    // what somebody signed that is no record is void for good
    let net = network().await;
    let replica = net.genesis();
    let close = net.closed(&replica).await;
    let lead = net.ranked(&replica).await[0];
    net.publish(lead, 0, b"", &garbage::<Record>(lead)).await;
    let (_, _, end) = read(&net, LogReader::genesis(net.run.clone())).await;
    assert!(matches!(end, Reading::Void(_, "not a record")), "{end:?} after {}", close.block);
}

#[tokio::test]
async fn a_wrong_root_is_passed_over_where_most_stake_agreed_on_another_record() {
    let net = network().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    // nobody votes on it, so that it would stand by silence
    net.record_with(&replica, &close, 0, |_, record| record.root = Digest::of(b"no state")).await;
    net.record_honestly(&replica, &close, 1).await;
    let second = net.ranked(&replica).await[1];
    let record = second.bucket.get(&ObjectKey::Record(0), 1 << 20).await.unwrap().unwrap();
    let digest = Signed::<Record>::digest_of(&record).unwrap();
    let (doubting, rounds, _) = read(&net, LogReader::genesis(net.run.clone())).await;
    assert!(rounds <= 1, "{:?}", doubting.anchor);
    let voters: Vec<&Peer> = net.validators.iter().collect();
    net.vote(&voters, 0, digest, Vote::Agrees).await;
    let (reader, rounds, _) = read(&net, LogReader::genesis(net.run.clone())).await;
    assert_eq!((rounds, reader.anchor.record), (1, digest));
    net.step(&mut replica).await;
    assert_eq!((&reader.anchor, reader.root), (&replica.anchor, replica.root), "as whoever has the payloads finds it");
}

#[tokio::test]
async fn where_nobody_votes_there_is_a_doubt_and_another_way() {
    let net = network().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    let wrong = net.record_with(&replica, &close, 0, |_, record| record.root = Digest::of(b"no state")).await;
    let right = net.record_honestly(&replica, &close, 1).await;
    let times = &net.run.manifest.round;
    net.before((close.block + times.reveal + times.judge).max(right) + 2 * times.span + 1).await;
    net.step(&mut replica).await;
    let mut reader = LogReader::genesis(net.run.clone());
    let Reading::Record(first) = reader.advance(net.head().await).await.unwrap() else { panic!("a record stands") };
    assert!(!first.agreed && first.has_rivals && first.block == wrong);
    let mut other = LogReader::genesis(net.run.clone());
    other.passed_over.insert(first.record.digest());
    let Reading::Record(second) = other.advance(net.head().await).await.unwrap() else { panic!("another stands") };
    assert!(!second.has_rivals && second.block == right);
    assert_eq!((&other.anchor, other.root), (&replica.anchor, replica.root));
}
