//! The devices of this machine, and the kernels on one of them.

use std::path::Path;
use std::sync::Arc;

use compression::{Rule, State, Weighted};
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream};

use crate::image::{Arch, cached, compile};
use crate::{KernelError, floor, plan};

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
pub struct Kernels {
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) apply: CudaFunction,
    /// [`compression::SIGN2`], then [`compression::SIGN1`].
    pub(crate) tables: CudaSlice<f32>,
}

impl Kernels {
    /// Compiles the kernels for device number `device`, or takes their image from the folder `cache`, and loads them.
    ///
    /// They share the device's primary context, which libtorch uses too. A cached image needs no NVRTC.
    ///
    /// # Errors
    /// Every [`KernelError`] but [`KernelError::TooManyChunks`] and [`KernelError::Transition`].
    pub fn load(device: usize, cache: &Path) -> Result<Self, KernelError> {
        if !floor::driver_is_present() {
            return Err(KernelError::NoDriver);
        }
        let devices = floor::devices()?;
        let info = devices.get(device).ok_or(KernelError::NoDevice { device, found: devices.len() })?;
        let image = cached(info.arch, cache, compile)?;
        let context = CudaContext::new(device)?;
        let module = context.load_module(cudarc::nvrtc::Ptx::from_binary(image))?;
        let stream = context.default_stream();
        let tables = stream.clone_htod([compression::SIGN2, compression::SIGN1].as_flattened().as_flattened())?;
        Ok(Self { apply: module.load_function("apply")?, tables, stream })
    }

    /// [`compression::transition`] on the device, bit for bit: one tensor after the other is copied there and back.
    ///
    /// Norms and clip factors are computed on the host. The device holds all payloads and the largest tensor.
    ///
    /// # Errors
    /// [`KernelError::Transition`] as [`compression::transition`], [`KernelError::TooManyChunks`] or [`KernelError::Driver`]; the state is
    /// unchanged then.
    pub fn apply(&self, state: &mut State, payloads: &[Weighted<'_>], rule: &Rule) -> Result<(), KernelError> {
        plan::transition(self, state, payloads, rule)
    }
}
