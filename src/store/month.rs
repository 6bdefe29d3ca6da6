//! What a run moves in a month, by its manifest and by who takes part.

use protocol::{Manifest, sealed_len};
use storage::Month;

use crate::check;

/// Seconds of a month that is billed: 30 days.
pub const SECONDS: f64 = 30.0 * 86_400.0;
/// Bytes that one request carries of a large object, about.
const PART: u64 = 5 << 20;
/// Bytes per parameter of a snapshot: f32 and bf16.
const SNAPSHOT_BYTES: u64 = 4 + 2;

/// Rounds that begin in a month, if none closes early.
pub fn rounds(manifest: &Manifest) -> f64 {
    SECONDS / check::round_blocks(manifest).saturating_mul(check::BLOCK_SECONDS) as f64
}

/// Bytes of a payload as stored, of a bundle of `miners` at most, and of a snapshot.
fn sizes(manifest: &Manifest, miners: u64) -> [u64; 3] {
    let payload = sealed_len(compression::typical_payload_len(&manifest.format()));
    let bundle = payload.saturating_mul(miners.min(manifest.judge.top.into()));
    [payload, bundle, SNAPSHOT_BYTES.saturating_mul(manifest.layout().parameters() as u64)]
}

/// Bytes in all buckets together once retention lets go of as much as comes, or after a month where everything is kept. The log, and
/// snapshots that stay for ever, come on top. A month has so many `rounds`.
pub fn stored(manifest: &Manifest, miners: u64, rounds: f64) -> f64 {
    let [payload, bundle, snapshot] = sizes(manifest, miners).map(|bytes| bytes as f64);
    let kept = manifest.retention.rounds.map_or(rounds, |kept| kept as f64);
    kept * (miners as f64 * payload + 2.0 * bundle) + (kept / manifest.checkpoints.every.max(1) as f64).ceil() * snapshot
}

/// Requests and bytes out of buckets in a month of so many `rounds`; what is stored is the caller's to add.
///
/// A miner writes its payload, an envelope and a key; every validator reads them all. The lead and one aggregator write a bundle of the
/// payloads applied, which every miner and the aggregator's like read. Documents of the log are a few requests for each who writes and
/// reads them, and one lead writes a snapshot now and then. Strangers and those who join come on top.
pub fn traffic(manifest: &Manifest, miners: u64, validators: u64, rounds: f64) -> Month {
    let [payload, bundle, snapshot] = sizes(manifest, miners);
    let [payload_parts, bundle_parts, snapshot_parts] = [payload, bundle, snapshot].map(|bytes| bytes.div_ceil(PART) as f64);
    let [miners, validators] = [miners, validators].map(|count| count as f64);
    // those who follow without measuring
    let followers = miners + 1.0;
    // seal list, sheet and record, and a copy of each; countersignatures
    let documents = 3.0 + 3.0 * validators + validators;
    let per_round = Month {
        stored: 0.0,
        writes: miners * (payload_parts + 2.0) + 2.0 * bundle_parts + documents + snapshot_parts / manifest.checkpoints.every.max(1) as f64,
        reads: validators * miners * (payload_parts + 2.0) + followers * bundle_parts + 3.0 * (followers + validators),
        egress: validators * miners * payload as f64 + followers * bundle as f64,
    };
    Month { stored: 0.0, writes: rounds * per_round.writes, reads: rounds * per_round.reads, egress: rounds * per_round.egress }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use protocol::RunConfig;
    use storage::Prices;

    use super::*;

    fn covenant() -> Manifest {
        Manifest::draft(RunConfig::parse(include_str!("../../configs/72b.toml")).unwrap()).unwrap()
    }

    #[test]
    fn at_72b_what_leaves_the_store_is_what_costs() {
        let manifest = covenant();
        // 142 blocks of 12 s
        assert!((rounds(&manifest) - 2_592_000.0 / 1_704.0).abs() < 1e-9);
        let month = traffic(&manifest, 20, 4, rounds(&manifest));
        let payload = sealed_len(compression::typical_payload_len(&manifest.format())) as f64;
        // 4 validators read 20 payloads each, 20 miners and an aggregator a bundle of as many
        assert!((month.egress / (rounds(&manifest) * payload) - (80.0 + 21.0 * 20.0)).abs() < 1e-6);
        let [r2, s3] = [Prices::R2, Prices::S3].map(|prices| prices.bill(&month));
        assert_eq!(r2.egress, 0.0);
        assert!(s3.egress > 100.0 * (s3.requests + r2.requests), "{s3:?} {r2:?}");
    }

    #[test]
    fn at_72b_retention_bounds_what_is_stored() {
        let mut manifest = covenant();
        let payload = sealed_len(compression::typical_payload_len(&manifest.format())) as f64;
        // 50 rounds of 20 payloads and two bundles of them, and 5 snapshots in f32 and bf16
        let wanted = 50.0 * 60.0 * payload + 5.0 * 6.0 * 72_747_327_488.0;
        assert!((stored(&manifest, 20, 1e4) / wanted - 1.0).abs() < 1e-9);
        manifest.retention.rounds = None;
        assert!(stored(&manifest, 20, rounds(&manifest)) > 20.0 * wanted, "a month of everything");
    }

    #[test]
    fn who_is_not_there_moves_nothing_but_the_log() {
        let month = traffic(&covenant(), 0, 0, 1.0);
        assert_eq!(month.egress, 0.0);
        assert!(month.writes > 0.0);
    }
}
