//! The kernel's source as a program for this machine's CPU, by its C++ compiler and the shim in `host/`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::KernelError;
use crate::plan::{Launch, Plan, Source, Step, Task};

/// The order in which the threads of a block run between two barriers.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Ascending,
    Descending,
}

/// A compiled program.
pub struct Host {
    folder: TempDir,
    order: Order,
}

impl Host {
    pub fn build(source: &str, order: Order) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("apply.cu", source),
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
        Self { folder, order }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Step for Host {
    fn step(&self, plan: &Plan, tensors: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, KernelError> {
        let mut input = (plan.bytes.len() as u64).to_le_bytes().to_vec();
        input.extend(&plan.bytes);
        put(&mut input, compression::SIGN2.as_flattened());
        put(&mut input, compression::SIGN1.as_flattened());
        for (launches, theta) in plan.tensors.iter().zip(tensors) {
            let mut rest = &theta[..];
            for Launch { task, sources } in launches {
                put_task(&mut input, task);
                sources.iter().for_each(|source| put_source(&mut input, source));
                put(&mut input, rest.split_off(..task.elements() as usize).unwrap());
            }
            assert!(rest.is_empty());
        }
        fs::write(self.file("input"), input).unwrap();
        let order = format!("{:?}", self.order).to_lowercase();
        let mut run = Command::new(self.file("run"));
        run.arg(order).env("ASAN_OPTIONS", "detect_leaks=0").stdin(File::open(self.file("input")).unwrap());
        let ran = run.output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let mut elements = ran.stdout.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        let stepped: Vec<Vec<f32>> = tensors.iter().map(|theta| elements.by_ref().take(theta.len()).collect()).collect();
        assert_eq!(stepped.iter().map(Vec::len).sum::<usize>() * 4, ran.stdout.len());
        Ok(stepped)
    }
}

fn put(input: &mut Vec<u8>, values: &[f32]) {
    input.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn put_task(input: &mut Vec<u8>, task: &Task) {
    input.extend(task.shape.iter().chain([&task.payloads]).chain(&task.offsets).flat_map(|value| value.to_le_bytes()));
    input.extend(task.codec.iter().flat_map(|value| value.to_le_bytes()));
    put(input, &[task.lr, task.over_all]);
    input.extend(task.padding.to_le_bytes());
}

fn put_source(input: &mut Vec<u8>, source: &Source) {
    input.extend(source.section.to_le_bytes());
    put(input, &[source.factor, source.weight]);
}
