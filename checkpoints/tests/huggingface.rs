//! The exported folder's files. Whether Python computes the same logits is for `tests/python/transformers_parity.py`.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use checkpoints::{CheckpointError, TokenizerSource, export};
use compression::State;
use protocol::Architecture;
use safetensors::SafeTensors;
use serde_json::Value;

fn architecture() -> Architecture {
    Architecture {
        vocab_size: 257,
        hidden_size: 8,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        intermediate_size: 12,
        sequence_length: 16,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        tied_embeddings: true,
        init_std: 0.02,
    }
}

fn state(architecture: &Architecture) -> State {
    let layout = architecture.layout().unwrap();
    let data = layout.tensors().iter().map(|spec| (0..spec.len()).map(|i| i as f32).collect()).collect();
    State::new(layout.into(), 3, data).unwrap()
}

fn json(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
}

#[test]
fn a_folder_has_the_model_and_the_byte_tokenizer() {
    let (folder, architecture) = (tempfile::tempdir().unwrap(), architecture());
    let folder = folder.path().join("new/model");
    let state = state(&architecture);
    for _ in 0..2 {
        export(&state, &architecture, TokenizerSource::Bytes, &folder).unwrap();
    }
    let config = json(&folder, "config.json");
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    assert_eq!((&config["head_dim"], &config["rope_parameters"]["rope_theta"]), (&4.into(), &10_000.0.into()));
    assert_eq!(config["tie_word_embeddings"], true);
    assert_eq!(json(&folder, "generation_config.json")["eos_token_id"], 256);

    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), state.layout().tensors().len());
    for (spec, data) in state.layout().tensors().iter().zip(state.tensors()) {
        assert_eq!(tensors.tensor(&spec.name).unwrap().shape(), spec.shape);
        assert_eq!(tensors.tensor(&spec.name).unwrap().data(), bytemuck::cast_slice::<f32, u8>(data));
    }
}

#[test]
fn every_byte_is_the_token_of_its_value() {
    let (folder, architecture) = (tempfile::tempdir().unwrap(), architecture());
    export(&state(&architecture), &architecture, TokenizerSource::Bytes, folder.path()).unwrap();
    let tokenizer = json(folder.path(), "tokenizer.json");
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut ids: Vec<u64> = vocabulary.values().map(|id| id.as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..256).collect::<Vec<u64>>());
    for (symbol, byte) in [("A", b'A'), ("Ġ", b' '), ("Ċ", b'\n'), ("Ā", 0), ("ÿ", 255), ("Ń", 0xad)] {
        assert_eq!(vocabulary[symbol], byte, "{symbol}");
    }
    assert_eq!(tokenizer["added_tokens"][0]["id"], 256);
}

#[test]
fn a_tokenizer_is_copied_and_its_end_of_text_named() {
    let (folder, architecture) = (tempfile::tempdir().unwrap(), architecture());
    let source = br#"{"model":{"type":"BPE"},"added_tokens":[{"id":1,"content":"<s>"},{"id":2,"content":"</s>"}]}"#;
    for (end_of_text, text) in [(2, Value::from("</s>")), (9, Value::Null)] {
        let tokenizer = TokenizerSource::Json { json: source, end_of_text };
        export(&state(&architecture), &architecture, tokenizer, folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join("tokenizer.json")).unwrap(), source);
        assert_eq!(json(folder.path(), "tokenizer_config.json")["eos_token"], text);
        assert_eq!(json(folder.path(), "config.json")["eos_token_id"], end_of_text);
    }
}

#[test]
fn refusals() {
    let (folder, architecture) = (tempfile::tempdir().unwrap(), architecture());
    let wider = Architecture { hidden_size: 16, ..architecture.clone() };
    let refused = export(&state(&architecture), &wider, TokenizerSource::Bytes, folder.path());
    assert!(matches!(refused, Err(CheckpointError::Architecture)));
    for json in [&b"not JSON"[..], b"{}", b"[]"] {
        let refused = export(&state(&architecture), &architecture, TokenizerSource::Json { json, end_of_text: 0 }, folder.path());
        assert!(matches!(refused, Err(CheckpointError::Tokenizer(_))));
    }
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let refused = export(&state(&architecture), &architecture, TokenizerSource::Bytes, &file).unwrap_err();
    assert!(matches!(&refused, CheckpointError::Disk { .. }) && refused.to_string().contains("file"), "{refused}");
}
