//! A record's payloads as one object: what they share is written once, what follows from the rest is left out.

use std::sync::Arc;

use rayon::prelude::*;

use crate::error::PayloadError;
use crate::format::Format;
use crate::header::{HOTKEY, Header, header_bytes};
use crate::indices::IndexFault;
use crate::joint::{self, Unions};
use crate::payload::{Coded, Payload};
use crate::section;

const MAGIC: [u8; 4] = *b"TRBB";
const VERSION: u16 = 2;
/// Magic, version and number of payloads.
const PREFIX_BYTES: usize = 8;
/// Bytes of a hotkey.
const KEY_BYTES: usize = HOTKEY.end - HOTKEY.start;
/// Bytes of a body's length and form.
const SIZE_BYTES: usize = 4;
/// The form of a body that is as in a payload.
const ALONE: u32 = 0;
/// The bit that says that a body is coded with the help of the payloads before.
const JOINTLY: u32 = 1 << 31;

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
    /// A section that does not follow from the payloads before it.
    #[error("payload {index} of the bundle, section {section}: {fault}")]
    Joint {
        /// Number of the payload in the bundle.
        index: usize,
        /// Number of the section.
        section: usize,
        /// What is wrong with its indices.
        fault: IndexFault,
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
    let section = |section| *format.section_wire_bytes(section).end() + SIZE_BYTES as u64;
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
    let mixed = |payload: &&Payload| payload.format() != format || self::shared(payload.header(), format) != shared;
    if let Some(index) = payloads.iter().position(mixed) {
        return Err(BundleError::Mixed(index));
    }
    let mut bundle = Vec::new();
    bundle.extend(MAGIC);
    bundle.extend(VERSION.to_le_bytes());
    bundle.extend(count.to_le_bytes());
    bundle.extend(&shared);
    payloads.iter().for_each(|payload| bundle.extend(payload.header().hotkey));
    let sections: Vec<_> = (0..format.sections()).into_par_iter().map(|section| encode_section(payloads, section)).collect();
    sections.into_iter().for_each(|section| bundle.extend(section));
    Ok(bundle)
}

/// One section of all payloads, each coded alone or jointly with those before it, whichever is shorter.
fn encode_section(payloads: &[&Payload], section: usize) -> Vec<u8> {
    let format = payloads[0].format();
    let (mut bytes, mut unions) = (Vec::new(), Unions::new(format, section));
    for (index, payload) in payloads.iter().enumerate() {
        let alone = payload.section_wire(section);
        let jointly = (index > 0).then(|| joint::encode(format, section, &unions, payload.section(section)));
        let (form, body) = match jointly {
            Some(jointly) if jointly.len() < alone.len() => (JOINTLY, jointly),
            _ => (ALONE, alone),
        };
        bytes.extend((form | body.len() as u32).to_le_bytes());
        bytes.extend(body);
        unions.add(format, section, payload.section(section));
    }
    bytes
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
    let (shared, rest) = rest.split_at_checked(header_bytes(format) - KEY_BYTES).ok_or_else(truncated)?;
    let (keys, mut rest) = rest.split_at_checked(count * KEY_BYTES).ok_or_else(truncated)?;
    let head = [&shared[..HOTKEY.start], &[0; KEY_BYTES], &shared[HOTKEY.start..]].concat();
    let header = Header::read(&head, format).map_err(|source| BundleError::Payload { index: 0, source })?;
    let headers: Vec<Header> = keys.as_chunks().0.iter().map(|&hotkey| Header { hotkey, ..header }).collect();
    let bodies: Vec<(u32, &[u8])> = (0..format.sections() * count).map(|_| body(&mut rest)).collect::<Option<_>>().ok_or_else(truncated)?;
    if !rest.is_empty() {
        return Err(BundleError::Trailing { expected: found - rest.len() as u64 });
    }
    let read = |(section, bodies): (usize, &[(u32, &[u8])])| read_section(format, section, bodies);
    let sections: Vec<Result<Vec<Coded>, BundleError>> = bodies.par_chunks(count).enumerate().map(read).collect();
    let mut of_payload: Vec<Vec<Coded>> = headers.iter().map(|_| Vec::with_capacity(format.sections())).collect();
    for section in sections {
        of_payload.iter_mut().zip(section?).for_each(|(payload, coded)| payload.push(coded));
    }
    Ok(headers.into_iter().zip(of_payload).map(|(header, sections)| Payload::from_sections(header, format, sections)).collect())
}

/// Takes one body off the front of `rest`, and how it is coded.
fn body<'a>(rest: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let size = u32::from_le_bytes(*rest.split_off(..SIZE_BYTES)?.first_chunk()?);
    Some((size & JOINTLY, rest.split_off(..(size & !JOINTLY) as usize)?))
}

/// One section of all payloads.
fn read_section(format: &Format, section: usize, bodies: &[(u32, &[u8])]) -> Result<Vec<Coded>, BundleError> {
    let mut coded: Vec<Coded> = Vec::with_capacity(bodies.len());
    let mut unions = Unions::new(format, section);
    for (index, &(form, body)) in bodies.iter().enumerate() {
        let wire = if form == ALONE {
            body.to_vec()
        } else if index == 0 {
            return Err(BundleError::Joint { index, section, fault: IndexFault::Range });
        } else {
            let refuse = |fault| BundleError::Joint { index, section, fault };
            let wire = section::write(format, section, &joint::decode(format, section, &unions, body).map_err(refuse)?);
            if body.len() >= wire.len() {
                return Err(refuse(IndexFault::Trailing));
            }
            wire
        };
        let memory = section::read(format, section, &wire).map_err(|source| BundleError::Payload { index, source })?;
        unions.add(format, section, &memory);
        coded.push(Coded { wire, memory });
    }
    Ok(coded)
}
