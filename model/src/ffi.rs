//! The crate's unsafe floor: the C++ shim over ATen, and libraries that are found at run time.

pub(crate) mod fused;
pub(crate) mod nccl;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

/// One AdamW update's numbers, laid out as the shim's `AdamW`.
#[repr(C)]
pub(crate) struct AdamW {
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
}

type List = *const *const C_tensor;

unsafe extern "C" {
    fn model_product(a: *const C_tensor, b: *const C_tensor, result: *mut *mut C_tensor) -> *const c_char;
    fn model_fused_adamw(
        parameters: List,
        gradients: List,
        first: List,
        second: List,
        count: usize,
        step: *const C_tensor,
        gradient_scale: *const C_tensor,
        rule: *const AdamW,
    ) -> *const c_char;
    fn model_foreach_add(sums: List, terms: List, count: usize) -> *const c_char;
    fn model_gradients(
        output: *const C_tensor,
        upstream: *const C_tensor,
        inputs: List,
        count: usize,
        gradients: *mut *mut C_tensor,
    ) -> *const c_char;
    fn model_squared_norm(tensors: List, count: usize, square: *mut *mut C_tensor) -> *const c_char;
}

fn pointers(tensors: &[Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}

fn check(message: *const c_char) -> Result<(), TchError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a NUL-terminated string that lives until this thread's next call into it.
    let message = unsafe { CStr::from_ptr(message) };
    Err(TchError::Torch(message.to_string_lossy().into_owned()))
}

/// a·bᵀ over the last two dimensions of f32 tensors on the CPU, 2-D or batched alike; differentiable.
pub(crate) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
    let mut result = std::ptr::null_mut();
    // SAFETY: the borrows keep `a` and `b` alive; without a message, `result` is a new tensor that nothing else owns.
    unsafe {
        check(model_product(a.as_ptr(), b.as_ptr(), &mut result))?;
        Ok(Tensor::from_ptr(result))
    }
}

/// A parameter, its gradient and its two moments, all of one shape.
pub(crate) struct Update<'a> {
    pub(crate) parameter: &'a Tensor,
    pub(crate) gradient: &'a Tensor,
    pub(crate) first: &'a Tensor,
    pub(crate) second: &'a Tensor,
}

/// AdamW in one pass over all tensors, in place; `step` is the 1-based step as an f32 scalar, gradients are divided by `gradient_scale` first.
pub(crate) fn fused_adamw(updates: &[Update], step: &Tensor, gradient_scale: &Tensor, rule: &AdamW) -> Result<(), TchError> {
    // libtorch reads the first one on a GPU, whether there is one or not
    if updates.is_empty() {
        return Ok(());
    }
    let column = |pick: fn(&Update) -> *const C_tensor| updates.iter().map(pick).collect::<Vec<_>>();
    let parameters = column(|u| u.parameter.as_ptr());
    let gradients = column(|u| u.gradient.as_ptr());
    let first = column(|u| u.first.as_ptr());
    let second = column(|u| u.second.as_ptr());
    // SAFETY: every list holds `updates.len()` pointers to tensors that the borrows keep alive; the shim copies handles and keeps none.
    check(unsafe {
        model_fused_adamw(
            parameters.as_ptr(),
            gradients.as_ptr(),
            first.as_ptr(),
            second.as_ptr(),
            updates.len(),
            step.as_ptr(),
            gradient_scale.as_ptr(),
            rule,
        )
    })
}

/// `sums[i] += terms[i]`, in place.
pub(crate) fn foreach_add(sums: &[Tensor], terms: &[Tensor]) -> Result<(), TchError> {
    assert_eq!(sums.len(), terms.len(), "one term per sum");
    let (sums, terms) = (pointers(sums), pointers(terms));
    // SAFETY: both lists hold `sums.len()` pointers to tensors that the borrows keep alive; the shim copies handles and keeps none.
    check(unsafe { model_foreach_add(sums.as_ptr(), terms.as_ptr(), sums.len()) })
}

/// The gradients of `output`, times `upstream` unless it is a scalar, with respect to `inputs`. Frees the graph on the way.
pub(crate) fn gradients(output: &Tensor, upstream: Option<&Tensor>, inputs: &[&Tensor]) -> Result<Vec<Tensor>, TchError> {
    let inputs: Vec<*const C_tensor> = inputs.iter().map(|input| input.as_ptr()).collect();
    let upstream = upstream.map_or(std::ptr::null(), Tensor::as_ptr);
    let mut gradients = vec![std::ptr::null_mut(); inputs.len()];
    // SAFETY: the borrows keep all tensors alive; without a message, every element of `gradients` is a new tensor that nothing else owns.
    unsafe {
        check(model_gradients(output.as_ptr(), upstream, inputs.as_ptr(), inputs.len(), gradients.as_mut_ptr()))?;
        Ok(gradients.into_iter().map(|gradient| Tensor::from_ptr(gradient)).collect())
    }
}

/// Sum of squares over the elements of all tensors together, an f64 scalar on their device.
pub(crate) fn squared_norm(tensors: &[Tensor]) -> Result<Tensor, TchError> {
    let tensors = pointers(tensors);
    let mut square = std::ptr::null_mut();
    // SAFETY: the list holds `tensors.len()` pointers to live tensors; without a message, `square` is a new tensor that nothing else owns.
    unsafe {
        check(model_squared_norm(tensors.as_ptr(), tensors.len(), &mut square))?;
        Ok(Tensor::from_ptr(square))
    }
}

/// Overwrites an f32 tensor [elements.len()], wherever it is; `elements` are read in place.
pub(crate) fn copy_from_slice(tensor: &mut Tensor, elements: &[f32]) -> Result<(), TchError> {
    // SAFETY: `elements` are borrowed until the copy, which waits for its end, has returned, and the tensor goes before that. Nothing writes to it.
    unsafe { tensor.f_copy_(&blob(elements.as_ptr(), elements.len())?) }
}

/// Overwrites `elements` with those of an f32 tensor [elements.len()], wherever it is.
pub(crate) fn copy_to_slice(tensor: &Tensor, elements: &mut [f32]) -> Result<(), TchError> {
    // SAFETY: `elements` are borrowed alone until the copy, which waits for its end, has returned, and the blob goes before that.
    unsafe { blob(elements.as_mut_ptr(), elements.len())?.f_copy_(tensor) }
}

/// A tensor over memory that is not its own.
///
/// # Safety
/// At `first` are `len` elements for as long as the tensor lives.
unsafe fn blob(first: *const f32, len: usize) -> Result<Tensor, TchError> {
    // SAFETY: the caller's.
    unsafe { Tensor::f_from_blob(first.cast(), &[len as i64], &[1], Kind::Float, Device::Cpu) }
}

fn dlopen(library: &CStr, flags: c_int) -> Result<*mut c_void, String> {
    // SAFETY: the name is NUL-terminated; a library's initializers run here, which is why only torch's and the driver's are ever opened.
    let handle = unsafe { libc::dlopen(library.as_ptr(), flags) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: after a failed dlopen, dlerror returns a NUL-terminated string valid until this thread's next call into the loader.
    let message = unsafe { CStr::from_ptr(libc::dlerror()) };
    Err(message.to_string_lossy().into_owned())
}

/// Makes a library's symbols and registrations part of this process for good.
pub(crate) fn load_globally(library: &Path) -> Result<(), String> {
    let name = CString::new(library.as_os_str().as_encoded_bytes()).map_err(|_| "the path holds a NUL byte".to_owned())?;
    dlopen(&name, libc::RTLD_NOW | libc::RTLD_GLOBAL).map(drop)
}

/// Whether NVIDIA's driver library is on this machine.
pub(crate) fn has_cuda_driver() -> bool {
    dlopen(c"libcuda.so.1", libc::RTLD_LAZY).is_ok()
}

/// The driver's name of CUDA device `index`.
pub(crate) fn cuda_device_name(index: usize) -> Option<String> {
    let library = dlopen(c"libcuda.so.1", libc::RTLD_LAZY).ok()?;
    let symbol = |name: &CStr| {
        // SAFETY: the handle came from dlopen and is never closed; the name is NUL-terminated.
        let address = unsafe { libc::dlsym(library, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    };
    let (init, get, get_name) = (symbol(c"cuInit")?, symbol(c"cuDeviceGet")?, symbol(c"cuDeviceGetName")?);
    // SAFETY: these are the signatures that the CUDA driver API documents for cuInit, cuDeviceGet and cuDeviceGetName.
    let (init, get, get_name) = unsafe {
        (
            std::mem::transmute::<*mut c_void, extern "C" fn(u32) -> c_int>(init),
            std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_int, c_int) -> c_int>(get),
            std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_char, c_int, c_int) -> c_int>(get_name),
        )
    };
    let (mut device, mut name) = (0, [0u8; 256]);
    let done = init(0) == 0 && get(&mut device, c_int::try_from(index).ok()?) == 0 && get_name(name.as_mut_ptr().cast(), 256, device) == 0;
    let name = done.then(|| CStr::from_bytes_until_nul(&name).ok()).flatten()?;
    Some(name.to_string_lossy().into_owned())
}

/// Lets the allocator keep what is freed: a step frees and allocates the same tens of megabytes again, and giving them back to the
/// system in between costs a page fault for every 4 KiB.
pub(crate) fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets two numbers of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_exception_is_an_error() {
        let matrix = |rows, columns| Tensor::zeros([rows, columns], (Kind::Float, Device::Cpu));
        assert_eq!(product(&matrix(2, 3), &matrix(4, 3)).unwrap().size(), [2, 4]);
        assert!(matches!(product(&matrix(2, 3), &matrix(4, 5)), Err(TchError::Torch(_))));
        assert!(matches!(foreach_add(&[matrix(2, 3)], &[matrix(4, 5)]), Err(TchError::Torch(_))));
    }

    #[test]
    fn a_missing_library_is_an_error() {
        assert!(load_globally(Path::new("/nowhere/libtorch_cuda.so")).unwrap_err().contains("libtorch_cuda.so"));
    }
}
