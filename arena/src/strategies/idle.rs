//! No work at all.

use crate::{ArenaError, Gradient, Strategy, Submission, Turn};

/// Sends zeros.
#[derive(Debug, Default)]
pub struct Zeros;

impl Strategy for Zeros {
    fn name(&self) -> String {
        "zeros".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let zeros = turn.zeros();
        turn.send_alone(&zeros)
    }
}

/// Sends noise whose norm is that of honest work.
#[derive(Debug, Default)]
pub struct Noise;

impl Strategy for Noise {
    fn name(&self) -> String {
        "noise".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let gradient = noise(turn);
        turn.send(&gradient)
    }
}

/// Uniform in both directions, up to what H steps of AdamW move an element in random directions: learning rate · √H.
pub(super) fn noise(turn: &mut Turn<'_>) -> Gradient {
    let inner = &turn.run().manifest.inner;
    let bound = inner.lr_at(turn.round() * u64::from(inner.steps)) * f64::from(inner.steps).sqrt();
    let mut noise = turn.zeros();
    noise.iter_mut().flatten().for_each(|element| *element = (turn.random().symmetric() * bound) as f32);
    noise
}

/// Trains in its first round and afterwards sends only what its error feedback still holds.
#[derive(Debug, Default)]
pub struct Stale {
    trained: bool,
}

impl Strategy for Stale {
    fn name(&self) -> String {
        "stale".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let gradient = if self.trained { turn.zeros() } else { turn.work(1.0)? };
        self.trained = true;
        turn.send(&gradient)
    }
}
