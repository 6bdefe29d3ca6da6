//! What is broken, missing, full or in use: one clear line from the command, and in a running network a round that goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use chain::{Blocks, Ledger, LedgerConfig, Phrase, Wallet};
use checkpoints::Event;
use common::{CONFIG, Net, complaint, tributary};

/// What a command says that must fail in one line; one that hangs instead is killed and fails the test.
fn refused(command: &Command) -> String {
    complaint(&under("timeout 120", command).output().unwrap())
}

/// The command, run by a shell through `wrapper`.
fn under(wrapper: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {wrapper} \"$@\""), "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// A miner of this network with any key, home, run and chain.
fn mine(net: &Net, hotkey: &str, home: &str, run: &str, chain: Option<&Path>) -> Command {
    let mut command = tributary();
    command.args(["mine", "--device", "cpu", "--json", "--run", run, "--wallet", "test", "--hotkey", hotkey]);
    command.arg("--wallet-path").arg(net.path("wallets")).arg("--home").arg(net.path("homes").join(home));
    if let Some(path) = chain {
        command.arg("--chain").arg(format!("ledger:{}", path.display()));
    }
    command
}

/// Changes a file while `then` looks at it.
fn with_file<T>(path: &Path, change: impl FnOnce(&mut Vec<u8>), then: impl FnOnce() -> T) -> T {
    let good = fs::read(path).unwrap();
    spoil(path, change);
    let result = then();
    fs::write(path, good).unwrap();
    result
}

fn spoil(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn truncate(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() / 2);
}

#[allow(clippy::ptr_arg, reason = "one of several changes of the same type")]
fn flip(bytes: &mut Vec<u8>) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

/// The round at which a role said last that it is ready.
fn ready_at(net: &Net, name: &str) -> u64 {
    let ready = |event: Event| if let Event::Ready { round, .. } = event { Some(round) } else { None };
    net.events(name).into_iter().rev().find_map(ready).expect("it was ready")
}

#[test]
fn a_run_that_cannot_be_joined_is_refused() {
    let net = Net::new(CONFIG, 1, 0, 1);
    let (run, ledger) = (net.run.as_str(), net.path("store").join("ledger.sqlite"));
    let folder = PathBuf::from(run.strip_prefix("file://").unwrap());
    let join = |run: &str, chain: Option<&Path>| refused(&mine(&net, "miner-1", "miner-1", run, chain));
    let says = |line: String, words: &str| assert!(line.contains(words), "{line}");

    says(join("http://127.0.0.1:9/x", Some(&ledger)), "check the network and the address");
    says(join("http://127.0.0.1:9/x", None), "pass --chain");
    says(join("gopher://127.0.0.1/x", Some(&ledger)), "gopher");
    says(join(&format!("{run}/../none"), None), "none");
    says(join(net.path("nowhere/run").to_str().unwrap(), None), "nowhere/ledger.sqlite");
    says(join(net.path("nowhere/run").to_str().unwrap(), Some(&ledger)), "nowhere/run");

    let manifest = folder.join("manifest.json");
    let hidden = manifest.with_extension("hidden");
    fs::rename(&manifest, &hidden).unwrap();
    says(join(run, None), "it has no manifest.json");
    fs::rename(&hidden, &manifest).unwrap();
    says(with_file(&manifest, truncate, || join(run, None)), run);
    says(with_file(&manifest, Vec::clear, || join(run, None)), run);
    says(with_file(&manifest, |bytes| bytes.resize(100 << 20, b' '), || join(run, None)), "refused");
    let renamed =
        |bytes: &mut Vec<u8>| *bytes = String::from_utf8(bytes.clone()).unwrap().replace("\"name\":\"test\"", "\"name\":\"best\"").into();
    says(with_file(&manifest, renamed, || join(run, None)), "not the run its address names");

    let stranger = Wallet::open(&net.path("wallets"), "test").unwrap().create_hotkey("stranger", &Phrase::generate().unwrap()).unwrap();
    let other = net.path("other.sqlite");
    Ledger::create(&other, &LedgerConfig::new(Blocks::Lockstep, stranger.hotkey())).unwrap();
    says(join(run, Some(&other)), "pass the right --chain");
    fs::write(&other, [7; 4096]).unwrap();
    says(join(run, Some(&other)), "other.sqlite");
    says(refused(&mine(&net, "stranger", "stranger", run, None)), "not registered on subnet 1");

    let shard = folder.join("data/train-00000.bin.zst");
    fs::rename(&shard, &hidden).unwrap();
    says(join(run, None), "train-00000.bin.zst\" is missing");
    fs::rename(&hidden, &shard).unwrap();
    says(with_file(&shard, truncate, || join(run, None)), "train-00000.bin.zst\" is truncated");
    says(with_file(&shard, flip, || join(run, None)), "train-00000.bin.zst\" is corrupt");
    says(with_file(&folder.join("data/dataset.json"), truncate, || join(run, None)), "dataset.json");
}

#[test]
fn damaged_and_locked_homes_lose_nothing() {
    // without a public snapshot, a node that lost its state must replay the whole log
    let mut net = Net::new(&CONFIG.replace("every = 3", "every = 1000"), 3, 0, 1);
    let running = ["miner-1", "miner-2", "validator-1", "aggregator"];
    net.start(&running);
    net.wait_round("miner-1", 2);
    let line = refused(&mine(&net, "miner-3", "miner-1", &net.run, None));
    assert!(line.contains("homes/miner-1 is in use by another process"), "{line}");

    let file = |net: &Net, node: &str, file: &str| net.path("homes").join(node).join(file);
    for change in [truncate, flip, Vec::clear] {
        net.stop("miner-1");
        spoil(&file(&net, "miner-1", "state.safetensors"), change);
        net.start(&["miner-1"]);
        let newest = *net.roots("miner-2").keys().next_back().unwrap();
        net.wait_round("miner-1", newest + 1);
        assert_eq!(ready_at(&net, "miner-1"), 0, "it replays the log");
    }

    for (node, name) in [("miner-1", "miner.safetensors"), ("validator-1", "scores.safetensors")] {
        net.stop(node);
        let path = file(&net, node, name);
        for change in [truncate, flip, Vec::clear] {
            let line = with_file(&path, change, || refused(&net.command(node)));
            assert!(line.contains(&format!("{name} is damaged")) && line.contains("remove it"), "{line}");
        }
        fs::remove_file(&path).unwrap();
        net.start(&[node]);
    }
    let newest = *net.roots("miner-2").keys().next_back().unwrap();
    running.iter().for_each(|name| net.wait_round(name, newest + 3));
    net.stop_all();
    net.assert_equal_roots(&running);
    fs::write(net.path("config.toml"), CONFIG.replace("\"test\"", "\"other\"")).unwrap();
    let launched = launch(&net, &net.path("store")).arg("--json").output().unwrap();
    let other = serde_json::from_slice::<serde_json::Value>(&launched.stdout).unwrap()["url"].as_str().unwrap().to_owned();
    let line = refused(&mine(&net, "miner-1", "miner-1", &other, None));
    assert!(line.contains("homes/miner-1 is the home of a node of run"), "{line}");
    let uid = net.roles["miner-1"].uid;
    assert!(net.applied("miner-2").range(newest..).any(|(_, applied)| applied.contains(&uid)), "its work counts again");
}

#[test]
fn damaged_snapshots_are_passed_over() {
    let mut net = Net::new(CONFIG, 3, 0, 1);
    net.start(&["miner-1", "miner-2", "validator-1"]);
    let snapshots = net.bucket("validator-1").join("checkpoints");
    net.wait("three snapshots", |_| snapshots.join("00000009/manifest").exists());
    // while it is down there is no new one
    net.stop("validator-1");
    for entry in fs::read_dir(&snapshots).unwrap() {
        let snapshot = entry.unwrap().path();
        let shard = snapshot.join("model-00001-of-00001.safetensors");
        match snapshot.file_name().unwrap().to_str().unwrap() {
            "00000003" => spoil(&shard, truncate),
            "00000006" => spoil(&shard, flip),
            "00000009" => fs::remove_file(&shard).unwrap(),
            _ => spoil(&snapshot.join("manifest"), flip),
        }
    }
    net.start(&["miner-3", "validator-1"]);
    let newest = *net.roots("miner-1").keys().next_back().unwrap();
    net.wait_round("miner-3", newest + 2);
    net.stop_all();
    assert_eq!(ready_at(&net, "miner-3"), 0, "no snapshot is left to start from");
    net.assert_equal_roots(&["miner-1", "miner-2", "miner-3", "validator-1"]);
}

/// A file system of a given size. Needs the right to mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, kib: usize) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).arg(&at).output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: no right to mount a small file system");
        }
        mounted.then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// `tributary launch` of this network's config into `store`.
fn launch(net: &Net, store: &Path) -> Command {
    let mut command = tributary();
    command.args(["launch", "--wallet", "test", "--hotkey", "owner"]).arg(net.path("config.toml"));
    command.arg("--wallet-path").arg(net.path("wallets")).arg("--data").arg(net.path("data")).arg("--store").arg(store);
    command.arg("--chain").arg(format!("ledger:{}", net.path("store/ledger.sqlite").display()));
    command
}

/// `tributary demo` of this network's config in `dir`.
fn demo(net: &Net, dir: &Path) -> Command {
    let mut command = tributary();
    command.args(["demo", "--rounds", "3", "--json", "--text"]).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/*/README.md"));
    command.arg("--config").arg(net.path("config.toml")).arg("--dir").arg(dir);
    command
}

#[test]
fn a_full_disk_is_named() {
    let mut net = Net::new(CONFIG, 2, 0, 1);
    // a limit on the size of files is everybody's to set, and a write over it fails as one to a full disk does
    let limited = |bytes: usize, command: &Command| {
        under(&format!("env --ignore-signal=XFSZ prlimit --fsize={bytes} timeout 120"), command).output().unwrap()
    };
    let line = complaint(&limited(2048, &launch(&net, &net.path("elsewhere"))));
    assert!(line.contains("File too large"), "{line}");
    let output = limited(16384, &demo(&net, &net.path("demo-1")));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.lines().next_back().is_some_and(|line| line.starts_with("tributary: ") && line.contains("File too large")), "{told}");

    if let Some(disk) = SmallDisk::mount(net.path("small-1"), 16) {
        let line = refused(&launch(&net, &disk.0));
        assert!(line.contains("no space is left; free some and try again"), "{line}");
    }
    // enough for ever more of what is prepared: the data set, keys, the ledger
    for kib in [16, 200, 400] {
        let Some(disk) = SmallDisk::mount(net.path(&format!("small-{kib}")), kib) else { break };
        let output = under("timeout 120", &demo(&net, &disk.0)).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{kib} KiB: {told}");
        let line = told.lines().next_back().unwrap();
        assert!(line.starts_with("tributary: ") && (line.contains("No space left") || line.contains("disk is full")), "{told}");
    }
    // a node whose home is full ends, the others go on, and with space it goes on where it was
    net.start_all();
    net.wait_round("miner-1", 2);
    net.stop("miner-1");
    let temporary = net.path("homes/miner-1/miner.tmp");
    std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
    let line = refused(&net.command("miner-1"));
    assert!(line.contains("homes/miner-1/miner.safetensors") && line.contains("No space left on device"), "{line}");
    let newest = *net.roots("miner-2").keys().next_back().unwrap();
    net.wait_round("miner-2", newest + 1);
    fs::remove_file(&temporary).unwrap();
    net.start(&["miner-1"]);
    net.wait_round("miner-1", newest + 3);
    net.stop_all();
    net.assert_equal_roots(&["miner-1", "miner-2", "validator-1", "aggregator"]);
}
