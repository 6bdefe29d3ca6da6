//! Gradients, block by block: what a block computed is kept, or computed again from what went into it.

use tch::{Device, TchError, Tensor};

use crate::forward::Positions;
use crate::llama::{first, output, split};
use crate::weights::Sums;
use crate::{Llama, ModelError, ffi};

/// What is remembered of a layer between the forward and the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// All that the backward pass needs, the layer's parameters included. The fastest.
    #[default]
    Kept,
    /// What went in; the rest is computed again, to the same bits on the CPU, and parameters are brought together again. A third more
    /// arithmetic, and memory for one layer's activations instead of all layers'.
    Recomputed,
}

/// Logits that a training step has at once at most: on the CPU, in f32 and with their gradients, three times 256 MiB; on a GPU, where a part of the batch
/// must be large for its products to be fast, 1 GiB in bf16 whose place the gradients take, or 5 GiB with libtorch's operations.
const LOGITS_AT_ONCE_CPU: usize = 1 << 26;
const LOGITS_AT_ONCE_CUDA: usize = 1 << 29;

/// A layer on the way back.
struct Passed {
    /// Its input.
    x: Tensor,
    /// Its parameters and its output, with the graph between them, unless they are made again.
    graph: Option<(Vec<Tensor>, Tensor)>,
}

impl Llama {
    /// Adds the gradients of the windows' summed loss to `sums`; returns the loss, an f64 scalar. Windows are [sequences, length + 1], as many
    /// on every rank. `shares` are the parameters as [`crate::weights::Weights::cast`] gives them. Nothing waits for the device.
    pub(crate) fn backward(
        &self,
        windows: &Tensor,
        shares: &[Tensor],
        activations: Activations,
        sums: &mut Sums,
    ) -> Result<Tensor, ModelError> {
        let network = &self.network;
        let last = self.weights.packing.blocks() - 1;
        let again = if activations == Activations::Recomputed { 1..last } else { 0..0 };
        let mut gathers = self.weights.gathers(shares, (0..=last).chain(again.rev()));
        let (tokens, targets) = split(windows).map_err(ModelError::torch)?;
        let positions = network.rotary.positions(&tokens).map_err(ModelError::torch)?;
        let embedding = first(gathers.next()?)?;
        let mut x = network.embed(&embedding, &tokens).map_err(ModelError::torch)?;
        let embedding = network.architecture.tied_embeddings.then_some(embedding);
        let mut passed = Vec::with_capacity(last);
        for _ in 1..last {
            let (layer, next) = self.pass(gathers.next()?, x, &positions, activations).map_err(ModelError::torch)?;
            passed.push(layer);
            x = next;
        }
        let ends = output(gathers.next()?, embedding)?;
        let (loss, mut upstream, mut ends) = self.loss(&ends, x, &targets).map_err(ModelError::torch)?;
        let tied = network.architecture.tied_embeddings.then(|| ends.pop()).flatten();
        sums.add(last, &ends)?;
        for (block, Passed { x, graph }) in (1..last).zip(passed).rev() {
            let graph = match graph {
                Some(graph) => Ok(graph),
                None => self.graph(gathers.next()?, &x, &positions),
            };
            let gradients = graph.and_then(|(parameters, end)| gradients(&end, Some(&upstream), &parameters, &x));
            let parameters;
            (parameters, upstream) = gradients.map_err(ModelError::torch)?;
            sums.add(block, &parameters)?;
        }
        let embedding = network.embedding_gradient(&upstream, &tokens);
        let embedding = embedding.and_then(|gradient| tied.map_or(Ok(gradient.shallow_clone()), |tied| tied.f_add(&gradient)));
        sums.add(0, &[embedding.map_err(ModelError::torch)?])?;
        Ok(loss)
    }

    /// One layer forward: what is remembered of it, and its output.
    fn pass(
        &self,
        parameters: Vec<Tensor>,
        x: Tensor,
        positions: &Positions,
        activations: Activations,
    ) -> Result<(Passed, Tensor), TchError> {
        match activations {
            Activations::Kept => {
                let x = leaf(&x)?;
                let (parameters, end) = self.graph(parameters, &x, positions)?;
                let next = end.f_detach()?;
                Ok((Passed { x, graph: Some((parameters, end)) }, next))
            }
            Activations::Recomputed => {
                let next = self.network.layer(&parameters, &x, positions)?;
                Ok((Passed { x: leaf(&x)?, graph: None }, next))
            }
        }
    }

    /// A layer's parameters and its output, with the graph between them.
    fn graph(&self, parameters: Vec<Tensor>, x: &Tensor, positions: &Positions) -> Result<(Vec<Tensor>, Tensor), TchError> {
        let parameters = parameters.iter().map(leaf).collect::<Result<Vec<_>, _>>()?;
        let end = self.network.layer(&parameters, x, positions)?;
        Ok((parameters, end))
    }

    /// The summed loss in f64, and its gradients with respect to the last layer's states and to the last norm's weight and the output projection.
    fn loss(&self, [norm, head]: &[Tensor; 2], x: Tensor, targets: &Tensor) -> Result<(Tensor, Tensor, Vec<Tensor>), TchError> {
        let (x, norm) = (leaf(&x)?, leaf(norm)?);
        let hidden = self.network.norm(&x, &norm)?;
        let at_once = if hidden.device() == Device::Cpu { LOGITS_AT_ONCE_CPU } else { LOGITS_AT_ONCE_CUDA };
        let (tokens, most) = (targets.numel(), (at_once / self.network.architecture.vocab_size).max(1));
        // parts of one size
        let rows = tokens.div_ceil(tokens.div_ceil(most)) as i64;
        let (loss, to_hidden, to_head) = tch::no_grad(|| self.network.cross_entropy(&hidden, head, targets, rows))?;
        let (mut ends, upstream) = gradients(&hidden, Some(&to_hidden), &[norm], &x)?;
        ends.push(to_head);
        Ok((loss, upstream, ends))
    }
}

/// The same elements, as something that has a gradient.
fn leaf(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_detach()?.f_set_requires_grad(true)
}

/// Gradients with respect to `parameters` and to `x`.
fn gradients(end: &Tensor, upstream: Option<&Tensor>, parameters: &[Tensor], x: &Tensor) -> Result<(Vec<Tensor>, Tensor), TchError> {
    let inputs: Vec<&Tensor> = [x].into_iter().chain(parameters).collect();
    let mut gradients = ffi::gradients(end, upstream, &inputs)?.into_iter();
    let first = gradients.next().ok_or_else(|| TchError::Shape("no gradient".to_owned()))?;
    Ok((gradients.collect(), first))
}
