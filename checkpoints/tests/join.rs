//! Opening a run, and where a node starts in it.
#![allow(clippy::unwrap_used)]

mod common;

use chain::Chain;
use checkpoints::{Anchor, Home, Replica, Run, RunError, join, newest_snapshot, offers, open_folder, write_snapshot};
use common::{CONFIG, Net, Peer, fresh_store, launch, ledger};
use compression::State;
use protocol::{Digest, Manifest, ManifestError, ObjectKey, RunConfig};
use storage::{Access, Bucket};

/// Puts bytes up as the manifest of the run at `url`.
async fn put_manifest(url: &str, bytes: Vec<u8>) {
    Bucket::open(url, Access::Own).unwrap().put(&ObjectKey::Manifest, bytes.into()).await.unwrap();
}

#[tokio::test]
async fn an_address_without_a_manifest_is_no_run() {
    let url = fresh_store();
    let error = open_folder(&url, &Access::Trusted.into()).await.unwrap_err();
    assert!(matches!(&error, RunError::NoManifest(found) if *found == url), "{error}");
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_is_refused() {
    let manifest = Manifest::draft(RunConfig::parse(CONFIG).unwrap()).unwrap();
    let inconsistent = Manifest { version: protocol::MANIFEST_VERSION + 1, ..manifest.clone() };
    let with_space = [&manifest.to_bytes()[..], b"\n"].concat();
    for (bytes, refused) in [
        (b"{".to_vec(), (|e| matches!(e, ManifestError::Parse(_))) as fn(ManifestError) -> bool),
        (inconsistent.to_bytes(), |e| matches!(e, ManifestError::Config(_))),
        (with_space, |e| e == ManifestError::NotCanonical),
    ] {
        let url = fresh_store();
        put_manifest(&url, bytes).await;
        match open_folder(&url, &Access::Trusted.into()).await {
            Err(RunError::Manifest { url: found, source }) => assert!(found == url && refused(source.clone()), "{source}"),
            other => panic!("{other:?}"),
        }
    }
    let url = fresh_store();
    put_manifest(&url, vec![b' '; 1 << 17]).await;
    assert!(matches!(open_folder(&url, &Access::Trusted.into()).await, Err(RunError::Storage(_))), "never downloaded");
}

#[tokio::test]
async fn an_address_that_names_another_run_is_refused() {
    let manifest = Manifest::draft(RunConfig::parse(CONFIG).unwrap()).unwrap();
    let url = format!("{}/{}/", fresh_store(), Digest::of(b"another run"));
    put_manifest(&url, manifest.to_bytes()).await;
    match open_folder(&url, &Access::Trusted.into()).await {
        Err(RunError::WrongRun { found, .. }) => assert_eq!(found, manifest.run_id()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_run_of_another_chain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let chain = ledger(&dir);
    let (found, expected) = (chain.genesis().await.unwrap(), Digest::of(b"another chain"));
    let url = fresh_store();
    put_manifest(&url, Manifest::resolve(RunConfig::parse(CONFIG).unwrap(), launch(expected, 0)).unwrap().to_bytes()).await;
    match Run::open(&url, chain, Access::Trusted).await {
        Err(RunError::WrongChain { found: f, expected: e }) => assert_eq!((f, e), (found, expected)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_genesis_root_that_is_not_that_of_the_tensors_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let chain = ledger(&dir);
    let honest = Manifest::resolve(RunConfig::parse(CONFIG).unwrap(), launch(chain.genesis().await.unwrap(), 0)).unwrap();
    let expected = Digest::of(b"some root");
    let url = fresh_store();
    put_manifest(&url, Manifest { genesis_root: expected, ..honest.clone() }.to_bytes()).await;
    let run = Run::open(&url, chain, Access::Trusted).await.unwrap();
    match Replica::genesis(run) {
        Err(RunError::GenesisRoot { found, expected: e }) => assert_eq!((found, e), (honest.genesis_root, expected)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn addresses_that_nobody_can_open_are_passed_over() {
    let net = Net::new().await;
    let peer = &net.miners[0];
    let (hotkey, other) = (peer.keypair.hotkey(), net.miners[1].keypair.hotkey());
    assert!(net.run.bucket_of(&hotkey).await.unwrap().is_some());
    // a public network's node neither opens memory nor folders
    let strict = Run::open(&net.url, net.ledger.clone(), Access::Foreign).await.unwrap();
    assert!(strict.buckets().await.unwrap().is_empty());
    net.ledger.set_bucket(&peer.keypair, 1, "ftp://nowhere/bucket").await.unwrap();
    net.ledger.advance(1).unwrap();
    let late = Run::open(&net.url, net.ledger.clone(), Access::Trusted).await.unwrap();
    assert!(late.bucket_of(&hotkey).await.unwrap().is_none() && late.bucket_of(&other).await.unwrap().is_some());
}

async fn snapshot(by: &Peer, net: &Net, replica: &Replica, anchor: &Anchor) {
    write_snapshot(&by.bucket, &replica.state, net.run.id, anchor, &by.keypair, 4096).await.unwrap();
}

async fn newest(net: &Net) -> Option<Replica> {
    newest_snapshot(&net.run, None).await.unwrap()
}

#[tokio::test]
async fn a_late_joiner_starts_from_the_newest_snapshot_and_goes_on() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    assert!(newest(&net).await.is_none());
    net.round(&mut replica).await;
    snapshot(&net.validators[1], &net, &replica, &replica.anchor).await;
    net.round(&mut replica).await;
    snapshot(&net.validators[0], &net, &replica, &replica.anchor).await;
    let mut late = newest(&net).await.unwrap();
    assert_eq!((late.root, &late.anchor), (replica.root, &replica.anchor));
    let first = newest_snapshot(&net.run, Some(1)).await.unwrap().unwrap();
    assert_eq!(first.anchor.round, 1);
    net.round(&mut replica).await;
    for (mut from, steps) in [(first, 2), (late, 1)] {
        for _ in 0..steps {
            net.step(&mut from).await;
        }
        assert_eq!((from.root, &from.anchor), (replica.root, &replica.anchor));
    }
    late = newest(&net).await.unwrap();
    assert_eq!(late.anchor.round, 2);
}

#[tokio::test]
async fn snapshots_that_do_not_stand_on_the_log_are_passed_over() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    net.round(&mut replica).await;
    let [honest, liar, idle] = &net.validators[..] else { panic!() };
    // of round 0 there is no record
    snapshot(idle, &net, &net.genesis(), &net.genesis().anchor).await;
    assert!(newest(&net).await.is_none());
    // somebody without a permit
    snapshot(&net.miners[0], &net, &replica, &replica.anchor).await;
    assert!(newest(&net).await.is_none());
    // other tensors after the same record
    let mut state = State::clone(&replica.state);
    state.tensors_mut()[0][0] += 1.0;
    let poisoned = Replica::at(net.run.clone(), state, replica.anchor.clone());
    snapshot(liar, &net, &poisoned, &replica.anchor).await;
    assert!(newest(&net).await.is_none());
    let spoils: [fn(&mut Anchor); 8] = [
        |a| a.record = Digest::of(b"other"),
        |a| a.record_block += 1,
        |a| a.open_block = a.record_block,
        |a| a.open_block = u64::MAX,
        |a| a.since -= 1,
        |a| a.since = u64::MAX,
        |a| a.standing.miners[0].score = 1e9,
        |a| a.applied.truncate(1),
    ];
    for (index, spoil) in spoils.iter().enumerate() {
        for file in liar.bucket.list("checkpoints", 100).await.unwrap() {
            let file = file.rsplit('/').next().unwrap().to_owned();
            liar.bucket.delete(&ObjectKey::Checkpoint { round: 1, file }).await.unwrap();
        }
        let mut anchor = replica.anchor.clone();
        spoil(&mut anchor);
        snapshot(liar, &net, &replica, &anchor).await;
        assert!(newest(&net).await.is_none(), "change {index}");
        let offer = offers(&net.run, Some(1)).await.unwrap().remove(0);
        assert!(
            matches!(offer.read(&net.run).await, Err(RunError::OffChain { round: 1, validator }) if validator == liar.keypair.hotkey())
        );
    }
    snapshot(honest, &net, &replica, &replica.anchor).await;
    assert_eq!(newest(&net).await.unwrap().root, replica.root);
}

#[tokio::test]
async fn a_record_that_says_impossible_things_of_itself_keeps_nobody_from_joining() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    let block = net.record_with(&replica, &close, 0, |_, record| record.open_block = u64::MAX).await;
    let lead = net.ranked(&replica).await[0];
    assert_eq!(net.void(&mut replica).await, "names other validators than the chain");
    let record = lead.bucket.get(&ObjectKey::Record(0), 1 << 20).await.unwrap().unwrap();
    let digest = protocol::Signed::<protocol::Record>::digest_of(&record).unwrap();
    for open_block in [close.block, 0, u64::MAX] {
        let anchor = Anchor { round: 1, open_block, record_block: block, since: block, record: digest, ..replica.anchor.clone() };
        let mut state = State::clone(&replica.state);
        state.round = 1;
        snapshot(&net.validators[0], &net, &Replica::at(net.run.clone(), state, anchor.clone()), &anchor).await;
        assert!(newest(&net).await.is_none());
        for file in net.validators[0].bucket.list("checkpoints", 100).await.unwrap() {
            let file = file.rsplit('/').next().unwrap().to_owned();
            net.validators[0].bucket.delete(&ObjectKey::Checkpoint { round: 1, file }).await.unwrap();
        }
    }
    net.record_honestly(&replica, &close, 0).await;
    net.step(&mut replica).await;
    snapshot(&net.validators[0], &net, &replica, &replica.anchor).await;
    assert_eq!(newest(&net).await.unwrap().root, replica.root);
}

#[tokio::test]
async fn one_validator_cannot_offer_snapshots_without_end() {
    let net = Net::new().await;
    for round in 0..40 {
        let key = ObjectKey::Checkpoint { round, file: "manifest".into() };
        net.validators[0].bucket.put(&key, b"none".to_vec().into()).await.unwrap();
    }
    let offered = offers(&net.run, None).await.unwrap();
    assert_eq!((offered.len(), offered[0].round), (16, 39));
    assert_eq!(offers(&net.run, Some(3)).await.unwrap().len(), 1, "an old one that is asked for by name");
    assert!(newest(&net).await.is_none());
}

#[tokio::test]
async fn a_node_starts_at_home_else_from_a_snapshot_else_at_genesis() {
    let net = Net::new().await;
    let home = Home::open(&net.dir.path().join("node")).unwrap();
    let start = async || join(&net.run, &home).await.unwrap();
    assert_eq!(start().await.anchor, Anchor::genesis(net.run.id, &net.run.manifest));
    let mut replica = net.genesis();
    net.round(&mut replica).await;
    let at_home = replica.anchor.clone();
    net.round(&mut replica).await;
    snapshot(&net.validators[0], &net, &replica, &replica.anchor).await;
    assert_eq!(start().await.anchor, replica.anchor);
    let mut own = net.genesis();
    net.step(&mut own).await;
    home.save_replica(&own).unwrap();
    assert_eq!(start().await.anchor, at_home);
    std::fs::write(home.dir().join("state.safetensors"), "damaged").unwrap();
    assert_eq!(start().await.anchor, replica.anchor);
}
