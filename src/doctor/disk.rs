//! What the disk below a home takes and gives. The file that is written has no name, so that nothing is left of it, whatever happens.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Bytes that are written at a time, each time down to the disk, and the most in all.
const PIECE: usize = 32 << 20;
const MOST: usize = 512 << 20;
/// After so long nothing more is written.
const TIME: Duration = Duration::from_millis(1500);

/// A disk, one large file after the other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Disk {
    /// Bytes per second that are durable.
    pub write_bytes_per_second: f64,
    /// Bytes per second that come back, past the system's cache if it lets go of them.
    pub read_bytes_per_second: f64,
    /// Bytes that are free.
    pub free_bytes: u64,
}

/// Measures the disk of a home; of one that does not exist yet, that of the nearest folder above it.
pub fn measure(home: &Path) -> Result<Disk> {
    let home = std::path::absolute(home).with_context(|| home.display().to_string())?;
    let folder = home.ancestors().find(|path| path.exists()).unwrap_or(&home);
    let failed = || {
        format!("{} cannot be measured; make it a folder that can be written, with 512 MB free, or name another --home", folder.display())
    };
    let mut file = tempfile::tempfile_in(folder).with_context(failed)?;
    probe(&mut file).with_context(failed)
}

fn probe(file: &mut File) -> io::Result<Disk> {
    let free_bytes = free(file)?;
    let (start, mut written, piece) = (Instant::now(), 0, noise());
    while written == 0 || (written < MOST && start.elapsed() < TIME) {
        file.write_all(&piece)?;
        file.sync_data()?;
        written += piece.len();
    }
    let write_bytes_per_second = written as f64 / start.elapsed().as_secs_f64();
    forget(file);
    file.rewind()?;
    let (start, mut read, mut buffer) = (Instant::now(), 0, piece);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            some => read += some,
        }
    }
    Ok(Disk { write_bytes_per_second, read_bytes_per_second: read as f64 / start.elapsed().as_secs_f64(), free_bytes })
}

/// Bytes that are free where a file lies.
fn free(file: &File) -> io::Result<u64> {
    let mut stats = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the descriptor is that of an open file, and a call that returns 0 has written all of `stats`.
    let stats = unsafe {
        match libc::fstatvfs(file.as_raw_fd(), stats.as_mut_ptr()) {
            0 => stats.assume_init(),
            _ => return Err(io::Error::last_os_error()),
        }
    };
    Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
}

/// Bytes that no disk can make smaller.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    (0..PIECE / 8).flat_map(|_| next()).collect()
}

/// Asks the system to drop what it keeps of a file in memory. It may refuse; then what comes back is its memory's rate.
fn forget(file: &File) {
    // SAFETY: the call takes no pointers, and the descriptor is that of an open file.
    let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_is_left_and_no_folder_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let disk = measure(&dir.path().join("not/yet")).unwrap();
        assert!(disk.write_bytes_per_second > 0.0 && disk.read_bytes_per_second > 0.0 && disk.free_bytes > 0, "{disk:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_no_home() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = measure(file.path()).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()) && error.contains("--home"), "{error}");
    }
}
