//! Golomb: the gaps between k ascending indices below n, within 1 % of the entropy of a random index set.
//!
//! With `index_{-1} = -1`, `gap_j = index_j - index_{j-1} - 1` is split by the divisor `M = max(1, ⌊177 n / 256 k⌋)`, about ln 2
//! times the mean, into quotient q and remainder r. With `B = ⌊log2 M⌋` and `u = 2^(B+1) - M`, a remainder is B bits `x` and
//! perhaps one more: `x = r` if r < u; else the extra bit says whether `r >= 2^B`, and `x` is r or, if so, `r - (2^B - u)`.
//!
//! A chunk has a fixed part, the k values x, and a share of a bit stream that many chunks write in turn: k unary codes, q
//! zeros and a one each, then the extra bits of those x that are u or more. All values x and extra bits are meaningful, so one index set
//! has one encoding. 64 of 4096 random indices take 7.4375 bits each.
//!
//! S. W. Golomb, "Run-length encodings", IEEE Trans. Inform. Theory 12 (1966); for the divisor R. G. Gallager and D. C. Van Voorhis,
//! "Optimal source codes for geometrically distributed integer alphabets", IEEE Trans. Inform. Theory 21 (1975).

use super::bits::{BitReader, BitWriter};
use super::{IndexFault as Fault, packed};
use crate::floor::Floor;
use crate::floor::decode;

/// The parameters for k of n indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// M.
    pub(crate) divisor: u16,
    /// B.
    pub(crate) width: u32,
    /// u.
    pub(crate) short: u16,
    /// What a set extra bit adds to x: `2^B - u`.
    pub(crate) step: u16,
    /// No index set has a larger sum of quotients.
    pub(crate) quotients: usize,
}

impl Split {
    pub(crate) const fn new(n: usize, k: usize) -> Self {
        let divisor = match 177 * n as u32 / (256 * k as u32) {
            0 => 1,
            divisor => divisor,
        };
        let width = divisor.ilog2();
        let short = (2 << width) - divisor;
        let quotients = ((n - k) as u32 / divisor) as usize;
        Self { divisor: divisor as u16, width, short: short as u16, step: ((1 << width) - short) as u16, quotients }
    }

    /// Bytes of the fixed part of k indices.
    pub(crate) fn low_bytes(&self, k: usize) -> usize {
        packed::bytes(k, self.width)
    }

    /// x, and the extra bit as a value of one or no bits.
    fn remainder(&self, r: u16) -> (u16, Extra) {
        let long = r >> self.width;
        (r - long * self.step, Extra { bit: long.into(), width: (r >= self.short).into() })
    }
}

/// What the bit stream holds of a remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extra {
    bit: u32,
    width: u32,
}

/// Bytes of the fixed part of k of n indices, `1 <= k <= n <= 4096`.
pub fn low_bytes(n: usize, k: usize) -> usize {
    Split::new(n, k).low_bytes(k)
}

/// The most bits that k of n indices take in the bit stream.
pub fn worst_bits(n: usize, k: usize) -> usize {
    2 * k + Split::new(n, k).quotients
}

/// The bits that k of n random indices take in the bit stream on average, taking gaps as geometrically distributed.
pub fn typical_bits(n: usize, k: usize) -> f64 {
    let split = Split::new(n, k);
    let more = 1.0 - k as f64 / n as f64;
    let [short, all] = [split.short, split.divisor].map(|below| more.powi(below.into()));
    k as f64 * (1.0 + short / (1.0 - all))
}

/// Writes strictly ascending indices below n over all of `low`, which has the length that [`low_bytes`] says, and appends to `stream`.
pub fn encode(indices: &[u16], n: usize, low: &mut [u8], stream: &mut BitWriter) {
    let split = Split::new(n, indices.len());
    let mut next = 0;
    let gaps = indices.iter().map(|&index| index - std::mem::replace(&mut next, index + 1));
    let remainders = gaps.map(|gap| {
        stream.put_unary(u32::from(gap / split.divisor));
        split.remainder(gap % split.divisor)
    });
    let mut extras = BitWriter::default();
    let fixed = remainders.map(|(x, extra)| {
        extras.put(extra.bit, extra.width);
        x
    });
    packed::encode(fixed, split.width, low);
    stream.append(&extras);
}

/// Writes strictly ascending indices below n into `stream` alone: after each unary code, x and its extra bit. There may be none.
pub fn encode_alone(indices: &[u16], n: usize, stream: &mut BitWriter) {
    let split = Split::new(n.max(1), indices.len().max(1));
    let mut next = 0;
    for &index in indices {
        let gap = index - std::mem::replace(&mut next, index + 1);
        let (x, extra) = split.remainder(gap % split.divisor);
        stream.put_unary(u32::from(gap / split.divisor));
        stream.put(x.into(), split.width);
        stream.put(extra.bit, extra.width);
    }
}

/// Reads what [`encode_alone`] wrote: `count` indices below n.
///
/// # Errors
/// [`Fault::End`] or [`Fault::Range`].
pub fn decode_alone(count: usize, n: usize, stream: &mut BitReader<'_>) -> Result<Vec<u16>, Fault> {
    let split = Split::new(n.max(1), count.max(1));
    let mut next = 0;
    let mut read = || {
        let quotient = stream.unary(split.quotients as u32)? as usize;
        let x = stream.take(split.width)? as usize;
        let long = x >= usize::from(split.short) && stream.take(1)? == 1;
        let gap = quotient * usize::from(split.divisor) + x + if long { usize::from(split.step) } else { 0 };
        let index = next + gap;
        next = index + 1;
        if index < n { Ok(index as u16) } else { Err(Fault::Range) }
    };
    (0..count).map(|_| read()).collect()
}

/// Reads `out.len()` indices below n, of this `split`, from as many bytes as [`low_bytes`] says and from `stream`.
///
/// # Errors
/// [`Fault::Padding`], [`Fault::End`] or [`Fault::Range`]; `out` holds anything then, and `stream` stays where it was.
pub(crate) fn decode(floor: Floor, split: &Split, low: &[u8], stream: &mut BitReader<'_>, n: usize, out: &mut [u16]) -> Result<(), Fault> {
    if !packed::padding_is_zero(low, out.len(), split.width) {
        return Err(Fault::Padding);
    }
    let end = decode::golomb(floor, low, stream.bytes, stream.at, split, out)?;
    if end > stream.bytes.len() * 8 {
        return Err(Fault::End);
    }
    if out.last().is_none_or(|&last| usize::from(last) >= n) {
        return Err(Fault::Range);
    }
    stream.at = end;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_data::{index_set, pick, random};

    fn encoded(indices: &[u16], n: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut low, mut stream) = (vec![0xFF; low_bytes(n, indices.len())], BitWriter::default());
        encode(indices, n, &mut low, &mut stream);
        assert!(stream.bits() <= worst_bits(n, indices.len()));
        (low, stream.finish())
    }

    /// What all floors say of the chunk at bit `at`, and the bit behind it.
    fn decoded_at(low: &[u8], stream: &[u8], at: usize, n: usize, k: usize) -> Result<(Vec<u16>, usize), Fault> {
        let on = |floor| {
            let (mut reader, mut out) = (BitReader { bytes: stream, at }, vec![0xFFFF; k]);
            let result = decode(floor, &Split::new(n, k), low, &mut reader, n, &mut out);
            assert!(result.is_ok() || reader.at == at);
            result.map(|()| (out, reader.at))
        };
        let expected = on(Floor::SCALAR);
        for floor in Floor::available() {
            assert_eq!(on(floor), expected, "{floor:?}");
        }
        expected
    }

    /// One chunk alone in its stream.
    fn decoded(low: &[u8], stream: &[u8], n: usize, k: usize) -> Result<Vec<u16>, Fault> {
        let (indices, at) = decoded_at(low, stream, 0, n, k)?;
        BitReader { bytes: stream, at }.finish().map(|()| indices)
    }

    #[test]
    fn a_chunk_is_split_as_specified() {
        let split = Split::new(4096, 64);
        assert_eq!((split.divisor, split.width, split.short, split.step, split.quotients), (44, 5, 20, 12, 91));
        assert_eq!((low_bytes(4096, 64), worst_bits(4096, 64)), (40, 219));
        let remainders = [0, 19, 20, 31, 32, 43].map(|r| split.remainder(r));
        let extra = |bit, width| Extra { bit, width };
        let split = [(0, extra(0, 0)), (19, extra(0, 0)), (20, extra(0, 1)), (31, extra(0, 1)), (20, extra(1, 1)), (31, extra(1, 1))];
        assert_eq!(remainders, split);
        let whole = Split::new(4096, 4096);
        assert_eq!((whole.divisor, whole.width, whole.short, whole.quotients), (1, 0, 1, 0));
    }

    #[test]
    fn every_remainder_has_its_own_code() {
        for (n, k) in (1..=4096usize).flat_map(|n| [(n, 1), (n, n.div_ceil(64)), (n, n.div_ceil(3)), (n, n)]) {
            let split = Split::new(n, k);
            for r in 0..split.divisor {
                let (x, extra) = split.remainder(r);
                assert!(x < 1 << split.width && (extra.width == 1) == (x >= split.short) && extra.bit <= extra.width);
                assert_eq!(x + if extra.bit == 1 { split.step } else { 0 }, r);
            }
        }
    }

    #[test]
    fn every_fault_is_told() {
        // n = 8, k = 2: M = 2, B = 1, u = 2. Gaps 1 and 4: remainders 1 and 0, quotients 0 and 2.
        let (low, stream) = (0b01, 0b1001);
        assert_eq!(encoded(&[1, 6], 8), (vec![low], vec![stream]));
        assert_eq!(decoded(&[low], &[stream], 8, 2), Ok(vec![1, 6]));
        assert_eq!(decoded(&[low | 0b100], &[stream], 8, 2), Err(Fault::Padding));
        assert_eq!(decoded(&[low], &[stream | 0x10], 8, 2), Err(Fault::Padding));
        assert_eq!(decoded(&[low], &[stream, 0], 8, 2), Err(Fault::Trailing));
        assert_eq!(decoded(&[low], &[], 8, 2), Err(Fault::End));
        assert_eq!(decoded_at(&[low], &[0b11 << 6], 7, 8, 2), Err(Fault::End));
        // Six quotients are too many, and so are three with both remainders at their largest.
        assert_eq!(decoded(&[low], &[0b1000_0001], 8, 2), Err(Fault::Range));
        assert_eq!(decoded(&[0b11], &[0b1_0001], 8, 2), Err(Fault::Range));
        assert_eq!(decoded(&[0b00], &[0b1_0001], 8, 2), Ok(vec![0, 7]));
        // n = 12, k = 2: M = 4, u = 4; n = 9, k = 2: M = 3, B = 1, u = 1, so that a remainder of 1 or 2 ends in an extra bit.
        assert_eq!(encoded(&[1, 8], 9), (vec![0b01], vec![0b0_1001]));
        assert_eq!(decoded_at(&[0b01], &[0b1001 << 4], 4, 9, 2), Err(Fault::End));
    }

    /// Of all pairs of a fixed part and a stream of up to `bytes` bytes, those accepted.
    fn accepted(n: usize, k: usize, bytes: usize) -> usize {
        let low_length = low_bytes(n, k);
        let mut count = 0;
        for low in 0u32..1 << (8 * low_length) {
            for length in 0..=bytes {
                for stream in 0u32..1 << (8 * length) {
                    let (low, stream) = (&low.to_le_bytes()[..low_length], &stream.to_le_bytes()[..length]);
                    if let Ok(indices) = decoded(low, stream, n, k) {
                        assert!(indices.is_sorted_by(|a, b| a < b) && indices.iter().all(|&index| usize::from(index) < n));
                        assert_eq!(encoded(&indices, n), (low.to_vec(), stream.to_vec()), "{indices:?}");
                        count += 1;
                    }
                }
            }
        }
        count
    }

    #[test]
    fn small_index_sets_have_one_code() {
        for n in 1..=12 {
            for k in 1..=n {
                let (low, stream) = (low_bytes(n, k), worst_bits(n, k).div_ceil(8));
                // All strings of three bytes take a second: one shape stands for the others.
                if low + stream <= 2 || (n, k) == (12, 4) {
                    let sets = (0..k).fold(1, |sets, j| sets * (n - j) / (j + 1));
                    assert_eq!(accepted(n, k, stream), sets, "k = {k} of n = {n}");
                }
            }
        }
    }

    #[test]
    fn full_chunks_round_trip_for_every_k() {
        for k in 1..=4096 {
            let indices = pick(4096, k, k as u64, k % 3 == 0);
            let (low, stream) = encoded(&indices, 4096);
            assert_eq!(decoded(&low, &stream, 4096, k), Ok(indices));
        }
    }

    #[test]
    fn random_sets_come_within_one_percent_of_their_entropy() {
        let mut stream = BitWriter::default();
        for seed in 0..2000 {
            encode(&pick(4096, 64, seed, false), 4096, &mut [0; 40], &mut stream);
        }
        let per_index = 5.0 + stream.bits() as f64 / (2000.0 * 64.0);
        assert!((7.43..7.445).contains(&per_index), "{per_index}");
    }

    proptest! {
        #[test]
        fn chunks_share_a_stream(sets in prop::collection::vec(index_set(4096), 1..6)) {
            let (mut lows, mut writer) = (Vec::new(), BitWriter::default());
            for (n, indices) in &sets {
                let mut low = vec![0xFF; low_bytes(*n, indices.len())];
                encode(indices, *n, &mut low, &mut writer);
                lows.push(low);
            }
            let (bits, stream) = (writer.bits(), writer.finish());
            let mut at = 0;
            for ((n, indices), low) in sets.iter().zip(&lows) {
                let (decoded, end) = decoded_at(low, &stream, at, *n, indices.len()).expect("as encoded");
                prop_assert_eq!(&decoded, indices);
                at = end;
            }
            prop_assert_eq!(at, bits);
            prop_assert_eq!(BitReader { bytes: &stream, at }.finish(), Ok(()));
        }

        #[test]
        fn corrupt_bytes_are_refused_or_another_set((n, indices) in index_set(4096), seed: u64, flips in 1usize..4, at in 0usize..64) {
            let ((mut low, mut stream), mut random) = (encoded(&indices, n), random(seed));
            let check = |low: &[u8], stream: &[u8]| {
                if let Ok(other) = decoded(low, stream, n, indices.len()) {
                    assert_eq!(encoded(&other, n), (low.to_vec(), stream.to_vec()));
                }
                let _ = decoded_at(low, stream, at.min(stream.len() * 8), n, indices.len());
            };
            for _ in 0..flips {
                let at = random() as usize % ((low.len() + stream.len()) * 8);
                let byte = if at / 8 < low.len() { &mut low[at / 8] } else { &mut stream[at / 8 - low.len()] };
                *byte ^= 1 << (at % 8);
            }
            check(&low, &stream);
            stream.truncate(random() as usize % (stream.len() + 1));
            check(&low, &stream);
            low.fill_with(|| random() as u8);
            stream.fill_with(|| random() as u8);
            check(&low, &stream);
        }
    }
}
