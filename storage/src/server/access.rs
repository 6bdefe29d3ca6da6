//! Who may do what: signatures are checked by `s3s`, here is whose they are and what they open.

use std::sync::Arc;

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use super::Reading;
use super::keys::Keys;

/// The door: every request passes it before anything of it is acted on.
pub(super) struct Gate {
    pub(super) keys: Arc<Keys>,
    pub(super) reading: Reading,
}

#[async_trait::async_trait]
impl S3Auth for Gate {
    async fn get_secret_key(&self, access: &str) -> S3Result<SecretKey> {
        let key = self.keys.get(access).ok_or_else(|| s3_error!(InvalidAccessKeyId, "this key is not known, or no longer"))?;
        Ok(key.secret.into())
    }
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if is_version_2(request) {
            return Err(s3_error!(AccessDenied, "only version 4 signatures are taken"));
        }
        let key = request.credentials().and_then(|credentials| self.keys.get(&credentials.access_key));
        match (kind(request.s3_op().name()), key) {
            (Kind::Read, None) if self.reading == Reading::Signed => Err(s3_error!(AccessDenied, "this server wants every request signed")),
            (Kind::Read, _) => Ok(()),
            (Kind::Write, Some(key)) if request.s3_path().get_bucket_name() == Some(key.bucket.as_str()) => Ok(()),
            (Kind::Write, Some(_)) => Err(s3_error!(AccessDenied, "this key writes another bucket")),
            (Kind::Write, None) => Err(s3_error!(AccessDenied, "writing needs a key")),
            (Kind::Other, _) => Err(s3_error!(NotImplemented, "this server does not do that")),
        }
    }
}

enum Kind {
    Read,
    Write,
    Other,
}

fn kind(operation: &str) -> Kind {
    match operation {
        "GetObject" | "HeadObject" | "ListObjectsV2" | "HeadBucket" | "GetBucketLocation" | "ListBuckets" => Kind::Read,
        "PutObject" | "DeleteObject" | "DeleteObjects" => Kind::Write,
        "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload" | "AbortMultipartUpload" => Kind::Write,
        // unfinished uploads are their owner's affair
        "ListParts" | "ListMultipartUploads" => Kind::Write,
        _ => Kind::Other,
    }
}

/// Signatures of version 2 say nothing of the body, and their age is not checked.
fn is_version_2(request: &S3AccessContext<'_>) -> bool {
    let header = request.headers().get("authorization").is_some_and(|value| !value.as_bytes().starts_with(b"AWS4-"));
    let query = request.uri().query().unwrap_or_default();
    header || url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "Signature" || name == "AWSAccessKeyId")
}
