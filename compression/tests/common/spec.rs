//! The wire format once more, bit by bit and as plainly as it can be said: what payloads are compared with.

use compression::{Codec, Format, Header, Indices, Payload, Quantizer, Select};

use super::frames::Frames;

/// What a payload says of one chunk.
pub struct PlainChunk {
    pub elements: usize,
    pub scale: u8,
    pub codes: Vec<u8>,
    /// Index within the chunk and decoded value of each code.
    pub values: Vec<(usize, f32)>,
}

/// What a payload says, by tensor and chunk.
pub fn chunks_of(payload: &Payload) -> Vec<Vec<PlainChunk>> {
    let of_tensor = |tensor| (0..payload.format().grid(tensor).chunks()).map(move |chunk| payload.chunk(tensor, chunk));
    let tensors = 0..payload.format().layout().tensors().len();
    let plain = |tensor| {
        let chunks = of_tensor(tensor);
        chunks
            .map(|c| PlainChunk { elements: c.chunk.elements(), scale: c.scale, codes: c.codes().collect(), values: c.values() })
            .collect()
    };
    tensors.map(plain).collect()
}

/// The bytes of a payload that says this.
pub fn payload_bytes(format: &Format, header: &Header, tensors: &[Vec<PlainChunk>]) -> Vec<u8> {
    let sections = sections(format);
    let bodies = sections.iter().map(|parts| body(format, parts, tensors)).collect();
    Frames { header: header_bytes(format, header, sections.len()), bodies }.join()
}

/// By section: tensor, first chunk and number of chunks of each part.
pub fn sections(format: &Format) -> Vec<Vec<(usize, usize, usize)>> {
    let mut sections: Vec<Vec<(usize, usize, usize)>> = vec![vec![]];
    let mut filled = 0;
    for tensor in 0..format.layout().tensors().len() {
        let band = format.grid(tensor).band_chunks();
        for first in (0..format.grid(tensor).chunks()).step_by(band) {
            if filled > 0 && filled + band > 1024 {
                sections.push(vec![]);
                filled = 0;
            }
            filled += band;
            match sections.last_mut().unwrap().last_mut() {
                Some((last, _, chunks)) if *last == tensor => *chunks += band,
                _ => sections.last_mut().unwrap().push((tensor, first, band)),
            }
        }
    }
    sections
}

fn header_bytes(format: &Format, header: &Header, sections: usize) -> Vec<u8> {
    let mut runs: Vec<(u32, Codec)> = Vec::new();
    for codec in format.codecs() {
        match runs.last_mut() {
            Some((count, last)) if last == codec => *count += 1,
            _ => runs.push((1, *codec)),
        }
    }
    let mut bytes = b"TRBP\x02\x00".to_vec();
    bytes.extend((runs.len() as u16).to_le_bytes());
    bytes.extend((format.codecs().len() as u32).to_le_bytes());
    bytes.extend((sections as u32).to_le_bytes());
    bytes.extend(header.round.to_le_bytes());
    bytes.extend([header.run, header.base_root, format.layout().digest(), header.hotkey].concat());
    for (count, codec) in runs {
        let quantizer = match codec.quantizer {
            Quantizer::Sign2 => 1,
            Quantizer::Sign1 => 2,
            Quantizer::Reference => 3,
        };
        let (parameter, indices) = match codec.select {
            Select::TopK { k, indices: Indices::Packed12 } => (k, 1),
            Select::TopK { k, indices: Indices::EliasFano } => (k, 2),
            Select::TopK { k, indices: Indices::Golomb } => (k, 3),
            Select::GroupMax { group } => (group.elements() as u16, 4),
        };
        bytes.extend(count.to_le_bytes());
        bytes.extend(parameter.to_le_bytes());
        bytes.extend([quantizer, indices]);
    }
    bytes
}

fn body(format: &Format, parts: &[(usize, usize, usize)], tensors: &[Vec<PlainChunk>]) -> Vec<u8> {
    let (mut bytes, mut stream) = (Vec::new(), Stream::default());
    for &(tensor, first, count) in parts {
        let (codec, chunks) = (&format.codecs()[tensor], &tensors[tensor][first..first + count]);
        if codec.quantizer == Quantizer::Reference {
            let mut table = [0.0f32; 4];
            let sent = chunks.iter().flat_map(|chunk| chunk.codes.iter().zip(&chunk.values));
            sent.for_each(|(&code, &(_, value))| table[usize::from(code)] = value);
            bytes.extend(table.iter().flat_map(|value| value.to_le_bytes()));
        } else if !is_golomb(codec) {
            bytes.extend(chunks.iter().map(|chunk| chunk.scale));
        }
        let width = if codec.quantizer == Quantizer::Sign1 { 1 } else { 2 };
        for chunk in chunks {
            bytes.extend(Bits::of(chunk.codes.iter().map(|&code| usize::from(code)), width).bytes());
        }
        for chunk in chunks {
            if codec.quantizer != Quantizer::Reference && is_golomb(codec) {
                stream.put_scale(chunk.scale.into());
            }
            let indices: Vec<usize> = chunk.values.iter().map(|&(index, _)| index).collect();
            bytes.extend(index_bytes(codec, chunk.elements, &indices, &mut stream.bits));
        }
    }
    bytes.extend(stream.bits.bytes());
    bytes
}

fn is_golomb(codec: &Codec) -> bool {
    matches!(codec.select, Select::TopK { indices: Indices::Golomb, .. })
}

/// A chunk's indices; of Golomb codes the fixed part, the rest goes to `stream`.
fn index_bytes(codec: &Codec, elements: usize, indices: &[usize], stream: &mut Bits) -> Vec<u8> {
    let all = indices.iter().copied();
    match codec.select {
        Select::TopK { indices: Indices::Packed12, .. } => Bits::of(all, 12).bytes(),
        Select::TopK { indices: Indices::EliasFano, .. } => elias_fano(elements, indices),
        Select::TopK { indices: Indices::Golomb, .. } => golomb(elements, indices, stream),
        Select::GroupMax { group } => Bits::of(all.map(|index| index % group.elements()), group.elements().ilog2()).bytes(),
    }
}

fn elias_fano(elements: usize, indices: &[usize]) -> Vec<u8> {
    let width = (0..=12).rev().find(|&width| indices.len() << width <= elements).unwrap();
    let mut bitmap = Bits(vec![false; indices.len() + ((elements - 1) >> width) + 1]);
    indices.iter().enumerate().for_each(|(j, index)| bitmap.0[(index >> width) + j] = true);
    let mut bytes = Bits::of(indices.iter().map(|index| index % (1 << width)), width).bytes();
    bytes.extend(bitmap.bytes());
    bytes
}

fn golomb(elements: usize, indices: &[usize], stream: &mut Bits) -> Vec<u8> {
    let divisor = (177 * elements / (256 * indices.len())).max(1);
    let width = divisor.ilog2();
    let (half, short) = (1 << width, (2 << width) - divisor);
    let gap = |j: usize| if j == 0 { indices[0] } else { indices[j] - indices[j - 1] - 1 };
    let gaps: Vec<usize> = (0..indices.len()).map(gap).collect();
    for gap in &gaps {
        stream.put(0, (gap / divisor) as u32);
        stream.put(1, 1);
    }
    let remainders = gaps.iter().map(|gap| gap % divisor);
    remainders.clone().filter(|&r| r >= short).for_each(|r| stream.put(usize::from(r >= half), 1));
    Bits::of(remainders.map(|r| if r >= half { r - (half - short) } else { r }), width).bytes()
}

/// What varies in length in a section with Golomb codes.
struct Stream {
    bits: Bits,
    scale: i32,
}

impl Default for Stream {
    fn default() -> Self {
        Self { bits: Bits::default(), scale: 100 }
    }
}

impl Stream {
    /// A scale code, as its difference to the one before.
    fn put_scale(&mut self, scale: i32) {
        let difference = scale - std::mem::replace(&mut self.scale, scale);
        let folded = if difference >= 0 { 2 * difference } else { -2 * difference - 1 } as usize;
        let width = (folded + 1).ilog2();
        self.bits.put(1 << width, width + 1);
        self.bits.put(folded + 1 - (1 << width), width);
    }
}

/// Bits, each value's lowest first.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn of(values: impl Iterator<Item = usize>, width: u32) -> Self {
        let mut bits = Self::default();
        values.for_each(|value| bits.put(value, width));
        bits
    }

    fn put(&mut self, value: usize, width: u32) {
        self.0.extend((0..width).map(|bit| value >> bit & 1 == 1));
    }

    /// Filled up with zeros to whole bytes.
    fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().enumerate().map(|(at, &bit)| u8::from(bit) << at).sum();
        self.0.chunks(8).map(byte).collect()
    }
}
