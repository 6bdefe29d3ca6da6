//! Downloading a snapshot that may be larger than memory: file by file into a folder, from several mirrors, each leaf checked as it comes, and
//! going on where an earlier download ended.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use compression::{Root, root_of_leaves};
use futures::TryStreamExt;
use futures::stream::StreamExt;
use protocol::{Digest, ObjectKey, Signed};
use storage::Bucket;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::leafwise::{LeafwiseShard, Leaves};
use crate::snapshot::{Expected, MANIFEST, Shard, SnapshotManifest};
use crate::{CheckpointError, Form};

/// Files on their way at once, if there are as many mirrors.
const FILES: usize = 4;
/// Bytes of an earlier download that are read at a time.
const REREAD: usize = 4 << 20;

/// A snapshot on its way into a folder.
#[derive(Debug)]
pub struct Pull<'a> {
    /// Where it is read, the preferred first. None of them is trusted: what one gives wrongly is asked of the next.
    pub mirrors: &'a [Bucket],
    /// The snapshot, its signature checked by the caller against what it knows of the log.
    pub snapshot: &'a Signed<SnapshotManifest>,
    /// What the caller knows of it.
    pub expected: Expected<'a>,
    /// Which of its forms.
    pub form: Form,
    /// Where its files go.
    pub folder: &'a Path,
}

/// How far a download is, in bytes.
#[derive(Debug, Default)]
pub struct Pulled {
    /// All that is to be there in the end.
    pub total: u64,
    /// There and checked, what an earlier download left included.
    pub done: AtomicU64,
    /// What an earlier download left.
    pub found: AtomicU64,
    /// How often a mirror failed or gave wrong bytes.
    pub failures: AtomicUsize,
}

impl Pull<'_> {
    /// What there is to do.
    pub fn size(&self) -> Pulled {
        Pulled { total: self.shards().iter().map(|shard| shard.bytes).sum(), ..Pulled::default() }
    }

    fn shards(&self) -> &[Shard] {
        self.snapshot.value.shards(self.form)
    }

    /// Downloads what is missing and checks all of it; in the f32 form the folder is then itself a snapshot's. `progress` is kept up to date.
    ///
    /// # Errors
    /// [`CheckpointError`]: what the snapshot's manifest is refused for, and what the last mirror failed with.
    pub async fn run(&self, progress: &Pulled) -> Result<(), CheckpointError> {
        let ranges = self.expected.check(self.snapshot, self.form)?;
        fs::create_dir_all(self.folder).await.map_err(|source| self.disk(self.folder, source))?;
        let hashes = self.leaves().await?;
        let leaves = &Leaves { layout: self.expected.layout, form: self.form, hashes: &hashes };
        let files = self.shards().iter().zip(ranges).enumerate();
        let fetches = files.map(|(number, (shard, tensors))| self.fetch(number, shard, tensors, leaves, progress));
        futures::stream::iter(fetches).buffer_unordered(self.mirrors.len().clamp(1, FILES)).try_collect::<()>().await?;
        if self.form == Form::F32 {
            self.write(Form::F32.leaves_file(), hashes.as_flattened()).await?;
            // last: it makes the snapshot complete
            self.write(MANIFEST, self.snapshot.to_bytes()).await?;
        }
        Ok(())
    }

    /// The hashes of the leaves, themselves checked: against the root, or against the manifest.
    async fn leaves(&self) -> Result<Vec<Root>, CheckpointError> {
        let (manifest, layout, form) = (&self.snapshot.value, self.expected.layout, self.form);
        let (round, file) = (manifest.anchor.round, form.leaves_file());
        let count = Leaves::count(layout, form.layout(layout).len());
        let key = ObjectKey::Checkpoint { round, file: file.to_owned() };
        let mut refused = CheckpointError::MissingShard(file.to_owned());
        for mirror in self.mirrors {
            let bytes = match mirror.get(&key, (count * size_of::<Root>()) as u64).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) => {
                    refused = error.into();
                    continue;
                }
            };
            let (hashes, rest) = bytes.as_chunks::<{ size_of::<Root>() }>();
            if hashes.len() != count || !rest.is_empty() {
                refused = CheckpointError::Shard { file: file.to_owned(), problem: format!("it does not have {count} hashes") };
                continue;
            }
            let (found, expected) = match form {
                Form::F32 => (Digest(root_of_leaves(layout, round, hashes.to_vec())), manifest.root),
                Form::Bf16 => (Digest::of(&bytes), manifest.bf16.leaves),
            };
            if found == expected {
                return Ok(hashes.to_vec());
            }
            refused = CheckpointError::Corrupt { file: file.to_owned(), expected, found };
        }
        Err(refused)
    }

    /// One file, from whichever mirrors give it; those that come first are asked first, but each file starts at another one.
    async fn fetch(
        &self,
        number: usize,
        shard: &Shard,
        tensors: Range<usize>,
        leaves: &Leaves<'_>,
        progress: &Pulled,
    ) -> Result<(), CheckpointError> {
        let (path, part) = (self.folder.join(&shard.file), self.folder.join(format!("{}.part", shard.file)));
        if fs::try_exists(&path).await.unwrap_or(false) {
            fs::rename(&path, &part).await.map_err(|source| self.disk(&path, source))?;
        }
        let mut checked = LeafwiseShard::new(shard, tensors, leaves);
        let mut file = self.resume(&part, &mut checked).await.map_err(|source| self.disk(&part, source))?;
        progress.found.fetch_add(checked.checked(), Ordering::Relaxed);
        progress.done.fetch_add(checked.checked(), Ordering::Relaxed);
        let mut mirrors = self.mirrors.iter().cycle().skip(number % self.mirrors.len().max(1));
        let mut useless = 0;
        while !checked.is_complete() {
            let before = checked.checked();
            let missing = || CheckpointError::MissingShard(shard.file.clone());
            let mirror = mirrors.next().ok_or_else(missing)?;
            let Err(error) = self.stream(mirror, shard, &mut checked, &mut file, progress).await else { continue };
            progress.failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(file = shard.file, mirror = mirror.url(), %error, "asking the next mirror");
            useless = if checked.checked() > before { 0 } else { useless + 1 };
            if useless >= self.mirrors.len() {
                return Err(error);
            }
        }
        file.sync_all().await.map_err(|source| self.disk(&part, source))?;
        fs::rename(&part, &path).await.map_err(|source| self.disk(&path, source))
    }

    /// Opens what an earlier download left of a file, cut off where it is no longer right.
    async fn resume(&self, part: &Path, checked: &mut LeafwiseShard<'_>) -> std::io::Result<File> {
        let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(part).await?;
        let (mut bytes, mut there) = (vec![0; REREAD], Vec::new());
        loop {
            let count = file.read(&mut bytes).await?;
            if count == 0 || checked.push(&bytes[..count], &mut there).is_err() {
                break;
            }
            there.clear();
        }
        checked.rewind();
        file.set_len(checked.checked()).await?;
        file.seek(std::io::SeekFrom::Start(checked.checked())).await?;
        Ok(file)
    }

    /// Reads on from one mirror until the file is complete or something is wrong.
    async fn stream(
        &self,
        mirror: &Bucket,
        shard: &Shard,
        checked: &mut LeafwiseShard<'_>,
        file: &mut File,
        progress: &Pulled,
    ) -> Result<(), CheckpointError> {
        checked.rewind();
        let key = ObjectKey::Checkpoint { round: self.snapshot.value.anchor.round, file: shard.file.clone() };
        let missing = || CheckpointError::MissingShard(shard.file.clone());
        let mut object = mirror.download(&key, shard.bytes, checked.checked()).await?.ok_or_else(missing)?;
        while let Some(bytes) = object.next().await? {
            let mut passed = Vec::with_capacity(bytes.len());
            let right = checked.push(&bytes, &mut passed);
            // what is right is kept, whatever comes after it
            file.write_all(&passed).await.map_err(|source| self.disk(self.folder, source))?;
            progress.done.fetch_add(passed.len() as u64, Ordering::Relaxed);
            right.map_err(|problem| CheckpointError::Shard { file: shard.file.clone(), problem })?;
        }
        let short = || CheckpointError::Shard { file: shard.file.clone(), problem: "it is shorter than its tensors".into() };
        if checked.is_complete() { Ok(()) } else { Err(short()) }
    }

    async fn write(&self, file: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let path = self.folder.join(file);
        crate::write_durably(&path, bytes).map_err(|source| self.disk(&path, source))
    }

    fn disk(&self, path: &Path, source: std::io::Error) -> CheckpointError {
        CheckpointError::Disk { path: path.to_owned(), source }
    }
}
