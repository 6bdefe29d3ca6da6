//! One round's payloads through all checks and trials, on a real model.

#[path = "../../checkpoints/tests/common/mod.rs"]
mod net;

use std::{collections::BTreeMap, path::Path};

use dataset::{PrepareOptions, Source, Tokenizer};
use model::Device;
use net::{Net, Peer, replace};
use protocol::{Envelope, ObjectKey, score::Standing};

use super::*;

const SEEDS: Seeds = Seeds { open: Digest([1; 32]), closed: Digest([2; 32]) };

/// A network of three miners, and what a validator judges them with.
struct Court {
    net: Net,
    dataset: Arc<Dataset>,
    model: Llama,
    _folder: tempfile::TempDir,
}

impl Court {
    async fn new() -> Self {
        let net = Net::new().await;
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let texts = ["protocol", "compression", "gauntlet", "model"].map(|name| root.join(name).join("README.md").display().to_string());
        let options = PrepareOptions::new(Source::Paths(texts.to_vec()), "READMEs", Tokenizer::Bytes);
        dataset::prepare(&PrepareOptions { held_out_share: 0.3, ..options }, &folder.path().join("data")).unwrap();
        let dataset = Arc::new(Dataset::open(&folder.path().join("data"), &folder.path().join("cache")).unwrap());
        let model = Llama::new(&net.run.manifest.model, Device::Cpu).unwrap();
        let replica = net.genesis();
        for miner in &net.miners {
            net.seal(miner, &replica).await;
            net.reveal(miner, 0).await;
        }
        Self { net, dataset, model, _folder: folder }
    }

    /// What is found of `miners`, each measured if it is sound.
    async fn judge(&mut self, miners: &[usize]) -> BTreeMap<u16, Entry> {
        let (net, mut replica) = (&self.net, self.net.genesis());
        let mut sealed = Vec::new();
        for miner in miners.iter().map(|&i| &net.miners[i]) {
            let envelope = miner.bucket.get(&ObjectKey::Envelope(0), 1 << 20).await.unwrap().unwrap().to_vec();
            sealed.push((Sealed { uid: miner.uid, envelope }, miner.keypair.hotkey()));
        }
        let uids: BTreeSet<u16> = sealed.iter().map(|(sealed, _)| sealed.uid).collect();
        let mut judgement = Judgement::default();
        judgement.enter(Digest::of(b"list"));
        let mut fetched = std::pin::pin!(fetch_all(net.run.clone(), (0, replica.root), sealed, std::time::Duration::from_secs(30)));
        while let Some(fetched) = fetched.next().await {
            judgement.gather(&mut replica, fetched.unwrap());
        }
        let sketcher = Sketcher::new(&net.run.format, &[3; 32]);
        judgement.compare(&replica, Vec::new(), &Standing::default(), &sketcher, &mut History::default());
        let (mut watch, mut pace) = (Stopwatch::default(), Pace::default());
        for uid in judgement.unmeasured(&uids) {
            let (model, batches) = (&mut self.model, Batches { assigned: 4, random: 8 });
            let mut bench = Bench { run: &net.run, dataset: &self.dataset, model, watch: &mut watch, pace: &mut pace, batches };
            judgement.measure(&mut bench, &replica, uid, &SEEDS).unwrap().unwrap();
        }
        judgement.entries
    }

    /// Replaces what the third miner put into its bucket by a payload of `opened`, all else as it should be.
    async fn send(&self, opened: &[u8], change: impl FnOnce(&mut Envelope)) {
        let (net, replica, miner) = (&self.net, self.net.genesis(), &self.net.miners[2]);
        let mut envelope = net.envelope(miner, &replica, opened);
        change(&mut envelope);
        let sealed = net.context(miner, &replica).seal(&net::KEY, opened);
        put(miner, ObjectKey::Payload(0), sealed).await;
        put(miner, ObjectKey::Envelope(0), Signed::new(envelope, &miner.keypair).to_bytes().to_vec()).await;
    }
}

async fn put(miner: &Peer, key: ObjectKey, bytes: Vec<u8>) {
    replace(&miner.bucket, &key, bytes).await;
}

fn text(entries: &BTreeMap<u16, Entry>, uids: &[u16]) -> String {
    serde_json::to_string(&uids.iter().map(|uid| &entries[uid]).collect::<Vec<_>>()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_payload_changes_no_byte_of_what_is_found_of_others() {
    let mut court = Court::new().await;
    let [first, second, third] = [0, 1, 2].map(|i| court.net.miners[i].uid);
    let without = text(&court.judge(&[0, 1]).await, &[first, second]);
    assert_eq!(without.matches("measured").count(), 2, "{without}");
    let good = court.net.payload(&court.net.miners[2], &court.net.genesis());
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        bytes
    };
    let malformed =
        [vec![], good[..good.len() - 1].to_vec(), flipped(0), flipped(good.len() / 2), flipped(good.len() - 1), vec![0; good.len()]];
    for (number, bytes) in malformed.iter().enumerate() {
        court.send(bytes, |_| {}).await;
        let entries = court.judge(&[0, 1, 2]).await;
        assert!(entries[&third].outcome.refusal().is_some(), "case {number}: {:?}", entries[&third]);
        assert_eq!(text(&entries, &[first, second]), without, "case {number}");
    }
    // neither do envelopes that lie, keys that do not fit, or an absent payload
    court.send(&good, |e| e.payload = Digest::of(b"other")).await;
    assert_eq!(text(&court.judge(&[0, 1, 2]).await, &[first, second]), without);
    court.send(&good, |e| e.sealed_len += 1).await;
    assert_eq!(text(&court.judge(&[0, 1, 2]).await, &[first, second]), without);
    court.send(&good, |_| {}).await;
    put(&court.net.miners[2], ObjectKey::PayloadKey(0), vec![9; 32]).await;
    let entries = court.judge(&[0, 1, 2]).await;
    assert_eq!(entries[&third].outcome, Outcome::Refused(Refusal::Unopenable));
    assert_eq!(text(&entries, &[first, second]), without);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_ciphertext_and_a_stolen_payload_are_refused_and_their_owner_is_not() {
    let mut court = Court::new().await;
    let [first, second, third] = [0, 1, 2].map(|i| court.net.miners[i].uid);
    let alone = text(&court.judge(&[0, 1]).await, &[first, second]);
    let (victim, thief, replica) = (&court.net.miners[0], &court.net.miners[2], court.net.genesis());
    // the ciphertext as it is, under an envelope of one's own, and the key once it is out
    let opened = court.net.payload(victim, &replica);
    let stolen = court.net.context(victim, &replica).seal(&net::KEY, &opened);
    let honest = court.net.envelope(victim, &replica, &opened);
    put(thief, ObjectKey::Payload(0), stolen).await;
    put(thief, ObjectKey::Envelope(0), Signed::new(honest, &thief.keypair).to_bytes().to_vec()).await;
    let entries = court.judge(&[0, 1, 2]).await;
    assert_eq!(entries[&third].outcome, Outcome::Refused(Refusal::Unopenable));
    assert_eq!(text(&entries, &[first, second]), alone);
    // the payload itself, sealed again: it names its owner
    court.send(&opened, |_| {}).await;
    let entries = court.judge(&[0, 1, 2]).await;
    assert_eq!(entries[&third].outcome, Outcome::Refused(Refusal::WrongOwner));
    assert_eq!(text(&entries, &[first, second]), alone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_leaves_the_model_as_it_was() {
    let mut court = Court::new().await;
    court.judge(&[0, 1, 2]).await;
    let state = court.net.genesis().state;
    assert_eq!(court.model.parameters().unwrap(), state.model());
    // the order of trials does not matter
    let (forth, back) = (court.judge(&[0, 1, 2]).await, court.judge(&[2, 1, 0]).await);
    assert_eq!(forth, back);
}

#[tokio::test(flavor = "multi_thread")]
async fn larger_values_gain_nothing() {
    let mut court = Court::new().await;
    let uids: Vec<u16> = court.net.miners.iter().map(|m| m.uid).collect();
    let gain = |entries: &BTreeMap<u16, Entry>| entries[&uids[2]].outcome.gain().unwrap();
    let honest = gain(&court.judge(&[0, 1, 2]).await);
    let (miner, replica) = (&court.net.miners[2], court.net.genesis());
    let layout = court.net.run.layout().clone();
    let opened = Payload::parse(&court.net.payload(miner, &replica), &court.net.run.format).unwrap();
    let larger: Vec<Vec<f32>> = opened.to_dense().iter().map(|tensor| tensor.iter().map(|x| x * 2.0).collect()).collect();
    let header = *opened.header();
    let mut feedback = compression::ErrorFeedback::zeros(&layout);
    let bytes = compression::encode(&court.net.run.format, &header, &mut feedback, &larger, 0.95).unwrap();
    court.send(&bytes, |_| {}).await;
    let entries = court.judge(&[0, 1, 2]).await;
    let Outcome::Measured { norm, .. } = entries[&uids[2]].outcome else { panic!("{:?}", entries[&uids[2]]) };
    assert!((norm - 2.0).abs() < 0.1, "{norm}");
    assert!((gain(&entries) - honest).abs() < 0.1 * honest.abs(), "{} twice as large, {honest} before", gain(&entries));
}
