//! This project's kernels on libtorch's tensors, as operations with gradients.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use kernels::{Float, KernelError, Kernels, Rotation};
use tch::{TchError, Tensor};
use torch_sys::C_tensor;

use super::check;

/// The shim's `Which`.
const CROSS_ENTROPY: c_int = 0;
const SWIGLU: c_int = 1;
const SWIGLU_BACKWARD: c_int = 2;
const ROTARY: c_int = 3;
const ROTARY_BACKWARD: c_int = 4;

/// The shim's `Kernels`.
#[repr(C)]
struct Callback {
    object: *const c_void,
    run: unsafe extern "C" fn(*const c_void, c_int, bool, *const *mut c_void, *const i64) -> *const c_char,
}

unsafe extern "C" {
    fn model_swiglu(gate_up: *const C_tensor, kernels: *const Callback, result: *mut *mut C_tensor) -> *const c_char;
    fn model_rotary(
        from: *const C_tensor,
        cosines: *const C_tensor,
        sines: *const C_tensor,
        heads: i64,
        rotated: i64,
        kernels: *const Callback,
        result: *mut *mut C_tensor,
    ) -> *const c_char;
    fn model_cross_entropy(
        logits: *const C_tensor,
        targets: *const C_tensor,
        kernels: *const Callback,
        losses: *mut *mut C_tensor,
    ) -> *const c_char;
}

/// The kernels of one device. They outlive every graph that was made with them, as that ends with the step.
pub(crate) struct Fused {
    /// Where C++ finds the callback, which points to the kernels.
    callback: Box<Callback>,
    _kernels: Arc<Kernels>,
}

// SAFETY: what the pointers lead to is `Send` and `Sync` itself, stays where it is, and is only read.
unsafe impl Send for Fused {}

impl Fused {
    /// Of the device on which the tensors will be.
    pub(crate) fn new(kernels: Kernels) -> Self {
        let kernels = Arc::new(kernels);
        Self { callback: Box::new(Callback { object: Arc::as_ptr(&kernels).cast(), run }), _kernels: kernels }
    }

    /// [rows, gate and up] → silu(gate) · up, [rows, width].
    pub(crate) fn swiglu(&self, gate_up: &Tensor) -> Result<Tensor, TchError> {
        // SAFETY: the borrows keep everything alive; without a message, the result is a new tensor that nothing else owns.
        new(|result| unsafe { model_swiglu(gate_up.as_ptr(), &raw const *self.callback, result) })
    }

    /// [rows, heads · width] with the first `rotated` heads of each row turned by the angles of its position, the row's number modulo the tables' length;
    /// those are cosines and sines, f32 [length, width / 2].
    pub(crate) fn rotary(&self, from: &Tensor, tables: &[Tensor; 2], heads: i64, rotated: i64) -> Result<Tensor, TchError> {
        let [cosines, sines] = tables.each_ref().map(Tensor::as_ptr);
        // SAFETY: as in `swiglu`.
        new(|result| unsafe { model_rotary(from.as_ptr(), cosines, sines, heads, rotated, &raw const *self.callback, result) })
    }

    /// Negative log likelihoods of the targets [rows], f32; the logits [rows, vocabulary] become their gradients. No graph.
    pub(crate) fn cross_entropy(&self, logits: &mut Tensor, targets: &Tensor) -> Result<Tensor, TchError> {
        // SAFETY: as in `swiglu`.
        new(|losses| unsafe { model_cross_entropy(logits.as_ptr(), targets.as_ptr(), &raw const *self.callback, losses) })
    }
}

fn new(call: impl FnOnce(*mut *mut C_tensor) -> *const c_char) -> Result<Tensor, TchError> {
    let mut result = ptr::null_mut();
    check(call(&mut result))?;
    // SAFETY: without a message, the shim has put a new tensor there that nothing else owns.
    Ok(unsafe { Tensor::from_ptr(result) })
}

/// # Safety
/// `object` is the `Kernels` of a [`Fused`]; the arrays have what the operation takes, contiguous tensors on the kernels' device of the sizes told.
unsafe extern "C" fn run(
    object: *const c_void,
    which: c_int,
    is_bf16: bool,
    tensors: *const *mut c_void,
    sizes: *const i64,
) -> *const c_char {
    thread_local! {
        static MESSAGE: RefCell<CString> = RefCell::default();
    }
    // SAFETY: the caller's.
    let start = || unsafe { start(&*object.cast::<Kernels>(), which, is_bf16, tensors, sizes) };
    // no panic crosses into C++
    let outcome = catch_unwind(AssertUnwindSafe(start)).map(|started| started.map_err(|error| error.to_string()));
    let message = match outcome {
        Ok(Ok(())) => return ptr::null(),
        Ok(Err(message)) => message,
        Err(_) => "a kernel's launch panicked".to_owned(),
    };
    let message = CString::new(message.replace('\0', "")).unwrap_or_default();
    MESSAGE.with_borrow_mut(|kept| {
        *kept = message;
        kept.as_ptr()
    })
}

/// # Safety
/// As [`run`].
unsafe fn start(kernels: &Kernels, which: c_int, is_bf16: bool, tensors: *const *mut c_void, sizes: *const i64) -> Result<(), KernelError> {
    let float = if is_bf16 { Float::Bf16 } else { Float::F32 };
    // SAFETY: each operation below has as many tensors and sizes as are asked for.
    let address = |i: usize| unsafe { *tensors.add(i) }.expose_provenance() as u64;
    // SAFETY: as above.
    let size = |i: usize| unsafe { *sizes.add(i) } as usize;
    // SAFETY: the shim passes tensors of these sizes; libtorch's allocator gives memory again in the order of the stream on which the kernels work, and token
    // ids were checked to be below the vocabulary.
    unsafe {
        match which {
            CROSS_ENTROPY => kernels.cross_entropy(float, [address(0), address(1), address(2)], [size(0), size(1)]),
            SWIGLU => kernels.swiglu(float, [address(0), address(1)], [size(0), size(1)]),
            SWIGLU_BACKWARD => kernels.swiglu_backward(float, [address(0), address(1), address(2)], [size(0), size(1)]),
            ROTARY | ROTARY_BACKWARD => {
                let [rows, length, heads, rotated, width] = [size(0), size(1), size(2), size(3), size(4)];
                let rotation = Rotation { rows, length, heads, rotated, width, backward: which == ROTARY_BACKWARD };
                kernels.rotary(float, [address(0), address(1)], [address(2), address(3)], rotation)
            }
            other => unreachable!("the shim knows no operation {other}"),
        }
    }
}
