//! The transformer's shape: what a manifest says of the model, and the tensors that follow from it.

use compression::{Layout, LayoutError, TensorSpec};
use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// A Llama-style decoder: RMSNorm, rotary embeddings, grouped-query attention, SwiGLU, no biases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Inner width of the SwiGLU block.
    pub intermediate_size: usize,
    /// Tokens in a training sequence.
    pub sequence_length: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f64,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Standard deviation of the initial weights; projections back into the residual stream get it divided by √(2·layers).
    pub init_std: f32,
}

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element 1.
    Ones,
    /// Approximately normal with mean 0 and this standard deviation; see [`crate::genesis`].
    Normal(f32),
}

impl Architecture {
    /// Refuses a shape that no model can have.
    ///
    /// # Errors
    /// [`ConfigError`] names the field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("layers", self.layers, 1 << 12),
            ("heads", self.heads, 1 << 12),
            ("kv_heads", self.kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("sequence_length", self.sequence_length, 1 << 22),
        ];
        for (field, value, most) in sizes {
            if value == 0 || value > most {
                return Err(ConfigError::new("model", field, format!("{value} is not between 1 and {most}")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(ConfigError::new("model", "kv_heads", format!("{} does not divide heads = {}", self.kv_heads, self.heads)));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::new("model", "head_dim", format!("{} is odd; rotary embeddings need pairs", self.head_dim)));
        }
        let positive = [("rope_theta", self.rope_theta), ("norm_eps", self.norm_eps), ("init_std", f64::from(self.init_std))];
        for (field, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return Err(ConfigError::new("model", field, format!("{value} is not a positive number")));
            }
        }
        Ok(())
    }

    /// Every tensor with its start value, in canonical order: embedding, layers from the first to the last, final norm, output.
    pub fn tensors(&self) -> Vec<(TensorSpec, Init)> {
        let (h, kv, d) = (self.hidden_size, self.kv_heads * self.head_dim, self.heads * self.head_dim);
        let normal = Init::Normal(self.init_std);
        let residual = Init::Normal((f64::from(self.init_std) / ((2 * self.layers) as f64).sqrt()) as f32);
        let mut tensors = vec![(TensorSpec::new("model.embed_tokens.weight", &[self.vocab_size, h]), normal)];
        for layer in 0..self.layers {
            let mut push = |name: &str, shape: &[usize], init| {
                tensors.push((TensorSpec::new(format!("model.layers.{layer}.{name}.weight"), shape), init));
            };
            push("input_layernorm", &[h], Init::Ones);
            push("self_attn.q_proj", &[d, h], normal);
            push("self_attn.k_proj", &[kv, h], normal);
            push("self_attn.v_proj", &[kv, h], normal);
            push("self_attn.o_proj", &[h, d], residual);
            push("post_attention_layernorm", &[h], Init::Ones);
            push("mlp.gate_proj", &[self.intermediate_size, h], normal);
            push("mlp.up_proj", &[self.intermediate_size, h], normal);
            push("mlp.down_proj", &[h, self.intermediate_size], residual);
        }
        tensors.push((TensorSpec::new("model.norm.weight", &[h]), Init::Ones));
        if !self.tied_embeddings {
            tensors.push((TensorSpec::new("lm_head.weight", &[self.vocab_size, h]), normal));
        }
        tensors
    }

    /// Whether a tensor is a table with one row per token: the embedding, or the output matrix.
    pub fn is_embedding(name: &str) -> bool {
        matches!(name, "model.embed_tokens.weight" | "lm_head.weight")
    }

    /// The names and shapes alone.
    ///
    /// # Errors
    /// Only for shapes that [`Architecture::validate`] refuses.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        Layout::new(self.tensors().into_iter().map(|(spec, _)| spec).collect())
    }
}
