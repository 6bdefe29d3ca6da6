//! `tributary store`: object storage by itself.

mod serve;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Options of `tributary store`.
#[derive(Debug, Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Serve a folder over S3: for a lab, every peer with a bucket of its own.
    Serve(serve::ServeArgs),
    /// Make or revoke a key pair of a served folder.
    Key(serve::KeyArgs),
}

/// Runs the command.
pub fn run(args: StoreArgs) -> Result<()> {
    match args.command {
        StoreCommand::Serve(args) => serve::run(args),
        StoreCommand::Key(args) => serve::key(&args),
    }
}
