//! Where tensors live. One binary serves CPU and GPU: libtorch's CUDA half is looked for and loaded at run time.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::{Mutex, Once, PoisonError};

use crate::{ModelError, ffi};

/// Names the `libtorch_cuda.so` to load (the file, or its folder); without it, `python3`'s torch is asked once a GPU is wanted.
pub const CUDA_LIBRARY_VARIABLE: &str = "TRIBUTARY_LIBTORCH_CUDA";

/// A processor that runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// This machine's processor, in f32.
    Cpu,
    /// The CUDA device of this index: f32 master weights, bf16 arithmetic.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        match text.split_once(':') {
            None if text == "cpu" => Some(Self::Cpu),
            None if text == "cuda" => Some(Self::Cuda(0)),
            Some(("cuda", index)) if index.bytes().all(|b| b.is_ascii_digit()) => index.parse().ok().map(Self::Cuda),
            _ => None,
        }
        .ok_or_else(|| ModelError::UnknownDevice(text.to_owned()))
    }
}

impl Device {
    /// The first CUDA device if one can be used, else the CPU.
    pub fn best() -> Self {
        if Self::Cuda(0).available() { Self::Cuda(0) } else { Self::Cpu }
    }

    /// Whether tensors can be put here. Asking for a CUDA device loads libtorch's CUDA half.
    pub fn available(self) -> bool {
        self.prepare().is_ok()
    }

    /// The hardware's name, e.g. `NVIDIA H200`; for a processor, what the operating system calls it.
    pub fn device_name(self) -> String {
        let name = match self {
            Self::Cpu => processor_name(),
            Self::Cuda(index) => ffi::cuda_device_name(index),
        };
        name.unwrap_or_else(|| self.to_string())
    }

    /// Must come before any torch call of a thread that will use the device: libtorch settles at its first call whether CUDA exists.
    ///
    /// # Errors
    /// [`ModelError::Unavailable`] says what is missing.
    pub(crate) fn prepare(self) -> Result<tch::Device, ModelError> {
        let refused = |reason: String| ModelError::Unavailable { device: self, reason };
        load_cuda(self).map_err(refused)?;
        let Self::Cuda(index) = self else {
            static ONCE: Once = Once::new();
            ONCE.call_once(ffi::keep_freed_memory);
            return Ok(tch::Device::Cpu);
        };
        let found = tch::Cuda::device_count();
        if index >= usize::try_from(found).unwrap_or(0) {
            let hint = "if the machine has more, name the GPU before anything runs on the CPU, and see that driver and libtorch fit";
            return Err(refused(format!("libtorch sees {found} CUDA devices; {hint}")));
        }
        Ok(tch::Device::Cuda(index))
    }
}

/// Devices that train one model together: one, several GPUs, or the CPU several times over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(Vec<Device>);

impl Devices {
    /// At least one, in the order of their ranks.
    pub fn as_slice(&self) -> &[Device] {
        &self.0
    }
}

impl From<Device> for Devices {
    fn from(device: Device) -> Self {
        Self(vec![device])
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(Device::to_string).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for Devices {
    type Err = ModelError;

    /// `cpu`, `cuda`, `cuda:1`, or several with commas between them; a GPU's number alone will do: `0,1,2,3`.
    fn from_str(text: &str) -> Result<Self, ModelError> {
        let number = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
        let device = |name: &str| if number(name) { format!("cuda:{name}").parse() } else { name.parse() };
        let devices: Vec<Device> = text.split(',').map(device).collect::<Result<_, _>>()?;
        let refused = |reason| Err(ModelError::Devices { devices: text.to_owned(), reason });
        let gpus: HashSet<_> = devices.iter().filter(|device| **device != Device::Cpu).collect();
        match gpus.len() {
            0 => Ok(Self(devices)),
            found if found == devices.len() => Ok(Self(devices)),
            _ if devices.contains(&Device::Cpu) => refused("the CPU computes otherwise than a GPU; name devices of one kind"),
            _ => refused("a GPU is named twice; name each once"),
        }
    }
}

/// Uses `threads` threads for every operation of this process on the CPU. Several processes on one machine want 1 each:
/// the threads of one operation wait actively for one another.
pub fn set_threads(threads: u16) {
    tch::set_num_threads(i32::from(threads.max(1)));
}

fn processor_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// Loads libtorch's CUDA half once per process, if the environment names it or a CUDA device is wanted.
fn load_cuda(device: Device) -> Result<(), String> {
    static LOADED: Mutex<Option<Result<(), String>>> = Mutex::new(None);
    let named = std::env::var_os(CUDA_LIBRARY_VARIABLE).map(PathBuf::from);
    if device == Device::Cpu && named.is_none() {
        return Ok(());
    }
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    loaded.get_or_insert_with(|| find_cuda(named).and_then(|library| load_library(&library))).clone()
}

fn load_library(library: &Path) -> Result<(), String> {
    ffi::load_globally(library).map_err(|why| format!("{} does not load: {why}", library.display()))
}

fn find_cuda(named: Option<PathBuf>) -> Result<PathBuf, String> {
    const FILE: &str = "libtorch_cuda.so";
    if let Some(path) = named {
        return Ok(if path.is_dir() { path.join(FILE) } else { path });
    }
    if !ffi::has_cuda_driver() {
        return Err("there is no NVIDIA driver (libcuda.so.1); use `cpu`".into());
    }
    let script = "import torch,os;print(os.path.join(os.path.dirname(torch.__file__),'lib'))";
    let advice = format!("install torch 2.11.0 for python3, or name {FILE} in {CUDA_LIBRARY_VARIABLE}");
    let answer = Command::new("python3").args(["-c", script]).output().map_err(|why| format!("python3 does not run ({why}); {advice}"))?;
    if !answer.status.success() {
        return Err(format!("python3 has no torch; {advice}"));
    }
    Ok(Path::new(String::from_utf8_lossy(&answer.stdout).trim()).join(FILE))
}
