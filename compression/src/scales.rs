//! Scale codes in a payload's stream: the difference to the one before, in a code that is short for small ones.
//!
//! With d = code - previous, z = 2d if d is not negative, -2d - 1 otherwise; z + 1, of m + 1 bits, is written as m zeros, a one, and its m lower
//! bits (Elias gamma). Neighbouring chunks have like scales: the chunks of a training run's matrices take 1 to 2 bits instead of 8.
//!
//! P. Elias, "Universal codeword sets and representations of the integers", IEEE Trans. Inform. Theory 21 (1975).

use crate::indices::IndexFault;
use crate::indices::bits::{BitReader, BitWriter};

/// What the first scale code of a section is compared with.
const FIRST: u8 = 100;
/// The longest difference: z + 1 has up to 9 bits.
pub(crate) const MAX_SCALE_BITS: usize = 17;
/// What a scale code takes in a run's payloads, about.
pub(crate) const TYPICAL_SCALE_BITS: f64 = 2.0;

/// The scale codes of one section, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaleCoder {
    previous: u8,
}

impl Default for ScaleCoder {
    fn default() -> Self {
        Self { previous: FIRST }
    }
}

impl ScaleCoder {
    /// Writes the next scale code.
    pub fn write(&mut self, scale: u8, stream: &mut BitWriter) {
        let difference = i32::from(scale) - i32::from(std::mem::replace(&mut self.previous, scale));
        let number = (if difference < 0 { -2 * difference - 1 } else { 2 * difference }) as u32 + 1;
        let low = number.ilog2();
        stream.put_unary(low);
        stream.put(number - (1 << low), low);
    }

    /// Reads the next scale code, of 0 to 255.
    ///
    /// # Errors
    /// [`IndexFault::End`] if the stream ends before it does; `None` if it is no byte.
    pub fn read(&mut self, stream: &mut BitReader<'_>) -> Result<Option<u8>, IndexFault> {
        let word = stream.peek();
        let low = word.trailing_zeros();
        if low > MAX_SCALE_BITS as u32 / 2 {
            return if stream.left() <= MAX_SCALE_BITS { Err(IndexFault::End) } else { Ok(None) };
        }
        stream.skip(2 * low as usize + 1)?;
        let number = (1 << low | word >> (low + 1) & ((1 << low) - 1)) as i32 - 1;
        let difference = if number % 2 == 0 { number / 2 } else { -(number + 1) / 2 };
        let scale = u8::try_from(i32::from(self.previous) + difference).ok();
        self.previous = scale.unwrap_or_default();
        Ok(scale)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_pairs_of_scales_are_read_as_written() {
        let mut stream = BitWriter::default();
        let mut coder = ScaleCoder::default();
        let scales: Vec<u8> = (0..=255).flat_map(|a| (0..=255).flat_map(move |b| [a, b])).collect();
        scales.iter().for_each(|&scale| coder.write(scale, &mut stream));
        let bytes = stream.finish();
        let (mut stream, mut coder) = (BitReader::new(&bytes), ScaleCoder::default());
        assert!(scales.iter().all(|&scale| coder.read(&mut stream) == Ok(Some(scale))));
        assert_eq!(stream.finish(), Ok(()));
    }

    #[test]
    fn equal_scales_take_a_bit_each() {
        let mut stream = BitWriter::default();
        let mut coder = ScaleCoder::default();
        (0..16).for_each(|_| coder.write(FIRST, &mut stream));
        assert_eq!(stream.finish(), [0xFF; 2]);
    }

    #[test]
    fn what_is_no_scale_is_refused() {
        let read = |bytes: &[u8]| ScaleCoder::default().read(&mut BitReader::new(bytes));
        assert_eq!(read(&[]), Err(IndexFault::End));
        assert_eq!(read(&[0]), Err(IndexFault::End));
        assert_eq!(read(&[0, 0, 0, 1]), Ok(None));
        // 9 bits: z + 1 = 511, d = 255.
        assert_eq!(read(&[0, 0xFF, 1]), Ok(None));
    }
}
