//! A state as safetensors shards: which tensors share a file, and the files' bytes.

use std::collections::HashMap;
use std::ops::Range;

use compression::{Layout, State, TensorSpec};
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::form::{self, Form};
use crate::leafwise::LENGTH_BYTES;

/// Bytes that one tensor's entry in a safetensors header may take beside its name, generously.
const ENTRY_BYTES: u64 = 512;

/// Splits tensors, in order, into runs of at most `shard_bytes` (a larger tensor gets a run of its own).
pub(crate) fn split(tensors: &[TensorSpec], shard_bytes: usize) -> Vec<Range<usize>> {
    let mut shards: Vec<Range<usize>> = Vec::new();
    let mut filled = 0usize;
    for (index, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.len() * size_of::<f32>();
        match shards.last_mut() {
            Some(shard) if filled.saturating_add(bytes) <= shard_bytes => {
                shard.end = index + 1;
                filled += bytes;
            }
            _ => {
                shards.push(index..index + 1);
                filled = bytes;
            }
        }
    }
    shards
}

/// The file name of shard `index` of `count`, as Hugging Face names them.
pub(crate) fn file_name(index: usize, count: usize) -> String {
    format!("model-{:05}-of-{count:05}.safetensors", index + 1)
}

/// The safetensors file of some of the state's tensors: row-major, little-endian.
pub(crate) fn encode(state: &State, tensors: Range<usize>, form: Form) -> Vec<u8> {
    let rounded: Vec<Vec<u8>> = match form {
        Form::F32 => Vec::new(),
        Form::Bf16 => state.tensors()[tensors.clone()].par_iter().map(|data| form::rounded(data)).collect(),
    };
    let views = state.layout().tensors()[tensors.clone()].iter().zip(&state.tensors()[tensors]).enumerate().map(|(i, (spec, data))| {
        let bytes = rounded.get(i).map_or_else(|| bytemuck::cast_slice(data), Vec::as_slice);
        let view = TensorView::new(form.dtype(), spec.shape.clone(), bytes);
        (spec.name.as_str(), view.expect("a state's tensors have their layout's lengths"))
    });
    // Python's loaders ask who wrote the tensors
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).expect("names are unique and strings")
}

/// Bytes of a file's header, its length in front.
pub(crate) fn header_len(file: &[u8]) -> usize {
    let length = file.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    (LENGTH_BYTES as u64 + length).min(file.len() as u64) as usize
}

/// The most bytes that the file of these tensors can have, and the most that its header can.
pub(crate) fn cap(layout: &Layout, tensors: Range<usize>, form: Form) -> u64 {
    let data = layout.tensors()[tensors.clone()].iter().map(|spec| (spec.len() as u64).saturating_mul(form.width() as u64));
    data.fold(header_cap(layout, tensors), u64::saturating_add)
}

/// The most bytes that the header of these tensors' file can have.
pub(crate) fn header_cap(layout: &Layout, tensors: Range<usize>) -> u64 {
    layout.tensors()[tensors].iter().fold(ENTRY_BYTES, |sum, spec| {
        // a name's bytes may be escaped, to six each
        sum.saturating_add(ENTRY_BYTES + 6 * spec.name.len() as u64)
    })
}

/// Reads a file that must hold exactly these tensors; their elements in the layout's order.
///
/// # Errors
/// A sentence about the first thing that is wrong.
pub(crate) fn decode(bytes: &[u8], layout: &Layout, tensors: Range<usize>) -> Result<Vec<Vec<f32>>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    if file.len() != tensors.len() {
        return Err(format!("it has {} tensors instead of {}", file.len(), tensors.len()));
    }
    let read = |spec: &compression::TensorSpec| {
        let tensor = file.tensor(&spec.name).map_err(|e| e.to_string())?;
        if tensor.dtype() != Dtype::F32 {
            return Err(format!("{:?} has elements of type {:?} instead of F32", spec.name, tensor.dtype()));
        }
        if tensor.shape() != spec.shape {
            return Err(format!("{:?} has shape {:?} instead of {:?}", spec.name, tensor.shape(), spec.shape));
        }
        Ok(tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    layout.tensors()[tensors].iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use compression::TensorSpec;

    fn layout(lengths: &[usize]) -> Layout {
        Layout::new(lengths.iter().enumerate().map(|(i, &n)| TensorSpec::new(format!("t{i}"), &[n])).collect()).expect("a layout")
    }

    #[test]
    fn shards_hold_what_fits_in_order() {
        let layout = layout(&[2, 2, 9, 1, 1, 1]);
        assert_eq!(split(layout.tensors(), 16), [0..2, 2..3, 3..6]);
        assert_eq!(split(layout.tensors(), usize::MAX), vec![0..6]);
        assert_eq!(split(layout.tensors(), 0), (0..6).map(|i| i..i + 1).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_is_never_larger_than_its_cap() {
        let name = "\u{1}".repeat(compression::MAX_NAME);
        let specs = vec![TensorSpec::new(name, &[1, 1, 1, 3]), TensorSpec::new("b", &[1])];
        let state = State::new(Layout::new(specs).expect("a layout").into(), 0, vec![vec![1.0; 3], vec![2.0]]).expect("a state");
        let bytes = encode(&state, 0..2, Form::F32);
        assert!(bytes.len() as u64 <= cap(state.layout(), 0..2, Form::F32));
        assert_eq!(decode(&bytes, state.layout(), 0..2).as_deref(), Ok(state.tensors()));
    }
}
