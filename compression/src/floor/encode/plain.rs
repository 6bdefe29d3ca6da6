//! The loops themselves, written so that the compiler vectorizes them; inlined into one function per instruction set.

/// Values that are compared in one go.
pub(super) const LANES: usize = 16;
/// Values whose mask is one integer.
const BLOCK: usize = 4 * LANES;
/// Candidates that are written together.
const SLACK: usize = 4;
/// The fewest groups whose maxima are worth a bound.
const MIN_GROUPS: usize = 256;

/// Buffers of the selection, kept between chunks.
#[derive(Clone, Default)]
pub(crate) struct Scratch {
    maxima: Vec<i32>,
    candidates: Vec<u16>,
    keys: Vec<i32>,
}

/// How a chunk lies in its tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    /// Elements of a row of the chunk.
    pub width: usize,
    /// Distance between the first elements of two rows.
    pub stride: usize,
}

/// The magnitude as an integer of the same order; finite values only.
#[inline(always)]
pub(super) fn key(value: f32) -> i32 {
    value.abs().to_bits() as i32
}

#[inline(always)]
pub(super) fn accumulate(feedback: &mut [f32], gradient: &[f32], beta: f32, rows: Rows, values: &mut [f32]) {
    for (row, values) in values.chunks_mut(rows.width).enumerate() {
        let place = row * rows.stride..row * rows.stride + values.len();
        for ((value, e), g) in values.iter_mut().zip(&mut feedback[place.clone()]).zip(&gradient[place]) {
            *value = beta * *e + g;
            *e = *value;
        }
    }
}

#[inline(always)]
pub(super) fn all_finite(feedback: &[f32], gradient: &[f32], beta: f32) -> bool {
    const PART: usize = 1024;
    let largest = |e: &[f32], g: &[f32]| e.iter().zip(g).map(|(e, g)| key(beta * e + g)).fold(0, i32::max);
    feedback.chunks(PART).zip(gradient.chunks(PART)).all(|(e, g)| largest(e, g) < f32::INFINITY.to_bits() as i32)
}

#[inline(always)]
pub(super) fn top_k(values: &[f32], k: usize, scratch: &mut Scratch, picked: &mut Vec<u16>, reaching: impl Fn(&[f32; LANES], i32) -> u32) {
    let bound = lower_bound(values, k, &mut scratch.maxima);
    scratch.candidates.resize(scratch.candidates.len().max(values.len() + SLACK), 0);
    let count = gather(values, bound, &mut scratch.candidates, reaching);
    let candidates = &scratch.candidates[..count];
    scratch.keys.clear();
    scratch.keys.extend(candidates.iter().map(|&i| key(values[usize::from(i)])));
    let cut = cut(&scratch.keys, k, 0);
    let ties = candidates.iter().zip(&scratch.keys).filter(|&(_, &key)| key == cut.key);
    let last_tie = ties.map(|(&index, _)| i32::from(index)).take(k - cut.above).last().unwrap_or(-1);
    picked.clear();
    picked.resize(count + 1, 0);
    let mut taken = 0;
    for (&index, &key) in candidates.iter().zip(&scratch.keys) {
        picked[taken] = index;
        taken += usize::from(key >= cut.key + i32::from(i32::from(index) > last_tie));
    }
    picked.truncate(taken);
}

/// A key that at least `k` keys reach: about the k-th largest of the maxima of strided groups, since each maximum is a key of its own.
#[inline(always)]
fn lower_bound(values: &[f32], k: usize, maxima: &mut Vec<i32>) -> i32 {
    // Four times k leaves few candidates above the k-th.
    let groups = (4 * k).next_power_of_two().max(MIN_GROUPS);
    if values.len() < 2 * groups {
        return 0;
    }
    maxima.clear();
    maxima.resize(groups, 0);
    for stripe in values.chunks(groups) {
        for (max, &value) in maxima.iter_mut().zip(stripe) {
            *max = key(value).max(*max);
        }
    }
    cut(maxima, k, k / 8).key
}

/// A place to cut keys in two: `above` of them are above `key`, and with those equal to it they are at least `k`.
struct Cut {
    key: i32,
    above: usize,
}

/// Bisects for a key with `k` to `k + slack` keys above it; where there is none, it is the k-th largest.
#[inline(always)]
fn cut(keys: &[i32], k: usize, slack: usize) -> Cut {
    let mut low = keys.iter().copied().fold(i32::MAX, i32::min);
    let mut high = keys.iter().copied().fold(0, i32::max) + 1;
    let mut above = 0;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let count = keys.iter().map(|&key| i32::from(key >= middle)).sum::<i32>() as usize;
        if count < k {
            (high, above) = (middle, count);
        } else if count > k + slack {
            low = middle;
        } else {
            return Cut { key: middle - 1, above: count };
        }
    }
    Cut { key: low, above }
}

/// Puts the indices of the values that reach `bound` into `candidates`, which has room for `SLACK` more than all; returns their number.
#[inline(always)]
fn gather(values: &[f32], bound: i32, candidates: &mut [u16], reaching: impl Fn(&[f32; LANES], i32) -> u32) -> usize {
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    let (mut base, mut count) = (0, 0);
    for block in blocks {
        let mut mask = block_mask(block, bound, &reaching);
        let mut free = count;
        count += mask.count_ones() as usize;
        // Writing some in vain is cheaper than a branch for each, which nothing predicts.
        loop {
            for slot in &mut candidates[free..free + SLACK] {
                *slot = base + mask.trailing_zeros() as u16;
                mask &= mask.wrapping_sub(1);
            }
            free += SLACK;
            if mask == 0 {
                break;
            }
        }
        base += BLOCK as u16;
    }
    for (i, &value) in rest.iter().enumerate() {
        candidates[count] = base + i as u16;
        count += usize::from(key(value) >= bound);
    }
    count
}

/// One bit for each value of a block that reaches `bound`.
#[inline(always)]
fn block_mask(block: &[f32], bound: i32, reaching: impl Fn(&[f32; LANES], i32) -> u32) -> u64 {
    let lanes = block.as_chunks().0.iter().enumerate();
    lanes.fold(0, |mask, (i, lane)| mask | u64::from(reaching(lane, bound)) << (i * LANES))
}

/// One bit for each value that reaches `bound`.
#[inline(always)]
pub(super) fn reaching(lane: &[f32; LANES], bound: i32) -> u32 {
    let bits: [u32; LANES] = std::array::from_fn(|i| if key(lane[i]) >= bound { 1 << i } else { 0 });
    bits.into_iter().fold(0, |mask, bit| mask | bit)
}

#[inline(always)]
pub(super) fn group_max(values: &[f32], group: usize, picked: &mut Vec<u16>, reaching: impl Fn(&[f32; LANES], i32) -> u32) {
    debug_assert!([16, 32, 64].contains(&group));
    picked.clear();
    match group {
        16 => group_max_of::<16>(values, picked, reaching),
        32 => group_max_of::<32>(values, picked, reaching),
        _ => group_max_of::<64>(values, picked, reaching),
    }
}

#[inline(always)]
fn group_max_of<const GROUP: usize>(values: &[f32], picked: &mut Vec<u16>, reaching: impl Fn(&[f32; LANES], i32) -> u32) {
    let (groups, rest) = values.as_chunks::<GROUP>();
    picked.resize(groups.len(), 0);
    for (number, (group, picked)) in groups.iter().zip(picked.iter_mut()).enumerate() {
        let mut maxima = [0; LANES];
        for lane in group.as_chunks::<LANES>().0 {
            maxima = std::array::from_fn(|i| key(lane[i]).max(maxima[i]));
        }
        let largest = maxima.into_iter().fold(0, i32::max);
        *picked = (number * GROUP) as u16 + block_mask(group, largest, &reaching).trailing_zeros() as u16;
    }
    let largest = rest.iter().copied().map(key).max();
    picked.extend(rest.iter().position(|&value| Some(key(value)) == largest).map(|i| (groups.len() * GROUP + i) as u16));
}

/// Pairs that [`super::pair_errors`] compares.
pub(crate) const PAIRS: usize = 64;

/// Pairs of magnitudes in the encoder's fixed point: low ≤ high < 2^13, low < 2^12.
pub(crate) struct Pairs {
    /// The lower magnitudes.
    pub low: [u32; PAIRS],
    /// The higher magnitudes.
    pub high: [u32; PAIRS],
}

/// A sum of values below `1 << SUM_BITS` shares an integer with their number.
const SUM_BITS: u32 = 20;
/// So many values of 12 bits have such a sum, and squared distances whose sum is below 2^32.
const PART: usize = 128;

#[inline(always)]
pub(super) fn pair_errors(fixed: &[u16], pairs: &Pairs, errors: &mut [u64; PAIRS]) {
    errors.fill(0);
    for part in fixed.chunks(PART) {
        add_errors(part, pairs, errors);
    }
}

/// With n and s the number and sum of the values nearer to the low magnitude, and m and t those of the rest, an error is
/// `Σu² + (n·low - 2s)·low + (m·high - 2t)·high`. The error is below 2^32, so that the steps may wrap.
#[inline(always)]
fn add_errors(part: &[u16], pairs: &Pairs, errors: &mut [u64; PAIRS]) {
    let middle: [i32; PAIRS] = std::array::from_fn(|i| (pairs.low[i] + pairs.high[i]).div_ceil(2) as i32);
    let mut nearer_low = [0u32; PAIRS];
    for &u in part {
        for i in 0..PAIRS {
            nearer_low[i] += if i32::from(u) < middle[i] { 1 << SUM_BITS | u32::from(u) } else { 0 };
        }
    }
    let sum: u32 = part.iter().map(|&u| u32::from(u)).sum();
    let squares: u32 = part.iter().map(|&u| u32::from(u) * u32::from(u)).sum();
    let term = |count: u32, sum: u32, magnitude: u32| (count * magnitude).wrapping_sub(2 * sum).wrapping_mul(magnitude);
    for i in 0..PAIRS {
        let (n, s) = (nearer_low[i] >> SUM_BITS, nearer_low[i] % (1 << SUM_BITS));
        let (low, high) = (term(n, s, pairs.low[i]), term(part.len() as u32 - n, sum - s, pairs.high[i]));
        errors[i] += u64::from(squares.wrapping_add(low).wrapping_add(high));
    }
}
