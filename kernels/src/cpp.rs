//! The kernels' source under the host shim, built by this machine's C++ compiler.

use std::path::Path;
use std::process::Command;
use std::{env, fs, io};

/// Compiles files and what they include, the kernels' source among it, in a folder; `arguments` have spaces between them.
///
/// # Errors
/// If there is no compiler (`CXX`, or `c++`), or with what it says.
pub(crate) fn build(folder: &Path, source: &str, files: &[(&str, &str)], arguments: &str) -> io::Result<()> {
    let shim =
        [("kernels.cu", source), ("cuda_host.h", include_str!("../host/cuda_host.h")), ("dispatch.h", include_str!("../host/dispatch.h"))];
    for (name, content) in shim.iter().chain(files) {
        fs::write(folder.join(name), content)?;
    }
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".into());
    // without the contraction of a * b + c the C++ says what the intrinsics say
    let common = "-std=c++17 -ffp-contract=off";
    let built = Command::new(&compiler).args(common.split(' ').chain(arguments.split(' '))).current_dir(folder).output();
    let built =
        built.map_err(|error| io::Error::other(format!("cannot run the C++ compiler {compiler:?}: {error}; install one or set CXX")))?;
    if built.status.success() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&built.stderr).into_owned())) }
}
