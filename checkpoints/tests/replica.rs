//! Replicas follow one log to one state, whatever leads and stores do.
#![allow(clippy::unwrap_used)]

mod common;

use chain::Chain as _;
use checkpoints::{Close, Progress, RunError, Stopwatch};
use common::{KEY, Net, Peer, garbage, replace};
use compression::Payload;
use protocol::{
    Announcement, Assignment, Countersign, Digest, Keypair, ObjectKey, Record, Refusal, Schedule, SealList, Sealed, Signed, Vote,
    score::{Outcome, ScoreSheet},
};

type Spoil<T> = fn(&Net, &mut T);

#[tokio::test]
async fn replicas_that_look_at_every_block_and_at_the_last_one_end_alike() {
    let net = Net::new().await;
    let (mut often, mut rarely) = (net.genesis(), net.genesis());
    for round in 0..3 {
        let step = net.round(&mut often).await;
        assert_eq!((step.record.value.round, step.payloads.len()), (round, 3));
        assert_ne!(step.record.value.root, step.record.value.base_root);
    }
    for _ in 0..3 {
        net.step(&mut rarely).await;
    }
    assert!(matches!(net.progress(&mut rarely).await, Progress::Training(_)));
    assert_eq!((often.root, &often.anchor), (rarely.root, &rarely.anchor));
    assert_eq!(often.root, Digest(often.state.root()));
}

#[tokio::test]
async fn a_bundle_is_enough() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let step = net.round(&mut replica).await;
    let bundle = compression::encode_bundle(&step.payloads.iter().collect::<Vec<_>>()).unwrap();
    for miner in &net.miners {
        for key in [ObjectKey::Payload(0), ObjectKey::PayloadKey(0), ObjectKey::Envelope(0)] {
            miner.bucket.delete(&key).await.unwrap();
        }
    }
    let mut late = net.genesis();
    assert!(matches!(net.progress(&mut late).await, Progress::Awaiting(..)), "the payloads are gone");
    // two buckets hold nonsense, or too much of it
    net.miners[0].bucket.put(&ObjectKey::Bundle(0), b"nonsense".to_vec().into()).await.unwrap();
    net.miners[1].bucket.put(&ObjectKey::Bundle(0), vec![0; 1 << 20].into()).await.unwrap();
    net.validators[2].bucket.put(&ObjectKey::Bundle(0), bundle.into()).await.unwrap();
    net.step(&mut late).await;
    assert_eq!(late.root, replica.root);
}

#[tokio::test]
async fn a_round_in_which_nobody_seals_passes_with_an_empty_record() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let before = replica.root;
    let close = net.close_honestly(&replica, 0).await;
    net.record_honestly(&replica, &close, 0).await;
    assert!(net.step(&mut replica).await.payloads.is_empty());
    assert_eq!((replica.state.round, replica.anchor.round), (1, 1));
    assert_eq!(replica.root, Digest(replica.state.root()));
    assert_ne!(replica.root, before, "the root binds the round");
}

#[tokio::test]
async fn remembered_payloads_are_not_fetched_again() {
    let net = Net::new().await;
    let (mut replica, round) = (net.genesis(), 0);
    let close = net.closed(&replica).await;
    net.record_honestly(&replica, &close, 0).await;
    for miner in &net.miners {
        let payload = net.payload(miner, &replica);
        replica.remember(Payload::parse(&payload, &net.run.format).unwrap());
        miner.bucket.delete(&ObjectKey::Payload(round)).await.unwrap();
    }
    net.step(&mut replica).await;
    assert!(replica.opened().is_empty(), "of the round before");
}

/// A seal list that the first lead signs after `spoil` is void, and the next rank's stands.
async fn void_list(what: &str, spoil: Spoil<SealList>) {
    let net = Net::new().await;
    let mut replica = net.genesis();
    for miner in &net.miners {
        net.seal(miner, &replica).await;
    }
    net.before(replica.anchor.since + 4).await;
    let (lead, mut list) = (net.ranked(&replica).await[0], net.list(&replica).await);
    spoil(&net, &mut list);
    net.close_with(lead, 0, Signed::new(list, &lead.keypair).to_bytes()).await;
    assert!(matches!(net.progress(&mut replica).await, Progress::Training(_)), "{what}");
    next_list_stands(&net).await;
}

async fn next_list_stands(net: &Net) {
    let mut replica = net.genesis();
    let close = net.close_honestly(&replica, 1).await;
    match net.progress(&mut replica).await {
        Progress::Closed(_, found) => assert_eq!((found.block, found.list), (close.block, close.list)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn seal_lists_with_a_wrong_fact_are_void() {
    void_list("another run", |_, l| l.run = Digest::of(b"other")).await;
    void_list("another round", |_, l| l.round = 1).await;
    void_list("not in order", |_, l| l.entries.swap(0, 1)).await;
    void_list("a uid twice", |_, l| l.entries.insert(0, l.entries[0].clone())).await;
    void_list("a uid that nobody has", |_, l| l.entries.push(Sealed { uid: 4000, envelope: vec![] })).await;
}

#[tokio::test]
async fn a_seal_list_of_another_signer_or_of_nothing_is_void() {
    for foreign in [true, false] {
        let net = Net::new().await;
        let mut replica = net.genesis();
        net.before(replica.anchor.since + 4).await;
        let leads = net.ranked(&replica).await;
        let list = Signed::new(net.list(&replica).await, &leads[1].keypair).to_bytes().to_vec();
        let bytes = if foreign { list } else { garbage::<SealList>(leads[0]) };
        net.close_with(leads[0], 0, &bytes).await;
        assert!(matches!(net.progress(&mut replica).await, Progress::Training(_)));
        next_list_stands(&net).await;
    }
}

#[tokio::test]
async fn a_lead_out_of_turn_and_a_stranger_are_not_heard() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    net.before(replica.anchor.since + 4).await;
    for peer in [net.ranked(&replica).await[2], &net.miners[0]] {
        let list = Signed::new(net.list(&replica).await, &peer.keypair);
        net.close_with(peer, 0, list.to_bytes()).await;
        assert!(matches!(net.progress(&mut replica).await, Progress::Training(log) if log.seal_lists.is_empty()));
    }
    next_list_stands(&net).await;
}

#[tokio::test]
async fn an_early_close_needs_everybody_of_the_record_before() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    net.round(&mut replica).await;
    // one of those applied has not sealed
    for miner in &net.miners[1..] {
        net.seal(miner, &replica).await;
    }
    let leads = net.ranked(&replica).await;
    let list = Signed::new(net.list(&replica).await, &leads[0].keypair);
    let block = net.close_with(leads[0], 1, list.to_bytes()).await;
    assert!(block < replica.anchor.since + 4);
    assert!(matches!(net.progress(&mut replica).await, Progress::Training(_)));
    net.seal(&net.miners[0], &replica).await;
    let list = Signed::new(net.list(&replica).await, &leads[0].keypair);
    let block = net.close_with(leads[0], 1, list.to_bytes()).await;
    assert!(block < replica.anchor.since + 4, "still early");
    // the first list's bytes are overwritten, so all wait until it is voted withheld
    let Progress::Awaiting(_, missing, _) = net.progress(&mut net.replayed(1).await).await else { panic!("the first list is gone") };
    net.before(missing.block + 3).await;
    net.vote(&leads[1..], 1, missing.digest, Vote::Withheld).await;
    assert!(matches!(net.progress(&mut replica).await, Progress::Closed(_, close) if close.block == block));
}

#[tokio::test]
async fn an_unsound_envelope_does_not_count_for_an_early_close() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    net.round(&mut replica).await;
    for miner in &net.miners {
        net.seal(miner, &replica).await;
    }
    let mut list = net.list(&replica).await;
    list.entries[0].envelope[0] ^= 1;
    let lead = net.ranked(&replica).await[0];
    let block = net.close_with(lead, 1, Signed::new(list, &lead.keypair).to_bytes()).await;
    assert!(block < replica.anchor.since + 4, "early");
    assert!(matches!(net.progress(&mut replica).await, Progress::Training(_)));
}

#[tokio::test]
async fn without_leave_in_the_manifest_nobody_closes_early() {
    let net = Net::with(|config| config.round.early_close = false).await;
    let mut replica = net.genesis();
    net.round(&mut replica).await;
    for miner in &net.miners {
        net.seal(miner, &replica).await;
    }
    let lead = net.ranked(&replica).await[0];
    let list = Signed::new(net.list(&replica).await, &lead.keypair);
    net.close_with(lead, 1, list.to_bytes()).await;
    assert!(matches!(net.progress(&mut replica).await, Progress::Training(_)));
}

#[tokio::test]
async fn a_payload_made_after_the_close_is_not_applied_even_if_its_lead_bundles_it() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    for miner in &net.miners[1..] {
        net.seal(miner, &replica).await;
    }
    // the first miner lists an envelope about nothing, and makes its payload once it has seen the others'
    let envelope = net.envelope(&net.miners[0], &replica, b"nothing");
    let bytes = Signed::new(envelope, &net.miners[0].keypair).to_bytes().to_vec();
    net.miners[0].bucket.put(&ObjectKey::Envelope(0), bytes.into()).await.unwrap();
    let close = net.close_honestly(&replica, 0).await;
    let payload = Payload::parse(&net.payload(&net.miners[0], &replica), &net.run.format).unwrap();
    let bundle = compression::encode_bundle(&[&payload]).unwrap();
    let leads = net.ranked(&replica).await;
    leads[0].bucket.put(&ObjectKey::Bundle(0), bundle.into()).await.unwrap();
    let mut sheet = net.sheet(&replica, &close);
    let (least, most) = net.run.sealed_len().into_inner();
    let size = Refusal::WrongSize { found: close.list.value.entries[0].open().unwrap().value.sealed_len, least, most };
    sheet.entries[0].payload = Digest(payload.digest());
    net.publish_sheet(&replica, &close, net.scored(&replica, sheet.clone())).await;
    assert_eq!(net.void(&mut replica).await, "its score sheet does not match the seal list");
    // the next rank says what everybody sees
    net.before(close.block + 4 + 1 + 3).await;
    sheet.entries[0].outcome = Outcome::Refused(size);
    let sheet = Signed::new(net.scored(&replica, sheet), &leads[1].keypair);
    let record = Signed::new(net.record(&replica, &close, &sheet).await, &leads[1].keypair);
    net.publish(leads[1], 0, sheet.to_bytes(), record.to_bytes()).await;
    assert_eq!(net.step(&mut replica).await.record.value.applied.len(), 2);
}

#[tokio::test]
async fn a_stolen_payload_names_its_owner() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let (thief, victim) = (&net.miners[0], &net.miners[1]);
    let payload = net.payload(victim, &replica);
    let envelope = net.envelope(thief, &replica, &payload);
    thief.bucket.put(&ObjectKey::Envelope(0), Signed::new(envelope, &thief.keypair).to_bytes().to_vec().into()).await.unwrap();
    let close = net.close_honestly(&replica, 0).await;
    let parsed = Payload::parse(&payload, &net.run.format).unwrap();
    let bundle = compression::encode_bundle(&[&parsed]).unwrap();
    net.ranked(&replica).await[0].bucket.put(&ObjectKey::Bundle(0), bundle.into()).await.unwrap();
    net.publish_sheet(&replica, &close, net.sheet(&replica, &close)).await;
    assert_eq!(net.void(&mut replica).await, "a payload names another owner");
}

#[tokio::test]
async fn documents_that_another_signed_or_that_are_none_void_the_record() {
    // as many as are looked at of one lead
    void_documents(0..3).await;
    void_documents(3..4).await;
}

async fn void_documents(which: std::ops::Range<usize>) {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    let [lead, other, _] = net.ranked(&replica).await[..] else { panic!() };
    let sign = |by: &Peer| Signed::new(net.sheet(&replica, &close), &by.keypair);
    let record = net.record(&replica, &close, &sign(lead)).await;
    let of_sheet = |score_sheet| Record { score_sheet, ..record.clone() };
    let foreign = Signed::new(of_sheet(sign(lead).digest()), &other.keypair);
    let foreign_sheet = Signed::new(of_sheet(sign(other).digest()), &lead.keypair);
    let no_sheet = garbage::<ScoreSheet>(lead);
    let of_no_sheet = Signed::new(of_sheet(Signed::<ScoreSheet>::digest_of(&no_sheet).unwrap()), &lead.keypair);
    let cases = [
        (sign(lead).to_bytes().to_vec(), foreign.to_bytes().to_vec(), "signed by another than the committing lead"),
        (sign(other).to_bytes().to_vec(), foreign_sheet.to_bytes().to_vec(), "signed by another than the committing lead"),
        (sign(lead).to_bytes().to_vec(), garbage::<Record>(lead), "not a record"),
        (no_sheet.clone(), of_no_sheet.to_bytes().to_vec(), "not a score sheet"),
    ];
    for (sheet, record, why) in cases[which].iter() {
        net.publish(lead, 0, sheet, record).await;
        assert_eq!(net.void(&mut replica).await, *why);
    }
    net.record_honestly(&replica, &close, 1).await;
    assert_eq!(net.step(&mut replica).await.record.signer, other.keypair.hotkey());
}

#[tokio::test]
async fn a_record_out_of_turn_is_not_heard() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    let [first, second, _] = net.ranked(&replica).await[..] else { panic!() };
    let sheet = Signed::new(net.sheet(&replica, &close), &second.keypair);
    let record = Signed::new(net.record(&replica, &close, &sheet).await, &second.keypair);
    net.publish(second, 0, sheet.to_bytes(), record.to_bytes()).await;
    assert!(matches!(net.progress(&mut replica).await, Progress::Closed(..)));
    assert!(replica.void().is_empty());
    net.record_honestly(&replica, &close, 0).await;
    assert_eq!(net.step(&mut replica).await.record.signer, first.keypair.hotkey());
}

#[tokio::test]
async fn a_record_whose_state_is_not_finite_is_void() {
    let net = Net::with(|config| config.outer.lr = Schedule::Constant(f32::MAX)).await;
    let mut replica = net.genesis();
    for miner in &net.miners {
        net.seal(miner, &replica).await;
    }
    // payloads of magnitudes above 1, each from its own miner
    for miner in &net.miners {
        let lengths = net.run.layout().tensors().iter().map(compression::TensorSpec::len);
        let large: Vec<Vec<f32>> = lengths.map(|len| vec![40.0; len]).collect();
        let header = compression::Header { run: net.run.id.0, round: 0, hotkey: miner.keypair.hotkey().0, base_root: replica.root.0 };
        let mut feedback = compression::ErrorFeedback::zeros(net.run.layout());
        let payload = compression::encode(&net.run.format, &header, &mut feedback, &large, 0.95).unwrap();
        let sealed = net.context(miner, &replica).seal(&KEY, &payload);
        let envelope = Signed::new(net.envelope(miner, &replica, &payload), &miner.keypair);
        replace(&miner.bucket, &ObjectKey::Payload(0), sealed).await;
        replace(&miner.bucket, &ObjectKey::Envelope(0), envelope.to_bytes()).await;
    }
    let close = net.close_honestly(&replica, 0).await;
    net.record_honestly(&replica, &close, 0).await;
    assert_eq!(net.void(&mut replica).await, "its state is not finite");
    assert_eq!(replica.root, net.run.manifest.genesis_root);
}

#[tokio::test]
async fn withheld_bytes_hold_all_up_until_most_other_stake_says_so() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    // under the heaviest lead, the others' stakes are equal
    while net.ranked(&replica).await[0].uid != net.validators[0].uid {
        net.round(&mut replica).await;
    }
    let round = replica.anchor.round;
    let [lead, second, third] = net.ranked(&replica).await[..] else { panic!() };
    for miner in &net.miners {
        net.seal(miner, &replica).await;
    }
    net.before(replica.anchor.since + 4).await;
    let hidden = Digest::of(b"nobody ever sees this");
    let block = net.commit(lead, &Announcement::SealList { run: net.run.id, round, digest: hidden }).await;
    let waits = |progress, hidden| matches!(progress, Progress::Awaiting(_, c, _) if c.digest == hidden);
    assert!(waits(net.progress(&mut replica).await, hidden));
    net.before(block + 3).await;
    net.vote(&[second, lead, &net.miners[0]], round, hidden, Vote::Withheld).await;
    assert!(waits(net.progress(&mut replica).await, hidden), "half of the other stake is not most of it");
    net.vote(&[third], round, hidden, Vote::Withheld).await;
    assert!(matches!(net.progress(&mut replica).await, Progress::Training(_)));
    // the round goes on with the next rank, whose record is withheld in turn
    let span = 3 * net.validators.len() as u64;
    net.before(replica.anchor.since + 5 + 3 + span).await;
    let list = Signed::new(net.list(&replica).await, &second.keypair);
    let block = net.close_with(second, round, list.to_bytes()).await;
    for miner in &net.miners {
        net.reveal(miner, round).await;
    }
    let close = Close { block, list };
    let hidden = Digest::of(b"nor this");
    let block = net.commit_record(lead, round, hidden).await;
    assert!(waits(net.progress(&mut replica).await, hidden));
    net.before(block + 3).await;
    net.vote(&[second, third], round, hidden, Vote::Withheld).await;
    assert!(matches!(net.progress(&mut replica).await, Progress::Closed(..)));
    net.record_honestly(&replica, &close, 1).await;
    net.step(&mut replica).await;
}

#[tokio::test]
async fn a_record_counts_once_most_stake_is_behind_it_or_when_the_votes_are_due() {
    let net = Net::new().await;
    let (mut agreed, mut waited) = (net.genesis(), net.genesis());
    let close = net.closed(&agreed).await;
    let [_, second, third] = net.ranked(&agreed).await[..] else { panic!() };
    let block = net.record_honestly(&agreed, &close, 0).await;
    let Progress::Pending(_, step) = net.progress(&mut agreed).await else { panic!() };
    assert_eq!(agreed.root, step.record.value.base_root, "nothing was taken yet");
    let (round, digest) = (0, step.record.digest());
    // a stranger's word and an early complaint about bytes count for nothing
    net.vote(&[&net.miners[0]], round, digest, Vote::Contradicts).await;
    net.vote(&[second, third], round, digest, Vote::Withheld).await;
    assert!(matches!(net.progress(&mut agreed).await, Progress::Pending(..)));
    let mut early = net.replayed(0).await;
    assert!(matches!(net.progress(&mut early).await, Progress::Pending(..)));
    let since = net.vote(&[second], round, digest, Vote::Agrees).await;
    net.step(&mut agreed).await;
    assert_eq!((agreed.anchor.record_block, agreed.anchor.since), (block, since));
    // in the next round nobody votes
    let close = net.closed(&agreed).await;
    let block = net.record_honestly(&agreed, &close, 0).await;
    let Progress::Pending(log, _) = net.progress(&mut agreed).await else { panic!() };
    let due = log.plan.votes_due(close.block, block);
    net.before(due).await;
    assert!(matches!(net.progress(&mut agreed).await, Progress::Pending(..)));
    net.before(due + 1).await;
    for replica in [&mut agreed, &mut waited, &mut early] {
        while replica.anchor.round < 2 {
            net.step(replica).await;
        }
        assert_eq!((replica.anchor.record_block, replica.anchor.since), (block, due));
    }
    assert!(agreed.root == waited.root && agreed.anchor == waited.anchor);
}

#[tokio::test]
async fn a_record_that_most_stake_contradicts_is_passed_over_for_everybody() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    let [first, second, third] = net.ranked(&replica).await[..] else { panic!() };
    net.record_honestly(&replica, &close, 0).await;
    let Progress::Pending(_, step) = net.progress(&mut replica).await else { panic!() };
    net.vote(&[second, third], 0, step.record.digest(), Vote::Contradicts).await;
    assert!(matches!(net.progress(&mut replica).await, Progress::Closed(..)));
    assert!(replica.void().is_empty(), "its facts hold");
    // the same record in other bytes is the same record
    let said = Announcement::Record { run: net.run.id, round: 0, digest: step.record.digest() };
    net.ledger.commit(&first.keypair, common::NETUID, &said.encode_again(1)).await.unwrap();
    net.ledger.advance(1).unwrap();
    assert!(matches!(net.progress(&mut replica).await, Progress::Closed(..)));
    net.record_honestly(&replica, &close, 1).await;
    let next = net.step(&mut replica).await;
    assert_eq!((next.record.signer, next.record.value.root), (second.keypair.hotkey(), step.record.value.root));
    assert_eq!(net.replayed(1).await.anchor, replica.anchor);
}

#[tokio::test]
async fn where_every_rank_was_voted_down_the_round_goes_on_with_the_first() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    let leads = net.ranked(&replica).await;
    let mut roots = Vec::new();
    for (rank, lead) in leads.iter().enumerate() {
        net.record_honestly(&replica, &close, rank).await;
        let Progress::Pending(_, step) = net.progress(&mut replica).await else { panic!("rank {rank}") };
        assert_eq!(step.record.signer, lead.keypair.hotkey());
        let others: Vec<&Peer> = leads.iter().filter(|other| other.uid != lead.uid).copied().collect();
        net.vote(&others, 0, step.record.digest(), Vote::Contradicts).await;
        let Progress::Closed(log, _) = net.progress(&mut replica).await else { panic!("rank {rank}") };
        roots.push((step.record.digest(), log.plan.patience(close.block)));
    }
    let (first, patience) = roots[0];
    net.before(patience).await;
    assert!(matches!(net.progress(&mut replica).await, Progress::Closed(..)));
    net.before(patience + 1).await;
    net.step(&mut replica).await;
    assert_eq!((replica.anchor.record, replica.anchor.since), (first, patience));
    // what comes later comes too late
    net.before(patience + 9).await;
    assert_eq!(net.replayed(1).await.anchor, replica.anchor);
}

/// A round in which rank 1 commits a second seal list after the first, and rank 0 a record under the first; nobody has voted.
async fn two_lists(net: &Net, replica: &mut checkpoints::Replica) -> (Digest, Digest) {
    let close = net.closed(replica).await;
    let [_, second, _] = net.ranked(replica).await[..] else { panic!() };
    net.before(replica.anchor.since + 4 + 4).await;
    let again = Signed::new(net.list(replica).await, &second.keypair);
    net.close_with(second, 0, again.to_bytes()).await;
    net.ledger.advance(1).unwrap();
    net.record_honestly(replica, &close, 0).await;
    let Progress::Pending(_, step) = net.progress(replica).await else { panic!() };
    (close.list.digest(), step.record.digest())
}

#[tokio::test]
async fn a_record_made_under_a_list_that_is_passed_over_is_void_for_whoever_had_checked_it() {
    let net = Net::new().await;
    let mut watching = net.genesis();
    let (list, _) = two_lists(&net, &mut watching).await;
    let [_, second, third] = net.ranked(&watching).await[..] else { panic!() };
    net.vote(&[second, third], 0, list, Vote::Withheld).await;
    let mut late = net.genesis();
    for replica in [&mut watching, &mut late] {
        assert!(matches!(net.progress(replica).await, Progress::Closed(_, close) if close.list.signer == second.keypair.hotkey()));
        assert_eq!(replica.void().iter().map(|(_, why)| *why).collect::<Vec<_>>(), ["made under another seal list"]);
    }
}

#[tokio::test]
async fn a_list_under_which_a_record_stands_cannot_be_missed_any_more() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let (list, record) = two_lists(&net, &mut replica).await;
    let [_, second, third] = net.ranked(&replica).await[..] else { panic!() };
    net.vote(&[second, third], 0, record, Vote::Agrees).await;
    net.step(&mut replica).await;
    net.vote(&[second, third], 0, list, Vote::Withheld).await;
    net.vote(&[second, third], 0, record, Vote::Withheld).await;
    assert_eq!(net.replayed(1).await.anchor, replica.anchor);
}

#[tokio::test]
async fn of_one_leads_records_only_a_few_are_looked_at() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    let lead = net.ranked(&replica).await[0];
    for hidden in 0..3u8 {
        let said = Announcement::Record { run: net.run.id, round: 0, digest: Digest::of(&[hidden]) };
        net.ledger.commit(&lead.keypair, common::NETUID, &said.encode()).await.unwrap();
    }
    net.ledger.advance(1).unwrap();
    net.record_honestly(&replica, &close, 0).await;
    let Progress::Awaiting(log, _, _) = net.progress(&mut replica).await else { panic!() };
    assert_eq!(log.records(close.block).len(), 3, "the fourth is one too many, whatever it is");
}

#[tokio::test]
async fn bytes_that_differ_from_reader_to_reader_void_nothing() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    let lead = net.ranked(&replica).await[0];
    net.record_honestly(&replica, &close, 0).await;
    let good = lead.bucket.get(&ObjectKey::Record(0), 1 << 20).await.unwrap().unwrap().to_vec();
    let mut unsigned = good.clone();
    unsigned[0] ^= 1;
    let other =
        Signed::new(net.record(&net.genesis(), &close, &Signed::new(net.sheet(&replica, &close), &lead.keypair)).await, &lead.keypair);
    let mut changed = other.value.clone();
    changed.root = Digest::of(b"other");
    let changed = Signed::new(changed, &lead.keypair).to_bytes().to_vec();
    for bad in [unsigned, changed, vec![0; (1 << 20) + 1], vec![], vec![1; 63]] {
        replace(&lead.bucket, &ObjectKey::Record(0), bad).await;
        assert!(matches!(net.progress(&mut replica).await, Progress::Awaiting(..)));
    }
    replace(&lead.bucket, &ObjectKey::Record(0), good).await;
    net.step(&mut replica).await;
}

#[tokio::test]
async fn who_copies_a_leads_list_does_not_void_it() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    assert!(matches!(net.progress(&mut replica).await, Progress::Closed(..)));
    // the next rank commits the same digest in its own span, and has the bytes
    net.before(replica.anchor.since + 4 + 1 + 3).await;
    net.close_with(net.ranked(&replica).await[1], 0, close.list.to_bytes()).await;
    for replica in [&mut replica, &mut net.genesis()] {
        assert!(matches!(net.progress(replica).await, Progress::Closed(_, found) if found.block == close.block));
    }
    net.record_honestly(&replica, &close, 1).await;
    net.step(&mut replica).await;
    assert_eq!(net.replayed(1).await.root, replica.root);
}

#[tokio::test]
async fn of_two_records_by_one_lead_the_first_on_the_chain_stands() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    let first = net.publish_sheet(&replica, &close, net.sheet(&replica, &close)).await;
    let lead = net.ranked(&replica).await[0];
    let bytes = lead.bucket.get(&ObjectKey::Record(0), 1 << 20).await.unwrap().unwrap();
    let sheet = lead.bucket.get(&ObjectKey::ScoreSheet(0), 4 << 20).await.unwrap().unwrap();
    // the second one leaves a miner out
    let mut other = net.sheet(&replica, &close);
    other.entries[0].outcome = Outcome::Refused(Refusal::NotRevealed);
    let second = net.publish_sheet(&replica, &close, net.scored(&replica, other)).await;
    assert_ne!(first.value.root, second.value.root);
    // whoever is shown only the second waits
    let mut shown_second = net.genesis();
    assert!(matches!(net.progress(&mut shown_second).await, Progress::Awaiting(_, c, _) if c.digest == first.digest()));
    replace(&lead.bucket, &ObjectKey::Record(0), bytes.to_vec()).await;
    replace(&lead.bucket, &ObjectKey::ScoreSheet(0), sheet.to_vec()).await;
    for replica in [&mut replica, &mut shown_second] {
        net.step(replica).await;
        assert_eq!((replica.root, replica.anchor.record), (first.value.root, first.digest()));
    }
}

#[tokio::test]
async fn a_node_that_most_stake_contradicts_says_so_even_if_it_looked_first() {
    let net = Net::new().await;
    let mut replica = net.genesis();
    let close = net.closed(&replica).await;
    let leads = net.ranked(&replica).await;
    let theirs = Digest::of(b"what the others computed");
    net.record_with(&replica, &close, 0, |_, record| record.root = theirs).await;
    assert_eq!(net.void(&mut replica).await, "wrong root");
    let record = leads[0].bucket.get(&ObjectKey::Record(0), 1 << 20).await.unwrap().unwrap();
    let record = Signed::<Record>::parse(&record).unwrap();
    let countersign = |round, record| Countersign { run: net.run.id, round, record, dissents: vec![] };
    // another record's countersignature and a stranger's do not count
    let other = Signed::new(countersign(0, Digest::of(b"other")), &leads[1].keypair);
    replace(&leads[1].bucket, &ObjectKey::Countersign(0, record.digest()), other.to_bytes()).await;
    let strange = Signed::new(countersign(0, record.digest()), &Keypair::from_seed(&[77; 32]));
    replace(&leads[2].bucket, &ObjectKey::Countersign(0, record.digest()), strange.to_bytes()).await;
    assert!(matches!(net.progress(&mut replica).await, Progress::Closed(..)));
    // the lead's own stake does not count, so most of the others' is needed
    for validator in &leads[1..] {
        let agreed = Signed::new(countersign(0, record.digest()), &validator.keypair);
        replace(&validator.bucket, &ObjectKey::Countersign(0, record.digest()), agreed.to_bytes()).await;
    }
    for replica in [&mut replica, &mut net.genesis()] {
        let ours = replica.root;
        match replica.advance(net.head().await, &mut Stopwatch::default()).await {
            Err(RunError::Diverged { round: 0, theirs: found, .. }) => assert_eq!(found, theirs),
            other => panic!("{other:?}"),
        }
        assert_eq!((replica.root, replica.anchor.round), (ours, 0), "nothing has changed");
    }
}

/// One act: of validator `by`, or of the one whose turn it is; honest or not. Each validator publishes at most one list and one record.
async fn act(net: &Net, replica: &mut checkpoints::Replica, by: usize, what: u64) {
    let (next, hidden) = (net.head().await + 1, Digest::of(b"nobody ever sees this"));
    let fresh = async |lead: &Peer, key: ObjectKey| lead.bucket.size(&key).await.unwrap().is_none();
    let peer = &net.validators[by];
    match (net.progress(replica).await, what) {
        (_, 0) => net.commit(peer, &Announcement::SealList { run: net.run.id, round: 0, digest: hidden }).await,
        (_, 1) => net.commit_record(peer, 0, hidden).await,
        (_, 2) => net.vote(&[peer], 0, hidden, Vote::Withheld).await,
        (Progress::Pending(_, step), _) => {
            let vote = if what < 6 { Vote::Contradicts } else { Vote::Agrees };
            net.vote(&[peer], 0, step.record.digest(), vote).await
        }
        (_, 3) => net.vote(&[peer], 0, hidden, Vote::Withheld).await,
        (Progress::Closed(_, close), 4) if fresh(peer, ObjectKey::SealList(0)).await => {
            net.close_with(peer, 0, close.list.to_bytes()).await
        }
        (Progress::Training(log), 5..) => {
            let lead = net.ranked(replica).await[log.plan.seal_rank(next).unwrap()];
            let mut list = net.list(replica).await;
            list.entries.rotate_left(usize::from(what == 5));
            match fresh(lead, ObjectKey::SealList(0)).await {
                true => net.close_with(lead, 0, Signed::new(list, &lead.keypair).to_bytes()).await,
                false => net.ledger.advance(1).unwrap().number,
            }
        }
        (Progress::Closed(log, close), 5..) => {
            let lead = net.ranked(replica).await[log.plan.record_rank(close.block, next).unwrap()];
            let sheet = Signed::new(net.sheet(replica, &close), &lead.keypair);
            let mut record = net.record(replica, &close, &sheet).await;
            if what < 7 {
                record.root = hidden;
            }
            match fresh(lead, ObjectKey::Record(0)).await {
                true => net.publish(lead, 0, sheet.to_bytes(), Signed::new(record, &lead.keypair).to_bytes()).await,
                false => net.ledger.advance(1).unwrap().number,
            }
        }
        _ => net.ledger.advance(1).unwrap().number,
    };
}

#[tokio::test]
async fn nodes_that_see_the_same_chain_decide_the_same() {
    let mut stepped = 0;
    for seed in 0..16 {
        let net = Net::new().await;
        let mut watching = net.genesis();
        for miner in &net.miners {
            net.seal(miner, &watching).await;
            net.reveal(miner, 0).await;
        }
        let dice = Assignment::random(&net.run.id, &Digest::of(&[seed]), 27).indices(0, 60);
        for draw in dice {
            if watching.anchor.round == 0 {
                act(&net, &mut watching, (draw % 3) as usize, draw / 3).await;
            }
            let mut late = net.genesis();
            let (a, b) = (net.progress(&mut watching).await, net.progress(&mut late).await);
            if watching.anchor.round == 1 && late.anchor.round == 1 {
                stepped += 1;
                assert_eq!((watching.root, &watching.anchor), (late.root, &late.anchor), "seed {seed}");
                break;
            }
            assert_eq!(std::mem::discriminant(&a), std::mem::discriminant(&b), "seed {seed}: {a:?} {b:?}");
        }
    }
    assert!(stepped >= 6, "{stepped} of 16 came to a record");
}
