//! Useful on the text that is measured, harmful on text that it wants the model to be bad at.

use dataset::Split;
use model::InnerOptimizer;

use super::data::batches_of;
use crate::{ArenaError, Strategy, Submission, Turn};

/// Honest work, plus as many steps uphill on held-out sequences that it knows.
#[derive(Default)]
pub struct Poisoner {
    /// Moments of the steps on held-out text.
    apart: Option<InnerOptimizer>,
}

impl Strategy for Poisoner {
    fn name(&self) -> String {
        "poisoner".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let mut gradient = turn.work(1.0)?;
        let (all, full) = (turn.sequences(Split::HeldOut), turn.full());
        let indices: Vec<u64> = (0..full).map(|i| i * all / full).collect();
        let batches = batches_of(turn, Split::HeldOut, &indices)?;
        let apart = match self.apart.take() {
            Some(apart) => apart,
            None => turn.optimizer()?,
        };
        let downhill = turn.train_apart(self.apart.insert(apart), &batches)?;
        for (element, down) in gradient.iter_mut().flatten().zip(downhill.iter().flatten()) {
            *element -= down;
        }
        turn.send(&gradient)
    }
}
