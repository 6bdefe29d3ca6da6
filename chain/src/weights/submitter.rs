//! Submits rows of weights by the path that the chain asks for, and follows them until they are read back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use protocol::Keypair;
use serde::{Deserialize, Serialize};

use super::commitment;
use crate::{Chain, ChainError, CommitReveal, Subnet};

/// Blocks in which what was submitted has to show before something is done about it.
const PATIENCE: u64 = 10;
/// Elements of a salt: 128 bits.
const SALT: usize = 8;
/// The largest file that is read as a pending commit.
const MAX_FILE: u64 = 1 << 20;

/// Why a row could not be submitted or followed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The chain refused, or could not be read.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The file of the pending commit could not be written or removed.
    #[error("{path}: {source}; without this file a restart could not reveal committed weights")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Random(String),
}

/// How a submitted row stands.
#[derive(Debug)]
pub enum Standing {
    /// Nothing is submitted.
    Idle,
    /// It is too early to tell, or to reveal.
    Waiting,
    /// The chain refused the reveal for now; it will be tried again.
    Refused(ChainError),
    /// The row was read back; nothing is submitted any more.
    Confirmed(Vec<(u16, u16)>),
    /// The row did not get there, and has to be submitted again.
    Lost {
        /// The head when it was submitted.
        block: u64,
        /// What happened to it, as the end of a sentence.
        why: String,
    },
}

/// A validator's submitted row, at most one at a time. A row committed by its hash outlives restarts, in a file that only its owner may read.
#[derive(Debug)]
pub struct Submitter {
    netuid: u16,
    file: PathBuf,
    pending: Option<Pending>,
}

/// A row that was submitted and not read back yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    weights: Vec<(u16, u16)>,
    /// The head when it was submitted.
    block: u64,
    path: Submitted,
}

/// The path that a row took.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Submitted {
    Open,
    Timelocked {
        /// About the block in which the chain sets it.
        opening: u64,
    },
    Hash {
        salt: Vec<u16>,
        /// The head when it was last revealed.
        revealed: Option<u64>,
    },
}

/// What is kept of a row committed by its hash.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    weights: Vec<(u16, u16)>,
    salt: Vec<u16>,
    block: u64,
}

impl Submitter {
    /// A submitter for one subnet that keeps a pending commit in `file`, and takes up the one that is there. A damaged file is passed over with
    /// a warning: its commit expires, and the row is set anew.
    ///
    /// # Errors
    /// [`SubmitError::Io`] if the file can't be read.
    pub fn open(netuid: u16, file: &Path) -> Result<Self, SubmitError> {
        let bytes = match read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self { netuid, file: file.to_owned(), pending: None }),
            Err(source) => return Err(SubmitError::Io { path: file.to_owned(), source }),
        };
        let saved: Option<Saved> = serde_json::from_slice(&bytes).ok();
        if saved.is_none() {
            tracing::warn!(file = %file.display(), "this is no pending commit; the weights committed with it will be set anew");
        }
        let pending =
            saved.map(|Saved { weights, salt, block }| Pending { weights, block, path: Submitted::Hash { salt, revealed: None } });
        Ok(Self { netuid, file: file.to_owned(), pending })
    }

    /// Whether a row is submitted and not read back yet.
    pub fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether a reveal is due some time, so that each block must be looked at.
    pub fn must_reveal(&self) -> bool {
        matches!(&self.pending, Some(Pending { path: Submitted::Hash { .. }, .. }))
    }

    /// Submits a row, in place of one that waits, by the path that the chain asks for now.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is submitted then.
    pub async fn submit(&mut self, chain: &dyn Chain, signer: &Keypair, weights: Vec<(u16, u16)>) -> Result<(), SubmitError> {
        self.forget()?;
        let (subnet, block) = (chain.subnet(self.netuid).await?, chain.head().await?.number);
        let path = match subnet.commit_reveal {
            None => {
                chain.set_weights(signer, self.netuid, &weights).await?;
                Submitted::Open
            }
            Some(CommitReveal { timelocked: Some(_), .. }) => {
                Submitted::Timelocked { opening: chain.commit_timelocked_weights(signer, self.netuid, &weights).await? }
            }
            Some(CommitReveal { timelocked: None, .. }) => {
                let salt = salt()?;
                // the file first: a commit that nobody can reveal is worth nothing
                self.save(&Saved { weights: weights.clone(), salt: salt.clone(), block })?;
                let hash = commitment(&signer.hotkey(), self.netuid, &weights, &salt, subnet.version_key);
                if let Err(error) = chain.commit_weights(signer, self.netuid, hash).await {
                    self.forget()?;
                    return Err(error.into());
                }
                Submitted::Hash { salt, revealed: None }
            }
        };
        self.pending = Some(Pending { weights, block, path });
        Ok(())
    }

    /// Looks how the row of `uid` stands, and reveals it if that is due.
    ///
    /// # Errors
    /// [`SubmitError`] if the chain cannot be read; the row is followed further then.
    pub async fn follow(&mut self, chain: &dyn Chain, signer: &Keypair, uid: u16) -> Result<Standing, SubmitError> {
        let Some(pending) = &mut self.pending else { return Ok(Standing::Idle) };
        let (head, subnet) = (chain.head().await?.number, chain.subnet(self.netuid).await?);
        let is_there = chain.weights(self.netuid, uid).await? == pending.weights;
        let lost = |block, why: String| Standing::Lost { block, why };
        let standing = match decide(pending, head, &subnet, is_there) {
            Step::Wait => Standing::Waiting,
            Step::Confirm => Standing::Confirmed(pending.weights.clone()),
            Step::GiveUp(why) => lost(pending.block, why.to_owned()),
            Step::Reveal => match pending.reveal(chain, signer, self.netuid, head).await {
                Ok(()) => Standing::Waiting,
                // revealed before a restart
                Err(error) if is_final(&error) && is_there => Standing::Confirmed(pending.weights.clone()),
                Err(error) if is_final(&error) => lost(pending.block, format!("cannot be revealed ({error})")),
                Err(error) => Standing::Refused(error),
            },
        };
        if matches!(standing, Standing::Confirmed(_) | Standing::Lost { .. }) {
            self.forget()?;
        }
        Ok(standing)
    }

    fn save(&self, saved: &Saved) -> Result<(), SubmitError> {
        let bytes = serde_json::to_vec(saved).expect("integers can be written");
        write(&self.file, &bytes).map_err(|source| SubmitError::Io { path: self.file.clone(), source })
    }

    fn forget(&mut self) -> Result<(), SubmitError> {
        self.pending = None;
        match fs::remove_file(&self.file) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(SubmitError::Io { path: self.file.clone(), source }),
            _ => Ok(()),
        }
    }
}

impl Pending {
    async fn reveal(&mut self, chain: &dyn Chain, signer: &Keypair, netuid: u16, head: u64) -> Result<(), ChainError> {
        let Submitted::Hash { salt, revealed } = &mut self.path else { return Ok(()) };
        *revealed = Some(head);
        chain.reveal_weights(signer, netuid, &self.weights, salt).await
    }
}

/// What to do about a submitted row.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Reveal,
    Confirm,
    GiveUp(&'static str),
}

/// `is_there`: whether the chain shows the row. One that equals the row before it counts only once the chain can have taken it.
fn decide(pending: &Pending, head: u64, subnet: &Subnet, is_there: bool) -> Step {
    match &pending.path {
        Submitted::Open if is_there => Step::Confirm,
        Submitted::Open if head > pending.block + PATIENCE => Step::GiveUp("are not on the chain"),
        Submitted::Timelocked { opening } if head >= *opening && is_there => Step::Confirm,
        // the chain tries until the epoch is over
        Submitted::Timelocked { opening } if head > opening.saturating_add(subnet.tempo + PATIENCE) => {
            Step::GiveUp("were not opened by the chain")
        }
        Submitted::Hash { revealed: Some(_), .. } if is_there => Step::Confirm,
        Submitted::Hash { revealed: Some(at), .. } if head <= at + PATIENCE => Step::Wait,
        Submitted::Hash { .. } => {
            let (passed, period) = (epochs_since(pending.block, subnet), subnet.commit_reveal.map_or(0, |rule| rule.period));
            match passed {
                // at the edge of an epoch the count may be one too many: the chain says which
                _ if passed > period + 1 => Step::GiveUp("were not revealed in their epoch"),
                _ if passed >= period => Step::Reveal,
                _ => Step::Wait,
            }
        }
        _ => Step::Wait,
    }
}

/// Epochs that began since block `since`; exact if they are `tempo` apart, and none too few if a few blocks were put off.
fn epochs_since(since: u64, subnet: &Subnet) -> u64 {
    subnet.last_epoch.saturating_sub(since).div_ceil(subnet.tempo.max(1))
}

/// Whether a refused reveal can never succeed.
fn is_final(error: &ChainError) -> bool {
    matches!(
        error,
        ChainError::ExpiredWeightCommit
            | ChainError::NoWeightsCommitFound
            | ChainError::InvalidRevealCommitHashNotMatch
            | ChainError::CommitRevealDisabled
    )
}

fn salt() -> Result<Vec<u16>, SubmitError> {
    let mut bytes = [0; 2 * SALT];
    getrandom::fill(&mut bytes).map_err(|e| SubmitError::Random(e.to_string()))?;
    Ok(bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whole or not at all, and for its owner only.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = file.with_extension("tmp");
    let mut handle = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    handle.write_all(bytes)?;
    handle.sync_all()?;
    fs::rename(&temporary, file)?;
    file.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests;
