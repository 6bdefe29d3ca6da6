//! The decoding loops in AVX-512: 32 indices or 16 values at a time.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{avx2, plain};
use crate::chunk::Chunk;
use crate::indices::IndexFault as Fault;
use crate::indices::bits::word;
use crate::indices::golomb::Split;

/// Functions of this floor.
macro_rules! avx512 {
    ($(
        $(#[$doc:meta])*
        $scope:vis fn $name:ident $(<const $constant:ident>)? ($($argument:ident: $kind:ty),*) $(-> $result:ty)? $body:block
    )*) => { $(
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2")]
        $scope fn $name $(<const $constant: bool>)? ($($argument: $kind),*) $(-> $result)? $body
    )* };
}

/// A vector of these lanes.
macro_rules! lanes {
    ($count:literal lanes of $kind:ty, $lane:ident => $value:expr) => {{
        let mut lanes = [0 as $kind; $count];
        let mut $lane: usize = 0;
        while $lane < $count {
            lanes[$lane] = ($value) as $kind;
            $lane += 1;
        }
        // SAFETY: both are 64 bytes, and any bits are integers.
        unsafe { transmute::<[$kind; $count], __m512i>(lanes) }
    }};
}

/// How 32 values of one width get into lanes of 16 bits: first every four values the eight bytes that hold them, then every
/// value's bits to its lane's lowest.
#[derive(Clone, Copy)]
struct Spread {
    bytes: __m512i,
    shifts: __m512i,
}

static SPREADS: [Spread; 13] = {
    let mut spreads = [Spread { bytes: LANES, shifts: LANES }; 13];
    let mut width = 0;
    while width < 13 {
        spreads[width].bytes = lanes!(64 lanes of u8, byte => width * (byte / 8) / 2 + byte % 8);
        spreads[width].shifts = lanes!(64 lanes of u8, byte => width * (byte / 2) - width * (byte / 8) / 2 * 8 + byte % 2 * 8);
        width += 1;
    }
    spreads
};

/// The shape that counts, 64 indices of 4096, has loops of its own: known to the compiler, it takes half the time.
const USUAL_SPLIT: Split = Split::new(4096, 64);

/// Up to 64 ones of a bit stream.
struct Ones {
    /// How many zeros are before each.
    zeros_before: [__m512i; 2],
    found: usize,
    /// The bit behind the last one.
    end: usize,
}

const BYTES: __m512i = lanes!(64 lanes of u8, byte => byte);
const LANES: __m512i = lanes!(32 lanes of u16, lane => lane);
/// The lane before, and before the first one the last of the other vector.
const LANE_BEFORE: __m512i = lanes!(32 lanes of u16, lane => (lane + 63) % 64);
/// The last lane of the group of eight before a lane's own.
const ONE_GROUP_BEFORE: __m512i = lanes!(32 lanes of u16, lane => (lane / 8 * 8 + 31) % 32);
/// The last lane of the group of eight that is two groups before a lane's own.
const TWO_GROUPS_BEFORE: __m512i = lanes!(32 lanes of u16, lane => (lane / 8 * 8 + 23) % 32);
const LANES_FROM_32: __m512i = lanes!(32 lanes of u16, lane => lane + 32);
const ONES: __m512i = lanes!(32 lanes of u16, _lane => 1);
const LAST: __m512i = lanes!(32 lanes of u16, _lane => 31);
/// The first and the second of pairs in two vectors.
const UNPAIRED: [__m512i; 2] = [lanes!(16 lanes of u32, lane => 2 * lane), lanes!(16 lanes of u32, lane => 2 * lane + 1)];
const LANES_OF_32: __m512i = lanes!(16 lanes of u32, lane => lane);
const LANES_OF_64: __m512i = lanes!(8 lanes of u64, lane => lane);

avx512! {
    /// The lowest `count` bits, or all.
    fn lowest(count: usize) -> u64 {
        _bzhi_u64(u64::MAX, count.min(64) as u32)
    }

    /// Values 64 `group` to 64 `group` + 63 of `width` bits; whatever lies beyond the bytes is zero.
    fn unpacked(bytes: &[u8], width: u32, group: usize) -> [__m512i; 2] {
        let spread = &SPREADS[width as usize];
        let mask = _mm512_set1_epi16(((1u32 << width) - 1) as i16);
        [2 * group, 2 * group + 1].map(|block| {
            let rest = bytes.get(4 * width as usize * block..).unwrap_or_default();
            // SAFETY: bytes beyond `rest` are masked off.
            let packed = unsafe { _mm512_maskz_loadu_epi8(lowest(rest.len()), rest.as_ptr().cast()) };
            let grouped = _mm512_permutexvar_epi8(spread.bytes, packed);
            _mm512_and_si512(_mm512_multishift_epi64_epi8(spread.shifts, grouped), mask)
        })
    }

    /// Lanes of up to 64 `values`.
    fn load(values: &[u16]) -> [__m512i; 2] {
        let mask = lowest(values.len());
        let second = values.as_ptr().wrapping_add(32).cast();
        // SAFETY: lanes beyond `values` are masked off.
        unsafe { [_mm512_maskz_loadu_epi16(mask as u32, values.as_ptr().cast()), _mm512_maskz_loadu_epi16((mask >> 32) as u32, second)] }
    }

    /// Writes up to 64 `values`.
    fn store(values: &mut [u16], lanes: [__m512i; 2]) {
        let mask = lowest(values.len());
        let second = values.as_mut_ptr().wrapping_add(32).cast();
        // SAFETY: lanes beyond `values` are masked off.
        unsafe {
            _mm512_mask_storeu_epi16(values.as_mut_ptr().cast(), mask as u32, lanes[0]);
            _mm512_mask_storeu_epi16(second, (mask >> 32) as u32, lanes[1]);
        }
    }

    pub(super) fn unpack(bytes: &[u8], width: u32, out: &mut [u16]) {
        for (group, values) in out.chunks_mut(64).enumerate() {
            store(values, unpacked(bytes, width, group));
        }
    }

    /// The first `count` ones, at most 64, from bit `at` on, or as many as `window` bits hold. Three words are read even where the
    /// ones end before: that is all that 64 of 4096 indices need, and no branch depends on the data then.
    fn next_ones(bytes: &[u8], at: usize, window: usize, count: usize) -> Ones {
        let (mut found, mut end, mut start) = (0, at, 0);
        let (mut bits, mut words) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        while start < window && (found < count || start < 192) {
            let in_window = word(bytes, at + start) & lowest(window - start);
            let ones = _pdep_u64(lowest(count - found), in_window);
            end = if ones != 0 { at + start + 64 - ones.leading_zeros() as usize } else { end };
            let free = !lowest(found);
            bits = _mm512_mask_expand_epi8(bits, free, _mm512_maskz_compress_epi8(ones, BYTES));
            words = _mm512_mask_mov_epi8(words, free, _mm512_set1_epi8((start / 64) as i8));
            found += ones.count_ones() as usize;
            start += 64;
        }
        let wide = |bits, words| _mm512_or_si512(_mm512_cvtepu8_epi16(bits), _mm512_slli_epi16(_mm512_cvtepu8_epi16(words), 6));
        let first = wide(_mm512_castsi512_si256(bits), _mm512_castsi512_si256(words));
        let second = wide(_mm512_extracti64x4_epi64(bits, 1), _mm512_extracti64x4_epi64(words, 1));
        Ones { zeros_before: [_mm512_sub_epi16(first, LANES), _mm512_sub_epi16(second, LANES_FROM_32)], found, end }
    }

    pub(super) fn elias_fano(low: &[u8], bitmap: &[u8], width: u32, out: &mut [u16]) -> Result<(), Fault> {
        match (low.len(), bitmap.len(), width, out.len()) {
            (48, 16, 6, 64) => elias_fano_shaped::<true>(low, bitmap, width, out),
            _ => elias_fano_shaped::<false>(low, bitmap, width, out),
        }
    }

    /// Of 64 indices of 4096, if `USUAL`.
    fn elias_fano_shaped<const USUAL>(low: &[u8], bitmap: &[u8], width: u32, out: &mut [u16]) -> Result<(), Fault> {
        let (low, bitmap, width, out) = if USUAL { (&low[..48], &bitmap[..16], 6, &mut out[..64]) } else { (low, bitmap, width, out) };
        let ones: u32 = (0..bitmap.len()).step_by(8).map(|byte| word(bitmap, 8 * byte).count_ones()).sum();
        if ones as usize != out.len() {
            return Err(Fault::Count);
        }
        let shift = _mm_cvtsi32_si128(width as i32);
        let (mut at, mut before, mut falls) = (0, _mm512_set1_epi16(-1), 0);
        for (group, out) in out.chunks_mut(64).enumerate() {
            let base = _mm512_set1_epi16((at - 64 * group) as i16);
            let ones = next_ones(bitmap, at, 8 * bitmap.len() - at, out.len());
            let low = unpacked(low, width, group);
            let index = |half: usize| {
                let high = _mm512_add_epi16(ones.zeros_before[half], base);
                _mm512_or_si512(_mm512_sll_epi16(high, shift), low[half])
            };
            let indices = [index(0), index(1)];
            let falls_to = |lanes, before| {
                let previous = _mm512_permutex2var_epi16(lanes, LANE_BEFORE, before);
                u64::from(_mm512_cmple_epi16_mask(lanes, previous))
            };
            falls |= (falls_to(indices[0], before) | falls_to(indices[1], indices[0]) << 32) & lowest(out.len());
            before = indices[1];
            at = ones.end;
            store(out, indices);
        }
        if falls == 0 { Ok(()) } else { Err(Fault::Order) }
    }

    /// The sums of each lane and all before it.
    fn running_sums(lanes: __m512i) -> __m512i {
        let two = _mm512_add_epi16(lanes, _mm512_bslli_epi128(lanes, 2));
        let four = _mm512_add_epi16(two, _mm512_bslli_epi128(two, 4));
        let eight = _mm512_add_epi16(four, _mm512_bslli_epi128(four, 8));
        let before = _mm512_maskz_permutexvar_epi16(0xFFFF_FF00, ONE_GROUP_BEFORE, eight);
        let sixteen = _mm512_add_epi16(eight, before);
        let before = _mm512_maskz_permutexvar_epi16(0xFFFF_0000, TWO_GROUPS_BEFORE, sixteen);
        _mm512_add_epi16(sixteen, before)
    }

    pub(super) fn golomb(low: &[u8], stream: &[u8], at: usize, split: &Split, out: &mut [u16]) -> Result<usize, Fault> {
        match (*split, low.len(), out.len()) {
            (USUAL_SPLIT, 40, 64) => golomb_shaped::<true>(low, stream, at, split, out),
            _ => golomb_shaped::<false>(low, stream, at, split, out),
        }
    }

    /// Of 64 indices of 4096, if `USUAL`.
    fn golomb_shaped<const USUAL>(low: &[u8], stream: &[u8], at: usize, split: &Split, out: &mut [u16]) -> Result<usize, Fault> {
        let (low, split, out) = if USUAL { (&low[..40], &USUAL_SPLIT, &mut out[..64]) } else { (low, split, out) };
        let window = out.len() + split.quotients;
        let (mut end, mut found) = (at, 0);
        for out in out.chunks_mut(64) {
            let base = _mm512_set1_epi16((end - at - found) as i16);
            let ones = next_ones(stream, end, window - (end - at), out.len());
            store(out, ones.zeros_before.map(|zeros| _mm512_add_epi16(zeros, base)));
            (end, found) = (ones.end, found + ones.found);
        }
        if found < out.len() {
            return Err(if at + window > stream.len() * 8 { Fault::End } else { Fault::Range });
        }
        let (short, step) = (_mm512_set1_epi16(split.short as i16), _mm512_set1_epi16(split.step as i16));
        let divisor = _mm512_set1_epi16(split.divisor as i16);
        let mut next = _mm512_setzero_si512();
        for (group, out) in out.chunks_mut(64).enumerate() {
            let x = unpacked(low, split.width, group);
            let long = |half: usize| u64::from(_mm512_cmpge_epu16_mask(x[half], short));
            let has_extra = (long(0) | long(1) << 32) & lowest(out.len());
            let extras = _pdep_u64(word(stream, end), has_extra);
            end += has_extra.count_ones() as usize;
            let zeros_before = load(out);
            let mut index = |half: usize, extras| {
                let remainders = _mm512_mask_add_epi16(x[half], extras, x[half], step);
                let sums = _mm512_add_epi16(_mm512_add_epi16(running_sums(remainders), LANES), next);
                next = _mm512_add_epi16(_mm512_permutexvar_epi16(LAST, sums), ONES);
                _mm512_add_epi16(_mm512_mullo_epi16(zeros_before[half], divisor), sums)
            };
            store(out, [index(0, extras as u32), index(1, (extras >> 32) as u32)]);
        }
        Ok(end)
    }

    pub(super) fn values(codes: &[u8], width: u32, table: &[f32; 4], out: &mut [f32]) {
        match (width, codes.len(), out.len()) {
            (1, ..) => values_of_width::<false>(codes, table, out),
            // What is known of the usual shape saves the masks.
            (_, 16, 64) => values_of_width::<true>(&codes[..16], table, &mut out[..64]),
            _ => values_of_width::<true>(codes, table, out),
        }
    }

    fn values_of_width<const TWO>(codes: &[u8], table: &[f32; 4], out: &mut [f32]) {
        let width = if TWO { 2 } else { 1 };
        // SAFETY: the table has four values.
        let table = unsafe { _mm_loadu_ps(table.as_ptr()) };
        let table = _mm512_broadcast_f32x4(if TWO { table } else { _mm_movelh_ps(table, table) });
        for (values, codes) in out.chunks_mut(64).zip(codes.chunks(8 * width)) {
            // SAFETY: bytes beyond `codes`, of which there are at most 16, are masked off.
            let codes = unsafe { _mm_maskz_loadu_epi8(lowest(codes.len()) as u16, codes.as_ptr().cast()) };
            let codes = _mm512_broadcast_i32x4(codes);
            let look_up = |block: usize| {
                let code = _mm512_add_epi32(LANES_OF_32, _mm512_set1_epi32(16 * block as i32));
                let bits = _mm512_mullo_epi32(code, _mm512_set1_epi32(width as i32));
                let words = _mm512_permutexvar_epi32(_mm512_srli_epi32(bits, 5), codes);
                // The higher codes of a word do no harm: the table repeats.
                _mm512_permutexvar_ps(_mm512_srlv_epi32(words, _mm512_and_si512(bits, _mm512_set1_epi32(31))), table)
            };
            let lanes = [look_up(0), look_up(1), look_up(2), look_up(3)];
            for (block, lanes) in lanes.into_iter().enumerate() {
                let mask = lowest(values.len().saturating_sub(16 * block)) as u16;
                // SAFETY: lanes beyond `values` are masked off.
                unsafe { _mm512_mask_storeu_ps(values.as_mut_ptr().wrapping_add(16 * block), mask, lanes) };
            }
        }
    }

    pub(super) fn elias_fano_code(indices: &[u16], width: u32, out: &mut [u8]) {
        match (<&[u16; 64]>::try_from(indices), width, <&mut [u8; 64]>::try_from(&mut *out)) {
            (Ok(indices), 6, Ok(out)) => avx2::pack(indices, 6, out).copy_from_slice(&usual_bitmap(indices)),
            _ => avx2::elias_fano_code(indices, width, out),
        }
    }

    /// Of 64 indices of 4096.
    fn usual_bitmap(indices: &[u16; 64]) -> [u8; 16] {
        let one = _mm512_set1_epi64(1);
        let (mut first, mut second) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for (group, eight) in indices.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: eight indices.
            let high = _mm_srli_epi16(unsafe { _mm_loadu_si128(eight.as_ptr().cast()) }, 6);
            let bit = _mm512_add_epi64(_mm512_cvtepu16_epi64(high), _mm512_add_epi64(LANES_OF_64, _mm512_set1_epi64(8 * group as i64)));
            // A shift by 64 or more, as by any number below zero, leaves nothing.
            first = _mm512_or_si512(first, _mm512_sllv_epi64(one, bit));
            second = _mm512_or_si512(second, _mm512_sllv_epi64(one, _mm512_sub_epi64(bit, _mm512_set1_epi64(64))));
        }
        let words = [first, second].map(|word| _mm512_reduce_or_epi64(word) as u64);
        (u128::from(words[0]) | u128::from(words[1]) << 64).to_le_bytes()
    }

    pub(super) fn add(indices: &[u16], codes: &[u8], width: u32, terms: &[[f32; 2]; 4], sums: &mut [[f32; 2]]) {
        match width {
            1 => add_of_width::<false>(indices, codes, terms, sums),
            _ => add_of_width::<true>(indices, codes, terms, sums),
        }
    }

    fn add_of_width<const TWO>(indices: &[u16], codes: &[u8], terms: &[[f32; 2]; 4], sums: &mut [[f32; 2]]) {
        let width = if TWO { 2 } else { 1 };
        let [first, second, ..] = *terms;
        let terms = if TWO { *terms } else { [first, second, first, second] };
        // SAFETY: both are 32 bytes, and any bits are numbers.
        let terms = _mm512_broadcast_f64x4(unsafe { transmute::<[[f32; 2]; 4], __m256d>(terms) });
        let shifts = _mm512_mullo_epi64(LANES_OF_64, _mm512_set1_epi64(width));
        for (indices, codes) in indices.chunks(64 / width as usize).zip(codes.chunks(8)) {
            let codes = _mm512_set1_epi64(word(codes, 0) as i64);
            for (group, indices) in indices.chunks(8).enumerate() {
                let codes = _mm512_srl_epi64(codes, _mm_cvtsi32_si128(8 * group as i32 * width as i32));
                // The higher codes of a lane do no harm: the table repeats.
                let terms = _mm512_permutexvar_pd(_mm512_srlv_epi64(codes, shifts), terms);
                // SAFETY: both are 64 bytes, and any bits are numbers.
                let terms = unsafe { transmute::<__m512d, [[f32; 2]; 8]>(terms) };
                match <&[u16; 8]>::try_from(indices) {
                    // A loop of known length is unrolled.
                    Ok(indices) => indices.iter().zip(terms).for_each(|(&index, term)| plain::add_term(&mut sums[usize::from(index)], term)),
                    Err(_) => indices.iter().zip(terms).for_each(|(&index, term)| plain::add_term(&mut sums[usize::from(index)], term)),
                }
            }
        }
    }

    pub(super) fn descend(sums: &mut [[f32; 2]], over_all: Option<f32>, lr: f32, chunk: Chunk, theta: &mut [f32]) {
        for (row, sums) in chunk.rows().zip(sums.chunks_mut(chunk.width)) {
            descend_row(sums, over_all, lr, &mut theta[row]);
        }
    }

    fn descend_row(sums: &mut [[f32; 2]], over_all: Option<f32>, lr: f32, theta: &mut [f32]) {
        let ((sum_groups, last_sums), (groups, last)) = (sums.as_chunks_mut::<16>(), theta.as_chunks_mut::<16>());
        for (sums, theta) in sum_groups.iter_mut().zip(groups) {
            // SAFETY: both are 128 bytes, and any bits are numbers.
            let [first, second] = unsafe { transmute::<[[f32; 2]; 16], [__m512; 2]>(std::mem::replace(sums, [[0.0; 2]; 16])) };
            let [sum, over] = UNPAIRED.map(|lanes| _mm512_permutex2var_ps(first, lanes, second));
            let sent = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(over, _mm512_setzero_ps());
            let over = over_all.map_or(over, |all| _mm512_set1_ps(all));
            let step = _mm512_mul_ps(_mm512_set1_ps(lr), _mm512_div_ps(sum, over));
            // SAFETY: 16 elements.
            unsafe {
                let before = _mm512_loadu_ps(theta.as_ptr());
                _mm512_storeu_ps(theta.as_mut_ptr(), _mm512_mask_sub_ps(before, sent, before, step));
            }
        }
        plain::descend_row(last_sums, over_all, lr, last);
    }
}
