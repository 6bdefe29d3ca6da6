//! Whole networks of real roles in virtual time, while their stores fail at random, buckets and links go away, and nodes are killed.
//!
//! By default one seed and a few rounds; `make storms` is the long form.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "storms/clock.rs"]
mod clock;
mod common;
#[path = "storms/network.rs"]
mod network;
#[path = "storms/weather.rs"]
mod weather;

use std::{collections::BTreeMap, ops::RangeInclusive, path::Path, sync::Arc};

use checkpoints::Step;
use common::CONFIG;
use dataset::{PrepareOptions, Source, Tokenizer};
use network::{NODES, Network, VALIDATORS};
use protocol::{Refusal, RoundTimes, RunConfig, score::Outcome};
use weather::{Trouble, Weather, What};

/// The smallest model there is, trained on next to nothing: what is at stake here is the log.
fn config() -> RunConfig {
    let mut config = RunConfig::parse(CONFIG).unwrap();
    let model = &mut config.model;
    (model.hidden_size, model.heads, model.intermediate_size, model.sequence_length) = (16, 1, 16, 16);
    (config.inner.steps, config.inner.batch, config.inner.micro_batch) = (1, 1, 1);
    config.round = RoundTimes { train: 6, upload: 3, reveal: 4, judge: 6, span: 3, early_close: false };
    // two miners may draw the same few tokens
    (config.judge.assigned, config.judge.random, config.judge.overlap) = (2, 2, 1.0);
    config.checkpoints.every = 20;
    config
}

/// How long a round takes about, in blocks, when all goes well.
const ROUND_BLOCKS: u64 = 14;
/// What is asked for just before or after a trouble may still suffer from it.
const MARGIN: u64 = 60;

/// A number from the environment, or two with a dash between them.
fn range(name: &str, default: RangeInclusive<u64>) -> RangeInclusive<u64> {
    let Ok(text) = std::env::var(name) else { return default };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    first.parse().unwrap()..=last.parse().unwrap()
}

/// This repository's own text, prepared.
fn data() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let texts = ["chain", "checkpoints", "compression", "storage"].map(|name| root.join(name).join("README.md").display().to_string());
    let options = PrepareOptions::new(Source::Paths(texts.to_vec()), "this repository", Tokenizer::Bytes);
    dataset::prepare(&PrepareOptions { held_out_share: 0.3, ..options }, data.path()).unwrap();
    data
}

/// Plays in virtual time.
fn play<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, story)
}

#[test]
fn an_upload_that_hangs_ends_with_the_round_and_its_miner_is_there_in_the_next() {
    let (data, slow) = (data(), VALIDATORS + 4);
    // the close is due two blocks after the uploads begin: before an own bucket is given up
    let mut config = config();
    (config.round.train, config.round.upload) = (3, 1);
    let trouble = Trouble { node: slow, when: 0..300, what: What::Bucket("'hang'") };
    play(async {
        let network = Network::new(&config, data.path(), Weather::of(vec![trouble]), 1000).await;
        network.run(6).await;
        let warnings = network.warnings_of(slow);
        let late = warnings.iter().filter(|warning| warning.contains(" closed when 0 bytes of "));
        assert!(late.count() > 0, "{warnings:?}");
        let steps = network.replay().await;
        let listed: Vec<bool> =
            steps.iter().map(|step| step.sheet.value.entries.iter().any(|entry| network.node_of(entry.uid) == slow)).collect();
        assert!(!listed[0] && listed.ends_with(&[true]), "{listed:?}");
    });
}

#[test]
fn all_invariants_hold_in_storms() {
    let rounds = *range("STORM_ROUNDS", 10..=10).end();
    let data = data();
    let mut lost = Vec::new();
    for seed in range("STORM_SEEDS", 1..=1) {
        let (story, lost_here) = play(storm(seed, rounds, data.path()));
        println!("seed {seed}: {story}");
        lost.extend((lost_here > 0).then_some((seed, lost_here)));
    }
    assert!(lost.is_empty(), "payloads that met the close were lost, by seed: {lost:?}");
}

/// Plays a seed and checks what must hold; what came of it, in words, and how many payloads were lost.
async fn storm(seed: u64, rounds: u64, data: &Path) -> (String, u64) {
    let seconds = rounds * ROUND_BLOCKS * clock::BLOCK.as_secs();
    let weather = Weather::new(seed, NODES, seconds, 4 * ROUND_BLOCKS * clock::BLOCK.as_secs());
    let network = Network::new(&config(), data, weather, seed).await;
    network.run(rounds).await;
    let steps = network.replay().await;
    assert!(steps.len() as u64 >= rounds);
    // a record follows the one before, so there is one per round; every node has the same roots
    for (round, step) in steps.iter().enumerate() {
        assert_eq!(step.record.value.round, round as u64);
    }
    network.assert_roots(&steps);
    let mut tally = BTreeMap::new();
    for pair in steps.windows(2) {
        count_lost(&network, &pair[0], &pair[1], &mut tally);
    }
    let tallied: Vec<String> = tally.iter().map(|(what, count)| format!("{count} {what}")).collect();
    let kills = network.weather.troubles.iter().filter(|t| t.what == What::Kill).count();
    let troubles = network.weather.troubles.len();
    let (rounds, seconds, warnings) = (steps.len(), network.second(), network.warnings());
    let story = format!(
        "{rounds} rounds in {seconds} s, {troubles} troubles ({kills} kills), {warnings} warnings; payloads: {}",
        tallied.join(", ")
    );
    (story, tally.get("lost").copied().unwrap_or(0))
}

/// Who closed the round.
fn lead_of_close(network: &Network, step: &Step) -> usize {
    network.node_named(step.close.list.signer)
}

/// Counts what became of a round's listed payloads. One is lost if it was refused although nothing befell its owner, or the lead, in that round.
fn count_lost(network: &Network, step: &Arc<Step>, next: &Arc<Step>, tally: &mut BTreeMap<&'static str, u64>) {
    let (record, sheet) = (&step.record.value, &step.sheet.value);
    let from = network.seconds_of(record.open_block).saturating_sub(MARGIN);
    let when = from..network.seconds_of(next.record.value.open_block) + ROUND_BLOCKS * clock::BLOCK.as_secs() + MARGIN;
    let lead = network.node_named(step.record.signer);
    let untroubled = |node: usize| !network.weather.troubled(node, &when) && !network.weather.troubled(lead_of_close(network, step), &when);
    // the lead's last look is in the block before its list is in the chain's
    for node in network.sealed_by(record.round, step.close.block.saturating_sub(2)) {
        if untroubled(node) && !sheet.entries.iter().any(|entry| network.node_of(entry.uid) == node) {
            println!("round {}: node {node} sealed in time and is not listed", record.round);
            *tally.entry("lost").or_default() += 1;
        }
    }
    for entry in &sheet.entries {
        let what = match &entry.outcome {
            Outcome::Measured { .. } if record.applied.iter().any(|a| a.uid == entry.uid) => "applied",
            Outcome::Measured { .. } => "measured and left out",
            Outcome::Unmeasured => "not in the sample",
            // a single step is soon larger than the others
            Outcome::Refused(Refusal::Copy { .. } | Refusal::Outlier { .. }) => "refused for what they say",
            Outcome::Refused(_) if network.weather.troubled(network.node_of(entry.uid), &when) => "refused of miners in trouble",
            Outcome::Refused(_) if network.weather.troubled(lead, &when) => "refused by leads in trouble",
            Outcome::Refused(why) => {
                println!("round {}: uid {} is refused by node {lead}: {why}", record.round, entry.uid);
                "lost"
            }
        };
        *tally.entry(what).or_default() += 1;
    }
}
