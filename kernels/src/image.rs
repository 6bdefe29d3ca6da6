//! From the source to an image for one architecture, and a folder of images that were compiled before.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::{KernelError, floor};

/// The kernels' source.
pub(crate) const SOURCE: &str = concat!(
    include_str!("../cuda/common.cu"),
    include_str!("../cuda/apply.cu"),
    include_str!("../cuda/encode.cu"),
    include_str!("../cuda/train.cu")
);

/// What makes f32 arithmetic on the device that of the CPU: nothing fused, nothing flushed, division and square root rounded correctly.
const OPTIONS: [&str; 5] = ["--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"];

/// Bytes of the hash in front of a cached image.
const HASH_BYTES: usize = blake3::OUT_LEN;

/// A device's architecture as NVIDIA numbers them: 90 is `sm_90`, compute capability 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch(pub u32);

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.0)
    }
}

fn options(arch: Arch) -> Vec<String> {
    let general = OPTIONS.iter().map(|&option| option.to_owned());
    general.chain([format!("--gpu-architecture={arch}")]).collect()
}

/// The kernels' image (a cubin) for one architecture. Needs NVRTC, but neither a device nor a driver.
///
/// # Errors
/// [`KernelError::NoNvrtc`] or [`KernelError::Compile`].
pub fn compile(arch: Arch) -> Result<Vec<u8>, KernelError> {
    if !floor::nvrtc_is_present() {
        return Err(KernelError::NoNvrtc);
    }
    floor::compile(SOURCE, &options(arch)).map_err(|log| KernelError::Compile { arch, log })
}

/// The image from `folder` if source, options and architecture are those it was compiled from, else from `compile`, kept there.
/// A file that is damaged counts as missing.
pub(crate) fn cached(
    arch: Arch,
    folder: &Path,
    compile: impl FnOnce(Arch) -> Result<Vec<u8>, KernelError>,
) -> Result<Vec<u8>, KernelError> {
    let mut key = blake3::Hasher::new();
    key.update(SOURCE.as_bytes()).update(options(arch).join(" ").as_bytes());
    let path = folder.join(format!("kernels-{arch}-{}", key.finalize().to_hex()));
    if let Some(image) = fs::read(&path).ok().and_then(unseal) {
        return Ok(image);
    }
    let image = compile(arch)?;
    keep(&path, &image).map_err(|source| KernelError::Cache { path, source })?;
    Ok(image)
}

fn unseal(file: Vec<u8>) -> Option<Vec<u8>> {
    let (hash, image) = file.split_at_checked(HASH_BYTES)?;
    (blake3::hash(image).as_bytes() == hash).then(|| image.to_vec())
}

/// Renamed into place, so that no process reads half an image.
fn keep(path: &Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&unfinished, [blake3::hash(image).as_bytes(), image].concat())?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NEVER: fn(Arch) -> Result<Vec<u8>, KernelError> = |_| Err(KernelError::NoNvrtc);

    #[test]
    fn an_image_is_compiled_once_per_architecture() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        assert_eq!(cached(Arch(90), &folder, |_| Ok(vec![1, 2])).unwrap(), [1, 2]);
        assert_eq!(cached(Arch(90), &folder, NEVER).unwrap(), [1, 2]);
        assert!(matches!(cached(Arch(80), &folder, NEVER), Err(KernelError::NoNvrtc)));
    }

    #[test]
    fn a_damaged_image_is_compiled_again() {
        let folder = tempfile::tempdir().unwrap();
        cached(Arch(90), folder.path(), |_| Ok(vec![1, 2])).unwrap();
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        for damaged in [vec![], vec![0; 20], vec![0; 34]] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(cached(Arch(90), folder.path(), |_| Ok(vec![3])).unwrap(), [3]);
            assert_eq!(cached(Arch(90), folder.path(), NEVER).unwrap(), [3]);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = cached(Arch(90), &file.path().join("below"), |_| Ok(vec![1]));
        assert!(matches!(refused, Err(KernelError::Cache { path, .. }) if path.starts_with(file.path())));
    }

    /// Says so where NVRTC is missing, rather than passing unseen; it must be where somebody says that it is.
    #[test]
    fn nvrtc_compiles_for_three_generations() {
        for arch in [80, 90, 100].map(Arch) {
            match compile(arch) {
                Err(KernelError::NoNvrtc) if std::env::var_os("TRIBUTARY_NVRTC").is_none() => {
                    return eprintln!("skipped: {}", KernelError::NoNvrtc);
                }
                image => assert_eq!(image.unwrap()[..4], *b"\x7fELF", "{arch}"),
            }
        }
        let unknown = compile(Arch(1));
        assert!(matches!(unknown, Err(KernelError::Compile { arch: Arch(1), ref log }) if log.contains("architecture")), "{unknown:?}");
    }
}
