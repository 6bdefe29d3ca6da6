//! What miner, validator and aggregator have in common: they follow the chain block by block, and survive what passes by itself.

use std::{fmt::Display, path::PathBuf, sync::Arc, time::Duration};

use chain::{Block, ChainError, LedgerError};
use protocol::{Hotkey, Keypair};
use storage::{Bucket, StorageError};
use tokio::task::JoinSet;

use crate::{
    Event, Events, Home, HomeError, Progress, Replica, Run, RunError, Shutdown, Step, Stopwatch, Sweep, keep_at, retention::newest_sound,
    sweep,
};

/// Pause before a chain that failed is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Who a node is.
#[derive(Debug)]
pub struct Identity {
    /// Its hotkey.
    pub keypair: Keypair,
    /// Its home directory.
    pub home: PathBuf,
    /// Its own bucket, writable.
    pub bucket: Bucket,
}

/// A node that follows the run.
#[derive(Debug)]
pub struct Follower {
    /// The run.
    pub run: Arc<Run>,
    /// The node's hotkey.
    pub keypair: Keypair,
    /// Its uid when it started.
    pub uid: u16,
    /// Its home directory.
    pub home: Arc<Home>,
    /// The folder of this run in its own bucket.
    pub bucket: Bucket,
    /// Its copy of the state.
    pub replica: Replica,
    /// Where its CPU time goes.
    pub watch: Stopwatch,
    /// Where its events go.
    pub events: Events,
    /// Whether it shall stop.
    pub shutdown: Shutdown,
    /// The newest block that was looked at.
    pub head: Option<u64>,
    /// The round whose divergence made it start over.
    restarted: Option<u64>,
    /// Lets go of what retention does not keep in the own bucket; at most one task, which ends with the node.
    sweeping: JoinSet<()>,
}

/// One of the ways to take part in a run.
pub trait Role {
    /// Why it stops.
    type Error: Passing + From<RunError>;

    /// The node behind it.
    fn node(&mut self) -> &mut Follower;

    /// Acts on all that the chain says up to now. On a request to stop it is dropped wherever it waits, which must be as good as a kill.
    fn tick(&mut self) -> impl Future<Output = Result<(), Self::Error>>;

    /// Ends what is still under way when the role was asked to stop.
    fn end(&mut self) -> impl Future<Output = Result<(), Self::Error>> {
        std::future::ready(Ok(()))
    }
}

/// Runs a role from block to block until it is asked to stop. A failure that may pass by itself costs a block, not the role.
///
/// # Errors
/// The role's, when going on makes no sense.
pub async fn follow<R: Role>(mut role: R) -> Result<(), R::Error> {
    let mut shutdown = role.node().shutdown.clone();
    while role.node().next_block().await? {
        let outcome = tokio::select! {
            outcome = role.tick() => outcome,
            () = shutdown.wait() => break,
        };
        match outcome {
            Err(error) if error.passes() => role.node().warn(format!("{error}; trying again at the next block")).await,
            outcome => outcome?,
        }
    }
    role.node().tell_usage().await;
    role.end().await
}

/// A failure that may be gone at the next block, or not.
pub trait Passing: Display {
    /// Whether trying again makes sense.
    fn passes(&self) -> bool;
}

impl Passing for StorageError {
    fn passes(&self) -> bool {
        true
    }
}

impl Passing for ChainError {
    fn passes(&self) -> bool {
        !matches!(self, Self::Ledger(LedgerError::Damaged { .. } | LedgerError::NotALedger(_) | LedgerError::Missing(_)))
    }
}

impl Passing for RunError {
    fn passes(&self) -> bool {
        match self {
            Self::Storage(error) => error.passes(),
            Self::Chain(error) => error.passes(),
            // the state is as it was; another lead's record may stand
            Self::Diverged { .. } | Self::Transition { .. } => true,
            _ => false,
        }
    }
}

impl Follower {
    /// Takes the home directory, says on the chain where the bucket is, and finds the replica to start with.
    ///
    /// # Errors
    /// [`RunError`] says what is missing.
    pub async fn start(run: Arc<Run>, identity: Identity, events: Events, shutdown: Shutdown) -> Result<Self, RunError> {
        let Identity { keypair, home, bucket } = identity;
        let home = Arc::new(Home::open(&home)?);
        home.claim(&run.id)?;
        let (netuid, hotkey) = (run.manifest.chain.netuid, keypair.hotkey());
        let head = run.chain.head().await?.number;
        let neurons = run.chain.neurons(netuid, head).await?;
        let uid = neurons.iter().find(|n| n.hotkey == hotkey).map(|n| n.uid);
        let uid = uid.ok_or(RunError::NotRegistered { hotkey, netuid })?;
        run.chain.set_bucket(&keypair, netuid, bucket.url()).await?;
        let replica = crate::join(&run, &home).await?;
        let bucket = bucket.join(&run.id.to_string());
        let watch = Stopwatch::default();
        let (head, restarted, sweeping) = (None, None, JoinSet::new());
        Ok(Self { run, keypair, uid, home, bucket, replica, watch, events, shutdown, head, restarted, sweeping })
    }

    /// The node's address.
    pub fn hotkey(&self) -> Hotkey {
        self.keypair.hotkey()
    }

    /// The round to come.
    pub fn round(&self) -> u64 {
        self.replica.anchor.round
    }

    /// Tells that the role is up.
    pub async fn ready(&self, uid: Option<u16>) {
        self.events.tell(Event::Ready { round: self.round(), uid, hotkey: self.hotkey().ss58() }).await;
    }

    /// Waits for a block that was not looked at yet; false once a stop is asked for.
    async fn next_block(&mut self) -> Result<bool, RunError> {
        loop {
            let error = tokio::select! {
                block = newer(&self.run, self.head) => match block {
                    Ok(block) => {
                        self.head = Some(block.number);
                        return Ok(true);
                    }
                    Err(error) if error.passes() => error,
                    Err(error) => return Err(error.into()),
                },
                () = self.shutdown.wait() => return Ok(false),
            };
            self.warn(format!("{error}; trying again")).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Looks at the log up to the newest block and takes at most one step. `None` before the run starts, when a stop is asked for, and
    /// when the replica now stands elsewhere:
    ///
    /// - After a divergence it stands where the log can be replayed from. If that leads to the same divergence, no second replay would help,
    ///   and the node contributes nothing until a record stands that it agrees with.
    /// - If what it waits for is older than retention keeps, it stands at a newer snapshot.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn advance(&mut self) -> Result<Option<Progress>, RunError> {
        if self.shutdown.requested() {
            return Ok(None);
        }
        let head = self.run.chain.head().await?.number;
        self.head = Some(head);
        if head < self.replica.anchor.open_block {
            return Ok(None);
        }
        match self.replica.advance(head, &mut self.watch).await {
            Err(error @ RunError::Diverged { round, .. }) if self.restarted != Some(round) => {
                self.restarted = Some(round);
                self.replica = self.begin_anew(round).await?;
                self.warn(format!("{error}: replaying the log from round {}", self.round())).await;
                Ok(None)
            }
            Ok(progress @ Progress::Awaiting(..)) => match self.overtaken().await? {
                None => Ok(Some(progress)),
                Some(newer) => {
                    let (round, next) = (self.round(), newer.anchor.round);
                    self.warn(format!(
                        "round {round}: its payloads are older than the run keeps; going on from the snapshot of round {next}"
                    ))
                    .await;
                    self.replica = newer;
                    Ok(None)
                }
            },
            progress => {
                let progress = progress?;
                if let Progress::Stepped(_) = progress {
                    self.sweep();
                }
                Ok(Some(progress))
            }
        }
    }

    /// Where the log can be replayed from up to `round`: genesis, or, where the run does not keep all payloads, a snapshot.
    async fn begin_anew(&self, round: u64) -> Result<Replica, RunError> {
        let snapshot = match self.run.manifest.retention.rounds {
            Some(_) => newest_sound(&self.run, 1, round).await?,
            None => None,
        };
        snapshot.map_or_else(|| Replica::genesis(self.run.clone()), Ok)
    }

    /// A newer replica, if this one stands at a round whose payloads the run no longer keeps.
    async fn overtaken(&self) -> Result<Option<Replica>, RunError> {
        match self.run.manifest.retention.rounds {
            Some(rounds) => newest_sound(&self.run, self.round() + rounds + 1, u64::MAX).await,
            None => Ok(None),
        }
    }

    /// Once between two snapshots, lets go of what the manifest's retention does not keep in the own bucket, beside the work of the rounds
    /// to come. What this node itself still has to catch up with stays, since the rounds to keep are counted back from where it stands.
    fn sweep(&mut self) {
        let (manifest, round) = (&self.run.manifest, self.round());
        let is_due = manifest.retention.rounds.is_some() && round.is_multiple_of(manifest.checkpoints.every);
        while self.sweeping.try_join_next().is_some() {}
        if !is_due || !self.sweeping.is_empty() {
            return;
        }
        let (run, bucket, events) = (self.run.clone(), self.bucket.clone(), self.events.clone());
        self.sweeping.spawn(async move {
            let freed = async {
                let keep = keep_at(&run, round).await?;
                Ok::<_, RunError>(sweep(&bucket, &keep, Sweep::Delete, |_, _, _| ()).await?)
            };
            match freed.await {
                Ok(freed) if freed.objects == 0 => {}
                Ok(freed) => events.tell(Event::Freed { round, objects: freed.objects, bytes: freed.bytes }).await,
                Err(error) => events.tell(Event::Warning { message: format!("freeing the own bucket: {error}; trying again later") }).await,
            }
        });
    }

    /// Makes the state after `step` durable and tells of it. What else a role keeps of the round must be durable before: the round is not
    /// looked at again.
    ///
    /// # Errors
    /// [`RunError::Home`].
    pub async fn keep(&self, step: &Step) -> Result<(), RunError> {
        self.home.save_replica(&self.replica)?;
        self.events.tell(step.event()).await;
        Ok(())
    }

    /// What makes the state durable, on any thread, whatever the node does meanwhile.
    pub fn keeping(&self) -> impl FnOnce() -> Result<(), HomeError> + Send + 'static {
        let (home, state, anchor, root) = (self.home.clone(), self.replica.state.clone(), self.replica.anchor.clone(), self.replica.root);
        move || home.save_state(&state, &anchor, root)
    }

    /// Tells of something that was survived.
    pub async fn warn(&self, message: String) {
        self.events.tell(Event::Warning { message }).await;
    }

    /// Tells bytes and CPU time so far.
    pub async fn tell_usage(&self) {
        let usage = Event::Usage { up: self.bucket.traffic().up, down: self.run.downloaded(), cpu: self.watch.split() };
        self.events.tell(usage).await;
    }
}

async fn newer(run: &Run, seen: Option<u64>) -> Result<Block, ChainError> {
    match seen {
        None => run.chain.head().await,
        Some(after) => run.chain.next_block(after).await,
    }
}
