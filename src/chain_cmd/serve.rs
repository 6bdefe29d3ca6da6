//! `tributary chain serve`: a ledger for the other machines of a lab.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::net::TcpListener;

use crate::{context, signals};

/// Options of `tributary chain serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Other machines then name the chain as http://HOST:PORT. Every write is signed by its hotkey or coldkey; reads are public. There is no TLS here: where the
network is not your own, put a proxy that has it in front.

Example:
  tributary chain serve store/ledger.sqlite --listen 0.0.0.0:9945")]
pub struct ServeArgs {
    /// The ledger's file; its blocks come from the wall clock or by hand.
    path: PathBuf,
    /// Address and port to listen at.
    #[arg(long, default_value = "127.0.0.1:9945")]
    listen: SocketAddr,
}

/// Serves until a signal asks to stop.
pub fn run(args: ServeArgs) -> Result<()> {
    let (_stopper, mut shutdown) = signals::stop_on_signals().context("watching for signals")?;
    context::block_on(async {
        let ledger = Arc::new(super::open(&args.path)?);
        let listener = TcpListener::bind(args.listen).await.with_context(|| args.listen.to_string())?;
        say!("ledger {} at http://{}", args.path.display(), listener.local_addr()?);
        Ok(chain::serve(ledger, listener, async move { shutdown.wait().await }).await?)
    })
}
