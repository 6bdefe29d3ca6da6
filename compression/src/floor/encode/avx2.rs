//! AVX2.

use std::arch::x86_64::*;

use super::plain::LANES;

instances!(#[target_feature(enable = "avx2,bmi1,popcnt")]);

/// One bit for each value that reaches `bound`.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn reaching(lane: &[f32; LANES], bound: i32) -> u32 {
    let below = _mm256_set1_epi32(bound - 1);
    let mask = |half: &[f32; 8]| {
        // SAFETY: the half is 32 readable bytes.
        let bits = unsafe { _mm256_loadu_si256(half.as_ptr().cast()) };
        let keys = _mm256_and_si256(bits, _mm256_set1_epi32(i32::MAX));
        _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(keys, below))) as u32
    };
    let (halves, _) = lane.as_chunks();
    mask(&halves[0]) | mask(&halves[1]) << 8
}
