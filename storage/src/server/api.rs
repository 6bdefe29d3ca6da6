//! S3's operations, as the trait of `s3s` has them.

use std::fs::{File, Metadata};
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::disk::{Bucket as Folder, Charge, Condition, Disk, ObjectPath, etag, told};
use super::keys::Keys;
use super::listing::{Entry, Query};
use super::receive::receive;
use super::uploads::{self, MAX_PARTS, Plan, condition};

/// The most entries of a page, as on S3.
const MAX_PAGE: i32 = 1000;
/// Bytes read from an object at a time.
const CHUNK: usize = 256 << 10;

/// The server's operations.
pub(super) struct Api {
    pub(super) disk: Arc<Disk>,
    pub(super) keys: Arc<Keys>,
    pub(super) smallest_part: u64,
}

/// Runs what waits for the disk where waiting does no harm.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> S3Result<T> + Send + 'static) -> S3Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(told(io::Error::other(error))),
    }
}

impl Api {
    async fn bucket(&self, name: String) -> S3Result<Arc<Folder>> {
        let disk = self.disk.clone();
        blocking(move || disk.bucket(&name)).await
    }

    /// What the key that signed a request may have in its bucket. The gate lets nobody write without one.
    fn quota<T>(&self, request: &S3Request<T>) -> S3Result<Option<u64>> {
        let access = request.credentials.as_ref().map(|credentials| credentials.access_key.as_str());
        let key = access.and_then(|access| self.keys.get(access)).ok_or_else(|| s3_error!(AccessDenied, "writing needs a key"))?;
        Ok(key.quota)
    }
}

#[async_trait::async_trait]
impl S3 for Api {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let quota = self.quota(&request)?;
        let PutObjectInput { bucket, key, body, content_length, if_match, if_none_match, .. } = request.input;
        let (key, condition) = (ObjectPath::parse(&key)?, condition(if_match, if_none_match)?);
        let bucket = self.bucket(bucket).await?;
        let incoming = receive(&self.disk, Charge::new(bucket.clone(), quota)?, body, content_length).await?;
        let tag = blocking(move || bucket.commit(&key, incoming, &condition)).await?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(tag), ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let key = ObjectPath::parse(&input.key)?;
        let bucket = self.bucket(input.bucket).await?;
        let (file, meta) = blocking(move || bucket.read(&key)).await?;
        let modified = modified(&meta)?;
        let condition = Condition { matches: input.if_match, differs: input.if_none_match };
        Wanted { condition, since: input.if_modified_since, until: input.if_unmodified_since }.check(&etag(&meta), &modified)?;
        let range = input.range.map(|range| range.check(meta.len())).transpose().map_err(|_| s3_error!(InvalidRange))?;
        let content_range = range.as_ref().map(|range| format!("bytes {}-{}/{}", range.start, range.end - 1, meta.len()));
        let range = range.unwrap_or(0..meta.len());
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(length(range.end - range.start)?),
            content_range,
            e_tag: Some(etag(&meta)),
            last_modified: Some(modified),
            body: Some(StreamingBlob::wrap(read(file, range))),
            ..Default::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let key = ObjectPath::parse(&input.key)?;
        let bucket = self.bucket(input.bucket).await?;
        let (_, meta) = blocking(move || bucket.read(&key)).await?;
        let modified = modified(&meta)?;
        let condition = Condition { matches: input.if_match, differs: input.if_none_match };
        Wanted { condition, since: input.if_modified_since, until: input.if_unmodified_since }.check(&etag(&meta), &modified)?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(length(meta.len())?),
            e_tag: Some(etag(&meta)),
            last_modified: Some(modified),
            ..Default::default()
        }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let DeleteObjectInput { bucket, key, if_match, .. } = request.input;
        let key = ObjectPath::parse(&key)?;
        let bucket = self.bucket(bucket).await?;
        blocking(move || bucket.delete(&key, &Condition { matches: if_match, differs: None })).await?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), hyper::StatusCode::NO_CONTENT))
    }

    async fn delete_objects(&self, request: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = request.input;
        if delete.objects.len() > MAX_PAGE as usize {
            return Err(s3_error!(MalformedXML, "at most {MAX_PAGE} keys at a time"));
        }
        let bucket = self.bucket(bucket).await?;
        let quiet = delete.quiet.unwrap_or(false);
        blocking(move || {
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for ObjectIdentifier { key, .. } in delete.objects {
                match ObjectPath::parse(&key).and_then(|key| bucket.delete(&key, &Condition::default())) {
                    Ok(()) => deleted.push(DeletedObject { key: Some(key), ..Default::default() }),
                    Err(error) => errors.push(Error {
                        key: Some(key),
                        code: Some(error.code().as_str().to_owned()),
                        message: error.message().map(str::to_owned),
                        ..Default::default()
                    }),
                }
            }
            let deleted = Some(deleted).filter(|_| !quiet);
            Ok(S3Response::new(DeleteObjectsOutput { deleted, errors: Some(errors), ..Default::default() }))
        })
        .await
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let max_keys = input.max_keys.unwrap_or(MAX_PAGE).clamp(0, MAX_PAGE);
        let query = Query {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
            after: input.continuation_token.clone().or(input.start_after.clone()).unwrap_or_default(),
            limit: max_keys as usize,
        };
        let bucket = self.bucket(input.bucket.clone()).await?;
        let page = blocking(move || if query.limit == 0 { Ok(Default::default()) } else { bucket.list(&query).map_err(told) }).await?;
        let next = page.entries.last().filter(|_| page.more).map(|entry| entry.name().to_owned());
        let count = page.entries.len() as i32;
        let encoded = |name: String| match &input.encoding_type {
            Some(kind) if kind.as_str() == EncodingType::URL => url::form_urlencoded::byte_serialize(name.as_bytes()).collect(),
            _ => name,
        };
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for entry in page.entries {
            match entry {
                Entry::Prefix(name) => prefixes.push(CommonPrefix { prefix: Some(encoded(name)) }),
                Entry::Object(name, meta) => objects.push(Object {
                    key: Some(encoded(name)),
                    size: Some(length(meta.len())?),
                    e_tag: Some(etag(&meta)),
                    last_modified: Some(modified(&meta)?),
                    ..Default::default()
                }),
            }
        }
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix.map(encoded),
            delimiter: input.delimiter.map(encoded),
            continuation_token: input.continuation_token,
            start_after: input.start_after.map(encoded),
            encoding_type: input.encoding_type.clone(),
            max_keys: Some(max_keys),
            key_count: Some(count),
            is_truncated: Some(page.more),
            next_continuation_token: next,
            contents: Some(objects),
            common_prefixes: Some(prefixes),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let quota = self.quota(&request)?;
        let CreateMultipartUploadInput { bucket: name, key, .. } = request.input;
        let path = ObjectPath::parse(&key)?;
        let (disk, bucket) = (self.disk.clone(), self.bucket(name.clone()).await?);
        let id = blocking(move || uploads::create(&disk, &bucket, quota, &path)).await?;
        let output = CreateMultipartUploadOutput { bucket: Some(name), key: Some(key), upload_id: Some(id), ..Default::default() };
        Ok(S3Response::new(output))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let quota = self.quota(&request)?;
        let UploadPartInput { bucket, key, upload_id, part_number, body, content_length, .. } = request.input;
        if !(1..=MAX_PARTS).contains(&part_number) {
            return Err(s3_error!(InvalidArgument, "part numbers go from 1 to {MAX_PARTS}"));
        }
        let (key, bucket) = (ObjectPath::parse(&key)?, self.bucket(bucket).await?);
        let incoming = receive(&self.disk, Charge::new(bucket.clone(), quota)?, body, content_length).await?;
        let tag = blocking(move || uploads::add(&bucket, &upload_id, &key, part_number, incoming)).await?;
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(tag), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let CompleteMultipartUploadInput { bucket: name, key, upload_id, multipart_upload, if_match, if_none_match, .. } = request.input;
        let path = ObjectPath::parse(&key)?;
        let told = multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let parts: Option<Vec<_>> = told.into_iter().map(|part| part.part_number.zip(part.e_tag)).collect();
        let parts = parts.ok_or_else(|| s3_error!(MalformedXML, "a part without its number or ETag"))?;
        let plan = Plan { parts, smallest: self.smallest_part, condition: condition(if_match, if_none_match)? };
        let (disk, bucket) = (self.disk.clone(), self.bucket(name.clone()).await?);
        let tag = blocking(move || uploads::complete(&disk, &bucket, &upload_id, &path, &plan)).await?;
        let output = CompleteMultipartUploadOutput { bucket: Some(name), key: Some(key), e_tag: Some(tag), ..Default::default() };
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let AbortMultipartUploadInput { bucket, key, upload_id, .. } = request.input;
        let (key, bucket) = (ObjectPath::parse(&key)?, self.bucket(bucket).await?);
        blocking(move || uploads::abort(&bucket, &upload_id, &key)).await?;
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), hyper::StatusCode::NO_CONTENT))
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let ListPartsInput { bucket: name, key, upload_id, max_parts, part_number_marker, .. } = request.input;
        let (path, bucket) = (ObjectPath::parse(&key)?, self.bucket(name.clone()).await?);
        let (id, after, limit) = (upload_id.clone(), part_number_marker.unwrap_or(0), max_parts.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE));
        let mut parts = blocking(move || uploads::parts(&bucket, &id, &path)).await?;
        parts.retain(|part| part.number > after);
        let more = parts.len() > limit as usize;
        parts.truncate(limit as usize);
        let next = parts.last().filter(|_| more).map(|part| part.number);
        let part = |part: uploads::Part| {
            let (etag, modified) = (Some(part.etag), Some(part.modified.into()));
            Ok(Part {
                part_number: Some(part.number),
                size: Some(length(part.bytes)?),
                e_tag: etag,
                last_modified: modified,
                ..Default::default()
            })
        };
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(name),
            key: Some(key),
            upload_id: Some(upload_id),
            part_number_marker: Some(after),
            max_parts: Some(limit),
            is_truncated: Some(more),
            next_part_number_marker: next,
            parts: Some(parts.into_iter().map(part).collect::<S3Result<_>>()?),
            ..Default::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let ListMultipartUploadsInput { bucket: name, prefix, .. } = request.input;
        let (bucket, wanted) = (self.bucket(name.clone()).await?, prefix.clone().unwrap_or_default());
        let found = blocking(move || uploads::list(&bucket).map_err(told)).await?;
        let upload = |one: uploads::Unfinished| MultipartUpload {
            upload_id: Some(one.id),
            key: Some(one.key),
            initiated: Some(one.started.into()),
            ..Default::default()
        };
        let uploads = found.into_iter().filter(|one| one.key.starts_with(&wanted)).map(upload).collect();
        let output = ListMultipartUploadsOutput {
            bucket: Some(name),
            prefix,
            is_truncated: Some(false),
            uploads: Some(uploads),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(request.input.bucket).await?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(&self, request: S3Request<GetBucketLocationInput>) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.bucket(request.input.bucket).await?;
        // none means us-east-1, and any region is taken
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let disk = self.disk.clone();
        let names = blocking(move || disk.names().map_err(told)).await?;
        let bucket =
            |(name, made): (String, SystemTime)| Bucket { name: Some(name), creation_date: Some(made.into()), ..Default::default() };
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(names.into_iter().map(bucket).collect()), ..Default::default() }))
    }
}

/// What a reader wants of an object's version.
struct Wanted {
    condition: Condition,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Wanted {
    /// In the order of RFC 9110, section 13.2.2: an ETag counts more than a time.
    fn check(&self, tag: &ETag, modified: &Timestamp) -> S3Result<()> {
        let equal = |condition: &ETagCondition| condition.as_etag().is_none_or(|wanted| wanted.weak_cmp(tag));
        let later_than = |time: &Timestamp| modified > time;
        match (&self.condition.matches, &self.until) {
            (Some(wanted), _) if !equal(wanted) => return Err(s3_error!(PreconditionFailed)),
            (None, Some(until)) if later_than(until) => return Err(s3_error!(PreconditionFailed)),
            _ => {}
        }
        match (&self.condition.differs, &self.since) {
            (Some(unwanted), _) if equal(unwanted) => Err(s3_error!(NotModified)),
            (None, Some(since)) if !later_than(since) => Err(s3_error!(NotModified)),
            _ => Ok(()),
        }
    }
}

/// A modification time in whole seconds, as headers have them.
fn modified(meta: &Metadata) -> S3Result<Timestamp> {
    let since = meta.modified().map_err(told)?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((UNIX_EPOCH + Duration::from_secs(since.as_secs())).into())
}

fn length(bytes: u64) -> S3Result<i64> {
    i64::try_from(bytes).map_err(|_| s3_error!(InternalError))
}

/// A range of a file, a chunk at a time.
fn read(file: File, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
    let start = range.start;
    let left = range.end - range.start;
    stream::try_unfold((tokio::fs::File::from_std(file), Some(start), left), |(mut file, seek, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        if let Some(start) = seek {
            file.seek(SeekFrom::Start(start)).await?;
        }
        let mut chunk = BytesMut::with_capacity(CHUNK.min(usize::try_from(left).unwrap_or(CHUNK)));
        let read = (&mut file).take(left.min(CHUNK as u64)).read_buf(&mut chunk).await? as u64;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((chunk.freeze(), (file, None, left - read))))
    })
}
