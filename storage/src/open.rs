//! From an address to a store.

use std::io::ErrorKind;
use std::path::Path as FilePath;
use std::sync::{Arc, LazyLock};

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};
use url::{Host, Url};

use crate::aws_profile::Profile;
use crate::client::{Reach, is_public};
use crate::error::StorageError;

/// On whose word an address is opened, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// One's own bucket: reading and writing, with the credentials in the environment. A missing local folder is created.
    Own,
    /// An address that the operator gave (or, in a lab, that peers gave): reading, without credentials, of any kind.
    Trusted,
    /// A stranger's address: reading, without credentials, by HTTPS from public addresses, no local folder.
    Foreign,
}

/// A store behind an address, and the path inside it.
pub(crate) struct Opened {
    pub store: Arc<dyn ObjectStore>,
    /// The same store, if it takes an object's parts in any order.
    pub multipart: Option<Arc<dyn MultipartStore>>,
    pub prefix: Path,
}

impl Opened {
    fn with_multipart<S: ObjectStore + MultipartStore>(store: Arc<S>) -> Self {
        Self { store: store.clone(), multipart: Some(store), prefix: Path::default() }
    }

    fn plain(store: impl ObjectStore) -> Self {
        Self { store: Arc::new(store), multipart: None, prefix: Path::default() }
    }
}

/// The store of `memory:///…` addresses: one for the whole process, for tests.
static MEMORY: LazyLock<Arc<InMemory>> = LazyLock::new(Arc::default);

/// Reads an address; a plain path is a local folder, unless a stranger gave it.
pub(crate) fn parse(address: &str, access: Access) -> Result<Url, StorageError> {
    let refuse = |problem: &str| StorageError::BadUrl { url: address.to_owned(), problem: problem.to_owned() };
    let url = match Url::parse(address) {
        Ok(url) => url,
        // it may contain a secret whose `/` made it unreadable
        Err(problem) if address.contains("://") => {
            let scheme = address.split("://").next().unwrap_or_default();
            return Err(StorageError::BadUrl { url: format!("{scheme}://…"), problem: format!("it is not a URL: {problem}") });
        }
        Err(_) if access == Access::Foreign || address.is_empty() => return Err(refuse("it is not a URL")),
        Err(_) => {
            let path = std::path::absolute(address).map_err(|e| refuse(&e.to_string()))?;
            Url::from_file_path(path).map_err(|()| refuse("it is not a path"))?
        }
    };
    // in abfs addresses the user name is the container
    if url.password().is_some() || (!url.username().is_empty() && !url.scheme().starts_with("abfs")) {
        let problem = "it contains credentials; give them in the environment".to_owned();
        return Err(StorageError::BadUrl { url: format!("{}://…", url.scheme()), problem });
    }
    if access == Access::Foreign {
        check_foreign(&url).map_err(|problem| refuse(&problem))?;
    }
    Ok(url)
}

fn check_foreign(url: &Url) -> Result<(), String> {
    if !matches!(url.scheme(), "https" | "s3" | "gs" | "az") {
        return Err(format!("a stranger's bucket must be https, s3, gs or az, not {}", url.scheme()));
    }
    let address = match url.host() {
        Some(Host::Ipv4(v4)) => Some(v4.into()),
        Some(Host::Ipv6(v6)) => Some(v6.into()),
        _ => None,
    };
    match address.filter(|&a| !is_public(a)) {
        Some(address) => Err(format!("{address} is not a public address")),
        None => Ok(()),
    }
}

/// The store behind a checked address, and the path inside it.
pub(crate) fn connect(url: &Url, access: Access) -> Result<Opened, StorageError> {
    // options may hold secrets
    let refuse = |problem: String| StorageError::BadUrl { url: url[..url::Position::AfterPath].to_owned(), problem };
    let (scheme, path) = ObjectStoreScheme::parse(url).map_err(|e| refuse(e.to_string()))?;
    let options = Options::read(url, access).map_err(&refuse)?;
    match scheme {
        ObjectStoreScheme::Local => {
            let folder = url.to_file_path().map_err(|()| refuse("it is not a path".into()))?;
            local(url, &folder, access)
        }
        ObjectStoreScheme::Memory => Ok(Opened { prefix: path, ..Opened::with_multipart(MEMORY.clone()) }),
        _ => Ok(Opened { prefix: path, ..remote(scheme, url, access, options).map_err(|e| refuse(e.to_string()))? }),
    }
}

fn local(url: &Url, folder: &FilePath, access: Access) -> Result<Opened, StorageError> {
    let refuse = |e: std::io::Error| match StorageError::of_io(url.as_str(), e.kind(), e) {
        Ok(told) => told,
        Err(e) if matches!(e.kind(), ErrorKind::NotADirectory | ErrorKind::AlreadyExists) => {
            StorageError::BadUrl { url: url.to_string(), problem: "it is not a folder".into() }
        }
        Err(e) => StorageError::Unreachable { url: url.to_string(), attempts: 1, source: e.into() },
    };
    if access == Access::Own {
        std::fs::create_dir_all(folder).map_err(refuse)?;
    }
    if !std::fs::metadata(folder).map_err(refuse)?.is_dir() {
        return Err(refuse(ErrorKind::NotADirectory.into()));
    }
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|e| StorageError::Unreachable {
        url: url.to_string(),
        attempts: 1,
        source: e.into(),
    })?;
    Ok(Opened::plain(store.with_fsync(true)))
}

/// What an `s3://` address may say beside its bucket: `?region=…&endpoint=https://…`.
#[derive(Default)]
struct Options {
    region: Option<String>,
    endpoint: Option<Url>,
}

impl Options {
    fn read(url: &Url, access: Access) -> Result<Self, String> {
        let mut options = Self::default();
        for (key, value) in url.query_pairs() {
            match (url.scheme(), &*key) {
                ("s3", "region") => options.region = Some(value.into_owned()),
                ("s3", "endpoint") => options.endpoint = Some(Url::parse(&value).map_err(|e| format!("endpoint: {e}"))?),
                _ => return Err(format!("{key:?} is not an option of {} addresses", url.scheme())),
            }
        }
        match &options.endpoint {
            Some(endpoint) if access == Access::Foreign && endpoint.scheme() != "https" => Err("its endpoint must be https".into()),
            Some(endpoint) if access == Access::Foreign => check_foreign(endpoint).map(|()| options),
            _ => Ok(options),
        }
    }
}

fn remote(scheme: ObjectStoreScheme, url: &Url, access: Access, options: Options) -> object_store::Result<Opened> {
    let own = access == Access::Own;
    let reach = if access == Access::Foreign { Reach::Public } else { Reach::Any };
    // attempts are counted in one place, crate::Limits
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let mut bare = url.clone();
    bare.set_query(None);
    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let builder = if own { own_s3()? } else { AmazonS3Builder::new().with_skip_signature(true) };
            let builder = builder.with_url(bare).with_retry(retry).with_conditional_put(S3ConditionalPut::ETagMatch);
            let builder = options.region.into_iter().fold(builder, AmazonS3Builder::with_region);
            let builder = options.endpoint.into_iter().fold(builder, AmazonS3Builder::with_endpoint);
            Opened::with_multipart(Arc::new(builder.with_allow_http(reach == Reach::Any).with_http_connector(reach).build()?))
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let builder =
                if own { GoogleCloudStorageBuilder::from_env() } else { GoogleCloudStorageBuilder::new().with_skip_signature(true) };
            Opened::with_multipart(Arc::new(builder.with_url(bare).with_retry(retry).with_http_connector(reach).build()?))
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let builder = if own { MicrosoftAzureBuilder::from_env() } else { MicrosoftAzureBuilder::new().with_skip_signature(true) };
            Opened::with_multipart(Arc::new(builder.with_url(bare).with_retry(retry).with_http_connector(reach).build()?))
        }
        _ => {
            let host = &bare[..url::Position::BeforePath];
            Opened::plain(HttpBuilder::new().with_url(host).with_retry(retry).with_http_connector(reach).build()?)
        }
    })
}

/// With the credentials in the environment, else with those of AWS' own files.
fn own_s3() -> object_store::Result<AmazonS3Builder> {
    let builder = AmazonS3Builder::from_env();
    let profile = Profile::from_env().map_err(|problem| object_store::Error::Generic { store: "S3", source: problem.into() })?;
    let Some(Profile { access, secret, token, region }) = profile else { return Ok(builder) };
    let builder = builder.with_access_key_id(access).with_secret_access_key(secret);
    let builder = token.into_iter().fold(builder, AmazonS3Builder::with_token);
    let asked = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().any(|name| std::env::var_os(name).is_some());
    Ok(region.into_iter().filter(|_| !asked).fold(builder, AmazonS3Builder::with_region))
}
