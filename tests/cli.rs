//! The command as its user meets it: help, exit codes, one clear line on failure, files in and out.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const SUBCOMMANDS: [&str; 21] = [
    "codec",
    "demo",
    "mine",
    "validate",
    "aggregate",
    "launch",
    "status",
    "scores",
    "explain",
    "arena",
    "verify",
    "pull",
    "export",
    "eval",
    "check",
    "plan",
    "doctor",
    "data",
    "wallet",
    "chain",
    "completions",
];
/// A wallet that btcli encrypted with "correct horse".
const FOREIGN_WALLETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/chain/tests/wallets");

fn tributary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    command.args(arguments).stdin(Stdio::null());
    for variable in ["BT_PW", "TRIBUTARY_RUN", "TRIBUTARY_CHAIN", "TRIBUTARY_WALLETS"] {
        command.env_remove(variable);
    }
    command
}

/// Standard output of a command that must succeed.
fn succeeds(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&succeeds(command)).unwrap()
}

/// The one line on standard error of a command that must fail with exit code 1.
fn fails(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.is_empty()), (Some(1), true), "{command:?}: {stderr}");
    assert!(stderr.starts_with("tributary: ") && stderr.lines().count() == 1, "{command:?}: {stderr}");
    stderr
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_subcommand_explains_itself() {
    for subcommand in SUBCOMMANDS {
        let help = succeeds(&mut tributary(&[subcommand, "--help"]));
        assert!(help.contains("Usage: tributary"), "{subcommand}: {help}");
    }
    let listed = succeeds(&mut tributary(&["--help"]));
    assert!(SUBCOMMANDS.iter().all(|subcommand| listed.contains(subcommand)));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &["frobnicate"][..],
        &[],
        &["data", "prepare", "--out", "x"],
        &["check", "a", "--peers", "0"],
        &["plan", "a", "--up", "110"],
        &["eval", "--run", "x"],
        &["scores", "--run", "x", "--rounds", "0"],
        &["verify", "--run", "x", "--level", "deep"],
        &["store", "usage"],
        &["store", "gc", "--dry-run"],
    ] {
        assert_eq!(tributary(arguments).output().unwrap().status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn completions_are_written() {
    assert!(succeeds(&mut tributary(&["completions", "bash"])).contains("tributary"));
}

#[test]
fn a_bad_config_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = include_str!("../configs/demo.toml");
    let path = folder.path().join("run.toml");
    let refusal = |config: &str| {
        fs::write(&path, config).unwrap();
        fails(&mut tributary(&["check", text(&path)]))
    };
    assert!(refusal(&good.replace("head_dim = 32", "head_dim = 31")).contains("[model] head_dim: 31 is odd"));
    assert!(refusal(&good.replace("micro_batch = 8", "micro_batch = 3")).contains("[inner] micro_batch"));
    let unknown = refusal(&format!("speed = 3\n{good}"));
    assert!(unknown.contains("line 1: unknown field `speed`"), "{unknown}");
    assert!(refusal("name = [").contains("run.toml"));
    assert!(fails(&mut tributary(&["check", text(&folder.path().join("absent.toml"))])).contains("absent.toml: No such file"));
}

#[test]
fn check_tells_what_a_run_costs() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/72b.toml");
    let words = succeeds(&mut tributary(&["check", config]));
    for figure in [
        "72.7 B (68.5 B without embeddings)",
        "memory of each of 8 GPUs  364 GB",
        "--offload --recompute   164 GB",
        "1.35 GB (f32 / 216, bf16 / 108)",
        "(20 payloads)",
    ] {
        assert!(words.contains(figure), "{figure} is not in {words}");
    }
    let costs = json(&mut tributary(&["check", config, "--peers", "3", "--json"]));
    assert_eq!(costs["down_bytes_per_round"].as_u64().unwrap(), 3 * costs["up_bytes_per_round"].as_u64().unwrap());
}

#[test]
fn plan_tells_what_a_round_takes_and_what_binds() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/72b.toml");
    let arguments = ["plan", config, "--up", "110", "--down", "500", "--peers", "20"];
    let words = succeeds(&mut tributary(&arguments));
    for figure in [
        "98 s up, 432 s for 20 payloads down",
        "27 up, 121 down",
        "binds: fetch",
        "does not fit: sealing and upload",
        "measured (model), s",
    ] {
        assert!(words.contains(figure), "{figure} is not in {words}");
    }
    let plan = json(&mut tributary(&[&arguments[..], &["--json"]].concat()));
    let terms: Vec<&str> = plan["raw"]["terms"].as_array().unwrap().iter().map(|term| term["name"].as_str().unwrap()).collect();
    for term in ["train", "seal", "upload", "list", "reveal", "fetch", "judge", "record", "vote", "payloads", "step", "hash"] {
        assert!(terms.contains(&term), "{term} is not in {terms:?}");
    }
    assert!(fails(&mut tributary(&["plan", config, "--up", "0", "--down", "500"])).contains("--up must be above 0"));
}

#[test]
fn doctor_measures_the_machine_and_judges_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (home, bucket) = (folder.path().join("home"), folder.path().join("bucket"));
    fs::create_dir(&home).unwrap();
    let configs = ["demo", "72b"].map(|name| format!("{}/configs/{name}.toml", env!("CARGO_MANIFEST_DIR")));
    let store = format!("file://{}", text(&bucket));
    let places = ["--home", text(&home), "--store", &store, "--threads", "1", "--json"];
    let report = json(tributary(&["doctor", &configs[0], &configs[1]]).args(places));
    let machine = &report["machine"];
    assert!(!machine["cpu"].as_str().unwrap().is_empty());
    for figure in [
        &machine["cores"],
        &machine["memory_bytes"],
        &machine["rates"]["copy_bytes"],
        &machine["rates"]["product_flops"],
        &machine["rates"]["step_flops"],
        &report["disk"]["write_bytes_per_second"],
        &report["disk"]["read_bytes_per_second"],
        &report["store"]["round_trip_seconds"],
        &report["store"]["up_bytes_per_second"],
        &report["store"]["down_bytes_per_second"],
    ] {
        assert!(figure.as_f64().unwrap() > 0.0, "{report}");
    }
    assert_eq!(machine["gpus"].as_array().unwrap().is_empty(), machine["no_gpu"].is_string(), "{machine}");
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run["name"].as_str().unwrap()).collect::<Vec<_>>(), ["demo", "tributary-72b"]);
    for run in runs {
        assert!(run["mines"].is_boolean() && run["tokens_per_second"].as_f64().unwrap() > 0.0, "{run}");
        assert!(run["inner_steps"].as_u64().unwrap() <= run["of_inner_steps"].as_u64().unwrap(), "{run}");
        assert!((0.0..=1.0).contains(&run["share"].as_f64().unwrap()), "{run}");
        assert!(run["rooms"].as_array().unwrap().iter().all(|room| room["needed_bytes"].as_u64() > Some(0)), "{run}");
    }
    // of both the probe left nothing
    for place in [&home, &bucket] {
        assert_eq!(fs::read_dir(place).unwrap().count(), 0, "{}", place.display());
    }
}

#[test]
fn doctor_names_what_it_cannot_use() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let home = fails(&mut tributary(&["doctor", "--home", text(&file)]));
    assert!(home.contains(text(&file)) && home.contains("--home"), "{home}");
    let store = fails(&mut tributary(&["doctor", "--home", text(folder.path()), "--store", text(&file)]));
    assert!(store.contains("--store") && store.contains("it is not a folder"), "{store}");
    assert!(fails(&mut tributary(&["doctor", text(&folder.path().join("absent.toml"))])).contains("absent.toml"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn text_becomes_a_data_set_that_can_be_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (texts, out) = (folder.path().join("texts"), folder.path().join("data"));
    fs::create_dir(&texts).unwrap();
    fs::write(texts.join("large.txt"), "the quick brown fox ".repeat(200)).unwrap();
    fs::write(texts.join("small.md"), "jumps over").unwrap();
    let prepare = ["data", "prepare", "--text", text(&texts), "--out", text(&out), "--json"];
    let made = json(&mut tributary(&prepare));
    assert_eq!((made["train"]["bytes"].as_u64(), made["held_out"]["bytes"].as_u64()), (Some(4000), Some(10)));
    assert_eq!((made["tokenizer"].as_str(), made["source"].as_str()), (Some("bytes"), Some("texts")));
    assert_eq!(json(&mut tributary(&["data", "show", text(&out), "--verify", "--json"])), made);
    assert!(succeeds(&mut tributary(&["data", "show", text(&out)])).contains(made["digest"].as_str().unwrap()));
    assert!(fails(&mut tributary(&prepare)).contains("exists"));

    fs::remove_file(out.join("train-00000.bin.zst")).unwrap();
    assert!(fails(&mut tributary(&["data", "show", text(&out), "--verify"])).contains("train-00000.bin.zst"));
    assert!(fails(&mut tributary(&["data", "show", text(&texts)])).contains("dataset.json"));
}

#[test]
fn one_text_cannot_be_split() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("only.txt");
    fs::write(&file, "alone").unwrap();
    let out = folder.path().join("data");
    assert!(fails(&mut tributary(&["data", "prepare", "--text", text(&file), "--out", text(&out)])).contains("at least two"));
}

#[test]
fn wallets_are_made_listed_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let wallets = ["--wallet-path", text(folder.path())];
    assert_eq!(json(tributary(&["wallet", "list", "--json"]).args(wallets)), Value::Array(vec![]));
    let made = tributary(&["wallet", "new", "alice", "--json"]).args(wallets).output().unwrap();
    assert!(
        made.status.success() && made.stderr.is_empty(),
        "no phrase goes where nobody sits: {:?}",
        String::from_utf8_lossy(&made.stderr)
    );
    let wallet: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(json(tributary(&["wallet", "show", "alice", "--json"]).args(wallets)), wallet);
    let two = json(tributary(&["wallet", "new", "alice", "--hotkey", "second", "--json"]).args(wallets));
    assert_eq!((two["coldkey"].as_str(), two["hotkeys"].as_array().unwrap().len()), (wallet["coldkey"].as_str(), 2));
    assert_eq!(json(tributary(&["wallet", "list", "--json"]).args(wallets)), Value::Array(vec![two]));
    assert!(fails(tributary(&["wallet", "new", "alice"]).args(wallets)).contains("exists already"));
    assert!(fails(tributary(&["wallet", "new", "../alice"]).args(wallets)).contains("cannot name a wallet"));
    assert!(fails(tributary(&["wallet", "show", "bob"]).args(wallets)).contains("no key file"));

    let signed = json(tributary(&["wallet", "sign", "--wallet", "alice", "--message", "hello", "--json"]).args(wallets));
    assert_eq!(signed["address"], wallet["hotkeys"][0]["address"]);
    let (address, signature) = (signed["address"].as_str().unwrap(), signed["signature"].as_str().unwrap());
    let verify = |message: &str| tributary(&["wallet", "verify", "--address", address, "--signature", signature, "--message", message]);
    assert!(succeeds(&mut verify("hello")).contains(address));
    assert!(fails(&mut verify("hullo")).contains("the signature is not"));
}

#[test]
fn an_encrypted_key_needs_its_password() {
    let sign = ["wallet", "sign", "--wallet-path", FOREIGN_WALLETS, "--wallet", "alice", "--coldkey", "--message", "hello"];
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "wrong horse\nrest\n").unwrap();
    // a descriptor comes before the environment; one try takes seconds, and that the right password opens is tested where keys are read
    let mut wrong = tributary(&[&sign[..], &["--password-fd", "0"]].concat());
    let line = fails(wrong.env("BT_PW", "correct horse").stdin(fs::File::open(&password).unwrap()));
    assert!(line.contains("coldkey is wrong"), "{line}");
}

#[test]
fn a_run_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = text(folder.path());
    for arguments in [&["export", "--snapshot", run, "--out", "unused"][..], &["eval", "--snapshot", run, "--sample", "a"]] {
        let line = fails(tributary(arguments).args(["--run", run]));
        assert!(line.contains("manifest.json"), "{line}");
    }
    for subcommand in [&["status"][..], &["scores"], &["explain", "1"], &["verify"], &["pull", "--out", run], &["store", "usage"]] {
        let line = fails(tributary(subcommand).args(["--run", &format!("{run}/none")]));
        assert!(line.contains("ledger.sqlite"), "{line}");
    }
}
