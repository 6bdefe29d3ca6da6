#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::Digest;

const EVERY: Checkpoints = Checkpoints { every: 5 };

fn retention(rounds: u64) -> Retention {
    Retention { rounds: Some(rounds), one_in: 4 }
}

fn file(round: u64) -> ObjectKey {
    ObjectKey::Checkpoint { round, file: "manifest".into() }
}

/// All that buckets have of a round.
fn of_round(round: u64) -> [ObjectKey; 8] {
    let record = ObjectKey::Record(round);
    [
        ObjectKey::Payload(round),
        ObjectKey::PayloadKey(round),
        ObjectKey::Bundle(round),
        ObjectKey::Envelope(round),
        ObjectKey::SealList(round),
        ObjectKey::ScoreSheet(round),
        record.copy(Digest::of(b"copy")),
        record,
    ]
}

#[test]
fn without_rounds_nothing_ever_goes() {
    let keep = Retention::default().at(1 << 30, &EVERY, &[5, 10, 1 << 20]);
    for round in [0, 1, 9, 1 << 29] {
        assert!(of_round(round).iter().chain([&file(round)]).all(|key| !keep.verdict(Some(key)).goes()), "{round}");
    }
}

#[test]
fn payloads_go_once_they_are_older_than_the_rounds_kept() {
    let keep = retention(10).at(32, &EVERY, &[20, 25, 30]);
    assert_eq!(keep.floor, 22);
    let verdict = |key: ObjectKey| keep.verdict(Some(&key));
    for key in [ObjectKey::Payload, ObjectKey::PayloadKey, ObjectKey::Bundle] {
        assert_eq!([verdict(key(21)), verdict(key(22)), verdict(key(99))], [Keeping::Expired, Keeping::Recent, Keeping::Recent]);
    }
}

#[test]
fn payloads_after_the_last_two_snapshots_stay_however_old() {
    let floor = |snapshots: &[u64]| retention(10).at(100, &EVERY, snapshots).floor;
    assert_eq!(floor(&[]), 0, "with genesis alone to start from, everything is needed");
    assert_eq!(floor(&[30]), 0, "the one snapshot may be unreadable");
    assert_eq!(floor(&[40, 30]), 30);
    assert_eq!(floor(&[40, 40, 30]), 30, "two validators' snapshots of a round are one place to start from");
    assert_eq!(floor(&[95, 90]), 90, "the rounds kept are the least");
    assert_eq!(floor(&[95, 90, 101, 200]), 90, "what is not there yet for this node counts for nothing");
    assert_eq!(floor(&[85, 95]), 85);
}

#[test]
fn of_older_snapshots_one_in_so_many_stays() {
    let keep = retention(10).at(73, &EVERY, &[60, 65, 70]);
    let verdicts = [0, 20, 40, 60, 5, 55, 63, 65].map(|round| keep.verdict(Some(&file(round))));
    use Keeping::{Milestone, Recent, Thinned};
    assert_eq!(verdicts, [Milestone, Milestone, Milestone, Milestone, Thinned, Thinned, Recent, Recent]);
}

#[test]
fn the_log_and_what_nobody_knows_stay_for_ever() {
    let keep = retention(10).at(1 << 40, &EVERY, &[(1 << 40) - 5, (1 << 40) - 1]);
    let data = ObjectKey::Dataset("train.bin".into());
    let countersign = ObjectKey::Countersign(0, Digest::of(b"record"));
    for key in of_round(0)[3..].iter().chain([&ObjectKey::Manifest, &data, &countersign]) {
        assert_eq!(keep.verdict(Some(key)), Keeping::Log, "{key}");
    }
    assert_eq!(keep.verdict(None), Keeping::Foreign);
}

#[test]
fn numbers_at_their_limits_do_not_overflow() {
    let retention = Retention { rounds: Some(MOST), one_in: MOST };
    let keep = retention.at(u64::MAX, &Checkpoints { every: u64::MAX }, &[u64::MAX, u64::MAX - 1]);
    assert_eq!((keep.floor, keep.milestone), (u64::MAX - MOST, u64::MAX));
    assert_eq!(retention.at(0, &EVERY, &[0]).floor, 0);
}

/// A run as all its buckets together show it: objects by round, and snapshots.
#[derive(Default)]
struct Buckets {
    objects: BTreeSet<ObjectKey>,
}

impl Buckets {
    fn snapshots(&self) -> Vec<u64> {
        let round = |key: &ObjectKey| if let ObjectKey::Checkpoint { round, .. } = key { Some(*round) } else { None };
        self.objects.iter().filter_map(round).collect()
    }

    fn sweep(&mut self, keep: &Keep) {
        self.objects.retain(|key| !keep.verdict(Some(key)).goes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// A run of 120 rounds in which some snapshots fail and owners, who stand anywhere up to the head, sweep now and then.
    #[test]
    fn whoever_starts_at_a_snapshot_within_reach_can_catch_up(
        rounds in 10u64..40,
        one_in in 1u64..6,
        fails in prop::collection::vec(prop::bool::weighted(0.4), 120),
        sweeps in prop::collection::vec(prop::option::weighted(0.5, 0u64..30), 120),
    ) {
        let retention = Retention { rounds: Some(rounds), one_in };
        let mut buckets = Buckets::default();
        for round in 0..120u64 {
            buckets.objects.extend(of_round(round));
            let head = round + 1;
            if head.is_multiple_of(EVERY.every) && !fails[round as usize] {
                buckets.objects.insert(file(head));
            }
            let Some(behind) = sweeps[round as usize] else { continue };
            let newest = buckets.snapshots().into_iter().max();
            // an owner that is behind deletes less
            let keep = retention.at(head.saturating_sub(behind), &EVERY, &buckets.snapshots());
            buckets.sweep(&keep);
            let again = buckets.objects.clone();
            buckets.sweep(&keep);
            prop_assert_eq!(&buckets.objects, &again, "twice is once");
            prop_assert_eq!(buckets.snapshots().into_iter().max(), newest, "the newest snapshot never goes");
            // those within the rounds kept, and the last two whatever their age
            let all: Vec<u64> = [0].into_iter().chain(buckets.snapshots()).collect::<BTreeSet<_>>().into_iter().rev().collect();
            let starts = all.iter().enumerate().filter(|(place, start)| *place < 2 || **start + rounds >= head).map(|(_, start)| *start);
            for start in starts {
                for round in start..head {
                    for key in &of_round(round)[..3] {
                        prop_assert!(buckets.objects.contains(key), "{key} is gone, and {start} is a place to start from");
                    }
                }
            }
            for round in 0..head {
                let log = &of_round(round)[3..];
                prop_assert!(log.iter().all(|key| buckets.objects.contains(key)), "the log of round {round} is not whole");
            }
        }
    }
}
