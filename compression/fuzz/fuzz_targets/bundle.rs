//! Any bytes, damaged bundles, and bundles of damaged bodies, as a bundle of at most four payloads.
#![no_main]

use std::sync::LazyLock;

use compression::{Payload, bundle_len, encode_bundle, parse_bundle};
use compression_fuzz::{Case, checked, choose, damaged, mixed_cases, on_one_thread};
use libfuzzer_sys::fuzz_target;

/// The bit of a length that says that the body is in joint form.
const JOINT: u32 = 1 << 31;

/// A bundle of three payloads that share most of their indices, in pieces.
struct Bundle {
    head: Vec<u8>,
    /// Form and bytes of each body.
    bodies: Vec<(u32, Vec<u8>)>,
}

impl Bundle {
    fn new(case: &Case) -> Self {
        let payloads = [0, 1, 2].map(|miner| Payload::parse(&case.payload_of(miner), &case.format).expect("the encoder wrote it"));
        let bundle = encode_bundle(&payloads.each_ref()).expect("payloads of one round");
        let (head, mut rest) = bundle.split_at(8 + case.header_bytes() - 32 + 3 * 32);
        let mut bodies = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = u32::from_le_bytes(*length);
            let (body, after) = after.split_at((length & !JOINT) as usize);
            bodies.push((length & JOINT, body.to_vec()));
            rest = after;
        }
        Self { head: head.to_vec(), bodies }
    }

    /// The bundle with damaged bodies, of right lengths; the highest bit of a body's share of the data changes its form.
    fn damaged(&self, data: &[u8]) -> Vec<u8> {
        let mut changes = data.chunks(data.len().div_ceil(self.bodies.len()).max(1));
        let mut bundle = self.head.clone();
        for (form, body) in &self.bodies {
            let (&first, rest) = changes.next().and_then(<[u8]>::split_first).unwrap_or((&0, &[]));
            let body = damaged(body, &[&[first & 0x7F], rest].concat());
            let form = form ^ u32::from(first >> 7) << 31;
            bundle.extend((form | body.len() as u32).to_le_bytes());
            bundle.extend(body);
        }
        bundle
    }
}

/// A case with its bundle.
static CASES: LazyLock<(Vec<Case>, Vec<Bundle>)> = LazyLock::new(|| {
    let cases = mixed_cases();
    let bundles = cases.iter().map(Bundle::new).collect();
    (cases, bundles)
});

fuzz_target!(init: on_one_thread(), |data: &[u8]| {
    let (cases, bundles) = &*CASES;
    let (case, rest) = choose(cases, data);
    let first = data.first().copied().unwrap_or_default();
    let bundle = &bundles[usize::from(first) % cases.len()];
    let bytes = match first {
        0..32 => damaged(&bundle.damaged(&[]), rest),
        32..192 => bundle.damaged(rest),
        192.. => rest.to_vec(),
    };
    let Ok(payloads) = parse_bundle(&bytes, &case.format, 4) else { return };
    for payload in &payloads {
        let alone = checked(&payload.to_bytes(), &case.format).expect("a bundle's payload stands alone");
        assert_eq!((alone.digest(), alone.header()), (payload.digest(), payload.header()));
    }
    // Bodies may come in the longer of their two forms; the encoder writes the shorter one.
    let again = encode_bundle(&payloads.iter().collect::<Vec<_>>()).expect("payloads of one bundle");
    assert!(again.len() <= bytes.len() && again.len() as u64 <= bundle_len(&case.format, payloads.len()));
    let parsed = parse_bundle(&again, &case.format, 4).expect("the encoder wrote it");
    assert!(parsed.iter().map(Payload::digest).eq(payloads.iter().map(Payload::digest)));
});
