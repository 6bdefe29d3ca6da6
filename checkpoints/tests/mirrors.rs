//! Copies of the log's documents: what one node fetched, everybody can replay, whatever its lead does afterwards.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use checkpoints::{Event, Events, Follower, Identity, Progress, Replica, Shutdown, Step};
use common::{Net, Peer, garbage, replace};
use protocol::{Digest, ObjectKey, Record, SealList, Signed, score::ScoreSheet};
use storage::{Access, Bucket};
use tokio::sync::mpsc::Receiver;

/// A node that keeps copies in `peer`'s bucket.
struct Keeper {
    node: Follower,
    told: Receiver<Event>,
}

impl Keeper {
    async fn new(net: &Net, peer: &Peer, access: Access) -> Self {
        let address = peer.bucket.url().strip_suffix(&format!("/{}", net.run.id)).unwrap();
        let (bucket, home) = (Bucket::open(address, access).unwrap(), net.dir.path().join(peer.uid.to_string()));
        let (events, told) = Events::channel();
        let identity = Identity { keypair: peer.keypair.clone(), home, bucket };
        Self { node: Follower::start(net.run.clone(), identity, events, Shutdown::pair().1).await.unwrap(), told }
    }

    async fn look(&mut self) -> Progress {
        self.node.advance_and_copy().await.unwrap().unwrap()
    }

    async fn step(&mut self) -> Arc<Step> {
        if let Progress::Stepped(step) = self.look().await { step } else { panic!("{:?}", self.node.replica.void()) }
    }
}

/// A network whose first round is honest and recorded, a node that kept copies of it, and the round's step.
async fn recorded() -> (Net, Keeper, Arc<Step>) {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let mut keeper = Keeper::new(&net, net.ranked(&replica).await[2], Access::Own).await;
    let close = net.closed(&replica).await;
    keeper.look().await;
    net.record_honestly(&replica, &close, 0).await;
    net.step(&mut replica).await;
    let step = keeper.step().await;
    assert_eq!(keeper.node.replica.root, replica.root);
    (net, keeper, step)
}

/// What the first round's lead published and keepers copy.
fn documents(step: &Step) -> [(ObjectKey, Vec<u8>, Digest); 3] {
    let Step { record, sheet, close, .. } = step;
    [
        (ObjectKey::SealList(0), close.list.to_bytes().to_vec(), close.list.digest()),
        (ObjectKey::ScoreSheet(0), sheet.to_bytes().to_vec(), sheet.digest()),
        (ObjectKey::Record(0), record.to_bytes().to_vec(), record.digest()),
    ]
}

async fn first_lead(net: &Net) -> &Peer {
    net.ranked(&net.genesis()).await[0]
}

async fn forget(net: &Net) {
    let lead = first_lead(net).await;
    for key in [ObjectKey::SealList(0), ObjectKey::ScoreSheet(0), ObjectKey::Record(0)] {
        lead.bucket.delete(&key).await.unwrap();
    }
}

/// A stranger who starts at genesis comes to the same place, in one step.
async fn replays(net: &Net, known: &Replica) {
    let late = net.replayed(1).await;
    assert_eq!((late.root, &late.anchor), (known.root, &known.anchor));
}

async fn waits(net: &Net) -> bool {
    matches!(net.progress(&mut net.genesis()).await, Progress::Awaiting(..))
}

#[tokio::test]
async fn a_round_whose_lead_removed_everything_is_replayed_from_copies() {
    let (net, keeper, step) = recorded().await;
    forget(&net).await;
    replays(&net, &keeper.node.replica).await;
    for (key, bytes, digest) in documents(&step) {
        let copy = key.copy(digest);
        keeper.node.bucket.delete(&copy).await.unwrap();
        assert!(waits(&net).await, "nobody has {copy}");
        keeper.node.bucket.put(&copy, bytes.into()).await.unwrap();
        replays(&net, &keeper.node.replica).await;
    }
}

#[tokio::test]
async fn other_bytes_under_a_copys_key_do_no_harm() {
    let (net, keeper, step) = recorded().await;
    forget(&net).await;
    for (key, good, digest) in documents(&step) {
        let copy = key.copy(digest);
        let mut unsigned = good.clone();
        unsigned[0] ^= 1;
        let another = documents(&step).into_iter().find(|(other, ..)| *other != key).unwrap().1;
        let bad = [unsigned, another, vec![0; (4 << 20) + 1], vec![], garbage::<Record>(&net.miners[0])];
        for (peer, bytes) in net.validators.iter().chain(&net.miners[..2]).zip(bad) {
            replace(&peer.bucket, &copy, bytes).await;
        }
        assert!(waits(&net).await, "only bad copies of {key}");
        // even a node that validates nothing may have the good one
        net.miners[2].bucket.put(&copy, good.into()).await.unwrap();
        replays(&net, &keeper.node.replica).await;
    }
}

/// Bytes of a sheet and of a record, made of honest ones.
type Spoil = fn(&Peer, Signed<ScoreSheet>, Record) -> (Vec<u8>, Vec<u8>);

/// The first lead commits what `spoil` makes of its sheet and record, shows it for a block, and then commits an honest record in its place.
async fn void_first(why: &str, spoil: Spoil) {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let leads = net.ranked(&replica).await;
    let mut keeper = Keeper::new(&net, leads[2], Access::Own).await;
    let close = net.closed(&replica).await;
    let sheet = Signed::new(net.sheet(&replica, &close), &leads[0].keypair);
    let record = net.record(&replica, &close, &sheet).await;
    let (sheet, record) = spoil(leads[0], sheet, record);
    net.publish(leads[0], 0, &sheet, &record).await;
    assert!(matches!(keeper.look().await, Progress::Closed(..)), "{why}");
    assert_eq!(keeper.node.replica.void()[0].1, why);
    net.record_honestly(&replica, &close, 0).await;
    net.step(&mut replica).await;
    keeper.step().await;
    forget(&net).await;
    replays(&net, &keeper.node.replica).await;
}

#[tokio::test]
async fn a_void_record_that_its_lead_overwrites_stays_void_for_whoever_comes_late() {
    void_first("wrong root", |lead, sheet, record| {
        let wrong = Record { root: Digest::of(b"other"), ..record };
        (sheet.to_bytes().to_vec(), Signed::new(wrong, &lead.keypair).to_bytes().to_vec())
    })
    .await;
    void_first("not a record", |lead, sheet, _| (sheet.to_bytes().to_vec(), garbage::<Record>(lead))).await;
    void_first("not a score sheet", |lead, _, record| {
        let sheet = garbage::<ScoreSheet>(lead);
        let record = Record { score_sheet: Signed::<ScoreSheet>::digest_of(&sheet).unwrap(), ..record };
        (sheet, Signed::new(record, &lead.keypair).to_bytes().to_vec())
    })
    .await;
}

#[tokio::test]
async fn one_digest_committed_as_two_kinds_of_document_has_a_copy_of_each() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let leads = net.ranked(&replica).await;
    let mut keeper = Keeper::new(&net, leads[2], Access::Own).await;
    for miner in &net.miners {
        net.seal(miner, &replica).await;
    }
    net.before(replica.anchor.since + 4).await;
    let (list, record) = (garbage::<SealList>(leads[0]), garbage::<Record>(leads[0]));
    assert_eq!(list[64..], record[64..], "the digest is over signer and body");
    net.close_with(leads[0], 0, &list).await;
    assert!(matches!(keeper.look().await, Progress::Training(_)));
    let close = net.close_honestly(&replica, 1).await;
    net.publish(leads[0], 0, &[], &record).await;
    assert!(matches!(keeper.look().await, Progress::Closed(..)));
    net.record_honestly(&replica, &close, 0).await;
    net.step(&mut replica).await;
    keeper.step().await;
    forget(&net).await;
    replays(&net, &keeper.node.replica).await;
}

#[tokio::test]
async fn a_copy_that_cannot_be_published_costs_a_warning() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    // a bucket that is only read
    let mut keeper = Keeper::new(&net, net.ranked(&replica).await[2], Access::Trusted).await;
    net.round(&mut replica).await;
    keeper.step().await;
    let mut warnings = 0;
    while let Ok(event) = keeper.told.try_recv() {
        warnings += usize::from(matches!(event, Event::Warning { .. }));
    }
    assert_eq!(warnings, 3, "seal list, score sheet, record");
}

#[tokio::test]
async fn a_lead_keeps_no_copies_of_its_own_documents() {
    let net = Net::new().await;
    let mut lead = Keeper::new(&net, first_lead(&net).await, Access::Own).await;
    net.round(&mut net.genesis()).await;
    let step = lead.step().await;
    for (key, _, digest) in documents(&step) {
        assert!(lead.node.bucket.size(&key).await.unwrap().is_some());
        assert_eq!(lead.node.bucket.size(&key.copy(digest)).await.unwrap(), None);
    }
}
