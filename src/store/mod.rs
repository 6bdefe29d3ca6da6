//! `tributary store`: what a run's buckets hold and cost, retention, and a server for labs.

mod gc;
pub mod month;
mod retained;
mod serve;
mod usage;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::context;

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
    /// Show what a run's buckets hold, and what a month costs.
    Usage(usage::UsageArgs),
    /// Delete from the own bucket what the run's retention does not keep.
    Gc(gc::GcArgs),
}

/// Runs the command.
pub fn run(args: StoreArgs) -> Result<()> {
    match args.command {
        StoreCommand::Serve(args) => serve::run(args),
        StoreCommand::Key(args) => serve::key(&args),
        StoreCommand::Usage(args) => context::block_on(usage::run(args)),
        StoreCommand::Gc(args) => context::block_on(gc::run(args)),
    }
}
