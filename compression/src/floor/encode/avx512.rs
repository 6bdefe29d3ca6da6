//! AVX-512.

use std::arch::x86_64::*;

use super::plain::LANES;

instances!(#[target_feature(enable = "avx2,bmi1,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]);

/// One bit for each value that reaches `bound`.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
fn reaching(lane: &[f32; LANES], bound: i32) -> u32 {
    // SAFETY: the lane is 64 readable bytes.
    let bits = unsafe { _mm512_loadu_si512(lane.as_ptr().cast()) };
    let keys = _mm512_and_si512(bits, _mm512_set1_epi32(i32::MAX));
    u32::from(_mm512_cmpge_epi32_mask(keys, _mm512_set1_epi32(bound)))
}
