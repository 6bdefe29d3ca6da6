//! What the run asks for.

use crate::{ArenaError, Strategy, Submission, Turn};

/// Trains on all that it is assigned and says so.
#[derive(Debug, Default)]
pub struct Honest;

impl Strategy for Honest {
    fn name(&self) -> String {
        "honest".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let gradient = turn.work(1.0)?;
        turn.send(&gradient)
    }
}
