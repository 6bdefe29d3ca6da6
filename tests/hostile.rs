//! Every hostile object that a registered stranger can put where miners put theirs, in a running network.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::{
    fs,
    mem::discriminant,
    path::{Path, PathBuf},
    sync::Arc,
};

use chain::Chain as _;
use common::{CONFIG, Net, block_on};
use compression::{ErrorFeedback, Format, Header, TensorSpec};
use protocol::{Digest, Document as _, Envelope, Hotkey, Manifest, PayloadKey, Refusal, RunId, SealContext, Signed, score::ScoreSheet};

const KEY: PayloadKey = [5; 32];
/// Of nothing here.
const OTHER: Digest = Digest([7; 32]);

/// What a stranger's bucket holds of a round.
#[derive(Clone, Debug, Default)]
struct Objects {
    envelope: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Objects {
    fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for (name, bytes) in [("payload", &self.payload), ("key", &self.key), ("envelope", &self.envelope)] {
            if let Some(bytes) = bytes {
                fs::write(folder.join(name), bytes).unwrap();
            }
        }
    }
}

/// Makes objects of round 0 that are right, or wrong in exactly one way.
struct Forge<'a> {
    net: &'a Net,
    run: RunId,
    root: Digest,
    format: Arc<Format>,
}

impl<'a> Forge<'a> {
    fn new(net: &'a Net) -> Self {
        let folder = net.run.strip_prefix("file://").unwrap();
        let manifest = Manifest::from_bytes(&fs::read(Path::new(folder).join("manifest.json")).unwrap()).unwrap();
        Self { net, run: manifest.run_id(), root: manifest.genesis_root, format: manifest.format() }
    }

    /// A payload that says it is `owner`'s of `run`.
    fn payload(&self, owner: Hotkey, run: RunId) -> Vec<u8> {
        let header = Header { run: run.0, round: 0, hotkey: owner.0, base_root: self.root.0 };
        let gradient: Vec<_> = self.format.layout().tensors().iter().map(TensorSpec::len).map(|n| vec![1e-3; n]).collect();
        compression::encode(&self.format, &header, &mut ErrorFeedback::zeros(self.format.layout()), &gradient, 0.95).unwrap()
    }

    fn seal(&self, name: &str, payload: &[u8]) -> Vec<u8> {
        let context = SealContext { run: self.run, round: 0, hotkey: self.net.hotkey(name), base_root: self.root };
        context.seal(&KEY, payload)
    }

    fn sign(&self, name: &str, sealed: &[u8], payload: &[u8], change: impl FnOnce(&mut Envelope)) -> Option<Vec<u8>> {
        let (sealed, payload, sealed_len) = (Digest::of(sealed), Digest::of(payload), sealed.len() as u64);
        let mut envelope =
            Envelope { run: self.run, round: 0, base_root: self.root, sealed, sealed_len, payload, sequences: 16, tokens: 512 };
        change(&mut envelope);
        Some(Signed::new(envelope, &self.net.roles[name].keypair).to_bytes().to_vec())
    }

    /// `payload`, sealed and signed as it should be.
    fn deliver(&self, name: &str, payload: &[u8]) -> Objects {
        let sealed = self.seal(name, payload);
        Objects { envelope: self.sign(name, &sealed, payload, |_| {}), payload: Some(sealed), key: Some(KEY.to_vec()) }
    }

    /// A payload as it should be.
    fn own(&self, name: &str) -> Vec<u8> {
        self.payload(self.net.hotkey(name), self.run)
    }

    /// An envelope that is wrong in what `change` does, with all else as it should be.
    fn with_envelope(&self, name: &str, change: impl FnOnce(&mut Envelope)) -> Objects {
        let payload = self.own(name);
        let sealed = self.seal(name, &payload);
        Objects { envelope: self.sign(name, &sealed, &payload, change), payload: Some(sealed), key: Some(KEY.to_vec()) }
    }

    /// All as it should be, but for what `change` does to the objects.
    fn with_objects(&self, name: &str, change: impl FnOnce(&mut Objects)) -> Objects {
        let mut objects = self.deliver(name, &self.own(name));
        change(&mut objects);
        objects
    }
}

type Attack = fn(&Forge<'_>, &str) -> Objects;

/// Each attack on round 0, with the kind of refusal that it meets; `None` where it is not even listed.
fn attacks() -> Vec<(Attack, Option<Refusal>)> {
    let garbled = || Some(Refusal::Envelope(String::new()));
    vec![
        (|f, name| f.with_objects(name, |o| o.envelope = Some(vec![0xab; 300])), garbled()),
        (|f, name| f.with_objects(name, |o| o.envelope.as_mut().unwrap().truncate(90)), garbled()),
        (|f, name| f.with_objects(name, |o| o.envelope.as_mut().unwrap().truncate(250)), garbled()),
        (|f, name| f.with_objects(name, |o| o.envelope = Some(Vec::new())), garbled()),
        (|f, name| f.with_objects(name, |o| o.envelope = Some(vec![0; Envelope::CAP as usize + 1])), None),
        (|f, name| f.with_objects(name, |o| o.envelope = Some(vec![0; 16 << 20])), None),
        (|f, name| f.with_envelope(name, |e| e.run = OTHER), Some(Refusal::WrongRun)),
        (|f, name| f.with_envelope(name, |e| e.round = 999), Some(Refusal::WrongRound)),
        (|f, name| f.with_envelope(name, |e| e.base_root = OTHER), Some(Refusal::WrongRoot)),
        (|f, name| f.with_envelope(name, |e| e.sealed_len = u64::MAX), Some(Refusal::WrongSize { found: 0, least: 0, most: 0 })),
        (|f, name| f.with_envelope(name, |e| e.sealed = OTHER), Some(Refusal::SealedDigest)),
        (|f, name| f.with_objects(name, |o| o.payload.as_mut().unwrap().truncate(99)), Some(Refusal::SealedDigest)),
        (|f, name| f.with_objects(name, |o| o.payload = Some(vec![0; 16 << 20])), Some(Refusal::SealedDigest)),
        (|f, name| f.with_objects(name, |o| o.payload = None), Some(Refusal::Missing)),
        (|f, name| f.with_objects(name, |o| o.key = None), Some(Refusal::NotRevealed)),
        (|f, name| f.with_objects(name, |o| o.key = Some(vec![5; 31])), Some(Refusal::NotRevealed)),
        (|f, name| f.with_objects(name, |o| o.key = Some(vec![5; 1 << 20])), Some(Refusal::NotRevealed)),
        (|f, name| f.with_objects(name, |o| o.key = Some(vec![6; 32])), Some(Refusal::Unopenable)),
        (|f, name| f.with_envelope(name, |e| e.payload = OTHER), Some(Refusal::PayloadDigest)),
        (|f, name| f.deliver(name, &vec![0; f.own(name).len()]), Some(Refusal::Malformed(String::new()))),
        (|f, name| f.deliver(name, &f.payload(f.net.hotkey(name), OTHER)), Some(Refusal::WrongOwner)),
        (|f, name| f.deliver(name, &f.payload(f.net.hotkey("miner-1"), f.run)), Some(Refusal::WrongOwner)),
    ]
}

fn round(net: &Net, name: &str, round: u64) -> PathBuf {
    net.bucket(name).join(format!("rounds/{round:08}"))
}

#[test]
fn one_bad_input_affects_nothing_but_its_sender() {
    let attacks = attacks();
    let strangers: Vec<String> = (3..attacks.len() + 3).map(|i| format!("miner-{i}")).collect();
    let [thief, copyist, folder] = [0, 1, 2].map(|i| format!("miner-{}", attacks.len() + 3 + i));
    let mut net = Net::new(CONFIG, attacks.len() + 5, 0, 2);
    let forge = Forge::new(&net);
    for (name, (attack, _)) in strangers.iter().zip(&attacks) {
        let objects = attack(&forge, name);
        // in later rounds they are replays
        (0..12).for_each(|number| objects.write(&round(&net, name, number)));
    }
    for name in strangers.iter().chain([&thief, &copyist, &folder]) {
        fs::create_dir_all(round(&net, name, 0)).unwrap();
        let bucket = format!("file://{}", net.bucket(name).parent().unwrap().display());
        block_on(net.ledger.set_bucket(&net.roles[name].keypair, 1, &bucket));
    }
    fs::create_dir(round(&net, &folder, 0).join("envelope")).unwrap();

    // while this process takes part in lockstep, no block passes that it does not ask for
    net.ledger.join("thief").unwrap();
    let running = ["miner-1", "miner-2", "validator-1", "validator-2", "aggregator"];
    net.start(&running);
    let victim = round(&net, "miner-1", 0);
    net.wait("the victim's envelope", |_| victim.join("envelope").exists());
    for object in ["payload", "envelope"] {
        fs::copy(victim.join(object), round(&net, &thief, 0).join(object)).unwrap();
    }
    let sealed = fs::read(victim.join("payload")).unwrap();
    let forge = Forge::new(&net);
    let envelope = forge.sign(&copyist, &sealed, b"whatever the key will show", |_| {});
    Objects { envelope, payload: Some(sealed), key: None }.write(&round(&net, &copyist, 0));
    let mut head = block_on(net.ledger.head()).number;
    while !victim.join("key").exists() {
        head = block_on(net.ledger.next_block(head)).number;
    }
    for name in [&thief, &copyist] {
        fs::copy(victim.join("key"), round(&net, name, 0).join("key")).unwrap();
    }
    net.ledger.leave().unwrap();

    running.iter().for_each(|name| net.wait_round(name, 8));
    net.stop_all();
    net.assert_equal_roots(&running);
    let uids = |names: &[&str]| names.iter().map(|name| net.roles[*name].uid).collect::<Vec<_>>();
    let honest = uids(&["miner-1", "miner-2"]);
    let sheets: Vec<ScoreSheet> = net.replay().into_iter().map(|step| step.sheet.value.clone()).collect();
    let applied = net.applied("validator-2");
    assert!(sheets.len() >= applied.len());
    for (sheet, (number, applied)) in sheets.iter().zip(applied) {
        assert!(applied.iter().all(|uid| honest.contains(uid)), "round {number} applied {applied:?}");
        assert!(number != 0 || applied == honest, "the victim's own work counts: {applied:?}");
        let entries = &sheet.entries;
        assert!(
            sheet.round == number && entries.iter().all(|e| e.outcome.refusal().is_some() != honest.contains(&e.uid)),
            "round {number}: {entries:?}"
        );
    }

    let entries = &sheets[0].entries;
    let expected = attacks.into_iter().map(|(_, refusal)| refusal).chain([Some(Refusal::WrongSigner), Some(Refusal::Unopenable), None]);
    for (name, expected) in strangers.iter().chain([&thief, &copyist, &folder]).zip(expected) {
        let uid = net.roles[name].uid;
        let found = entries.iter().find(|e| e.uid == uid).map(|e| e.outcome.refusal().expect("it is refused"));
        assert_eq!(found.map(discriminant), expected.as_ref().map(discriminant), "{name}: {found:?} instead of {expected:?}");
    }
}
