//! The model as its callers see it: parameters in and out, losses, logits.

use protocol::Architecture;
use tch::{Kind, Reduction, TchError, Tensor};

use crate::forward::{Forward, Rotary};
use crate::packing::Packing;
use crate::{Device, ModelError, batch};

/// Logits of one pass without gradients stay below this many, whatever the batch: 256 MiB.
const LOGITS_PER_PASS: usize = 1 << 26;

/// A Llama-style decoder with f32 parameters; arithmetic is f32 on the CPU and bf16 on CUDA.
///
/// It is `Send` and not `Sync`: it may move to another thread, such as a blocking task, and all its work is done on the thread that calls.
pub struct Llama {
    pub(crate) architecture: Architecture,
    pub(crate) packing: Packing,
    pub(crate) parameters: Vec<Tensor>,
    pub(crate) device: tch::Device,
    compute: Kind,
    rotary: Rotary,
}

impl Llama {
    /// A model whose parameters are all zero until [`Llama::load`].
    ///
    /// # Errors
    /// For an architecture that does not validate, a device that cannot be used, or a lack of memory.
    pub fn new(architecture: &Architecture, device: Device) -> Result<Self, ModelError> {
        architecture.validate()?;
        let device = device.prepare()?;
        let compute = if device == tch::Device::Cpu { Kind::Float } else { Kind::BFloat16 };
        let packing = Packing::new(architecture);
        let zeros = packing.zeros(device).map_err(ModelError::torch)?;
        let parameters = zeros.into_iter().map(|zeros| zeros.set_requires_grad(true)).collect();
        let rotary = Rotary::new(architecture, device, compute).map_err(ModelError::torch)?;
        Ok(Self { architecture: architecture.clone(), packing, parameters, device, compute, rotary })
    }

    /// The shape it was built from.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Elements of all parameters together.
    pub fn parameter_count(&self) -> usize {
        self.packing.elements()
    }

    /// Sets every parameter; `tensors` are those of [`Architecture::tensors`], in that order, row-major.
    ///
    /// # Errors
    /// [`ModelError::Shape`] for tensors of another architecture; the parameters are then unchanged.
    pub fn load(&mut self, tensors: &[Vec<f32>]) -> Result<(), ModelError> {
        self.packing.check(tensors)?;
        self.packing.load(tensors, &self.parameters).map_err(ModelError::torch)
    }

    /// A copy of every parameter, as [`Llama::load`] takes them.
    ///
    /// # Errors
    /// If libtorch fails, e.g. for lack of memory.
    pub fn parameters(&self) -> Result<Vec<Vec<f32>>, ModelError> {
        self.packing.unload(&self.parameters).map_err(ModelError::torch)
    }

    /// Each sequence's summed negative log likelihood in nats: of its tokens from the second to the last, given those before.
    /// Sequences have one length, of 2 to `sequence_length + 1` tokens. A broken model's losses may be NaN or infinite.
    ///
    /// # Errors
    /// For sequences that do not fit the model, before anything runs.
    pub fn sequence_losses(&self, batch: &[Vec<u32>]) -> Result<Vec<f64>, ModelError> {
        let windows = self.windows(batch)?;
        let logits = self.architecture.vocab_size * (batch[0].len() - 1);
        let sequences = (LOGITS_PER_PASS / logits).max(1) as i64;
        let losses = |windows: Tensor| -> Result<Vec<f64>, TchError> {
            let losses = self.losses(&windows, Reduction::None)?.f_view([windows.size()[0], -1])?;
            losses.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?.try_into()
        };
        let passes = || windows.f_split(sequences, 0)?.into_iter().map(losses).collect::<Result<Vec<_>, _>>();
        Ok(tch::no_grad(passes).map_err(ModelError::torch)?.concat())
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
        let ids = batch::to_tensor(&[tokens], 1..=self.architecture.sequence_length, &self.architecture, self.device)?;
        let forward = self.forward();
        let logits = || -> Result<Vec<f32>, TchError> {
            let hidden = forward.hidden(&ids)?.f_narrow(0, start as i64, (tokens.len() - start) as i64)?;
            forward.logits(&hidden)?.f_view([-1])?.try_into()
        };
        tch::no_grad(logits).map_err(ModelError::torch)
    }

    /// Checked windows on the device, [sequences, length].
    pub(crate) fn windows(&self, batch: &[Vec<u32>]) -> Result<Tensor, ModelError> {
        batch::to_tensor(batch, 2..=self.architecture.sequence_length + 1, &self.architecture, self.device)
    }

    /// Negative log likelihoods of windows [sequences, length + 1]: [sequences·length], or their sum.
    pub(crate) fn losses(&self, windows: &Tensor, reduction: Reduction) -> Result<Tensor, TchError> {
        let length = windows.size()[1] - 1;
        let inputs = windows.f_narrow(1, 0, length)?;
        let targets = windows.f_narrow(1, 1, length)?.f_reshape([-1])?;
        let forward = self.forward();
        let logits = forward.logits(&forward.hidden(&inputs)?)?;
        logits.f_cross_entropy_loss(&targets, None::<Tensor>, reduction, -100, 0.0)
    }

    fn forward(&self) -> Forward<'_> {
        Forward { architecture: &self.architecture, parameters: &self.parameters, compute: self.compute, rotary: &self.rotary }
    }
}

const _: () = {
    const fn moves_between_threads<T: Send>() {}
    moves_between_threads::<Llama>();
};
