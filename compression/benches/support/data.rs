//! Reproducible pseudo-gradients.

use std::fmt;

use compression::TILE;
use rayon::prelude::*;

/// Standard deviation of the logarithm of a tile's scale.
const SCALE_SPREAD: f64 = 0.3;
/// The size of an ordinary element.
const UNIT: f64 = 1e-3;

/// How the elements of a tile are distributed, but for its scale.
#[derive(Clone, Copy, Debug)]
pub enum Distribution {
    Gaussian,
    Laplace,
    /// Of so many degrees of freedom.
    StudentT(u32),
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StudentT(degrees) => write!(f, "t{degrees}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Fills a matrix with independent elements; the scales of its tiles are the same for every seed.
pub fn pseudo_gradient([_, columns]: [usize; 2], distribution: Distribution, seed: u64, out: &mut [f32]) {
    out.par_chunks_mut(TILE * columns).enumerate().for_each(|(band, elements)| {
        let mut random = Random::new(band as u64);
        let scales: Vec<f64> = (0..columns.div_ceil(TILE)).map(|_| UNIT * (SCALE_SPREAD * random.gaussian()).exp()).collect();
        let mut random = Random::new((seed + 1) << 32 | band as u64);
        for row in elements.chunks_mut(columns) {
            for (tile, &scale) in row.chunks_mut(TILE).zip(&scales) {
                tile.fill_with(|| (scale * random.sample(distribution)) as f32);
            }
        }
    });
}

/// SplitMix64, and the second half of the last pair of Gaussians.
struct Random {
    state: u64,
    spare: Option<f64>,
}

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self { state: seed, spare: None };
        random.state = random.bits();
        random
    }

    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Above 0 and below 1.
    fn uniform(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Box and Muller's method, which makes two at a time.
    fn gaussian(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    fn sample(&mut self, distribution: Distribution) -> f64 {
        match distribution {
            Distribution::Gaussian => self.gaussian(),
            Distribution::Laplace => {
                let u = self.uniform() - 0.5;
                -u.signum() * (1.0 - 2.0 * u.abs()).ln()
            }
            Distribution::StudentT(degrees) => {
                let squares: f64 = (0..degrees).map(|_| self.gaussian().powi(2)).sum();
                self.gaussian() / (squares / f64::from(degrees)).sqrt()
            }
        }
    }
}
