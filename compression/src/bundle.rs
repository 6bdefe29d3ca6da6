//! A record's payloads as one object: what they share is written once, what follows from the rest is left out.

use std::sync::Arc;

use rayon::prelude::*;

use crate::error::PayloadError;
use crate::format::Format;
use crate::header::{HOTKEY, Header, header_bytes};
use crate::payload::Payload;

const MAGIC: [u8; 4] = *b"TRBB";
const VERSION: u16 = 2;
/// Magic, version and number of payloads.
const PREFIX_BYTES: usize = 8;
/// Bytes of a hotkey.
const KEY_BYTES: usize = HOTKEY.end - HOTKEY.start;
/// Bytes of a section's length.
const LENGTH_BYTES: usize = 4;

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
    #[error("bundle has format version {0}, this build reads version 2")]
    Version(u16),
    /// Fewer bytes than the bundle says it has.
    #[error("bundle ends after {found} bytes: cut short")]
    Truncated {
        /// Given.
        found: u64,
    },
    /// Bytes behind the last section.
    #[error("bundle goes on after its {expected} bytes: trailing bytes")]
    Trailing {
        /// Its length by its sections.
        expected: u64,
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

/// The most bytes of a bundle of `payloads` payloads; never more than theirs together.
pub fn bundle_len(format: &Format, payloads: usize) -> u64 {
    let section = |section| *format.section_wire_bytes(section).end() + LENGTH_BYTES as u64;
    let own = KEY_BYTES as u64 + (0..format.sections()).map(section).sum::<u64>();
    (PREFIX_BYTES + header_bytes(format) - KEY_BYTES) as u64 + payloads as u64 * own
}

/// The bundle of a record's payloads, in the record's order.
///
/// # Errors
/// [`BundleError::Empty`], [`BundleError::TooMany`] and [`BundleError::Mixed`].
pub fn encode_bundle(payloads: &[&Payload]) -> Result<Vec<u8>, BundleError> {
    let first = payloads.first().ok_or(BundleError::Empty)?;
    let allowed = usize::from(u16::MAX);
    let count = u16::try_from(payloads.len()).map_err(|_| BundleError::TooMany { allowed, found: payloads.len() })?;
    let format = first.format();
    let shared = shared(first.header(), format);
    let mut bundle = Vec::with_capacity(bundle_len(format, payloads.len()) as usize);
    bundle.extend(MAGIC);
    bundle.extend(VERSION.to_le_bytes());
    bundle.extend(count.to_le_bytes());
    bundle.extend(&shared);
    for (index, payload) in payloads.iter().enumerate() {
        if payload.format() != format || self::shared(payload.header(), format) != shared {
            return Err(BundleError::Mixed(index));
        }
        bundle.extend(payload.header().hotkey);
        let bodies: Vec<_> = (0..format.sections()).into_par_iter().map(|section| payload.section_wire(section)).collect();
        for body in bodies {
            bundle.extend((body.len() as u32).to_le_bytes());
            bundle.extend(body);
        }
    }
    Ok(bundle)
}

/// A header's bytes without the hotkey.
fn shared(header: &Header, format: &Format) -> Vec<u8> {
    let mut bytes = header.write(format);
    bytes.drain(HOTKEY);
    bytes
}

/// The payloads of a bundle, in order, each of which has the bytes it had before: their digests are the record's if the bundle is the right one.
///
/// # Errors
/// [`BundleError`]; a bundle with one bad payload is refused as a whole.
pub fn parse_bundle(bytes: &[u8], format: &Arc<Format>, max_payloads: usize) -> Result<Vec<Payload>, BundleError> {
    let found = bytes.len() as u64;
    let truncated = || BundleError::Truncated { found };
    let (&[m0, m1, m2, m3, v0, v1, c0, c1], rest) = bytes.split_first_chunk::<PREFIX_BYTES>().ok_or_else(truncated)?;
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
    let (shared, mut rest) = rest.split_at_checked(header_bytes(format) - KEY_BYTES).ok_or_else(truncated)?;
    let mut payloads = Vec::with_capacity(count);
    for index in 0..count {
        let (hotkey, bodies) = split_payload(&mut rest, format).ok_or_else(truncated)?;
        let head = [&shared[..HOTKEY.start], hotkey, &shared[HOTKEY.start..]].concat();
        payloads.push(read_payload(&head, &bodies, format).map_err(|source| BundleError::Payload { index, source })?);
    }
    if rest.is_empty() { Ok(payloads) } else { Err(BundleError::Trailing { expected: found - rest.len() as u64 }) }
}

/// Takes one payload's hotkey and sections off the front of `rest`.
fn split_payload<'a>(rest: &mut &'a [u8], format: &Format) -> Option<(&'a [u8], Vec<&'a [u8]>)> {
    let hotkey = rest.split_off(..KEY_BYTES)?;
    let mut body = |_| {
        let length = rest.split_off(..LENGTH_BYTES)?.first_chunk().map(|length| u32::from_le_bytes(*length))?;
        rest.split_off(..length as usize)
    };
    Some((hotkey, (0..format.sections()).map(&mut body).collect::<Option<_>>()?))
}

fn read_payload(head: &[u8], bodies: &[&[u8]], format: &Arc<Format>) -> Result<Payload, PayloadError> {
    Payload::from_bodies(Header::read(head, format)?, format, bodies)
}
