//! `tributary`: parse, run, exit code.

// whoever closes standard output early is not met with a panic: `say!`
#![deny(clippy::print_stdout)]

#[macro_use]
mod output;

mod amend;
mod arena;
mod chain_cmd;
mod check;
mod cli;
mod codec;
mod context;
mod data;
mod demo;
mod doctor;
mod eval;
mod explain;
mod export;
mod fate;
mod launch;
mod plan;
mod pull;
mod records;
mod role;
mod scores;
mod signals;
mod snapshot;
mod status;
mod store;
mod verify;
mod wallet;

use std::process::ExitCode;

use clap::Parser;

/// Warnings and errors go to standard error; `RUST_LOG` asks for more. The S3 server's crate calls every absent object an error.
fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn,s3s=off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    init_logging();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tributary: {}", context::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
