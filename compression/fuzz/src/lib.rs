//! What the fuzz targets share: formats, valid payloads to damage, and what must hold of everything that is accepted.

use std::sync::Arc;

use compression::{
    Codec, Decoded, ErrorFeedback, Format, Group, Header, Indices, Layout, Outline, Payload, PayloadReader, Quantizer, ReadError,
    TensorSpec, encode, payload_len,
};

/// The header of all payloads made here.
pub const HEADER: Header = Header { run: [1; 32], round: 7, hotkey: [2; 32], base_root: [3; 32] };

/// Makes the fuzzer's thread rayon's only one: waking another one takes longer than most inputs do.
pub fn on_one_thread() {
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().expect("nothing has used the pool before");
}

/// A format and a valid payload of it, in pieces.
pub struct Case {
    /// The format.
    pub format: Arc<Format>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The length of its header.
    header: usize,
    /// Its sections' bodies.
    bodies: Vec<Vec<u8>>,
}

impl Case {
    fn new(shapes: &[&[usize]], codecs: &[Codec]) -> Self {
        let specs = shapes.iter().enumerate().map(|(number, shape)| TensorSpec::new(format!("t{number}"), shape));
        let layout = Arc::new(Layout::new(specs.collect()).expect("the shapes are possible"));
        let codecs = codecs.iter().copied().cycle().take(shapes.len()).collect();
        let format = Arc::new(Format::new(layout.clone(), codecs).expect("the codecs are possible"));
        let payload = payload_of(&format, 0);
        let header = Outline::read(&payload).expect("the encoder wrote it").bytes();
        let mut rest = &payload[header..];
        let mut body = |_| {
            let (length, after) = rest.split_first_chunk().expect("a length");
            let (body, after) = after[32..].split_at(u32::from_le_bytes(*length) as usize);
            rest = after;
            body.to_vec()
        };
        let bodies = (0..format.sections()).map(&mut body).collect();
        Self { format, payload, header, bodies }
    }

    /// The payload of another miner, or with 0 this one, which sends much the same.
    pub fn payload_of(&self, miner: usize) -> Vec<u8> {
        payload_of(&self.format, miner)
    }

    /// Bytes of the payload's header.
    pub fn header_bytes(&self) -> usize {
        self.header
    }

    /// The payload with damaged sections, under the right hashes and lengths.
    pub fn resealed(&self, data: &[u8]) -> Vec<u8> {
        let mut bytes = self.payload[..self.header].to_vec();
        let mut closing = blake3::Hasher::new();
        closing.update(&bytes);
        let mut lengths = Vec::new();
        let mut changes = data.chunks(data.len().div_ceil(self.bodies.len()).max(1));
        for body in &self.bodies {
            let body = damaged(body, changes.next().unwrap_or_default());
            let length = (body.len() as u32).to_le_bytes();
            let frame = [&length[..], blake3::hash(&body).as_bytes()].concat();
            closing.update(&frame);
            lengths.extend(length);
            bytes.extend(frame);
            bytes.extend(body);
        }
        let total = (bytes.len() + lengths.len() + 8 + 32) as u64;
        bytes.extend(lengths);
        bytes.extend(total.to_le_bytes());
        bytes.extend(closing.finalize().as_bytes());
        bytes
    }
}

/// A payload of a ramp, in which every ninth value is the miner's own.
fn payload_of(format: &Format, miner: usize) -> Vec<u8> {
    let value = |j: usize| ((j * 37 + if j.is_multiple_of(9) { 50 * miner } else { 0 }) % 101) as f32 / 64.0 - 0.75;
    let gradient: Vec<Vec<f32>> = format.layout().tensors().iter().map(|spec| (0..spec.len()).map(value).collect()).collect();
    encode(format, &HEADER, &mut ErrorFeedback::zeros(format.layout()), &gradient, 1.0).expect("all values are finite")
}

/// Payloads of one codec: of a small chunk, of a full one, of several that share a section.
pub fn cases(codecs: impl IntoIterator<Item = Codec>) -> Vec<Case> {
    let shapes: [&[&[usize]]; 3] = [&[&[5, 7]], &[&[64, 64]], &[&[64, 66], &[9]]];
    codecs.into_iter().flat_map(|codec| shapes.map(|shapes| Case::new(shapes, &[codec]))).collect()
}

/// Payloads of every codec, of several in one section, and of two sections.
pub fn mixed_cases() -> Vec<Case> {
    let top_k = Codec::top_k;
    let small = [
        top_k(64, Quantizer::Sign2, Indices::Golomb),
        top_k(700, Quantizer::Sign1, Indices::EliasFano),
        Codec::group_max(Group::G16, Quantizer::Sign2),
        top_k(4096, Quantizer::Sign2, Indices::Golomb),
        top_k(300, Quantizer::Sign2, Indices::Packed12),
        top_k(4, Quantizer::Reference, Indices::Golomb),
        Codec::group_max(Group::G32, Quantizer::Reference),
    ];
    let mut cases: Vec<Case> = small.iter().map(|&codec| Case::new(&[&[11, 16]], &[codec])).collect();
    cases.push(Case::new(&[&[70, 6], &[9], &[1, 80], &[33], &[21], &[2, 3, 9], &[50]], &small));
    // A prime length leaves the reference chunks of one element.
    cases.push(Case::new(&[&[1031]], &[top_k(2, Quantizer::Reference, Indices::Golomb)]));
    cases
}

/// The case that the first byte chooses, and the other bytes.
pub fn choose<'a, 'b>(cases: &'a [Case], data: &'b [u8]) -> (&'a Case, &'b [u8]) {
    let (&first, rest) = data.split_first().unwrap_or((&0, &[]));
    (&cases[usize::from(first) % cases.len()], rest)
}

/// Bytes cut short by the first byte of `data` and changed by the others: without data no damage, with enough data anything.
pub fn damaged(bytes: &[u8], data: &[u8]) -> Vec<u8> {
    let (&cut, changes) = data.split_first().unwrap_or((&0, &[]));
    let mut damaged = bytes[..bytes.len().saturating_sub(cut.into())].to_vec();
    damaged.resize(damaged.len().max(changes.len()), 0);
    damaged.iter_mut().zip(changes).for_each(|(byte, change)| *byte ^= change);
    damaged
}

/// The payload of these bytes, if they are accepted, with everything that must hold then.
pub fn checked(bytes: &[u8], format: &Arc<Format>) -> Option<Payload> {
    let payload = Payload::parse(bytes, format).ok()?;
    assert!(payload.to_bytes() == bytes, "an accepted payload has one form");
    assert!(payload_len(format).contains(&(bytes.len() as u64)));
    let dense = payload.to_dense();
    assert!(dense.iter().flatten().all(|value| value.is_finite()));
    let (streamed, digest) = streamed(bytes, format).expect("the bytes are accepted");
    assert!(streamed == dense && digest == payload.digest());
    for tensor in 0..dense.len() {
        let mut room = Decoded::default();
        for chunk in 0..format.grid(tensor).chunks() {
            let coded = payload.chunk(tensor, chunk);
            let (indices, _) = coded.decode(&mut room);
            assert!(indices.is_sorted_by(|a, b| a < b) && indices.iter().all(|&index| usize::from(index) < coded.chunk.elements()));
        }
    }
    Some(payload)
}

/// What a stream of these bytes says, and its digest.
///
/// # Errors
/// [`ReadError`]
pub fn streamed(bytes: &[u8], format: &Arc<Format>) -> Result<(Vec<Vec<f32>>, [u8; 32]), ReadError> {
    let mut reader = PayloadReader::new(bytes, format.clone())?;
    let mut dense: Vec<Vec<f32>> = format.layout().tensors().iter().map(|spec| vec![0.0; spec.len()]).collect();
    while let Some(section) = reader.next_section()? {
        section.for_each_sent(|tensor, at, value| dense[tensor][at] = value);
    }
    Ok((dense, reader.digest()))
}
