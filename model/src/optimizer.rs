//! The inner optimizer: AdamW over accumulated, clipped gradients.

use protocol::Inner;
use tch::{Kind, TchError, Tensor};

use crate::ffi::{self, Update};
use crate::packing::Packing;
use crate::weights::Sums;
use crate::{Activations, Llama, ModelError};

/// AdamW (Loshchilov, Hutter 2019) with the schedule of [`Inner::lr_at`]; weight decay on tensors of two and more dimensions.
///
/// Its moments outlive rounds: only [`InnerOptimizer::step`] and [`InnerOptimizer::import`] change them.
pub struct InnerOptimizer {
    inner: Inner,
    activations: Activations,
    packing: Packing,
    step: u64,
    /// As the parameters' shares.
    first: Vec<Tensor>,
    second: Vec<Tensor>,
}

/// What one inner step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean negative log likelihood in nats per token of the batch, before the update.
    pub loss: f64,
    /// Euclidean norm of the mean loss's gradient, before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
}

/// What an optimizer remembers, tensors in the model's canonical order.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    /// Inner steps taken since the run began.
    pub step: u64,
    /// First moments.
    pub first: Vec<Vec<f32>>,
    /// Second moments.
    pub second: Vec<Vec<f32>>,
}

impl InnerOptimizer {
    /// An optimizer at step 0, its moments zero.
    ///
    /// # Errors
    /// If libtorch fails, e.g. for lack of memory.
    pub fn new(model: &Llama, inner: &Inner) -> Result<Self, ModelError> {
        let packing = model.weights.packing.clone();
        let zeros = || packing.zeros(model.device).map_err(ModelError::torch);
        let (first, second) = (zeros()?, zeros()?);
        Ok(Self { inner: inner.clone(), activations: Activations::default(), packing, step: 0, first, second })
    }

    /// The same optimizer, whose steps keep or recompute activations; they are kept unless this says otherwise.
    #[must_use]
    pub fn with_activations(self, activations: Activations) -> Self {
        Self { activations, ..self }
    }

    /// Inner steps taken.
    pub fn steps_taken(&self) -> u64 {
        self.step
    }

    /// [`InnerOptimizer::step_at`] for one who has taken part since the run began.
    ///
    /// # Errors
    /// As [`InnerOptimizer::step_at`].
    pub fn step(&mut self, model: &mut Llama, batch: &[Vec<u32>]) -> Result<StepReport, ModelError> {
        self.step_at(model, batch, self.step)
    }

    /// One inner step on a batch of sequences as [`Llama::sequence_losses`] takes them, `micro_batch` at a time. `position` is the run's
    /// place in the learning-rate schedule; a miner that joined late has taken fewer steps than that.
    ///
    /// # Errors
    /// For sequences that do not fit, and [`ModelError::NonFinite`]; parameters, moments and step are then as before.
    pub fn step_at(&mut self, model: &mut Llama, batch: &[Vec<u32>], position: u64) -> Result<StepReport, ModelError> {
        self.step_on(model, &model.windows(batch)?, position)
    }

    /// [`InnerOptimizer::step_at`] on checked windows on the model's device, [sequences, length + 1].
    pub(crate) fn step_on(&mut self, model: &mut Llama, windows: &Tensor, position: u64) -> Result<StepReport, ModelError> {
        self.packing.check_same(&model.weights.packing)?;
        let (sequences, length) = windows.size2().map_err(ModelError::torch)?;
        let tokens = (sequences * (length - 1)) as f64 * model.weights.collective.size() as f64;
        let (gradients, [sum, squares]) = self.accumulate(model, windows)?;
        let (loss, grad_norm) = (sum / tokens, squares.sqrt() / tokens);
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                return Err(ModelError::NonFinite { what, value, step: self.step });
            }
        }
        let divisor = tokens * (grad_norm / self.inner.clip).max(1.0);
        let lr = self.inner.lr_at(position);
        self.update(&model.weights.shares, &gradients, divisor, lr).map_err(ModelError::torch)?;
        Ok(StepReport { loss, grad_norm, lr })
    }

    /// This rank's share of the gradients of the summed loss; that loss and the gradients' squared norm, over all ranks. Waits for the device once.
    fn accumulate(&self, model: &Llama, windows: &Tensor) -> Result<(Vec<Tensor>, [f64; 2]), ModelError> {
        let mut sums = Sums::new(&model.weights);
        let micro_batches = windows.f_split(i64::from(self.inner.micro_batch), 0).map_err(ModelError::torch)?;
        let shares = model.weights.cast()?;
        let losses = micro_batches.iter().map(|windows| model.backward(windows, &shares, self.activations, &mut sums));
        let losses = losses.collect::<Result<Vec<_>, _>>()?;
        let gradients = sums.finish()?;
        let own = || Tensor::f_stack(&[add_up(&losses)?, ffi::squared_norm(&gradients)?], 0);
        let totals = model.weights.collective.all_reduce(own().map_err(ModelError::torch)?)?;
        let read = || Ok([totals.f_double_value(&[0])?, totals.f_double_value(&[1])?]);
        let totals = read().map_err(ModelError::torch)?;
        // on a GPU an exchange that was ended is noticed only here, once the numbers have been waited for
        model.weights.collective.check()?;
        Ok((gradients, totals))
    }

    /// AdamW with `gradients / divisor`, in place; counts the step.
    fn update(&mut self, shares: &[Tensor], gradients: &[Tensor], divisor: f64, lr: f64) -> Result<(), TchError> {
        let device = shares[0].device();
        let number = Tensor::f_full([] as [i64; 0], (self.step + 1) as f64, (Kind::Float, device))?;
        let divisor = Tensor::f_full([] as [i64; 0], divisor, (Kind::Float, device))?;
        let (parameters, first, second) =
            (self.packing.pieces(shares)?, self.packing.pieces(&self.first)?, self.packing.pieces(&self.second)?);
        let updates = parameters.iter().zip(gradients).zip(first.iter().zip(&second));
        let updates = updates.map(|(((piece, parameter), gradient), ((_, first), (_, second)))| {
            (piece.matrix, Update { parameter, gradient, first, second })
        });
        let (matrices, vectors): (Vec<_>, Vec<_>) = updates.partition(|(matrix, _)| *matrix);
        for (updates, weight_decay) in [(matrices, self.inner.weight_decay), (vectors, 0.0)] {
            let updates: Vec<_> = updates.into_iter().map(|(_, update)| update).collect();
            let rule = ffi::AdamW { lr, beta1: self.inner.beta1, beta2: self.inner.beta2, eps: self.inner.eps, weight_decay };
            ffi::fused_adamw(&updates, &number, &divisor, &rule)?;
        }
        self.step += 1;
        Ok(())
    }

    /// A copy of step and moments.
    ///
    /// # Errors
    /// If libtorch fails, e.g. for lack of memory.
    pub fn export(&self) -> Result<OptimizerState, ModelError> {
        let mut state = self.blank();
        self.unload(&mut state)?;
        Ok(state)
    }

    /// This step, and moments of zero.
    pub(crate) fn blank(&self) -> OptimizerState {
        OptimizerState { step: self.step, first: self.packing.blank(), second: self.packing.blank() }
    }

    /// Refuses moments of another architecture.
    pub(crate) fn check(&self, state: &OptimizerState) -> Result<(), ModelError> {
        self.packing.check(&state.first)?;
        self.packing.check(&state.second)
    }

    /// Overwrites those elements of the moments that this rank keeps.
    pub(crate) fn unload(&self, state: &mut OptimizerState) -> Result<(), ModelError> {
        self.packing.unload(&self.first, &mut state.first).map_err(ModelError::torch)?;
        self.packing.unload(&self.second, &mut state.second).map_err(ModelError::torch)
    }

    /// Continues from an exported state.
    ///
    /// # Errors
    /// [`ModelError::Shape`] for moments of another architecture; nothing is changed then.
    pub fn import(&mut self, state: &OptimizerState) -> Result<(), ModelError> {
        self.check(state)?;
        self.packing.load(&state.first, &self.first).map_err(ModelError::torch)?;
        self.packing.load(&state.second, &self.second).map_err(ModelError::torch)?;
        self.step = state.step;
        Ok(())
    }
}

/// The sum of at least one tensor.
fn add_up(terms: &[Tensor]) -> Result<Tensor, TchError> {
    let (first, others) = terms.split_first().ok_or_else(|| TchError::Shape("a batch of no sequences".to_owned()))?;
    others.iter().try_fold(first.shallow_clone(), |sum, term| sum.f_add(term))
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Decoupled AdamW in f64, as in the paper.
    fn reference(inner: &Inner, step: i32, decay: f64, theta: &mut f64, moments: &mut (f64, f64), gradient: f64) {
        let (lr, t) = (inner.lr_at(step as u64), step + 1);
        moments.0 = inner.beta1 * moments.0 + (1.0 - inner.beta1) * gradient;
        moments.1 = inner.beta2 * moments.1 + (1.0 - inner.beta2) * gradient * gradient;
        let (first, second) = (moments.0 / (1.0 - inner.beta1.powi(t)), moments.1 / (1.0 - inner.beta2.powi(t)));
        *theta -= lr * decay * *theta + lr * first / (second.sqrt() + inner.eps);
    }

    #[test]
    fn the_fused_update_is_adamw() {
        let inner = rule();
        let architecture = protocol::Architecture {
            vocab_size: 3,
            hidden_size: 2,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 2,
            intermediate_size: 1,
            sequence_length: 1,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            tied_embeddings: true,
            init_std: 0.1,
        };
        let packing = Packing::new(&architecture, 0, 1);
        let zeros = || packing.zeros(tch::Device::Cpu).unwrap();
        let (first, second) = (zeros(), zeros());
        let activations = Activations::Kept;
        let mut optimizer = InnerOptimizer { inner: inner.clone(), activations, packing: packing.clone(), step: 0, first, second };
        let parameters = zeros();
        let value = |i: usize, step: i32| ((i * 7 + 3) as f64 * 0.37 + f64::from(step)).sin();
        let start: Vec<Vec<f32>> = sized(&packing, |i| value(i, 0) as f32);
        packing.load(&start, &parameters).unwrap();
        let mut expected: Vec<f64> = start.iter().flatten().map(|x| f64::from(*x)).collect();
        let decays: Vec<f64> = packing
            .pieces(&parameters)
            .unwrap()
            .iter()
            .flat_map(|(piece, p)| vec![if piece.matrix { inner.weight_decay } else { 0.0 }; p.numel()])
            .collect();
        let mut moments = vec![(0.0, 0.0); expected.len()];
        for step in 0..8 {
            let divisor = 1.0 + f64::from(step);
            let gradients = zeros();
            packing.load(&sized(&packing, |i| value(i, step + 1) as f32), &gradients).unwrap();
            let gradients: Vec<Tensor> = packing.pieces(&gradients).unwrap().into_iter().map(|(_, gradient)| gradient).collect();
            optimizer.update(&parameters, &gradients, divisor, inner.lr_at(step as u64)).unwrap();
            for (i, theta) in expected.iter_mut().enumerate() {
                let gradient = f64::from(value(i, step + 1) as f32) / divisor;
                reference(&inner, step, decays[i], theta, &mut moments[i], gradient);
            }
        }
        let mut got = packing.blank();
        packing.unload(&parameters, &mut got).unwrap();
        for (got, want) in got.iter().flatten().zip(&expected) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
        }
    }

    fn sized(packing: &Packing, value: impl Fn(usize) -> f32) -> Vec<Vec<f32>> {
        let mut next = 0..;
        packing.blank().iter().map(|tensor| tensor.iter().zip(next.by_ref()).map(|(_, i)| value(i)).collect()).collect()
    }

    pub(crate) fn rule() -> Inner {
        Inner {
            steps: 1,
            batch: 1,
            micro_batch: 1,
            lr: 0.02,
            warmup: 2,
            decay: 20,
            floor: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
        }
    }
}
