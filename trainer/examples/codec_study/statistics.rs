//! Takes pseudo-gradients and payloads apart, round by round.

use std::collections::BTreeMap;

use compression::{CHUNK_ELEMENTS, Grid, Layout};

use crate::{
    coding::{Select, SentChunk, Values},
    figures::{Class, Figures, ratio},
    sizes::{self, IndexCode},
};

/// One miner's round: what it had to say, and what it said.
pub struct Sample {
    /// β·e + g, per tensor.
    pub accumulated: Vec<Vec<f32>>,
    /// What was sent, per tensor and chunk.
    pub sent: Vec<Vec<SentChunk>>,
}

/// Takes one round's samples apart.
pub fn measure(layout: &Layout, grids: &[Grid], codec: (Select, Values, IndexCode), samples: &[Sample]) -> BTreeMap<Class, Figures> {
    let mut tallies: BTreeMap<Class, Tally> = BTreeMap::new();
    for (tensor, (spec, grid)) in layout.tensors().iter().zip(grids).enumerate() {
        let tally = tallies.entry(Class::of(spec)).or_default();
        let elements: Vec<Vec<Vec<f32>>> = samples.iter().map(|sample| by_chunk(grid, &sample.accumulated[tensor])).collect();
        for (sample, elements) in samples.iter().zip(&elements) {
            tally.add_tensor(codec, elements, &sample.sent[tensor]);
        }
        for number in 0..grid.chunks() {
            let of_miner: Vec<_> = samples.iter().zip(&elements).map(|(s, e)| signed(&s.sent[tensor][number], &e[number])).collect();
            tally.compare(grid.chunk(number).elements(), &of_miner);
        }
    }
    tallies.into_iter().map(|(class, tally)| (class, tally.figures(codec.0, samples.len()))).collect()
}

fn by_chunk(grid: &Grid, tensor: &[f32]) -> Vec<Vec<f32>> {
    let elements = |number| grid.chunk(number).rows().flat_map(|row| tensor[row].iter().copied()).collect();
    (0..grid.chunks()).map(elements).collect()
}

/// Selected indices and whether they are of negative values.
fn signed(sent: &SentChunk, elements: &[f32]) -> Vec<(u16, bool)> {
    sent.indices.iter().map(|&i| (i, elements[usize::from(i)] < 0.0)).collect()
}

/// How often each symbol occurs.
#[derive(Default)]
struct Histogram(BTreeMap<i32, u64>);

impl Histogram {
    fn count(&mut self, symbol: i32) {
        *self.0.entry(symbol).or_default() += 1;
    }

    fn total(&self) -> f64 {
        self.0.values().sum::<u64>() as f64
    }

    fn entropy(&self) -> Option<f64> {
        let total = self.total();
        let bits = self.0.values().map(|&count| count as f64 * (total / count as f64).log2()).sum();
        ratio(bits, total)
    }
}

/// Sums over the chunks of one class in one round.
#[derive(Default)]
struct Tally {
    energy: f64,
    selected: f64,
    error: f64,
    /// Squared deviations of ln(rms) from their tensor's mean, and how many.
    spread: (f64, f64),
    ratios: Vec<f64>,
    places: Histogram,
    place_bits: f64,
    place_uniform: f64,
    codes: Histogram,
    signs: Histogram,
    scales: Histogram,
    scale_steps: Histogram,
    /// Indices that two miners could share, do, would by chance, and with equal signs.
    pairs: [f64; 4],
    /// Coordinates of full chunks by how many miners send them.
    senders: Histogram,
}

impl Tally {
    fn add_tensor(&mut self, codec: (Select, Values, IndexCode), elements: &[Vec<f32>], sent: &[SentChunk]) {
        let mut scales: Vec<f64> = Vec::new();
        for (elements, chunk) in elements.iter().zip(sent) {
            let selected: Vec<f64> = chunk.indices.iter().map(|&i| f64::from(elements[usize::from(i)])).collect();
            let energy: f64 = selected.iter().map(|v| v * v).sum();
            self.energy += elements.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
            self.selected += energy;
            self.error += selected.iter().zip(&chunk.values).map(|(v, &sent)| (v - f64::from(sent)).powi(2)).sum::<f64>();
            let (least, most) = selected.iter().fold((f64::MAX, 0.0f64), |(least, most), v| (least.min(v.abs()), most.max(v.abs())));
            if least > 0.0 {
                self.ratios.push(most / least);
                scales.push(0.5 * (energy / selected.len() as f64).ln());
            }
            selected.iter().for_each(|v| self.signs.count(i32::from(*v < 0.0)));
            chunk.codes.iter().for_each(|&code| self.codes.count(code.into()));
            if elements.len() == CHUNK_ELEMENTS {
                self.add_places(codec, &chunk.indices);
            }
        }
        let mean = scales.iter().sum::<f64>() / scales.len().max(1) as f64;
        self.spread.0 += scales.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
        self.spread.1 += scales.len().saturating_sub(1) as f64;
        let codes: Vec<i32> = sent.iter().filter_map(|chunk| chunk.scale).map(i32::from).collect();
        codes.iter().for_each(|&code| self.scales.count(code));
        codes.windows(2).for_each(|pair| self.scale_steps.count(pair[1] - pair[0]));
    }

    /// The indices of a full chunk.
    fn add_places(&mut self, (select, _, code): (Select, Values, IndexCode), indices: &[u16]) {
        self.place_bits += sizes::place_bits(select, code, CHUNK_ELEMENTS, indices.len(), Some(indices));
        match select {
            Select::TopK(_) => {
                let before = std::iter::once(-1).chain(indices.iter().map(|&i| i32::from(i)));
                before.zip(indices).for_each(|(before, &i)| self.places.count(i32::from(i) - before - 1));
                self.place_uniform += sizes::log2_choose(CHUNK_ELEMENTS, indices.len());
            }
            Select::GroupMax(group) => {
                indices.iter().for_each(|&i| self.places.count(i32::from(i % group)));
                self.place_uniform += f64::from(group).log2() * indices.len() as f64;
            }
        }
    }

    /// What miners sent of one chunk of `n` elements.
    fn compare(&mut self, n: usize, miners: &[Vec<(u16, bool)>]) {
        for (number, ours) in miners.iter().enumerate() {
            for theirs in &miners[..number] {
                let theirs: BTreeMap<u16, bool> = theirs.iter().copied().collect();
                let shared: Vec<bool> = ours.iter().filter_map(|(i, sign)| Some(theirs.get(i)? == sign)).collect();
                let agreeing = shared.iter().filter(|equal| **equal).count() as f64;
                let counts = [ours.len() as f64, shared.len() as f64, (ours.len() * theirs.len()) as f64 / n as f64, agreeing];
                self.pairs.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
        if n == CHUNK_ELEMENTS {
            let mut senders = vec![0; n];
            miners.iter().flatten().for_each(|(i, _)| senders[usize::from(*i)] += 1);
            senders.into_iter().for_each(|count| self.senders.count(count));
        }
    }

    /// Entropy of the number of senders, and who they are, per index sent.
    fn joint(&self, miners: usize) -> Option<f64> {
        let sent: f64 = self.senders.0.iter().map(|(&senders, &count)| f64::from(senders) * count as f64).sum();
        let who = |(&senders, &count): (&i32, &u64)| sizes::log2_choose(miners, senders as usize) * count as f64;
        ratio(self.senders.entropy()? * self.senders.total() + self.senders.0.iter().map(who).sum::<f64>(), sent)
    }

    fn figures(mut self, select: Select, miners: usize) -> Figures {
        let [possible, shared, by_chance, agreeing] = self.pairs;
        self.ratios.sort_unstable_by(f64::total_cmp);
        Figures {
            energy_selected: ratio(self.selected, self.energy),
            quantization_error: ratio(self.error, self.selected),
            scale_spread: ratio(self.spread.0, self.spread.1).map(f64::sqrt),
            magnitude_ratio: self.ratios.get(self.ratios.len() / 2).copied(),
            index_entropy: self.places.entropy(),
            index_bits: ratio(self.place_bits, self.places.total()),
            index_uniform: ratio(self.place_uniform, self.places.total()),
            index_joint: self.joint(miners).filter(|_| matches!(select, Select::TopK(_))),
            code_entropy: self.codes.entropy(),
            sign_entropy: self.signs.entropy(),
            scale_entropy: self.scales.entropy(),
            scale_step_entropy: self.scale_steps.entropy(),
            overlap: ratio(shared, possible),
            overlap_by_chance: ratio(by_chance, possible),
            sign_agreement: ratio(agreeing, shared),
        }
    }
}

#[cfg(test)]
mod tests {
    use compression::TensorSpec;

    use super::*;

    #[test]
    fn figures_of_two_miners_are_those_counted_by_hand() -> Result<(), compression::LayoutError> {
        let layout = Layout::new(vec![TensorSpec::new("w", &[2, 4])])?;
        let sample = |accumulated: [f32; 8], indices: [u16; 2], values: [f32; 2]| {
            let chunk = SentChunk { indices: indices.to_vec(), values: values.to_vec(), codes: vec![0, 1], scale: Some(7) };
            Sample { accumulated: vec![accumulated.to_vec()], sent: vec![vec![chunk]] }
        };
        let samples = [
            sample([2.0, -4.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0, 1], [2.0, -3.0]),
            sample([0.0, -4.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0], [1, 2], [-4.0, 2.0]),
        ];
        let figures =
            &measure(&layout, &[Grid::new(&[2, 4])], (Select::TopK(1024), Values::Sign2, IndexCode::Golomb), &samples)[&Class::Matrix];
        assert_eq!(figures.energy_selected, Some(40.0 / 42.0));
        assert_eq!(figures.quantization_error, Some(1.0 / 40.0));
        assert_eq!(figures.magnitude_ratio, Some(2.0));
        assert_eq!((figures.code_entropy, figures.sign_entropy, figures.scale_entropy), (Some(1.0), Some(1.0), Some(0.0)));
        assert_eq!((figures.overlap, figures.overlap_by_chance, figures.sign_agreement), (Some(0.5), Some(0.25), Some(1.0)));
        // neither a full chunk nor a neighbour
        assert_eq!((figures.index_entropy, figures.scale_step_entropy), (None, None));
        Ok(())
    }

    #[test]
    fn coding_sets_jointly_pays_where_they_agree() {
        let mut alike = Tally::default();
        let set: Vec<(u16, bool)> = (0..64).map(|i| (i * 64, false)).collect();
        alike.compare(CHUNK_ELEMENTS, &[set.clone(), set]);
        // one set instead of two: 4096 · H(1/64) / 128
        let entropy = |p: f64| -p * p.log2() - (1.0 - p) * (1.0 - p).log2();
        assert!(alike.joint(2).is_some_and(|bits| (bits - 32.0 * entropy(1.0 / 64.0)).abs() < 1e-9));
    }
}
