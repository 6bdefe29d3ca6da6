//! Payloads and what they decode to, for other implementations of the format: `vectors/README.md` says more.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{BETA, HEADER, Random, bits, codecs, mixed, uniform};
use compression::{Codec, ErrorFeedback, Format, Group, Indices, Payload, Quantizer, encode};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

/// Name and format of each vector; their inputs differ by the number in this list.
fn vectors() -> Vec<(&'static str, Arc<Format>)> {
    let a: [&[usize]; 3] = [&[70, 65], &[1], &[30]];
    let b: [&[usize]; 2] = [&[5000], &[2, 3]];
    let c: [&[usize]; 2] = [&[3, 20, 30], &[67, 40]];
    let top_k = Codec::top_k;
    let (sign2, sign1, reference) = (Quantizer::Sign2, Quantizer::Sign1, Quantizer::Reference);
    vec![
        ("sign2-packed12", uniform(&a, top_k(64, sign2, Indices::Packed12))),
        ("sign2-elias-fano", uniform(&b, top_k(64, sign2, Indices::EliasFano))),
        ("sign2-golomb", uniform(&c, top_k(64, sign2, Indices::Golomb))),
        ("sign1-golomb", uniform(&a, top_k(300, sign1, Indices::Golomb))),
        ("sign2-group16", uniform(&b, Codec::group_max(Group::G16, sign2))),
        ("sign1-group32", uniform(&c, Codec::group_max(Group::G32, sign1))),
        ("sign1-group64", uniform(&a, Codec::group_max(Group::G64, sign1))),
        ("reference-packed12", uniform(&c, top_k(64, reference, Indices::Packed12))),
        ("all-elements", uniform(&[&[7, 9], &[33]], top_k(4096, sign2, Indices::Golomb))),
        (
            "mixed",
            mixed(
                &[&[70, 65], &[1], &[1100], &[3, 20, 30]],
                &[
                    top_k(64, sign2, Indices::Golomb),
                    top_k(64, sign2, Indices::Golomb),
                    Codec::group_max(Group::G32, sign1),
                    top_k(100, reference, Indices::EliasFano),
                ],
            ),
        ),
        ("two-sections", two_sections()),
    ]
}

/// 1031 chunks of single elements of one tensor, then tensors of one chunk in every codec.
fn two_sections() -> Arc<Format> {
    let reference = Codec::top_k(64, Quantizer::Reference, Indices::Golomb);
    let all = codecs(1000);
    let shapes: Vec<&[usize]> = std::iter::once(&[1031][..]).chain(std::iter::repeat_n(&[5, 8][..], all.len())).collect();
    mixed(&shapes, &[vec![reference], all].concat())
}

/// A vector's payload.
fn payload_bytes(number: usize, format: &Format) -> Vec<u8> {
    let mut random = Random(number as u64);
    let mut gradient = random.tensors(format.layout());
    let before = random.tensors(format.layout());
    // Chunks of zeros, of values too small to send, and of very different sizes.
    let mut feedback = ErrorFeedback::from_tensors(format.layout(), before).unwrap();
    if number % 2 == 0 {
        feedback = ErrorFeedback::zeros(format.layout());
        let last = gradient.len() - 1;
        gradient[last].fill(1e-8);
        gradient[0].iter_mut().for_each(|v| *v *= 0.001);
    }
    encode(format, &HEADER, &mut feedback, &gradient, BETA).unwrap()
}

fn path(name: &str, extension: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(format!("{name}.{extension}"))
}

#[test]
#[ignore = "writes the files of tests/vectors"]
fn write_vectors() {
    for (number, (name, format)) in vectors().into_iter().enumerate() {
        let bytes = payload_bytes(number, &format);
        let dense = Payload::parse(&bytes, &format).unwrap().to_dense();
        let data: Vec<Vec<u8>> = dense.iter().map(|t| t.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let views = format.layout().tensors().iter().zip(&data);
        let views = views.map(|(spec, data)| (&spec.name, TensorView::new(Dtype::F32, spec.shape.clone(), data).unwrap()));
        std::fs::write(path(name, "safetensors"), serialize(views, None).unwrap()).unwrap();
        std::fs::write(path(name, "trb"), bytes).unwrap();
    }
}

#[test]
fn the_vectors_are_what_is_encoded_and_decoded() {
    for (number, (name, format)) in vectors().into_iter().enumerate() {
        let bytes = std::fs::read(path(name, "trb")).unwrap();
        assert!(payload_bytes(number, &format) == bytes, "{name}");
        let dense = Payload::parse(&bytes, &format).unwrap().to_dense();
        let file = std::fs::read(path(name, "safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(stored.len(), dense.len());
        for (spec, dense) in format.layout().tensors().iter().zip(dense) {
            let tensor = stored.tensor(&spec.name).unwrap();
            assert_eq!(tensor.shape(), spec.shape);
            let words: Vec<u32> = tensor.data().as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
            assert_eq!(words, bits(&[dense]), "{name} {}", spec.name);
        }
    }
}

#[test]
fn the_vectors_cover_the_format() {
    let formats: Vec<_> = vectors().into_iter().map(|(_, format)| format).collect();
    assert_eq!(two_sections().sections(), 2);
    let used: Vec<Codec> = formats.iter().flat_map(|format| format.codecs().to_vec()).collect();
    assert!(codecs(1000).iter().all(|codec| used.contains(codec)));
    let payload = |number: usize| Payload::parse(&payload_bytes(number, &formats[number]), &formats[number]).unwrap();
    assert!(payload(0).chunk(2, 0).scale == 0 && payload(0).chunk(0, 0).scale != 0);
    assert!((0..formats.len()).all(|number| payload(number).to_dense().concat().iter().any(|&v| v != 0.0)));
}
