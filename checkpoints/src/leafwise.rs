//! A shard's file as it comes: its header first, then leaf by leaf, so that a bad byte costs a leaf and not the file.

use std::collections::VecDeque;
use std::ops::Range;

use compression::{LEAF_ELEMENTS, Layout, Root};
use safetensors::tensor::Metadata;

use crate::{Form, snapshot::Shard};

/// A safetensors file starts with its header's length.
pub(crate) const LENGTH_BYTES: usize = size_of::<u64>();

/// The hashes of a form's leaves, in the layout's order.
pub(crate) struct Leaves<'a> {
    pub layout: &'a Layout,
    pub form: Form,
    pub hashes: &'a [Root],
}

impl Leaves<'_> {
    /// How many leaves the first `tensors` tensors of a layout have.
    pub fn count(layout: &Layout, tensors: usize) -> usize {
        layout.tensors()[..tensors].iter().map(|spec| spec.len().div_ceil(LEAF_ELEMENTS)).sum()
    }
}

/// Checks a shard's bytes in order.
pub(crate) struct LeafwiseShard<'a> {
    shard: &'a Shard,
    /// Which of the layout's tensors it holds.
    tensors: Range<usize>,
    leaves: &'a Leaves<'a>,
    /// What comes next: a length and the hash of so many bytes.
    expected: VecDeque<(usize, Root)>,
    has_header: bool,
    waiting: Vec<u8>,
    checked: u64,
}

impl<'a> LeafwiseShard<'a> {
    pub fn new(shard: &'a Shard, tensors: Range<usize>, leaves: &'a Leaves<'a>) -> Self {
        let header = (shard.header_bytes as usize, shard.header_blake3.0);
        Self { shard, tensors, leaves, expected: [header].into(), has_header: false, waiting: Vec::new(), checked: 0 }
    }

    /// Bytes of the file, from its start, that are as they should be.
    pub fn checked(&self) -> u64 {
        self.checked
    }

    /// Whether all of it was checked.
    pub fn is_complete(&self) -> bool {
        self.has_header && self.expected.is_empty() && self.checked == self.shard.bytes
    }

    /// Forgets what came and could not be checked yet: the next bytes are those from [`LeafwiseShard::checked`] on.
    pub fn rewind(&mut self) {
        self.waiting.clear();
    }

    /// Takes the next bytes and appends those that are checked by now to `passed`.
    ///
    /// # Errors
    /// What is wrong with the bytes that come after these.
    pub fn push(&mut self, bytes: &[u8], passed: &mut Vec<u8>) -> Result<(), String> {
        let mut rest = bytes;
        while let Some(&(length, hash)) = self.expected.front() {
            let (part, after) = rest.split_at(rest.len().min(length - self.waiting.len()));
            self.waiting.extend_from_slice(part);
            rest = after;
            if self.waiting.len() < length {
                return Ok(());
            }
            if *blake3::hash(&self.waiting).as_bytes() != hash {
                let at = self.checked;
                self.waiting.clear();
                return Err(format!("bytes {at} to {} are not those that the snapshot's leaves name", at + length as u64));
            }
            if !self.has_header {
                self.has_header = true;
                let data = self.plan()?;
                self.expected.extend(data);
            }
            self.expected.pop_front();
            self.checked += length as u64;
            passed.append(&mut self.waiting);
        }
        if rest.is_empty() { Ok(()) } else { Err("it is longer than its tensors".into()) }
    }

    /// The leaves that follow the header which has just come, in the file's order.
    fn plan(&self) -> Result<Vec<(usize, Root)>, String> {
        let json = self.waiting.get(LENGTH_BYTES..).unwrap_or_default();
        let metadata: Metadata = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let Leaves { layout, form, hashes } = self.leaves;
        let mut infos = Vec::with_capacity(self.tensors.len());
        for (number, spec) in self.tensors.clone().zip(&layout.tensors()[self.tensors.clone()]) {
            let info = metadata.info(&spec.name).ok_or_else(|| format!("it lacks {:?}", spec.name))?;
            if info.dtype != form.dtype() || info.shape != spec.shape {
                return Err(format!("{:?} is {:?} of {:?} in it", spec.name, info.dtype, info.shape));
            }
            infos.push((info.data_offsets, number, spec.len()));
        }
        infos.sort_unstable();
        let (mut planned, mut end) = (Vec::new(), 0);
        for ((from, to), number, elements) in infos {
            let bytes = elements * form.width();
            if from != end || to != end + bytes {
                return Err("its tensors do not follow each other".into());
            }
            end = to;
            let first = Leaves::count(layout, number);
            let lengths = (0..elements).step_by(LEAF_ELEMENTS).map(|start| LEAF_ELEMENTS.min(elements - start) * form.width());
            planned.extend(lengths.zip(&hashes[first..]).map(|(length, hash)| (length, *hash)));
        }
        if (self.waiting.len() + end) as u64 == self.shard.bytes { Ok(planned) } else { Err("its tensors do not fill it".into()) }
    }
}
