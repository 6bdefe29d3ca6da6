//! Miners that share one worker's update so that no two of them send the same coordinate.

use std::{cell::RefCell, rc::Rc};

use compression::Payload;

use crate::{ArenaError, Gradient, Strategy, Submission, Turn};

/// What the members have not sent yet.
#[derive(Debug, Default)]
struct Pool {
    round: Option<u64>,
    left: Gradient,
}

/// A member: the first to act trains, and each in turn sends the largest coordinates that are left.
#[derive(Debug)]
pub struct Member {
    pool: Rc<RefCell<Pool>>,
}

impl Member {
    /// A coalition of so many.
    pub fn coalition(members: usize) -> Vec<Self> {
        let pool = Rc::<RefCell<Pool>>::default();
        (0..members).map(|_| Self { pool: pool.clone() }).collect()
    }
}

impl Strategy for Member {
    fn name(&self) -> String {
        "member of a coalition".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let mut pool = self.pool.borrow_mut();
        if pool.round != Some(turn.round()) {
            pool.refill(turn)?;
        }
        let payload = turn.encode_alone(&pool.left)?;
        let sent = Payload::parse(&payload, &turn.run().format)?.to_dense();
        for (left, sent) in pool.left.iter_mut().flatten().zip(sent.iter().flatten()) {
            if *sent != 0.0 {
                *left = 0.0;
            }
        }
        let full = turn.full();
        Ok(Some(turn.submit(payload, full)))
    }
}

impl Pool {
    /// Adds a round's work to what is left, as error feedback does.
    fn refill(&mut self, turn: &mut Turn<'_>) -> Result<(), ArenaError> {
        let mut gradient = turn.work(1.0)?;
        let beta = turn.run().manifest.compression.beta;
        for (element, left) in gradient.iter_mut().flatten().zip(self.left.iter().flatten()) {
            *element += beta * left;
        }
        (self.round, self.left) = (Some(turn.round()), gradient);
        Ok(())
    }
}
