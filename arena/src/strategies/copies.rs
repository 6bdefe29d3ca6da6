//! Other miners' work.

use crate::{ArenaError, Gradient, Key, Strategy, Submission, Turn, random::Random};

/// Submits another miner's sealed payload of the same round under its own envelope, and later that miner's key.
#[derive(Debug, Default)]
pub struct CopySame;

impl Strategy for CopySame {
    fn name(&self) -> String {
        "copy of a sealed payload".into()
    }

    fn waits(&self) -> bool {
        true
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let count = turn.sealed().len() as u64;
        let pick = turn.random().below(count) as usize;
        let Some(victim) = turn.sealed().get(pick).cloned() else { return Ok(None) };
        let full = turn.full();
        let mut submission = turn.submit(Vec::new(), full);
        let envelope = &mut submission.envelope;
        (envelope.sealed, envelope.sealed_len, envelope.payload) =
            (victim.envelope.sealed, victim.envelope.sealed_len, victim.envelope.payload);
        submission.sealed = victim.sealed;
        submission.key = Key::CopyOf(victim.uid);
        Ok(Some(submission))
    }
}

/// Sends what a payload of the round before said, under its own header.
#[derive(Debug)]
pub struct CopyEarlier {
    /// Share of the values that it moves elsewhere, lest the copy be noticed.
    pub changed: f64,
}

impl Strategy for CopyEarlier {
    fn name(&self) -> String {
        format!("copy of an earlier payload, {} of it changed", self.changed)
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let me = turn.uid();
        let useful: Vec<usize> = (0..).zip(turn.before()).filter(|(_, o)| o.applied && o.uid != me).map(|(i, _)| i).collect();
        let pick = turn.random().below(useful.len() as u64) as usize;
        let Some(victim) = useful.get(pick).and_then(|&i| turn.before().get(i)) else { return Ok(None) };
        let mut copy = victim.payload.to_dense();
        change(&mut copy, self.changed, turn.random());
        turn.send_alone(&copy)
    }
}

/// Moves about a share of the values that are not zero to other places of their tensors.
pub(super) fn change(values: &mut Gradient, share: f64, random: &mut Random) {
    for tensor in values {
        let sent: Vec<usize> = (0..).zip(&*tensor).filter(|(_, v)| **v != 0.0).map(|(i, _)| i).collect();
        for from in sent {
            if random.symmetric() < 2.0 * share - 1.0 {
                let to = random.below(tensor.len() as u64) as usize;
                tensor.swap(from, to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_asked_share_of_the_values_moves_and_none_is_lost() {
        let values: Gradient = vec![(0..10_000).map(|i| if i % 50 == 0 { i as f32 + 1.0 } else { 0.0 }).collect()];
        let sorted = |values: &Gradient| {
            let mut sorted = values[0].clone();
            sorted.sort_by(f32::total_cmp);
            sorted
        };
        for (share, range) in [(0.0, 0..=0), (0.1, 5..=40), (1.0, 150..=200)] {
            let mut changed = values.clone();
            change(&mut changed, share, &mut Random::new(1, "change"));
            let moved = values[0].iter().zip(&changed[0]).filter(|(a, b)| **a != 0.0 && a != b).count();
            assert!(range.contains(&moved), "{share}: {moved}");
            assert_eq!(sorted(&changed), sorted(&values));
        }
    }
}
