//! The kernels' source as a program for this machine's CPU, by its C++ compiler and the shim in `host/`.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use tempfile::TempDir;

use crate::KernelError;
use crate::device;
use crate::machine::{Argument, Machine};

/// The order in which the threads of a block run between two barriers.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Ascending,
    Descending,
}

/// A compiled program, and the memory that it works on.
pub struct Host {
    folder: TempDir,
    order: Order,
    buffers: Rc<RefCell<Vec<Vec<u8>>>>,
    tables: Buffer,
}

/// A buffer by its number; its bytes go when it is dropped.
pub struct Buffer(Rc<RefCell<Vec<Vec<u8>>>>, usize);

impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.borrow_mut()[self.1].clear();
    }
}

fn put(buffers: &Rc<RefCell<Vec<Vec<u8>>>>, bytes: &[u8]) -> Buffer {
    let mut all = buffers.borrow_mut();
    let free = all.iter().position(Vec::is_empty).unwrap_or(all.len());
    if free == all.len() {
        all.push(Vec::new());
    }
    all[free] = bytes.to_vec();
    Buffer(buffers.clone(), free)
}

impl Host {
    pub fn build(source: &str, order: Order) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("kernels.cu", source),
            ("cuda_host.h", include_str!("../../host/cuda_host.h")),
            ("main.cpp", include_str!("../../host/main.cpp")),
        ];
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        // The sanitizers notice every access beyond a buffer; without the contraction of a * b + c the C++ says what the intrinsics say.
        let arguments =
            "-std=c++17 -O1 -Wall -Werror -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover=all main.cpp -o run";
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let built = Command::new(&compiler).args(arguments.split(' ')).current_dir(folder.path()).output();
        let built = built.unwrap_or_else(|error| panic!("cannot run the C++ compiler {compiler:?}: {error}; install one or set CXX"));
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let buffers = Rc::default();
        Self { folder, order, tables: put(&buffers, &device::tables()), buffers }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Machine for Host {
    type Memory = Buffer;

    fn put(&self, bytes: &[u8]) -> Result<Buffer, KernelError> {
        Ok(put(&self.buffers, bytes))
    }

    fn zeros(&self, bytes: usize) -> Result<Buffer, KernelError> {
        self.put(&vec![0; bytes])
    }

    fn address(&self, memory: &Buffer) -> u64 {
        (memory.1 as u64 + 1) << 48
    }

    fn get(&self, memory: &Buffer) -> Result<Vec<u8>, KernelError> {
        Ok(self.buffers.borrow()[memory.1].clone())
    }

    fn tables(&self) -> &Buffer {
        &self.tables
    }

    unsafe fn run(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), KernelError> {
        let words = arguments.iter().map(|argument| match *argument {
            Argument::Address(address) => address,
            Argument::U32(value) => value.into(),
            Argument::F32(value) => value.to_bits().into(),
        });
        let words: Vec<u8> = std::iter::once(blocks.into()).chain(words).flat_map(u64::to_le_bytes).collect();
        let mut buffers = self.buffers.borrow_mut();
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
