//! `tributary codec` on files: what it writes is what the library writes, and every damage is told.

#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use checkpoints::Terms;
use compression::{
    Codec, ErrorFeedback, Format, Group, Header, Indices, Layout, MergeOver, Payload, Quantizer, Rule, State, TensorSpec, Weighted, encode,
    transition,
};
use protocol::{Manifest, Merge, Outer, RunConfig};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

const ZEROS: Header = Header { run: [0; 32], round: 0, hotkey: [0; 32], base_root: [0; 32] };

/// A folder of files that commands read and write.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn codec(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
        command.current_dir(self.0.path()).arg("codec").args(arguments.split(' ')).stdin(Stdio::null()).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn succeeds(&self, arguments: &str) -> String {
        let Output { status, stdout, stderr } = self.codec(arguments);
        assert!(status.success(), "{arguments}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.succeeds(&format!("{arguments} --json"))).unwrap()
    }

    /// Standard output, and the one line on standard error, of a command that must fail with exit code 1.
    fn fails(&self, arguments: &str) -> (String, String) {
        let Output { status, stdout, stderr } = self.codec(arguments);
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{arguments}: {stderr}");
        assert!(stderr.starts_with("tributary: ") && stderr.lines().count() == 1, "{arguments}: {stderr}");
        (String::from_utf8(stdout).unwrap(), stderr)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// What stands in a file of f32.
    fn tensors(&self, name: &str) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
        let bytes = self.read(name);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (String, TensorView<'_>)| {
            assert_eq!(view.dtype(), Dtype::F32);
            (name, (view.shape().to_vec(), view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
        };
        file.tensors().into_iter().map(tensor).collect()
    }

    /// Writes tensors of little-endian elements.
    fn write(&self, name: &str, dtype: Dtype, tensors: &[(&str, &[usize], Vec<u8>)]) {
        let views = tensors.iter().map(|(name, shape, bytes)| (*name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap()));
        fs::write(self.path(name), safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

/// Three tensors, in the order of their names' bytes: `Z` is before `a`.
fn layout() -> Arc<Layout> {
    let spec = |(name, shape): &(&str, &[usize])| TensorSpec::new(*name, shape);
    Arc::new(Layout::new(SHAPES.iter().map(spec).collect()).unwrap())
}

const SHAPES: [(&str, &[usize]); 3] = [("Z.weight", &[100, 130]), ("a.norm", &[70]), ("b.weight", &[3, 40, 70])];

/// Reproducible elements between -1 and 1, few of them large.
fn elements(seed: u32) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0).powi(5) as f32
    };
    layout().tensors().iter().map(|spec| (0..spec.len()).map(|_| next()).collect()).collect()
}

fn write_f32(files: &Files, name: &str, elements: &[Vec<f32>]) {
    let bytes = |elements: &Vec<f32>| elements.iter().flat_map(|element| element.to_le_bytes()).collect();
    // in another order than the layout's
    let tensors: Vec<_> = SHAPES.iter().zip(elements).map(|((name, shape), elements)| (*name, *shape, bytes(elements))).rev().collect();
    files.write(name, Dtype::F32, &tensors);
}

/// By name, as [`Files::tensors`] reads them.
fn named(elements: &[Vec<f32>]) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    SHAPES.iter().zip(elements).map(|((name, shape), elements)| (name.to_string(), (shape.to_vec(), elements.clone()))).collect()
}

#[test]
fn what_goes_in_comes_out_as_the_library_has_it() {
    let files = Files::new();
    let (gradient, before) = (elements(1), elements(2));
    write_f32(&files, "delta", &gradient);
    write_f32(&files, "before", &before);
    let cases = [
        ("", Codec::top_k(72, Quantizer::Sign1, Indices::Golomb)),
        ("--quantizer sign1 --indices elias-fano --k 8", Codec::top_k(8, Quantizer::Sign1, Indices::EliasFano)),
        ("--quantizer reference --indices packed12 --k 64", Codec::top_k(64, Quantizer::Reference, Indices::Packed12)),
        ("--quantizer sign2 --select group-max --group 16", Codec::group_max(Group::G16, Quantizer::Sign2)),
    ];
    for (options, codec) in cases {
        let format = Arc::new(Format::uniform(layout(), codec).unwrap());
        let mut feedback = ErrorFeedback::from_tensors(&layout(), before.clone()).unwrap();
        let expected = encode(&format, &ZEROS, &mut feedback, &gradient, 0.5).unwrap();
        let arguments =
            format!("encode --pseudo-gradient delta --feedback-in before --feedback-out after --out p.trb --beta 0.5 {options}");
        let report = files.json(arguments.trim_end());
        assert_eq!(files.read("p.trb"), expected, "{options}");
        assert_eq!(report["bytes"], expected.len());
        assert_eq!(files.tensors("after"), named(feedback.tensors()));
        let payload = Payload::parse(&expected, &format).unwrap();
        files.succeeds("decode p.trb --like delta --out dense");
        assert_eq!(files.tensors("dense"), named(&payload.to_dense()));
        let inspected = files.json("inspect p.trb --like delta");
        assert_eq!((&inspected["refusal"], &inspected["digest"]), (&Value::Null, &hex::encode(payload.digest()).into()));
        assert_eq!(inspected["sections"][0]["holds"]["values"], report["values"]);
        assert_eq!(inspected["sections"][0]["holds"]["parts"][0]["tensor"], "Z.weight");
    }
    assert!(!fs::read_dir(files.0.path()).unwrap().any(|entry| entry.unwrap().path().extension().is_some_and(|e| e == "tmp")));
}

#[test]
fn a_class_of_tensors_has_a_codec_of_its_own() {
    let files = Files::new();
    write_f32(&files, "delta", &elements(1));
    files.succeeds(
        "encode --pseudo-gradient delta --out p.trb --codec-for *.norm=sign2,k=128 --run 01{} --round 7"
            .replace("{}", &"00".repeat(31))
            .as_str(),
    );
    let codecs = [(72, Quantizer::Sign1), (128, Quantizer::Sign2), (72, Quantizer::Sign1)];
    let codecs = codecs.map(|(k, quantizer)| Codec::top_k(k, quantizer, Indices::Golomb)).into();
    let mut header = ZEROS;
    (header.run[0], header.round) = (1, 7);
    let format = Arc::new(Format::new(layout(), codecs).unwrap());
    assert_eq!(*Payload::parse(&files.read("p.trb"), &format).unwrap().header(), header);
    assert_eq!(files.json("inspect p.trb")["header"]["codecs"].as_array().unwrap().len(), 3);
    assert!(files.fails("encode --pseudo-gradient delta --out p.trb --codec-for c*=sign1").1.contains("no tensor"));
}

#[test]
fn half_precision_is_widened() {
    let files = Files::new();
    let gradient = elements(3);
    let upper = |element: &f32| f32::from_bits(element.to_bits() & 0xFFFF_0000);
    let rounded: Vec<Vec<f32>> = gradient.iter().map(|elements| elements.iter().map(upper).collect()).collect();
    let bf16 = |elements: &Vec<f32>| elements.iter().flat_map(|element| ((element.to_bits() >> 16) as u16).to_le_bytes()).collect();
    let tensors: Vec<_> = SHAPES.iter().zip(&rounded).map(|((name, shape), elements)| (*name, *shape, bf16(elements))).collect();
    files.write("bf16", Dtype::BF16, &tensors);
    write_f32(&files, "f32", &rounded);
    files.succeeds("encode --pseudo-gradient bf16 --out a.trb");
    files.succeeds("encode --pseudo-gradient f32 --out b.trb");
    assert_eq!(files.read("a.trb"), files.read("b.trb"));
    files.succeeds("decode a.trb --like bf16 --out dense");

    // 1.0, -2.0 and the smallest subnormal of f16
    files.write("f16", Dtype::F16, &[("a", &[3], vec![0x00, 0x3C, 0x00, 0xC0, 0x01, 0x00])]);
    files.succeeds("encode --pseudo-gradient f16 --feedback-out e --out p.trb --k 1");
    let feedback = files.tensors("e")["a"].1.clone();
    assert_eq!((feedback[0], feedback[2]), (1.0, 2f32.powi(-24)));
    files.write("i32", Dtype::I32, &[("a", &[1], vec![0; 4])]);
    assert!(files.fails("encode --pseudo-gradient i32 --out p.trb").1.contains("its elements are I32"));
}

#[test]
fn merging_is_the_transition() {
    let files = Files::new();
    let (theta, format) = (elements(9), Arc::new(Format::uniform(layout(), Codec::top_k(72, Quantizer::Sign1, Indices::Golomb)).unwrap()));
    write_f32(&files, "theta", &theta);
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        write_f32(&files, name, &elements(seed).iter().map(|e| e.iter().map(|v| v * seed as f32).collect()).collect::<Vec<_>>());
        files.succeeds(&format!("encode --pseudo-gradient {name} --out {name}.trb --round 5"));
    }
    let payloads = ["a.trb", "b.trb", "c.trb"].map(|name| Payload::parse(&files.read(name), &format).unwrap());
    for (over, option) in [(MergeOver::Senders, "senders"), (MergeOver::All, "all")] {
        let mut state = State::new(layout(), 5, theta.clone()).unwrap();
        let before = hex::encode(state.root());
        let record: Vec<_> = payloads.iter().zip([1.0, 1.0, 0.5]).map(|(payload, weight)| Weighted { payload, weight }).collect();
        transition(&mut state, &record, &Rule { lr: 0.65, over, resparsify: None }).unwrap();
        let merge = format!("merge a.trb b.trb c.trb --theta theta --lr 0.65 --over {option} --weights 1,1,0.5 --out next");
        let report = files.json(&merge);
        assert_eq!(files.tensors("next"), named(state.tensors()));
        assert_eq!((&report["root_before"], &report["root_after"]), (&before.into(), &hex::encode(state.root()).into()));
        let norms = compression::norms(&payloads[1]);
        assert_eq!(report["payloads"][1]["norms"], Value::from(norms));
        assert!(report["payloads"][2]["clip_factors"][0].as_f64().unwrap() < 1.0);
    }
    assert!(files.succeeds("merge a.trb --theta theta --lr 1 --out next").contains("root after"));
}

#[test]
fn only_payloads_of_one_record_are_merged_into_their_base() {
    let files = Files::new();
    write_f32(&files, "theta", &elements(9));
    let root = hex::encode(State::new(layout(), 2, elements(9)).unwrap().root());
    let encode = |name: &str, options: &str| files.succeeds(&format!("encode --pseudo-gradient theta --out {name} {options}"));
    encode("a.trb", &format!("--round 2 --base-root {root}"));
    encode("zero.trb", "--round 2");
    encode("late.trb", &format!("--round 3 --base-root {root}"));
    encode("other.trb", &format!("--round 2 --base-root {root} --k 63"));
    let merge = |payloads: &str, options: &str| format!("merge {payloads} --theta theta --lr 1 --out next{options}");
    files.succeeds(&merge("a.trb", ""));
    files.succeeds(&merge("zero.trb", ""));
    assert!(files.fails(&merge("a.trb", " --round 7")).1.contains("--any-base"));
    assert!(files.fails(&merge("late.trb", "")).1.contains(&root));
    files.succeeds(&merge("late.trb", " --any-base"));
    assert!(files.fails(&merge("a.trb late.trb", "")).1.contains("late.trb is of another round"));
    assert!(files.fails(&merge("a.trb zero.trb", "")).1.contains("another base root"));
    assert!(files.fails(&merge("a.trb other.trb", "")).1.contains("coded in another way"));
    assert!(files.fails(&merge("a.trb", " --weights 1,1")).1.contains("2 weights for 1 payload:"));
    assert_eq!(files.codec(&merge("a.trb", " --weights 0")).status.code(), Some(2));
}

#[test]
fn damage_is_explained() {
    let files = Files::new();
    write_f32(&files, "delta", &elements(1));
    files.succeeds("encode --pseudo-gradient delta --out p.trb");
    assert!(files.succeeds("inspect p.trb").contains("pass --like"));
    assert!(files.succeeds("inspect p.trb --like delta").contains("a node would accept it"));
    let good = files.read("p.trb");
    let section = &files.json("inspect p.trb")["sections"][0];
    let body = section["offset"].as_u64().unwrap() as usize;
    let refusals = |bytes: &[u8]| {
        fs::write(files.path("bad.trb"), bytes).unwrap();
        ["", " --like delta"].map(|like| {
            let (report, error) = files.fails(&format!("inspect bad.trb{like} --json"));
            let report: Value = serde_json::from_str(&report).unwrap();
            let refusal = report["refusal"].as_str().unwrap().to_owned();
            assert!(error.contains(&refusal), "{error}");
            assert!(files.fails(&format!("inspect bad.trb{like}")).0.contains(&refusal));
            (refusal, report)
        })
    };
    for (refusal, report) in refusals(&good[..body + 10]) {
        assert!(refusal.contains("cut short"), "{refusal}");
        assert_eq!((&report["sections"][0]["present"], &report["sections"][0]["hash_matches"]), (&10.into(), &false.into()));
    }
    for (refusal, _) in refusals(&good[..20]) {
        assert!(refusal.contains("ends after 20 bytes"), "{refusal}");
    }
    let mut flipped = good.clone();
    flipped[body] ^= 4;
    for (refusal, report) in refusals(&flipped) {
        assert!(refusal.contains("section 0: its hash"), "{refusal}");
        assert_eq!(report["header"]["tensors"], 3);
    }
    for (refusal, _) in refusals(&[&good[..], b"more"].concat()) {
        assert!(refusal.contains("trailing"), "{refusal}");
    }
    for (refusal, _) in refusals(&[b'x'; 200]) {
        assert!(refusal.contains("magic"), "{refusal}");
    }
    fs::write(files.path("bad.trb"), &flipped).unwrap();
    assert!(files.fails("decode bad.trb --like delta --out dense").1.contains("get the file anew"));
    assert!(!files.path("dense").exists() && !files.path("dense.tmp").exists());
}

#[test]
fn other_tensors_are_refused() {
    let files = Files::new();
    write_f32(&files, "delta", &elements(1));
    files.write("one", Dtype::F32, &[("a", &[1], vec![0; 4])]);
    let renamed =
        SHAPES.map(|(name, shape)| (if name == "a.norm" { "a.bias" } else { name }, shape, vec![0; 4 * shape.iter().product::<usize>()]));
    files.write("renamed", Dtype::F32, &renamed);
    files.succeeds("encode --pseudo-gradient delta --out p.trb");
    for (like, refusal) in [("one", "has 3 tensors, expected 1"), ("renamed", "layout digest differs")] {
        assert!(files.fails(&format!("decode p.trb --like {like} --out dense")).1.contains(refusal));
        let (report, error) = files.fails(&format!("inspect p.trb --like {like}"));
        assert!(report.contains("matches") && error.contains(refusal), "{report}{error}");
        assert!(files.fails(&format!("merge p.trb --theta {like} --lr 1 --out next")).1.contains(refusal));
        assert!(files.fails(&format!("encode --pseudo-gradient delta --feedback-in {like} --out q.trb")).1.contains(like));
    }
    for (name, bytes, problem) in
        [("short", &[1; 7][..], "no safetensors"), ("long", &[255; 9], "no safetensors"), ("none", &[], "no safetensors")]
    {
        fs::write(files.path(name), bytes).unwrap();
        assert!(files.fails(&format!("decode p.trb --like {name} --out dense")).1.contains(problem));
    }
    let delta = files.read("delta");
    fs::write(files.path("cut"), &delta[..delta.len() - 1]).unwrap();
    assert!(files.fails("encode --pseudo-gradient cut --out q.trb").1.contains("by its header"));
    assert!(files.fails("inspect absent.trb").1.contains("absent.trb: No such file"));
    assert!(!Path::new(&files.path("q.trb")).exists());
}

#[test]
fn a_pseudo_gradient_that_is_not_finite_writes_nothing() {
    let files = Files::new();
    let mut gradient = elements(1);
    gradient[1][3] = f32::NAN;
    write_f32(&files, "delta", &gradient);
    assert!(files.fails("encode --pseudo-gradient delta --feedback-out e --out p.trb").1.contains("a.norm"));
    assert!(!files.path("p.trb").exists() && !files.path("e").exists());
}

#[test]
fn what_is_written_takes_no_other_files_place() {
    let files = Files::new();
    write_f32(&files, "delta", &elements(1));
    files.succeeds("encode --pseudo-gradient delta --out p.trb --feedback-out e");
    let before = ["delta", "p.trb", "e"].map(|name| files.read(name));
    for (arguments, other) in [
        ("encode --pseudo-gradient delta --out x --feedback-out ./x", "--feedback-out"),
        ("encode --pseudo-gradient delta --out e --feedback-in ./e", "--feedback-in"),
        ("encode --pseudo-gradient delta --out ./delta", "--pseudo-gradient"),
        ("encode --pseudo-gradient delta --out x --feedback-out ../SELF/delta", "--pseudo-gradient"),
        ("decode p.trb --like delta --out ./p.trb", "the payload"),
        ("decode p.trb --like delta --out delta", "--like"),
        ("merge p.trb --theta delta --lr 1 --out p.trb", "a payload"),
    ] {
        let folder = files.0.path().file_name().unwrap().to_str().unwrap();
        let problem = files.fails(&arguments.replace("SELF", folder)).1;
        assert!(problem.contains(&format!("would take the place of {other}:")), "{arguments}: {problem}");
    }
    assert_eq!(["delta", "p.trb", "e"].map(|name| files.read(name)), before);
    assert!(!files.path("x").exists());
    files.succeeds("encode --pseudo-gradient delta --out p.trb --feedback-in e --feedback-out e");
    files.succeeds("merge p.trb --theta delta --lr 1 --out delta");
}

#[test]
fn a_runs_payloads_are_read_and_merged_as_the_run_does() {
    let config = RunConfig::parse(include_str!("../configs/demo.toml")).unwrap();
    let exact = Manifest::draft(config.clone()).unwrap();
    let resparsify = Some(exact.compression.matrices);
    let lossy = Manifest::draft(RunConfig { outer: Outer { resparsify, merge: Merge::All, ..config.outer.clone() }, ..config }).unwrap();
    for manifest in [exact, lossy] {
        let files = Files::new();
        fs::write(files.path("manifest.json"), manifest.to_bytes()).unwrap();
        let (layout, format) = (manifest.state_layout(), manifest.format());
        assert!(!format.layout().tensors().is_sorted_by_key(|spec| &spec.name), "the run's order is not that of names");
        let theta: Vec<_> = layout.tensors().iter().enumerate().map(|(i, spec)| vec![1.0 + i as f32; spec.len()]).collect();
        let bytes = |elements: &[f32]| elements.iter().flat_map(|element| element.to_le_bytes()).collect::<Vec<u8>>();
        let tensors = layout.tensors().iter().zip(&theta).map(|(spec, elements)| (&*spec.name, &*spec.shape, bytes(elements)));
        files.write("theta", Dtype::F32, &tensors.collect::<Vec<_>>());

        let mut state = State::new(layout, 3, theta.clone()).unwrap();
        let header = Header { run: manifest.run_id().0, round: 3, base_root: state.root(), ..ZEROS };
        let gradient: Vec<_> =
            format.layout().tensors().iter().map(|spec| (0..spec.len()).map(|i| (i % 97) as f32 * 1e-3).collect()).collect();
        let sealed = encode(&format, &header, &mut ErrorFeedback::zeros(format.layout()), &gradient, 0.95).unwrap();
        fs::write(files.path("p.trb"), &sealed).unwrap();
        let payload = Payload::parse(&sealed, &format).unwrap();

        files.succeeds("decode p.trb --like manifest.json --out dense");
        let dense = files.tensors("dense");
        for (spec, elements) in format.layout().tensors().iter().zip(payload.to_dense()) {
            assert_eq!(dense[&spec.name], (spec.shape.clone(), elements));
        }
        assert!(files.succeeds("inspect p.trb --like manifest.json").contains("a node would accept it"));

        transition(&mut state, &[Weighted { payload: &payload, weight: 1.0 }], &Terms::of_manifest(&manifest, 3).rule).unwrap();
        let report = files.json("merge p.trb --manifest manifest.json --theta theta --out next");
        assert_eq!(report["root_after"], hex::encode(state.root()));
        let next = files.tensors("next");
        for (spec, elements) in state.layout().tensors().iter().zip(state.tensors()) {
            assert_eq!(next[&spec.name], (spec.shape.clone(), elements.clone()));
        }
        assert!(files.fails("merge p.trb --manifest manifest.json --theta p.trb --out next").1.contains("no safetensors"));
        assert!(files.fails("merge p.trb --theta dense --lr 1 --any-base --out next").1.contains("layout digest differs"));
        assert!(files.fails("merge p.trb --manifest theta --theta theta --out next").1.contains("theta: the manifest"));
        files.write("one", Dtype::F32, &[("a", &[1], vec![0; 4])]);
        assert!(files.fails("merge p.trb --manifest manifest.json --theta one --out next").1.contains("one lacks tensor"));
        refusals_by_manifest(&files, &format, &header, &gradient);
    }
}

/// Payloads that only the run's manifest shows to be wrong, and the tensor's name.
fn refusals_by_manifest(files: &Files, format: &Arc<Format>, header: &Header, gradient: &[Vec<f32>]) {
    let layout = format.layout();
    let other = Arc::new(Format::uniform(layout.clone(), Codec::group_max(Group::G16, Quantizer::Sign1)).unwrap());
    let bytes = encode(&other, header, &mut ErrorFeedback::zeros(layout), gradient, 0.95).unwrap();
    fs::write(files.path("other.trb"), bytes).unwrap();
    let (report, error) = files.fails("inspect other.trb --like manifest.json");
    assert!(error.contains(&format!("must be coded as {}", format.codecs()[0])) && error.contains("manifest of its own run"), "{error}");
    assert!(report.contains(&format!("the tensor is {}", layout.tensors()[0].name)), "{report}");
}

#[test]
fn what_no_payload_can_be_made_of_is_told() {
    let files = Files::new();
    files.write("scalar", Dtype::F32, &[("a", &[], vec![0; 4])]);
    files.write("flat", Dtype::F32, &[("a", &[1; 5], vec![0; 4])]);
    for name in ["scalar", "flat"] {
        assert!(files.fails(&format!("encode --pseudo-gradient {name} --out p.trb")).1.contains("1 to 4 dimensions, none zero"));
    }
    for beta in ["1.01", "NaN", "inf", "a"] {
        let Output { status, stderr, .. } = files.codec(&format!("encode --pseudo-gradient scalar --out p.trb --beta {beta}"));
        assert_eq!(status.code(), Some(2));
        assert!(String::from_utf8_lossy(&stderr).contains("a number from 0 to 1"));
    }
    assert_eq!(files.codec("merge p.trb --theta scalar --out next").status.code(), Some(2));
}
