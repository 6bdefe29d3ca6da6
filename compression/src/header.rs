//! The fixed 160 bytes that open every payload.

use crate::codec::{Codec, Indices, Quantizer, payload_len};
use crate::{Layout, PayloadError, Root};

/// Bytes before the first section.
pub const HEADER_BYTES: usize = 160;
/// The part of the header that all payloads of a round share; only the hotkey follows it.
pub(crate) const SHARED_BYTES: usize = 128;
pub(crate) const MAGIC: [u8; 4] = *b"TRBP";
pub(crate) const VERSION: u16 = 1;

/// Whose payload it is, and what it is based on. A payload stolen from another miner names its true owner here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Run id.
    pub run: [u8; 32],
    /// The round whose step this payload may become part of.
    pub round: u64,
    /// The miner's public key.
    pub hotkey: [u8; 32],
    /// Root of the state that the pseudo-gradient was measured from.
    pub base_root: Root,
}

impl Header {
    pub(crate) fn write(&self, layout: &Layout, codec: &Codec) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&codec.k.to_le_bytes());
        put(&[codec.quantizer.wire(), codec.indices.wire(), 0, 0]);
        put(&(layout.tensors().len() as u32).to_le_bytes());
        put(&payload_len(layout, codec).to_le_bytes());
        put(&self.round.to_le_bytes());
        put(&self.run);
        put(&self.base_root);
        put(&layout.digest());
        put(&self.hotkey);
        bytes
    }

    /// Reads the header of a payload that must have this layout and codec, and exactly the length of `bytes`.
    pub(crate) fn read(bytes: &[u8], layout: &Layout, codec: &Codec) -> Result<Self, PayloadError> {
        let expected = payload_len(layout, codec);
        let found = bytes.len() as u64;
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(PayloadError::Truncated { expected, found });
        };
        check_kind(head, codec)?;
        if head[10..12] != [0, 0] {
            return Err(PayloadError::Reserved);
        }
        let tensors = u32::from_le_bytes(field(head, 12));
        if tensors as usize != layout.tensors().len() {
            return Err(PayloadError::Tensors { expected: layout.tensors().len(), found: tensors });
        }
        if field(head, 96) != layout.digest() {
            return Err(PayloadError::Layout);
        }
        let length = u64::from_le_bytes(field(head, 16));
        if length != expected {
            return Err(PayloadError::Length { expected, found: length });
        }
        match found.cmp(&expected) {
            std::cmp::Ordering::Less => Err(PayloadError::Truncated { expected, found }),
            std::cmp::Ordering::Greater => Err(PayloadError::Trailing { expected, found }),
            std::cmp::Ordering::Equal => Ok(Self {
                round: u64::from_le_bytes(field(head, 24)),
                run: field(head, 32),
                base_root: field(head, 64),
                hotkey: field(head, 128),
            }),
        }
    }
}

/// Magic, version and codec.
fn check_kind(head: &[u8; HEADER_BYTES], expected: &Codec) -> Result<(), PayloadError> {
    if field(head, 0) != MAGIC {
        return Err(PayloadError::Magic);
    }
    let version = u16::from_le_bytes(field(head, 4));
    if version != VERSION {
        return Err(PayloadError::Version(version));
    }
    let found = Codec {
        k: u16::from_le_bytes(field(head, 6)),
        quantizer: Quantizer::from_wire(head[8]).ok_or(PayloadError::Quantizer(head[8]))?,
        indices: Indices::from_wire(head[9]).ok_or(PayloadError::Indices(head[9]))?,
    };
    if !found.k_is_valid() {
        return Err(PayloadError::K(found.k));
    }
    if found != *expected {
        return Err(PayloadError::Codec { expected: *expected, found });
    }
    Ok(())
}

/// `N` bytes at `at`; every caller's range lies inside the header.
fn field<const N: usize>(head: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at..at + N]);
    bytes
}
