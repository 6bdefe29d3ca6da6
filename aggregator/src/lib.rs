#![doc = include_str!("../README.md")]

use std::sync::Arc;

use checkpoints::{Event, Events, Follower, Identity, Phase, Progress, Role, Run, RunError, Shutdown, Step};
use protocol::ObjectKey;

/// A running aggregator.
#[derive(Debug)]
pub struct Aggregator {
    node: Follower,
}

impl Aggregator {
    /// Restores an aggregator from its home directory, or starts a new one.
    ///
    /// # Errors
    /// [`RunError`] says what is missing.
    pub async fn start(run: Arc<Run>, identity: Identity, events: Events, shutdown: Shutdown) -> Result<Self, RunError> {
        let node = Follower::start(run, identity, events, shutdown).await?;
        node.ready(None).await;
        Ok(Self { node })
    }

    /// Follows the chain, block by block, until asked to stop.
    ///
    /// # Errors
    /// [`RunError`], when going on makes no sense.
    pub async fn run(self) -> Result<(), RunError> {
        checkpoints::follow(self).await
    }

    /// Publishes a record's payloads as one bundle, then makes the new state durable.
    async fn publish(&mut self, step: &Step) -> Result<(), RunError> {
        let round = step.record.value.round;
        // a record that applies nothing has no bundle
        let payloads: Vec<_> = step.payloads.iter().collect();
        if let Ok(bundle) = self.node.watch.compute(Phase::Compress, || compression::encode_bundle(&payloads)) {
            let bytes = bundle.len() as u64;
            match self.node.bucket.put_large(&ObjectKey::Bundle(round), bundle.into()).await {
                Ok(()) => self.node.events.tell(Event::Published { round, what: "bundle".into(), bytes }).await,
                // everybody can fetch the payloads one by one
                Err(error) => self.node.warn(format!("bundle of round {round}: {error}; there will be none")).await,
            }
        }
        self.node.keep(step).await?;
        self.node.tell_usage().await;
        Ok(())
    }
}

impl Role for Aggregator {
    type Error = RunError;

    fn node(&mut self) -> &mut Follower {
        &mut self.node
    }

    async fn tick(&mut self) -> Result<(), RunError> {
        while let Some(Progress::Stepped(step)) = self.node.advance_and_copy().await? {
            self.publish(&step).await?;
        }
        Ok(())
    }
}
