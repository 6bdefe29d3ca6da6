//! A record's payloads as one object: what they share is written once, what follows from the rest is left out.

use std::sync::Arc;

use crate::codec::{Codec, payload_len};
use crate::header::SHARED_BYTES;
use crate::layout::Layout;
use crate::payload::{HASH_BYTES, Payload, PayloadError};

const MAGIC: [u8; 4] = *b"TRBB";
const VERSION: u16 = 1;
/// Magic, version and number of payloads.
const PREFIX_BYTES: usize = 8;

/// Why payloads do not fit into one bundle, or bytes are not a bundle of the expected layout and codec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No payloads.
    #[error("a bundle holds at least one payload")]
    Empty,
    /// More payloads than allowed.
    #[error("bundle has {found} payloads, at most {allowed} are allowed")]
    TooMany {
        /// By the caller, or by the format (65535).
        allowed: usize,
        /// In the bundle.
        found: usize,
    },
    /// Payloads of several runs, rounds, base roots, layouts or codecs.
    #[error("payload {0} is for another run, round or base than the bundle's first")]
    Mixed(usize),
    /// Not a bundle at all.
    #[error("bundle does not start with its magic bytes")]
    Magic,
    /// A format version this build does not know.
    #[error("bundle has format version {0}, this build reads version 1")]
    Version(u16),
    /// More or fewer bytes than the number of payloads makes.
    #[error("bundle has {found} bytes where its payloads make {expected}")]
    Length {
        /// By the number of payloads.
        expected: u64,
        /// Given.
        found: u64,
    },
    /// A payload that is refused.
    #[error("payload {index} of the bundle is refused")]
    Payload {
        /// Number of the payload in the bundle.
        index: usize,
        /// Why.
        source: PayloadError,
    },
}

/// The exact size in bytes of a bundle of `payloads` payloads (at least 1); never more than theirs together.
pub fn bundle_len(layout: &Layout, codec: &Codec, payloads: usize) -> u64 {
    (PREFIX_BYTES + SHARED_BYTES) as u64 + payloads as u64 * own_bytes(layout, codec)
}

/// Bytes of a payload that a bundle repeats for each: hotkey and sections.
fn own_bytes(layout: &Layout, codec: &Codec) -> u64 {
    payload_len(layout, codec) - (SHARED_BYTES + HASH_BYTES) as u64
}

/// The bundle of a record's payloads, in the record's order.
///
/// # Errors
/// [`BundleError::Empty`], [`BundleError::TooMany`] and [`BundleError::Mixed`].
pub fn encode_bundle(payloads: &[&Payload]) -> Result<Vec<u8>, BundleError> {
    let first = payloads.first().ok_or(BundleError::Empty)?;
    let allowed = usize::from(u16::MAX);
    let count = u16::try_from(payloads.len()).map_err(|_| BundleError::TooMany { allowed, found: payloads.len() })?;
    let shared = &first.bytes()[..SHARED_BYTES];
    let mut bundle = Vec::with_capacity(bundle_len(first.layout(), first.codec(), payloads.len()) as usize);
    bundle.extend(MAGIC);
    bundle.extend(VERSION.to_le_bytes());
    bundle.extend(count.to_le_bytes());
    bundle.extend(shared);
    for (index, payload) in payloads.iter().enumerate() {
        let bytes = payload.bytes();
        if &bytes[..SHARED_BYTES] != shared {
            return Err(BundleError::Mixed(index));
        }
        bundle.extend(&bytes[SHARED_BYTES..bytes.len() - HASH_BYTES]);
    }
    Ok(bundle)
}

/// The payloads of a bundle, in order, each with the bytes it had before: their digests are the record's if the bundle is the right one.
///
/// # Errors
/// [`BundleError`]; a bundle with one bad payload is refused as a whole.
pub fn parse_bundle(bytes: &[u8], layout: &Arc<Layout>, codec: &Codec, max_payloads: usize) -> Result<Vec<Payload>, BundleError> {
    let short = BundleError::Length { expected: bundle_len(layout, codec, 1), found: bytes.len() as u64 };
    let (&[m0, m1, m2, m3, v0, v1, c0, c1], rest) = bytes.split_first_chunk::<PREFIX_BYTES>().ok_or(short)?;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(BundleError::Magic);
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(BundleError::Version(version));
    }
    let count = usize::from(u16::from_le_bytes([c0, c1]));
    if count == 0 {
        return Err(BundleError::Empty);
    }
    if count > max_payloads {
        return Err(BundleError::TooMany { allowed: max_payloads, found: count });
    }
    let expected = bundle_len(layout, codec, count);
    if expected != bytes.len() as u64 {
        return Err(BundleError::Length { expected, found: bytes.len() as u64 });
    }
    let (shared, own) = rest.split_at(SHARED_BYTES);
    let own = own.chunks_exact(own_bytes(layout, codec) as usize).enumerate();
    own.map(|(index, own)| {
        let content = [shared, own].concat();
        let hash = blake3::hash(&content);
        let bytes = [content.as_slice(), hash.as_bytes()].concat();
        Payload::parse(bytes, layout, codec).map_err(|source| BundleError::Payload { index, source })
    })
    .collect()
}
