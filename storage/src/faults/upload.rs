//! An upload in parts, in order, that suffers faults.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use tokio::sync::Mutex;

use super::Operation;
use super::store::{Faulty, after};

/// An upload whose requests suffer faults. A part that is lost on its way breaks the upload, as with the store itself.
#[derive(Debug)]
pub(super) struct FaultyUpload {
    inner: Arc<Mutex<Box<dyn MultipartUpload>>>,
    store: Faulty,
    path: Path,
}

impl FaultyUpload {
    pub(super) fn new(inner: Box<dyn MultipartUpload>, store: Faulty, path: Path) -> Self {
        Self { inner: Arc::new(Mutex::new(inner)), store, path }
    }
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (inner, store, path) = (self.inner.clone(), self.store.clone(), self.path.clone());
        async move {
            let later = store.before(Operation::Put, &path, data.content_length()).await?;
            let part = inner.lock().await.put_part(data);
            after(&later, part.await?)
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let later = self.store.before(Operation::Put, &self.path, 0).await?;
        let done = self.inner.lock().await.complete().await?;
        after(&later, done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.before(Operation::Delete, &self.path, 0).await?;
        self.inner.lock().await.abort().await
    }
}
