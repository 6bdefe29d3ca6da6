//! All miners of a bout as one participant: one replica of the run, one model that each trains in turn, a bucket for each.

use std::{sync::Arc, time::Instant};

use checkpoints::{Close, Progress, Replica, Run, Step, Stopwatch};
use compression::{ErrorFeedback, Payload};
use dataset::{Dataset, Split};
use model::{Device, InnerOptimizer, Llama};
use protocol::{Digest, Keypair, ObjectKey, Signed};
use storage::Bucket;

use crate::{
    ArenaError, Contender, Key, Setup, Strategy, Submission,
    outcome::{Chronicle, WeightRow},
    random::Random,
    strategy::{Bench, Kit, Opened, Seconds, Sighting, Turn, View},
    world::World,
};

/// Held-out sequences that are measured at once.
const EVALUATED: usize = 16;

/// The miners of a bout.
pub(crate) struct Population {
    run: Arc<Run>,
    replica: Replica,
    watch: Stopwatch,
    bench: Bench,
    players: Vec<Player>,
    held_out: Vec<Vec<u32>>,
    measure_every: u64,
    rounds: u64,
    history: Vec<Vec<Opened>>,
    /// The round in which all have acted.
    acted: Option<u64>,
    chronicle: Chronicle,
}

/// One miner.
struct Player {
    strategy: Box<dyn Strategy>,
    keypair: Keypair,
    bucket: Bucket,
    kit: Kit,
    submission: Option<Sent>,
}

/// A submission and what became of it.
struct Sent {
    submission: Submission,
    /// Its signed bytes, once signed.
    envelope: Vec<u8>,
    uploaded: bool,
    published: Option<Vec<u8>>,
    /// What its published key opens.
    opened: Option<Payload>,
}

impl Population {
    /// All miners at genesis, their buckets on the chain.
    pub async fn create(world: &World, setup: &mut Setup, run: Arc<Run>) -> Result<Self, ArenaError> {
        let model = Llama::new(&run.manifest.model, Device::Cpu)?;
        let mut players = Vec::new();
        for (seat, Contender { strategy, class }) in world.miners.iter().zip(std::mem::take(&mut setup.miners)) {
            let bucket = world.bucket(seat)?;
            run.chain.set_bucket(&seat.keypair, run.manifest.chain.netuid, bucket.url()).await?;
            let kit = Kit {
                uid: seat.uid,
                hotkey: seat.keypair.hotkey(),
                optimizer: InnerOptimizer::new(&model, &run.manifest.inner)?,
                feedback: ErrorFeedback::zeros(run.layout()),
                sent: None,
                random: Random::new(setup.seed, &format!("{class} {}", seat.uid)),
            };
            let bucket = bucket.join(&run.id.to_string());
            players.push((class, Player { strategy, keypair: seat.keypair.clone(), bucket, kit, submission: None }));
        }
        let chronicle = Chronicle::new(players.iter().map(|(class, p)| (p.kit.uid, class.clone(), p.strategy.name())));
        Ok(Self {
            replica: Replica::genesis(run.clone())?,
            held_out: held_out(&world.dataset, run.manifest.model.sequence_length, setup.held_out)?,
            bench: Bench { dataset: world.dataset.clone(), model, seconds: Seconds::default() },
            watch: Stopwatch::default(),
            players: players.into_iter().map(|(_, player)| player).collect(),
            measure_every: setup.measure_every,
            rounds: setup.rounds,
            history: Vec::new(),
            acted: None,
            chronicle,
            run,
        })
    }

    /// Whether all rounds are played.
    pub fn is_done(&self) -> bool {
        self.replica.anchor.round >= self.rounds
    }

    /// The round to come, and the block from which the record before it counts.
    pub fn place(&self) -> (u64, u64) {
        (self.replica.anchor.round, self.replica.anchor.since)
    }

    /// Where the time goes.
    pub fn seconds(&mut self) -> &mut Seconds {
        &mut self.bench.seconds
    }

    /// What happened so far.
    pub fn into_chronicle(self) -> Chronicle {
        self.chronicle
    }

    /// Does all that is to be done at block `head`.
    pub async fn tick(&mut self, head: u64) -> Result<(), ArenaError> {
        if self.replica.anchor.round == 0 && self.chronicle.is_new() {
            self.measure()?;
        }
        while head >= self.replica.anchor.open_block && !self.is_done() {
            let start = Instant::now();
            let progress = self.replica.advance(head, &mut self.watch).await?;
            self.bench.seconds.follow += start.elapsed().as_secs_f64();
            match progress {
                Progress::Stepped(step) => self.settle(&step, head).await?,
                Progress::Training(_) => return self.act().await,
                Progress::Closed(_, close) => return self.reveal(&close, head).await,
                Progress::Pending(..) | Progress::Awaiting(..) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Every miner's turn, once per round: those that wait for others' uploads last.
    async fn act(&mut self) -> Result<(), ArenaError> {
        let round = self.replica.anchor.round;
        if self.acted == Some(round) {
            return Ok(());
        }
        let Some(open) = self.run.chain.block(self.replica.anchor.open_block).await? else { return Ok(()) };
        let mut sealed = Vec::new();
        for waits in [false, true] {
            for player in self.players.iter_mut().filter(|p| p.strategy.waits() == waits) {
                let view = View {
                    run: &self.run,
                    round,
                    root: self.replica.root,
                    open: open.hash,
                    base: self.replica.state.model(),
                    history: &self.history,
                    sealed: &sealed,
                };
                player.act(&view, &mut self.bench)?;
                let start = Instant::now();
                sealed.extend(player.upload(round, false).await?);
                self.bench.seconds.upload += start.elapsed().as_secs_f64();
            }
        }
        self.acted = Some(round);
        Ok(())
    }

    /// After the close: what is uploaded late, and the keys that are due.
    async fn reveal(&mut self, close: &Close, head: u64) -> Result<(), ArenaError> {
        let (round, start) = (self.replica.anchor.round, Instant::now());
        for player in &mut self.players {
            player.upload(round, true).await?;
        }
        let listed = |envelope: &[u8]| close.list.value.entries.iter().any(|e| e.envelope == envelope);
        // copied keys last: they can be copied only once they are there
        for copies in [false, true] {
            let published: Vec<(u16, Vec<u8>)> = self.players.iter().filter_map(Player::published).collect();
            for player in &mut self.players {
                if player.is_due(head - close.block, copies) && player.submission.as_ref().is_some_and(|s| listed(&s.envelope)) {
                    player.publish(round, &published).await?;
                    player.open(&self.run, &mut self.replica);
                }
            }
        }
        self.bench.seconds.upload += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// After a record: error feedback, history, and what the ledger says.
    async fn settle(&mut self, step: &Step, head: u64) -> Result<(), ArenaError> {
        let round = step.record.value.round;
        let applied = |digest: Digest| step.record.value.applied.iter().any(|a| a.payload == digest);
        let mut opened = Vec::new();
        for player in &mut self.players {
            if let Some(sent) = player.kit.sent.take_if(|sent| !applied(Digest::of(sent)))
                && self.run.manifest.compression.reabsorb
            {
                player.kit.feedback.absorb(&Payload::parse(&sent, &self.run.format)?)?;
            }
            if let Some(payload) = player.submission.take().and_then(|sent| sent.opened) {
                let applied = applied(Digest(payload.digest()));
                opened.push(Opened { uid: player.kit.uid, payload, applied });
            }
            player.kit.sent = None;
        }
        self.history.push(opened);
        let netuid = self.run.manifest.chain.netuid;
        let neurons = self.run.chain.neurons(netuid, head).await?;
        let mut weights = Vec::new();
        for validator in neurons.iter().filter(|n| n.permit) {
            let row = self.run.chain.weights(netuid, validator.uid).await?;
            weights.push(WeightRow { uid: validator.uid, stake: validator.stake, weights: row });
        }
        self.chronicle.round(step, (&self.replica.terms.judge, &self.run.manifest.pay), head, (&neurons, weights));
        let done = round + 1;
        if done.is_multiple_of(self.measure_every) || done == self.rounds {
            self.measure()?;
        }
        Ok(())
    }

    /// Held-out loss of the state as it is, in bits per byte.
    fn measure(&mut self) -> Result<(), ArenaError> {
        let start = Instant::now();
        let Bench { dataset, model, .. } = &mut self.bench;
        model.load(self.replica.state.model())?;
        let mut nats = 0.0;
        for batch in self.held_out.chunks(EVALUATED) {
            nats += model.sequence_losses(batch)?.iter().sum::<f64>();
        }
        let tokens = self.held_out.len() * self.run.manifest.model.sequence_length;
        let bytes = tokens as f64 * dataset.bytes_per_token(Split::HeldOut);
        self.chronicle.held_out(self.replica.anchor.round, nats / std::f64::consts::LN_2 / bytes);
        self.bench.seconds.measure += start.elapsed().as_secs_f64();
        Ok(())
    }
}

impl Player {
    fn act(&mut self, view: &View<'_>, bench: &mut Bench) -> Result<(), ArenaError> {
        let (start, trained) = (Instant::now(), bench.seconds.train);
        let made = self.strategy.act(&mut Turn { view, bench, kit: &mut self.kit });
        let training = bench.seconds.train - trained;
        bench.seconds.craft += start.elapsed().as_secs_f64() - training;
        let submission = match made {
            Err(error) if error.is_numeric() => None,
            made => made?,
        };
        self.submission = submission.map(|submission| {
            let envelope = Signed::new(submission.envelope.clone(), &self.keypair).to_bytes().to_vec();
            Sent { submission, envelope, uploaded: false, published: None, opened: None }
        });
        Ok(())
    }

    /// Uploads payload and envelope, if now is the time; what others can see of it.
    async fn upload(&mut self, round: u64, late: bool) -> Result<Option<Sighting>, ArenaError> {
        let Some(sent) = self.submission.as_mut().filter(|s| !s.uploaded && s.submission.late == late) else { return Ok(None) };
        let Submission { envelope, sealed, .. } = &sent.submission;
        self.bucket.put(&ObjectKey::Payload(round), sealed.clone().into()).await?;
        self.bucket.put(&ObjectKey::Envelope(round), sent.envelope.clone().into()).await?;
        sent.uploaded = true;
        Ok(Some(Sighting { uid: self.kit.uid, envelope: envelope.clone(), sealed: sealed.clone() }))
    }

    /// Whether its key is to be published so many blocks after the close.
    fn is_due(&self, blocks: u64, copies: bool) -> bool {
        let Some(sent) = &self.submission else { return false };
        let copied = matches!(sent.submission.key, Key::CopyOf(_));
        sent.published.is_none() && copied == copies && blocks >= sent.submission.delay
    }

    fn published(&self) -> Option<(u16, Vec<u8>)> {
        Some((self.kit.uid, self.submission.as_ref()?.published.clone()?))
    }

    async fn publish(&mut self, round: u64, others: &[(u16, Vec<u8>)]) -> Result<(), ArenaError> {
        let Some(sent) = &mut self.submission else { return Ok(()) };
        let key = match &sent.submission.key {
            Key::Publish(key) => Some(key),
            Key::CopyOf(victim) => others.iter().find(|(uid, _)| uid == victim).map(|(_, key)| key),
            Key::Withhold => None,
        };
        let Some(key) = key.cloned() else { return Ok(()) };
        self.bucket.put(&ObjectKey::PayloadKey(round), key.clone().into()).await?;
        sent.published = Some(key);
        Ok(())
    }

    /// Reads what the published key opens, as everybody can from now on.
    fn open(&mut self, run: &Run, replica: &mut Replica) {
        let Some(sent) = self.submission.as_mut().filter(|s| s.published.is_some()) else { return };
        let is_claimed = Digest::of(&sent.submission.opened) == sent.submission.envelope.payload;
        sent.opened = Payload::parse(&sent.submission.opened, &run.format).ok().filter(|_| is_claimed);
        if let Some(payload) = &sent.opened {
            replica.remember(payload.clone());
        }
    }
}

/// Windows spread evenly over the held-out text.
fn held_out(dataset: &Dataset, length: usize, count: u64) -> Result<Vec<Vec<u32>>, ArenaError> {
    let windows = dataset.windows(Split::HeldOut, length);
    let count = count.min(windows);
    Ok((0..count).map(|i| dataset.window(Split::HeldOut, i * windows / count, length)).collect::<Result<_, _>>()?)
}
