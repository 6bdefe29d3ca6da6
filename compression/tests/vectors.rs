//! Payloads and what they decode to, for other implementations of the format: `vectors/README.md` says more.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use common::frames::edited;
use common::{BETA, HEADER, Random, codecs, mixed, uniform};
use compression::{ChunkFault, Codec, ErrorFeedback, Format, Group, Indices, Payload, PayloadError, Quantizer, SIGN1, SIGN2, encode};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

/// Scale codes of the chunks of `sign2-steps` and `sign1-steps`: both ends and zero, all steps of an octave, and the longest differences.
const SCALES: [u8; 16] = [1, 250, 0, 121, 122, 123, 124, 125, 126, 127, 128, 129, 130, 1, 250, 1];
/// The vectors whose encoder's inputs are files too.
const WITH_INPUTS: [&str; 3] = ["sign2-steps", "sign1-steps", "reference-odd"];

/// A payload to be, and what it is encoded from.
struct Vector {
    name: &'static str,
    format: Arc<Format>,
    /// Error feedback.
    before: Vec<Vec<f32>>,
    /// Pseudo-gradient.
    gradient: Vec<Vec<f32>>,
}

impl Vector {
    /// Random tensors; with an even number, chunks of zeros, of values too small to send, and of very different sizes.
    fn random(number: u64, name: &'static str, format: Arc<Format>) -> Self {
        let mut random = Random(number);
        let mut gradient = random.tensors(format.layout());
        let mut before = random.tensors(format.layout());
        if number.is_multiple_of(2) {
            before = zeros(&format);
            let last = gradient.len() - 1;
            gradient[last].fill(1e-8);
            gradient[0].iter_mut().for_each(|v| *v *= 0.001);
        }
        Self { name, format, before, gradient }
    }

    /// One tensor of 16 tiles with [`SCALES`]: all values of a chunk have one of its magnitudes, two of them the higher one.
    fn steps(name: &'static str, quantizer: Quantizer) -> Self {
        let format = uniform(&[&[2, 64 * SCALES.len()]], Codec::top_k(1024, quantizer, Indices::Golomb));
        let table = if quantizer == Quantizer::Sign1 { &SIGN1 } else { &SIGN2 };
        let (mut random, grid) = (Random(100), format.grid(0));
        let mut gradient = zeros(&format);
        for (number, scale) in SCALES.into_iter().enumerate() {
            let (chunk, [low, high, ..]) = (grid.chunk(number), table[usize::from(scale)]);
            for index in 0..chunk.elements() {
                let sign = if random.below(2) == 0 { 1.0 } else { -1.0 };
                gradient[0][chunk.position(index)] = low * sign;
            }
            if quantizer == Quantizer::Sign2 {
                (gradient[0][chunk.position(40)], gradient[0][chunk.position(100)]) = (high, -high);
            }
        }
        Self { name, before: zeros(&format), format, gradient }
    }

    /// Magnitudes about and above the largest that can be sent.
    fn large() -> Self {
        let (square, reference): (&[usize], _) = (&[20, 20], Codec::top_k(64, Quantizer::Reference, Indices::Golomb));
        let codecs = [Codec::top_k(300, Quantizer::Sign2, Indices::Packed12), Codec::group_max(Group::G16, Quantizer::Sign1), reference];
        let format = mixed(&[square, square, square, &[64]], &[&codecs[..], &[reference]].concat());
        let mut vector = Self::random(101, "large", format);
        let scales = [1e30, 200.0, 300.0, 0.25];
        vector.gradient.iter_mut().zip(scales).for_each(|(tensor, scale)| tensor.iter_mut().for_each(|v| *v *= scale));
        vector.before = zeros(&vector.format);
        vector.gradient[3].iter_mut().for_each(|v| *v += 63.75);
        vector
    }

    /// Its payload, and the error feedback that is left.
    fn encode(&self) -> (Vec<u8>, ErrorFeedback) {
        let mut feedback = ErrorFeedback::from_tensors(self.format.layout(), self.before.clone()).unwrap();
        let bytes = encode(&self.format, &HEADER, &mut feedback, &self.gradient, BETA).unwrap();
        (bytes, feedback)
    }

    fn payload(&self) -> Payload {
        Payload::parse(&self.encode().0, &self.format).unwrap()
    }

    /// Its files: name, and bytes.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let (bytes, after) = self.encode();
        let decoded = self.stored([("", &self.payload().to_dense()[..])]);
        let mut files = vec![(format!("{}.trb", self.name), bytes), (format!("{}.safetensors", self.name), decoded)];
        if WITH_INPUTS.contains(&self.name) {
            let inputs = [("gradient.", &self.gradient[..]), ("before.", &self.before), ("after.", after.tensors())];
            files.push((format!("{}.in.safetensors", self.name), self.stored(inputs)));
        }
        files
    }

    /// A safetensors file of tensors by prefix of their names.
    fn stored<const N: usize>(&self, tensors: [(&str, &[Vec<f32>]); N]) -> Vec<u8> {
        let named = tensors.iter().flat_map(|(prefix, tensors)| {
            let specs = self.format.layout().tensors().iter();
            specs.zip(*tensors).map(move |(spec, tensor)| (format!("{prefix}{}", spec.name), spec.shape.clone(), tensor))
        });
        let bytes = |tensor: &[f32]| tensor.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let data: Vec<_> = named.map(|(name, shape, tensor)| (name, shape, bytes(tensor))).collect();
        let view = |(name, shape, data)| (name, TensorView::new(Dtype::F32, shape, data).unwrap());
        serialize(data.iter().map(|(name, shape, data)| view((name, shape.clone(), data))), None).unwrap()
    }
}

fn zeros(format: &Format) -> Vec<Vec<f32>> {
    format.layout().tensors().iter().map(|spec| vec![0.0; spec.len()]).collect()
}

fn vectors() -> Vec<Vector> {
    let a: [&[usize]; 3] = [&[70, 65], &[1], &[30]];
    let b: [&[usize]; 2] = [&[5000], &[2, 3]];
    let c: [&[usize]; 2] = [&[3, 20, 30], &[67, 40]];
    let top_k = Codec::top_k;
    let (sign2, sign1, reference) = (Quantizer::Sign2, Quantizer::Sign1, Quantizer::Reference);
    let random = [
        ("sign2-packed12", uniform(&a, top_k(64, sign2, Indices::Packed12))),
        ("sign2-elias-fano", uniform(&b, top_k(64, sign2, Indices::EliasFano))),
        ("sign2-golomb", uniform(&c, top_k(64, sign2, Indices::Golomb))),
        ("sign1-golomb", uniform(&a, top_k(300, sign1, Indices::Golomb))),
        ("sign2-group16", uniform(&b, Codec::group_max(Group::G16, sign2))),
        ("sign1-group32", uniform(&c, Codec::group_max(Group::G32, sign1))),
        ("sign1-group64", uniform(&a, Codec::group_max(Group::G64, sign1))),
        ("reference-packed12", uniform(&c, top_k(64, reference, Indices::Packed12))),
        ("all-elements", uniform(&[&[7, 9], &[33]], top_k(4096, sign2, Indices::Golomb))),
        ("mixed", all_kinds()),
        ("two-sections", two_sections()),
        ("reference-odd", odd_reference()),
        ("golomb-divisors", golomb_divisors()),
    ];
    let random = random.into_iter().zip(0..).map(|((name, format), number)| Vector::random(number, name, format));
    random.chain([Vector::steps("sign2-steps", sign2), Vector::steps("sign1-steps", sign1), Vector::large()]).collect()
}

fn all_kinds() -> Arc<Format> {
    let golomb = Codec::top_k(64, Quantizer::Sign2, Indices::Golomb);
    let others = [Codec::group_max(Group::G32, Quantizer::Sign1), Codec::top_k(100, Quantizer::Reference, Indices::EliasFano)];
    mixed(&[&[70, 65], &[1], &[1100], &[3, 20, 30]], &[&[golomb; 2][..], &others].concat())
}

/// 1031 chunks of single elements of one tensor, between a tensor in Golomb codes and tensors of one chunk in every codec.
fn two_sections() -> Arc<Format> {
    let ahead = [Codec::top_k(1000, Quantizer::Sign2, Indices::Golomb), Codec::top_k(64, Quantizer::Reference, Indices::Golomb)];
    let all = codecs(1000);
    let shapes: Vec<&[usize]> = [&[4, 9][..], &[1031]].into_iter().chain(std::iter::repeat_n(&[5, 8][..], all.len())).collect();
    mixed(&shapes, &[ahead.to_vec(), all].concat())
}

/// Odd K, and chunks of an odd number of elements or a single one, of the full 64 a side or of the next smaller divisor.
fn odd_reference() -> Arc<Format> {
    let shapes: [&[usize]; 9] = [&[128, 2], &[2, 128], &[128], &[9, 5], &[1], &[67, 3], &[130, 4], &[8, 8], &[10, 10]];
    let indices = [Indices::Packed12, Indices::EliasFano, Indices::Golomb].into_iter().cycle();
    let k = [65, 65, 65, 65, 65, 65, 65, 1, 7].into_iter();
    let codecs: Vec<Codec> = k.zip(indices).map(|(k, indices)| Codec::top_k(k, Quantizer::Reference, indices)).collect();
    mixed(&shapes, &codecs)
}

/// 1 to 24 of 1020 indices, whose divisors would be others with another constant.
fn golomb_divisors() -> Arc<Format> {
    let quantizers = [Quantizer::Sign2, Quantizer::Sign1].into_iter().cycle();
    let codecs: Vec<Codec> = [4, 9, 20, 40, 100].into_iter().zip(quantizers).map(|(k, q)| Codec::top_k(k, q, Indices::Golomb)).collect();
    mixed(&[&[30, 34][..]; 5], &codecs)
}

/// A payload that is refused: its name, the vector whose layout it is for, and what it is.
struct Refused(&'static str, &'static str, Vec<u8>);

fn refused() -> Vec<Refused> {
    let all = vectors();
    let bytes = |base: &str| all.iter().find(|vector| vector.name == base).unwrap().encode().0;
    // A change of the first section's body, under right hashes.
    let body = |fault, base, edit: fn(&mut Vec<u8>)| Refused(fault, base, edited(&bytes(base), |frames| edit(&mut frames.bodies[0])));
    let flipped = |fault, base, back: usize| {
        let mut bytes = bytes(base);
        let at = bytes.len() - back;
        bytes[at] ^= 1;
        Refused(fault, base, bytes)
    };
    vec![
        Refused("codec-runs", "mixed", edited(&bytes("mixed"), |frames| frames.header[152] = 1)),
        // Behind the body are its length again, the total length and the closing hash.
        flipped("section-hash", "all-elements", 4 + 8 + 32 + 1),
        flipped("footer", "all-elements", 4 + 8 + 32),
        // Four scale codes and 20 bytes of codes precede the first indices; scale code, value code and index of the
        // last two chunks take four bytes each.
        body("order", "sign2-packed12", |body| body[24..27].copy_from_slice(&[5, 0x50, 0])),
        body("range", "sign2-packed12", |body| *body.iter_mut().nth_back(5).unwrap() = 1),
        body("padding", "sign2-packed12", |body| *body.iter_mut().nth_back(6).unwrap() |= 4),
        body("zero-chunk", "sign2-packed12", |body| *body.iter_mut().nth_back(2).unwrap() = 1),
        body("all-zero", "sign2-steps", |body| body[..8].fill(0)),
        body("negative-zero", "sign2-steps", |body| body[0] = 2),
        body("table", "reference-odd", |body| body[4..12].rotate_left(4)),
    ]
}

/// The name of a refusal's innermost variant.
fn fault_name(error: &PayloadError) -> String {
    let text = match error {
        PayloadError::Chunk { fault: ChunkFault::Indices(fault), .. } => format!("{fault:?}"),
        PayloadError::Chunk { fault, .. } => format!("{fault:?}"),
        other => format!("{other:?}"),
    };
    text.chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// The payload's layout is that of the vector named last.
fn list_of_faults() -> String {
    let line = |Refused(name, base, bytes)| {
        let format = &vectors().into_iter().find(|vector| vector.name == base).unwrap().format;
        format!("{name} {} {base}\n", fault_name(&Payload::parse(&bytes, format).unwrap_err()))
    };
    refused().into_iter().map(line).collect()
}

/// All files of `vectors`: name and bytes.
fn files() -> Vec<(String, Vec<u8>)> {
    let bad = refused().into_iter().map(|Refused(name, _, bytes)| (format!("refused/{name}.bad.trb"), bytes));
    let good = vectors().into_iter().flat_map(|vector| vector.files());
    good.chain(bad).chain([("refused/faults.txt".into(), list_of_faults().into_bytes())]).collect()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

#[test]
#[ignore = "writes the files of tests/vectors"]
fn write_vectors() {
    std::fs::create_dir_all(path("refused")).unwrap();
    files().into_iter().for_each(|(name, bytes)| std::fs::write(path(&name), bytes).unwrap());
}

/// The tensors of a safetensors file, by name.
fn tensors(file: &[u8]) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let file = SafeTensors::deserialize(file).unwrap();
    file.tensors().into_iter().map(|(name, tensor)| (name, (tensor.shape().to_vec(), tensor.data().to_vec()))).collect()
}

#[test]
fn the_vectors_are_what_is_encoded_and_decoded() {
    for (name, bytes) in files() {
        let stored = std::fs::read(path(&name)).unwrap();
        let is_tensors = name.ends_with(".safetensors");
        assert!(if is_tensors { tensors(&stored) == tensors(&bytes) } else { stored == bytes }, "{name}");
    }
}

#[test]
fn refused_vectors_have_the_fault_in_their_name() {
    for line in list_of_faults().lines() {
        let [name, fault, _] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert_eq!(name.replace('-', ""), fault.to_lowercase());
    }
}

#[test]
fn the_vectors_cover_the_format() {
    let all = vectors();
    assert_eq!(two_sections().sections(), 2);
    let used: Vec<Codec> = all.iter().flat_map(|vector| vector.format.codecs().to_vec()).collect();
    assert!(codecs(1000).iter().all(|codec| used.contains(codec)));
    let payload = |name: &str| all.iter().find(|vector| vector.name == name).unwrap().payload();
    let small = payload("sign2-packed12");
    assert!(small.chunk(2, 0).scale == 0 && small.chunk(0, 0).scale != 0);
    assert!(all.iter().all(|vector| vector.payload().to_dense().concat().iter().any(|&v| v != 0.0)));
    for (name, every) in [("sign2-steps", 0b1111), ("sign1-steps", 0b11)] {
        let payload = payload(name);
        for (number, scale) in SCALES.into_iter().enumerate() {
            let chunk = payload.chunk(0, number);
            let codes = chunk.codes().fold(0, |codes, code| codes | 1 << code);
            let expected = match scale {
                0 => 0b1,
                // The lower magnitude is zero.
                1 | 121 if every == 0b1111 => 0b1011,
                _ => every,
            };
            assert_eq!((chunk.scale, codes), (scale, expected), "{name}, chunk {number}");
        }
    }
    let large = payload("large").to_dense();
    let values = |tensor: usize| large[tensor].iter().copied();
    assert!([0, 1].map(|tensor| values(tensor).fold(0.0, f32::max)) == [32.0, 29.75]);
    assert!(values(2).any(|v| v == 64.0) && values(2).any(|v| v == -64.0) && values(3).any(|v| v > 63.5 && v < 64.0));
}
