//! The decoding loops in plain Rust: the oracle of the others, and what AVX2 and NEON compile for themselves.

use crate::chunk::Chunk;
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

/// The code of ascending indices over all of `out`: `width` low bits of each, then the bitmap.
#[inline(always)]
pub(crate) fn elias_fano_code(indices: &[u16], width: u32, out: &mut [u8]) {
    let bits = (1u64 << width) - 1;
    let gather = |four: u64| (0..4).fold(0, |packed, j| packed | (four >> (16 * j) & bits) << (j * width));
    bitmap(indices, width, pack(gather, indices, width, out));
}

/// Packs the low bits of all indices, four by `gather`, and returns the bytes behind them.
#[inline(always)]
pub(super) fn pack<'a>(gather: impl Fn(u64) -> u64, indices: &[u16], width: u32, out: &'a mut [u8]) -> &'a mut [u8] {
    let (groups, rest) = indices.as_chunks::<8>();
    let mut write = |group: usize, lanes: &[u16; 8]| {
        let four = |j: usize| (0..4).fold(0, |four, lane| four | u64::from(lanes[j + lane]) << (16 * lane));
        let packed = (u128::from(gather(four(0))) | u128::from(gather(four(4))) << (4 * width)).to_le_bytes();
        // What is written behind the group's own bytes, the next group or the bitmap overwrites.
        let out = &mut out[group * width as usize..];
        match out.first_chunk_mut() {
            Some(sixteen) => *sixteen = packed,
            None => out.copy_from_slice(&packed[..out.len()]),
        }
    };
    groups.iter().enumerate().for_each(|(group, lanes)| write(group, lanes));
    if !rest.is_empty() {
        write(groups.len(), &std::array::from_fn(|lane| rest.get(lane).copied().unwrap_or_default()));
    }
    &mut out[(indices.len() * width as usize).div_ceil(8)..]
}

/// The bitmap of ascending indices over all of `out`.
#[inline(always)]
pub(super) fn bitmap(indices: &[u16], width: u32, out: &mut [u8]) {
    out.fill(0);
    let (mut last, mut at) = (0u8, 0);
    for (j, index) in indices.iter().enumerate() {
        let bit = usize::from(index >> width) + j;
        // Kept in a register: one store per index, and no load that would have to wait for the store before.
        last = if bit / 8 == at { last } else { 0 } | 1 << (bit % 8);
        at = bit / 8;
        out[at] = last;
    }
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

/// Adds one payload's terms, a value and a weight for each code, to a chunk's sums and weights; terms of zero change nothing, as a sum is never -0.
#[inline(always)]
pub(crate) fn add(indices: &[u16], codes: &[u8], width: u32, terms: &[[f32; 2]; 4], sums: &mut [[f32; 2]]) {
    let (per_byte, mask) = (8 / width as usize, (1u8 << width) - 1);
    for (indices, &byte) in indices.chunks(per_byte).zip(codes) {
        let mut rest = byte;
        for &index in indices {
            add_term(&mut sums[usize::from(index)], terms[usize::from(rest & mask)]);
            rest >>= width;
        }
    }
}

/// One sum and its weight.
#[inline(always)]
pub(super) fn add_term([sum, over]: &mut [f32; 2], [product, weight]: [f32; 2]) {
    *sum += product;
    *over += weight;
}

/// The outer step where somebody sent a value, and sums of zero for the next chunk.
#[inline(always)]
pub(crate) fn descend(sums: &mut [[f32; 2]], over_all: Option<f32>, lr: f32, chunk: Chunk, theta: &mut [f32]) {
    for (row, sums) in chunk.rows().zip(sums.chunks_mut(chunk.width)) {
        descend_row(sums, over_all, lr, &mut theta[row]);
    }
}

/// [`descend`] on consecutive elements.
#[inline(always)]
pub(super) fn descend_row(sums: &mut [[f32; 2]], over_all: Option<f32>, lr: f32, theta: &mut [f32]) {
    for ([sum, over], theta) in sums.iter_mut().zip(theta) {
        let stepped = *theta - lr * (*sum / over_all.unwrap_or(*over));
        *theta = if *over != 0.0 { stepped } else { *theta };
        (*sum, *over) = (0.0, 0.0);
    }
}
