//! Faults as decorators around real stores.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It fails before it reaches the store.
    Lost,
    /// It succeeds, and its answer is lost.
    AnswerLost,
    /// The body ends early.
    Truncated,
    /// It hangs this long first.
    Delayed(Duration),
    /// The disk is full.
    DiskFull,
    /// The store refuses.
    Denied,
}

/// A store whose first requests suffer the given faults, one each.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Mutex<VecDeque<Fault>>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn ObjectStore>, faults: impl IntoIterator<Item = Fault>) -> Self {
        Self { inner, faults: Mutex::new(faults.into_iter().collect()) }
    }

    /// Suffers the next fault's first half; returns the fault for its second.
    async fn suffer(&self) -> Result<Option<Fault>> {
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            Some(Fault::Lost) => Err(generic(io::ErrorKind::ConnectionReset)),
            Some(Fault::DiskFull) => Err(generic(io::ErrorKind::StorageFull)),
            Some(Fault::Denied) => Err(Error::PermissionDenied { path: String::new(), source: "denied".into() }),
            Some(Fault::Delayed(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            _ => Ok(fault),
        }
    }
}

/// An error as the local store nests it.
fn generic(kind: io::ErrorKind) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error("unable to copy data to file")]
    struct Wrapped(#[source] io::Error);
    Error::Generic { store: "Faulty", source: Wrapped(kind.into()).into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let fault = self.suffer().await?;
        let done = self.inner.put_opts(location, payload, opts).await?;
        match fault {
            Some(Fault::AnswerLost) => Err(generic(io::ErrorKind::ConnectionReset)),
            _ => Ok(done),
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.suffer().await?;
        let mut found = self.inner.get_opts(location, options).await?;
        if let Some(Fault::Truncated) = fault {
            let half = found.meta.size / 2;
            let parts = found.into_stream().map(move |part| part.map(|b| b.slice(..b.len().min(half as usize)))).boxed();
            found = self.inner.get_opts(location, GetOptions::default()).await?;
            found.payload = GetResultPayload::Stream(parts);
        }
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
