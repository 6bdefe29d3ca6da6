//! What is foreign to this crate: the driver and NVRTC, device memory, launches.

use std::env;
use std::ffi::{CString, c_char, c_void};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::{
    CU_MEMHOSTALLOC_DEVICEMAP, CU_MEMHOSTALLOC_PORTABLE, CUdevice_attribute as Attribute, CUevent_flags, CUresult, cuDriverGetVersion,
    cuMemcpyAsync,
};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig, PushKernelArg, result as driver};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use crate::KernelError;
use crate::device::{Device, DeviceInfo};
use crate::image::Arch;
use crate::machine::{Argument, Machine, Memory, Place, block};

/// An event that tells when it was reached.
const WITH_TIME: CUevent_flags = CUevent_flags::CU_EVENT_DEFAULT;

/// Whether the driver's library can be loaded; without it every other call of the driver would panic.
pub(crate) fn driver_is_present() -> bool {
    // SAFETY: loads and unloads NVIDIA's own library, whose initializers may run at any time.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// The newest CUDA version that the driver knows, times 1000. The driver must be present.
pub(crate) fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: `version` is valid for one write.
    unsafe { cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
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

/// Makes a context the thread's. What went wrong where nobody could be told it, the first call tells and forgets.
fn bind(context: &CudaContext) {
    if context.bind_to_thread().is_err() {
        _ = context.bind_to_thread();
    }
}

/// Memory of the device.
struct OnDevice {
    slice: CudaSlice<u8>,
    /// What was copied there.
    bytes: Vec<u8>,
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        // the slice is given back in the order of the thread's context, which may be another device's, or none
        bind(self.slice.context());
        // the copy may be under way; there is nothing to do if waiting fails
        if !self.bytes.is_empty() {
            _ = self.slice.stream().synchronize();
        }
    }
}

/// Page-locked memory of the host.
struct Pinned {
    first: *mut c_void,
    stream: Arc<CudaStream>,
}

// SAFETY: the memory is this process's, and no thread's more than another's.
unsafe impl Send for Pinned {}
// SAFETY: as above; nothing is reached through a shared reference but its address.
unsafe impl Sync for Pinned {}

impl Drop for Pinned {
    fn drop(&mut self) {
        bind(self.stream.context());
        // what is under way may still use it; there is nothing to do if waiting or freeing fails
        _ = self.stream.synchronize();
        // SAFETY: it was allocated in this context and is not used after this.
        _ = unsafe { driver::free_host(self.first) };
    }
}

fn pinned(stream: &Arc<CudaStream>, bytes: usize) -> Result<Memory, KernelError> {
    stream.context().bind_to_thread()?;
    // the driver has no memory of no bytes
    let size = bytes.max(1);
    // SAFETY: the memory is filled with zeros before anybody reads it.
    let first = unsafe { driver::malloc_host(size, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP) };
    let first = first.map_err(|error| match error {
        DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => KernelError::OutOfHostMemory,
        error => error.into(),
    })?;
    // SAFETY: the driver has just allocated so many bytes there.
    unsafe { first.cast::<u8>().write_bytes(0, size) };
    // one address space: the device knows it by the same address
    Ok(Memory {
        address: first.expose_provenance() as u64,
        bytes,
        place: Place::Host,
        _owner: Box::new(Pinned { first, stream: stream.clone() }),
    })
}

fn on_device(stream: &Arc<CudaStream>, bytes: usize) -> Result<Memory, DriverError> {
    let slice: CudaSlice<u8> = stream.alloc_zeros(bytes.max(1))?;
    let address = slice.device_ptr(stream).0;
    Ok(Memory { address, bytes, place: Place::Device, _owner: Box::new(OnDevice { slice, bytes: Vec::new() }) })
}

/// Memory of the device with these bytes. They are kept as long: the driver may read them late.
pub(crate) fn put(stream: &Arc<CudaStream>, bytes: Vec<u8>) -> Result<Memory, DriverError> {
    // SAFETY: all of it is overwritten next, or there is nothing to read.
    let slice: CudaSlice<u8> = unsafe { stream.alloc(bytes.len().max(1))? };
    let (address, len) = (slice.device_ptr(stream).0, bytes.len());
    let owner = OnDevice { slice, bytes };
    stream.context().bind_to_thread()?;
    // SAFETY: the slice has as many bytes, and `owner` keeps them until the copy has ended.
    unsafe { driver::memcpy_htod_async(address, &owner.bytes, stream.cu_stream())? };
    Ok(Memory { address, bytes: len, place: Place::Device, _owner: Box::new(owner) })
}

impl Machine for Device {
    fn zeros(&self, bytes: usize, place: Place) -> Result<Memory, KernelError> {
        Ok(match place {
            Place::Device => on_device(&self.stream, bytes)?,
            Place::Host => pinned(&self.stream, bytes)?,
        })
    }

    fn put(&self, bytes: Vec<u8>) -> Result<Memory, KernelError> {
        Ok(put(&self.stream, bytes)?)
    }

    fn write(&self, memory: &Memory, at: usize, bytes: &[u8]) -> Result<(), KernelError> {
        self.context.bind_to_thread()?;
        match memory.place {
            // SAFETY: `memory` has these bytes; the copy is in the order of the default stream, which is this one, and read `bytes` when it returns.
            Place::Device => unsafe { driver::memcpy_htod_sync(memory.at(at, bytes.len()), bytes)? },
            Place::Host => {
                self.stream.synchronize()?;
                // SAFETY: `memory` has these bytes, and no kernel is at work that could use them.
                unsafe { memory.pointer(at, bytes.len()).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            }
        }
        Ok(())
    }

    unsafe fn copy(&self, memory: &Memory, at: usize, from: u64, len: usize) -> Result<(), KernelError> {
        self.context.bind_to_thread()?;
        // SAFETY: `memory` has these bytes, in the one address space of host and devices; the caller vouches for `from`.
        Ok(unsafe { cuMemcpyAsync(memory.at(at, len), from, len, self.stream.cu_stream()) }.result()?)
    }

    fn read(&self, memory: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), KernelError> {
        self.context.bind_to_thread()?;
        match memory.place {
            // SAFETY: `memory` has these bytes; the copy is in the order of the default stream, which is this one, and has ended when it returns.
            Place::Device => unsafe { driver::memcpy_dtoh_sync(bytes, memory.at(at, bytes.len()))? },
            Place::Host => {
                self.stream.synchronize()?;
                // SAFETY: `memory` has these bytes, and no kernel is at work that could change them.
                unsafe { memory.pointer(at, bytes.len()).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
            }
        }
        Ok(())
    }

    fn left(&self) -> Result<usize, KernelError> {
        Ok(self.context.mem_get_info()?.0)
    }

    fn tables(&self) -> &Memory {
        &self.tables
    }

    unsafe fn run(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), KernelError> {
        self.context.bind_to_thread()?;
        let function = self.module.load_function(kernel)?;
        let mut launch = self.stream.launch_builder(&function);
        for argument in arguments {
            match argument {
                Argument::Address(address) => launch.arg(address),
                Argument::U32(value) => launch.arg(value),
                Argument::F32(value) => launch.arg(value),
            };
        }
        let shape = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (block(kernel), 1, 1), shared_mem_bytes: 0 };
        let event =
            || if self.is_measuring.load(Ordering::Relaxed) { self.stream.record_event(Some(WITH_TIME)).map(Some) } else { Ok(None) };
        let begin = event()?;
        // SAFETY: the caller vouches for the arguments, and `kernel` has blocks of so many threads and no dynamic shared memory.
        unsafe { launch.launch(shape)? };
        if let Some(run) = begin.zip(event()?) {
            *self.last_run.lock().unwrap_or_else(PoisonError::into_inner) = Some(run);
        }
        Ok(())
    }

    fn measure(&self) {
        self.is_measuring.store(true, Ordering::Relaxed);
    }

    fn last_run(&self) -> Result<Option<Duration>, KernelError> {
        let last_run = self.last_run.lock().unwrap_or_else(PoisonError::into_inner);
        let milliseconds = last_run.as_ref().map(|(begin, end)| begin.elapsed_ms(end)).transpose()?;
        Ok(milliseconds.map(|milliseconds| Duration::from_secs_f64(f64::from(milliseconds) / 1e3)))
    }
}
