//! The model as its callers see it: parameters in and out, losses, logits.

use kernels::Kernels;
use protocol::Architecture;
use tch::{Kind, Reduction, TchError, Tensor};

use crate::collective::{Alone, Collective};
use crate::ffi::fused::Fused;
use crate::forward::{Network, Rotary};
use crate::packing::Packing;
use crate::weights::Weights;
use crate::{Device, ModelError, batch};

/// Logits of one pass without gradients stay below this many, whatever the batch: 256 MiB.
const LOGITS_PER_PASS: usize = 1 << 26;

/// A Llama-style decoder with f32 parameters; arithmetic is f32 on the CPU and bf16 on CUDA.
///
/// It is `Send` and not `Sync`: it may move to another thread, such as a blocking task, and all its work is done on the thread that calls.
pub struct Llama {
    pub(crate) network: Network,
    pub(crate) weights: Weights,
    pub(crate) device: tch::Device,
}

impl Llama {
    /// A model whose parameters are all zero until [`Llama::load`].
    ///
    /// # Errors
    /// For an architecture that does not validate, a device that cannot be used, or a lack of memory.
    pub fn new(architecture: &Architecture, device: Device) -> Result<Self, ModelError> {
        Self::part(architecture, device, Box::new(Alone))
    }

    /// One rank's part of a model. Whatever runs the network must be called on all ranks, each with a batch of its own.
    pub(crate) fn part(architecture: &Architecture, device: Device, collective: Box<dyn Collective>) -> Result<Self, ModelError> {
        architecture.validate()?;
        let placed = device.prepare()?;
        let (compute, kernels) = match device {
            Device::Cpu => (Kind::Float, None),
            // without its kernels a device computes the same by libtorch alone
            Device::Cuda(index) => {
                let refused = |error| tracing::warn!(%device, "training takes longer, by libtorch alone: {error}");
                (Kind::BFloat16, Kernels::shared(index).map_err(refused).ok())
            }
        };
        Self::assemble(architecture, placed, compute, kernels, collective)
    }

    /// What multiplies in `compute` on a device of libtorch's, with its kernels if there are any.
    pub(crate) fn assemble(
        architecture: &Architecture,
        device: tch::Device,
        compute: Kind,
        kernels: Option<Kernels>,
        collective: Box<dyn Collective>,
    ) -> Result<Self, ModelError> {
        let packing = Packing::new(architecture, collective.rank(), collective.size());
        let weights = Weights::new(packing, collective, device, compute)?;
        let rotary = Rotary::new(architecture, device, compute).map_err(ModelError::torch)?;
        let network = Network { architecture: architecture.clone(), compute, rotary, fused: kernels.map(Fused::new) };
        Ok(Self { network, weights, device })
    }

    /// The shape it was built from.
    pub fn architecture(&self) -> &Architecture {
        &self.network.architecture
    }

    /// Elements of all parameters together.
    pub fn parameter_count(&self) -> usize {
        self.weights.packing.elements()
    }

    /// Sets every parameter; `tensors` are those of [`Architecture::tensors`], in that order, row-major.
    ///
    /// # Errors
    /// [`ModelError::Shape`] for tensors of another architecture; the parameters are then unchanged.
    pub fn load(&mut self, tensors: &[Vec<f32>]) -> Result<(), ModelError> {
        self.weights.packing.check(tensors)?;
        self.weights.packing.load(tensors, &self.weights.shares).map_err(ModelError::torch)
    }

    /// A copy of every parameter, as [`Llama::load`] takes them.
    ///
    /// # Errors
    /// If libtorch fails, e.g. for lack of memory.
    pub fn parameters(&self) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut tensors = self.weights.packing.blank();
        self.unload(&mut tensors)?;
        Ok(tensors)
    }

    /// Overwrites those elements of the canonical tensors that this rank keeps.
    pub(crate) fn unload(&self, tensors: &mut [Vec<f32>]) -> Result<(), ModelError> {
        self.weights.packing.unload(&self.weights.shares, tensors).map_err(ModelError::torch)
    }

    /// Each sequence's summed negative log likelihood in nats: of its tokens from the second to the last, given those before.
    /// Sequences have one length, of 2 to `sequence_length + 1` tokens. A broken model's losses may be NaN or infinite.
    ///
    /// # Errors
    /// For sequences that do not fit the model, before anything runs.
    pub fn sequence_losses(&self, batch: &[Vec<u32>]) -> Result<Vec<f64>, ModelError> {
        let windows = self.windows(batch)?;
        let logits = self.network.architecture.vocab_size * (batch[0].len() - 1);
        let sequences = (LOGITS_PER_PASS / logits).max(1) as i64;
        let losses = |windows: Tensor| -> Result<Vec<f64>, ModelError> {
            let losses = self.losses(&windows)?;
            let sums = || losses.f_view([windows.size()[0], -1])?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?.try_into();
            sums().map_err(ModelError::torch)
        };
        let windows = windows.f_split(sequences, 0).map_err(ModelError::torch)?;
        Ok(tch::no_grad(|| windows.into_iter().map(losses).collect::<Result<Vec<_>, _>>())?.concat())
    }

    /// What follows each of `tokens` (1 to `sequence_length`): unnormalized log probabilities, [tokens, vocab_size] row-major.
    ///
    /// # Errors
    /// For tokens that do not fit the model, before anything runs.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.logits_from(tokens, 0)
    }

    /// [`Llama::logits`] from position `start` on.
    pub(crate) fn logits_from(&self, tokens: &[u32], start: usize) -> Result<Vec<f32>, ModelError> {
        let architecture = &self.network.architecture;
        let ids = batch::to_tensor(&[tokens], 1..=architecture.sequence_length, architecture, self.device)?;
        tch::no_grad(|| {
            let (x, [norm, head]) = self.states(&ids)?;
            let logits = || -> Result<Vec<f32>, TchError> {
                let hidden = self.network.norm(&x, &norm)?.f_narrow(0, start as i64, (tokens.len() - start) as i64)?;
                self.network.logits(&hidden, &head)?.f_view([-1])?.try_into()
            };
            logits().map_err(ModelError::torch)
        })
    }

    /// Checked windows on the device, [sequences, length].
    pub(crate) fn windows(&self, batch: &[Vec<u32>]) -> Result<Tensor, ModelError> {
        let architecture = &self.network.architecture;
        batch::to_tensor(batch, 2..=architecture.sequence_length + 1, architecture, self.device)
    }

    /// Negative log likelihoods of windows [sequences, length + 1]: [sequences·length]. No gradients.
    fn losses(&self, windows: &Tensor) -> Result<Tensor, ModelError> {
        let (tokens, targets) = split(windows).map_err(ModelError::torch)?;
        let (x, [norm, head]) = self.states(&tokens)?;
        self.network.losses([&norm, &head], &x, &targets, Reduction::None).map_err(ModelError::torch)
    }

    /// Tokens [batch, length] → the last layer's states [batch·length, hidden_size], with the last norm's weight and the output projection.
    fn states(&self, tokens: &Tensor) -> Result<(Tensor, [Tensor; 2]), ModelError> {
        let blocks = self.weights.packing.blocks();
        let mut gathers = self.weights.gathers(&self.weights.shares, 0..blocks);
        let embedding = first(gathers.next()?)?;
        let positions = self.network.rotary.positions(tokens).map_err(ModelError::torch)?;
        let mut x = self.network.embed(&embedding, tokens).map_err(ModelError::torch)?;
        let embedding = self.network.architecture.tied_embeddings.then_some(embedding);
        for _ in 0..blocks - 2 {
            x = self.network.layer(&gathers.next()?, &x, &positions).map_err(ModelError::torch)?;
        }
        Ok((x, output(gathers.next()?, embedding)?))
    }
}

/// The only tensor of the embedding's block.
pub(crate) fn first(block: Vec<Tensor>) -> Result<Tensor, ModelError> {
    block.into_iter().next().ok_or_else(|| ModelError::Torch("an empty block".to_owned()))
}

/// The last norm's weight and the output projection, which is the embedding if they are tied.
pub(crate) fn output(block: Vec<Tensor>, tied: Option<Tensor>) -> Result<[Tensor; 2], ModelError> {
    let tensors: Vec<Tensor> = block.into_iter().chain(tied).collect();
    tensors.try_into().map_err(|_| ModelError::Torch("no output projection".to_owned()))
}

/// Windows [sequences, length + 1] → inputs [sequences, length] and what follows each of them, [sequences·length].
pub(crate) fn split(windows: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let length = windows.size()[1] - 1;
    Ok((windows.f_narrow(1, 0, length)?, windows.f_narrow(1, 1, length)?.f_reshape([-1])?))
}

const _: () = {
    const fn moves_between_threads<T: Send>() {}
    moves_between_threads::<Llama>();
};
