//! A store whose requests suffer faults.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::upload::FaultyUpload;
use super::{Fault, Faults, Operation};

/// The name under which errors are told.
const NAME: &str = "faults";

/// A store whose requests suffer faults. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    multipart: Option<Arc<dyn MultipartStore>>,
    /// Of the store; objects' addresses are below it.
    address: Arc<str>,
    faults: Faults,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

/// As the stores say it, with the operating system's kind at the bottom.
pub(super) fn failed(kind: ErrorKind) -> Error {
    Error::Generic { store: NAME, source: io::Error::from(kind).into() }
}

fn absent(address: &str, why: &'static str) -> Error {
    Error::NotFound { path: address.to_owned(), source: why.into() }
}

impl Faulty {
    /// `address` is the store's own, without the path of a bucket in it.
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, multipart: Option<Arc<dyn MultipartStore>>, address: &str, faults: Faults) -> Self {
        Self { inner, multipart, address: address.into(), faults }
    }

    fn address_of(&self, path: &Path) -> String {
        format!("{}/{path}", self.address.strip_suffix('/').unwrap_or(&self.address))
    }

    /// Draws a request's faults and suffers those that come before the store hears of it; the others are returned.
    pub(super) async fn before(&self, operation: Operation, path: &Path, bytes: usize) -> Result<Vec<Fault>> {
        let address = self.address_of(path);
        if self.faults.is_busy(&address) {
            return Err(refused(503));
        }
        let drawn = self.faults.draw(operation, &address);
        let mut later = Vec::new();
        for fault in drawn {
            tracing::debug!(address, ?operation, ?fault, "storage: a fault");
            match fault {
                Fault::Delay { seconds, .. } => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
                Fault::Hang => std::future::pending().await,
                Fault::Status { code, retry_after } => {
                    self.faults.keep_busy(&address, retry_after);
                    return Err(refused(code));
                }
                Fault::Reset => return Err(failed(ErrorKind::ConnectionReset)),
                Fault::Gone => return Err(absent(&address, "no such bucket")),
                Fault::Denied => return Err(Error::PermissionDenied { path: address, source: "the credentials are not accepted".into() }),
                Fault::Full if operation == Operation::Put => return Err(failed(ErrorKind::StorageFull)),
                Fault::Cut if operation == Operation::Put => return Err(failed(ErrorKind::ConnectionReset)),
                Fault::Bandwidth { bytes_per_second } if bytes > 0 => {
                    tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_second)).await;
                }
                other => later.push(other),
            }
        }
        Ok(later)
    }

    /// Whether an object is still hidden by `later`; it counts as met now.
    fn is_hidden(&self, path: &Path, later: &[Fault], operation: Operation) -> bool {
        let age = self.faults.age(&self.address_of(path)).as_secs_f64();
        later.iter().any(|fault| match (fault, operation) {
            (Fault::StaleRead { seconds }, Operation::Get) | (Fault::StaleList { seconds }, Operation::List) => age < *seconds,
            _ => false,
        })
    }

    fn multipart(&self) -> Result<&Arc<dyn MultipartStore>> {
        self.multipart.as_ref().ok_or_else(|| Error::NotSupported { source: "parts in any order".into() })
    }
}

/// What a store says that has too much to do.
fn refused(code: u16) -> Error {
    Error::Generic { store: NAME, source: format!("the store answered {code}").into() }
}

/// The answer, unless it is lost.
pub(super) fn after<T>(later: &[Fault], answer: T) -> Result<T> {
    if later.contains(&Fault::AnswerLost) { Err(failed(ErrorKind::ConnectionReset)) } else { Ok(answer) }
}

fn skew(mut meta: ObjectMeta, later: &[Fault]) -> ObjectMeta {
    for fault in later {
        if let Fault::Skew { seconds } = fault {
            let by = Duration::from_secs(seconds.unsigned_abs());
            if *seconds < 0 { meta.last_modified -= by } else { meta.last_modified += by }
        }
    }
    meta
}

/// A body that suffers.
fn suffer(body: BoxStream<'static, Result<Bytes>>, later: &[Fault], length: u64) -> BoxStream<'static, Result<Bytes>> {
    later.iter().fold(body, |body, fault| match *fault {
        Fault::Bandwidth { bytes_per_second } => body
            .then(move |part| async move {
                let bytes = part.as_ref().map_or(0, Bytes::len);
                tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_second)).await;
                part
            })
            .boxed(),
        Fault::Cut => cut(body, length / 2),
        Fault::Corrupt => {
            let mut done = false;
            let once = move |part: Bytes| match done || part.is_empty() {
                true => part,
                false => {
                    done = true;
                    corrupt(part)
                }
            };
            body.map_ok(once).boxed()
        }
        _ => body,
    })
}

/// So many bytes, and then a reset.
fn cut(body: BoxStream<'static, Result<Bytes>>, mut left: u64) -> BoxStream<'static, Result<Bytes>> {
    let some = body.map_ok(move |part| {
        let keep = part.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= keep as u64;
        part.slice(..keep)
    });
    some.chain(stream::once(async { Err(failed(ErrorKind::ConnectionReset)) })).boxed()
}

fn corrupt(part: Bytes) -> Bytes {
    let mut bytes = part.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}

/// The first half of a body.
fn half(payload: &PutPayload) -> PutPayload {
    let whole = Bytes::from(payload.clone());
    whole.slice(..whole.len() / 2).into()
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let later = self.before(Operation::Put, location, payload.content_length()).await?;
        if later.contains(&Fault::PartialWrite) {
            self.inner.put_opts(location, half(&payload), opts).await?;
            return Err(failed(ErrorKind::ConnectionReset));
        }
        let mut done = self.inner.put_opts(location, payload.clone(), opts.clone()).await;
        if later.contains(&Fault::Duplicate) {
            done = self.inner.put_opts(location, payload, opts).await;
        }
        after(&later, done?)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let later = self.before(Operation::Put, location, 0).await?;
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        after(&later, Box::new(FaultyUpload::new(upload, self.clone(), location.clone())) as Box<dyn MultipartUpload>)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let later = self.before(Operation::Get, location, 0).await?;
        let found = self.inner.get_opts(location, options).await?;
        if self.is_hidden(location, &later, Operation::Get) {
            return Err(absent(&self.address_of(location), "not seen yet"));
        }
        let (meta, range, attributes, extensions) =
            (skew(found.meta.clone(), &later), found.range.clone(), found.attributes.clone(), found.extensions.clone());
        let body = suffer(found.into_stream(), &later, range.end - range.start);
        after(&later, GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                let later = store.before(Operation::Delete, &location, 0).await?;
                store.inner.delete(&location).await?;
                after(&later, location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let later = store.before(Operation::List, prefix.as_ref().unwrap_or(&Path::default()), 0).await?;
            let found = store.inner.list(prefix.as_ref());
            let seen = found.try_filter_map(move |meta| {
                let hidden = store.is_hidden(&meta.location, &later, Operation::List);
                let meta = skew(meta, &later);
                async move { Ok((!hidden).then_some(meta)) }
            });
            Ok::<_, Error>(seen)
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let later = self.before(Operation::List, prefix.unwrap_or(&Path::default()), 0).await?;
        let mut found = self.inner.list_with_delimiter(prefix).await?;
        found.objects.retain(|meta| !self.is_hidden(&meta.location, &later, Operation::List));
        after(&later, found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let later = self.before(Operation::Put, to, 0).await?;
        self.inner.copy_opts(from, to, options).await?;
        after(&later, ())
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let later = self.before(Operation::Put, path, 0).await?;
        let id = self.multipart()?.create_multipart(path).await?;
        after(&later, id)
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part_idx: usize, data: PutPayload) -> Result<PartId> {
        let later = self.before(Operation::Put, path, data.content_length()).await?;
        let store = self.multipart()?;
        if later.contains(&Fault::PartialWrite) {
            store.put_part(path, id, part_idx, half(&data)).await?;
            return Err(failed(ErrorKind::ConnectionReset));
        }
        let mut part = store.put_part(path, id, part_idx, data.clone()).await;
        if later.contains(&Fault::Duplicate) {
            part = store.put_part(path, id, part_idx, data).await;
        }
        after(&later, part?)
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let later = self.before(Operation::Put, path, 0).await?;
        let done = self.multipart()?.complete_multipart(path, id, parts).await?;
        after(&later, done)
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.before(Operation::Delete, path, 0).await?;
        self.multipart()?.abort_multipart(path, id).await
    }
}
