//! A small run that tests share.
#![allow(clippy::unwrap_used)]

use crate::{ChainSection, DataSection, Digest, Hotkey, Launch, Manifest, RunConfig};

/// A config of some hundred parameters; every section is there, most fields have their defaults.
pub const SMALL: &str = r#"
name = "small"
[model]
vocab_size = 257
hidden_size = 16
layers = 2
heads = 2
kv_heads = 1
head_dim = 8
intermediate_size = 32
sequence_length = 32
rope_theta = 10000.0
norm_eps = 1e-5
tied_embeddings = true
init_std = 0.02
[data]
tokenizer = "bytes"
source = "some text"
[inner]
steps = 3
batch = 4
micro_batch = 2
lr = 1e-3
warmup = 10
decay = 100
[outer]
lr = [[0, 1.0], [50, 0.7]]
[round]
train = 10
reveal = 3
judge = 4
span = 2
early_close = true
[retention]
rounds = 40
"#;

pub fn launch() -> Launch {
    let chain = ChainSection { genesis: Digest::of(b"chain"), netuid: 7, launch_key: Hotkey([9; 32]), start_block: 100 };
    let (tokenizer, source) = ("bytes".into(), "some text".into());
    let data = DataSection { tokenizer, source, digest: Digest::of(b"data"), train_tokens: 1 << 20, held_out_tokens: 1 << 14 };
    Launch { chain, data }
}

pub fn manifest() -> Manifest {
    Manifest::resolve(RunConfig::parse(SMALL).unwrap(), launch()).unwrap()
}
