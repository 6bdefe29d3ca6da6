//! The kernels' source as a library for this machine's CPU, which works on this process's own memory. For tests of what uses the kernels.

use std::ffi::{CStr, CString, c_char, c_void};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::image::SOURCE;
use crate::machine::{Argument, Machine, Memory, Place};
use crate::{KernelError, Kernels, cpp, device};

type RunKernel = unsafe extern "C" fn(*const c_char, u64, *const u64) -> *const c_char;

/// The library's `run_kernel`, loaded once in a process. It takes one call at a time: the shim's state is the process's.
static RUN_KERNEL: Mutex<Option<RunKernel>> = Mutex::new(None);

struct Emulation {
    run_kernel: RunKernel,
    tables: Memory,
}

impl Kernels {
    /// The kernels on this machine's CPU, compiled by its C++ compiler (`CXX`, or `c++`): slow, and the same bits.
    ///
    /// # Errors
    /// If there is no compiler, or it fails.
    pub fn emulated() -> io::Result<Self> {
        let mut loaded = RUN_KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
        let run_kernel = match *loaded {
            Some(run_kernel) => run_kernel,
            None => *loaded.insert(load()?),
        };
        let emulation = Emulation { run_kernel, tables: zeros(0, Place::Device) };
        let tables = emulation.put(device::tables()).map_err(io::Error::other)?;
        Ok(Self { machine: Arc::new(Emulation { tables, ..emulation }) })
    }
}

fn load() -> io::Result<RunKernel> {
    let folder = tempfile::tempdir()?;
    let library = ("library.cpp", include_str!("../host/library.cpp"));
    cpp::build(folder.path(), SOURCE, &[library], "-O2 -fPIC -shared library.cpp -o kernels.so")?;
    let path = CString::new(folder.path().join("kernels.so").into_os_string().into_encoded_bytes())?;
    // SAFETY: both names are C strings; the library was made from this crate's sources and runs nothing when it is loaded, for good.
    let found = unsafe { libc::dlsym(libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL), c"run_kernel".as_ptr()) };
    if found.is_null() {
        return Err(io::Error::other("the library of the kernels cannot be loaded"));
    }
    // SAFETY: `host/library.cpp` gives `run_kernel` this type.
    Ok(unsafe { std::mem::transmute::<*mut c_void, RunKernel>(found) })
}

fn zeros(bytes: usize, place: Place) -> Memory {
    // in words as large as the kernels' largest loads, for their alignment
    let mut words = vec![0u128; bytes.div_ceil(size_of::<u128>())];
    Memory { address: words.as_mut_ptr().expose_provenance() as u64, bytes, place, _owner: Box::new(words) }
}

impl Machine for Emulation {
    fn zeros(&self, bytes: usize, place: Place) -> Result<Memory, KernelError> {
        Ok(zeros(bytes, place))
    }

    fn put(&self, bytes: Vec<u8>) -> Result<Memory, KernelError> {
        let memory = zeros(bytes.len(), Place::Device);
        self.write(&memory, 0, &bytes)?;
        Ok(memory)
    }

    fn write(&self, memory: &Memory, at: usize, bytes: &[u8]) -> Result<(), KernelError> {
        // SAFETY: `memory` has these bytes, reached by nobody but kernels, which have ended when `run` returns.
        unsafe { memory.pointer(at, bytes.len()).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn copy(&self, memory: &Memory, at: usize, from: u64, len: usize) -> Result<(), KernelError> {
        let from = std::ptr::with_exposed_provenance::<u8>(from as usize);
        // SAFETY: as for `write`; the caller vouches for `from`.
        unsafe { memory.pointer(at, len).copy_from(from, len) };
        Ok(())
    }

    fn read(&self, memory: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), KernelError> {
        // SAFETY: as for `write`.
        unsafe { memory.pointer(at, bytes.len()).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn left(&self) -> Result<usize, KernelError> {
        Ok(1 << 30)
    }

    fn tables(&self) -> &Memory {
        &self.tables
    }

    unsafe fn run(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), KernelError> {
        let words: Vec<u64> = arguments.iter().map(|argument| argument.word()).collect();
        let name = CString::new(kernel).expect("kernels' names have no zeros");
        let _alone = RUN_KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a C string and as many words as the kernel takes, for which the caller vouches; the lock keeps other calls away.
        let wrong = unsafe { (self.run_kernel)(name.as_ptr(), blocks.into(), words.as_ptr()) };
        // SAFETY: what is not null is a C string that lives until the next call.
        assert!(wrong.is_null(), "{kernel}: {}", unsafe { CStr::from_ptr(wrong) }.to_string_lossy());
        Ok(())
    }
}
