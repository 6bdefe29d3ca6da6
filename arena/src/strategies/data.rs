//! As much work as asked for, on other text.

use dataset::Split;

use crate::{ArenaError, Batch, Gradient, Strategy, Submission, Turn};

/// Trains on training sequences of its own choice, the same ones in every round, and claims its assignment.
#[derive(Debug, Default)]
pub struct OtherData {
    chosen: Option<u64>,
}

impl Strategy for OtherData {
    fn name(&self) -> String {
        "other data".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let all = turn.sequences(Split::Train);
        let first = *self.chosen.get_or_insert_with(|| turn.random().below(all));
        let indices: Vec<u64> = (0..turn.full()).map(|i| (first + i) % all).collect();
        let gradient = train_on(turn, Split::Train, &indices)?;
        turn.send(&gradient)
    }
}

/// Trains on a guess of the round's random batch, which is as good as any random training sequences: the batch depends on the hash of the
/// block after the close, which nobody knows before it uploads.
#[derive(Debug, Default)]
pub struct TestData;

impl Strategy for TestData {
    fn name(&self) -> String {
        "test data".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let all = turn.sequences(Split::Train);
        let indices: Vec<u64> = (0..turn.full()).map(|_| turn.random().below(all)).collect();
        let gradient = train_on(turn, Split::Train, &indices)?;
        turn.send(&gradient)
    }
}

/// A round's inner steps on these sequences.
fn train_on(turn: &mut Turn<'_>, split: Split, indices: &[u64]) -> Result<Gradient, ArenaError> {
    let batches = batches_of(turn, split, indices)?;
    turn.train(&batches)
}

pub(super) fn batches_of(turn: &Turn<'_>, split: Split, indices: &[u64]) -> Result<Vec<Batch>, ArenaError> {
    let batch = turn.run().manifest.inner.batch as usize;
    indices.chunks(batch).map(|indices| turn.windows(split, indices)).collect()
}
