//! The devices of this machine, and the kernels on one of them.

use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[cfg(doc)]
use compression::TransitionError;
use compression::{Format, Header, Rule, Weighted};
use cudarc::driver::{CudaContext, CudaEvent, CudaModule, CudaStream};

use crate::apply::{self, Theta};
use crate::encode::{self, PseudoGradient};
use crate::image::{Arch, cached, compile};
use crate::machine::{Machine, Memory};
use crate::{KernelError, floor};

/// The CUDA version of NVRTC, whose images older drivers do not load; as [`KernelError::OldDriver`] has it.
const OLDEST_DRIVER: i32 = 13_000;

/// A CUDA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As the driver calls it.
    pub name: String,
    /// Its architecture.
    pub arch: Arch,
    /// Its memory in bytes.
    pub memory: usize,
}

/// The devices of this machine in the driver's order, which numbers them from 0. None if the driver is missing or fails;
/// [`Kernels::load`] says why.
pub fn devices() -> Vec<DeviceInfo> {
    if floor::driver_is_present() { floor::devices().unwrap_or_default() } else { Vec::new() }
}

/// The kernels, loaded on one device.
///
/// They share the device's primary context with libtorch, and work on its default stream, which is libtorch's current one unless somebody changes that: what
/// libtorch was asked for before is done before, what it is asked for afterwards is done afterwards.
#[derive(Clone)]
pub struct Kernels {
    pub(crate) machine: Arc<dyn Machine>,
}

/// A device with the kernels on it.
pub(crate) struct Device {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub module: Arc<CudaModule>,
    /// [`compression::SIGN2`], then [`compression::SIGN1`].
    pub tables: Memory,
    /// Whether kernels are measured; before and after the last one.
    pub is_measuring: AtomicBool,
    pub last_run: Mutex<Option<(CudaEvent, CudaEvent)>>,
}

impl Drop for Device {
    fn drop(&mut self) {
        // no kernel is under way when its code is unloaded; there is nothing to do if waiting fails
        _ = self.stream.synchronize();
    }
}

impl Kernels {
    /// [`Kernels::load`], once per process and device; images are kept in `$XDG_CACHE_HOME/tributary` or `~/.cache/tributary`, if something can be.
    ///
    /// # Errors
    /// As [`Kernels::load`], but for [`KernelError::Cache`].
    pub fn shared(device: usize) -> Result<Self, KernelError> {
        static LOADED: Mutex<BTreeMap<usize, Kernels>> = Mutex::new(BTreeMap::new());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernels) = loaded.get(&device) {
            return Ok(kernels.clone());
        }
        let kernels = match Self::load(device, cache_folder().as_deref()) {
            Err(KernelError::Cache { .. }) => Self::load(device, None),
            other => other,
        }?;
        loaded.insert(device, kernels.clone());
        Ok(kernels)
    }

    /// Compiles the kernels for device number `device`, or takes their image from the folder `cache`, and loads them. A cached image needs no NVRTC.
    ///
    /// # Errors
    /// [`KernelError::NoDriver`], [`KernelError::OldDriver`], [`KernelError::NoDevice`], [`KernelError::NoNvrtc`], [`KernelError::Compile`], [`KernelError::Cache`] or
    /// [`KernelError::Driver`].
    pub fn load(device: usize, cache: Option<&Path>) -> Result<Self, KernelError> {
        if !floor::driver_is_present() {
            return Err(KernelError::NoDriver);
        }
        let version = floor::driver_version()?;
        if version < OLDEST_DRIVER {
            return Err(KernelError::OldDriver { version });
        }
        let devices = floor::devices()?;
        let info = devices.get(device).ok_or(KernelError::NoDevice { device, found: devices.len() })?;
        let image = cache.map_or_else(|| compile(info.arch), |cache| cached(info.arch, cache, compile))?;
        let context = CudaContext::new(device)?;
        // SAFETY: all memory of this context is used on one stream, whose order is all that events would tell.
        unsafe { context.disable_event_tracking() };
        let module = context.load_module(cudarc::nvrtc::Ptx::from_binary(image))?;
        let stream = context.default_stream();
        let tables = floor::put(&stream, tables())?;
        Ok(Self {
            machine: Arc::new(Device { context, stream, module, tables, is_measuring: AtomicBool::new(false), last_run: Mutex::default() }),
        })
    }

    /// From now on the device measures how long kernels take.
    pub fn measure(&self) {
        self.machine.measure();
    }

    /// How long the device worked on the last kernel; `None` if nothing was measured.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub fn last_run(&self) -> Result<Option<Duration>, KernelError> {
        self.machine.last_run()
    }

    /// [`compression::encode_to`] on the device, bit for bit, without the pseudo-gradient ever leaving it: what comes back is the payload, about
    /// 0.02 bytes per parameter.
    ///
    /// With error feedback in bf16, e is rounded when it is kept; a pseudo-gradient whose next e would not be finite then is refused.
    ///
    /// # Errors
    /// [`KernelError::Codec`], [`KernelError::Layout`], [`KernelError::Float`], [`KernelError::TooManyChunks`] or [`KernelError::Driver`] before anything
    /// changes. [`KernelError::Encode`] if the pseudo-gradient is not finite: then `next_feedback` is void, and if it is `feedback` too, the error feedback
    /// has to be read back from where it was last kept; or if `write` fails, after the error feedback moved on.
    pub fn encode_to<W: Write>(
        &self,
        write: W,
        format: &Format,
        header: &Header,
        gradient: &PseudoGradient,
        beta: f32,
    ) -> Result<W, KernelError> {
        encode::encode_to(&*self.machine, write, format, header, gradient, beta)
    }

    /// The step of [`compression::transition`] on θ in the device's memory, bit for bit.
    ///
    /// # Errors
    /// [`KernelError::Transition`] for payloads of several formats or a weight that is not finite and above zero, [`KernelError::Layout`],
    /// [`KernelError::Float`], [`KernelError::Lossy`], [`KernelError::TooManyChunks`] or [`KernelError::Driver`] before anything changes.
    /// [`TransitionError::NonFinite`] afterwards: the record is void, and θ has to be read back from where it was last kept.
    pub fn step(&self, theta: &Theta, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), KernelError> {
        apply::step(&*self.machine, theta, payloads, rule)
    }
}

fn cache_folder() -> Option<PathBuf> {
    let folder = |variable, below: &str| env::var_os(variable).filter(|path| !path.is_empty()).map(|path| Path::new(&path).join(below));
    folder("XDG_CACHE_HOME", "tributary").or_else(|| folder("HOME", ".cache/tributary"))
}

/// What each (quantizer, scale code, value code) decodes to, f32.
pub(crate) fn tables() -> Vec<u8> {
    let values = [compression::SIGN2, compression::SIGN1];
    values.as_flattened().as_flattened().iter().flat_map(|value| value.to_le_bytes()).collect()
}
