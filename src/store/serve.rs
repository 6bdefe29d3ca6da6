//! `tributary store serve` and `key`: S3 for the other machines of a lab.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args};
use storage::server::{self, Options, Reading, Server};

use crate::{context, output, signals};

/// Options of `tributary store serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every key pair writes one bucket and reads all; without a key, everybody reads, which is how peers read each other. Keys are made by `tributary store key`
and taken up while the server runs. There is no TLS here: where the network is not your own, put a proxy that has it in front.

Example:
  tributary store serve --dir store --listen 0.0.0.0:9000")]
pub struct ServeArgs {
    /// The folder: a folder for each bucket, and in it a file for each object.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Address and port to listen at.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Refuse requests without a signature, reading too.
    #[arg(long)]
    private: bool,
}

/// Options of `tributary store key`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["bucket", "revoke"])), after_help = "\
Prints the new key as the environment variables that its owner's process needs, and the bucket's address. The secret is kept in DIR/.keys.toml only.

Example:
  tributary store key --dir store --bucket miner-1 --quota 2000000000 > miner-1.env")]
pub struct KeyArgs {
    /// The served folder.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The bucket that the new key may write; it is made if it is missing.
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// The most bytes that the bucket may hold, counted in blocks of 4 KiB.
    #[arg(long, value_name = "BYTES", requires = "bucket")]
    quota: Option<u64>,
    /// Where the server is reached, for the address that is printed.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9000")]
    endpoint: String,
    /// Take this access key away.
    #[arg(long, value_name = "ACCESS_KEY")]
    revoke: Option<String>,
}

/// Serves until a signal asks to stop.
pub fn run(args: ServeArgs) -> Result<()> {
    let (_stopper, mut shutdown) = signals::stop_on_signals().context("watching for signals")?;
    context::block_on(async {
        let reading = if args.private { Reading::Signed } else { Reading::Anonymous };
        let server = Server::bind(args.listen, &args.dir, Options { reading, ..Options::default() }).await?;
        output::say(format!("{} at http://{}", args.dir.display(), server.local_addr()));
        server.run(async move { shutdown.wait().await }).await;
        Ok(())
    })
}

/// Makes or revokes a key.
pub fn key(args: &KeyArgs) -> Result<()> {
    if let Some(access) = &args.revoke {
        if !server::remove_key(&args.dir, access)? {
            bail!("{} has no key {access}", args.dir.join(server::KEYS_FILE).display());
        }
        output::say(format!("{access} is revoked"));
    }
    if let Some(bucket) = &args.bucket {
        let key = server::add_key(&args.dir, bucket, args.quota)?;
        output::say(format!("AWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={}", key.access, key.secret));
        output::say(format!("BUCKET=s3://{bucket}?endpoint={}", args.endpoint));
    }
    Ok(())
}
