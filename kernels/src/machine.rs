//! Where kernels run: a device, or the CPU under the host shim. Both have memory with addresses, and run a kernel on it.

use std::any::Any;
use std::time::Duration;

use crate::KernelError;

/// Threads of every block but the encoding kernels', the source's `THREADS`.
pub(crate) const THREADS: u32 = 256;

/// Threads of the encoding kernels' blocks, the source's `ENCODE_THREADS`.
const ENCODE_THREADS: u32 = 128;

/// Threads of a kernel's blocks.
pub(crate) fn block(kernel: &str) -> u32 {
    if kernel.starts_with("encode") { ENCODE_THREADS } else { THREADS }
}

/// Where memory lies that kernels work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With the device.
    Device,
    /// With the host, page-locked: kernels reach it over the bus.
    Host,
}

/// Memory of a machine, aligned for every type of the kernels; released when dropped.
pub(crate) struct Memory {
    pub address: u64,
    pub bytes: usize,
    pub place: Place,
    /// What releases it.
    pub _owner: Box<dyn Any + Send + Sync>,
}

impl Memory {
    /// The address of byte number `at`, behind which at least `len` bytes are this memory's.
    ///
    /// # Panics
    /// If they are not.
    pub fn at(&self, at: usize, len: usize) -> u64 {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.bytes), "{len} bytes from {at} on, of {}", self.bytes);
        self.address + at as u64
    }

    /// [`Memory::at`] for memory that this process reaches.
    pub fn pointer(&self, at: usize, len: usize) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.at(at, len) as usize)
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    /// Of memory.
    Address(u64),
    U32(u32),
    F32(f32),
}

/// The address that stands for no memory.
pub(crate) const NULL: u64 = 0;

/// What a kernel's fault is before it finds one: no part has this number.
const NO_FAULT: u32 = u32::MAX;

impl Argument {
    /// As a word of the host shim.
    #[cfg(any(test, feature = "emulation"))]
    pub fn word(self) -> u64 {
        match self {
            Self::Address(address) => address,
            Self::U32(value) => value.into(),
            Self::F32(value) => value.to_bits().into(),
        }
    }
}

/// What runs this crate's kernels. Everything happens in the order in which it was asked for.
pub(crate) trait Machine: Send + Sync {
    /// Memory of so many zeros.
    fn zeros(&self, bytes: usize, place: Place) -> Result<Memory, KernelError>;

    /// Memory of the device with these bytes.
    fn put(&self, bytes: Vec<u8>) -> Result<Memory, KernelError>;

    /// Overwrites the bytes from number `at` on, which `memory` has; waits for that.
    fn write(&self, memory: &Memory, at: usize, bytes: &[u8]) -> Result<(), KernelError>;

    /// Overwrites `len` bytes from number `at` on, which `memory` has, with those at an address of this machine.
    ///
    /// # Safety
    /// At `from` are so many bytes, which nobody else writes until the copy has ended, but for work that the machine's order puts behind it.
    unsafe fn copy(&self, memory: &Memory, at: usize, from: u64, len: usize) -> Result<(), KernelError>;

    /// Reads the bytes from number `at` on, which `memory` has.
    fn read(&self, memory: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), KernelError>;

    /// Bytes that [`Place::Device`] has left.
    fn left(&self) -> Result<usize, KernelError>;

    /// The memory with [`compression::SIGN2`], then [`compression::SIGN1`].
    fn tables(&self) -> &Memory;

    /// Runs a kernel.
    ///
    /// # Safety
    /// The arguments are those of the kernel of this name, in order and type. Every address among them, and in what they point to, is of memory of
    /// this machine that the kernel stays within, that lives until the kernel has ended and that nobody else uses until then; or null where the
    /// kernel allows it.
    unsafe fn run(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), KernelError>;

    /// Measures kernels from now on, if it can.
    fn measure(&self) {}

    /// How long the last kernel took, if that was measured.
    fn last_run(&self) -> Result<Option<Duration>, KernelError> {
        Ok(None)
    }

    /// All bytes of a memory.
    fn get(&self, memory: &Memory) -> Result<Vec<u8>, KernelError> {
        let mut bytes = vec![0; memory.bytes];
        self.read(memory, 0, &mut bytes)?;
        Ok(bytes)
    }
}

/// The lowest number of a part in which a kernel found a fault.
pub(crate) struct Fault(pub Memory);

impl Fault {
    /// None yet.
    pub fn none(machine: &dyn Machine) -> Result<Self, KernelError> {
        Ok(Self(machine.put(NO_FAULT.to_le_bytes().to_vec())?))
    }

    /// Waits for the kernel.
    pub fn read(&self, machine: &dyn Machine) -> Result<Option<usize>, KernelError> {
        let mut bytes = [0; 4];
        machine.read(&self.0, 0, &mut bytes)?;
        let part = u32::from_le_bytes(bytes);
        Ok((part != NO_FAULT).then_some(part as usize))
    }
}
