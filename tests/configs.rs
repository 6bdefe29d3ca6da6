//! Every config in `configs/` is a run, and `tributary check` says what it costs.

#![allow(clippy::unwrap_used)]

use std::{fs, process::Command};

use serde_json::Value;

#[test]
fn every_config_is_accepted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // of faults, which tests/stores.rs reads
            continue;
        }
        let output = Command::new(env!("CARGO_BIN_EXE_tributary")).arg("check").arg(&path).arg("--json").output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {stderr}", path.display());
        let costs: Value = serde_json::from_str(&stdout).unwrap();
        for figure in ["parameters", "payload_bytes", "up_bytes_per_round", "down_bytes_per_round", "tokens_per_round", "round_seconds"] {
            assert!(costs[figure].as_u64().unwrap() > 0, "{}: {figure}", path.display());
        }
        assert!(costs["memory_per_gpu"][0]["state_bytes"].as_u64() > costs["memory_per_gpu"][1]["state_bytes"].as_u64());
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["150m.toml", "1b.toml", "72b.toml", "8b.toml", "demo.toml"]);
}
