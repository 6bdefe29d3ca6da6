//! Who may write what: a file of key pairs, which is the only place where the secrets are.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Name of the keys' file in the server's folder. It is hidden, and no bucket is.
pub const KEYS_FILE: &str = ".keys.toml";

/// Random bytes of an access key and of a secret.
const ACCESS_BYTES: usize = 10;
const SECRET_BYTES: usize = 30;

/// A key pair and what it may do.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its public half, `AWS_ACCESS_KEY_ID`.
    pub access: String,
    /// Its secret half, `AWS_SECRET_ACCESS_KEY`.
    pub secret: String,
    /// The one bucket that it writes.
    pub bucket: String,
    /// The most bytes that the bucket may hold, in whole blocks of 4 KiB, unfinished uploads included; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
}

impl std::fmt::Debug for Key {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("access", &self.access)
            .field("bucket", &self.bucket)
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

/// Why keys cannot be read or written. Nothing of the file's content is told.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read it.
    #[error("{path} has mode {mode:03o}, and others must not read secrets: chmod 600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is not a list of keys.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without what stands in it.
        problem: String,
    },
    /// The bucket's name is none.
    #[error("{0:?} is not a bucket name: 3 to 63 lower-case letters, digits, '-' and '.', at both ends a letter or digit")]
    Bucket(String),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    #[serde(default)]
    key: Vec<Key>,
}

/// The keys of the server's folder; none if it has no such file yet.
///
/// # Errors
/// [`KeysError`], among others if anybody but the owner may read the file.
pub fn read_keys(dir: &Path) -> Result<Vec<Key>, KeysError> {
    let path = dir.join(KEYS_FILE);
    let told = |source| KeysError::File { path: path.clone(), source };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(told(error)),
    };
    let mode = file.metadata().map_err(told)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Mode { path, mode });
    }
    let text = io::read_to_string(&mut file).map_err(told)?;
    // toml's own message would quote the line, secret and all
    let content = |problem: String| KeysError::Content { path: path.clone(), problem };
    let keys: KeysFile = toml::from_str(&text).map_err(|error| {
        let line = 1 + text.bytes().take(error.span().map_or(0, |span| span.start)).filter(|byte| *byte == b'\n').count();
        content(format!("line {line}: expected [[key]] with access, secret, bucket and perhaps quota"))
    })?;
    for (index, key) in keys.key.iter().enumerate() {
        check_bucket(&key.bucket)?;
        if keys.key[..index].iter().any(|other| other.access == key.access) {
            return Err(content(format!("access key {} is there twice", key.access)));
        }
    }
    Ok(keys.key)
}

/// Makes a new key for `bucket`, writes it to the server's folder, and makes the bucket. A running server takes it up at once.
///
/// # Errors
/// [`KeysError`].
pub fn add_key(dir: &Path, bucket: &str, quota: Option<u64>) -> Result<Key, KeysError> {
    check_bucket(bucket)?;
    let told = |source| KeysError::File { path: dir.to_owned(), source };
    fs::create_dir_all(dir.join(bucket)).map_err(told)?;
    let access = format!("TRIB{}", hex::encode_upper(random::<ACCESS_BYTES>().map_err(told)?));
    let secret = hex::encode(random::<SECRET_BYTES>().map_err(told)?);
    let key = Key { access, secret, bucket: bucket.to_owned(), quota };
    change(dir, |keys| keys.push(key.clone()))?;
    Ok(key)
}

/// Takes a key away; a running server refuses it from its next request on. Whether there was one.
///
/// # Errors
/// [`KeysError`].
pub fn remove_key(dir: &Path, access: &str) -> Result<bool, KeysError> {
    let mut found = false;
    change(dir, |keys| {
        let before = keys.len();
        keys.retain(|key| key.access != access);
        found = keys.len() < before;
    })?;
    Ok(found)
}

/// Rewrites the file whole: who reads meanwhile sees it before or after.
fn change(dir: &Path, change: impl FnOnce(&mut Vec<Key>)) -> Result<(), KeysError> {
    let path = dir.join(KEYS_FILE);
    let told = |source| KeysError::File { path: path.clone(), source };
    let lock = File::options().create(true).append(true).mode(0o600).open(dir.join(".keys.lock")).map_err(told)?;
    lock.lock().map_err(told)?;
    let mut key = read_keys(dir)?;
    change(&mut key);
    let text = toml::to_string(&KeysFile { key }).map_err(|_| told(io::ErrorKind::InvalidData.into()))?;
    let beside = dir.join(".keys.new");
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&beside).map_err(told)?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(told)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(told)?;
    fs::rename(&beside, &path).and_then(|()| File::open(dir)?.sync_all()).map_err(told)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}

fn check_bucket(name: &str) -> Result<(), KeysError> {
    if s3s::path::check_bucket_name(name) { Ok(()) } else { Err(KeysError::Bucket(name.to_owned())) }
}

/// The keys as the server sees them: the file's, read again when it has changed.
#[derive(Debug)]
pub(super) struct Keys {
    dir: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    version: Option<Version>,
    keys: Arc<[Key]>,
}

/// What tells one state of the file from another: inode, modification time, size.
type Version = (u64, i64, i64, u64);

impl Keys {
    /// Reads the keys and makes the buckets that they name.
    pub(super) fn open(dir: &Path) -> Result<Self, KeysError> {
        let known = Known { version: version(dir), keys: load(dir)? };
        Ok(Self { dir: dir.to_owned(), known: Mutex::new(known) })
    }

    /// The key with this public half.
    pub(super) fn get(&self, access: &str) -> Option<Key> {
        self.current().iter().find(|key| key.access == access).cloned()
    }

    /// All keys as they are now. A file that cannot be read counts as empty: a key that was taken away must not come back.
    fn current(&self) -> Arc<[Key]> {
        let mut known = self.known();
        let version = version(&self.dir);
        if version != known.version {
            let keys = load(&self.dir).unwrap_or_else(|error| {
                tracing::warn!(%error, "nobody can write until the keys can be read");
                Arc::default()
            });
            tracing::info!(keys = keys.len(), "the keys have changed");
            *known = Known { version, keys };
        }
        known.keys.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(dir: &Path) -> Result<Arc<[Key]>, KeysError> {
    let keys = read_keys(dir)?;
    for key in &keys {
        let bucket = dir.join(&key.bucket);
        fs::create_dir_all(&bucket).map_err(|source| KeysError::File { path: bucket, source })?;
    }
    Ok(keys.into())
}

fn version(dir: &Path) -> Option<Version> {
    let meta = fs::metadata(dir.join(KEYS_FILE)).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_added_found_and_taken_away() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        assert!(read_keys(dir).expect("no file yet").is_empty());
        let keys = Keys::open(dir).expect("no file yet");
        let one = add_key(dir, "one", None).expect("a key");
        let two = add_key(dir, "two", Some(1 << 20)).expect("a key");
        assert!(dir.join("one").is_dir() && one.secret != two.secret);
        assert_eq!((keys.get(&one.access), keys.get(&two.access)), (Some(one.clone()), Some(two.clone())));
        assert!(remove_key(dir, &one.access).expect("it is there"));
        assert!(!remove_key(dir, &one.access).expect("it is gone"));
        assert_eq!((keys.get(&one.access), keys.get(&two.access)), (None, Some(two.clone())));
        assert!(!format!("{two:?}").contains(&two.secret));
    }

    #[test]
    fn a_file_that_others_may_read_or_that_is_none_is_refused_without_telling_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        let key = add_key(dir, "one", None).expect("a key");
        let keys = Keys::open(dir).expect("good keys");
        let file = dir.join(KEYS_FILE);
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(read_keys(dir), Err(KeysError::Mode { mode: 0o644, .. })));
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("chmod");
        for text in
            ["[[key]]\nsecret = \"hush\"\naccess 1", "[[key]]\naccess = \"hush\"\nsecret = 1\nbucket = \"one\"", "secret = \"hush\""]
        {
            fs::write(&file, text).expect("written");
            let error = read_keys(dir).expect_err("no keys").to_string();
            assert!(error.contains("line ") && !error.contains("hush"), "{error}");
            assert_eq!(keys.get(&key.access), None);
        }
        fs::write(&file, "[[key]]\naccess = \"a\"\nsecret = \"b\"\nbucket = \"../x\"").expect("written");
        assert!(matches!(read_keys(dir), Err(KeysError::Bucket(_))));
        assert!(matches!(add_key(dir, ".keys.toml", None), Err(KeysError::Bucket(_))));
    }
}
