//! Kernels of the training step, on memory that somebody else owns.

use crate::elements::Float;
use crate::machine::{Argument, THREADS};
use crate::{KernelError, Kernels};

/// Elements of a thread, the kernels' `GROUP`.
const GROUP: usize = 4;

/// What [`Kernels::rotary`] turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Rows, each of `heads` · `width` elements.
    pub rows: usize,
    /// Positions: row r is at position r modulo this.
    pub length: usize,
    /// Heads of a row.
    pub heads: usize,
    /// How many of them turn, the first ones.
    pub rotated: usize,
    /// Elements of a head, an even number.
    pub width: usize,
    /// Whether it is undone.
    pub backward: bool,
}

/// Addresses are of memory of the device: row-major, side by side, aligned to an element. All of this starts on the device's default stream and waits for
/// nothing. Results are rounded from f32 once.
impl Kernels {
    /// Per row of logits [rows, vocabulary] the negative log likelihood of the target, f32, one per row; and the logits become the gradient of that,
    /// softmax(logits) − onehot(target). Targets are i64, one per row, each a number below `vocabulary`.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] or [`KernelError::Driver`].
    ///
    /// # Safety
    /// The memory has these elements, lives until the kernel has ended, and nobody else uses it until then but for work that the same stream orders;
    /// targets are below `vocabulary`.
    pub unsafe fn cross_entropy(
        &self,
        float: Float,
        [logits, targets, losses]: [u64; 3],
        [rows, vocabulary]: [usize; 2],
    ) -> Result<(), KernelError> {
        let arguments = [Argument::Address(logits), Argument::Address(targets), Argument::Address(losses), size(vocabulary)?];
        // SAFETY: the kernel's arguments, for which the caller vouches; one block per row.
        unsafe { self.start(name(float, ["cross_entropy_f32", "cross_entropy_bf16"]), rows, &arguments) }
    }

    /// silu(gate) · up, [rows, width], of [rows, gate and up]; silu(x) = x / (1 + exp(−x)).
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] or [`KernelError::Driver`].
    ///
    /// # Safety
    /// As [`Kernels::cross_entropy`].
    pub unsafe fn swiglu(&self, float: Float, [gate_up, to]: [u64; 2], [rows, width]: [usize; 2]) -> Result<(), KernelError> {
        let arguments = [Argument::Address(gate_up), Argument::Address(to), size(rows)?, size(width)?];
        // SAFETY: the kernel's arguments, for which the caller vouches; a thread per group, and those beyond the last do nothing.
        unsafe { self.start(name(float, ["swiglu_f32", "swiglu_bf16"]), blocks(rows, width), &arguments) }
    }

    /// The gradient of [`Kernels::swiglu`]'s input, of its size, from that of its output.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] or [`KernelError::Driver`].
    ///
    /// # Safety
    /// As [`Kernels::cross_entropy`].
    pub unsafe fn swiglu_backward(
        &self,
        float: Float,
        [gate_up, gradient, to]: [u64; 3],
        [rows, width]: [usize; 2],
    ) -> Result<(), KernelError> {
        let arguments = [Argument::Address(gate_up), Argument::Address(gradient), Argument::Address(to), size(rows)?, size(width)?];
        // SAFETY: as in `swiglu`.
        unsafe { self.start(name(float, ["swiglu_backward_f32", "swiglu_backward_bf16"]), blocks(rows, width), &arguments) }
    }

    /// [rows, heads, width] with the first heads turned by the angles of their position: elements i and i + width / 2 of a head are one point of the plane.
    /// The other heads are copied. `tables` are cosines and sines, f32 [length, width / 2].
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] or [`KernelError::Driver`].
    ///
    /// # Safety
    /// As [`Kernels::cross_entropy`].
    pub unsafe fn rotary(
        &self,
        float: Float,
        [from, to]: [u64; 2],
        [cosines, sines]: [u64; 2],
        rotation: Rotation,
    ) -> Result<(), KernelError> {
        let Rotation { rows, length, heads, rotated, width, backward } = rotation;
        let addresses = [from, to, cosines, sines].map(Argument::Address);
        let sizes = [size(rows)?, size(length)?, size(heads)?, size(rotated)?, size(width)?];
        let direction = Argument::F32(if backward { -1.0 } else { 1.0 });
        let arguments: Vec<Argument> = addresses.into_iter().chain(sizes).chain([direction]).collect();
        // SAFETY: as in `swiglu`.
        unsafe { self.start(name(float, ["rotary_f32", "rotary_bf16"]), blocks(rows * heads, width / 2), &arguments) }
    }

    /// # Safety
    /// As [`crate::machine::Machine::run`].
    unsafe fn start(&self, kernel: &'static str, blocks: usize, arguments: &[Argument]) -> Result<(), KernelError> {
        let blocks = i32::try_from(blocks).map_err(|_| KernelError::TooLarge)?.unsigned_abs();
        // the driver knows no launch of no blocks
        if blocks == 0 {
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe { self.machine.run(kernel, blocks, arguments) }
    }
}

fn name(float: Float, [f32, bf16]: [&'static str; 2]) -> &'static str {
    match float {
        Float::F32 => f32,
        Float::Bf16 => bf16,
    }
}

fn size(size: usize) -> Result<Argument, KernelError> {
    i32::try_from(size).map(|size| Argument::U32(size.unsigned_abs())).map_err(|_| KernelError::TooLarge)
}

/// Blocks whose threads have a group of each row's elements each.
fn blocks(rows: usize, width: usize) -> usize {
    (rows * width.div_ceil(GROUP)).div_ceil(THREADS as usize)
}
