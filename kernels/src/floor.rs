//! Everything unsafe of this crate: foreign libraries, device memory, launches.

use std::env;
use std::ffi::{CString, c_char};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::{Once, PoisonError};

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUevent_flags, CUresult};
use cudarc::driver::{CudaSlice, DevicePtr, DriverError, LaunchConfig, PushKernelArg, result as driver};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use crate::KernelError;
use crate::device::{DeviceInfo, Kernels};
use crate::image::Arch;
use crate::machine::{Argument, Machine};

/// Threads of a block, the kernels' `THREADS`.
const THREADS: u32 = 256;

/// An event that tells when it was reached.
const WITH_TIME: CUevent_flags = CUevent_flags::CU_EVENT_DEFAULT;

/// Whether the driver's library can be loaded; without it every other call of the driver would panic.
pub(crate) fn driver_is_present() -> bool {
    // SAFETY: loads and unloads NVIDIA's own library, whose initializers may run at any time.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// Whether NVRTC can be loaded, from the library path or from the folder that TRIBUTARY_NVRTC names; without it [`compile`] would panic.
pub(crate) fn nvrtc_is_present() -> bool {
    static PRELOAD: Once = Once::new();
    PRELOAD.call_once(|| {
        if let Some(folder) = env::var_os("TRIBUTARY_NVRTC") {
            preload(Path::new(&folder));
        }
    });
    // SAFETY: loads and unloads NVIDIA's own library, whose initializers may run at any time.
    unsafe { nvrtc_sys::is_culib_present() }
}

/// Loads NVRTC and its built-in functions for good, so that loading them by name finds them later.
fn preload(folder: &Path) {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in files.filter(|path| path.file_name().is_some_and(is_nvrtc)) {
        if let Ok(path) = CString::new(path.into_os_string().into_vec()) {
            // SAFETY: `path` is a C string, and the user names this folder as that of NVIDIA's libraries, whose initializers may run at any time.
            unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        }
    }
}

fn is_nvrtc(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("libnvrtc.so") || name.starts_with("libnvrtc-builtins.so"))
}

/// The driver's devices. The driver must be present.
pub(crate) fn devices() -> Result<Vec<DeviceInfo>, DriverError> {
    match driver::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(Vec::new()),
        other => other.and_then(|()| (0..driver::device::get_count()?).map(device).collect()),
    }
}

fn device(ordinal: i32) -> Result<DeviceInfo, DriverError> {
    let device = driver::device::get(ordinal)?;
    // SAFETY: `device` comes from `get`.
    let attribute = |attribute| unsafe { driver::device::get_attribute(device, attribute) };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // SAFETY: `device` comes from `get`.
    let memory = unsafe { driver::device::total_mem(device)? };
    Ok(DeviceInfo { name: driver::device::get_name(device)?, arch: Arch((10 * major + minor).unsigned_abs()), memory })
}

/// An NVRTC program, released at the end.
struct Program(nvrtc_sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was created and is not used after this. There is nothing to do if that fails.
        let _ = unsafe { nvrtc::destroy_program(self.0) };
    }
}

/// A cubin from CUDA C++, or what NVRTC says instead. NVRTC must be present.
pub(crate) fn compile(source: &str, options: &[String]) -> Result<Vec<u8>, String> {
    let said = |error: nvrtc::NvrtcError| error.to_string();
    let source = CString::new(source).map_err(|error| error.to_string())?;
    let program = Program(nvrtc::create_program(&source, Some(c"kernels.cu")).map_err(said)?);
    // SAFETY: the program was created above and lives until the end of this function.
    if let Err(error) = unsafe { nvrtc::compile_program(program.0, options) } {
        // SAFETY: as above.
        let log = unsafe { nvrtc::get_program_log(program.0) }.unwrap_or_default();
        let log: Vec<u8> = log.into_iter().map(|c| c as u8).filter(|&byte| byte != 0).collect();
        return Err(format!("{error}: {}", String::from_utf8_lossy(&log).trim()));
    }
    let mut size = 0;
    // SAFETY: the program lives, and `size` is valid for one write.
    unsafe { nvrtc_sys::nvrtcGetCUBINSize(program.0, &mut size) }.result().map_err(said)?;
    let mut image = vec![0u8; size];
    // SAFETY: the program lives, and `image` has the number of bytes that NVRTC asked for.
    unsafe { nvrtc_sys::nvrtcGetCUBIN(program.0, image.as_mut_ptr().cast::<c_char>()) }.result().map_err(said)?;
    Ok(image)
}

impl Machine for Kernels {
    type Memory = CudaSlice<u8>;

    fn put(&self, bytes: &[u8]) -> Result<CudaSlice<u8>, KernelError> {
        Ok(self.stream.clone_htod(bytes)?)
    }

    fn zeros(&self, bytes: usize) -> Result<CudaSlice<u8>, KernelError> {
        Ok(self.stream.alloc_zeros(bytes)?)
    }

    fn address(&self, memory: &CudaSlice<u8>) -> u64 {
        memory.device_ptr(&self.stream).0
    }

    fn get(&self, memory: &CudaSlice<u8>) -> Result<Vec<u8>, KernelError> {
        Ok(self.stream.clone_dtoh(memory)?)
    }

    fn tables(&self) -> &CudaSlice<u8> {
        &self.tables
    }

    unsafe fn run(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), KernelError> {
        let function = self.module.load_function(kernel)?;
        let mut launch = self.stream.launch_builder(&function);
        for argument in arguments {
            match argument {
                Argument::Address(address) => launch.arg(address),
                Argument::U32(value) => launch.arg(value),
                Argument::F32(value) => launch.arg(value),
            };
        }
        let shape = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        let begin = self.stream.record_event(Some(WITH_TIME))?;
        // SAFETY: the caller vouches for the arguments, and every kernel has blocks of so many threads and no dynamic shared memory.
        unsafe { launch.launch(shape)? };
        let end = self.stream.record_event(Some(WITH_TIME))?;
        *self.last_run.lock().unwrap_or_else(PoisonError::into_inner) = Some((begin, end));
        Ok(())
    }
}
