//! Safetensors files in and out, tensor by tensor, and files that are either whole or absent.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use compression::{Layout, TensorSpec};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::Metadata, tensor::TensorInfo};

use super::counted;

/// Bytes of tensors that are converted at once, a multiple of every element's size.
const RUN: usize = 1 << 20;

/// A safetensors file whose header was read and holds for the whole file.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    /// Where the tensors' bytes start.
    start: u64,
    metadata: Metadata,
    layout: Arc<Layout>,
}

impl TensorFile {
    /// Reads the header.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read_header(path).with_context(|| path.display().to_string())
    }

    fn read_header(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let no_header = "this is no safetensors file: its header is longer than the file";
        let mut length = [0; 8];
        file.read_exact(&mut length).context(no_header)?;
        let start = u64::from_le_bytes(length).checked_add(8).filter(|&start| start <= bytes).context(no_header)?;
        let mut header = Vec::new();
        (&mut file).take(start - 8).read_to_end(&mut header)?;
        let metadata: Metadata = serde_json::from_slice(&header).context("this is no safetensors file: its header cannot be read")?;
        let expected = start + metadata.data_len() as u64;
        ensure!(bytes == expected, "the file has {bytes} bytes, by its header it should have {expected}; get it anew");
        let mut names = metadata.offset_keys();
        names.sort_unstable();
        let spec = |name: String| Some(TensorSpec { shape: metadata.info(&name)?.shape.clone(), name });
        let layout = Arc::new(Layout::new(names.into_iter().filter_map(spec).collect())?);
        Ok(Self { path: path.to_owned(), file, start, metadata, layout })
    }

    /// The tensors, in the order of their names' bytes.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// All elements as f32, in layout order.
    pub fn read(&self) -> Result<Vec<Vec<f32>>> {
        self.read_in_order(&self.layout)
    }

    fn read_in_order(&self, layout: &Layout) -> Result<Vec<Vec<f32>>> {
        let tensor = |spec: &TensorSpec| self.read_tensor(spec).with_context(|| format!("{}: tensor {:?}", self.path.display(), spec.name));
        layout.tensors().iter().map(tensor).collect()
    }

    fn read_tensor(&self, spec: &TensorSpec) -> Result<Vec<f32>> {
        let info = self.metadata.info(&spec.name).context("it is not in the header")?;
        ensure!(
            matches!(info.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16),
            "its elements are {}; convert them to F32, BF16 or F16",
            info.dtype
        );
        let (begin, end) = info.data_offsets;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start + begin as u64))?;
        let mut elements = Vec::with_capacity(spec.len());
        let mut bytes = vec![0; RUN.min(end - begin)];
        let mut left = end - begin;
        while left > 0 {
            let run = &mut bytes[..RUN.min(left)];
            file.read_exact(run)?;
            widen(info.dtype, run, &mut elements);
            left -= run.len();
        }
        Ok(elements)
    }

    /// The elements, in the order of `layout`, of a file that must have the same tensors as `owner`.
    pub fn read_like(&self, layout: &Layout, owner: &str) -> Result<Vec<Vec<f32>>> {
        let file = self.path.display();
        for TensorSpec { name, shape } in layout.tensors() {
            let found = self.metadata.info(name).with_context(|| format!("{file} lacks tensor {name:?} of {owner}"))?;
            ensure!(found.shape == *shape, "{file} has tensor {name:?} of shape {:?}, {owner} has it of shape {shape:?}", found.shape);
        }
        let (found, expected) = (self.layout.tensors().len(), layout.tensors().len());
        ensure!(found == expected, "{file} has {}, {owner} has {expected}", counted(found, "tensor"));
        self.read_in_order(layout)
    }
}

/// Appends the values of bytes of elements of 2 or 4 bytes.
fn widen(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) {
    match dtype {
        Dtype::BF16 => out.extend(bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32())),
        Dtype::F16 => out.extend(bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32())),
        _ => out.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))),
    }
}

/// A file that takes its place when it is whole, and leaves nothing behind if it never is.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
}

impl Draft {
    /// Starts a file that will be `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let mut temporary = OsString::from(path);
        temporary.push(".tmp");
        let file = File::create(&temporary).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned(), temporary: temporary.into(), file: BufWriter::with_capacity(RUN, file) })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| self.path.display().to_string())
    }

    /// Appends elements of f32.
    pub fn write_elements(&mut self, elements: &[f32]) -> Result<()> {
        let mut bytes = Vec::with_capacity(RUN.min(elements.len() * 4));
        for run in elements.chunks(RUN / 4) {
            bytes.clear();
            bytes.extend(run.iter().flat_map(|element| element.to_le_bytes()));
            self.write(&bytes)?;
        }
        Ok(())
    }

    /// Puts the file in its place, over one that may be there.
    pub fn keep(mut self) -> Result<()> {
        let keep = |draft: &mut Self| -> io::Result<()> {
            draft.file.flush()?;
            draft.file.get_ref().sync_all()?;
            fs::rename(&draft.temporary, &draft.path)
        };
        keep(&mut self).with_context(|| self.path.display().to_string())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // not there any more if it was kept
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Starts a safetensors file of f32: the layout's elements must follow, one tensor after the other.
pub fn draft_tensors(path: &Path, layout: &Layout) -> Result<Draft> {
    let mut end = 0;
    let mut info = |spec: &TensorSpec| {
        let begin = end;
        end += spec.len() * 4;
        (spec.name.clone(), TensorInfo { dtype: Dtype::F32, shape: spec.shape.clone(), data_offsets: (begin, end) })
    };
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(metadata), layout.tensors().iter().map(&mut info).collect())?;
    let mut header = serde_json::to_vec(&metadata)?;
    // as the format advises, so that elements are aligned
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut draft = Draft::create(path)?;
    draft.write(&(header.len() as u64).to_le_bytes())?;
    draft.write(&header)?;
    Ok(draft)
}

/// A safetensors file of f32 with the layout's elements, not yet in its place.
pub fn draft_of(path: &Path, layout: &Layout, tensors: &[Vec<f32>]) -> Result<Draft> {
    let mut draft = draft_tensors(path, layout)?;
    tensors.iter().try_for_each(|elements| draft.write_elements(elements))?;
    Ok(draft)
}
