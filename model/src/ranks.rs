//! One model that trains on several devices.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use protocol::{Architecture, Inner};
use rayon::{ThreadPool, ThreadPoolBuilder};
use tch::{Kind, Tensor};

use crate::batch::{Staged, Stager, check_even};
use crate::collective::{Alone, Collective};
use crate::ffi::nccl::Nccl;
use crate::threads::Threads;
use crate::{Activations, Device, Devices, InnerOptimizer, Llama, ModelError, OptimizerState, StepReport};

/// A model and its inner optimizer on one or more devices, data-parallel: each device, a **rank**, trains on an equal part of every batch,
/// and keeps an equal share of parameters, gradients and moments (Rajbhandari and others 2020, "ZeRO", stage 3).
///
/// Parameters and moments come out and go in as whole canonical tensors, whatever the number of ranks: training may go on with another number
/// of them. One rank computes what [`Llama`] and [`InnerOptimizer`] do, on the thread that calls; several have a thread each while something
/// is computed.
pub struct Ranks {
    architecture: Architecture,
    ranks: Vec<Rank>,
    /// A thread for each of several ranks, always the same: libtorch and what it calls keep much by thread, such as cuDNN's plans of attention.
    threads: Option<ThreadPool>,
    /// Why nothing can be computed any more.
    lost: Option<ModelError>,
}

/// A whole tensor of parameters in the memory of a rank's device: f32, row-major, side by side. It is there while the visitor is called, and for work on
/// the device that libtorch's current stream orders before whatever follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its number in [`Architecture::tensors`].
    pub tensor: usize,
    /// Of its first element.
    pub address: u64,
    /// Elements.
    pub len: usize,
}

struct Rank {
    model: Llama,
    optimizer: InnerOptimizer,
}

impl Ranks {
    /// A model whose parameters are zero until [`Ranks::load`], and an optimizer at step 0.
    ///
    /// # Errors
    /// As [`Llama::new`]; [`ModelError::Uneven`] if `inner.batch` is not a multiple of the number of devices; [`ModelError::Nccl`].
    pub fn new(architecture: &Architecture, inner: &Inner, devices: &Devices, activations: Activations) -> Result<Self, ModelError> {
        check_even(inner.batch as usize, devices.as_slice().len())?;
        let rank = |(device, collective): (&Device, Box<dyn Collective>)| {
            let model = Llama::part(architecture, *device, collective)?;
            let optimizer = InnerOptimizer::new(&model, inner)?.with_activations(activations);
            Ok::<_, ModelError>(Rank { model, optimizer })
        };
        // all are looked for before any is used: libtorch settles at its first call whether there are GPUs
        devices.as_slice().iter().try_for_each(|device| device.prepare().map(drop))?;
        let ranks: Vec<_> = devices.as_slice().iter().zip(collectives(devices)?).map(rank).collect::<Result<_, _>>()?;
        let threads = (ranks.len() > 1).then(|| pool(ranks.len())).transpose()?;
        Ok(Self { architecture: architecture.clone(), ranks, threads, lost: None })
    }

    /// Sets every parameter, as [`Llama::load`].
    ///
    /// # Errors
    /// As [`Llama::load`], and [`ModelError::RankLost`].
    pub fn load(&mut self, tensors: &[Vec<f32>]) -> Result<(), ModelError> {
        self.everywhere(|_, rank| rank.model.load(tensors)).map(drop)
    }

    /// A copy of every parameter, as [`Llama::parameters`].
    ///
    /// # Errors
    /// As [`Llama::parameters`], and [`ModelError::RankLost`].
    pub fn parameters(&self) -> Result<Vec<Vec<f32>>, ModelError> {
        self.check()?;
        let mut tensors = self.ranks[0].model.weights.packing.blank();
        self.ranks.iter().try_for_each(|rank| rank.model.unload(&mut tensors))?;
        Ok(tensors)
    }

    /// Brings the parameters together on every rank, block by block, and shows each block's tensors to the rank's visitor, on a thread that works for
    /// the rank's device. `visitors` are in the ranks' order; each sees every tensor once. One rank copies nothing.
    ///
    /// # Errors
    /// If libtorch or NCCL fails, and [`ModelError::RankLost`].
    ///
    /// # Panics
    /// Unless there are as many visitors as ranks.
    pub fn visit<V: Send>(&mut self, visitors: &mut [V], visit: impl Fn(&mut V, &[Whole]) + Sync) -> Result<(), ModelError> {
        assert_eq!(visitors.len(), self.ranks.len(), "one visitor per rank");
        let visitors: Vec<_> = visitors.iter_mut().map(Mutex::new).collect();
        let show = |number: usize, rank: &mut Rank| {
            let (weights, mut visitor) = (&rank.model.weights, visitors[number].lock().unwrap_or_else(PoisonError::into_inner));
            let mut blocks = weights.all();
            while let Some((block, elements)) = blocks.whole()? {
                let first = elements.data_ptr() as u64;
                let whole = |(tensor, place): (usize, &Range<usize>)| Whole {
                    tensor,
                    address: first + (place.start * size_of::<f32>()) as u64,
                    len: place.len(),
                };
                visit(&mut visitor, &weights.packing.places(block).map(whole).collect::<Vec<_>>());
            }
            // whoever is slower may still read what this rank handed over
            let nothing = Tensor::f_zeros([1], (Kind::Float, rank.model.device)).map_err(ModelError::torch)?;
            weights.collective.all_reduce(nothing).map(drop)
        };
        self.everywhere(show).map(drop)
    }

    /// One inner step of all ranks, as [`InnerOptimizer::step_at`]. Each takes its part of the batch, in order, `micro_batch` sequences at a
    /// time. The report is that of the whole batch. With another number of ranks the same sums are added in another order, so that losses
    /// differ by rounding.
    ///
    /// # Errors
    /// As [`InnerOptimizer::step_at`], and [`ModelError::Uneven`]: nothing has changed then. After any other error the ranks are of no more use.
    pub fn step_at(&mut self, batch: &[Vec<u32>], position: u64) -> Result<StepReport, ModelError> {
        let staged = self.stager().stage(batch)?;
        self.step_staged(staged, position)
    }

    /// What prepares batches before they are needed, and puts them onto the device if there is one rank. Several fetch their parts themselves: a copy
    /// that waits for one GPU while that waits for another in an exchange could keep the other from joining.
    pub fn stager(&self) -> Stager {
        let devices = match &self.ranks[..] {
            [rank] => vec![rank.model.device],
            several => vec![tch::Device::Cpu; several.len()],
        };
        Stager { architecture: self.architecture.clone(), devices }
    }

    /// [`Ranks::step_at`] on a batch that [`Ranks::stager`] put there.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`]: nothing has changed then. After any other error the ranks are of no more use.
    ///
    /// # Panics
    /// On a batch for another number of ranks.
    pub fn step_staged(&mut self, batch: Staged, position: u64) -> Result<StepReport, ModelError> {
        assert_eq!(batch.windows.len(), self.ranks.len(), "one part of the batch per rank");
        let windows: Vec<_> = batch.windows.into_iter().map(Mutex::new).collect();
        let step = |number: usize, rank: &mut Rank| {
            let windows = windows[number].lock().unwrap_or_else(PoisonError::into_inner);
            let windows = windows.f_to_device(rank.model.device).map_err(ModelError::torch)?;
            rank.optimizer.step_on(&mut rank.model, &windows, position)
        };
        Ok(self.everywhere(step)?[0])
    }

    /// A copy of step and moments.
    ///
    /// # Errors
    /// As [`InnerOptimizer::export`], and [`ModelError::RankLost`].
    pub fn export(&self) -> Result<OptimizerState, ModelError> {
        self.check()?;
        let mut state = self.ranks[0].optimizer.blank();
        self.ranks.iter().try_for_each(|rank| rank.optimizer.unload(&mut state))?;
        Ok(state)
    }

    /// Continues from a state that any number of ranks exported.
    ///
    /// # Errors
    /// As [`InnerOptimizer::import`], and [`ModelError::RankLost`].
    pub fn import(&mut self, state: &OptimizerState) -> Result<(), ModelError> {
        self.ranks[0].optimizer.check(state)?;
        self.everywhere(|_, rank| rank.optimizer.import(state)).map(drop)
    }

    fn check(&self) -> Result<(), ModelError> {
        self.lost.clone().map_or(Ok(()), Err)
    }

    /// Does the same on every rank, all at once. The results are in the order of the ranks.
    fn everywhere<T: Send>(&mut self, work: impl Fn(usize, &mut Rank) -> Result<T, ModelError> + Sync) -> Result<Vec<T>, ModelError> {
        self.check()?;
        let Some(threads) = &self.threads else { return Ok(vec![work(0, &mut self.ranks[0])?]) };
        let cores = tch::get_num_threads();
        let ranks: Vec<_> = self.ranks.iter_mut().map(Mutex::new).collect();
        let results: Vec<Result<T, ModelError>> = threads.broadcast(|thread| {
            // a new thread has as many as there are cores
            tch::set_num_threads(cores);
            let mut rank = ranks[thread.index()].lock().unwrap_or_else(PoisonError::into_inner);
            guarded(thread.index(), &mut rank, &work)
        });
        let refused = cause(&results);
        if let Some(error) = refused.filter(|error| !is_common(error)) {
            self.lost = Some(error.clone());
        }
        results.into_iter().collect::<Result<_, _>>().map_err(|error| self.lost.clone().unwrap_or(error))
    }
}

/// As many threads as ranks.
fn pool(ranks: usize) -> Result<ThreadPool, ModelError> {
    let pool = ThreadPoolBuilder::new().num_threads(ranks).thread_name(|rank| format!("rank-{rank}")).build();
    pool.map_err(|error| ModelError::Torch(format!("{ranks} threads cannot be started: {error}")))
}

/// Does one rank's work. If that fails, the others are told, so that none of them waits for it.
fn guarded<T>(number: usize, rank: &mut Rank, work: impl Fn(usize, &mut Rank) -> Result<T, ModelError>) -> Result<T, ModelError> {
    let result = catch_unwind(AssertUnwindSafe(|| work(number, rank))).unwrap_or_else(|panic| Err(lost(number, &*panic)));
    if let Err(error) = result.as_ref()
        && !is_common(error)
    {
        rank.model.weights.collective.abort(&error.to_string());
    }
    result
}

/// Whether all ranks met with this error alike, before anything changed.
fn is_common(error: &ModelError) -> bool {
    matches!(error, ModelError::NonFinite { .. } | ModelError::Shape { .. })
}

/// The error that led to the others.
fn cause<T>(results: &[Result<T, ModelError>]) -> Option<ModelError> {
    let errors = || results.iter().enumerate().filter_map(|(number, result)| Some((number, result.as_ref().err()?)));
    let follows = |number: usize, error: &ModelError| matches!(error, ModelError::RankLost { rank, .. } if *rank != number);
    let first = errors().find(|(number, error)| !follows(*number, error)).or_else(|| errors().next());
    first.map(|(_, error)| error.clone())
}

fn lost(rank: usize, panic: &(dyn Any + Send)) -> ModelError {
    let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    ModelError::RankLost { rank, reason: format!("it panicked: {}", words.unwrap_or("without a word")) }
}

/// One per device.
fn collectives(devices: &Devices) -> Result<Vec<Box<dyn Collective>>, ModelError> {
    fn boxed<C: Collective + 'static>(collectives: Vec<C>) -> Vec<Box<dyn Collective>> {
        collectives.into_iter().map(|collective| Box::new(collective) as _).collect()
    }
    let index = |device: &Device| match device {
        Device::Cpu => None,
        Device::Cuda(index) => Some(*index),
    };
    match devices.as_slice() {
        [_] => Ok(boxed(vec![Alone])),
        several => match several.iter().map(index).collect::<Option<Vec<usize>>>() {
            Some(gpus) => Nccl::connect(&gpus).map(boxed),
            None => Ok(boxed(Threads::meeting(several.len()))),
        },
    }
}

const _: () = {
    const fn moves_between_threads<T: Send>() {}
    moves_between_threads::<Ranks>();
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kernels::Kernels;

    use super::*;

    fn ranks(number: usize) -> (Ranks, Vec<Vec<u32>>) {
        ranks_on(&vec!["cpu"; number].join(","), Activations::Recomputed)
    }

    fn ranks_on(devices: &str, activations: Activations) -> (Ranks, Vec<Vec<u32>>) {
        let architecture = Architecture {
            vocab_size: 10,
            hidden_size: 8,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            intermediate_size: 12,
            sequence_length: 8,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            tied_embeddings: true,
            init_std: 0.1,
        };
        let inner = crate::optimizer::tests::rule();
        let mut ranks = Ranks::new(&architecture, &Inner { batch: 6, ..inner }, &devices.parse().unwrap(), activations).unwrap();
        let mut theta = ranks.ranks[0].model.weights.packing.blank();
        theta.iter_mut().flatten().enumerate().for_each(|(i, x)| *x = (i as f32).sin() / 4.0);
        ranks.load(&theta).unwrap();
        (ranks, (0..6).map(|i| (0..9).map(|j| (i * j + i) % 10).collect()).collect())
    }

    #[test]
    fn all_ranks_report_the_same_bits() {
        let (mut ranks, batch) = ranks(3);
        for step in 0..4 {
            let work = |number: usize, rank: &mut Rank| rank.optimizer.step_at(&mut rank.model, &batch[2 * number..][..2], step);
            let reports = ranks.everywhere(work).unwrap();
            assert!(reports.iter().all(|report| *report == reports[0]), "{reports:?}");
        }
    }

    /// A rank that fails in the middle of a step: the others wait for it in an exchange.
    #[test]
    fn a_rank_that_ends_takes_the_others_along() {
        for panics in [true, false] {
            let (mut ranks, batch) = ranks(3);
            let step = |number: usize, rank: &mut Rank| match number {
                1 if panics => panic!("a bug"),
                1 => Err(ModelError::Torch("no memory".into())),
                _ => rank.optimizer.step_at(&mut rank.model, &batch[2 * number..][..2], 0),
            };
            let error = ranks.everywhere(step).unwrap_err();
            let expected = match panics {
                true => ModelError::RankLost { rank: 1, reason: "it panicked: a bug".into() },
                false => ModelError::Torch("no memory".into()),
            };
            assert_eq!(error, expected);
            assert_eq!(ranks.step_at(&batch, 0).unwrap_err(), expected);
            assert_eq!(ranks.parameters().unwrap_err(), expected);
            assert_eq!(ranks.export().unwrap_err(), expected);
        }
    }

    /// The same ranks, multiplying in `compute`, with the kernels emulated if asked.
    fn arithmetic(ranks: &mut Ranks, compute: Kind, kernels: Option<&Kernels>, activations: Activations) {
        let theta = ranks.parameters().unwrap();
        for rank in &mut ranks.ranks {
            let collective = std::mem::replace(&mut rank.model.weights.collective, Box::new(Alone));
            let (shape, device) = (rank.model.architecture().clone(), rank.model.device);
            rank.model = Llama::assemble(&shape, device, compute, kernels.cloned(), collective).unwrap();
            rank.optimizer = InnerOptimizer::new(&rank.model, &crate::optimizer::tests::rule()).unwrap().with_activations(activations);
        }
        ranks.load(&theta).unwrap();
    }

    /// What four steps come to: losses and norms, and parameters.
    fn trained(ranks: &mut Ranks, batch: &[Vec<u32>]) -> (Vec<f64>, Vec<f32>) {
        let reports = (0..4).map(|step| ranks.step_at(batch, step).unwrap());
        (reports.flat_map(|report| [report.loss, report.grad_norm]).collect(), ranks.parameters().unwrap().concat())
    }

    fn relative(left: &[f64], right: &[f64]) -> f64 {
        left.iter().zip(right).map(|(l, r)| (l / r - 1.0).abs()).fold(0.0, f64::max)
    }

    /// The kernels, emulated, in whole training steps: the same sums as libtorch's operations, rounded elsewhere. In f32 those differ by some units of
    /// 6e-8; in bf16, as on a GPU, a unit is 4e-3, and of some hundred roundings most cancel out.
    #[test]
    fn the_kernels_train_as_libtorch_does() {
        let kernels = Kernels::emulated().unwrap();
        for (number, activations) in [(1, Activations::Kept), (2, Activations::Recomputed)] {
            let outcome = |compute, kernels| {
                let (mut ranks, batch) = ranks(number);
                arithmetic(&mut ranks, compute, kernels, activations);
                trained(&mut ranks, &batch)
            };
            let plain = outcome(Kind::Float, None);
            for (compute, kernels, least, most) in [
                (Kind::Float, Some(&kernels), 1e-12, 1e-5),
                (Kind::BFloat16, None, 1e-5, 2e-2),
                (Kind::BFloat16, Some(&kernels), 1e-5, 2e-2),
            ] {
                let found = outcome(compute, kernels);
                let distance = relative(&found.0, &plain.0);
                assert!(distance > least && distance < most, "{number} ranks, {compute:?}: {distance:e}");
                assert!(found.1.iter().zip(&plain.1).all(|(a, b)| (a - b).abs() < 0.05), "{number} ranks, {compute:?}");
            }
        }
    }

    /// One GPU and, where there are, two, against the CPU. Says so where there is none, rather than passing unseen, and fails there if TRIBUTARY_GPU is set.
    #[test]
    fn gpus_train_as_the_cpu_does() {
        let gpus = kernels::devices().len();
        if gpus == 0 {
            assert!(std::env::var_os("TRIBUTARY_GPU").is_none(), "there is no CUDA device here");
            eprintln!("no CUDA device: skipped");
        }
        for (number, devices) in [(1, "cuda:0"), (2, "cuda:0,1")].into_iter().filter(|(number, _)| *number <= gpus) {
            for activations in [Activations::Kept, Activations::Recomputed] {
                // GPUs first: libtorch settles at its first work whether there are any
                let (mut found, batch) = ranks_on(devices, activations);
                let found = trained(&mut found, &batch);
                let expected = trained(&mut ranks(1).0, &batch);
                let distance = relative(&found.0, &expected.0);
                assert!(distance < 2e-2, "{devices}, {activations:?}: {distance:e}");
                assert!(found.1.iter().zip(&expected.1).all(|(a, b)| (a - b).abs() < 0.05), "{devices}, {activations:?}");
                eprintln!("{number} GPUs, {activations:?}: losses and norms within {distance:.1e} of the CPU's");
            }
        }
    }

    #[test]
    fn a_rank_keeps_its_share_only() {
        let (ranks, _) = ranks(3);
        let kept = |rank: &Rank| rank.model.weights.shares.iter().map(tch::Tensor::numel).sum::<usize>();
        let all = ranks.ranks[0].model.parameter_count();
        // shares are multiples of 16 elements, and so are the starts of the six groups of a layer
        assert!(ranks.ranks.iter().all(|rank| kept(rank) < all / 3 + 4 * 6 * 16), "{all}");
        let mut tensors = ranks.ranks[0].model.weights.packing.blank();
        for (number, rank) in ranks.ranks.iter().enumerate() {
            let before = tensors.clone();
            rank.model.unload(&mut tensors).unwrap();
            let changed = tensors.iter().flatten().zip(before.iter().flatten()).filter(|(a, b)| a != b).count();
            assert!(changed > all / 4 && changed <= kept(rank), "rank {number}: {changed} of {all}");
        }
    }
}
