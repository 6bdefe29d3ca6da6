#![doc = include_str!("../README.md")]

use std::{path::PathBuf, sync::Arc};

use chain::ChainError;
use checkpoints::{Event, Events, Home, HomeError, Progress, Replica, Run, RunError, Shutdown, Step, Stopwatch};
use protocol::{Keypair, ObjectKey};
use storage::Bucket;

/// Why an aggregator stops.
#[derive(Debug, thiserror::Error)]
pub enum AggregatorError {
    /// Following the run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The home directory failed.
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// What an aggregator needs besides the run.
#[derive(Debug)]
pub struct AggregatorOptions {
    /// Its hotkey.
    pub keypair: Keypair,
    /// Its home directory.
    pub home: PathBuf,
    /// Its own bucket, writable.
    pub bucket: Bucket,
}

/// A running aggregator.
#[derive(Debug)]
pub struct Aggregator {
    run: Arc<Run>,
    home: Home,
    bucket: Bucket,
    replica: Replica,
    watch: Stopwatch,
    events: Events,
    shutdown: Shutdown,
}

impl Aggregator {
    /// Restores an aggregator from its home directory, or starts a new one.
    ///
    /// # Errors
    /// [`AggregatorError`] says what is missing.
    pub async fn start(run: Arc<Run>, options: AggregatorOptions, events: Events, shutdown: Shutdown) -> Result<Self, AggregatorError> {
        let home = Home::open(&options.home)?;
        run.chain.set_bucket(&options.keypair, run.manifest.chain.netuid, options.bucket.url()).await?;
        let replica = checkpoints::join(&run, &home).await?;
        events.tell(Event::Ready { round: replica.anchor.round, uid: None, hotkey: options.keypair.hotkey().ss58() }).await;
        let bucket = options.bucket.join(&run.id.to_string());
        Ok(Self { run, home, bucket, replica, watch: Stopwatch::default(), events, shutdown })
    }

    /// Follows the chain, block by block, until asked to stop.
    ///
    /// # Errors
    /// [`AggregatorError`], when going on makes no sense.
    pub async fn run(mut self) -> Result<(), AggregatorError> {
        let mut head = self.run.chain.head().await?.number;
        while !self.shutdown.requested() {
            while let Some(step) = self.advance(head).await? {
                self.publish(&step).await?;
            }
            let chain = self.run.chain.clone();
            head = tokio::select! {
                block = chain.next_block(head) => block?.number,
                () = self.shutdown.wait() => break,
            };
        }
        Ok(())
    }

    async fn advance(&mut self, head: u64) -> Result<Option<Box<Step>>, AggregatorError> {
        match self.replica.advance(head, &mut self.watch).await {
            Ok(Progress::Stepped(step)) => Ok(Some(step)),
            Ok(_) => Ok(None),
            Err(error @ RunError::Diverged { .. }) => {
                self.events.tell(Event::Warning { message: format!("{error}: replaying the log from genesis") }).await;
                self.replica = Replica::genesis(self.run.clone())?;
                Ok(None)
            }
            Err(RunError::Storage(error)) => {
                self.events.tell(Event::Warning { message: format!("{error}; trying again at the next block") }).await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Publishes a record's payloads as one bundle, then makes the new state durable.
    async fn publish(&mut self, step: &Step) -> Result<(), AggregatorError> {
        let round = step.record.value.round;
        // a record that applies nothing has no bundle
        if let Ok(bundle) = compression::encode_bundle(&step.payloads.iter().collect::<Vec<_>>()) {
            let bytes = bundle.len() as u64;
            let published = match self.bucket.put(&ObjectKey::Bundle(round), bundle.into()).await {
                Ok(()) => Event::Published { round, what: "bundle".into(), bytes },
                Err(error) => Event::Warning { message: format!("bundle of round {round}: {error}") },
            };
            self.events.tell(published).await;
        }
        self.home.save_replica(&self.replica)?;
        self.events.tell(step.event()).await;
        let usage = Event::Usage { up: self.bucket.traffic().up, down: self.run.downloaded(), cpu: self.watch.split() };
        self.events.tell(usage).await;
        Ok(())
    }
}
