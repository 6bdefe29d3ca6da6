//! The built-in server in this process, clients for it, and requests signed by hand.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ClientOptions, RetryConfig};
use sha2::{Digest, Sha256};
use storage::server::{Key, Options, Server, add_key};
use storage::{Access, Bucket, Limits};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A served folder; it is served until this is dropped.
pub struct Lab {
    pub dir: TempDir,
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

/// A request that is signed by hand.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Its parts sorted and escaped, each with an equals sign.
    pub query: &'a str,
    /// A header that is not signed, with its line's end.
    pub header: &'a str,
    pub body: &'a [u8],
    /// The body whose hash is signed.
    pub hashed: &'a [u8],
    /// Seconds away from this machine's clock.
    pub skew: i64,
}

impl<'a> Request<'a> {
    pub fn new(method: &'a str, path: &'a str, body: &'a [u8]) -> Self {
        Self { method, path, query: "", header: "", body, hashed: body, skew: 0 }
    }
}

impl Lab {
    pub async fn start(options: Options) -> Self {
        Self::serve(tempfile::tempdir().unwrap(), options).await
    }

    pub async fn serve(dir: TempDir, options: Options) -> Self {
        let server = Server::bind(([127, 0, 0, 1], 0).into(), dir.path(), options).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let address = server.local_addr();
        let serving = tokio::spawn(server.run(async { drop(stopped.await) }));
        Self { dir, address, stop, serving }
    }

    /// Ends the server and returns its folder.
    pub async fn stop(self) -> TempDir {
        drop(self.stop);
        self.serving.await.unwrap();
        self.dir
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn key(&self, bucket: &str, quota: Option<u64>) -> Key {
        add_key(self.path(), bucket, quota).unwrap()
    }

    /// A client that signs with `key`, for any bucket.
    pub fn client(&self, key: &Key, bucket: &str) -> Arc<AmazonS3> {
        client_at(self.address, key, bucket)
    }

    pub fn anonymous(&self, bucket: &str) -> Arc<AmazonS3> {
        Arc::new(builder(self.address, bucket).with_skip_signature(true).build().unwrap())
    }

    /// A bucket of the project's own client, with two quick attempts.
    pub fn bucket(&self, client: Arc<AmazonS3>) -> Bucket {
        let quick = Limits { attempts: 2, pause: Duration::from_millis(1), ..Limits::default() };
        Bucket::over(client, self.endpoint().parse().unwrap()).with_limits(quick)
    }

    /// Sends bytes as they are and returns all that comes back.
    pub async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends a request signed by hand and returns the whole answer.
    pub async fn signed(&self, key: &Key, request: Request<'_>) -> String {
        let head = self.head(key, request, request.body.len());
        self.raw(&[head.as_bytes(), request.body].concat()).await
    }

    /// The head of a signed request that announces `length` bytes.
    pub fn head(&self, key: &Key, request: Request<'_>, length: usize) -> String {
        let Request { method, path, query, header, hashed, skew, .. } = request;
        let (host, time) = (self.address.to_string(), stamp(skew));
        let hash = hex::encode(Sha256::digest(hashed));
        let headers = "host;x-amz-content-sha256;x-amz-date";
        let canonical =
            format!("{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{hash}\nx-amz-date:{time}\n\n{headers}\n{hash}");
        let (day, canonical) = (&time[..8], hex::encode(Sha256::digest(canonical)));
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let secret = format!("AWS4{}", key.secret).into_bytes();
        let signing = [day, "us-east-1", "s3", "aws4_request"].iter().fold(secret, |key, part| hmac(&key, part.as_bytes()).to_vec());
        let signature = hex::encode(hmac(&signing, format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{canonical}").as_bytes()));
        let credential = format!("Credential={}/{scope}, SignedHeaders={headers}, Signature={signature}", key.access);
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        format!(
            "{method} {path}{query} HTTP/1.1\r\nHost: {host}\r\nx-amz-date: {time}\r\nx-amz-content-sha256: {hash}\r\n\
             Authorization: AWS4-HMAC-SHA256 {credential}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        )
    }
}

/// A client of the server at `address` that signs with `key`.
pub fn client_at(address: SocketAddr, key: &Key, bucket: &str) -> Arc<AmazonS3> {
    Arc::new(builder(address, bucket).with_access_key_id(&key.access).with_secret_access_key(&key.secret).build().unwrap())
}

fn builder(address: SocketAddr, bucket: &str) -> AmazonS3Builder {
    // clients choose a TLS provider as they are made, and the first one must be ours
    let _ = Bucket::open("s3://any", Access::Trusted).unwrap();
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let options = ClientOptions::new().with_allow_http(true);
    let builder = AmazonS3Builder::new().with_endpoint(format!("http://{address}")).with_bucket_name(bucket);
    builder.with_retry(retry).with_client_options(options)
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let key = if key.len() > 64 { Sha256::digest(key).to_vec() } else { key.to_vec() };
    let pad = |with: u8| (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ with).collect::<Vec<_>>();
    let inner = Sha256::digest([pad(0x36), message.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).into()
}

/// The time `skew` seconds from now, as `20260102T030405Z`.
fn stamp(skew: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + skew;
    let (days, second) = (now / 86_400, now % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
}
