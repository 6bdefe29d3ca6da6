//! Objects as files: charged to their bucket, put in place in one step, named so that no key leads out.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use s3s::dto::{ETag, ETagCondition};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use super::listing;

const INCOMING: &str = ".incoming";
const UPLOADS: &str = ".uploads";
/// What even an empty file takes of a quota; also the unit of charging, as of most file systems.
const BLOCK: u64 = 4096;
/// The longest name that file systems take.
const MAX_NAME: usize = 255;

/// The served folder.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    buckets: Mutex<HashMap<String, Arc<Bucket>>>,
    /// The newest modification time given out, in nanoseconds since 1970.
    newest: AtomicU64,
}

/// A bucket's folder.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Where its objects lie.
    pub(super) objects: PathBuf,
    /// Where its unfinished uploads lie.
    pub(super) uploads: PathBuf,
    /// Bytes charged. Held while a name changes hands, so that a condition and what it allows are one step.
    used: Mutex<u64>,
}

impl Disk {
    /// Removes what an earlier process was receiving and abandoned uploads.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let incoming = dir.join(INCOMING);
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&incoming)?,
        }
        super::uploads::tidy(&dir.join(UPLOADS))?;
        Ok(Self { dir: dir.to_owned(), buckets: Mutex::default(), newest: AtomicU64::new(0) })
    }

    /// A bucket by its name, which `s3s` has checked: it has no separator and does not start with a dot.
    pub(super) fn bucket(&self, name: &str) -> S3Result<Arc<Bucket>> {
        let mut buckets = lock(&self.buckets);
        if let Some(bucket) = buckets.get(name) {
            return Ok(bucket.clone());
        }
        let (objects, uploads) = (self.dir.join(name), self.dir.join(UPLOADS).join(name));
        if !fs::symlink_metadata(&objects).is_ok_and(|meta| meta.is_dir()) {
            return Err(s3_error!(NoSuchBucket, "there is no such bucket"));
        }
        let used = usage(&objects).and_then(|used| Ok(used + usage(&uploads)?)).map_err(told)?;
        let bucket = Arc::new(Bucket { objects, uploads, used: Mutex::new(used) });
        buckets.insert(name.to_owned(), bucket.clone());
        Ok(bucket)
    }

    /// Names of all buckets, with the time that each was made or last changed at its top.
    pub(super) fn names(&self) -> io::Result<Vec<(String, SystemTime)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && s3s::path::check_bucket_name(&name)
                && entry.file_type()?.is_dir()
            {
                names.push((name, entry.metadata()?.modified()?));
            }
        }
        names.sort();
        Ok(names)
    }

    /// A new file beside the buckets, for bytes charged to `charge`.
    pub(super) fn incoming(&self, charge: Charge) -> io::Result<Incoming> {
        let path = self.dir.join(INCOMING).join(format!("{:x}", self.stamp()));
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(Incoming { file, path, charge })
    }

    /// A time that no other file of this server has, so that an ETag made of it is unique.
    fn stamp(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let later = |newest: u64| Some(now.max(newest + 1));
        self.newest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).map_or(now, |newest| now.max(newest + 1))
    }

    /// Makes a received file durable under its own modification time.
    pub(super) fn finish(&self, incoming: &Incoming) -> io::Result<()> {
        incoming.file.set_modified(UNIX_EPOCH + Duration::from_nanos(self.stamp()))?;
        incoming.file.sync_all()
    }
}

/// Bytes that are charged to a bucket while they are received; given back unless [`Charge::keep`] is called.
#[derive(Debug)]
pub(super) struct Charge {
    bucket: Arc<Bucket>,
    quota: Option<u64>,
    bytes: u64,
    charged: u64,
}

impl Charge {
    /// Charges the first block.
    pub(super) fn new(bucket: Arc<Bucket>, quota: Option<u64>) -> S3Result<Self> {
        let mut charge = Self { bucket, quota, bytes: 0, charged: 0 };
        charge.add(0)?;
        Ok(charge)
    }

    /// Charges `bytes` more.
    pub(super) fn add(&mut self, bytes: u64) -> S3Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        let more = blocks(self.bytes).saturating_sub(self.charged);
        let mut used = lock(&self.bucket.used);
        if self.quota.is_some_and(|quota| used.saturating_add(more) > quota) {
            let code = S3ErrorCode::Custom("QuotaExceeded".into());
            let mut full = S3Error::with_message(code, "the bucket's quota is used up; delete something first");
            full.set_status_code(hyper::StatusCode::FORBIDDEN);
            return Err(full);
        }
        *used += more;
        self.charged += more;
        Ok(())
    }

    /// Leaves the bytes charged: they are in place.
    pub(super) fn keep(&mut self) {
        self.charged = 0;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut used = lock(&self.bucket.used);
        *used = used.saturating_sub(self.charged);
    }
}

/// A file that is being received; removed unless it is put in place.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) file: File,
    path: PathBuf,
    pub(super) charge: Charge,
}

impl Incoming {
    /// Gives the file its place.
    pub(super) fn place(&mut self, at: &Path) -> io::Result<()> {
        fs::rename(&self.path, at)?;
        self.charge.keep();
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // once in place there is nothing here any more; what stays is removed at the next start
        let _ = fs::remove_file(&self.path);
    }
}

/// A key whose parts are plain file names, so that it stays inside its bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectPath(String);

impl ObjectPath {
    pub(super) fn parse(key: &str) -> S3Result<Self> {
        let fine = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.chars().any(char::is_control);
        if key.len() > 1024 || key.split('/').any(|part| part.len() > MAX_NAME) {
            Err(s3_error!(KeyTooLongError))
        } else if key.split('/').all(fine) {
            Ok(Self(key.to_owned()))
        } else {
            Err(s3_error!(InvalidArgument, "this server takes no key with an empty or hidden part or a control character"))
        }
    }
}

impl Deref for ObjectPath {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// What must hold of an object for a write to happen.
#[derive(Clone, Debug, Default)]
pub(super) struct Condition {
    /// `If-Match`.
    pub(super) matches: Option<ETagCondition>,
    /// `If-None-Match`.
    pub(super) differs: Option<ETagCondition>,
}

impl Condition {
    /// Whether it holds of what is there.
    fn check(&self, there: Option<&ETag>) -> S3Result<()> {
        let equal = |condition: &ETagCondition| there.is_some_and(|tag| condition.as_etag().is_none_or(|wanted| wanted == tag));
        match (&self.matches, &self.differs) {
            (Some(_), _) if there.is_none() => Err(s3_error!(NoSuchKey)),
            (Some(wanted), _) if !equal(wanted) => Err(s3_error!(PreconditionFailed, "the object is another one")),
            (_, Some(unwanted)) if equal(unwanted) => Err(s3_error!(PreconditionFailed, "the object is there already")),
            _ => Ok(()),
        }
    }
}

impl Bucket {
    /// Gives a received file its name, if `condition` holds of what has that name now.
    pub(super) fn commit(&self, key: &ObjectPath, mut incoming: Incoming, condition: &Condition) -> S3Result<ETag> {
        let (path, tag) = (self.path(key), etag(&incoming.file.metadata().map_err(told)?));
        let mut used = lock(&self.used);
        let there = present(&path)?;
        condition.check(there.as_ref().map(etag).as_ref())?;
        let made = self.make_folders(&path).map_err(told)?;
        incoming.place(&path).map_err(told)?;
        *used = used.saturating_sub(there.map_or(0, |meta| blocks(meta.len())));
        drop(used);
        self.sync_folders(&path, made).map_err(told)?;
        Ok(tag)
    }

    /// Opens an object.
    pub(super) fn read(&self, key: &ObjectPath) -> S3Result<(File, Metadata)> {
        let path = self.path(key);
        present(&path)?.ok_or_else(|| s3_error!(NoSuchKey))?;
        let file = File::open(path).map_err(told)?;
        let meta = file.metadata().map_err(told)?;
        Ok((file, meta))
    }

    /// Deletes an object, if there is one and `condition` holds of it, and the folders that it leaves empty.
    pub(super) fn delete(&self, key: &ObjectPath, condition: &Condition) -> S3Result<()> {
        let path = self.path(key);
        let mut used = lock(&self.used);
        let Some(there) = present(&path)? else { return Ok(()) };
        condition.check(Some(&etag(&there)))?;
        fs::remove_file(&path).map_err(told)?;
        *used = used.saturating_sub(blocks(there.len()));
        for folder in self.folders(&path) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Puts a received file at `path`, which is no object's, in place of what is there.
    pub(super) fn replace(&self, path: &Path, mut incoming: Incoming) -> io::Result<()> {
        let mut used = lock(&self.used);
        let there = fs::symlink_metadata(path).ok();
        incoming.place(path)?;
        *used = used.saturating_sub(there.map_or(0, |meta| blocks(meta.len())));
        Ok(())
    }

    /// Removes a folder with all its files, which no object is in, and gives back what they were charged.
    pub(super) fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        let freed = usage(folder)?;
        fs::remove_dir_all(folder)?;
        let mut used = lock(&self.used);
        *used = used.saturating_sub(freed);
        Ok(())
    }

    /// One page of the bucket's objects.
    pub(super) fn list(&self, query: &listing::Query) -> io::Result<listing::Page> {
        listing::list(&self.objects, query)
    }

    fn path(&self, key: &ObjectPath) -> PathBuf {
        self.objects.join(&**key)
    }

    /// The folders between a file and its bucket's own, innermost first.
    fn folders<'a>(&self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        path.ancestors().skip(1).take_while(|folder| *folder != self.objects)
    }

    /// Makes the folders that an object needs; whether any was missing.
    fn make_folders(&self, path: &Path) -> io::Result<bool> {
        let missing = path.parent().is_some_and(|folder| !folder.is_dir());
        if missing {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
        }
        Ok(missing)
    }

    /// Makes a name durable, and with `all` the names of its folders.
    fn sync_folders(&self, path: &Path, all: bool) -> io::Result<()> {
        let folders = self.folders(path).chain([&*self.objects]);
        for folder in folders.take(if all { usize::MAX } else { 1 }) {
            match File::open(folder).and_then(|folder| folder.sync_all()) {
                // deleted meanwhile, and the object with it
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// The object at `path`; `None` if there is none, be it that a folder is there or a part of the key is an object.
fn present(path: &Path) -> S3Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta).filter(Metadata::is_file)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(told(error)),
    }
}

/// An object's ETag. Every file that a server received has a modification time of its own.
pub(super) fn etag(meta: &Metadata) -> ETag {
    let since = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    ETag::Strong(format!("{:016x}-{:x}", since.as_nanos(), meta.len()))
}

/// What a file of `bytes` bytes is charged.
fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).max(1).saturating_mul(BLOCK)
}

/// What the files in and below `folder` are charged.
fn usage(folder: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut sum = 0;
    for entry in entries {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { usage(&entry.path())? } else { blocks(entry.metadata()?.len()) };
    }
    Ok(sum)
}

/// A system's error as S3's.
pub(super) fn told(error: io::Error) -> S3Error {
    match error.kind() {
        io::ErrorKind::NotFound => s3_error!(NoSuchKey),
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
            s3_error!(InvalidRequest, "a name cannot be an object and a folder of others at once here")
        }
        io::ErrorKind::InvalidFilename => s3_error!(KeyTooLongError),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let mut full = S3Error::with_message(S3ErrorCode::Custom("InsufficientStorage".into()), "the server's disk is full");
            full.set_status_code(hyper::StatusCode::INSUFFICIENT_STORAGE);
            full
        }
        _ => {
            tracing::error!(%error, "the server's disk");
            s3_error!(InternalError, "the server's disk fails")
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
