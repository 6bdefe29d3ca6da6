//! Export to a folder that Python's `transformers` loads.

use std::fs;
use std::path::Path;

use compression::{State, TensorSpec};
use protocol::Architecture;
use serde_json::{Map, Value, json};

use crate::snapshot::Shard;
use crate::{CheckpointError, Form, shards};

/// The largest file of tensors; above it, the folder has several and an index.
const SHARD_BYTES: usize = 4 << 30;
/// The byte tokenizer's token 256.
const END_OF_TEXT: &str = "<|endoftext|>";

/// What turns text into the model's tokens.
#[derive(Clone, Copy, Debug)]
pub enum TokenizerSource<'a> {
    /// Bytes as tokens 0 to 255, and 256 for the end of a text.
    Bytes,
    /// A Hugging Face tokenizer.
    Json {
        /// The bytes of its `tokenizer.json`.
        json: &'a [u8],
        /// The token that ends a text.
        end_of_text: u32,
    },
}

/// Writes `config.json`, `generation_config.json`, the tensors in f32 and the tokenizer's files into `folder`, which is created; files of these
/// names are replaced. Loading runs no code and needs none of ours: `LlamaForCausalLM` computes the same model.
///
/// # Errors
/// [`CheckpointError::Architecture`], [`CheckpointError::Tokenizer`], [`CheckpointError::Disk`].
pub fn export(state: &State, architecture: &Architecture, tokenizer: TokenizerSource<'_>, folder: &Path) -> Result<(), CheckpointError> {
    if architecture.layout().ok().is_none_or(|layout| layout.tensors() != state.layout().model()) {
        return Err(CheckpointError::Architecture);
    }
    let tokenizer = tokenizer_files(tokenizer, architecture)?;
    fs::create_dir_all(folder).map_err(|source| CheckpointError::Disk { path: folder.to_owned(), source })?;
    write_tensors(state, SHARD_BYTES, folder)?;
    write_around(folder, &tokenizer, architecture, Form::F32)
}

/// Writes what a folder needs beside the files of a snapshot in `form`, which are there already: then it is one that `transformers` loads.
///
/// # Errors
/// As [`export`].
pub fn describe(
    shards: &[Shard],
    form: Form,
    architecture: &Architecture,
    tokenizer: TokenizerSource<'_>,
    folder: &Path,
) -> Result<(), CheckpointError> {
    let tokenizer = tokenizer_files(tokenizer, architecture)?;
    let layout = architecture.layout().map_err(|_| CheckpointError::Architecture)?;
    write_index(folder, shards.iter().map(|shard| (shard.file.as_str(), &shard.tensors[..])), layout.parameters(), form)?;
    write_around(folder, &tokenizer, architecture, form)
}

fn write_around(folder: &Path, tokenizer: &TokenizerFiles, architecture: &Architecture, form: Form) -> Result<(), CheckpointError> {
    write(folder, "tokenizer.json", &tokenizer.json)?;
    write_json(folder, "tokenizer_config.json", &tokenizer.config)?;
    write_json(folder, "generation_config.json", &json!({"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end}))?;
    // last, because a folder without it is not loaded
    write_json(folder, "config.json", &config(architecture, tokenizer.end, form))
}

/// The configuration of the Llama that computes what our model computes.
fn config(architecture: &Architecture, end_of_text: u32, form: Form) -> Value {
    let dtype = if form == Form::F32 { "float32" } else { "bfloat16" };
    let a = architecture;
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "max_position_embeddings": a.sequence_length,
        "rms_norm_eps": a.norm_eps,
        // transformers 5 reads rope_parameters, older versions rope_theta
        "rope_theta": a.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": a.rope_theta},
        "tie_word_embeddings": a.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "torch_dtype": dtype,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    })
}

fn write_tensors(state: &State, shard_bytes: usize, folder: &Path) -> Result<(), CheckpointError> {
    let ranges = shards::split(state.layout().model(), shard_bytes);
    if let [all] = &ranges[..] {
        return write(folder, "model.safetensors", &shards::encode(state, all.clone(), Form::F32));
    }
    let mut files = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        let file = shards::file_name(index, ranges.len());
        write(folder, &file, &shards::encode(state, range.clone(), Form::F32))?;
        let names: Vec<String> = state.layout().tensors()[range.clone()].iter().map(|spec| spec.name.clone()).collect();
        files.push((file, names));
    }
    let parameters = state.layout().model().iter().map(TensorSpec::len).sum();
    write_index(folder, files.iter().map(|(file, names)| (file.as_str(), &names[..])), parameters, Form::F32)
}

/// Which file holds which tensors.
fn write_index<'a>(
    folder: &Path,
    files: impl Iterator<Item = (&'a str, &'a [String])>,
    parameters: usize,
    form: Form,
) -> Result<(), CheckpointError> {
    let mut weight_map = Map::new();
    for (file, names) in files {
        weight_map.extend(names.iter().map(|name| (name.clone(), json!(file))));
    }
    let metadata = json!({"total_parameters": parameters, "total_size": parameters * form.width()});
    write_json(folder, "model.safetensors.index.json", &json!({"metadata": metadata, "weight_map": weight_map}))
}

struct TokenizerFiles {
    json: Vec<u8>,
    config: Value,
    end: u32,
}

fn tokenizer_files(source: TokenizerSource<'_>, architecture: &Architecture) -> Result<TokenizerFiles, CheckpointError> {
    let (json, end, end_text) = match source {
        TokenizerSource::Bytes => (pretty(&byte_tokenizer()), 256, Some(END_OF_TEXT.to_owned())),
        TokenizerSource::Json { json, end_of_text } => (json.to_vec(), end_of_text, token_text(json, end_of_text)?),
    };
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": architecture.sequence_length,
        "clean_up_tokenization_spaces": false,
        "bos_token": end_text,
        "eos_token": end_text,
    });
    Ok(TokenizerFiles { json, config, end })
}

/// How a tokenizer writes its added token `id`, if that is one.
fn token_text(json: &[u8], id: u32) -> Result<Option<String>, CheckpointError> {
    let tokenizer: Value = serde_json::from_slice(json).map_err(|e| CheckpointError::Tokenizer(e.to_string()))?;
    if !tokenizer["model"].is_object() {
        return Err(CheckpointError::Tokenizer("it has no model".into()));
    }
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    Ok(added.filter(|token| token["id"] == id).find_map(|token| token["content"].as_str()).map(str::to_owned))
}

/// A byte-level BPE without merges whose ids are the bytes themselves.
fn byte_tokenizer() -> Value {
    let vocabulary: Map<String, Value> = (0..=u8::MAX).map(|byte| (byte_symbol(byte).to_string(), json!(byte))).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": 256, "content": END_OF_TEXT, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "vocab": vocabulary, "merges": [], "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        },
    })
}

/// The printable character by which byte-level tokenizers write a byte: itself if it is printable in Latin-1, else the next free one from
/// U+0100 on.
fn byte_symbol(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + before).expect("68 characters from U+0100 on exist")
}

fn pretty(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("a JSON value can be written")
}

fn write_json(folder: &Path, file: &str, value: &Value) -> Result<(), CheckpointError> {
    write(folder, file, &pretty(value))
}

fn write(folder: &Path, file: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
    let path = folder.join(file);
    fs::write(&path, bytes).map_err(|source| CheckpointError::Disk { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use compression::Layout;

    #[test]
    fn several_files_get_an_index() {
        let folder = tempfile::tempdir().expect("a folder");
        let specs = vec![TensorSpec::new("a", &[2]), TensorSpec::new("b", &[3]), TensorSpec::new("c", &[1])];
        let state = State::new(Layout::new(specs).expect("a layout").into(), 0, vec![vec![1.0; 2], vec![2.0; 3], vec![3.0]]);
        write_tensors(&state.expect("a state"), 12, folder.path()).expect("written");
        let index = fs::read(folder.path().join("model.safetensors.index.json")).expect("an index");
        let index: Value = serde_json::from_slice(&index).expect("JSON");
        assert_eq!(index["metadata"]["total_size"], 24);
        let (a, b, c) = ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors");
        assert_eq!(index["weight_map"], json!({"a": a, "b": b, "c": c}));
        assert!(folder.path().join(c).exists() && !folder.path().join("model.safetensors").exists());
    }
}
