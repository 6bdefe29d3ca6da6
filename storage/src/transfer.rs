//! Large objects: down in ranges and up in parts, several at a time, each tried again by itself, so that a drop costs a part and not the
//! object.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use protocol::{Digest, Hasher, ObjectKey};
use tokio::sync::OwnedSemaphorePermit;

use crate::bucket::Bucket;
use crate::budget::Budget;
use crate::error::{Cause, Failure, StorageError};

/// Bytes of a part on its way up: S3 wants at least so many, and all but the last equal.
const UPLOAD_PART: u64 = 5 << 20;
/// S3 takes 10,000 parts.
const MOST_PARTS: u64 = 9_000;

/// The size of the parts in which an object of `size` bytes is written.
fn upload_part(size: u64) -> u64 {
    UPLOAD_PART.max(size.div_ceil(MOST_PARTS))
}

/// The ranges of `part` bytes, but the last, that an object of `size` bytes has from byte `from` on.
fn ranges(from: u64, size: u64, part: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size.saturating_sub(from).div_ceil(part)).map(move |i| from + i * part..size.min(from + (i + 1) * part))
}

/// How transfers use a budget, for whoever plans ahead.
impl Budget {
    /// Bytes of a part of an object of `size` bytes on its way up; each part is a request.
    pub fn part_up(&self, size: u64) -> u64 {
        upload_part(size).min(size.max(1))
    }

    /// Bytes of a part on its way down.
    pub fn part_down(&self, size: u64) -> u64 {
        self.part().min(size.max(1))
    }

    /// Connections on which such an object goes up.
    pub fn connections_up(&self, size: u64) -> u64 {
        size.div_ceil(self.part_up(size)).clamp(1, self.uploads(upload_part(size)) as u64)
    }

    /// Connections on which `objects` of them come down at once.
    pub fn connections_down(&self, objects: u64, size: u64) -> u64 {
        let of_each = size.div_ceil(self.part_down(size)).clamp(1, self.downloads() as u64);
        objects.saturating_mul(of_each).min(self.in_flight() / self.part())
    }
}

/// An object on its way down: its bytes in order. Parts that come early wait in the memory of the [`Budget`].
pub struct Download {
    size: u64,
    parts: BoxStream<'static, Result<(OwnedSemaphorePermit, Bytes), StorageError>>,
    /// Room for the part that the caller has.
    held: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Download {
    /// The object's size in bytes, as the store says.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes; `None` once all were given out. To be dropped before more are asked for, since they count in the budget until then.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        self.held = None;
        let Some((room, bytes)) = self.parts.try_next().await? else { return Ok(None) };
        self.held = Some(room);
        Ok(Some(bytes))
    }
}

impl Bucket {
    /// Starts to read an object of at most `cap` bytes, from byte `from` on; `None` if there is none. A larger one is refused before its
    /// bytes are read. What arrives is not checked against anything: the caller hashes it as it comes.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn download(&self, key: &ObjectKey, cap: u64, from: u64) -> Result<Option<Download>, StorageError> {
        let (path, url) = self.locate(key)?;
        let Some(size) = self.size(key).await? else { return Ok(None) };
        if size > cap {
            return Err(StorageError::TooLarge { url, size, cap });
        }
        let bucket = self.clone();
        let fetch = move |part: Range<u64>| {
            let (bucket, path, url) = (bucket.clone(), path.clone(), url.clone());
            // a task of its own, so that bytes flow while the caller looks at those before; dropping the handle ends it
            let (task, part) = async move { bucket.fetch_part(&path, &url, part).await }.remote_handle();
            tokio::spawn(task);
            part
        };
        let parts = futures::stream::iter(ranges(from, size, self.budget.part())).map(fetch).buffered(self.budget.downloads()).boxed();
        Ok(Some(Download { size, parts, held: None }))
    }

    async fn fetch_part(&self, path: &Path, url: &str, part: Range<u64>) -> Result<(OwnedSemaphorePermit, Bytes), StorageError> {
        let length = part.end - part.start;
        let room = self.budget.room(length).await;
        self.budget.down(length).await;
        let attempt = || async {
            let options = object_store::GetOptions { range: Some(part.clone().into()), ..Default::default() };
            let found = self.store.get_opts(path, options).await.map_err(|error| Failure::of(url, error))?;
            if found.range != part {
                return Err(Failure::Transient(Cause::from(format!("bytes {:?} were sent for {part:?}", found.range))));
            }
            self.collect(found, url, length).await
        };
        // others share the link, so a part has the time that all parts on their way may take
        let bytes = self.limits.persistent().run(url, self.budget.in_flight(), attempt).await?;
        Ok((room, bytes))
    }

    /// Creates an object of `size` bytes with hash `digest` (BLAKE3) from a stream of its bytes, of which it keeps a few parts in memory. If
    /// the same bytes are there already, that is success, so it may be repeated after any failure.
    ///
    /// Unlike [`Bucket::put`] it is not one step: stores put parts together without looking whether somebody else wrote the same key
    /// meanwhile. A bucket has one writer, and whoever reads compares hashes.
    ///
    /// # Errors
    /// As [`Bucket::put`], and [`StorageError::Source`] if the stream fails or has another length.
    pub async fn upload<S>(&self, key: &ObjectKey, size: u64, digest: Digest, source: S) -> Result<(), StorageError>
    where
        S: Stream<Item = std::io::Result<Bytes>>,
    {
        let (path, url) = self.locate(key)?;
        self.check_writable(&url)?;
        if size > UPLOAD_PART
            && let Some(there) = self.size(key).await?
        {
            return if there == size && self.hash_of(key, size).await? == Some(digest) {
                Ok(())
            } else {
                Err(StorageError::Conflict { url })
            };
        }
        let mut source = std::pin::pin!(regroup(source, upload_part(size), size));
        if size <= UPLOAD_PART {
            let whole = source.try_next().await.map_err(|source| StorageError::Source { url, source: source.into() })?;
            return self.put(key, whole.unwrap_or_default()).await;
        }
        match self.multipart.clone() {
            Some(store) => self.upload_parts(&*store, &path, &url, source, size).await,
            None => self.write_parts(&path, &url, source).await,
        }
    }

    /// [`Bucket::upload`] of bytes that are in memory.
    ///
    /// # Errors
    /// As [`Bucket::put`].
    pub async fn put_large(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StorageError> {
        self.upload(key, bytes.len() as u64, Digest::of(&bytes), futures::stream::iter([Ok(bytes)])).await
    }

    /// [`Bucket::get`] of an object that may be large, in ranges.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn get_large(&self, key: &ObjectKey, cap: u64) -> Result<Option<Bytes>, StorageError> {
        let Some(mut object) = self.download(key, cap, 0).await? else { return Ok(None) };
        let mut bytes = BytesMut::new();
        while let Some(part) = object.next().await? {
            bytes.extend_from_slice(&part);
        }
        Ok(Some(bytes.freeze()))
    }

    /// BLAKE3 of an object.
    async fn hash_of(&self, key: &ObjectKey, cap: u64) -> Result<Option<Digest>, StorageError> {
        let Some(mut object) = self.download(key, cap, 0).await? else { return Ok(None) };
        let mut hasher = Hasher::default();
        while let Some(bytes) = object.next().await? {
            hasher.update(&bytes);
        }
        Ok(Some(hasher.digest()))
    }

    /// Parts side by side, each tried again by itself.
    async fn upload_parts(
        &self,
        store: &dyn MultipartStore,
        path: &Path,
        url: &str,
        source: impl Stream<Item = std::io::Result<Bytes>>,
        size: u64,
    ) -> Result<(), StorageError> {
        let (limits, at_once) = (self.limits.persistent(), self.budget.uploads(upload_part(size)));
        let create = || async { store.create_multipart(path).await.map_err(|error| Failure::of(url, error)) };
        let id = &limits.run(url, 0, create).await?;
        let send = |(number, part): (usize, std::io::Result<Bytes>)| async move {
            let part = part.map_err(|source| StorageError::Source { url: url.to_owned(), source: source.into() })?;
            let length = part.len() as u64;
            let _room = self.budget.room(length).await;
            self.budget.up(length).await;
            let attempt = || async {
                let sent = store.put_part(path, id, number, PutPayload::from(part.clone())).await;
                self.count_up(length);
                sent.map_err(|error| Failure::of(url, error))
            };
            limits.run(url, self.budget.in_flight(), attempt).await
        };
        let sent: Result<Vec<PartId>, StorageError> = source.enumerate().map(send).buffered(at_once).try_collect().await;
        let completed = match sent {
            Ok(parts) => {
                let complete = || async {
                    match store.complete_multipart(path, id, parts.clone()).await {
                        Ok(_) => Ok(()),
                        // the answer to an earlier attempt was lost: stores forget an upload that is complete
                        Err(_) if self.store.head(path).await.is_ok_and(|there| there.size == size) => Ok(()),
                        Err(error) => Err(Failure::of(url, error)),
                    }
                };
                // a store may copy the parts before it answers
                limits.run(url, size, complete).await
            }
            Err(error) => Err(error),
        };
        if completed.is_err() {
            // what is left would be paid for; a store that is away keeps it until its own rules remove it
            let _ = tokio::time::timeout(self.limits.deadline, store.abort_multipart(path, id)).await;
        }
        completed
    }

    /// For stores that take parts only in order, such as a folder; nothing to be tried again there.
    async fn write_parts(&self, path: &Path, url: &str, source: impl Stream<Item = std::io::Result<Bytes>>) -> Result<(), StorageError> {
        let failed = |error| match Failure::of(url, error) {
            Failure::Final(error) => error,
            Failure::Transient(source) => StorageError::Unreachable { url: url.to_owned(), attempts: 1, source },
        };
        let mut upload = self.store.put_multipart(path).await.map_err(failed)?;
        let write = async {
            let mut source = std::pin::pin!(source);
            while let Some(part) = source.next().await {
                let part = part.map_err(|source| StorageError::Source { url: url.to_owned(), source: source.into() })?;
                let _room = self.budget.room(part.len() as u64).await;
                self.budget.up(part.len() as u64).await;
                self.count_up(part.len() as u64);
                upload.put_part(part.into()).await.map_err(failed)?;
            }
            upload.complete().await.map(drop).map_err(failed)
        };
        let written = write.await;
        if written.is_err() {
            let _ = upload.abort().await;
        }
        written
    }
}

/// The bytes of a stream in pieces of `part`, but the last, which must be `size` bytes in all.
fn regroup<S>(source: S, part: u64, size: u64) -> impl Stream<Item = std::io::Result<Bytes>>
where
    S: Stream<Item = std::io::Result<Bytes>>,
{
    let state = (Box::pin(source), Bytes::new(), size);
    futures::stream::try_unfold(state, move |(mut source, mut waiting, left)| async move {
        let wanted = left.min(part) as usize;
        let mut piece = BytesMut::new();
        while piece.len() < wanted {
            if waiting.is_empty() {
                waiting = source.try_next().await?.ok_or_else(|| wrong_length(size, "fewer"))?;
            }
            let take = waiting.len().min(wanted - piece.len());
            if take == wanted {
                // a piece that is there already is not copied
                let piece = waiting.split_to(take);
                return Ok(Some((piece, (source, waiting, left - take as u64))));
            }
            piece.extend_from_slice(&waiting.split_to(take));
        }
        if wanted > 0 {
            return Ok(Some((piece.freeze(), (source, waiting, left - wanted as u64))));
        }
        while waiting.is_empty() {
            match source.try_next().await? {
                Some(more) => waiting = more,
                None => return Ok(None),
            }
        }
        Err(wrong_length(size, "more"))
    })
}

fn wrong_length(size: u64, than: &str) -> std::io::Error {
    std::io::Error::other(format!("{than} bytes came than the {size} announced"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn regrouped(lengths: &[usize], part: u64, size: u64) -> std::io::Result<Vec<usize>> {
        let source = lengths.iter().map(|&length| Ok(Bytes::from(vec![0; length])));
        regroup(futures::stream::iter(source.collect::<Vec<_>>()), part, size).map_ok(|piece| piece.len()).try_collect().await
    }

    #[tokio::test]
    async fn pieces_are_equal_but_the_last_and_the_length_is_the_one_announced() {
        assert_eq!(regrouped(&[3, 0, 4, 5], 5, 12).await.unwrap(), [5, 5, 2]);
        assert_eq!(regrouped(&[12], 4, 12).await.unwrap(), [4, 4, 4]);
        assert_eq!(regrouped(&[], 4, 0).await.unwrap(), [0_usize; 0]);
        assert_eq!(regrouped(&[0, 0], 4, 0).await.unwrap(), [0_usize; 0]);
        for (lengths, size) in [(&[3][..], 4), (&[5], 4), (&[4, 0, 1], 4), (&[1], 0)] {
            assert!(regrouped(lengths, 2, size).await.is_err(), "{lengths:?} for {size}");
        }
    }

    #[test]
    fn connections_are_as_many_as_parts_memory_and_shares_allow() {
        let budget = Budget::default();
        // 13.5 MB are three parts of 5 MiB up, and three of 6 MiB down
        assert_eq!((budget.part_up(13_500_000), budget.connections_up(13_500_000)), (5 << 20, 3));
        assert_eq!((budget.part_down(13_500_000), budget.connections_down(1, 13_500_000)), (6 << 20, 3));
        assert_eq!((budget.connections_down(8, 13_500_000), budget.part_up(9), budget.part_down(0)), (24, 9, 1));
        assert_eq!((budget.connections_up(1 << 30), budget.connections_down(1, 1 << 30), budget.connections_down(8, 1 << 30)), (32, 8, 32));
        // of parts on their way up, 38 fit into 192 MiB
        let many = Budget::new(Budget::MEMORY, 128, crate::Rates::default());
        assert_eq!((many.connections_up(1 << 30), many.connections_down(8, 1 << 30), many.connections_down(1, 0)), (38, 128, 1));
    }

    #[test]
    fn no_object_has_more_parts_than_stores_take() {
        for size in [0, 1, UPLOAD_PART, UPLOAD_PART + 1, 1 << 40] {
            assert!(size.div_ceil(upload_part(size)) <= MOST_PARTS);
        }
    }

    #[test]
    fn ranges_follow_each_other_to_the_end() {
        for (from, size, part) in [(0, 0, 4), (0, 1, 4), (0, 8, 4), (3, 10, 4), (10, 10, 4), (11, 10, 4)] {
            let all: Vec<Range<u64>> = ranges(from, size, part).collect();
            assert!(all.iter().all(|range| !range.is_empty()) && all.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!(all.iter().map(|range| range.end - range.start).sum::<u64>(), size.saturating_sub(from));
            assert!(all.first().is_none_or(|first| first.start == from));
        }
    }
}
