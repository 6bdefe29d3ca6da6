//! The decoding loops for AVX2: eight values at a time where they are unpacked, plain loops otherwise.

use std::arch::x86_64::*;

use super::plain;
use crate::chunk::Chunk;
use crate::indices::IndexFault as Fault;
use crate::indices::golomb::Split;

/// Functions of this floor.
macro_rules! avx2 {
    ($($(#[$doc:meta])* $scope:vis fn $name:ident$(<$life:lifetime>)?($($argument:ident: $kind:ty),*) $(-> $result:ty)? $body:block)*) => { $(
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
        $scope fn $name$(<$life>)?($($argument: $kind),*) $(-> $result)? $body
    )* };
}

/// How eight values of one width get into lanes of 32 bits: first the four bytes that hold a value, then its bits to the lane's lowest.
struct Spread {
    bytes: [u8; 32],
    shifts: [u32; 8],
}

static SPREADS: [Spread; 13] = {
    let mut spreads = [const { Spread { bytes: [0; 32], shifts: [0; 8] } }; 13];
    let mut width = 0;
    while width < 13 {
        let mut byte = 0;
        while byte < 32 {
            let bit = width * (byte / 4);
            spreads[width].bytes[byte] = (bit / 8 + byte % 4) as u8;
            spreads[width].shifts[byte / 4] = bit as u32 % 8;
            byte += 1;
        }
        width += 1;
    }
    spreads
};

static COUNT: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

avx2! {
    /// The first sixteen bytes, or as many as there are and zeros.
    fn sixteen(bytes: &[u8]) -> __m128i {
        let mut padded = [0; 16];
        let sixteen = bytes.first_chunk().unwrap_or_else(|| {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        });
        // SAFETY: 16 bytes.
        unsafe { _mm_loadu_si128(sixteen.as_ptr().cast()) }
    }

    /// A constant.
    fn eight(lanes: &[u32; 8]) -> __m256i {
        // SAFETY: 32 bytes.
        unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
    }

    pub(super) fn unpack(bytes: &[u8], width: u32, out: &mut [u16]) {
        let Spread { bytes: places, shifts } = &SPREADS[width as usize];
        // SAFETY: 32 bytes.
        let places = unsafe { _mm256_loadu_si256(places.as_ptr().cast()) };
        let mask = _mm256_set1_epi32((1 << width) - 1);
        let unpacked = |group: usize| {
            let packed = _mm256_broadcastsi128_si256(sixteen(&bytes[width as usize * group..]));
            let lanes = _mm256_srlv_epi32(_mm256_shuffle_epi8(packed, places), eight(shifts));
            let lanes = _mm256_and_si256(lanes, mask);
            _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1))
        };
        let (groups, rest) = out.as_chunks_mut::<8>();
        for (group, values) in groups.iter_mut().enumerate() {
            // SAFETY: eight values.
            unsafe { _mm_storeu_si128(values.as_mut_ptr().cast(), unpacked(group)) };
        }
        if !rest.is_empty() {
            let mut values = [0u16; 8];
            // SAFETY: eight values.
            unsafe { _mm_storeu_si128(values.as_mut_ptr().cast(), unpacked(groups.len())) };
            rest.copy_from_slice(&values[..rest.len()]);
        }
    }

    pub(super) fn elias_fano(low: &[u8], bitmap: &[u8], width: u32, out: &mut [u16]) -> Result<(), Fault> {
        plain::elias_fano_by(|bytes, width, out| unpack(bytes, width, out), low, bitmap, width, out)
    }

    pub(super) fn golomb(low: &[u8], stream: &[u8], at: usize, split: &Split, out: &mut [u16]) -> Result<usize, Fault> {
        plain::golomb_by(|bytes, width, out| unpack(bytes, width, out), low, stream, at, split, out)
    }

    pub(super) fn values(codes: &[u8], width: u32, table: &[f32; 4], out: &mut [f32]) {
        let one_bit = [table[0], table[1], table[0], table[1]];
        // SAFETY: four values.
        let looked_up = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(if width == 1 { &one_bit } else { table }.as_ptr().cast()) });
        let looked_up = _mm256_castsi256_ps(looked_up);
        let shifts = _mm256_mullo_epi32(eight(&COUNT), _mm256_set1_epi32(width as i32));
        let (groups, rest) = out.as_chunks_mut::<8>();
        let (bytes, rest_bytes) = codes.split_at(width as usize * groups.len());
        for (values, codes) in groups.iter_mut().zip(bytes.chunks_exact(width as usize)) {
            let codes = codes.iter().rev().fold(0, |codes, &byte| codes << 8 | i32::from(byte));
            // The higher codes do no harm: the table repeats.
            let lanes = _mm256_permutevar8x32_ps(looked_up, _mm256_srlv_epi32(_mm256_set1_epi32(codes), shifts));
            // SAFETY: eight values.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr(), lanes) };
        }
        plain::values(rest_bytes, width, table, rest);
    }

    pub(super) fn elias_fano_code(indices: &[u16], width: u32, out: &mut [u8]) {
        plain::bitmap(indices, width, pack(indices, width, out));
    }

    /// Packs the low bits of all indices and returns the bytes behind them.
    pub(super) fn pack<'a>(indices: &[u16], width: u32, out: &'a mut [u8]) -> &'a mut [u8] {
        let bits = 0x0001_0001_0001_0001 * ((1 << width) - 1);
        plain::pack(|four| _pext_u64(four, bits), indices, width, out)
    }

    pub(super) fn add(indices: &[u16], codes: &[u8], width: u32, terms: &[[f32; 2]; 4], sums: &mut [[f32; 2]]) {
        plain::add(indices, codes, width, terms, sums);
    }

    pub(super) fn descend(sums: &mut [[f32; 2]], over_all: Option<f32>, lr: f32, chunk: Chunk, theta: &mut [f32]) {
        plain::descend(sums, over_all, lr, chunk, theta);
    }
}
