//! A node's home directory: one process at a time, and files that are either whole or absent.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use compression::{Layout, State};
use protocol::{Digest, RunId};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo, TensorView},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Anchor, Replica, Run};

/// Why a home directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another process has it.
    #[error("{0} is in use by another process; stop it, or choose another --home")]
    InUse(PathBuf),
    /// It is the home of a node of another run.
    #[error("{dir} is the home of a node of run {found}, not of {expected}; choose another --home")]
    OtherRun {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: RunId,
    },
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what this program wrote.
    #[error("{path} is damaged ({problem}); remove it: θ is rebuilt from the run's log, a miner's error feedback and moments start anew")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// A locked home directory.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    _lock: File,
}

/// Named f32 tensors and a JSON value, written and read as one safetensors file.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved<T> {
    /// What the tensors mean.
    pub meta: T,
    /// (name, elements).
    pub tensors: Vec<(String, Vec<f32>)>,
}

impl Home {
    /// Creates `dir` if needed and locks it until drop.
    ///
    /// # Errors
    /// [`HomeError::InUse`] if another process holds the lock, [`HomeError::Io`] if the directory cannot be made.
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        let io = |source| HomeError::Io { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(io)?;
        let lock = File::create(dir.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(HomeError::InUse(dir.to_owned())),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Makes this the home of a node of `run`, for good: rounds and tensors of two runs must not mix.
    ///
    /// # Errors
    /// [`HomeError::OtherRun`], [`HomeError::Io`].
    pub fn claim(&self, run: &RunId) -> Result<(), HomeError> {
        let path = self.dir.join("run");
        let claimed = match fs::read_to_string(&path) {
            Ok(found) if found == run.to_string() => Ok(()),
            Ok(found) => return Err(HomeError::OtherRun { dir: self.dir.clone(), found, expected: *run }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => write_durably(&path, run.to_string().as_bytes()),
            Err(e) => Err(e),
        };
        claimed.map_err(|source| HomeError::Io { path, source })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes tensors and their meaning durably: whole or not at all, whatever happens. No second copy of them is made.
    ///
    /// # Errors
    /// [`HomeError::Io`], a full disk among them.
    pub fn save<T: Serialize>(&self, name: &str, meta: &T, tensors: &[(String, &[f32])]) -> Result<(), HomeError> {
        let path = self.dir.join(name);
        let io = |source| HomeError::Io { path: path.clone(), source };
        let other = |error: serde_json::Error| io(io::Error::other(error));
        let meta = serde_json::to_string(meta).map_err(other)?;
        let checksum = checksum(&meta, tensors.iter().map(|(name, data)| (name.as_str(), bytemuck::cast_slice(data))));
        let mut end = 0;
        let infos = tensors.iter().map(|(name, data)| {
            let start = end;
            end += size_of_val(*data);
            (name.clone(), TensorInfo { dtype: Dtype::F32, shape: vec![data.len()], data_offsets: (start, end) })
        });
        let metadata = [(META.to_owned(), meta), (CHECKSUM.to_owned(), checksum)].into();
        let header = Metadata::new(Some(metadata), infos.collect()).map_err(|e| io(io::Error::other(e)))?;
        let mut header = serde_json::to_vec(&header).map_err(other)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let length = (header.len() as u64).to_le_bytes();
        let parts = [&length[..], &header].into_iter().chain(tensors.iter().map(|(_, data)| bytemuck::cast_slice(data)));
        write_parts_durably(&path, parts, PRIVATE).map_err(io)
    }

    /// Reads them back; `None` if there is none.
    ///
    /// # Errors
    /// [`HomeError::Damaged`] if it is not what [`Home::save`] wrote.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<Saved<T>>, HomeError> {
        let path = self.dir.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(HomeError::Io { path, source }),
        };
        parse_saved(&bytes).map(Some).map_err(|problem| HomeError::Damaged { path, problem })
    }

    /// Removes a file if it is there.
    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.dir.join(name));
    }

    /// Makes θ and its place in the log durable.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn save_replica(&self, replica: &Replica) -> Result<(), HomeError> {
        self.save_state(&replica.state, &replica.anchor, replica.root)
    }

    /// [`Home::save_replica`] by what a replica consists of.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn save_state(&self, state: &State, anchor: &Anchor, root: Digest) -> Result<(), HomeError> {
        let specs = state.layout().tensors();
        let tensors: Vec<_> = specs.iter().zip(state.tensors()).map(|(s, t)| (s.name.clone(), t.as_slice())).collect();
        self.save(STATE, &(anchor, root), &tensors)
    }

    /// The newest durable replica. A damaged file is set aside with a warning: the log rebuilds what it held.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn load_replica(&self, run: &Arc<Run>) -> Result<Option<Replica>, HomeError> {
        match self.load::<(Anchor, Digest)>(STATE) {
            Ok(Some(saved)) => {
                let replica = restore(run, saved);
                if replica.is_none() {
                    tracing::warn!(home = %self.dir.display(), "the saved state does not have its root; starting over");
                }
                Ok(replica)
            }
            Ok(None) => Ok(None),
            Err(error @ HomeError::Damaged { .. }) => {
                tracing::warn!(%error, "starting over");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

const STATE: &str = "state.safetensors";
/// The entry of a file's metadata that says what its tensors mean, in JSON.
const META: &str = "tributary";
/// The entry that has the hash of all the others.
const CHECKSUM: &str = "blake3";

/// Hash of a file's meaning and tensors (names, little-endian elements), in whatever order they come.
fn checksum<'a>(meta: &str, tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let tensors: BTreeMap<_, _> = tensors.collect();
    let parts = tensors.into_iter().flat_map(|(name, data)| [name.as_bytes(), data]);
    let parts: Vec<&[u8]> = std::iter::once(meta.as_bytes()).chain(parts).collect();
    Digest::derive("tributary 2026 saved file v1", &parts).to_string()
}

fn restore(run: &Arc<Run>, saved: Saved<(Anchor, Digest)>) -> Option<Replica> {
    let (anchor, root) = saved.meta;
    let layout = run.manifest.state_layout();
    let tensors = in_layout_order(&layout, saved.tensors)?;
    let state = State::new(layout, anchor.round, tensors).ok()?;
    let replica = Replica::at(run.clone(), state, anchor);
    (replica.root == root).then_some(replica)
}

/// Tensors by the layout's names, in its order; `None` if one is missing.
pub fn in_layout_order(layout: &Layout, tensors: Vec<(String, Vec<f32>)>) -> Option<Vec<Vec<f32>>> {
    let mut by_name: std::collections::HashMap<_, _> = tensors.into_iter().collect();
    layout.tensors().iter().map(|spec| by_name.remove(&spec.name)).collect()
}

fn parse_saved<T: DeserializeOwned>(bytes: &[u8]) -> Result<Saved<T>, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let entry = |key| header.metadata().as_ref().and_then(|m| m.get(key)).ok_or(format!("no {key:?} in its metadata"));
    let (meta, expected) = (entry(META)?, entry(CHECKSUM)?);
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    if file.iter().any(|(_, v)| v.dtype() != Dtype::F32) {
        return Err("a tensor is not f32".into());
    }
    if checksum(meta, file.iter().map(|(name, view)| (name, view.data()))) != *expected {
        return Err("its checksum is wrong".into());
    }
    let read =
        |(name, view): (String, TensorView<'_>)| (name, view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
    Ok(Saved { meta: serde_json::from_str(meta).map_err(|e| e.to_string())?, tensors: file.tensors().into_iter().map(read).collect() })
}

/// Permissions of what only a node itself may read: a payload is a secret until the round closes.
const PRIVATE: u32 = 0o600;
/// Those of other files, less what the user's mask takes away.
const PUBLIC: u32 = 0o666;

/// Writes beside, syncs, renames, syncs the directory.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_parts_durably(path, [bytes].into_iter(), PUBLIC)
}

fn write_parts_durably<'a>(path: &Path, mut parts: impl Iterator<Item = &'a [u8]>, mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    parts.try_for_each(|part| file.write_all(part))?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
