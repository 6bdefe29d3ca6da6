//! Little-endian bit streams of 2-bit codes and 12-bit indices: value `j` of width `w` occupies bits `w*j` to `w*j + w - 1`,
//! and bit `b` is bit `b % 8` of byte `b / 8`.

/// 2-bit value `j`.
pub(crate) fn code(bytes: &[u8], j: usize) -> u8 {
    bytes[j / 4] >> (j % 4 * 2) & 3
}

/// 12-bit value `j`.
pub(crate) fn index(bytes: &[u8], j: usize) -> u16 {
    let at = j * 3 / 2;
    let both = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    if j.is_multiple_of(2) { both & 0xFFF } else { both >> 4 }
}

/// Writes 2-bit value `j` over zero bits.
pub(crate) fn put_code(bytes: &mut [u8], j: usize, code: u8) {
    bytes[j / 4] |= code << (j % 4 * 2);
}

/// Writes 12-bit value `j` over zero bits.
pub(crate) fn put_index(bytes: &mut [u8], j: usize, index: u16) {
    let at = j * 3 / 2;
    let [low, high] = (if j.is_multiple_of(2) { index } else { index << 4 }).to_le_bytes();
    bytes[at] |= low;
    bytes[at + 1] |= high;
}

/// The bits of the last byte beyond `bits`, which must be zero.
pub(crate) fn padding(bytes: &[u8], bits: usize) -> u8 {
    match (bits % 8, bytes.last()) {
        (used @ 1.., Some(&last)) => last >> used,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read() {
        for count in 1..9 {
            let (mut codes, mut indices) = (vec![0; (2 * count as usize).div_ceil(8)], vec![0; (12 * count as usize).div_ceil(8)]);
            for j in 0..count {
                put_code(&mut codes, j.into(), j as u8 * 3 % 4);
                put_index(&mut indices, j.into(), 4095 - 455 * j);
            }
            for j in 0..count {
                assert_eq!((code(&codes, j.into()), index(&indices, j.into())), (j as u8 * 3 % 4, 4095 - 455 * j));
            }
            assert_eq!((padding(&codes, 2 * count as usize), padding(&indices, 12 * count as usize)), (0, 0));
        }
    }

    #[test]
    fn streams_are_little_endian() {
        let mut bytes = [0; 3];
        put_index(&mut bytes, 0, 0xABC);
        put_index(&mut bytes, 1, 0x123);
        assert_eq!(bytes, [0xBC, 0x3A, 0x12]);
        assert_eq!(padding(&[0, 0x10], 12), 1);
    }
}
