//! The kernels' source as a program for this machine's CPU, by its C++ compiler and the shim in `host/`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

use crate::machine::{Argument, Machine, Memory, Place};
use crate::{KernelError, cpp, device};

/// The order in which the threads of a block run between two barriers.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Ascending,
    Descending,
}

/// What a program has in its memory, by number; empty are those that were released.
type Buffers = Arc<Mutex<Vec<Vec<u8>>>>;

/// A compiled program, and the memory that it works on.
pub struct Host {
    folder: TempDir,
    order: Order,
    buffers: Buffers,
    tables: Memory,
}

/// A buffer by its number; its bytes go when it is dropped.
struct Buffer(Buffers, usize);

impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[self.1].clear();
    }
}

fn put(buffers: &Buffers, bytes: Vec<u8>, place: Place) -> Memory {
    let mut all = buffers.lock().unwrap_or_else(PoisonError::into_inner);
    let free = all.iter().position(Vec::is_empty).unwrap_or(all.len());
    if free == all.len() {
        all.push(Vec::new());
    }
    let size = bytes.len();
    all[free] = bytes;
    Memory { address: (free as u64 + 1) << 48, bytes: size, place, _owner: Box::new(Buffer(buffers.clone(), free)) }
}

/// The number of an address's buffer.
fn number(address: u64) -> usize {
    (address >> 48) as usize - 1
}

impl Host {
    pub fn build(source: &str, order: Order) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The sanitizers notice every access beyond a buffer.
        let arguments = "-O1 -Wall -Werror -fsanitize=address,undefined -fno-sanitize-recover=all main.cpp -o run";
        cpp::build(folder.path(), source, &[("main.cpp", include_str!("../../host/main.cpp"))], arguments).unwrap();
        let buffers = Buffers::default();
        Self { folder, order, tables: put(&buffers, device::tables(), Place::Device), buffers }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Machine for Host {
    fn zeros(&self, bytes: usize, place: Place) -> Result<Memory, KernelError> {
        Ok(put(&self.buffers, vec![0; bytes], place))
    }

    fn put(&self, bytes: Vec<u8>) -> Result<Memory, KernelError> {
        Ok(put(&self.buffers, bytes, Place::Device))
    }

    fn write(&self, memory: &Memory, at: usize, bytes: &[u8]) -> Result<(), KernelError> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)[number(memory.address)][at..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    unsafe fn copy(&self, memory: &Memory, at: usize, from: u64, len: usize) -> Result<(), KernelError> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let first = (from & 0xFFFF_FFFF_FFFF) as usize;
        let bytes = buffers[number(from)][first..][..len].to_vec();
        buffers[number(memory.address)][at..][..len].copy_from_slice(&bytes);
        Ok(())
    }

    fn read(&self, memory: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), KernelError> {
        bytes.copy_from_slice(&self.buffers.lock().unwrap_or_else(PoisonError::into_inner)[number(memory.address)][at..][..bytes.len()]);
        Ok(())
    }

    fn left(&self) -> Result<usize, KernelError> {
        Ok(1 << 30)
    }

    fn tables(&self) -> &Memory {
        &self.tables
    }

    unsafe fn run(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), KernelError> {
        let words = arguments.iter().map(|argument| argument.word());
        let words: Vec<u8> = std::iter::once(blocks.into()).chain(words).flat_map(u64::to_le_bytes).collect();
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let input = buffers.iter().chain([&words]).flat_map(|buffer| [&(buffer.len() as u64).to_le_bytes(), &buffer[..]].concat());
        fs::write(self.file("input"), input.collect::<Vec<u8>>()).unwrap();
        let order = format!("{:?}", self.order).to_lowercase();
        let mut run = Command::new(self.file("run"));
        run.args([&order, kernel]).env("ASAN_OPTIONS", "detect_leaks=0").stdin(File::open(self.file("input")).unwrap());
        let ran = run.output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let mut output = &ran.stdout[..];
        for buffer in buffers.iter_mut() {
            let (size, rest) = output.split_first_chunk().unwrap();
            let (bytes, rest) = rest.split_at(u64::from_le_bytes(*size) as usize);
            buffer.copy_from_slice(bytes);
            output = rest;
        }
        assert!(output.is_empty());
        Ok(())
    }
}
