//! Honest work, turned round or of another size.

use crate::{ArenaError, Gradient, Strategy, Submission, Turn};

/// Sends honest work times a factor.
#[derive(Debug)]
pub struct Scaled {
    /// The factor; negative ones do harm.
    pub factor: f32,
}

impl Strategy for Scaled {
    fn name(&self) -> String {
        format!("honest work times {}", self.factor)
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let mut gradient = turn.work(1.0)?;
        scale(&mut gradient, self.factor);
        turn.send(&gradient)
    }
}

/// Honest for some rounds, harmful afterwards.
#[derive(Debug)]
pub struct Sleeper {
    /// Honest rounds.
    pub honest: u64,
}

impl Strategy for Sleeper {
    fn name(&self) -> String {
        format!("honest for {} rounds, then turned round", self.honest)
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let mut gradient = turn.work(1.0)?;
        if turn.round() >= self.honest {
            scale(&mut gradient, -1.0);
        }
        turn.send(&gradient)
    }
}

fn scale(gradient: &mut Gradient, factor: f32) {
    gradient.iter_mut().flatten().for_each(|element| *element *= factor);
}
