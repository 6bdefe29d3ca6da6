//! Exact top-k by magnitude, ties to the lowest index.

/// Strided groups whose maxima bound the k-th largest magnitude from below.
const GROUPS: usize = 256;
/// Keys looked at together when candidates are filtered.
const BLOCK: usize = 16;

/// Buffers of the selection, kept between chunks.
#[derive(Default)]
pub(crate) struct TopK {
    keys: Vec<i32>,
    ranked: Vec<i32>,
    candidates: Vec<u16>,
}

impl TopK {
    /// Puts the indices of the `k` values of largest magnitude into `picked`, ascending; of equal magnitudes the lowest indices win.
    ///
    /// `values` holds 1 to 4096 finite values, `k` is 1 to their number. The magnitude bits of finite floats order like the magnitudes.
    pub fn select(&mut self, values: &[f32], k: usize, picked: &mut Vec<u16>) {
        self.keys.clear();
        self.keys.extend(values.iter().map(|v| v.abs().to_bits() as i32));
        let bound = self.lower_bound(k);
        self.gather_candidates(bound);
        let keys = &self.keys;
        self.ranked.clear();
        self.ranked.extend(self.candidates.iter().map(|&i| keys[usize::from(i)]));
        let (above, &mut threshold, _) = self.ranked.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
        let mut ties = k - above.iter().filter(|&&key| key > threshold).count();
        picked.clear();
        for &index in &self.candidates {
            let key = keys[usize::from(index)];
            if key > threshold {
                picked.push(index);
            } else if key == threshold && ties > 0 {
                ties -= 1;
                picked.push(index);
            }
        }
    }

    /// A key that at least `k` keys reach: the k-th largest of the groups' maxima, since each maximum is a key of its own.
    fn lower_bound(&mut self, k: usize) -> i32 {
        if self.keys.len() < 4 * GROUPS || 2 * k > GROUPS {
            return 0;
        }
        let mut maxima = [0; GROUPS];
        for stripe in self.keys.chunks(GROUPS) {
            for (max, &key) in maxima.iter_mut().zip(stripe) {
                *max = key.max(*max);
            }
        }
        *maxima.select_nth_unstable_by(k - 1, |a, b| b.cmp(a)).1
    }

    fn gather_candidates(&mut self, bound: i32) {
        self.candidates.clear();
        for (number, block) in self.keys.chunks(BLOCK).enumerate() {
            if block.iter().fold(0, |max, &key| key.max(max)) >= bound {
                let reaching = block.iter().enumerate().filter(|&(_, &key)| key >= bound);
                self.candidates.extend(reaching.map(|(i, _)| (number * BLOCK + i) as u16));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_sorting(values: &[f32], k: usize) -> Vec<u16> {
        let mut order: Vec<u16> = (0..values.len() as u16).collect();
        order.sort_by(|&a, &b| values[usize::from(b)].abs().total_cmp(&values[usize::from(a)].abs()).then(a.cmp(&b)));
        order.truncate(k);
        order.sort_unstable();
        order
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn agrees_with_sorting(
            values in prop_oneof![
                proptest::collection::vec((-4i32..4).prop_map(|v| v as f32), 1..=4096),
                proptest::collection::vec(any::<i32>().prop_map(|v| v as f32 * 1e-9), 1..=4096),
            ],
            share in 0.0f64..1.0,
        ) {
            let small = 1 + (share * 40.0) as usize;
            for k in [small.min(values.len()), 1 + (share * (values.len() - 1) as f64) as usize, values.len()] {
                let mut picked = Vec::new();
                TopK::default().select(&values, k, &mut picked);
                prop_assert_eq!(&picked, &by_sorting(&values, k));
            }
        }
    }

    #[test]
    fn ties_go_to_the_lowest_index_and_zeros_are_equal() {
        let mut picked = Vec::new();
        TopK::default().select(&[0.0, -0.0, 2.0, -2.0, 2.0], 2, &mut picked);
        assert_eq!(picked, [2, 3]);
        TopK::default().select(&[-0.0; 4096], 64, &mut picked);
        assert!(picked.iter().copied().eq(0..64));
    }

    #[test]
    fn subnormals_are_told_apart() {
        let mut values = vec![0.0f32; 4096];
        values[4000] = f32::from_bits(1);
        values[77] = -f32::from_bits(2);
        let mut picked = Vec::new();
        TopK::default().select(&values, 2, &mut picked);
        assert_eq!(picked, [77, 4000]);
    }
}
