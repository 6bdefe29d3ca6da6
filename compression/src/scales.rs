//! Scale codes in a payload's stream: the difference to the one before, in a code that is short for small ones.
//!
//! Neighbouring chunks have like scales: the chunks of a training run's matrices take 1 to 2 bits instead of 8.

use crate::indices::IndexFault;
use crate::indices::bits::{BitReader, BitWriter};

/// What the first scale code of a section is compared with.
const FIRST: u8 = 100;
/// The longest difference: of up to 250, so that 2d + 1 has 9 bits.
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
        stream.put_signed(i32::from(scale) - i32::from(std::mem::replace(&mut self.previous, scale)));
    }

    /// Reads the next scale code, of 0 to 255.
    ///
    /// # Errors
    /// [`IndexFault::End`] if the stream ends before it does, [`IndexFault::Scale`] if it is no byte.
    pub fn read(&mut self, stream: &mut BitReader<'_>) -> Result<u8, IndexFault> {
        let scale = i32::from(self.previous) + stream.signed()?;
        self.previous = u8::try_from(scale).map_err(|_| IndexFault::Scale)?;
        Ok(self.previous)
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
        assert!(scales.iter().all(|&scale| coder.read(&mut stream) == Ok(scale)));
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
        assert_eq!(read(&[0, 0x80, 0, 1]), Err(IndexFault::Range));
        // 9 bits: z + 1 = 511, d = 255.
        assert_eq!(read(&[0, 0xFF, 1]), Err(IndexFault::Scale));
    }
}
