//! The decoding loops in plain Rust: the oracle of the others, and what AVX2 and NEON compile for themselves.

use crate::indices::IndexFault as Fault;
use crate::indices::bits::word;
use crate::indices::golomb::Split;

/// Values of `width` bits.
#[inline(always)]
pub(crate) fn unpack(bytes: &[u8], width: u32, out: &mut [u16]) {
    let mask = ((1u32 << width) - 1) as u16;
    for (group, four) in out.chunks_mut(4).enumerate() {
        let mut rest = word(bytes, group * 4 * width as usize);
        for value in four {
            *value = rest as u16 & mask;
            rest >>= width;
        }
    }
}

/// The ones among `window` bits from bit `at` on, in words of 64 bits.
#[inline(always)]
fn words(bytes: &[u8], at: usize, window: usize) -> impl Iterator<Item = (usize, u64)> + Clone {
    (0..window).step_by(64).map(move |start| (start, word(bytes, at + start) & u64::MAX >> 64usize.saturating_sub(window - start)))
}

/// Calls `each` with the number of zeros before each of the first `out.len()` ones, and the element of `out` that it belongs to.
#[inline(always)]
fn for_ones(words: impl Iterator<Item = (usize, u64)>, out: &mut [u16], mut each: impl FnMut(u16, &mut u16)) {
    let mut numbered = out.iter_mut().enumerate();
    for (start, mut ones) in words {
        while ones != 0 {
            let Some((number, element)) = numbered.next() else { return };
            each((start + ones.trailing_zeros() as usize - number) as u16, element);
            ones &= ones - 1;
        }
    }
}

/// How many bits the first `count` ones and all before them take.
#[inline(always)]
fn bits_of_ones(words: impl Iterator<Item = (usize, u64)>, count: usize) -> Option<usize> {
    let mut left = count as u32;
    for (start, mut ones) in words {
        if ones.count_ones() >= left {
            for _ in 1..left {
                ones &= ones - 1;
            }
            return Some(start + ones.trailing_zeros() as usize + 1);
        }
        left -= ones.count_ones();
    }
    None
}

/// Indices of `width` low bits and a bitmap.
#[inline(always)]
pub(crate) fn elias_fano(low: &[u8], bitmap: &[u8], width: u32, out: &mut [u16]) -> Result<(), Fault> {
    elias_fano_by(unpack, low, bitmap, width, out)
}

/// [`elias_fano`] with a floor's own [`unpack`].
#[inline(always)]
pub(crate) fn elias_fano_by(
    unpack: impl Fn(&[u8], u32, &mut [u16]),
    low: &[u8],
    bitmap: &[u8],
    width: u32,
    out: &mut [u16],
) -> Result<(), Fault> {
    let words = words(bitmap, 0, bitmap.len() * 8);
    if words.clone().map(|(_, ones)| ones.count_ones() as usize).sum::<usize>() != out.len() {
        return Err(Fault::Count);
    }
    unpack(low, width, out);
    let (mut next, mut falls) = (0, false);
    for_ones(words, out, |zeros, index| {
        *index |= zeros << width;
        falls |= *index < next;
        next = *index + 1;
    });
    if falls { Err(Fault::Order) } else { Ok(()) }
}

/// Indices of the remainders' fixed parts and a stream from bit `at` on. Returns the bit behind the chunk's last one, which may lie
/// beyond the stream; the last index may lie beyond the chunk.
#[inline(always)]
pub(crate) fn golomb(low: &[u8], stream: &[u8], at: usize, split: &Split, out: &mut [u16]) -> Result<usize, Fault> {
    golomb_by(unpack, low, stream, at, split, out)
}

/// [`golomb`] with a floor's own [`unpack`].
#[inline(always)]
pub(crate) fn golomb_by(
    unpack: impl Fn(&[u8], u32, &mut [u16]),
    low: &[u8],
    stream: &[u8],
    at: usize,
    split: &Split,
    out: &mut [u16],
) -> Result<usize, Fault> {
    let window = out.len() + split.quotients;
    let words = words(stream, at, window);
    let Some(unary) = bits_of_ones(words.clone(), out.len()) else {
        return Err(if at + window > stream.len() * 8 { Fault::End } else { Fault::Range });
    };
    unpack(low, split.width, out);
    let (mut end, mut next) = (at + unary, 0);
    let mut extras = Extras { bits: 0, left: 0 };
    for_ones(words, out, |zeros, index| {
        if extras.left == 0 {
            extras = Extras { bits: word(stream, end), left: 64 };
        }
        let has_extra = u16::from(*index >= split.short);
        let r = *index + split.step * (has_extra & extras.bits as u16);
        // The quotients add up to `zeros`, so only remainders and ones are summed here.
        *index = split.divisor * zeros + next + r;
        next += r + 1;
        end += usize::from(has_extra);
        extras = Extras { bits: extras.bits >> has_extra, left: extras.left - 1 };
    });
    Ok(end)
}

/// Bits that serve the next `left` remainders at least.
struct Extras {
    bits: u64,
    left: u32,
}

/// `table[code]` of codes of `width <= 2` bits.
#[inline(always)]
pub(crate) fn values(codes: &[u8], width: u32, table: &[f32; 4], out: &mut [f32]) {
    let per_byte = 8 / width as usize;
    let mask = (1u8 << width) - 1;
    for (values, &byte) in out.chunks_mut(per_byte).zip(codes) {
        let mut rest = byte;
        for value in values {
            *value = table[usize::from(rest & mask)];
            rest >>= width;
        }
    }
}

/// Adds one payload's values other than zero to a chunk's sums and weights.
#[inline(always)]
pub(crate) fn add(indices: &[u16], values: &[f32], factor: f32, weight: f32, sums: &mut [[f32; 2]]) {
    for (&index, &value) in indices.iter().zip(values) {
        let [sum, over] = &mut sums[usize::from(index)];
        // No branch: what is added instead of zeros changes nothing, as a sum is never -0.
        *sum += if value != 0.0 { factor * value } else { 0.0 };
        *over += if value != 0.0 { weight } else { 0.0 };
    }
}

/// The outer step where somebody sent a value, and sums of zero for the next chunk.
#[inline(always)]
pub(crate) fn descend(sums: &mut [[f32; 2]], over_all: Option<f32>, lr: f32, theta: &mut [f32]) {
    for ([sum, over], theta) in sums.iter_mut().zip(theta) {
        let stepped = *theta - lr * (*sum / over_all.unwrap_or(*over));
        *theta = if *over != 0.0 { stepped } else { *theta };
        (*sum, *over) = (0.0, 0.0);
    }
}
