//! Where kernels run: a device, or in tests the CPU under the host shim. Both have memory with addresses, and run a kernel on it.

use crate::KernelError;

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
pub(crate) const NO_FAULT: u32 = u32::MAX;

/// The number of the part in which a kernel found a fault.
pub(crate) fn read_fault<M: Machine>(machine: &M, fault: &M::Memory) -> Result<Option<usize>, KernelError> {
    let bytes = machine.get(fault)?;
    let part = bytes.first_chunk().map_or(NO_FAULT, |bytes| u32::from_le_bytes(*bytes));
    Ok((part != NO_FAULT).then_some(part as usize))
}

/// What runs this crate's kernels. Everything happens in the order in which it was asked for.
pub(crate) trait Machine {
    /// Memory that is released when dropped.
    type Memory;

    /// Memory with these bytes, aligned for every type of the kernels.
    fn put(&self, bytes: &[u8]) -> Result<Self::Memory, KernelError>;

    /// Memory of so many zeros.
    fn zeros(&self, bytes: usize) -> Result<Self::Memory, KernelError>;

    fn address(&self, memory: &Self::Memory) -> u64;

    fn get(&self, memory: &Self::Memory) -> Result<Vec<u8>, KernelError>;

    /// The memory with [`compression::SIGN2`], then [`compression::SIGN1`].
    fn tables(&self) -> &Self::Memory;

    /// Runs a kernel.
    ///
    /// # Safety
    /// The arguments are those of the kernel of this name, in order and type. Every address among them, and in what they point to, is of memory of
    /// this machine that the kernel stays within, that lives until the kernel has ended and that nobody else uses until then; or null where the
    /// kernel allows it.
    unsafe fn run(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), KernelError>;
}
