//! What goes to a device and comes back, on `host/driver.cpp`, a driver that lets nothing pass. This test binary runs once more, with that as its driver.

use std::env;
use std::ffi::CStr;
use std::iter;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use compression::{Codec, Format, Indices, Quantizer};

use super::{Buffers, Kind, layout_of_sections, tensors};
use crate::image::SOURCE;
use crate::{Arch, Float, KernelError, Kernels, Place, Shard, compile, cpp};

const ON_THE_DRIVER: [&str; 3] = [
    "tests::a_device_gives_the_same_bits",
    "tests::driver::rounds_are_given_up_in_any_thread",
    "tests::driver::memory_that_is_short_is_told_once_and_not_lost",
];

/// Says so where NVRTC is missing, which makes the image.
#[test]
fn a_strict_driver_refuses_nothing() {
    if matches!(compile(Arch(90)), Err(KernelError::NoNvrtc)) {
        return eprintln!("skipped: {}", KernelError::NoNvrtc);
    }
    let folder = tempfile::tempdir().unwrap();
    let files = [("library.cpp", include_str!("../../host/library.cpp")), ("driver.cpp", include_str!("../../host/driver.cpp"))];
    // where a driver is installed, it is found by its first name too
    let arguments = "-O2 -Wall -Werror -fPIC -shared library.cpp driver.cpp -o libcuda.so";
    cpp::build(folder.path(), SOURCE, &files, arguments).unwrap();
    let mut run = Command::new(env::current_exe().unwrap());
    run.args(["--exact", "--include-ignored", "--nocapture", "--test-threads=1"]).args(ON_THE_DRIVER);
    let others = env::var_os("LD_LIBRARY_PATH");
    let others = others.iter().flat_map(|paths| env::split_paths(paths));
    let path = env::join_paths(iter::once(folder.path().to_owned()).chain(others)).unwrap();
    let ran = run.env("LD_LIBRARY_PATH", path).env("TRIBUTARY_GPU", "1").output().unwrap();
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert!(ran.status.success() && said.contains("3 passed"), "{}: {said}", ran.status);
}

/// A function of the driver that is there for tests.
fn of_driver(name: &CStr) -> *mut libc::c_void {
    // SAFETY: both names are C strings; the library has been loaded.
    let found = unsafe { libc::dlsym(libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOW), name.as_ptr()) };
    assert!(!found.is_null(), "{name:?}");
    found
}

/// Lets the allocation of this number fail; 0 for none.
fn fail_in(allocations: i64) {
    // SAFETY: `host/driver.cpp` gives it this type.
    let fails_in: extern "C" fn(i64) = unsafe { std::mem::transmute(of_driver(c"driver_fails_in")) };
    fails_in(allocations);
}

fn blocks() -> i64 {
    // SAFETY: as above.
    let blocks: extern "C" fn() -> i64 = unsafe { std::mem::transmute(of_driver(c"driver_blocks")) };
    blocks()
}

fn format() -> Arc<Format> {
    Arc::new(Format::uniform(layout_of_sections(), Codec::top_k(64, Quantizer::Sign2, Indices::Golomb)).unwrap())
}

/// Encodes a round whose tensors are all the same.
fn start(shard: &mut Shard, buffers: &Buffers<'_>) {
    let tensors: Vec<_> = buffers.elements().into_iter().enumerate().collect();
    shard.begin(&tensors);
    shard.encode(&tensors[..2], 0.9);
    shard.encode(&tensors[2..], 0.9);
}

#[test]
#[ignore = "needs host/driver.cpp: a_strict_driver_refuses_nothing runs it"]
fn rounds_are_given_up_in_any_thread() {
    let (format, folder) = (format(), tempfile::tempdir().unwrap());
    let devices = [0, 1].map(|device| Kernels::load(device, Some(folder.path())).unwrap());
    let zeros = tensors(format.layout(), Kind::Zero, 0, 0.0);
    let on_devices = devices.each_ref().map(|kernels| Buffers::new(&*kernels.machine, &zeros, Float::F32));
    let before = blocks();
    for place in [Place::Device, Place::Host] {
        let shard = |rank: usize| devices[rank].shard(&format, rank, 2, Some(place)).unwrap();
        let mut shards = [0, 1].map(shard);
        for _ in 0..2 {
            shards.iter_mut().zip(&on_devices).for_each(|(shard, buffers)| start(shard, buffers));
            thread::scope(|scope| _ = scope.spawn(|| shards.iter_mut().for_each(Shard::reset)));
        }
        shards.iter_mut().zip(&on_devices).for_each(|(shard, buffers)| start(shard, buffers));
        shards.iter_mut().for_each(|shard| _ = shard.finish().unwrap());
        shards.iter_mut().zip(&on_devices).for_each(|(shard, buffers)| start(shard, buffers));
        thread::spawn(|| drop(shards)).join().unwrap();
        assert_eq!(blocks(), before, "{place:?}");
    }
}

#[test]
#[ignore = "needs host/driver.cpp: a_strict_driver_refuses_nothing runs it"]
fn memory_that_is_short_is_told_once_and_not_lost() {
    let format = format();
    let kernels = Kernels::load(0, None).unwrap();
    let zeros = Buffers::new(&*kernels.machine, &tensors(format.layout(), Kind::Zero, 0, 0.0), Float::F32);
    for place in [Place::Device, Place::Host] {
        let round = || {
            let mut shard = kernels.shard(&format, 0, 1, Some(place))?;
            start(&mut shard, &zeros);
            shard.finish()
        };
        let before = blocks();
        for allocation in 1.. {
            fail_in(allocation);
            let short = round();
            fail_in(0);
            assert_eq!(blocks(), before, "{place:?}, allocation {allocation}");
            round().unwrap();
            match short {
                Err(KernelError::OutOfMemory | KernelError::OutOfHostMemory) => {}
                Err(other) => panic!("{other}"),
                Ok(_) if allocation > 1 => break,
                Ok(_) => panic!("nothing was allocated"),
            }
        }
    }
}
