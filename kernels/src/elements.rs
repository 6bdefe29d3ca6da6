//! Tensors in a device's memory that somebody else owns.

use compression::{Layout, LayoutError};

use crate::KernelError;

/// The type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// 4 bytes.
    F32,
    /// 2 bytes: the upper half of an f32. Values are rounded to nearest, ties to even.
    Bf16,
}

impl Float {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// The elements of one tensor, row-major and side by side, in a device's memory.
#[derive(Clone, Copy, Debug)]
pub struct Elements {
    address: u64,
    len: usize,
    float: Float,
}

impl Elements {
    /// `len` elements from a device address on, which is a multiple of an element's size. Kernels are fastest where it is one of 16.
    ///
    /// # Safety
    /// Until the last call that these elements are given to has returned, or, of a call that waits for nothing ([`crate::Shard::begin`],
    /// [`crate::Shard::encode`]), until what it started has ended, the memory is the device's and nobody else reads what the call writes or writes what it
    /// reads, but for work, and for giving it back, that the same stream orders behind.
    pub unsafe fn new(address: u64, len: usize, float: Float) -> Self {
        Self { address, len, float }
    }

    /// The address of element number `element`.
    pub(crate) fn address_of(&self, element: usize) -> u64 {
        self.address + (element * self.float.bytes()) as u64
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Their type.
    pub fn float(&self) -> Float {
        self.float
    }
}

/// Whether tensors have the layout's lengths and this type.
pub(crate) fn check_tensors(layout: &Layout, tensors: &[Elements], float: Float) -> Result<(), KernelError> {
    let specs = layout.model();
    if specs.len() != tensors.len() {
        return Err(LayoutError::Count { expected: specs.len(), found: tensors.len() }.into());
    }
    for (spec, tensor) in specs.iter().zip(tensors) {
        if spec.len() != tensor.len() {
            return Err(LayoutError::Data { name: spec.name.clone(), expected: spec.len(), found: tensor.len() }.into());
        }
        if tensor.float() != float {
            return Err(KernelError::Float { name: spec.name.clone(), expected: float, found: tensor.float() });
        }
    }
    Ok(())
}
