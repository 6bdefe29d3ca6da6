//! Bytes that are not what they should be.

use protocol::Digest;

use super::idle::noise;
use crate::{ArenaError, Key, Strategy, Submission, Turn};

/// Alternately names a wrong base root in its envelope and sends the payload of its round before again.
#[derive(Debug, Default)]
pub struct WrongRoot {
    before: Option<Vec<u8>>,
}

impl Strategy for WrongRoot {
    fn name(&self) -> String {
        "wrong root".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let full = turn.full();
        if let Some(payload) = self.before.take() {
            return Ok(Some(turn.submit(payload, full)));
        }
        let gradient = noise(turn);
        let payload = turn.encode_alone(&gradient)?;
        self.before = Some(payload.clone());
        let mut submission = turn.submit(payload, full);
        submission.envelope.base_root = Digest(turn.random().key());
        Ok(Some(submission))
    }
}

/// Payloads that the codec's own tests refuse.
const REFUSED: [&[u8]; 5] = [
    include_bytes!("../../../compression/tests/vectors/refused/order.bad.trb"),
    include_bytes!("../../../compression/tests/vectors/refused/range.bad.trb"),
    include_bytes!("../../../compression/tests/vectors/refused/padding.bad.trb"),
    include_bytes!("../../../compression/tests/vectors/refused/footer.bad.trb"),
    include_bytes!("../../../compression/tests/vectors/refused/codec-runs.bad.trb"),
];

/// In turn every way in which bytes can be wrong: refused payloads, truncated and changed ones, random bytes, other sealed bytes than the
/// envelope names, wrong keys and keys of a wrong length.
#[derive(Debug, Default)]
pub struct Malformed;

impl Strategy for Malformed {
    fn name(&self) -> String {
        "malformed".into()
    }

    fn act(&mut self, turn: &mut Turn<'_>) -> Result<Option<Submission>, ArenaError> {
        let gradient = noise(turn);
        let mut payload = turn.encode_alone(&gradient)?;
        let (full, place) = (turn.full(), turn.round() + u64::from(turn.uid()));
        let at = turn.random().below(payload.len() as u64) as usize;
        match place % 7 {
            0 => payload = REFUSED[(place / 7) as usize % REFUSED.len()].to_vec(),
            1 => payload.truncate(at),
            2 => payload[at] ^= 1,
            3 => payload.iter_mut().for_each(|byte| *byte = turn.random().word() as u8),
            _ => {}
        }
        let mut submission = turn.submit(payload, full);
        match place % 7 {
            4 => submission.sealed[at] ^= 1,
            5 => submission.key = Key::Publish(turn.random().key().to_vec()),
            6 => submission.key = Key::Publish(vec![7; 31]),
            _ => {}
        }
        Ok(Some(submission))
    }
}
