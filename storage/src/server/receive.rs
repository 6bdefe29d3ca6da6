//! Bodies of requests: received into a file with bounded memory and patience, or read to their end when nobody wants them.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, poll_fn};
use hyper::body::{Body, Frame, Incoming as HttpBody, SizeHint};
use hyper::service::Service;
use hyper::{Request, Response};
use s3s::dto::StreamingBlob;
use s3s::service::S3Service;
use s3s::{HttpError, S3Result, s3_error};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::disk::{Charge, Disk, Incoming, told};

/// The longest silence within a body.
const SILENCE: Duration = Duration::from_secs(60);
/// The largest object or part that one request may bring, as on S3.
const MAX_BODY: u64 = 5 << 30;
/// How much of a body that nobody wants is read, and for how long.
const MAX_DRAINED: usize = 64 << 20;
const DRAINING: Duration = Duration::from_secs(10);

/// Receives a body beside the bucket and makes it durable; `length` is what its sender announced.
pub(super) async fn receive(disk: &Arc<Disk>, mut charge: Charge, body: Option<StreamingBlob>, length: Option<i64>) -> S3Result<Incoming> {
    let length = length.map(u64::try_from).transpose().map_err(|_| s3_error!(InvalidArgument, "the length is negative"))?;
    if length.is_some_and(|length| length > MAX_BODY) {
        return Err(s3_error!(EntityTooLarge));
    }
    // what is announced is charged before it is received
    charge.add(length.unwrap_or(0))?;
    let mut incoming = disk.incoming(charge).map_err(told)?;
    let mut file = tokio::fs::File::from_std(incoming.file.try_clone().map_err(told)?);
    let (mut body, mut received) = (body, 0u64);
    while let Some(part) = next(&mut body).await? {
        received += part.len() as u64;
        match length {
            Some(length) if received > length => return Err(s3_error!(IncompleteBody, "the body is longer than announced")),
            Some(_) => {}
            None if received > MAX_BODY => return Err(s3_error!(EntityTooLarge)),
            None => incoming.charge.add(part.len() as u64)?,
        }
        file.write_all(&part).await.map_err(told)?;
    }
    file.flush().await.map_err(told)?;
    if length.is_some_and(|length| length != received) {
        return Err(s3_error!(IncompleteBody, "the body is shorter than announced"));
    }
    let disk = disk.clone();
    super::api::blocking(move || disk.finish(&incoming).map(|()| incoming).map_err(told)).await
}

async fn next(body: &mut Option<StreamingBlob>) -> S3Result<Option<Bytes>> {
    let Some(body) = body else { return Ok(None) };
    match timeout(SILENCE, body.next()).await {
        Ok(Some(Ok(part))) => Ok(Some(part)),
        Ok(None) => Ok(None),
        // among others a body that does not have the hash which was signed
        Ok(Some(Err(error))) => Err(s3_error!(BadDigest, "the body broke off or is not what was signed: {error}")),
        Err(_) => Err(s3_error!(RequestTimeout)),
    }
}

/// A service that reads a request's body to its end before it answers, even if it refuses the request: a client that is still sending
/// when its connection closes would never see the answer.
#[derive(Clone, Debug)]
pub(super) struct Drained(pub(super) S3Service);

impl Service<Request<HttpBody>> for Drained {
    type Response = Response<s3s::Body>;
    type Error = HttpError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, request: Request<HttpBody>) -> Self::Future {
        let (service, rest) = (self.0.clone(), Rest::default());
        let home = rest.clone();
        let request = request.map(|body| s3s::Body::http_body(Lent { body: Some(body), home }));
        Box::pin(async move {
            let answer = service.call(request).await;
            let left = rest.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(body) = left {
                let _ = timeout(DRAINING, drain(body)).await;
            }
            answer
        })
    }
}

/// Where the unread rest of a body is left.
type Rest = Arc<Mutex<Option<HttpBody>>>;

/// A body that goes home when it is dropped.
struct Lent {
    body: Option<HttpBody>,
    home: Rest,
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

async fn drain(mut body: HttpBody) {
    let mut read = 0;
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_DRAINED {
            return;
        }
    }
}
