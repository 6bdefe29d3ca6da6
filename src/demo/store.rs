//! A demo over S3: the server as a process of its own, and a key pair for whoever writes.

use std::{
    ffi::OsStr,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use storage::server::{Key, add_key, read_keys};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::signals;

/// The bucket of the run's folder.
pub const RUN_BUCKET: &str = "run";
/// How long the server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a demo's objects lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// In local folders.
    Folders,
    /// On a server of the demo's own, a bucket and a key pair for each node.
    S3,
}

/// The running server.
pub struct StoreServer {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Open for as long as it runs.
    _stdout: BufReader<ChildStdout>,
}

impl StoreServer {
    /// Starts the server of the demo in `dir`, at `address` if it had one before: its buckets' addresses are on the chain.
    pub async fn start(dir: &Path, address: Option<SocketAddr>) -> Result<Self> {
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        let log = logs.join("store.log");
        let stderr = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let listen = address.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["store", "serve", "--listen", &listen, "--dir"]).arg(folder(dir));
        signals::end_with_this_thread(command.as_std_mut());
        // a group of its own: Ctrl-C asks the nodes to stop, and they need it until they have
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let mut child = command.spawn().context("starting the store's server")?;
        let mut stdout = BufReader::new(child.stdout.take().context("a child without standard output")?);
        let mut line = String::new();
        timeout(PATIENCE, stdout.read_line(&mut line)).await.context("the store's server does not start")??;
        let Some(address) = line.trim().rsplit_once("http://").and_then(|(_, address)| address.parse().ok()) else {
            let why = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the store's server did not start: {}", why.lines().last().unwrap_or("it said nothing"));
        };
        Ok(Self { child, address, _stdout: stdout })
    }

    /// Stops the server and waits for its end.
    pub async fn stop(mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            signals::terminate(pid);
        }
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// The served folder of the demo in `dir`.
pub fn folder(dir: &Path) -> PathBuf {
    dir.join("s3")
}

/// A bucket's address on the server at `address`.
pub fn url(address: SocketAddr, bucket: &str) -> String {
    format!("s3://{bucket}?endpoint=http://{address}")
}

/// Makes `command`'s process sign as who writes `bucket`, and as nobody else that this process might be.
pub fn sign_as(command: &mut Command, dir: &Path, bucket: &str) -> Result<()> {
    let key = key_of(dir, bucket)?;
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_aws(name)) {
        command.env_remove(name);
    }
    command.env("AWS_ACCESS_KEY_ID", key.access).env("AWS_SECRET_ACCESS_KEY", key.secret);
    Ok(())
}

fn is_aws(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"AWS_")
}

/// The bucket's key, made if it has none yet.
fn key_of(dir: &Path, bucket: &str) -> Result<Key> {
    let served = folder(dir);
    let known = read_keys(&served)?.into_iter().find(|key| key.bucket == bucket);
    known.map_or_else(|| Ok(add_key(&served, bucket, None)?), Ok)
}
