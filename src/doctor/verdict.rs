//! Whether a machine can mine a run, and at what share of a round. Pure: figures in, verdict out.

use protocol::Manifest;
use serde::Serialize;

use super::machine::Pace;
use crate::check::{BLOCK_SECONDS, Costs, Memory, Saving, offloaded_bytes};
use crate::plan::link::Link;
use crate::plan::round::{Node, Source, Term, timeline};
use crate::plan::size::{Host, home_bytes};

/// Blocks after which what is said on Subtensor is final; none of a miner's own terms depends on it.
const FINALITY: u64 = 3;

/// What computing layers again adds to an inner step's arithmetic: a second pass forward, beside one forward and two backward.
const RECOMPUTING: f64 = 1.0 / 3.0;

/// What a machine has, in figures.
#[derive(Clone, Debug)]
pub struct Means {
    /// GPUs that train; none, and the CPU does.
    pub gpus: u64,
    /// Bytes of theirs together.
    pub gpu_bytes: u64,
    /// Bytes of the host.
    pub host_bytes: u64,
    /// Of its CPU.
    pub cores: f64,
    /// Durable bytes per second of the home's disk.
    pub disk: f64,
    /// Bytes that are free there.
    pub disk_bytes: u64,
    /// To the store.
    pub link: Link,
}

/// Room that a run needs, and that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Room {
    /// `GPU` or `host`, whose memory it is, or `disk`.
    pub of: &'static str,
    /// Bytes that are needed.
    pub needed_bytes: u64,
    /// Bytes that are there.
    pub there_bytes: u64,
}

impl Room {
    /// What a run that does not fit is bound by.
    fn short(&self) -> Option<&'static str> {
        let binds = if self.of == "disk" { "disk" } else { "memory" };
        (self.needed_bytes > self.there_bytes).then_some(binds)
    }
}

/// What a machine makes of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The run's.
    pub name: String,
    /// Whether it can mine it: there is room, time for an inner step, and the payload is up before the close.
    pub mines: bool,
    /// The term of a round that keeps it from mining, or from all of its inner steps: `memory`, `device`, `disk`, `cores`, `link` or `connections`.
    pub binds: Option<&'static str>,
    /// In the memory of the devices that train and of the host, and on the disk.
    pub rooms: Vec<Room>,
    /// What GPUs have to save for that.
    pub saving: Saving,
    /// How fast it trains.
    #[serde(flatten)]
    pub pace: Pace,
    /// How fast it would have to for all inner steps; `None` if no time is left for any.
    pub needed_tokens_per_second: Option<f64>,
    /// Inner steps that it completes in the training time.
    pub inner_steps: u32,
    /// Those that the run has.
    pub of_inner_steps: u32,
    /// Seconds of them.
    pub training_seconds: f64,
    /// Seconds from the last of them until the payload is up.
    pub sealing_seconds: f64,
    /// Seconds from the record to the first inner step, a part of the training time.
    pub applying_seconds: f64,
    /// The longest that the round takes with its first leads.
    pub round_seconds: u64,
    /// The part of it that is spent in inner steps.
    pub share: f64,
}

/// Judges one run. `pace` is how fast all devices that train are on its tokens.
pub fn verdict(manifest: &Manifest, costs: &Costs, means: &Means, mut pace: Pace) -> Verdict {
    let saving = saving(manifest, means);
    if saving.recompute {
        pace.tokens_per_second *= 1.0 / (1.0 + RECOMPUTING);
    }
    let node = Node { cores: means.cores, disk: means.disk, tokens_per_second: Some(pace.tokens_per_second), finality: FINALITY };
    let round = timeline(manifest, costs, &means.link, &node, Source::Raw);
    let [sealing, applying] = [seconds(round.sealing()), seconds(round.applying())];
    let window = (costs.training_seconds as f64 - applying).max(0.0);
    let all = costs.tokens_per_miner as f64 / pace.tokens_per_second;
    let of_inner_steps = manifest.inner.steps;
    let step = all / f64::from(of_inner_steps);
    // as many as come to their end
    let inner_steps = of_inner_steps.min((window / step) as u32);
    let training = f64::from(inner_steps) * step;
    let rooms = rooms(manifest, costs, means, saving);
    let short = rooms.iter().find_map(Room::short);
    let late = applying + training + sealing > (manifest.round.train * BLOCK_SECONDS) as f64;
    let binds = match () {
        () if short.is_some() => short,
        () if late => longest(round.sealing().chain(round.applying())),
        () if inner_steps == of_inner_steps => None,
        () if all > applying => Some("device"),
        () => longest(round.applying()),
    };
    Verdict {
        name: costs.name.clone(),
        mines: inner_steps > 0 && short.is_none() && !late,
        binds,
        rooms,
        saving,
        pace,
        needed_tokens_per_second: (window > 0.0).then(|| costs.tokens_per_miner as f64 / window),
        inner_steps,
        of_inner_steps,
        training_seconds: training,
        sealing_seconds: sealing,
        applying_seconds: applying,
        round_seconds: costs.round_seconds,
        share: training / costs.round_seconds as f64,
    }
}

/// The cheapest way to fit into the GPUs, or the one that needs least if none does.
fn saving(manifest: &Manifest, means: &Means) -> Saving {
    let fits = |saving: &Saving| Memory::of(manifest, means.gpus, *saving).total() <= means.gpu_bytes;
    match means.gpus {
        0 => Saving::default(),
        _ => Saving::ALL.into_iter().find(fits).unwrap_or(Saving { offload: true, recompute: true }),
    }
}

/// GPUs hold the training's state, the host what goes to the disk and comes from stores. Without GPUs the host holds both.
fn rooms(manifest: &Manifest, costs: &Costs, means: &Means, saving: Saving) -> Vec<Room> {
    let training = Memory::of(manifest, means.gpus.max(1), saving).total();
    let offloaded = if saving.offload { offloaded_bytes(costs) } else { 0 };
    let host = Host::of(costs).miner_bytes.saturating_add(offloaded);
    let room = |of, needed_bytes, there_bytes| Room { of, needed_bytes, there_bytes };
    let disk = room("disk", home_bytes(costs), means.disk_bytes);
    if means.gpus == 0 {
        vec![room("host", training.saturating_add(host), means.host_bytes), disk]
    } else {
        vec![room("GPU", training, means.gpu_bytes), room("host", host, means.host_bytes), disk]
    }
}

fn seconds<'a>(terms: impl Iterator<Item = &'a Term>) -> f64 {
    terms.map(|term| term.seconds).sum()
}

/// What the longest of some terms is bound by.
fn longest<'a>(terms: impl Iterator<Item = &'a Term>) -> Option<&'static str> {
    terms.max_by(|a, b| a.seconds.total_cmp(&b.seconds)).map(|term| term.bound)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use protocol::RunConfig;
    use storage::Budget;

    use super::*;

    fn run(config: &str) -> (Manifest, Costs) {
        let manifest = Manifest::draft(RunConfig::parse(config).unwrap()).unwrap();
        let costs = Costs::of(&manifest, None, 3);
        (manifest, costs)
    }

    fn one_b() -> (Manifest, Costs) {
        run(include_str!("../../configs/1b.toml"))
    }

    fn link(mbit: f64) -> Link {
        Link { up: mbit, down: mbit, rtt: 0.05, loss: 0.0, budget: Budget::default() }
    }

    /// A GPU of 141 GB in a good host.
    fn server() -> Means {
        let [gpu_bytes, host_bytes, disk_bytes] = [141_000_000_000, 256_000_000_000, 1_000_000_000_000];
        Means { gpus: 1, gpu_bytes, host_bytes, cores: 16.0, disk: 5e9, disk_bytes, link: link(1000.0) }
    }

    fn pace(tokens_per_second: f64) -> Pace {
        Pace { tokens_per_second, measured: false }
    }

    fn judge((manifest, costs): &(Manifest, Costs), means: &Means, tokens_per_second: f64) -> Verdict {
        verdict(manifest, costs, means, pace(tokens_per_second))
    }

    #[test]
    fn a_machine_that_is_fast_enough_does_all_inner_steps() {
        let one_b = one_b();
        // 30 steps of 128 · 2048 tokens in 78.6 s, of a round of 19 blocks
        let fast = judge(&one_b, &server(), 1e5);
        assert!((fast.mines, fast.binds, fast.inner_steps, fast.of_inner_steps) == (true, None, 30, 30), "{fast:?}");
        assert!((fast.training_seconds - 78.6432).abs() < 1e-6 && (fast.share - 78.6432 / 228.0).abs() < 1e-9, "{fast:?}");
        assert!(fast.applying_seconds > 0.0 && fast.sealing_seconds > 0.0);
        // what it needs is more than the training time alone would ask for, since the record has to be applied first
        let needed = fast.needed_tokens_per_second.unwrap();
        assert!(needed > 30.0 * 128.0 * 2048.0 / 156.0 && needed < 1e5, "{needed}");
        assert_eq!(judge(&one_b, &server(), needed * 1.001).inner_steps, 30);
        assert_eq!(judge(&one_b, &server(), needed * 0.999).inner_steps, 29);
    }

    #[test]
    fn a_slow_device_does_fewer_and_too_slow_a_one_none() {
        let one_b = one_b();
        let slow = judge(&one_b, &server(), 2e4);
        assert!(slow.mines && slow.binds == Some("device") && (1..30).contains(&slow.inner_steps), "{slow:?}");
        assert!((slow.training_seconds - f64::from(slow.inner_steps) * 128.0 * 2048.0 / 2e4).abs() < 1e-6);
        let hopeless = judge(&one_b, &server(), 100.0);
        assert_eq!((hopeless.mines, hopeless.binds, hopeless.inner_steps, hopeless.share), (false, Some("device"), 0, 0.0));
        assert!(!judge(&one_b, &server(), f64::MIN_POSITIVE).mines);
    }

    #[test]
    fn gpus_host_and_disk_must_have_room() {
        let one_b = one_b();
        let of_gpu = |saving| Memory::of(&one_b.0, 1, saving).total();
        let (training, host) = (of_gpu(Saving::default()), Host::of(&one_b.1).miner_bytes);
        let small = |change: fn(&mut Means, u64), bytes| {
            let mut means = server();
            change(&mut means, bytes);
            let verdict = judge(&one_b, &means, 1e5);
            (verdict.mines, verdict.binds)
        };
        let gpu: fn(&mut Means, u64) = |means, bytes| means.gpu_bytes = bytes;
        // each way to save is taken when the one before it does not do
        for (number, saving) in Saving::ALL.into_iter().enumerate() {
            let verdict = judge(&one_b, &Means { gpu_bytes: of_gpu(saving), ..server() }, 1e6);
            assert_eq!((verdict.mines, verdict.saving), (true, saving));
            let [_, host_room, _] = verdict.rooms[..] else { panic!("{verdict:?}") };
            assert_eq!(host_room.needed_bytes, host + if saving.offload { 8 * one_b.1.parameters } else { 0 });
            assert_eq!(verdict.pace.tokens_per_second, if number < 2 { 1e6 } else { 750_000.0 });
        }
        let least = of_gpu(Saving::ALL[3]);
        assert!(Saving::ALL.map(of_gpu).is_sorted_by(|more, less| more > less) && training > least);
        assert_eq!([small(gpu, least).1, small(gpu, least - 1).1], [None, Some("memory")]);
        let ram: fn(&mut Means, u64) = |means, bytes| means.host_bytes = bytes;
        assert_eq!([small(ram, host), small(ram, host - 1)], [(true, None), (false, Some("memory"))]);
        let cpu: fn(&mut Means, u64) = |means, bytes| (means.gpus, means.gpu_bytes, means.host_bytes) = (0, 0, bytes);
        assert_eq!([small(cpu, training + host), small(cpu, training + host - 1)], [(true, None), (false, Some("memory"))]);
        let (disk, home): (fn(&mut Means, u64), _) = (|means, bytes| means.disk_bytes = bytes, home_bytes(&one_b.1));
        assert_eq!([small(disk, home), small(disk, home - 1)], [(true, None), (false, Some("disk"))]);
    }

    #[test]
    fn gpus_share_the_state_and_each_has_its_activations() {
        let eight_b = run(include_str!("../../configs/8b.toml"));
        let rooms = |gpus| rooms(&eight_b.0, &eight_b.1, &Means { gpus, ..server() }, Saving::default());
        let (one, eight) = (rooms(1)[0], rooms(8)[0]);
        let activations = Memory::of(&eight_b.0, 8, Saving::default()).activation_bytes;
        // and its copy of all layers
        let more = eight.needed_bytes - one.needed_bytes - 7 * (activations + 2 * eight_b.1.parameters);
        assert!(more < 8, "rounding up: {more}");
        assert_eq!((rooms(1).len(), rooms(0).len(), rooms(0)[0].of), (3, 2, "host"));
    }

    #[test]
    fn what_does_not_come_up_in_time_binds() {
        let one_b = one_b();
        // 34 MB in the 12 s that are left
        let thin = judge(&one_b, &Means { link: link(5.0), ..server() }, 1.2e5);
        assert!(!thin.mines && thin.binds == Some("link"), "{thin:?}");
        // error feedback must be durable before the close; the rest may follow
        let [slow_disk, slower] = [1e8, 2e7].map(|disk| judge(&one_b, &Means { disk, ..server() }, 1.2e5));
        assert!(slow_disk.mines && !slower.mines && slower.binds == Some("disk"), "{slow_disk:?} {slower:?}");
        let none = judge(&one_b, &Means { disk: 1e6, ..server() }, 1e9);
        assert_eq!((none.needed_tokens_per_second, none.inner_steps, none.binds), (None, 0, Some("disk")));
    }

    #[test]
    fn a_link_that_was_not_measured_costs_nothing() {
        let one_b = one_b();
        let instant = Link::seen(f64::INFINITY, f64::INFINITY, 0.0, Budget::default());
        // a disk that is done before the upload
        let [with, without] = [link(1000.0), instant].map(|link| judge(&one_b, &Means { link, disk: 1e12, ..server() }, 1e5));
        assert!(without.sealing_seconds < with.sealing_seconds && without.mines, "{with:?} {without:?}");
        assert!([without.sealing_seconds, without.applying_seconds].iter().all(|seconds| seconds.is_finite() && *seconds > 0.0));
    }
}
