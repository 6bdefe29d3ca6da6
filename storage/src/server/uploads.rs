//! Multipart uploads: a folder of parts each, put together when all are there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use s3s::dto::{ETag, ETagCondition};
use s3s::{S3Error, S3Result, s3_error};

use super::disk::{Bucket, Charge, Condition, Disk, Incoming, ObjectPath, etag, told};

/// Parts that an upload may have, as on S3.
pub(super) const MAX_PARTS: i32 = 10_000;
/// Uploads in which nothing has happened for so long are removed at start.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Name of the file that holds the object's key. Parts are named by their numbers.
const KEY: &str = "key";
/// Ending of the folder's name while its parts are put together.
const CLAIMED: &str = ".claimed";

/// A part that was received.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) number: i32,
    pub(super) bytes: u64,
    pub(super) etag: ETag,
    pub(super) modified: SystemTime,
    path: PathBuf,
}

/// An upload that is not finished.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) id: String,
    pub(super) key: String,
    pub(super) started: SystemTime,
}

/// Takes up what a killed process was putting together, and removes what nobody came back for.
pub(super) fn tidy(uploads: &Path) -> io::Result<()> {
    fs::create_dir_all(uploads)?;
    for bucket in fs::read_dir(uploads)? {
        for upload in fs::read_dir(bucket?.path())? {
            let path = upload?.path();
            let age = fs::metadata(&path)?.modified()?.elapsed().unwrap_or_default();
            let name = path.to_string_lossy().into_owned();
            if age > ABANDONED {
                fs::remove_dir_all(&path)?;
            } else if let Some(name) = name.strip_suffix(CLAIMED) {
                fs::rename(&path, name)?;
            }
        }
    }
    Ok(())
}

/// Begins an upload and returns its id, which cannot be guessed.
pub(super) fn create(disk: &Disk, bucket: &Arc<Bucket>, quota: Option<u64>, key: &ObjectPath) -> S3Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| told(io::Error::other("the system gives no random bytes")))?;
    let id = hex::encode(bytes);
    let folder = bucket.uploads.join(&id);
    let mut charge = Charge::new(bucket.clone(), quota)?;
    charge.add(key.len() as u64)?;
    let mut incoming = disk.incoming(charge).map_err(told)?;
    io::Write::write_all(&mut incoming.file, key.as_bytes()).and_then(|()| disk.finish(&incoming)).map_err(told)?;
    fs::create_dir_all(&folder).and_then(|()| incoming.place(&folder.join(KEY))).and_then(|()| sync(&folder)).map_err(told)?;
    sync(&bucket.uploads).map_err(told)?;
    Ok(id)
}

/// Adds a part, or replaces it.
pub(super) fn add(bucket: &Bucket, id: &str, key: &ObjectPath, number: i32, part: Incoming) -> S3Result<ETag> {
    let folder = find(bucket, id, key)?;
    let tag = etag(&part.file.metadata().map_err(told)?);
    bucket.replace(&folder.join(number.to_string()), part).and_then(|()| sync(&folder)).map_err(gone)?;
    Ok(tag)
}

/// The parts of an upload, by number.
pub(super) fn parts(bucket: &Bucket, id: &str, key: &ObjectPath) -> S3Result<Vec<Part>> {
    read_parts(&find(bucket, id, key)?).map_err(gone)
}

/// The bucket's unfinished uploads, by key.
pub(super) fn list(bucket: &Bucket) -> io::Result<Vec<Unfinished>> {
    let mut uploads = Vec::new();
    let entries = match fs::read_dir(&bucket.uploads) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(uploads),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let (path, id) = entry.map(|entry| (entry.path().join(KEY), entry.file_name().to_string_lossy().into_owned()))?;
        // finished meanwhile
        let (Ok(key), Ok(meta)) = (fs::read_to_string(&path), fs::metadata(&path)) else { continue };
        uploads.push(Unfinished { id, key, started: meta.modified()? });
    }
    uploads.sort_by(|one, other| (&one.key, &one.id).cmp(&(&other.key, &other.id)));
    Ok(uploads)
}

/// Forgets an upload.
pub(super) fn abort(bucket: &Bucket, id: &str, key: &ObjectPath) -> S3Result<()> {
    let claim = Claim::of(&find(bucket, id, key)?)?;
    bucket.remove_folder(&claim.folder).map_err(told)
}

/// What a finished upload is made of.
pub(super) struct Plan {
    /// Numbers and ETags of the parts, as the client tells them.
    pub(super) parts: Vec<(i32, ETag)>,
    /// The fewest bytes of every part but the last.
    pub(super) smallest: u64,
    /// What must hold of the object that is there.
    pub(super) condition: Condition,
}

/// Puts an upload's parts together as an object. If that is refused, the upload goes on.
pub(super) fn complete(disk: &Disk, bucket: &Arc<Bucket>, id: &str, key: &ObjectPath, plan: &Plan) -> S3Result<ETag> {
    let claim = Claim::of(&find(bucket, id, key)?)?;
    let parts = choose(read_parts(&claim.folder).map_err(told)?, plan)?;
    // the parts have been weighed against the quota already; they are given back below
    let mut charge = Charge::new(bucket.clone(), None)?;
    charge.add(parts.iter().map(|part| part.bytes).sum())?;
    let mut whole = disk.incoming(charge).map_err(told)?;
    for part in &parts {
        File::open(&part.path).and_then(|mut part| io::copy(&mut part, &mut whole.file)).map_err(told)?;
    }
    disk.finish(&whole).map_err(told)?;
    let tag = bucket.commit(key, whole, &plan.condition)?;
    if let Err(error) = bucket.remove_folder(&claim.folder) {
        tracing::warn!(%error, "parts of a finished upload could not be removed");
    }
    Ok(tag)
}

/// The parts that the plan names.
fn choose(there: Vec<Part>, plan: &Plan) -> S3Result<Vec<Part>> {
    if plan.parts.is_empty() || !plan.parts.is_sorted_by(|one, next| one.0 < next.0) {
        return Err(s3_error!(InvalidPartOrder));
    }
    let mut there = there.into_iter();
    let mut chosen = Vec::with_capacity(plan.parts.len());
    for (number, tag) in &plan.parts {
        let part = there.find(|part| part.number == *number).filter(|part| part.etag == *tag);
        chosen.push(part.ok_or_else(|| s3_error!(InvalidPart, "part {number} is not there or another one"))?);
    }
    match chosen.split_last() {
        Some((_, others)) if others.iter().any(|part| part.bytes < plan.smallest) => Err(s3_error!(EntityTooSmall)),
        _ => Ok(chosen),
    }
}

/// An upload that nobody else can finish or abort; handed back when dropped, if it is still there.
struct Claim {
    folder: PathBuf,
    free: PathBuf,
}

impl Claim {
    fn of(folder: &Path) -> S3Result<Self> {
        let mut claimed = folder.as_os_str().to_owned();
        claimed.push(CLAIMED);
        fs::rename(folder, &claimed).map_err(gone)?;
        Ok(Self { folder: claimed.into(), free: folder.to_owned() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::rename(&self.folder, &self.free);
    }
}

/// The folder of an upload of this key.
fn find(bucket: &Bucket, id: &str, key: &ObjectPath) -> S3Result<PathBuf> {
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(s3_error!(NoSuchUpload));
    }
    let folder = bucket.uploads.join(id);
    match fs::read_to_string(folder.join(KEY)) {
        Ok(found) if found == **key => Ok(folder),
        Ok(_) => Err(s3_error!(NoSuchUpload)),
        Err(error) => Err(gone(error)),
    }
}

fn read_parts(folder: &Path) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let meta = entry.metadata()?;
        parts.push(Part { number, bytes: meta.len(), etag: etag(&meta), modified: meta.modified()?, path: entry.path() });
    }
    parts.sort_by_key(|part| part.number);
    Ok(parts)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What is missing here is an upload.
fn gone(error: io::Error) -> S3Error {
    if error.kind() == io::ErrorKind::NotFound { s3_error!(NoSuchUpload) } else { told(error) }
}

/// The condition of a write: S3 knows `If-None-Match` only as `*` there.
pub(super) fn condition(matches: Option<ETagCondition>, differs: Option<ETagCondition>) -> S3Result<Condition> {
    match differs {
        Some(ETagCondition::ETag(_)) => Err(s3_error!(NotImplemented, "a write takes only If-None-Match: *")),
        differs => Ok(Condition { matches, differs }),
    }
}
