//! What the exchange needs: a run at a fraction of 72B, its miners on a ledger, their payloads in the store. Takes the times of what is
//! computed on the way, which no link changes.

use std::path::Path;
use std::time::Instant;

use chain::{Blocks, Chain, Ledger, LedgerConfig};
use compression::{ErrorFeedback, Header, Layout, MergeOver, Payload, Rule, State, Weighted};
use protocol::{
    ChainSection, DataSection, Digest, Envelope, Keypair, Launch, Manifest, ObjectKey, RunConfig, SealContext, Signed, genesis,
};
use rayon::prelude::*;
use storage::{Access, Bucket, server::add_key};

/// Layers of the model at 1:100 of 72B.
pub const LAYERS: usize = 51;
pub const MINERS: u8 = 20;
pub const NETUID: u16 = 1;
/// The store, as the peer sees it.
pub const ENDPOINT: &str = "http://10.77.0.1:9000";

/// The keys of the miners are numbered from 1, the peer's comes after them. A miner's number is its payload's key too.
pub fn keypair(number: u8) -> Keypair {
    Keypair::from_seed(&[number; 32])
}

pub const PEER: u8 = MINERS + 1;

/// 72B's manifest with a model that has its proportions: 6 % of the parameters in the two tables, the same ratio of widths.
fn config(layers: usize) -> RunConfig {
    let mut config = RunConfig::parse(include_str!("../../../configs/72b.toml")).unwrap();
    let model = &mut config.model;
    (model.vocab_size, model.hidden_size, model.intermediate_size, model.layers) = (411 * layers, 1024, 3584, layers);
    (model.heads, model.kv_heads, model.head_dim) = (8, 1, 128);
    config.name = format!("link-{layers}");
    config
}

pub async fn run(dir: &Path, layers: usize) {
    std::fs::create_dir_all(dir).unwrap();
    let ledger = Ledger::create(&dir.join("ledger.sqlite"), &LedgerConfig::new(Blocks::Manual, keypair(99).hotkey())).unwrap();
    let chain = ChainSection { genesis: ledger.genesis().await.unwrap(), netuid: NETUID, launch_key: keypair(98).hotkey(), start_block: 1 };
    let config = config(layers);
    let (tokenizer, source) = (config.data.tokenizer.clone(), config.data.source.clone());
    let data = DataSection { tokenizer, source, digest: Digest::of(b"none"), train_tokens: u64::MAX, held_out_tokens: u64::MAX };
    let manifest = Manifest::resolve(config, Launch { chain, data }).unwrap();
    let id = manifest.run_id();
    local(dir, "run").join(&id.to_string()).put(&ObjectKey::Manifest, manifest.to_bytes().into()).await.unwrap();
    std::fs::write(dir.join("url"), format!("s3://run/{id}?endpoint={ENDPOINT}")).unwrap();
    for number in 1..=PEER {
        ledger.enroll(NETUID, keypair(number).hotkey(), keypair(number).hotkey()).unwrap();
        ledger.set_bucket(&keypair(number), NETUID, &format!("s3://{}?endpoint={ENDPOINT}", bucket(number))).await.unwrap();
    }
    // with stake it is a validator, whose bucket is asked first for bundles
    ledger.endow(NETUID, keypair(PEER).hotkey(), 1000 * chain::RAO_PER_TAO).unwrap();
    ledger.advance(1).unwrap();
    let key = add_key(&dir.join("store"), &bucket(PEER), None).unwrap();
    let env = format!("AWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={}\n", key.access, key.secret);
    std::fs::write(dir.join("peer.env"), env).unwrap();
    let (payloads, encode) = payloads(dir, &manifest).await;
    compute(dir, &manifest, &payloads, encode);
}

pub fn bucket(number: u8) -> String {
    if number == PEER { "peer".to_owned() } else { format!("miner-{number}") }
}

/// A bucket of the store as its own folder, without the server.
fn local(dir: &Path, bucket: &str) -> Bucket {
    Bucket::open(dir.join("store").join(bucket).to_str().unwrap(), Access::Own).unwrap()
}

/// Every miner's payload, sealed in its bucket and revealed; the first one's bytes lie in `payload` for the peer to send. Also the seconds of
/// encoding one.
async fn payloads(dir: &Path, manifest: &Manifest) -> (Vec<Payload>, f64) {
    let (format, layout, run, base_root) = (manifest.format(), manifest.layout(), manifest.run_id(), manifest.genesis_root);
    let mut gradient: Vec<Vec<f32>> = layout.tensors().iter().map(|spec| vec![0.0; spec.len()]).collect();
    let (mut payloads, mut seconds) = (Vec::new(), f64::INFINITY);
    for number in 1..=MINERS {
        fill(&mut gradient, u64::from(number));
        let hotkey = keypair(number).hotkey();
        let header = Header { run: run.0, round: 0, hotkey: hotkey.0, base_root: base_root.0 };
        let mut feedback = ErrorFeedback::zeros(&layout);
        let start = Instant::now();
        let bytes = compression::encode(&format, &header, &mut feedback, &gradient, manifest.compression.beta).unwrap();
        seconds = seconds.min(start.elapsed().as_secs_f64());
        let sealed = SealContext { run, round: 0, hotkey, base_root }.seal(&[number; 32], &bytes);
        let envelope = Envelope {
            run,
            round: 0,
            base_root,
            sealed: Digest::of(&sealed),
            sealed_len: sealed.len() as u64,
            payload: Digest::of(&bytes),
            sequences: manifest.full_work(),
            tokens: manifest.full_work() * manifest.model.sequence_length as u64,
        };
        let bucket = local(dir, &bucket(number)).join(&run.to_string());
        bucket.put(&ObjectKey::Envelope(0), Signed::new(envelope, &keypair(number)).to_bytes().to_vec().into()).await.unwrap();
        bucket.put(&ObjectKey::PayloadKey(0), vec![number; 32].into()).await.unwrap();
        bucket.put_large(&ObjectKey::Payload(0), sealed.into()).await.unwrap();
        if number == 1 {
            std::fs::write(dir.join("payload"), &bytes).unwrap();
        }
        payloads.push(Payload::parse(&bytes, &format).unwrap());
        eprintln!("payload {number} of {MINERS}: {} bytes, the fastest encoded in {seconds:.1} s", bytes.len());
    }
    (payloads, seconds)
}

/// Noise with a bell's shape: sums of four uniform numbers.
fn fill(tensors: &mut [Vec<f32>], seed: u64) {
    tensors.par_iter_mut().enumerate().for_each(|(number, tensor)| {
        let mut lot = seed << 32 | number as u64;
        for element in tensor {
            lot = lot.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = lot;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let sum: u64 = [z, z >> 16, z >> 32, z >> 48].iter().map(|part| part & 0xffff).sum();
            *element = (sum as f32 - 131_070.0) * 1e-8;
        }
    });
}

/// The bundle, the step and the root: written to `bundle` and `compute.json`.
fn compute(dir: &Path, manifest: &Manifest, payloads: &[Payload], encode: f64) {
    let start = Instant::now();
    let bundle = compression::encode_bundle(&payloads.iter().collect::<Vec<_>>()).unwrap();
    let seconds_bundle = start.elapsed().as_secs_f64();
    std::fs::write(dir.join("bundle"), &bundle).unwrap();
    let mut state: State = genesis::initial_state(manifest);
    let weighted: Vec<Weighted> = payloads.iter().map(|payload| Weighted { payload, weight: 1.0 }).collect();
    let rule = Rule { lr: 1.0, over: MergeOver::Senders, resparsify: None };
    let start = Instant::now();
    compression::transition(&mut state, &weighted, &rule).unwrap();
    let step = start.elapsed().as_secs_f64();
    let start = Instant::now();
    state.root();
    let hash = start.elapsed().as_secs_f64();
    let parameters = parameters(&manifest.layout());
    let cores = std::thread::available_parallelism().unwrap().get();
    let seconds = serde_json::json!({ "encode": encode, "bundle": seconds_bundle, "step": step, "hash": hash });
    let measured = serde_json::json!({ "parameters": parameters, "cores": cores, "bundle_bytes": bundle.len(), "seconds": seconds });
    std::fs::write(dir.join("compute.json"), measured.to_string()).unwrap();
    println!("{measured}");
}

fn parameters(layout: &Layout) -> u64 {
    layout.parameters() as u64
}
