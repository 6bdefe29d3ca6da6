//! Little-endian bit streams: bit `b` is bit `b % 8` of byte `b / 8`, and a value's lowest bit comes first.

use super::IndexFault as Fault;

/// The 64 bits from bit `at` on; those beyond the end are zero.
#[inline(always)]
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    let (byte, shift) = (at / 8, at % 8);
    match bytes.get(byte..).and_then(<[u8]>::first_chunk) {
        Some(eight) => {
            let ninth = u64::from(bytes.get(byte + 8).copied().unwrap_or_default());
            u64::from_le_bytes(*eight) >> shift | ninth << 1 << (63 - shift)
        }
        None => last_word(bytes, at),
    }
}

/// What [`word`] says within the last eight bytes and beyond.
#[inline(never)]
fn last_word(bytes: &[u8], at: usize) -> u64 {
    let last = match bytes.last_chunk() {
        Some(eight) => u64::from_le_bytes(*eight),
        None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    let beyond = at - 8 * bytes.len().saturating_sub(8);
    last.checked_shr(beyond as u32).unwrap_or_default()
}

/// Whether the bits of the last byte beyond the first `bits` are zero.
#[inline(always)]
pub(crate) fn padding_is_zero(bytes: &[u8], bits: usize) -> bool {
    match (bits % 8, bytes.last()) {
        (used @ 1.., Some(&last)) => last >> used == 0,
        _ => true,
    }
}

/// A bit stream being written.
#[derive(Clone, Debug, Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    /// The last `held` bits, not yet in `bytes`.
    last: u64,
    held: u32,
}

impl BitWriter {
    /// Appends the low `width` bits of `value`, at most 32; its other bits are zero.
    pub fn put(&mut self, value: u32, width: u32) {
        debug_assert!(width <= 32 && u64::from(value) >> width == 0);
        self.last |= u64::from(value) << self.held;
        self.held += width;
        if self.held >= 32 {
            self.bytes.extend_from_slice(&(self.last as u32).to_le_bytes());
            self.last >>= 32;
            self.held -= 32;
        }
    }

    /// Appends `zeros` zeros and a one.
    pub fn put_unary(&mut self, zeros: u32) {
        for _ in 0..zeros / 31 {
            self.put(0, 31);
        }
        self.put(1 << (zeros % 31), zeros % 31 + 1);
    }

    /// Appends all of another stream.
    pub fn append(&mut self, other: &BitWriter) {
        for four in other.bytes.as_chunks().0 {
            self.put(u32::from_le_bytes(*four), 32);
        }
        self.put(other.last as u32, other.held);
    }

    /// Bits written so far.
    #[cfg(test)]
    pub fn bits(&self) -> usize {
        self.bytes.len() * 8 + self.held as usize
    }

    /// Appends a number near zero: with z = 2d for d of zero and more, -2d - 1 below, z + 1 of m + 1 bits as m zeros, a one, and its m lower
    /// bits (P. Elias, "Universal codeword sets and representations of the integers", IEEE Trans. Inform. Theory 21, 1975).
    pub fn put_signed(&mut self, number: i32) {
        let above = (if number < 0 { -2 * number - 1 } else { 2 * number }) as u32 + 1;
        let low = above.ilog2();
        self.put_unary(low);
        self.put(above - (1 << low), low);
    }

    /// The stream, filled up with zeros to whole bytes.
    pub fn finish(mut self) -> Vec<u8> {
        let left = self.held.div_ceil(8) as usize;
        self.bytes.extend_from_slice(&self.last.to_le_bytes()[..left]);
        self.bytes
    }
}

/// A bit stream being read.
#[derive(Clone, Debug)]
pub struct BitReader<'a> {
    pub(crate) bytes: &'a [u8],
    /// The next bit, at most the stream's length.
    pub(crate) at: usize,
}

impl<'a> BitReader<'a> {
    /// A reader of all of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `width` bits, at most 56.
    ///
    /// # Errors
    /// [`Fault::End`] if there are not that many.
    pub fn take(&mut self, width: u32) -> Result<u64, Fault> {
        let bits = word(self.bytes, self.at) & ((1 << width) - 1);
        self.skip(width as usize).map(|()| bits)
    }

    /// The zeros before the next one, at most `most`, and passes over both.
    ///
    /// # Errors
    /// [`Fault::End`] if the stream ends before a one, [`Fault::Range`] if there are more zeros.
    pub fn unary(&mut self, most: u32) -> Result<u32, Fault> {
        let mut zeros = 0;
        loop {
            let word = word(self.bytes, self.at);
            let here = word.trailing_zeros();
            zeros += here;
            if zeros > most {
                return Err(if self.at + here as usize >= self.bytes.len() * 8 { Fault::End } else { Fault::Range });
            }
            if word != 0 {
                return self.skip(here as usize + 1).map(|()| zeros);
            }
            self.skip(64)?;
        }
    }

    /// What [`BitWriter::put_signed`] wrote, if it is within ±8191.
    ///
    /// # Errors
    /// [`Fault::End`] if the stream ends before it does, [`Fault::Range`] if it is larger.
    pub fn signed(&mut self) -> Result<i32, Fault> {
        let low = self.unary(13)?;
        let number = (1 << low | self.take(low)?) as i32 - 1;
        Ok(if number % 2 == 0 { number / 2 } else { -(number + 1) / 2 })
    }

    fn skip(&mut self, bits: usize) -> Result<(), Fault> {
        if self.bytes.len() * 8 - self.at < bits {
            return Err(Fault::End);
        }
        self.at += bits;
        Ok(())
    }

    /// Checks that nothing is left to read.
    ///
    /// # Errors
    /// [`Fault::Trailing`] if a whole byte is left, [`Fault::Padding`] if a bit of the last one is not zero.
    pub fn finish(self) -> Result<(), Fault> {
        match self.bytes.len() * 8 - self.at {
            8.. => Err(Fault::Trailing),
            _ if !padding_is_zero(self.bytes, self.at) => Err(Fault::Padding),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_start_at_any_bit_and_end_in_zeros() {
        let bytes: Vec<u8> = (0..12).map(|i: u8| i.wrapping_mul(91) ^ 0xA5).collect();
        for length in 0..=bytes.len() {
            for at in 0..=length * 8 + 70 {
                let bit = |b: usize| u64::from(bytes[..length].get(b / 8).is_some_and(|byte| byte >> (b % 8) & 1 != 0));
                assert_eq!(word(&bytes[..length], at), (0..64).fold(0, |word, b| word | bit(at + b) << b), "bit {at} of {length} bytes");
            }
        }
    }

    #[test]
    fn a_stream_is_written_lowest_bit_first() {
        let mut stream = BitWriter::default();
        stream.put(0b101, 3);
        stream.put_unary(2);
        stream.put_unary(0);
        stream.put(0xFFFF_FFFF, 32);
        assert_eq!(stream.bits(), 39);
        assert_eq!(stream.finish(), [0b1110_0101, 0xFF, 0xFF, 0xFF, 0x7F]);
        for zeros in 0..200 {
            let mut stream = BitWriter::default();
            stream.put_unary(zeros);
            assert_eq!(stream.bits(), zeros as usize + 1);
            let bytes = stream.finish();
            assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
            assert_eq!(bytes[zeros as usize / 8], 1 << (zeros % 8));
        }
    }

    #[test]
    fn long_unary_codes_are_bounded() {
        let zeros = |count: usize| (vec![0u8; count / 8], 1u8 << (count % 8));
        let read = |count: usize, most| {
            let (mut bytes, last) = zeros(count);
            bytes.push(last);
            BitReader::new(&bytes).unary(most)
        };
        assert_eq!([read(5, 5), read(64, 64), read(100, 100), read(200, 200)], [Ok(5), Ok(64), Ok(100), Ok(200)]);
        assert_eq!([read(6, 5), read(100, 70), read(200, 199)], [Err(Fault::Range); 3]);
        assert_eq!(BitReader::new(&[0; 16]).unary(200), Err(Fault::End));
    }

    #[test]
    fn a_reader_must_be_at_the_end() {
        let at = |at, bytes| BitReader { bytes, at }.finish();
        assert_eq!((at(0, &[][..]), at(8, &[0xFF]), at(3, &[0b111])), (Ok(()), Ok(()), Ok(())));
        assert_eq!((at(2, &[0b111]), at(0, &[0]), at(7, &[0, 0])), (Err(Fault::Padding), Err(Fault::Trailing), Err(Fault::Trailing)));
    }
}
