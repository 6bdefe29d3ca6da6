//! A payload taken apart and put together again, with hashes, lengths and footer that fit whatever was changed.

/// Header and sections' bodies of a payload.
#[derive(Clone)]
pub struct Frames {
    pub header: Vec<u8>,
    pub bodies: Vec<Vec<u8>>,
}

impl Frames {
    /// The parts of a payload that is in order.
    pub fn split(bytes: &[u8]) -> Self {
        let runs = u16::from_le_bytes([bytes[6], bytes[7]]);
        let (header, mut rest) = bytes.split_at(152 + 8 * usize::from(runs));
        let mut bodies = Vec::new();
        for _ in 0..u32::from_le_bytes(bytes[12..16].try_into().unwrap()) {
            let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            let (body, after) = rest[36..].split_at(length);
            bodies.push(body.to_vec());
            rest = after;
        }
        Self { header: header.to_vec(), bodies }
    }

    /// The payload of these parts.
    pub fn join(&self) -> Vec<u8> {
        let mut bytes = self.header.clone();
        let mut closing = blake3::Hasher::new();
        closing.update(&self.header);
        for body in &self.bodies {
            let frame = [&(body.len() as u32).to_le_bytes(), blake3::hash(body).as_bytes().as_slice()].concat();
            closing.update(&frame);
            bytes.extend(frame);
            bytes.extend(body);
        }
        self.bodies.iter().for_each(|body| bytes.extend((body.len() as u32).to_le_bytes()));
        bytes.extend((bytes.len() as u64 + 40).to_le_bytes());
        bytes.extend(closing.finalize().as_bytes());
        bytes
    }
}

/// A payload after an edit of its parts.
pub fn edited(bytes: &[u8], edit: impl FnOnce(&mut Frames)) -> Vec<u8> {
    let mut frames = Frames::split(bytes);
    edit(&mut frames);
    frames.join()
}
