//! What a payload's tensors are, which it does not say itself.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use compression::{Format, Layout, Outline, PayloadError};
use protocol::{MAX_MANIFEST_BYTES, Manifest};

use super::open;
use super::tensors::TensorFile;

/// What tells the tensors of a payload.
#[derive(Debug)]
pub enum Like {
    /// Those of a safetensors file, in the order of their names' bytes.
    Tensors(Arc<Layout>),
    /// Those of a run, coded as its manifest says.
    Run(Arc<Format>),
}

impl Like {
    /// Reads a manifest, or the header of a safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        if is_json(open(path)?).with_context(|| path.display().to_string())? {
            return Ok(Self::Run(read_manifest(path)?.format()));
        }
        Ok(Self::Tensors(TensorFile::open(path)?.layout().clone()))
    }

    /// The tensors.
    pub fn layout(&self) -> &Arc<Layout> {
        match self {
            Self::Tensors(layout) => layout,
            Self::Run(format) => format.layout(),
        }
    }

    /// The format that a payload must have: the run's, or for bare tensors [`own_format`].
    pub fn format(&self, outline: &Outline) -> Result<Arc<Format>, PayloadError> {
        match self {
            Self::Tensors(layout) => own_format(outline, layout),
            Self::Run(format) => Ok(format.clone()),
        }
    }
}

/// The format by a payload's own header, for tensors that must be its own.
pub fn own_format(outline: &Outline, layout: &Arc<Layout>) -> Result<Arc<Format>, PayloadError> {
    let expected = layout.tensors().len();
    if outline.tensors as usize != expected {
        return Err(PayloadError::Tensors { expected, found: outline.tensors });
    }
    let codecs = outline.runs.iter().flat_map(|&(tensors, codec)| std::iter::repeat_n(codec, tensors as usize)).collect();
    Format::new(layout.clone(), codecs).map(Arc::new).map_err(|_| PayloadError::Layout)
}

/// A safetensors file starts with its header's length, which has zeros among its eight bytes.
fn is_json(file: File) -> std::io::Result<bool> {
    let mut start = Vec::new();
    file.take(8).read_to_end(&mut start)?;
    Ok(start.starts_with(b"{") && !start.contains(&0))
}

/// A run's `manifest.json`.
pub fn read_manifest(path: &Path) -> Result<Manifest> {
    let read = || -> Result<Manifest> {
        let mut bytes = Vec::new();
        // a byte more, so that what is too long is seen to be
        open(path)?.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(Manifest::from_bytes(&bytes)?)
    };
    read().with_context(|| path.display().to_string())
}
