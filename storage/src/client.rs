//! The HTTP client of every remote store: TLS without a C toolchain, no redirects, and for strangers' addresses nothing but the public
//! Internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::error::Cause;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest silence before and within an answer. A store is silent while a part goes up, and 32 parts of 5 MiB share the link: with less time
/// than they take, all are sent again and again. A minute lets them through from 22 Mbit/s on.
const SILENCE: Duration = Duration::from_secs(60);

/// Which hosts a client may speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Every host, by HTTP too.
    Any,
    /// Hosts with public addresses only, by HTTPS only, and through no proxy, which could resolve names differently.
    Public,
}

impl HttpConnector for Reach {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        // an error means that the process already chose a provider, which serves as well
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tributary/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        if *self == Self::Public {
            builder = builder.https_only(true).no_proxy().dns_resolver(Arc::new(PublicOnly));
        }
        let client = builder.build().map_err(|e| object_store::Error::Generic { store: "HTTP", source: e.into() })?;
        Ok(HttpClient::new(Polite(client)))
    }
}

/// The longest that a store's word is taken for when it wants to be asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// A client that, told by a busy store when to come back, hands on the answer no earlier.
#[derive(Debug)]
struct Polite(reqwest::Client);

#[async_trait]
impl HttpService for Polite {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.call(request).await?;
        if let Some(wait) = asked_to_wait(&response) {
            tokio::time::sleep(wait).await;
        }
        Ok(response)
    }
}

/// How long a store that is busy (429, 503) wants to be left alone.
fn asked_to_wait(response: &HttpResponse) -> Option<Duration> {
    if !matches!(response.status().as_u16(), 429 | 503) {
        return None;
    }
    let seconds: u64 = response.headers().get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// Resolves names like the system, and refuses those of which any address is not public.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            match addresses.iter().find(|address| !is_public(address.ip())) {
                Some(address) => Err(Cause::from(format!("{} has the address {}, which is not public", name.as_str(), address.ip()))),
                None => Ok(Box::new(addresses.into_iter()) as Addrs),
            }
        })
    }
}

/// Whether an address is a unicast address of the public Internet (the IANA special-purpose registries leave it alone).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || matches!((a, b, c), (0, ..) | (100, 64..=127, _) | (192, 0, 0) | (192, 88, 99) | (198, 18..=19, _) | (224.., ..));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = address.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    // global unicast is 2000::/3; of it, 2001::/23 are protocols such as Teredo, 2001:db8::/32 and 3fff::/20 documentation, 2002::/16 6to4
    match address.segments() {
        [0x2001, second, ..] => second >= 0x0200 && second != 0x0db8,
        [0x2002, ..] => false,
        [0x3fff, second, ..] => second >= 0x1000,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inward_addresses_are_not_public() {
        let inward = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.5",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "3fff::1",
        ];
        for address in inward {
            assert!(!is_public(address.parse().expect("an address")), "{address}");
        }
        for address in
            ["1.1.1.1", "100.63.0.1", "192.0.1.1", "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8"]
        {
            assert!(is_public(address.parse().expect("an address")), "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_that_points_inward_is_refused() {
        let resolved = PublicOnly.resolve("localhost".parse().expect("a name")).await;
        assert!(resolved.err().is_some_and(|e| e.to_string().contains("not public")));
    }
}
