//! Compiles the C++ shim against the headers of the libtorch that `torch-sys` found.

use std::path::PathBuf;

fn main() {
    let lib = PathBuf::from(std::env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys publishes the folder of libtorch's libraries"));
    let include = lib.parent().expect("the libraries lie in a subfolder of libtorch").join("include");
    println!("cargo:rerun-if-changed=src/shim.cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .warnings(false)
        .include(include.join("torch/csrc/api/include"))
        .include(include)
        .file("src/shim.cpp")
        .compile("model_shim");
}
