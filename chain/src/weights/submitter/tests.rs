#![allow(clippy::unwrap_used)]

use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use protocol::{Digest, Hotkey};

use super::*;
use crate::{Block, Commitment, Earnings, Neuron};

const NETUID: u16 = 3;
const UID: u16 = 7;
const TEMPO: u64 = 20;
const PERIOD: u64 = 2;
const ROW: [(u16, u16); 2] = [(1, 65535), (4, 99)];

/// A chain of one subnet and one validator that follows a script.
#[derive(Debug)]
struct Scripted(Mutex<Script>);

#[derive(Debug)]
struct Script {
    head: u64,
    commit_reveal: Option<CommitReveal>,
    row: Vec<(u16, u16)>,
    /// Hashes with the epoch of the commit.
    commits: Vec<(u64, Digest)>,
    /// A timelocked row and the block that opens it.
    sealed: Option<(u64, Vec<(u16, u16)>)>,
    /// What the next call that writes is answered with.
    refuse: Option<ChainError>,
    /// Whether calls that write are answered well and come to nothing.
    lose: bool,
    reveals: usize,
}

impl Script {
    fn epoch(&self) -> u64 {
        self.head / TEMPO
    }

    /// Refuses, or says whether the call takes effect.
    fn takes(&mut self) -> Result<bool, ChainError> {
        self.refuse.take().map_or(Ok(!self.lose), Err)
    }
}

impl Scripted {
    fn new(commit_reveal: Option<CommitReveal>) -> Self {
        let script = Script { head: 105, commit_reveal, row: vec![], commits: vec![], sealed: None, refuse: None, lose: false, reveals: 0 };
        Self(Mutex::new(script))
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    fn go_to(&self, head: u64) {
        let mut script = self.script();
        script.head = head;
        if let Some((_, row)) = script.sealed.take_if(|(opening, _)| head >= *opening) {
            script.row = row;
        }
    }
}

#[async_trait]
impl Chain for Scripted {
    async fn head(&self) -> Result<Block, ChainError> {
        Ok(Block { number: self.script().head, hash: Digest([0; 32]), time_ms: 0 })
    }

    async fn subnet(&self, netuid: u16) -> Result<Subnet, ChainError> {
        let script = self.script();
        Ok(Subnet {
            netuid,
            owner: Hotkey([0; 32]),
            tempo: TEMPO,
            weights_rate_limit: 0,
            last_epoch: script.epoch() * TEMPO,
            stake_threshold: 0,
            max_validators: 1,
            version_key: 11,
            min_allowed_weights: 1,
            max_weight_limit: u16::MAX,
            immunity_period: 0,
            burn: 0,
            earnings: Earnings::Total,
            commit_reveal: script.commit_reveal,
        })
    }

    async fn weights(&self, _: u16, _: u16) -> Result<Vec<(u16, u16)>, ChainError> {
        Ok(self.script().row.clone())
    }

    async fn set_weights(&self, _: &Keypair, _: u16, weights: &[(u16, u16)]) -> Result<(), ChainError> {
        let mut script = self.script();
        if script.takes()? {
            script.row = weights.to_vec();
        }
        Ok(())
    }

    async fn commit_weights(&self, _: &Keypair, _: u16, hash: Digest) -> Result<(), ChainError> {
        let mut script = self.script();
        if script.takes()? {
            let epoch = script.epoch();
            script.commits.push((epoch, hash));
        }
        Ok(())
    }

    async fn reveal_weights(&self, signer: &Keypair, netuid: u16, weights: &[(u16, u16)], salt: &[u16]) -> Result<(), ChainError> {
        let mut script = self.script();
        script.reveals += 1;
        let takes = script.takes()?;
        let (now, hash) = (script.epoch(), commitment(&signer.hotkey(), netuid, weights, salt, 11));
        let place = script.commits.iter().position(|(_, known)| *known == hash).ok_or(ChainError::NoWeightsCommitFound)?;
        match (script.commits[place].0 + PERIOD).cmp(&now) {
            std::cmp::Ordering::Greater => return Err(ChainError::RevealTooEarly),
            std::cmp::Ordering::Less => return Err(ChainError::ExpiredWeightCommit),
            std::cmp::Ordering::Equal => {}
        }
        if takes {
            script.commits.remove(place);
            script.row = weights.to_vec();
        }
        Ok(())
    }

    async fn commit_timelocked_weights(&self, _: &Keypair, _: u16, weights: &[(u16, u16)]) -> Result<u64, ChainError> {
        let mut script = self.script();
        let opening = script.head + 30;
        if script.takes()? {
            script.sealed = Some((opening, weights.to_vec()));
        }
        Ok(opening)
    }

    async fn genesis(&self) -> Result<Digest, ChainError> {
        unreachable!()
    }
    async fn block(&self, _: u64) -> Result<Option<Block>, ChainError> {
        unreachable!()
    }
    async fn next_block(&self, _: u64) -> Result<Block, ChainError> {
        unreachable!()
    }
    async fn neurons(&self, _: u16, _: u64) -> Result<Vec<Neuron>, ChainError> {
        unreachable!()
    }
    async fn set_bucket(&self, _: &Keypair, _: u16, _: &str) -> Result<(), ChainError> {
        unreachable!()
    }
    async fn buckets(&self, _: u16) -> Result<Vec<(Hotkey, String)>, ChainError> {
        unreachable!()
    }
    async fn commit(&self, _: &Keypair, _: u16, _: &[u8]) -> Result<(), ChainError> {
        unreachable!()
    }
    async fn commitments(&self, _: u16, _: RangeInclusive<u64>) -> Result<Vec<Commitment>, ChainError> {
        unreachable!()
    }
    async fn balance(&self, _: Hotkey) -> Result<u64, ChainError> {
        unreachable!()
    }
    async fn burned_register(&self, _: &Keypair, _: u16, _: Hotkey) -> Result<u16, ChainError> {
        unreachable!()
    }
    async fn add_stake(&self, _: &Keypair, _: u16, _: Hotkey, _: u64) -> Result<(), ChainError> {
        unreachable!()
    }
}

const OPEN: Option<CommitReveal> = None;
const HASH: Option<CommitReveal> = Some(CommitReveal { timelocked: None, period: PERIOD });
const TIMELOCKED: Option<CommitReveal> = Some(CommitReveal { timelocked: Some(4), period: PERIOD });

/// A validator with its home, on a scripted chain whose head is 105 and whose epochs are 100, 120, …
struct Scene {
    chain: Scripted,
    signer: Keypair,
    home: tempfile::TempDir,
    submitter: Submitter,
}

impl Scene {
    fn new(path: Option<CommitReveal>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let submitter = Submitter::open(NETUID, &home.path().join("weights.json")).unwrap();
        Self { chain: Scripted::new(path), signer: Keypair::from_seed(&[1; 32]), home, submitter }
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("weights.json")
    }

    fn restart(&mut self) {
        self.submitter = Submitter::open(NETUID, &self.file()).unwrap();
    }

    async fn submit(&mut self) -> Result<(), SubmitError> {
        self.submitter.submit(&self.chain, &self.signer, ROW.to_vec()).await
    }

    /// The standing at a block, in a word.
    async fn at(&mut self, head: u64) -> &'static str {
        self.chain.go_to(head);
        match self.submitter.follow(&self.chain, &self.signer, UID).await.unwrap() {
            Standing::Idle => "idle",
            Standing::Waiting => "waiting",
            Standing::Refused(_) => "refused",
            Standing::Confirmed(row) => {
                assert_eq!(row, ROW);
                "confirmed"
            }
            Standing::Lost { block, .. } => {
                assert_eq!(block, 105);
                "lost"
            }
        }
    }
}

#[tokio::test]
async fn in_the_open_a_row_is_set_and_read_back() {
    let mut scene = Scene::new(OPEN);
    assert_eq!(scene.at(105).await, "idle");
    scene.submit().await.unwrap();
    assert!(scene.submitter.is_waiting() && !scene.submitter.must_reveal() && !scene.file().exists());
    assert_eq!(scene.at(106).await, "confirmed");
    assert_eq!(scene.at(107).await, "idle");
}

#[tokio::test]
async fn what_does_not_show_in_time_is_lost() {
    let mut scene = Scene::new(OPEN);
    scene.chain.script().lose = true;
    scene.submit().await.unwrap();
    assert_eq!(scene.at(105 + PATIENCE).await, "waiting");
    assert_eq!(scene.at(106 + PATIENCE).await, "lost");
    assert!(!scene.submitter.is_waiting());
}

#[tokio::test]
async fn a_refused_submission_leaves_nothing_behind() {
    for path in [OPEN, HASH, TIMELOCKED] {
        let mut scene = Scene::new(path);
        scene.chain.script().refuse = Some(ChainError::NeuronNoValidatorPermit(UID));
        assert!(matches!(scene.submit().await, Err(SubmitError::Chain(ChainError::NeuronNoValidatorPermit(UID)))));
        assert!(!scene.submitter.is_waiting() && !scene.file().exists());
        scene.submit().await.unwrap();
    }
}

#[tokio::test]
async fn the_path_is_the_chains_of_the_moment() {
    let mut scene = Scene::new(OPEN);
    for (path, hidden) in [(OPEN, false), (HASH, true), (TIMELOCKED, true), (OPEN, false)] {
        scene.chain.script().commit_reveal = path;
        scene.chain.script().row.clear();
        scene.submit().await.unwrap();
        assert_eq!(scene.chain.script().row.is_empty(), hidden);
        assert_eq!(scene.submitter.must_reveal(), path == HASH);
        assert_eq!(scene.file().exists(), path == HASH, "a commit that was replaced is forgotten");
    }
}

#[tokio::test]
async fn a_timelocked_row_is_confirmed_once_the_chain_opens_it() {
    let mut scene = Scene::new(TIMELOCKED);
    // the same row as before proves nothing until then
    scene.chain.script().row = ROW.to_vec();
    scene.submit().await.unwrap();
    assert_eq!(scene.at(134).await, "waiting");
    assert_eq!(scene.at(135).await, "confirmed");
    scene.chain.script().lose = true;
    scene.chain.script().row.clear();
    scene.chain.go_to(105);
    scene.submit().await.unwrap();
    assert_eq!(scene.at(135 + TEMPO + PATIENCE).await, "waiting");
    assert_eq!(scene.at(136 + TEMPO + PATIENCE).await, "lost");
}

#[tokio::test]
async fn a_committed_row_is_revealed_in_the_epoch_that_is_due() {
    let mut scene = Scene::new(HASH);
    scene.submit().await.unwrap();
    for early in [106, 119, 120, 139] {
        assert_eq!(scene.at(early).await, "waiting");
    }
    assert_eq!(scene.chain.script().reveals, 0);
    assert_eq!(scene.at(140).await, "waiting", "revealed, and not read back yet");
    assert_eq!(scene.chain.script().row, ROW);
    assert_eq!(scene.at(141).await, "confirmed");
    assert_eq!(scene.chain.script().reveals, 1);
    assert!(!scene.file().exists());
}

#[tokio::test]
async fn a_restart_between_commit_and_reveal_still_reveals() {
    let mut scene = Scene::new(HASH);
    scene.submit().await.unwrap();
    assert_eq!(fs::metadata(scene.file()).unwrap().permissions().mode() & 0o777, 0o600);
    scene.restart();
    assert_eq!(scene.at(139).await, "waiting");
    scene.restart();
    assert_eq!(scene.at(140).await, "waiting");
    // and one between the reveal and reading it back finds the row there
    scene.restart();
    assert_eq!(scene.at(141).await, "confirmed");
    scene.restart();
    assert_eq!(scene.at(142).await, "idle");
}

#[tokio::test]
async fn a_lost_or_refused_reveal_is_tried_again_while_its_epoch_lasts() {
    let mut scene = Scene::new(HASH);
    scene.submit().await.unwrap();
    scene.chain.script().refuse = Some(ChainError::RevealTooEarly);
    assert_eq!(scene.at(140).await, "refused");
    scene.chain.script().lose = true;
    assert_eq!(scene.at(140 + PATIENCE).await, "waiting", "not at every block");
    assert_eq!(scene.at(141 + PATIENCE).await, "waiting");
    assert_eq!(scene.chain.script().reveals, 2);
    assert_eq!(scene.at(160).await, "waiting");
    assert_eq!(scene.at(142 + 2 * PATIENCE).await, "lost", "the chain says that the commit expired");
    assert!(!scene.file().exists());
}

#[tokio::test]
async fn a_commit_that_cannot_be_revealed_any_more_is_lost() {
    // never included; the subnet changed its mind; the validator slept through the epoch
    for (lose, commit_reveal, head) in [(true, HASH, 140), (false, OPEN, 121), (false, HASH, 400)] {
        let mut scene = Scene::new(HASH);
        scene.chain.script().lose = lose;
        scene.submit().await.unwrap();
        scene.chain.script().commit_reveal = commit_reveal;
        if commit_reveal == OPEN {
            scene.chain.script().refuse = Some(ChainError::CommitRevealDisabled);
        }
        assert_eq!(scene.at(head).await, "lost");
        assert!(!scene.submitter.is_waiting());
    }
}

#[tokio::test]
async fn a_damaged_file_is_as_good_as_none() {
    let mut scene = Scene::new(HASH);
    for damaged in ["", "{", r#"{"weights":[[1,2]],"salt":[70000],"block":1}"#, r#"{"weights":[],"salt":[],"block":1,"secret":1}"#] {
        fs::write(scene.file(), damaged).unwrap();
        scene.restart();
        assert!(!scene.submitter.is_waiting(), "{damaged}");
    }
    scene.submit().await.unwrap();
    scene.restart();
    assert!(scene.submitter.must_reveal());
}

#[test]
fn epochs_are_counted_from_the_block_after() {
    let subnet = |last_epoch| {
        let chain = Scripted::new(OPEN);
        let subnet = futures_now(chain.subnet(NETUID)).unwrap();
        Subnet { last_epoch, ..subnet }
    };
    for (since, last, epochs) in [(105, 100, 0), (120, 120, 0), (119, 120, 1), (105, 140, 2), (120, 140, 1), (105, 143, 2), (0, 400, 20)] {
        assert_eq!(epochs_since(since, &subnet(last)), epochs, "{since} to {last}");
    }
}

/// The value of a future that never waits.
fn futures_now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
