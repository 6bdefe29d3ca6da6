//! A node's home directory: one process, whole files, and what becomes of damaged ones.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use checkpoints::{Expected, Home, HomeError, Trust, read_snapshot, write_durably, write_snapshot};
use common::Net;
use protocol::{Coding, Indices, Quantizer};
use storage::{Access, Bucket};

const STATE: &str = "state.safetensors";

fn home() -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(&dir.path().join("node")).unwrap();
    (dir, home)
}

#[test]
fn a_home_has_one_process_at_a_time() {
    let (dir, home) = home();
    let path = dir.path().join("node");
    assert_eq!(home.dir(), path);
    let error = Home::open(&path).unwrap_err();
    assert!(matches!(&error, HomeError::InUse(at) if *at == path), "{error}");
    assert!(error.to_string().contains("--home"));
    drop(home);
    Home::open(&path).unwrap();
}

#[test]
fn a_home_serves_one_run_only() {
    let (_dir, home) = home();
    let (mine, other) = (protocol::Digest::of(b"mine"), protocol::Digest::of(b"other"));
    home.claim(&mine).unwrap();
    home.claim(&mine).unwrap();
    let error = home.claim(&other).unwrap_err();
    assert!(matches!(&error, HomeError::OtherRun { expected, .. } if *expected == other));
    assert!(error.to_string().contains(&mine.to_string()), "{error}");
}

#[tokio::test]
async fn what_lossy_merges_leave_over_is_part_of_the_state_everywhere() {
    let coding = Coding::TopK { k: 32, quantizer: Quantizer::Sign1, indices: Indices::Golomb };
    let net = Net::with(|config| config.outer.resparsify = Some(coding)).await;
    let mut replica = net.genesis();
    net.round(&mut replica).await;
    net.round(&mut replica).await;
    let model = replica.state.layout().model().len();
    assert_eq!(replica.state.tensors().len(), 2 * model);
    assert!(replica.state.tensors()[model..].iter().flatten().any(|left| *left != 0.0));
    let (_dir, home) = home();
    home.save_replica(&replica).unwrap();
    let mut back = home.load_replica(&net.run).unwrap().unwrap();
    assert_eq!(back.root, replica.root);
    let bucket = Bucket::open("memory:///lossy", Access::Own).unwrap();
    let (state, anchor) = (&replica.state, &replica.anchor);
    write_snapshot(&bucket, state, net.run.id, anchor, &net.validators[0].keypair, 100_000).await.unwrap();
    let expected = Expected { run: net.run.id, layout: &net.run.manifest.state_layout(), trust: Trust::Anyone };
    assert!(read_snapshot(&bucket, anchor.round, &expected).await.unwrap().0 == *replica.state);
    net.round(&mut replica).await;
    net.step(&mut back).await;
    assert_eq!(back.root, replica.root);
}

#[test]
fn a_home_that_cannot_be_made_says_where() {
    let (dir, _home) = home();
    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    assert!(matches!(Home::open(&file.join("node")), Err(HomeError::Io { path, .. }) if path == file.join("node")));
}

fn save(home: &Home) -> Vec<u8> {
    let (a, b) = ([1.0, f32::NAN, -0.0, f32::MIN_POSITIVE / 2.0], []);
    home.save("miner.safetensors", &("round", 7), &[("b".to_owned(), &b[..]), ("a".to_owned(), &a[..])]).unwrap();
    fs::read(home.dir().join("miner.safetensors")).unwrap()
}

fn load(home: &Home) -> Result<Option<checkpoints::Saved<(String, u32)>>, HomeError> {
    home.load("miner.safetensors")
}

#[test]
fn what_is_saved_loads_bit_for_bit() {
    let (_dir, home) = home();
    assert!(load(&home).unwrap().is_none());
    save(&home);
    let mut saved = load(&home).unwrap().unwrap();
    saved.tensors.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(saved.meta, ("round".to_owned(), 7));
    let bits = |at: usize| saved.tensors[at].1.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!((saved.tensors[0].0.as_str(), bits(0)), ("a", [1.0, f32::NAN, -0.0, f32::MIN_POSITIVE / 2.0].map(f32::to_bits).to_vec()));
    assert_eq!((saved.tensors[1].0.as_str(), bits(1)), ("b", vec![]));
    home.remove("miner.safetensors");
    home.remove("miner.safetensors");
    assert!(load(&home).unwrap().is_none());
}

#[test]
fn every_damaged_byte_and_every_truncation_is_noticed() {
    let (_dir, home) = home();
    let good = save(&home);
    let path = home.dir().join("miner.safetensors");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        for bad in [&bad[..], &good[..at]] {
            fs::write(&path, bad).unwrap();
            match load(&home) {
                Err(HomeError::Damaged { path: found, .. }) => assert_eq!(found, path),
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
    fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    assert!(matches!(load(&home), Err(HomeError::Damaged { .. })));
    // another meaning under a good checksum
    home.save("miner.safetensors", &17, &[]).unwrap();
    assert!(matches!(load(&home), Err(HomeError::Damaged { .. })));
}

/// A miner keeps its payload there before it may be known.
#[test]
fn what_a_home_saves_nobody_else_reads() {
    let (_dir, home) = home();
    home.save("miner.safetensors", &17, &[]).unwrap();
    assert_eq!(fs::metadata(home.dir().join("miner.safetensors")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_write_that_was_cut_short_leaves_the_old_file() {
    let (_dir, home) = home();
    save(&home);
    fs::write(home.dir().join("miner.tmp"), "half of it").unwrap();
    assert!(load(&home).unwrap().is_some());
    write_durably(&home.dir().join("miner.safetensors"), b"new").unwrap();
    assert_eq!(fs::read(home.dir().join("miner.safetensors")).unwrap(), b"new");
}

#[tokio::test]
async fn a_replica_comes_back_and_goes_on() {
    let net = Net::new().await;
    let (_dir, home) = home();
    let mut replica = net.genesis();
    assert!(home.load_replica(&net.run).unwrap().is_none());
    net.round(&mut replica).await;
    home.save_replica(&replica).unwrap();
    let mut back = home.load_replica(&net.run).unwrap().unwrap();
    assert_eq!((back.root, &back.anchor, back.state.round), (replica.root, &replica.anchor, 1));
    net.round(&mut replica).await;
    net.step(&mut back).await;
    assert_eq!(back.root, replica.root);
}

#[tokio::test]
async fn a_damaged_or_foreign_state_file_means_starting_over() {
    let net = Net::new().await;
    let (_dir, home) = home();
    home.save_replica(&net.genesis()).unwrap();
    let path = home.dir().join(STATE);
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(good.len() / 50) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        for bad in [&bad[..], &good[..at]] {
            fs::write(&path, bad).unwrap();
            assert!(home.load_replica(&net.run).unwrap().is_none(), "byte {at}");
        }
    }
    fs::write(&path, &good).unwrap();
    assert!(home.load_replica(&net.run).unwrap().is_some());
    // whole, but of another model
    let other = Net::with(|config| config.model.layers = 2).await;
    assert!(home.load_replica(&other.run).unwrap().is_none());
    // a meaning without its tensors, under a good checksum
    let replica = net.genesis();
    home.save(STATE, &(&replica.anchor, replica.root), &[]).unwrap();
    assert!(home.load_replica(&net.run).unwrap().is_none());
}
