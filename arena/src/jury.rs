//! The validators of a bout: real ones, each on its own thread with its own handle on the ledger and its own home.

use std::{path::PathBuf, sync::Arc, thread::JoinHandle};

use chain::Ledger;
use checkpoints::{Event, Events, Identity, Run, Shutdown, Stopper};
use dataset::Dataset;
use gauntlet::{Distortion, Validator, ValidatorOptions};
use model::Device;
use storage::Access;

use crate::{
    ArenaError, Setup,
    world::{World, validator_name},
};

/// What a validator said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// Contradictions of other leads' sheets.
    pub dissents: u32,
    /// What went wrong and was survived.
    pub warnings: Vec<String>,
}

/// The running validators.
pub(crate) struct Jury {
    stopper: Stopper,
    threads: Vec<JoinHandle<Result<Notes, ArenaError>>>,
}

/// What a validator's thread starts with.
struct Post {
    number: usize,
    ledger: PathBuf,
    url: String,
    identity: Identity,
    dataset: Arc<Dataset>,
    distortion: Option<Distortion>,
}

impl Jury {
    /// Starts all validators.
    pub fn start(world: &World, setup: &Setup) -> Result<Self, ArenaError> {
        let (stopper, shutdown) = Shutdown::pair();
        let mut jury = Self { stopper, threads: Vec::new() };
        for (number, (seat, examiner)) in world.validators.iter().zip(&setup.validators).enumerate() {
            let identity = Identity { keypair: seat.keypair.clone(), home: world.home(number), bucket: world.bucket(seat)? };
            let post = Post {
                number,
                ledger: world.ledger_path(),
                url: world.url.clone(),
                identity,
                dataset: world.dataset.clone(),
                distortion: examiner.distortion.clone(),
            };
            let shutdown = shutdown.clone();
            jury.threads.push(std::thread::Builder::new().name(validator_name(number)).spawn(move || serve(post, shutdown))?);
        }
        Ok(jury)
    }

    /// The first validator that stopped by itself, if one did.
    pub fn lost(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    /// Stops all validators and returns what they said.
    pub fn stop(mut self) -> Result<Vec<Notes>, ArenaError> {
        self.stopper.stop();
        let ended = |(number, thread): (usize, JoinHandle<Result<Notes, ArenaError>>)| match thread.join() {
            Ok(notes) => notes,
            Err(_) => Err(ArenaError::Validator { number, problem: "it panicked".into() }),
        };
        // all are waited for, whatever the first one says
        let ended: Vec<_> = std::mem::take(&mut self.threads).into_iter().enumerate().map(ended).collect();
        ended.into_iter().collect()
    }
}

impl Drop for Jury {
    /// A bout that fails leaves no validator behind.
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

/// One validator's life.
fn serve(post: Post, shutdown: Shutdown) -> Result<Notes, ArenaError> {
    let number = post.number;
    let lost = |problem: String| ArenaError::Validator { number, problem };
    let ledger = Ledger::open(&post.ledger)?;
    ledger.join(&validator_name(number))?;
    // measuring blocks the thread it runs on, which only a runtime of several allows
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let (events, mut received) = Events::channel();
        let listener = tokio::spawn(async move {
            let mut notes = Notes::default();
            while let Some(event) = received.recv().await {
                match event {
                    Event::Dissent { .. } => notes.dissents += 1,
                    Event::Warning { message } => notes.warnings.push(message),
                    _ => {}
                }
            }
            notes
        });
        let run = Run::open(&post.url, Arc::new(ledger), Access::Trusted).await?;
        let validator = Validator::start(run, options(post), events, shutdown).await.map_err(|e| lost(e.to_string()))?;
        validator.run().await.map_err(|e| lost(e.to_string()))?;
        // the validator dropped its sender, so the listener ends
        listener.await.map_err(|e| lost(e.to_string()))
    })
}

/// The population measures held-out losses once for all.
fn options(post: Post) -> ValidatorOptions {
    let Post { identity, dataset, distortion, .. } = post;
    ValidatorOptions { identity, dataset, device: Device::Cpu, held_out: 0, distortion }
}
