#![doc = include_str!("../README.md")]

pub mod computation;
mod error;
mod jury;
mod outcome;
pub mod plots;
mod population;
mod random;
pub mod report;
mod setup;
pub mod strategies;
mod strategy;
pub mod suite;
mod world;

use std::time::{Duration, Instant};

use chain::Chain as _;

pub use error::ArenaError;
pub use outcome::{MinerOutcome, Outcome, Payment, RoundOutcome, ValidatorOutcome, WeightRow};
pub use random::Random;
pub use setup::{Contender, Examiner, Setup, tiny};
pub use strategies::contenders;
pub use strategy::{Batch, Gradient, Key, Opened, Seconds, Sighting, Strategy, Submission, Turn};

use jury::Jury;
use population::Population;
use world::World;

/// Blocks without a record after which a bout is given up.
const PATIENCE: u64 = 500;
/// Time between two looks at whether all validators are still there.
const LOOK: Duration = Duration::from_secs(1);

/// Holds a bout from its first round to its last.
///
/// Blocks the thread for its length and must not be called from an async task. Tensor work uses one thread per participant.
///
/// # Errors
/// [`ArenaError`] says what made it impossible; what strategies upload never does.
pub fn run(setup: Setup) -> Result<Outcome, ArenaError> {
    setup.check()?;
    model::set_threads(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(hold(setup))
}

async fn hold(mut setup: Setup) -> Result<Outcome, ArenaError> {
    let start = Instant::now();
    let world = World::create(&setup).await?;
    let run = world.run().await?;
    let mut population = Population::create(&world, &mut setup, run.clone()).await?;
    let jury = Jury::start(&world, &setup)?;
    let played = play(&world, &mut population, &jury).await;
    let notes = jury.stop();
    // a validator that failed is why the bout ended
    let notes = match played {
        Err(ArenaError::Validator { .. }) | Ok(()) => notes?,
        Err(ArenaError::Stuck { round, blocks, .. }) => {
            let said = notes?.iter().filter_map(|n| n.warnings.last().cloned()).collect();
            return Err(ArenaError::Stuck { round, blocks, said });
        }
        Err(error) => return Err(error),
    };
    let mut seconds = *population.seconds();
    seconds.total = start.elapsed().as_secs_f64();
    let liars = setup.validators.iter().map(|v| v.distortion.is_some());
    let validators = world.validators.iter().zip(liars).zip(notes).map(|((seat, lies), notes)| (seat.clone(), lies, notes)).collect();
    let parameters = run.layout().parameters();
    Ok(population.into_chronicle().finish(run.id, setup.seed, parameters, validators, seconds))
}

/// Follows the chain block by block until all rounds are played.
async fn play(world: &World, population: &mut Population, jury: &Jury) -> Result<(), ArenaError> {
    let mut head = world.ledger.head().await?.number;
    loop {
        population.tick(head).await?;
        if population.is_done() {
            return Ok(());
        }
        let (round, record) = population.place();
        let blocks = head.saturating_sub(record);
        if blocks > PATIENCE {
            return Err(ArenaError::Stuck { round, blocks, said: Vec::new() });
        }
        let start = Instant::now();
        head = next(world, jury, head).await?;
        population.seconds().wait += start.elapsed().as_secs_f64();
    }
}

/// Waits for the next block as long as every validator is there.
async fn next(world: &World, jury: &Jury, head: u64) -> Result<u64, ArenaError> {
    loop {
        if let Ok(block) = tokio::time::timeout(LOOK, world.ledger.next_block(head)).await {
            return Ok(block?.number);
        }
        if let Some(number) = jury.lost() {
            return Err(ArenaError::Validator { number, problem: "it ended by itself".into() });
        }
    }
}
