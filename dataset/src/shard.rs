//! One file of tokens: little-endian ids of 2 or 4 bytes, compressed by zstd.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;
use protocol::Digest;

use crate::{DatasetError, FileError, ShardManifest};

const ZSTD_LEVEL: i32 = 3;
/// Log2 of the window that a decoder keeps in memory at most; [`ZSTD_LEVEL`] needs 21.
const MAX_WINDOW_LOG: u32 = 27;

/// The most bytes that zstd makes of `raw_bytes`.
pub(crate) fn compressed_limit(raw_bytes: u64) -> u64 {
    zstd::zstd_safe::compress_bound(usize::try_from(raw_bytes).unwrap_or(usize::MAX)) as u64
}

/// Bytes per token: 2 if every id of the vocabulary fits into a u16, else 4.
pub(crate) fn token_bytes(vocab_size: u32) -> u64 {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
}

/// Little-endian ids of `token_bytes` bytes each.
pub(crate) fn append_tokens(raw: &mut Vec<u8>, tokens: &[u32], token_bytes: u64) {
    raw.extend(tokens.iter().flat_map(|token| token.to_le_bytes().into_iter().take(token_bytes as usize)));
}

/// The inverse of [`append_tokens`].
pub(crate) fn tokens_of(raw: &[u8], token_bytes: u64) -> impl Iterator<Item = u32> {
    raw.chunks_exact(token_bytes as usize).map(|bytes| {
        let mut token = [0; 4];
        token[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(token)
    })
}

/// Compresses `raw` into a file.
pub(crate) fn write(path: &Path, raw: &[u8], token_bytes: u64) -> Result<ShardManifest, FileError> {
    let compressed = zstd::bulk::compress(raw, ZSTD_LEVEL).map_err(FileError::at("compress", path))?;
    write_atomically(path, |file| file.write_all(&compressed).map_err(FileError::at("write", path)))?;
    Ok(ShardManifest {
        compressed_blake3: Digest::of(&compressed),
        compressed_bytes: compressed.len() as u64,
        raw_blake3: Digest::of(raw),
        tokens: raw.len() as u64 / token_bytes,
    })
}

/// Fills a file under a temporary name, then renames it: the file is there whole and durable, or not at all.
pub(crate) fn write_atomically<E: From<FileError>>(path: &Path, fill: impl FnOnce(&mut File) -> Result<(), E>) -> Result<(), E> {
    static UNIQUE: AtomicU64 = AtomicU64::new(0);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}-{}.tmp", std::process::id(), UNIQUE.fetch_add(1, Ordering::Relaxed)));
    let temporary = PathBuf::from(temporary);
    let written = File::create(&temporary).map_err(|e| FileError::at("create", &temporary)(e).into()).and_then(|mut file| {
        fill(&mut file)?;
        file.sync_all().and_then(|()| fs::rename(&temporary, path)).map_err(|e| FileError::at("write", path)(e).into())
    });
    if written.is_err() {
        // best effort: the error that matters is the first
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Opens a file that must have exactly these bytes.
pub(crate) fn open_verified(path: &Path, bytes: u64, digest: Digest) -> Result<File, DatasetError> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(DatasetError::Missing(path.to_owned())),
        opened => opened.map_err(FileError::at("open", path))?,
    };
    let found = file.metadata().map_err(FileError::at("read", path))?.len();
    if found < bytes {
        return Err(DatasetError::Truncated { path: path.to_owned(), expected: bytes, found });
    }
    if found > bytes {
        return Err(DatasetError::Oversized { path: path.to_owned(), expected: bytes, found });
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file).map_err(FileError::at("read", path))?;
    if *hasher.finalize().as_bytes() != digest.0 {
        return Err(DatasetError::Corrupt(path.to_owned()));
    }
    io::Seek::rewind(&mut file).map_err(FileError::at("read", path))?;
    Ok(file)
}

/// Maps a shard's tokens out of the cache, after decompressing it there if the cache has no valid copy.
pub(crate) fn map(path: &Path, shard: &ShardManifest, token_bytes: u64, cache: &Path) -> Result<Mmap, DatasetError> {
    let raw_bytes = shard.tokens * token_bytes;
    let cached = cache.join(format!("{}.bin", shard.raw_blake3));
    let file = match open_verified(&cached, raw_bytes, shard.raw_blake3) {
        Ok(file) => file,
        Err(_) => {
            decompress(path, shard, raw_bytes, &cached)?;
            File::open(&cached).map_err(FileError::at("open", &cached))?
        }
    };
    // SAFETY: the file is named by its content and was renamed into place whole; no code of this project opens it for writing again.
    unsafe { Mmap::map(&file) }.map_err(|e| FileError::at("map", &cached)(e).into())
}

fn decompress(path: &Path, shard: &ShardManifest, raw_bytes: u64, cached: &Path) -> Result<(), DatasetError> {
    let file = open_verified(path, shard.compressed_bytes, shard.compressed_blake3)?;
    let refuse = |source| DatasetError::NotZstd { path: path.to_owned(), source };
    let mut decoder = zstd::Decoder::with_buffer(BufReader::new(file)).map_err(refuse)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(refuse)?;
    // one byte too many tells a longer content; no more is ever decompressed
    let mut content = decoder.take(raw_bytes + 1);
    write_atomically(cached, |out| {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 18];
        let mut found = 0;
        loop {
            let read = content.read(&mut buffer).map_err(refuse)?;
            if read == 0 {
                break;
            }
            found += read as u64;
            if found > raw_bytes {
                return Err(DatasetError::ContentLonger { path: path.to_owned(), expected: raw_bytes });
            }
            hasher.update(&buffer[..read]);
            out.write_all(&buffer[..read]).map_err(FileError::at("write", cached))?;
        }
        if found < raw_bytes {
            return Err(DatasetError::ContentShorter { path: path.to_owned(), expected: raw_bytes, found });
        }
        if *hasher.finalize().as_bytes() != shard.raw_blake3.0 {
            return Err(DatasetError::ContentDigest(path.to_owned()));
        }
        Ok(())
    })
}
