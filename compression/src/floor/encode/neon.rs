//! NEON.

use std::arch::aarch64::*;

use super::plain::LANES;

instances!(#[target_feature(enable = "neon")]);

/// One bit for each value that reaches `bound`.
#[inline]
#[target_feature(enable = "neon")]
fn reaching(lane: &[f32; LANES], bound: i32) -> u32 {
    const BITS: [[u32; 4]; 4] = [
        [1 << 0, 1 << 1, 1 << 2, 1 << 3],
        [1 << 4, 1 << 5, 1 << 6, 1 << 7],
        [1 << 8, 1 << 9, 1 << 10, 1 << 11],
        [1 << 12, 1 << 13, 1 << 14, 1 << 15],
    ];
    let bits = |values: &[f32; 4], bits: &[u32; 4]| {
        // SAFETY: both are 16 readable bytes.
        let (values, bits) = unsafe { (vld1q_f32(values.as_ptr()), vld1q_u32(bits.as_ptr())) };
        let keys = vreinterpretq_s32_f32(vabsq_f32(values));
        vandq_u32(vcgeq_s32(keys, vdupq_n_s32(bound)), bits)
    };
    let (quarters, _) = lane.as_chunks();
    let low = vorrq_u32(bits(&quarters[0], &BITS[0]), bits(&quarters[1], &BITS[1]));
    let high = vorrq_u32(bits(&quarters[2], &BITS[2]), bits(&quarters[3], &BITS[3]));
    vaddvq_u32(vorrq_u32(low, high))
}
