//! The forward pass. Conventions are those of Hugging Face's `LlamaForCausalLM`, so that the same tensors give the same logits there.

use protocol::Architecture;
use tch::{Device, Kind, Reduction, TchError, Tensor};

use crate::ffi::{self, fused::Fused};

/// A batch's shape, with rotary tables, and what hides the future where attention does not do so itself.
pub(crate) struct Positions {
    batch: i64,
    length: i64,
    cos: Tensor,
    sin: Tensor,
    tables: [Tensor; 2],
    mask: Option<Tensor>,
}

/// The network without its parameters, part by part. They come in the arithmetic's precision, a layer's in the order of [`crate::packing::Packing`].
pub(crate) struct Network {
    pub(crate) architecture: Architecture,
    /// What is multiplied in: f32, on the CPU only, or bf16 with f32 parameters behind it.
    pub(crate) compute: Kind,
    pub(crate) rotary: Rotary,
    /// Kernels that do in one pass what takes libtorch several, if the device has them.
    pub(crate) fused: Option<Fused>,
}

/// Cosines and signed sines of every position, [sequence_length, 1, head_dim]; and as the kernels take them, f32 [sequence_length, head_dim / 2].
pub(crate) struct Rotary {
    cos: Tensor,
    sin: Tensor,
    tables: [Tensor; 2],
}

impl Rotary {
    /// Angles p·θ^(−2i/d) in f32, once per half of the head. The sine's first half is negated: with x rotated by half a head,
    /// x·cos + roll(x)·sin is `x·cos + rotate_half(x)·sin`.
    pub(crate) fn new(architecture: &Architecture, device: Device, kind: Kind) -> Result<Self, TchError> {
        let (length, width) = (architecture.sequence_length as i64, architecture.head_dim as i64);
        let exponents = Tensor::f_arange_start_step(0, width, 2, (Kind::Float, device))?.f_div_scalar(width)?;
        let theta = Tensor::f_full([1], architecture.rope_theta, (Kind::Float, device))?;
        let frequencies = theta.f_pow(&exponents)?.f_reciprocal()?;
        let angles = Tensor::f_arange(length, (Kind::Float, device))?.f_outer(&frequencies)?;
        let (cos, sin) = (angles.f_cos()?, angles.f_sin()?);
        let table = |low: &Tensor, high: &Tensor| Tensor::f_cat(&[low, high], -1)?.f_to_kind(kind)?.f_view([length, 1, width]);
        Ok(Self { cos: table(&cos, &cos)?, sin: table(&sin.f_neg()?, &sin)?, tables: [cos, sin] })
    }

    /// Of tokens [batch, length].
    pub(crate) fn positions(&self, tokens: &Tensor) -> Result<Positions, TchError> {
        let (batch, length) = tokens.size2()?;
        let device = self.cos.device();
        let mask = (self.cos.kind() == Kind::Float)
            .then(|| Tensor::f_full([length, length], f64::NEG_INFINITY, (Kind::Float, device))?.f_triu(1))
            .transpose()?;
        let [cos, sin, cosines, sines] = [&self.cos, &self.sin, &self.tables[0], &self.tables[1]].map(|table| table.f_narrow(0, 0, length));
        Ok(Positions { batch, length, cos: cos?, sin: sin?, tables: [cosines?, sines?], mask })
    }
}

impl Network {
    /// Tokens [batch, length] → states [batch·length, hidden_size].
    pub(crate) fn embed(&self, table: &Tensor, tokens: &Tensor) -> Result<Tensor, TchError> {
        let embedded = Tensor::f_embedding(table, tokens, -1, false, false)?;
        embedded.f_view([-1, self.architecture.hidden_size as i64])
    }

    /// The embedding's gradient, f32, from that of its states.
    pub(crate) fn embedding_gradient(&self, states: &Tensor, tokens: &Tensor) -> Result<Tensor, TchError> {
        let (batch, length) = tokens.size2()?;
        let states = states.f_view([batch, length, -1])?.f_to_kind(Kind::Float)?;
        Tensor::f_embedding_dense_backward(&states, tokens, self.architecture.vocab_size as i64, -1, false)
    }

    /// One layer over states [batch·length, hidden_size].
    pub(crate) fn layer(&self, parameters: &[Tensor], x: &Tensor, positions: &Positions) -> Result<Tensor, TchError> {
        let [attention_norm, qkv, output, mlp_norm, gate_up, down] = parameters else {
            return Err(TchError::Shape(format!("a layer of {} matrices and vectors", parameters.len())));
        };
        let projected = self.linear(&self.norm(x, attention_norm)?, qkv)?;
        let attended = self.attention(self.rotate(&projected, positions)?, positions)?;
        let x = x.f_add(&self.linear(&attended, output)?)?;
        let gate_up = self.linear(&self.norm(&x, mlp_norm)?, gate_up)?;
        x.f_add(&self.linear(&self.swiglu(&gate_up)?, down)?)
    }

    /// [n, gate and up] → silu(gate)·up, [n, intermediate_size].
    fn swiglu(&self, gate_up: &Tensor) -> Result<Tensor, TchError> {
        if let Some(fused) = &self.fused {
            return fused.swiglu(gate_up);
        }
        let halves = gate_up.f_chunk(2, -1)?;
        halves[0].f_silu()?.f_mul(&halves[1])
    }

    /// States [n, hidden_size] → logits [n, vocab_size] in f32.
    pub(crate) fn logits(&self, hidden: &Tensor, head: &Tensor) -> Result<Tensor, TchError> {
        self.linear(hidden, head)?.f_to_kind(Kind::Float)
    }

    /// Negative log likelihoods of the targets [n] after the last layer's states [n, hidden_size]: [n], or their sum.
    pub(crate) fn losses(
        &self,
        [norm, head]: [&Tensor; 2],
        x: &Tensor,
        targets: &Tensor,
        reduction: Reduction,
    ) -> Result<Tensor, TchError> {
        let logits = self.logits(&self.norm(x, norm)?, head)?;
        logits.f_cross_entropy_loss(targets, None::<Tensor>, reduction, -100, 0.0)
    }

    /// The summed negative log likelihood of the targets [n] after normed states [n, hidden_size], an f64 scalar, and its gradients with respect to
    /// the states and, in f32, to the output projection; with the logits of `rows` states at a time, so that those of a large vocabulary never exist
    /// together. No graph.
    ///
    /// The gradient of logits z is softmax(z) − onehot(target).
    pub(crate) fn cross_entropy(
        &self,
        hidden: &Tensor,
        head: &Tensor,
        targets: &Tensor,
        rows: i64,
    ) -> Result<(Tensor, Tensor, Tensor), TchError> {
        let part = |(hidden, targets): (&Tensor, &Tensor)| {
            let (loss, gradient) = self.loss_of_logits(self.linear(hidden, head)?, targets)?;
            let to_hidden = multiply(&gradient, head)?;
            let to_head = multiply(&gradient.f_transpose(0, 1)?, hidden)?.f_to_kind(Kind::Float)?;
            Ok::<_, TchError>((loss, to_hidden, to_head))
        };
        let (hidden, targets) = (hidden.f_split(rows, 0)?, targets.f_split(rows, 0)?);
        let mut parts = hidden.iter().zip(&targets).map(part);
        let first = parts.next().ok_or_else(|| TchError::Shape("the loss of no tokens".to_owned()))?;
        let (mut loss, to_hidden, mut to_head) = first?;
        let mut to_hidden = vec![to_hidden];
        for part in parts {
            let (more, of_hidden, of_head) = part?;
            loss = loss.f_add(&more)?;
            to_head = to_head.f_add_(&of_head)?;
            to_hidden.push(of_hidden);
        }
        Ok((loss, Tensor::f_cat(&to_hidden, 0)?, to_head))
    }

    /// The summed loss of logits [n, vocab_size], an f64 scalar, and its gradient.
    fn loss_of_logits(&self, mut logits: Tensor, targets: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        if let Some(fused) = &self.fused {
            let losses = fused.cross_entropy(&mut logits, targets)?;
            return Ok((losses.f_sum(Kind::Double)?, logits));
        }
        let targets = targets.f_unsqueeze(1)?;
        let mut gradient = logits.f_to_kind(Kind::Float)?.f_log_softmax(-1, Kind::Float)?;
        let loss = gradient.f_gather(1, &targets, false)?.f_sum(Kind::Double)?.f_neg()?;
        let minus_one = Tensor::f_full_like(&targets, -1.0)?.f_to_kind(Kind::Float)?;
        let gradient = gradient.f_exp_()?.f_scatter_add_(1, &targets, &minus_one)?;
        Ok((loss, gradient.f_to_kind(self.compute)?))
    }

    /// Projected [batch·length, (heads + 2·kv_heads)·head_dim] → queries and keys, turned by their positions, and values: each [batch, its heads,
    /// length, head_dim].
    fn rotate(&self, projected: &Tensor, positions: &Positions) -> Result<[Tensor; 3], TchError> {
        let (heads, kv_heads, width) =
            (self.architecture.heads as i64, self.architecture.kv_heads as i64, self.architecture.head_dim as i64);
        let by_heads = [positions.batch, positions.length, heads + 2 * kv_heads, width];
        let parts = if let Some(fused) = &self.fused {
            let rotated = fused.rotary(projected, &positions.tables, heads + 2 * kv_heads, heads + kv_heads)?;
            rotated.f_view(by_heads)?.f_split_with_sizes([heads, kv_heads, kv_heads], 2)?
        } else {
            let mut parts = projected.f_view(by_heads)?.f_split_with_sizes([heads + kv_heads, kv_heads], 2)?;
            let rolled = parts[0].f_roll([width / 2], [-1])?;
            let rotated = parts[0].f_mul(&positions.cos)?.f_addcmul(&rolled, &positions.sin)?;
            let values = parts.remove(1);
            let mut parts = rotated.f_split_with_sizes([heads, kv_heads], 2)?;
            parts.push(values);
            parts
        };
        let [query, key, value] = [&parts[0], &parts[1], &parts[2]].map(|part| part.f_transpose(1, 2));
        Ok([query?, key?, value?])
    }

    /// Queries, keys and values as from [`Network::rotate`] → [batch·length, heads·head_dim].
    fn attention(&self, [query, key, value]: [Tensor; 3], positions: &Positions) -> Result<Tensor, TchError> {
        let (batch, heads, length, width) = query.size4()?;
        let attended = match &positions.mask {
            Some(mask) => grouped_attention(&query, &key, &value, mask)?,
            None => Tensor::f_scaled_dot_product_attention(&query, &key, &value, None::<Tensor>, 0.0, true, None, true)?,
        };
        attended.f_transpose(1, 2)?.f_reshape([batch * length, heads * width])
    }

    pub(crate) fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, TchError> {
        x.f_rms_norm([self.architecture.hidden_size as i64], Some(weight), self.architecture.norm_eps)
    }

    fn linear(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, TchError> {
        match self.compute {
            Kind::Float => ffi::product(x, weight),
            _ => x.f_linear(weight, None::<Tensor>),
        }
    }
}

/// a·b of matrices.
fn multiply(a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
    match a.kind() {
        Kind::Float => ffi::product(a, &b.f_transpose(0, 1)?),
        _ => a.f_matmul(b),
    }
}

/// Causal attention on the CPU, [batch, heads, length, width], query heads grouped by the key head they share. libtorch's own kernel
/// multiplies through MKL, and loses more by that than it saves in memory.
fn grouped_attention(query: &Tensor, key: &Tensor, value: &Tensor, mask: &Tensor) -> Result<Tensor, TchError> {
    let (batch, heads, length, width) = query.size4()?;
    let groups = batch * key.size()[1];
    let query = query.f_mul_scalar((width as f64).sqrt().recip())?.f_reshape([groups, -1, width])?;
    let key = key.f_reshape([groups, length, width])?;
    let value = value.f_reshape([groups, length, width])?;
    let scores = ffi::product(&query, &key)?.f_view([groups, -1, length, length])?.f_add(mask)?;
    let weights = scores.f_softmax(-1, Kind::Float)?.f_view([groups, -1, length])?;
    ffi::product(&weights, &value.f_transpose(1, 2)?)?.f_view([batch, heads, length, width])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Against libtorch's own graph over all logits at once. Sums of 7 to 37 rounded terms, some in another order.
    #[test]
    fn gradients_of_parts_of_the_logits_are_those_of_all() {
        let architecture = Architecture {
            vocab_size: 37,
            hidden_size: 6,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 6,
            intermediate_size: 1,
            sequence_length: 8,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            tied_embeddings: true,
            init_std: 0.1,
        };
        let rotary = Rotary::new(&architecture, Device::Cpu, Kind::Float).unwrap();
        let mut network = Network { architecture, compute: Kind::Float, rotary, fused: None };
        let matrix = |rows: i64, columns: i64, seed: f64| {
            let numbers = Tensor::arange(rows * columns, (Kind::Float, Device::Cpu));
            (numbers * seed).sin().view([rows, columns]).set_requires_grad(true)
        };
        let (hidden, head, targets) = (matrix(7, 6, 1.7), matrix(37, 6, 2.3), Tensor::from_slice(&[0i64, 36, 5, 5, 12, 1, 30]));
        let expected = network.logits(&hidden, &head).unwrap().cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, -100, 0.0);
        let expected_gradients = ffi::gradients(&expected, None, &[&hidden, &head]).unwrap();
        for rows in [1, 3, 7, 100, 2] {
            network.fused = (rows == 2).then(|| Fused::new(kernels::Kernels::emulated().unwrap()));
            let (loss, to_hidden, to_head) = tch::no_grad(|| network.cross_entropy(&hidden, &head, &targets, rows)).unwrap();
            assert!((loss.double_value(&[]) / expected.double_value(&[]) - 1.0).abs() < 1e-6);
            for (found, expected) in [to_hidden, to_head].iter().zip(&expected_gradients) {
                assert_eq!(found.size(), expected.size());
                assert!((found - expected).abs().max().double_value(&[]) < 2e-6, "{rows} rows at a time");
            }
        }
    }
}
