#!/usr/bin/env bash
# Fetches libtorch 2.11.0 for the CPU into .libtorch, once: 543 MB down, 498 MB kept.
#
# tch 0.24 needs exactly this version, and PyTorch publishes it in the wheels named below. The CPU libraries and the headers are kept; a GPU
# machine's own libtorch_cuda.so is loaded at run time (see model/README.md). libtorch_cpu.so links cudart and cupti, so these two come along.
set -euo pipefail

cd "$(dirname "$0")/.."
dest=$PWD/.libtorch
version=2.11.0

# What comes with python3's torch for GPUs, linked to where our binaries look, under the names that they ask for: NVIDIA's compiler of kernels, and NCCL for
# the exchange of several GPUs.
link_nvidia() {
    local packages
    packages=$(python3 -c 'import importlib.util as u; print(u.find_spec("nvidia").submodule_search_locations[0])' 2>/dev/null || true)
    if [ -e "$packages/nccl/lib/libnccl.so.2" ]; then
        ln -sf "$packages/nccl/lib/libnccl.so.2" "$dest/lib/libnccl.so"
    fi
    local library
    for library in "$packages"/cu13/lib/libnvrtc.so.13 "$packages"/cu13/lib/libnvrtc-builtins.so.13.*; do
        if [ -e "$library" ]; then
            ln -sf "$library" "$dest/lib/"
        fi
    done
}

if [ "$(cat "$dest/version" 2>/dev/null || true)" = "$version" ]; then
    link_nvidia
    exit 0
fi
if [ "$(uname -s)" != Linux ] || ! arch=$(uname -m) || [[ $arch != x86_64 && $arch != aarch64 ]]; then
    echo "setup-libtorch: no libtorch wheel for $(uname -s) on $(uname -m); put libtorch $version into .libtorch yourself" >&2
    exit 1
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "setup-libtorch: Python 3 with pip is needed (Debian: apt install python3-pip)" >&2
    exit 1
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
echo "fetching libtorch $version (543 MB, once)"
python3 -m pip --quiet --disable-pip-version-check download --no-cache-dir --no-deps --only-binary=:all: --python-version 3.12 \
    --platform "manylinux_2_28_$arch" --platform "manylinux_2_25_$arch" --platform "manylinux_2_17_$arch" \
    --dest "$tmp" "torch==$version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85

rm -rf "$dest"
python3 - "$dest" "$tmp"/*.whl <<'PY'
import os, shutil, sys, zipfile

dest, wheels = sys.argv[1], sys.argv[2:]
libraries = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
for wheel in wheels:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            base = os.path.basename(name)
            # auditwheel renames the OpenMP library on some platforms: libgomp-HASH.so.1.0.0
            if base.startswith("libgomp-"):
                base = "libgomp.so.1"
            if name.startswith("torch/include/") and not name.endswith("/"):
                target = os.path.join(dest, name.removeprefix("torch/"))
            elif base in libraries:
                target = os.path.join(dest, "lib", base)
            else:
                continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with archive.open(name) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
PY
# torch-sys passes -ltorch and -lgomp; the first needs no libtorch_cuda.so this way
echo 'INPUT(libtorch_cpu.so)' > "$dest/lib/libtorch.so"
ln -sf libgomp.so.1 "$dest/lib/libgomp.so"
link_nvidia
echo "$version" > "$dest/version"
