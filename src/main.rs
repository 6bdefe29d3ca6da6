//! `tributary`: parse, run, exit code.

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
mod output;
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

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tributary: {}", context::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
