//! One test for each way in which an envelope or a payload is refused.
#![allow(clippy::unwrap_used)]

mod common;

use checkpoints::{Replica, check_envelope, fetch_payload};
use common::{KEY, Net, replace};
use protocol::{Digest, Envelope, Hotkey, Keypair, ObjectKey, Refusal, SealContext, Sealed, Signed, sealed_len};

/// What is wrong with the first miner's envelope after `spoil`, signed by `signer`.
fn refusal(net: &Net, replica: &Replica, signer: &Keypair, spoil: impl FnOnce(&mut Envelope)) -> Option<Refusal> {
    let miner = &net.miners[0];
    let mut envelope = net.envelope(miner, replica, &net.payload(miner, replica));
    spoil(&mut envelope);
    let sealed = Sealed { uid: miner.uid, envelope: Signed::new(envelope, signer).to_bytes().to_vec() };
    check_envelope(&net.run, replica.anchor.round, replica.root, miner.keypair.hotkey(), &sealed).err()
}

#[tokio::test]
async fn envelopes_are_checked_without_any_download() {
    let net = Net::new().await;
    let replica = net.genesis();
    let owner = &net.miners[0].keypair;
    let other = Digest::of(b"other");
    assert_eq!(refusal(&net, &replica, owner, |_| ()), None);
    assert_eq!(refusal(&net, &replica, &net.miners[1].keypair, |_| ()), Some(Refusal::WrongSigner));
    assert_eq!(refusal(&net, &replica, owner, |e| e.run = other), Some(Refusal::WrongRun));
    assert_eq!(refusal(&net, &replica, owner, |e| e.round = 1), Some(Refusal::WrongRound));
    assert_eq!(refusal(&net, &replica, owner, |e| e.base_root = other), Some(Refusal::WrongRoot));
    let (least, most) = net.run.sealed_len().into_inner();
    for found in [0, least - 1, most + 1, u64::MAX] {
        assert_eq!(refusal(&net, &replica, owner, |e| e.sealed_len = found), Some(Refusal::WrongSize { found, least, most }));
    }
    for found in [least, most] {
        assert_eq!(refusal(&net, &replica, owner, |e| e.sealed_len = found), None);
    }
}

#[tokio::test]
async fn bytes_that_are_no_envelope_are_refused() {
    let net = Net::new().await;
    let replica = net.genesis();
    let miner = &net.miners[0];
    let good = Signed::new(net.envelope(miner, &replica, b"payload"), &miner.keypair).to_bytes().to_vec();
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    for envelope in [vec![], good[..good.len() - 1].to_vec(), flipped, vec![0; 1 << 16], common::garbage::<Envelope>(miner)] {
        let sealed = Sealed { uid: miner.uid, envelope };
        let refused = check_envelope(&net.run, 0, replica.root, miner.keypair.hotkey(), &sealed);
        assert!(matches!(refused, Err(Refusal::Envelope(_))));
    }
}

/// The first miner's honest payload is up and revealed; then `spoil` sees to the bucket or the claim.
async fn fetched(net: &Net, replica: &Replica, claim: Option<Envelope>) -> Option<Refusal> {
    let miner = &net.miners[0];
    let claim = claim.unwrap_or_else(|| net.envelope(miner, replica, &net.payload(miner, replica)));
    fetch_payload(&net.run, &miner.bucket, &Signed::new(claim, &miner.keypair)).await.err()
}

async fn ready() -> (Net, Replica) {
    let net = Net::new().await;
    let replica = net.genesis();
    net.seal(&net.miners[0], &replica).await;
    net.reveal(&net.miners[0], 0).await;
    assert_eq!(fetched(&net, &replica, None).await, None);
    (net, replica)
}

/// Puts other sealed bytes up and returns the claim that fits them.
async fn sealed_anew(net: &Net, replica: &Replica, context: SealContext, payload: &[u8]) -> Envelope {
    let sealed = context.seal(&KEY, payload);
    replace(&net.miners[0].bucket, &ObjectKey::Payload(0), sealed.clone()).await;
    Envelope { sealed: Digest::of(&sealed), ..net.envelope(&net.miners[0], replica, payload) }
}

#[tokio::test]
async fn what_is_absent_is_missing_or_not_revealed() {
    let (net, replica) = ready().await;
    let bucket = &net.miners[0].bucket;
    for key in [vec![], vec![5; 31], vec![5; 33], vec![5; 1 << 16]] {
        replace(bucket, &ObjectKey::PayloadKey(0), key).await;
        assert_eq!(fetched(&net, &replica, None).await, Some(Refusal::NotRevealed));
    }
    bucket.delete(&ObjectKey::PayloadKey(0)).await.unwrap();
    assert_eq!(fetched(&net, &replica, None).await, Some(Refusal::NotRevealed));
    net.reveal(&net.miners[0], 0).await;
    bucket.delete(&ObjectKey::Payload(0)).await.unwrap();
    assert_eq!(fetched(&net, &replica, None).await, Some(Refusal::Missing));
}

#[tokio::test]
async fn other_bytes_than_the_sealed_ones_are_refused() {
    let (net, replica) = ready().await;
    let bucket = &net.miners[0].bucket;
    let good = bucket.get(&ObjectKey::Payload(0), 1 << 20).await.unwrap().unwrap().to_vec();
    let mut flipped = good.clone();
    flipped[200] ^= 1;
    for bytes in [flipped, good[..good.len() - 1].to_vec(), [&good[..], &[0]].concat(), vec![], vec![0; 1 << 20]] {
        replace(bucket, &ObjectKey::Payload(0), bytes).await;
        assert_eq!(fetched(&net, &replica, None).await, Some(Refusal::SealedDigest));
    }
}

#[tokio::test]
async fn the_right_bytes_under_another_length_are_refused() {
    let (net, replica) = ready().await;
    let claim = net.envelope(&net.miners[0], &replica, &net.payload(&net.miners[0], &replica));
    for sealed_len in [claim.sealed_len - 1, claim.sealed_len + 1] {
        let claim = Envelope { sealed_len, ..claim.clone() };
        assert_eq!(fetched(&net, &replica, Some(claim)).await, Some(Refusal::SealedDigest));
    }
}

#[tokio::test]
async fn a_wrong_key_opens_nothing() {
    let (net, replica) = ready().await;
    replace(&net.miners[0].bucket, &ObjectKey::PayloadKey(0), vec![6; 32]).await;
    assert_eq!(fetched(&net, &replica, None).await, Some(Refusal::Unopenable));
}

#[tokio::test]
async fn a_ciphertext_under_another_hotkey_round_run_or_root_does_not_open() {
    let (net, replica) = ready().await;
    let (miner, payload) = (&net.miners[0], net.payload(&net.miners[1], &replica));
    let own = net.context(miner, &replica);
    let contexts = [
        net.context(&net.miners[1], &replica),
        SealContext { round: 1, ..own },
        SealContext { run: Digest::of(b"other"), ..own },
        SealContext { base_root: Digest::of(b"other"), ..own },
    ];
    for context in contexts {
        let claim = sealed_anew(&net, &replica, context, &payload).await;
        assert_eq!(fetched(&net, &replica, Some(claim)).await, Some(Refusal::Unopenable));
    }
}

#[tokio::test]
async fn a_payload_that_is_not_the_announced_one_is_refused() {
    let (net, replica) = ready().await;
    let claim = net.envelope(&net.miners[0], &replica, &net.payload(&net.miners[0], &replica));
    let claim = Envelope { payload: Digest::of(b"other"), ..claim };
    assert_eq!(fetched(&net, &replica, Some(claim)).await, Some(Refusal::PayloadDigest));
}

#[tokio::test]
async fn malformed_payloads_are_refused() {
    let (net, replica) = ready().await;
    let context = net.context(&net.miners[0], &replica);
    let good = net.payload(&net.miners[0], &replica);
    assert!(net.run.sealed_len().contains(&(sealed_len(good.len() as u64))));
    for at in [0, 8, 20, 170, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        let claim = sealed_anew(&net, &replica, context, &bad).await;
        assert!(matches!(fetched(&net, &replica, Some(claim)).await, Some(Refusal::Malformed(_))), "byte {at}");
    }
    for bad in [vec![], good[..100].to_vec(), vec![0; good.len()]] {
        let claim = sealed_anew(&net, &replica, context, &bad).await;
        assert!(matches!(fetched(&net, &replica, Some(claim)).await, Some(Refusal::Malformed(_))));
    }
}

#[tokio::test]
async fn a_payload_that_names_another_is_refused() {
    let (net, replica) = ready().await;
    let context = net.context(&net.miners[0], &replica);
    let with = |change: fn(&mut compression::Header)| {
        let mut header =
            compression::Header { run: context.run.0, round: context.round, hotkey: context.hotkey.0, base_root: context.base_root.0 };
        change(&mut header);
        let zeros: Vec<Vec<f32>> = net.run.layout().tensors().iter().map(|t| vec![0.0; t.len()]).collect();
        let mut feedback = compression::ErrorFeedback::zeros(net.run.layout());
        compression::encode(&net.run.format, &header, &mut feedback, &zeros, 0.95).unwrap()
    };
    let changes: [fn(&mut compression::Header); 4] =
        [|h| h.run = [1; 32], |h| h.round = 9, |h| h.hotkey = [1; 32], |h| h.base_root = [1; 32]];
    for change in changes {
        let claim = sealed_anew(&net, &replica, context, &with(change)).await;
        assert_eq!(fetched(&net, &replica, Some(claim)).await, Some(Refusal::WrongOwner));
    }
    // a victim's payload, sealed anew in the thief's name
    let claim = sealed_anew(&net, &replica, context, &net.payload(&net.miners[1], &replica)).await;
    assert_eq!(fetched(&net, &replica, Some(claim)).await, Some(Refusal::WrongOwner));
}

#[tokio::test]
async fn a_zero_hotkey_owns_nothing() {
    let net = Net::new().await;
    let replica = net.genesis();
    let envelope = Signed::new(net.envelope(&net.miners[0], &replica, b"x"), &net.miners[0].keypair).to_bytes().to_vec();
    let sealed = Sealed { uid: 9, envelope };
    assert_eq!(check_envelope(&net.run, 0, replica.root, Hotkey([0; 32]), &sealed).err(), Some(Refusal::WrongSigner));
}
