#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::Schedule;
use crate::test_data::{SMALL, launch, manifest};
use crate::{Coding, Indices, Quantizer};

/// The run id and the genesis root of [`SMALL`]: both must stay the same on every machine and in every version that reads manifest version 4.
const RUN_ID: &str = "2f4e75368484893d60b7c4c80358b88b6eaeb730b95c3cc53ae3e062278a93ab";
const GENESIS_ROOT: &str = "2a3f2dc5ac34f2f71ca9e598694ccab1adb9e53efd9608fedc0987abce601d6c";

#[test]
fn a_committed_golden_vector_pins_run_id_and_genesis_root() {
    let manifest = manifest();
    assert_eq!(manifest.run_id().to_string(), RUN_ID);
    assert_eq!(manifest.genesis_root.to_string(), GENESIS_ROOT);
}

#[test]
fn resolved_bytes_read_back_as_the_same_manifest() {
    let manifest = manifest();
    let bytes = manifest.to_bytes();
    assert_eq!(Manifest::from_bytes(&bytes), Ok(manifest.clone()));
    assert_eq!(manifest.run_id(), Digest::of(&bytes));
}

/// Every value below `value` with its path; arrays and strings count as one value.
fn leaves(path: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| leaves(&format!("{path}/{key}"), value, found)),
        _ => found.push(path.to_owned()),
    }
}

/// Another value of the same kind that validation accepts too; `None` where there is only one.
fn another(value: &Value) -> Option<Value> {
    match value {
        Value::Bool(flag) => Some((!flag).into()),
        Value::Number(n) if n.is_f64() => Some((n.as_f64().unwrap() * 0.5 + 0.0123).into()),
        Value::Number(n) => Some((n.as_u64().unwrap() * 2).into()),
        Value::String(text) if text.len() == 64 => Some(Digest::of(text.as_bytes()).to_string().into()),
        Value::String(text) if text.len() == 48 => Some(Hotkey([1; 32]).ss58().into()),
        Value::String(text) if text == "senders" => Some("all".into()),
        Value::String(text) if text == "all" => Some("sampled".into()),
        Value::String(text) if text == "gain" => Some("loss-rating".into()),
        Value::String(text) if text == "sign1" => Some("sign2".into()),
        Value::String(text) if text == "golomb" => Some("packed12".into()),
        Value::String(text) if ["top-k", "sequential"].contains(&text.as_str()) => None,
        Value::Null => Some(serde_json::json!({ "select": "group-max", "group": 32, "quantizer": "sign1" })),
        Value::String(text) => Some(format!("{text}x").into()),
        Value::Array(_) => Some(serde_json::json!([[0, 1.0], [51, 0.7]])),
        _ => panic!("{value}"),
    }
}

#[test]
fn every_field_is_part_of_the_run_id() {
    let manifest = manifest();
    let value = serde_json::to_value(&manifest).unwrap();
    let mut paths = Vec::new();
    leaves("", &value, &mut paths);
    assert!(paths.len() > 60, "{paths:?}");
    for path in paths.iter().filter(|p| *p != "/version") {
        let mut other = value.clone();
        let Some(changed) = another(value.pointer(path).unwrap()) else { continue };
        *other.pointer_mut(path).unwrap() = changed;
        let other: Manifest = serde_json::from_value(other).unwrap();
        assert_ne!(other.run_id(), manifest.run_id(), "{path}");
    }
}

#[test]
fn canonical_bytes_are_compact_json_with_sorted_keys() {
    let bytes = manifest().to_bytes();
    let text = std::str::from_utf8(&bytes).unwrap();
    assert!(text.starts_with(r#"{"chain":{"genesis":""#) && text.ends_with(r#","version":4}"#), "{text}");
    // each object's keys ascend in the text itself, whatever map this build of serde_json has
    let mut open: Vec<Option<String>> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}', '"']) {
        let (mark, tail) = rest[at..].split_at(1);
        rest = tail;
        match mark {
            "{" => open.push(None),
            "}" => drop(open.pop()),
            _ => {
                let (word, tail) = tail.split_once('"').unwrap();
                rest = tail;
                if tail.starts_with(':') {
                    let last = open.last_mut().unwrap();
                    assert!(last.as_deref() < Some(word), "{word} after {last:?}");
                    *last = Some(word.to_owned());
                }
            }
        }
    }
}

#[test]
fn other_bytes_of_the_same_meaning_are_refused() {
    let manifest = manifest();
    let pretty = serde_json::to_vec_pretty(&serde_json::to_value(&manifest).unwrap()).unwrap();
    assert_eq!(Manifest::from_bytes(&pretty), Err(ManifestError::NotCanonical));
    // a field that has a default in a config has none here
    let mut value = serde_json::to_value(&manifest).unwrap();
    value["pay"].as_object_mut().unwrap().remove("burn");
    assert_eq!(Manifest::from_bytes(&serde_json::to_vec(&sorted(value)).unwrap()), Err(ManifestError::NotCanonical));
}

#[test]
fn what_is_no_manifest_is_refused() {
    let good = manifest().to_bytes();
    let parse = |bytes: &[u8]| matches!(Manifest::from_bytes(bytes), Err(ManifestError::Parse(_)));
    assert!(parse(b"") && parse(b"{}") && parse(b"\x80\x04.") && parse(&good[..good.len() - 1]));
    assert!(parse(&[&good[..], b"{}"].concat()));
    let mut large = good.clone();
    large.resize(MAX_MANIFEST_BYTES as usize + 1, b' ');
    assert_eq!(Manifest::from_bytes(&large), Err(ManifestError::TooLarge(MAX_MANIFEST_BYTES + 1)));
    for section in
        ["", "/chain", "/data", "/model", "/inner", "/outer", "/compression", "/round", "/judge", "/pay", "/checkpoints", "/retention"]
    {
        let mut value: Value = serde_json::from_slice(&good).unwrap();
        value.pointer_mut(section).unwrap().as_object_mut().unwrap().insert("extra".into(), 1.into());
        assert!(parse(&serde_json::to_vec(&value).unwrap()), "an unknown field in {section:?}");
    }
    let newer = Manifest { version: MANIFEST_VERSION + 1, ..manifest() }.to_bytes();
    assert!(matches!(Manifest::from_bytes(&newer), Err(ManifestError::Config(ConfigError { section: "manifest", field: "version", .. }))));
}

type Break = fn(&mut Manifest);

fn top_k(k: u16) -> Coding {
    Coding::TopK { k, quantizer: Quantizer::Sign2, indices: Indices::Golomb }
}

const BROKEN: &[(&str, &str, Break)] = &[
    ("manifest", "version", |m| m.version = 0),
    ("run", "name", |m| m.name = String::new()),
    ("run", "name", |m| m.name = "two words".into()),
    ("run", "name", |m| m.name = "x".repeat(65)),
    ("chain", "start_block", |m| m.chain.start_block = u64::MAX),
    ("model", "vocab_size", |m| m.model.vocab_size = 0),
    ("model", "vocab_size", |m| m.model.vocab_size = 256),
    ("model", "vocab_size", |m| m.model.vocab_size = usize::MAX),
    ("model", "hidden_size", |m| m.model.hidden_size = 0),
    ("model", "layers", |m| m.model.layers = 1 << 13),
    ("model", "heads", |m| m.model.heads = 0),
    ("model", "kv_heads", |m| m.model.kv_heads = 0),
    ("model", "kv_heads", |m| (m.model.heads, m.model.kv_heads) = (4, 3)),
    ("model", "head_dim", |m| m.model.head_dim = 7),
    ("model", "intermediate_size", |m| m.model.intermediate_size = 0),
    ("model", "sequence_length", |m| m.model.sequence_length = 0),
    ("model", "rope_theta", |m| m.model.rope_theta = 0.0),
    ("model", "norm_eps", |m| m.model.norm_eps = f64::NAN),
    ("model", "init_std", |m| m.model.init_std = f32::INFINITY),
    ("data", "tokenizer", |m| m.data.tokenizer = String::new()),
    ("data", "source", |m| m.data.source = "\u{1b}[2J".into()),
    ("data", "source", |m| m.data.train_tokens = 32),
    ("data", "source", |m| m.data.held_out_tokens = 0),
    ("inner", "steps", |m| m.inner.steps = 0),
    ("inner", "batch", |m| m.inner.batch = u32::MAX),
    ("inner", "micro_batch", |m| m.inner.micro_batch = 0),
    ("inner", "micro_batch", |m| m.inner.micro_batch = 3),
    ("inner", "decay", |m| m.inner.decay = 0),
    ("inner", "lr", |m| m.inner.lr = -1.0),
    ("inner", "eps", |m| m.inner.eps = 0.0),
    ("inner", "clip", |m| m.inner.clip = f64::NAN),
    ("inner", "beta1", |m| m.inner.beta1 = 1.0),
    ("inner", "beta2", |m| m.inner.beta2 = -0.1),
    ("inner", "floor", |m| m.inner.floor = 1.1),
    ("inner", "weight_decay", |m| m.inner.weight_decay = f64::INFINITY),
    ("outer", "lr", |m| m.outer.lr = Schedule::Constant(0.0)),
    ("outer", "lr", |m| m.outer.lr = Schedule::Constant(f32::NAN)),
    ("outer", "lr", |m| m.outer.lr = Schedule::Steps(vec![])),
    ("outer", "lr", |m| m.outer.lr = Schedule::Steps(vec![(1, 1.0)])),
    ("outer", "lr", |m| m.outer.lr = Schedule::Steps(vec![(0, 1.0), (5, 0.5), (5, 0.2)])),
    ("outer", "resparsify", |m| m.outer.resparsify = Some(top_k(0))),
    ("outer", "resparsify", |m| m.outer.resparsify = Some(Coding::GroupMax { group: 31, quantizer: Quantizer::Sign1 })),
    ("outer", "resparsify", |m| m.outer.resparsify = Some(Coding::GroupMax { group: 32, quantizer: Quantizer::Reference })),
    ("compression", "matrices", |m| m.compression.matrices = top_k(0)),
    ("compression", "embeddings", |m| m.compression.embeddings = Some(top_k(4097))),
    ("compression", "vectors", |m| m.compression.vectors = Some(Coding::GroupMax { group: 31, quantizer: Quantizer::Sign1 })),
    ("compression", "beta", |m| m.compression.beta = 1.5),
    ("round", "train", |m| m.round.train = 0),
    ("round", "reveal", |m| m.round.reveal = 0),
    ("round", "judge", |m| m.round.judge = u64::MAX),
    ("round", "span", |m| m.round.span = 0),
    ("round", "upload", |m| m.round.upload = m.round.train),
    ("judge", "assigned", |m| m.judge.assigned = 1),
    ("judge", "random", |m| m.judge.random = 4097),
    ("judge", "sample", |m| m.judge.sample = 0),
    ("judge", "top", |m| m.judge.top = 4097),
    ("judge", "history", |m| m.judge.history = 65),
    ("judge", "overlap", |m| m.judge.overlap = 1.1),
    ("judge", "unmeasured", |m| m.judge.unmeasured = -0.1),
    ("judge", "trust", |m| m.judge.trust = 0.0),
    ("judge", "outlier", |m| m.judge.outlier = 1.0),
    ("judge", "computation", |m| m.judge.computation = crate::Computation::Sequential { cap: 0.0 }),
    ("judge", "computation", |m| m.judge.computation = crate::Computation::Average { rate: 0.0, floor: 0.1, rounds: 9 }),
    ("judge", "computation", |m| m.judge.computation = crate::Computation::Average { rate: 0.1, floor: 1.5, rounds: 9 }),
    ("judge", "floor", |m| m.judge.floor = f64::NAN),
    ("judge", "step", |m| m.judge.step = 0.0),
    ("judge", "z", |m| m.judge.z = f64::INFINITY),
    ("pay", "power", |m| m.pay.power = 0.0),
    ("pay", "burn", |m| m.pay.burn = 1.5),
    ("pay", "reserve", |m| m.pay.reserve = f64::NAN),
    ("pay", "negative", |m| m.pay.negative = 2.0),
    ("pay", "missing", |m| m.pay.missing = -0.5),
    ("checkpoints", "every", |m| m.checkpoints.every = 0),
    ("retention", "rounds", |m| m.retention.rounds = Some(0)),
    ("retention", "rounds", |m| m.retention.rounds = Some(2 * m.checkpoints.every - 1)),
    ("retention", "rounds", |m| m.retention.rounds = Some(u64::MAX)),
    ("retention", "one_in", |m| m.retention.one_in = 0),
    ("retention", "one_in", |m| m.retention.one_in = u64::MAX),
];

#[test]
fn each_impossible_value_is_refused_by_section_and_field() {
    for (index, (section, field, spoil)) in BROKEN.iter().enumerate() {
        let mut manifest = manifest();
        spoil(&mut manifest);
        let error = manifest.validate().expect_err(&format!("rule {index}: {section}.{field}"));
        assert_eq!((error.section, error.field), (*section, *field), "rule {index}: {error}");
    }
}

#[test]
fn a_config_is_refused_as_its_manifest_would_be() {
    let mut config = RunConfig::parse(SMALL).unwrap();
    config.inner.micro_batch = 3;
    let error = Manifest::resolve(config.clone(), launch()).unwrap_err();
    assert_eq!(Manifest::draft(config), Err(error.clone()));
    assert_eq!(error.to_string(), "[inner] micro_batch: 3 does not divide batch = 4");
}

#[test]
fn each_class_of_tensors_is_coded_as_configured() {
    let mut manifest = manifest_without_root();
    manifest.model.tied_embeddings = false;
    let (embeddings, vectors) = (Coding::GroupMax { group: 32, quantizer: Quantizer::Sign1 }, top_k(4096));
    let matrices = Coding::default();
    for (of_embeddings, of_vectors) in [(Some(embeddings), Some(vectors)), (Some(embeddings), None), (None, Some(vectors)), (None, None)] {
        manifest.compression.embeddings = of_embeddings;
        manifest.compression.vectors = of_vectors;
        let format = manifest.format();
        let expected = |spec: &TensorSpec| match spec.name.as_str() {
            "model.embed_tokens.weight" | "lm_head.weight" => of_embeddings.unwrap_or(matrices),
            name if name.ends_with("norm.weight") => of_vectors.unwrap_or(matrices),
            _ => matrices,
        };
        let expected: Vec<Codec> = manifest.layout().tensors().iter().map(|spec| expected(spec).codec().unwrap()).collect();
        assert_eq!(format.codecs(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn numbers_survive_to_the_last_bit(lr in 1e-300f64..1e300, beta in 0.0f32..=1.0, outer in f32::MIN_POSITIVE..f32::MAX, tokens in 33u64..) {
        let mut manifest = manifest_without_root();
        (manifest.inner.lr, manifest.compression.beta) = (lr, beta);
        manifest.outer.lr = Schedule::Steps(vec![(0, outer), (u64::MAX, 1.0)]);
        manifest.data.train_tokens = tokens;
        prop_assert_eq!(Manifest::from_bytes(&manifest.to_bytes()), Ok(manifest));
    }
}

fn manifest_without_root() -> Manifest {
    Manifest::draft(RunConfig::parse(SMALL).unwrap()).unwrap()
}
