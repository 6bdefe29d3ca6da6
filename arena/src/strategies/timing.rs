//! Honest work at the wrong time.

use crate::{ArenaError, Key, Strategy, Submission, Turn};

/// Uploads after the close.
#[derive(Debug, Default)]
pub struct Late;

impl Strategy for Late {
    fn name(&self) -> String {
        "late".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let gradient = turn.work(1.0)?;
        Ok(turn.send(&gradient)?.map(|submission| Submission { late: true, ..submission }))
    }
}

/// Takes part in every third round.
#[derive(Debug, Default)]
pub struct Missing;

impl Strategy for Missing {
    fn name(&self) -> String {
        "missing two rounds of three".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        if !turn.round().is_multiple_of(3) {
            return Ok(None);
        }
        let gradient = turn.work(1.0)?;
        turn.send(&gradient)
    }
}

/// Never publishes a key.
#[derive(Debug, Default)]
pub struct Withheld;

impl Strategy for Withheld {
    fn name(&self) -> String {
        "withheld key".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let gradient = turn.work(1.0)?;
        Ok(turn.send(&gradient)?.map(|submission| Submission { key: Key::Withhold, ..submission }))
    }
}
