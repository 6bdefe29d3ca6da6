//! Ranks that are GPUs of this machine, over NCCL. No machine with two GPUs has run this yet.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};
use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};
use tch::{Device, Kind, TchError, Tensor};

use crate::ModelError;
use crate::collective::{Collective, Pending};

/// How long a call of NCCL may take before it is ended from another thread.
const PATIENCE: Duration = Duration::from_secs(10);

/// One rank's communicator.
struct Communicator {
    handle: ncclComm_t,
    /// Held during calls that use the communicator: one at a time may.
    calling: Mutex<()>,
    /// Whether it was aborted, and is no more.
    is_over: AtomicBool,
}

// SAFETY: NCCL's communicators may be used by any thread, one at a time; `calling` sees to that.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

/// What all ranks share.
struct Group {
    communicators: Vec<Communicator>,
    launches: Mutex<Launches>,
    /// All ranks have started an exchange, or one gave up.
    news: Condvar,
}

/// How far the ranks are.
#[derive(Default)]
struct Launches {
    /// Ranks that have started the next exchange.
    started: usize,
    /// Exchanges that all have started.
    done: u64,
    /// The rank that gave up, and why.
    lost: Option<(usize, String)>,
}

/// One rank. Exchanges have a stream of their own beside libtorch's, which is the device's default one; so they go on while libtorch computes.
pub(crate) struct Nccl {
    group: Arc<Group>,
    rank: usize,
    compute: Arc<CudaStream>,
    exchange: Arc<CudaStream>,
}

type Operation = unsafe fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t) -> Result<NcclStatus, NcclError>;

unsafe fn sum_and_scatter(
    from: *const c_void,
    to: *mut c_void,
    share: usize,
    kind: ncclDataType_t,
    communicator: ncclComm_t,
    stream: cudaStream_t,
) -> Result<NcclStatus, NcclError> {
    // SAFETY: the caller's.
    unsafe { result::reduce_scatter(from, to, share, kind, ncclRedOp_t::ncclSum, communicator, stream) }
}

unsafe fn sum_up(
    from: *const c_void,
    to: *mut c_void,
    len: usize,
    kind: ncclDataType_t,
    communicator: ncclComm_t,
    stream: cudaStream_t,
) -> Result<NcclStatus, NcclError> {
    // SAFETY: the caller's.
    unsafe { result::all_reduce(from, to, len, kind, ncclRedOp_t::ncclSum, communicator, stream) }
}

impl Nccl {
    /// One rank per GPU of these numbers, all different.
    ///
    /// # Errors
    /// [`ModelError::Nccl`] says what is missing.
    pub(crate) fn connect(gpus: &[usize]) -> Result<Vec<Self>, ModelError> {
        if !is_present() {
            let advice =
                "with torch 2.11.0 for python3, `make setup` links it; or put a link of that name to a libnccl.so.2 on LD_LIBRARY_PATH";
            return Err(ModelError::Nccl(format!("libnccl.so does not load; {advice}")));
        }
        let id = result::get_uniqueid().map_err(nccl)?;
        let streams = gpus.iter().map(|&gpu| streams(gpu)).collect::<Result<Vec<_>, _>>().map_err(driver)?;
        let communicators = thread::scope(|scope| {
            let contexts = streams.iter().map(|(compute, _)| compute.context().clone()).enumerate();
            let started: Vec<_> =
                contexts.map(|(rank, context)| scope.spawn(move || communicator(rank, gpus.len(), id, &context))).collect();
            let ended = |thread: thread::ScopedJoinHandle<'_, Result<Communicator, ModelError>>| {
                thread.join().unwrap_or_else(|_| Err(ModelError::Nccl("a thread panicked while connecting".to_owned())))
            };
            started.into_iter().map(ended).collect::<Result<Vec<_>, _>>()
        })?;
        let group = Arc::new(Group { communicators, launches: Mutex::default(), news: Condvar::new() });
        let rank = |(rank, (compute, exchange))| Self { group: group.clone(), rank, compute, exchange };
        Ok(streams.into_iter().enumerate().map(rank).collect())
    }

    /// Starts `operation` on `len` elements as soon as libtorch's work so far is done, and waits until all ranks have started it.
    ///
    /// NCCL's kernels wait for each other on the GPUs. A rank that went on alone could call what waits for its GPU, such as an allocation, while it holds
    /// what another rank needs to start its own kernel, and both would wait for ever.
    fn start(&self, operation: Operation, from: Tensor, to: Tensor, len: usize) -> Result<Pending<'_>, ModelError> {
        let kind = kind(&from).map_err(ModelError::torch)?;
        self.exchange.join(&self.compute).map_err(driver)?;
        let communicator = &self.group.communicators[self.rank];
        {
            let _calling = locked(&communicator.calling);
            self.group.check()?;
            let stream = self.exchange.cu_stream().cast();
            // SAFETY: both tensors are contiguous, on this rank's GPU, of this kind, and long enough for `len` elements as the operation counts
            // them; they live until the exchange's stream is done or libtorch's waits for the end. Nothing was aborted, and the lock keeps it so.
            unsafe { operation(from.data_ptr(), to.data_ptr(), len, kind, communicator.handle, stream) }.map_err(nccl)?;
        }
        let done = self.exchange.record_event(None).map_err(|error| {
            // the tensors go now, so nothing may work on them
            _ = self.exchange.synchronize();
            driver(error)
        })?;
        let under_way = UnderWay { _from: from, to, done, compute: self.compute.clone() };
        self.group.meet()?;
        Ok(Pending::new(move || {
            under_way.compute.wait(&under_way.done).map_err(driver)?;
            Ok(under_way.to.shallow_clone())
        }))
    }
}

/// An exchange's tensors. They are given back only behind its end, whether somebody waits for that or not: libtorch uses memory again in the order
/// of its own stream.
struct UnderWay {
    _from: Tensor,
    to: Tensor,
    done: CudaEvent,
    compute: Arc<CudaStream>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // there is nothing to do if that fails
        _ = self.compute.wait(&self.done);
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.group.communicators.len()
    }

    fn all_gather(&self, share: Tensor) -> Result<Pending<'_>, ModelError> {
        let len = share.numel();
        let whole = empty(&share, len * self.size()).map_err(ModelError::torch)?;
        self.start(result::all_gather, share, whole, len)
    }

    fn reduce_scatter(&self, whole: Tensor) -> Result<Pending<'_>, ModelError> {
        let len = whole.numel() / self.size();
        let share = empty(&whole, len).map_err(ModelError::torch)?;
        self.start(sum_and_scatter, whole, share, len)
    }

    fn all_reduce(&self, values: Tensor) -> Result<Tensor, ModelError> {
        let len = values.numel();
        let sum = empty(&values, len).map_err(ModelError::torch)?;
        self.start(sum_up, values, sum, len)?.finish()
    }

    fn check(&self) -> Result<(), ModelError> {
        self.group.check()
    }

    fn abort(&self, reason: &str) {
        locked(&self.group.launches).lost.get_or_insert((self.rank, reason.to_owned()));
        self.group.news.notify_all();
        self.group.abort();
    }
}

impl Launches {
    fn check(&self) -> Result<(), ModelError> {
        self.lost.clone().map_or(Ok(()), |(rank, reason)| Err(ModelError::RankLost { rank, reason }))
    }
}

impl Group {
    fn check(&self) -> Result<(), ModelError> {
        locked(&self.launches).check()
    }

    /// Waits until all ranks are here.
    fn meet(&self) -> Result<(), ModelError> {
        let mut launches = locked(&self.launches);
        let number = launches.done;
        launches.started += 1;
        if launches.started == self.communicators.len() {
            launches.started = 0;
            launches.done += 1;
            self.news.notify_all();
        }
        while launches.done == number {
            launches.check()?;
            launches = self.news.wait(launches).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Ends what is on its way, on every GPU.
    fn abort(&self) {
        self.communicators.iter().for_each(Communicator::abort);
    }
}

impl Communicator {
    /// Ends what is on its way, also a call that is still within NCCL after [`PATIENCE`]: it waits there for another rank, and this is what frees it.
    fn abort(&self) {
        let start = Instant::now();
        let _calling = loop {
            match self.calling.try_lock() {
                Ok(calling) => break Some(calling),
                Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if start.elapsed() > PATIENCE => break None,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
            }
        };
        if !self.is_over.swap(true, Ordering::Relaxed) {
            // SAFETY: it is aborted once, and `check` keeps everybody from using it afterwards: `lost` was set before, or nobody is left. There is
            // nothing to do if that fails.
            _ = unsafe { result::comm_abort(self.handle) };
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Whether NCCL can be loaded; without it every other call of it would panic.
fn is_present() -> bool {
    // SAFETY: loads and unloads NVIDIA's own library, whose initializers may run at any time.
    unsafe { cudarc::nccl::sys::is_culib_present() }
}

/// libtorch's stream of a GPU, and one for exchanges.
fn streams(gpu: usize) -> Result<(Arc<CudaStream>, Arc<CudaStream>), DriverError> {
    // the device's primary context, which libtorch uses too
    let context = CudaContext::new(gpu)?;
    Ok((context.default_stream(), context.new_stream()?))
}

/// Waits for all other ranks to do the same.
fn communicator(rank: usize, size: usize, id: ncclUniqueId, context: &CudaContext) -> Result<Communicator, ModelError> {
    context.bind_to_thread().map_err(driver)?;
    let mut handle = std::ptr::null_mut();
    // SAFETY: `handle` is valid for one write, and every rank below `size` calls this with the same id.
    unsafe { result::comm_init_rank(&mut handle, size as i32, id, rank as i32) }.map_err(nccl)?;
    Ok(Communicator { handle, calling: Mutex::default(), is_over: AtomicBool::new(false) })
}

fn kind(tensor: &Tensor) -> Result<ncclDataType_t, TchError> {
    match tensor.kind() {
        Kind::Float => Ok(ncclDataType_t::ncclFloat32),
        Kind::BFloat16 => Ok(ncclDataType_t::ncclBfloat16),
        Kind::Double => Ok(ncclDataType_t::ncclFloat64),
        other => Err(TchError::Kind(format!("{other:?} is not exchanged"))),
    }
}

fn empty(like: &Tensor, len: usize) -> Result<Tensor, TchError> {
    debug_assert!(like.device() != Device::Cpu, "NCCL reads a GPU's memory");
    Tensor::f_empty([len as i64], (like.kind(), like.device()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nccl(NcclError(code): NcclError) -> ModelError {
    ModelError::Nccl(format!("{code:?}; NCCL_DEBUG=WARN says more"))
}

fn driver(error: DriverError) -> ModelError {
    ModelError::Nccl(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A group of ranks without communicators.
    fn group(size: usize) -> Group {
        let communicator = || Communicator { handle: std::ptr::null_mut(), calling: Mutex::default(), is_over: AtomicBool::new(true) };
        Group { communicators: (0..size).map(|_| communicator()).collect(), launches: Mutex::default(), news: Condvar::new() }
    }

    #[test]
    fn no_rank_goes_on_before_all_have_started() {
        let (group, started) = (group(3), AtomicUsize::new(0));
        let rank = || {
            for round in 0..1000 {
                started.fetch_add(1, Ordering::SeqCst);
                group.meet().unwrap();
                assert!(started.load(Ordering::SeqCst) >= 3 * (round + 1));
            }
        };
        thread::scope(|scope| (0..3).for_each(|_| _ = scope.spawn(rank)));
    }

    #[test]
    fn a_rank_that_gives_up_frees_those_that_wait() {
        let group = group(3);
        thread::scope(|scope| {
            let waiting = [(); 2].map(|()| scope.spawn(|| group.meet()));
            while locked(&group.launches).started < 2 {
                thread::yield_now();
            }
            locked(&group.launches).lost = Some((2, "no memory".into()));
            group.news.notify_all();
            group.abort();
            let expected = ModelError::RankLost { rank: 2, reason: "no memory".into() };
            waiting.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Err(expected.clone())));
            assert_eq!(group.check(), Err(expected));
        });
    }

    #[test]
    fn nccl_answers_or_is_named() {
        if is_present() {
            result::get_uniqueid().unwrap();
        } else {
            let error = Nccl::connect(&[0, 1]).err().unwrap().to_string();
            assert!(error.contains("libnccl.so.2") && error.contains("LD_LIBRARY_PATH"), "{error}");
        }
    }
}
