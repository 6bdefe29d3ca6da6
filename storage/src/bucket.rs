//! A bucket: where objects of a run lie, behind typed keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{Error as StoreError, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};
use protocol::ObjectKey;
use url::Url;

use crate::budget::{Budget, LARGEST_PART};
use crate::error::{Cause, Failure, StorageError};
use crate::faults::{Faults, Faulty};
use crate::limits::Limits;
use crate::open::{self, Access};

/// The longest file name in a key, in bytes.
const MAX_NAME: usize = 128;

/// A folder of an object store. Cheap to clone; clones and sub-folders count their traffic together.
#[derive(Clone)]
pub struct Bucket {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The same store, if it takes an object's parts in any order.
    pub(crate) multipart: Option<Arc<dyn MultipartStore>>,
    url: Url,
    prefix: Path,
    writable: bool,
    pub(crate) limits: Limits,
    pub(crate) budget: Budget,
    traffic: Arc<Counters>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("url", &self.url()).field("writable", &self.writable).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Counters {
    up: AtomicU64,
    down: AtomicU64,
}

/// Bytes of objects that went through a bucket, repeated attempts included, protocol overhead not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes written.
    pub up: u64,
    /// Bytes read.
    pub down: u64,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its path, relative to the bucket.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

impl Bucket {
    /// Opens `file:///folder` or a plain path, `memory:///name` (shared within the process, for tests), `s3://bucket/path` (with
    /// `?region=` and `?endpoint=`), `gs://`, `az://` or `https://`. Remote stores are not contacted yet.
    ///
    /// # Errors
    /// [`StorageError::BadUrl`], and [`StorageError::Unreachable`] for a local folder that is missing or cannot be created.
    pub fn open(address: &str, access: Access) -> Result<Self, StorageError> {
        let url = open::parse(address, access)?;
        let open::Opened { store, multipart, prefix } = open::connect(&url, access)?;
        // others' buckets can be done without for a while, one's own cannot
        let limits = if access == Access::Own { Limits::default().persistent() } else { Limits::default() };
        Ok(Self { multipart, prefix, limits, writable: access == Access::Own, ..Self::over(store, url) })
    }

    /// A writable bucket over any store, such as a decorator that injects faults. `url` serves messages only.
    pub fn over(store: Arc<dyn ObjectStore>, url: Url) -> Self {
        Self {
            store,
            multipart: None,
            url,
            prefix: Path::default(),
            writable: true,
            limits: Limits::default(),
            budget: Budget::default(),
            traffic: Arc::default(),
        }
    }

    /// The same bucket, whose store takes an object's parts in any order through `multipart`.
    #[must_use]
    pub fn with_multipart(self, multipart: Arc<dyn MultipartStore>) -> Self {
        Self { multipart: Some(multipart), ..self }
    }

    /// The same bucket under other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same bucket, whose transfers share `budget` with others.
    #[must_use]
    pub fn with_budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// The same bucket, whose requests suffer `faults`.
    #[must_use]
    pub fn with_faults(self, faults: &Faults) -> Self {
        let mut store_url = self.url.clone();
        let below = self.prefix.to_string();
        if let Some(root) = store_url.path().trim_end_matches('/').strip_suffix(&below) {
            let root = root.to_owned();
            store_url.set_path(&root);
        }
        store_url.set_query(None);
        let faulty = Arc::new(Faulty::new(self.store, self.multipart.clone(), store_url.as_str(), faults.clone()));
        let multipart = self.multipart.map(|_| faulty.clone() as Arc<dyn MultipartStore>);
        Self { store: faulty, multipart, ..self }
    }

    /// A sub-folder; characters that could lead out of it are escaped.
    #[must_use]
    pub fn join(&self, folder: &str) -> Self {
        let mut bucket = self.clone();
        bucket.prefix = Path::from_iter(self.prefix.parts().chain(Path::from(folder).parts()));
        if let Ok(mut segments) = bucket.url.path_segments_mut() {
            segments.pop_if_empty().extend(Path::from(folder).parts().map(|part| part.as_ref().to_owned()));
        }
        bucket
    }

    /// The bucket's address.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Bytes moved since the bucket was opened.
    pub fn traffic(&self) -> Traffic {
        Traffic { up: self.traffic.up.load(Ordering::Relaxed), down: self.traffic.down.load(Ordering::Relaxed) }
    }

    /// Reads an object of at most `cap` bytes; `None` if there is none. A larger one is refused before its bytes are read.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`], [`StorageError::BadName`], [`StorageError::Denied`], [`StorageError::Unreachable`].
    pub async fn get(&self, key: &ObjectKey, cap: u64) -> Result<Option<Bytes>, StorageError> {
        let (path, url) = self.locate(key)?;
        self.limits.run(&url, cap, || self.try_get(&path, &url, cap)).await
    }

    /// Creates an object. If the same bytes are there already, that is success, so a write may be repeated after any failure.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] if other bytes are there (of many creators exactly one wins), [`StorageError::ReadOnly`],
    /// [`StorageError::Full`], [`StorageError::BadName`], [`StorageError::Denied`], [`StorageError::Gone`], [`StorageError::Unsupported`],
    /// [`StorageError::Unreachable`].
    pub async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StorageError> {
        let (path, url) = self.locate(key)?;
        self.check_writable(&url)?;
        self.limits.run(&url, bytes.len() as u64, || self.try_put(&path, &url, &bytes)).await
    }

    /// An object's size in bytes; `None` if there is none.
    ///
    /// # Errors
    /// [`StorageError::BadName`], [`StorageError::Denied`], [`StorageError::Unreachable`].
    pub async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, StorageError> {
        let (path, url) = self.locate(key)?;
        let attempt = || async {
            match self.store.head(&path).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(StoreError::NotFound { .. }) => Ok(None),
                Err(error) => Err(Failure::of(&url, error)),
            }
        };
        self.limits.run(&url, 0, attempt).await
    }

    /// Deletes an object, if there is one.
    ///
    /// # Errors
    /// [`StorageError::ReadOnly`], [`StorageError::BadName`], [`StorageError::Denied`], [`StorageError::Unreachable`].
    pub async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let (path, url) = self.locate(key)?;
        self.check_writable(&url)?;
        let attempt = || async {
            match self.store.delete(&path).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
                Err(error) => Err(Failure::of(&url, error)),
            }
        };
        self.limits.run(&url, 0, attempt).await
    }

    /// Paths of up to `limit` objects in and below `folder` (empty for the whole bucket), relative to the bucket, sorted.
    /// Plain HTTPS servers usually cannot list.
    ///
    /// # Errors
    /// [`StorageError::Denied`], [`StorageError::Unsupported`], [`StorageError::Unreachable`].
    pub async fn list(&self, folder: &str, limit: usize) -> Result<Vec<String>, StorageError> {
        let below = self.join(folder);
        let attempt = || async {
            let found = self.store.list(Some(&below.prefix));
            let found = found.take(limit).map_ok(|meta| self.relative(&meta.location));
            let mut paths: Vec<String> = found.try_collect().await.map_err(|error| Failure::of(below.url(), error))?;
            paths.sort_unstable();
            Ok(paths)
        };
        self.limits.run(below.url(), 0, attempt).await
    }

    /// All objects in and below `folder` (empty for the whole bucket) with their sizes, in no particular order, however many there are: one
    /// page of the store's is in memory at a time. A page that fails ends the listing with the error; whoever needs it whole asks again.
    ///
    /// # Errors
    /// Each item: [`StorageError::Denied`], [`StorageError::Unsupported`], [`StorageError::Unreachable`].
    pub fn list_sized(&self, folder: &str) -> BoxStream<'_, Result<Listed, StorageError>> {
        let below = self.join(folder);
        let found = self.store.list(Some(&below.prefix));
        let next = move |(below, rest): (Self, Option<BoxStream<'static, object_store::Result<ObjectMeta>>>)| async move {
            let mut rest = rest?;
            let failed = |failure| match failure {
                Failure::Final(error) => error,
                Failure::Transient(source) => StorageError::Unreachable { url: below.url().to_owned(), attempts: 1, source },
            };
            match tokio::time::timeout(self.limits.deadline, rest.next()).await {
                Ok(None) => None,
                Ok(Some(Ok(meta))) => Some((Ok(Listed { path: self.relative(&meta.location), bytes: meta.size }), (below, Some(rest)))),
                Ok(Some(Err(error))) => Some((Err(failed(Failure::of(below.url(), error))), (below, None))),
                Err(_) => {
                    let late = Cause::from(format!("no page within {:?}", self.limits.deadline));
                    Some((Err(failed(Failure::Transient(late))), (below, None)))
                }
            }
        };
        stream::unfold((below, Some(found)), next).boxed()
    }

    fn relative(&self, path: &Path) -> String {
        path.prefix_match(&self.prefix).map_or_else(|| path.to_string(), |parts| Path::from_iter(parts).to_string())
    }

    pub(crate) fn check_writable(&self, url: &str) -> Result<(), StorageError> {
        if self.writable { Ok(()) } else { Err(StorageError::ReadOnly { url: url.to_owned() }) }
    }

    /// Counts bytes on their way to the store.
    pub(crate) fn count_up(&self, bytes: u64) {
        self.traffic.up.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Where an object lies in the store, and its address for messages.
    pub(crate) fn locate(&self, key: &ObjectKey) -> Result<(Path, String), StorageError> {
        if let ObjectKey::Dataset(file) | ObjectKey::Checkpoint { file, .. } = key {
            check_name(file)?;
        }
        let below = self.join(&key.to_string());
        Ok((below.prefix, below.url.into()))
    }

    async fn try_get(&self, path: &Path, url: &str, cap: u64) -> Result<Option<Bytes>, Failure> {
        let found = match self.store.get(path).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(Failure::of(url, error)),
        };
        let size = found.meta.size;
        if size > cap {
            return Err(StorageError::TooLarge { url: url.to_owned(), size, cap }.into());
        }
        self.collect(found, url, size).await.map(Some)
    }

    /// Reads a body of exactly `size` bytes. Beyond a part's memory grows with what arrives, not with what was announced.
    pub(crate) async fn collect(&self, found: GetResult, url: &str, size: u64) -> Result<Bytes, Failure> {
        let mut body = BytesMut::with_capacity(size.min(LARGEST_PART) as usize);
        let mut stream = found.into_stream();
        while let Some(part) = stream.try_next().await.map_err(|error| Failure::of(url, error))? {
            self.traffic.down.fetch_add(part.len() as u64, Ordering::Relaxed);
            body.extend_from_slice(&part);
            if body.len() as u64 > size {
                break;
            }
        }
        if body.len() as u64 == size {
            Ok(body.freeze())
        } else {
            Err(Failure::Transient(Cause::from(format!("{} bytes came of {size}", body.len()))))
        }
    }

    async fn try_put(&self, path: &Path, url: &str, bytes: &Bytes) -> Result<(), Failure> {
        let result = self.store.put_opts(path, bytes.clone().into(), PutMode::Create.into()).await;
        self.count_up(bytes.len() as u64);
        let error = match result {
            Ok(_) => return Ok(()),
            Err(error @ (StoreError::AlreadyExists { .. } | StoreError::Precondition { .. })) => error,
            Err(error) => return Err(Failure::of(url, error)),
        };
        match self.try_get(path, url, bytes.len() as u64).await {
            Ok(Some(there)) if there == *bytes => Ok(()),
            Ok(Some(_)) | Err(Failure::Final(StorageError::TooLarge { .. })) => Err(StorageError::Conflict { url: url.to_owned() }.into()),
            // deleted in between
            Ok(None) => Err(Failure::Transient(error.into())),
            Err(failure) => Err(failure),
        }
    }
}

/// Whether a file name is safe in every store: no separators, no escapes, no hidden or temporary files.
fn check_name(name: &str) -> Result<(), StorageError> {
    let safe = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if safe && (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('.') {
        Ok(())
    } else {
        Err(StorageError::BadName(name.to_owned()))
    }
}
