//! Values of one fixed width: value `j` of width `w` occupies bits `w*j` to `w*j + w - 1`.

use super::{IndexFault as Fault, bits};
use crate::floor::Floor;
use crate::floor::decode;

/// Bytes of `count` values of `width` bits.
pub const fn bytes(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

/// Writes values of at most `width <= 16` bits over all of `out`, which has the length that [`bytes`] says.
pub fn encode(values: impl IntoIterator<Item = u16>, width: u32, out: &mut [u8]) {
    let (mut last, mut held, mut at) = (0u32, 0, 0);
    for value in values {
        debug_assert!(u32::from(value) >> width == 0);
        last |= u32::from(value) << held;
        held += width;
        while held >= 8 {
            out[at] = last as u8;
            (last, held, at) = (last >> 8, held - 8, at + 1);
        }
    }
    if held > 0 {
        out[at] = last as u8;
    }
}

/// Reads `out.len()` values of `width <= 12` bits from as many bytes as [`bytes`] says.
pub fn decode(floor: Floor, bytes: &[u8], width: u32, out: &mut [u16]) {
    decode::unpack(floor, bytes, width, out);
}

/// Reads strictly ascending indices below n.
///
/// # Errors
/// [`Fault::Padding`], [`Fault::Order`] or [`Fault::Range`]; `out` holds anything then.
pub fn decode_indices(floor: Floor, bytes: &[u8], width: u32, n: usize, out: &mut [u16]) -> Result<(), Fault> {
    unpack(floor, bytes, width, out)?;
    if out.is_sorted_by(|a, b| a < b) { check_last(n, out) } else { Err(Fault::Order) }
}

/// Reads offsets in consecutive groups of `2^width` elements, as indices below n.
///
/// # Errors
/// [`Fault::Padding`] or [`Fault::Range`]; `out` holds anything then.
pub fn decode_offsets(floor: Floor, bytes: &[u8], width: u32, n: usize, out: &mut [u16]) -> Result<(), Fault> {
    unpack(floor, bytes, width, out)?;
    out.iter_mut().enumerate().for_each(|(number, offset)| *offset += (number << width) as u16);
    check_last(n, out)
}

fn unpack(floor: Floor, bytes: &[u8], width: u32, out: &mut [u16]) -> Result<(), Fault> {
    if !padding_is_zero(bytes, out.len(), width) {
        return Err(Fault::Padding);
    }
    decode(floor, bytes, width, out);
    Ok(())
}

fn check_last(n: usize, indices: &[u16]) -> Result<(), Fault> {
    if indices.last().is_none_or(|&last| usize::from(last) < n) { Ok(()) } else { Err(Fault::Range) }
}

/// Whether the bits beyond the last value are zero.
pub fn padding_is_zero(bytes: &[u8], count: usize, width: u32) -> bool {
    bits::padding_is_zero(bytes, count * width as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_little_endian() {
        let mut out = [0; 3];
        encode([0xABC, 0x123], 12, &mut out);
        assert_eq!(out, [0xBC, 0x3A, 0x12]);
        assert!(padding_is_zero(&[0, 0x0F], 1, 12) && !padding_is_zero(&[0, 0x10], 1, 12));
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(values in prop::collection::vec(0u16..4096, 0..200), width in 0u32..=12) {
            let values: Vec<u16> = values.iter().map(|value| value & ((1 << width) - 1)).collect();
            let mut packed = vec![0xFF; bytes(values.len(), width)];
            encode(values.iter().copied(), width, &mut packed);
            prop_assert!(padding_is_zero(&packed, values.len(), width));
            for floor in Floor::available() {
                let mut unpacked = vec![0xFFFF; values.len()];
                decode(floor, &packed, width, &mut unpacked);
                prop_assert_eq!(&unpacked, &values, "{:?}", floor);
            }
        }
    }
}
