//! A small S3 server over a local folder, for labs and tests: every peer has a key pair, writes its own bucket and reads all.
//!
//! A bucket is a folder and an object a plain file in it, so that both can be looked at:
//!
//! ```text
//! DIR/BUCKET/KEY          objects
//! DIR/.keys.toml          who may write what; read again when it changes
//! DIR/.uploads/BUCKET/ID  parts of unfinished multipart uploads
//! DIR/.incoming           what is being received; emptied at start
//! ```
//!
//! An object appears whole or not at all: it is received beside, synced, and put in place in one step that also checks `If-None-Match` and
//! `If-Match`, so of many creators exactly one wins, and a server killed at any moment leaves nothing half-written. One process at a time
//! serves a folder.
//!
//! Known limits, all answered with an error: a name cannot be an object and a folder at once, keys have no empty or hidden parts, and
//! headers such as Content-Type are not kept. There is no TLS: where the network is not one's own, a proxy that has it goes in front.

mod access;
mod api;
mod disk;
mod keys;
mod listing;
mod receive;
mod uploads;

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use keys::{KEYS_FILE, Key, KeysError, add_key, read_keys, remove_key};

/// Connections at a time; later ones wait to be accepted. Each has one request at a time.
const CONNECTIONS: usize = 1024;
/// How long a client may take for a request's head, idle time before it included.
const HEAD: Duration = Duration::from_secs(60);
/// How long requests may take once the server was asked to stop.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after a failure that has nothing to do with a client.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest XML of a request: 10,000 parts or 1,000 keys to delete.
const MAX_XML: usize = 4 << 20;
/// How far a signature's date may be from this machine's clock, in seconds.
const MAX_SKEW: u32 = 15 * 60;

/// How a folder is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Who may read without a signature.
    pub reading: Reading,
    /// The fewest bytes of every part of a multipart upload but the last; S3 wants 5 MiB.
    pub smallest_part: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { reading: Reading::Anonymous, smallest_part: 5 << 20 }
    }
}

/// Who may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Anybody, as peers read each other's buckets.
    Anonymous,
    /// Only who has a key.
    Signed,
}

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened at.
    #[error("{address} cannot be listened at: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The folder cannot be used.
    #[error("{path} cannot be used: {source}")]
    Folder {
        /// What of it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process serves it.
    #[error("{0} is being served by another process; stop that one first")]
    InUse(PathBuf),
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    service: S3Service,
    /// Held for as long as the folder is served.
    lock: File,
}

impl Server {
    /// Listens at `address` and prepares `dir`, which is created if it is missing: what an earlier process was receiving is removed.
    ///
    /// # Errors
    /// [`ServerError`] says what is in the way.
    pub async fn bind(address: SocketAddr, dir: &Path, options: Options) -> Result<Self, ServerError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| ServerError::Folder { path, source }
        };
        fs::create_dir_all(dir).map_err(at(dir))?;
        let lock = lock(dir)?;
        let disk = disk::Disk::open(dir).map_err(at(dir))?;
        let keys = Arc::new(keys::Keys::open(dir)?);
        let mut builder = S3ServiceBuilder::new(api::Api { disk: disk.into(), keys: keys.clone(), smallest_part: options.smallest_part });
        builder.set_auth(access::Gate { keys: keys.clone(), reading: options.reading });
        builder.set_access(access::Gate { keys, reading: options.reading });
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(limits()))));
        let listen = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address, service: builder.build(), lock })
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes; pending requests then get a few seconds.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        let accepting = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                while connections.try_join_next().is_some() {}
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        let connection = connection(stream, self.service.clone(), stopped.clone());
                        connections.spawn(async move {
                            connection.await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = shutdown => {}
        }
        let _ = stop.send(true);
        while connections.join_next().await.is_some() {}
        drop(self.lock);
    }
}

/// One client's requests, until it goes or the server stops.
async fn connection(stream: TcpStream, service: S3Service, mut stopped: watch::Receiver<bool>) {
    // small answers are not held back
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), receive::Drained(service)));
    tokio::select! {
        result = serving.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection broke");
            }
            return;
        }
        _ = stopped.wait_for(|&stopped| stopped) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, serving).await;
}

/// What a request may make this process hold in memory, and how old it may be. Uploads by HTML form are not served.
fn limits() -> S3Config {
    let mut config = S3Config::default();
    config.xml_max_body_size = MAX_XML;
    config.post_object_max_file_size = 0;
    config.form_max_field_size = 4096;
    config.form_max_fields_size = 1 << 16;
    config.form_max_parts = 32;
    config.presigned_url_max_skew_time_secs = MAX_SKEW;
    config
}

/// Makes this process the only one that serves `dir`; the lock ends with the file, so also with a killed process.
fn lock(dir: &Path) -> Result<File, ServerError> {
    let path = dir.join(".lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|source| ServerError::Folder { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(ServerError::InUse(dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(ServerError::Folder { path, source }),
    }
}
