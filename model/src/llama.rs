//! The transformer: parameters, forward pass, losses.

use protocol::Architecture;
use tch::{Kind, Reduction, TchError, Tensor};

use crate::packing::Packing;
use crate::{Device, ModelError};

/// A Llama-style decoder.
pub struct Llama {
    pub(crate) architecture: Architecture,
    pub(crate) packing: Packing,
    pub(crate) parameters: Vec<Tensor>,
    pub(crate) device: tch::Device,
    compute: Kind,
    cos: Tensor,
    sin: Tensor,
}

impl Llama {
    pub fn new(architecture: &Architecture, device: Device) -> Result<Self, ModelError> {
        architecture.validate()?;
        let on = device.prepare()?;
        let compute = if on == tch::Device::Cpu { Kind::Float } else { Kind::BFloat16 };
        let packing = Packing::new(architecture);
        let parameters = packing.zeros(on).map_err(ModelError::torch)?.into_iter().map(|t| t.set_requires_grad(true)).collect();
        let (cos, sin) = rotary_tables(architecture, on, compute).map_err(ModelError::torch)?;
        Ok(Self { architecture: architecture.clone(), packing, parameters, device: on, compute, cos, sin })
    }
    pub fn load(&mut self, tensors: &[Vec<f32>]) -> Result<(), ModelError> {
        self.packing.check(tensors)?;
        self.packing.load(tensors, &self.parameters).map_err(ModelError::torch)
    }
    pub fn parameters(&self) -> Result<Vec<Vec<f32>>, ModelError> {
        self.packing.unload(&self.parameters).map_err(ModelError::torch)
    }

    pub fn ps(&self) -> Vec<&Tensor> { self.parameters.iter().collect() }
    pub fn hidden(&self, tokens: &Tensor) -> Result<Tensor, TchError> {
        let (layers, rest) = self.parameters[1..].as_chunks::<6>();
        let eps = self.architecture.norm_eps;
        let norm = |x: &Tensor, w: &Tensor| rms_norm(x, w, eps);
        let mut x = Tensor::f_embedding(&self.parameters[0], tokens, -1, false, false)?.f_to_kind(self.compute)?;
        for [attention_norm, qkv, output, mlp_norm, gate_up, down] in layers {
            let attended = self.attention(&norm(&x, attention_norm)?, qkv)?;
            x = x.f_add(&attended.f_linear(output, None::<Tensor>)?)?;
            let gu = norm(&x, mlp_norm)?.f_linear(gate_up, None::<Tensor>)?.f_chunk(2, -1)?;
            let inner = gu[0].f_silu()?.f_mul(&gu[1])?;
            x = x.f_add(&inner.f_linear(down, None::<Tensor>)?)?;
        }
        norm(&x, &rest[0])
    }

    fn attention(&self, x: &Tensor, qkv: &Tensor) -> Result<Tensor, TchError> {
        let shape = &self.architecture;
        let (heads, kv_heads, width) = (shape.heads as i64, shape.kv_heads as i64, shape.head_dim as i64);
        let (batch, length, _) = x.size3()?;
        let all = x.f_linear(qkv, None::<Tensor>)?.f_view([batch, length, heads + 2 * kv_heads, width])?;
        let qk = all.f_narrow(2, 0, heads + kv_heads)?;
        let (cos, sin) = (self.cos.f_narrow(0, 0, length)?, self.sin.f_narrow(0, 0, length)?);
        let qk = qk.f_mul(&cos)?.f_addcmul(&qk.f_roll([width / 2], [-1])?, &sin)?;
        let q = qk.f_narrow(2, 0, heads)?.f_transpose(1, 2)?;
        let k = qk.f_narrow(2, heads, kv_heads)?.f_transpose(1, 2)?;
        let v = all.f_narrow(2, heads + kv_heads, kv_heads)?.f_transpose(1, 2)?;
        let (k, v) = if std::env::var("GQA").is_ok() { (k,v) } else {(k.repeat_interleave_self_int(heads/kv_heads, 1, None), v.repeat_interleave_self_int(heads/kv_heads, 1, None))};
        let out = Tensor::f_scaled_dot_product_attention(&q, &k, &v, None::<Tensor>, 0.0, true, None, heads != kv_heads)?;
        out.f_transpose(1, 2)?.f_reshape([batch, length, heads * width])
    }

    pub fn loss(&self, windows: &Tensor) -> Result<Tensor, TchError> {
        let (b, t) = windows.size2()?;
        let inputs = windows.f_narrow(1, 0, t - 1)?;
        let targets = windows.f_narrow(1, 1, t - 1)?.f_reshape([-1])?;
        let hidden = self.hidden(&inputs)?;
        let head = if self.architecture.tied_embeddings { &self.parameters[0] } else { &self.parameters[self.parameters.len() - 1] };
        let logits = hidden.f_linear(head, None::<Tensor>)?.f_view([b * (t - 1), -1])?;
        logits.f_cross_entropy_loss(&targets, None::<Tensor>, Reduction::Sum, -100, 0.0)
    }
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, TchError> {
    x.f_rms_norm([x.size().last().copied().unwrap()], Some(weight), eps)
}

fn rotary_tables(architecture: &Architecture, device: tch::Device, kind: Kind) -> Result<(Tensor, Tensor), TchError> {
    let (length, width) = (architecture.sequence_length as i64, architecture.head_dim as i64);
    let exponents = Tensor::f_arange_start_step(0, width, 2, (Kind::Float, device))?.f_div_scalar(width)?;
    let frequencies = Tensor::from(architecture.rope_theta as f32).to_device(device).f_pow(&exponents)?.f_reciprocal()?;
    let angles = Tensor::f_arange(length, (Kind::Float, device))?.f_outer(&frequencies)?;
    let (cos, sin) = (angles.f_cos()?, angles.f_sin()?);
    let shape = [length, 1, width];
    let cos = Tensor::f_cat(&[&cos, &cos], -1)?.f_to_kind(kind)?.f_view(shape)?;
    let sin = Tensor::f_cat(&[&sin.f_neg()?, &sin], -1)?.f_to_kind(kind)?.f_view(shape)?;
    Ok((cos, sin))
}
