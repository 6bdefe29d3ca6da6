//! The suite: every bout that is held, who takes part in it, and what must come of it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use protocol::{Computation, JudgeMode, Rating};
use serde::{Deserialize, Serialize};

use crate::{ArenaError, Examiner, Outcome, Setup, contenders};

/// Stakes of the validators, in TAO.
pub const STAKES: [u64; 3] = [400, 350, 250];
/// Stakes where the first validator may lie: it has two fifths.
pub const STAKES_WITH_LIAR: [u64; 4] = [400, 200, 200, 200];
/// The baseline: everybody is honest.
pub const BASELINE: &str = "honest";
/// The file that says which suite a folder holds.
const MARKER: &str = "suite.json";

/// Bouts of 40 honest miners and 10 of one kind, and the most that the 10 may be paid at the end, relative to what they are paid where
/// all are honest. What overclaims does half the work, what misses rounds a third.
const SINGLE: [(&str, f64); 19] = [
    ("overclaim", 0.5),
    ("zeros", 0.03),
    ("stale", 0.03),
    ("noise", 0.03),
    ("sign-flip", 0.03),
    ("scale-up", 0.03),
    ("scale-down", 0.03),
    ("copy-same", 0.03),
    ("copy-earlier", 0.03),
    ("copy-changed", 0.03),
    ("other-data", 0.03),
    ("test-data", 0.03),
    ("late", 0.03),
    ("missing", 1.0 / 3.0),
    ("withheld", 0.03),
    ("wrong-root", 0.03),
    ("malformed", 0.03),
    ("poisoner", 0.03),
    (SLEEPER, 0.03),
];
const SLEEPER: &str = "sleeper";
/// Copies of which so much is changed that comparing positions does not find them.
const FAR_COPIES: [&str; 2] = ["copy-changed:0.3", "copy-changed:0.5"];
/// One miner's work under ten names: split, or ten times the same.
const SYBILS: [&str; 2] = ["sybils", "sybil-copies"];

/// One miner of each in `mixed`.
const MIXED: [&str; 15] = [
    "zeros",
    "stale",
    "noise",
    "sign-flip",
    "scale-up",
    "copy-same",
    "copy-earlier",
    "copy-changed",
    "other-data",
    "test-data",
    "withheld",
    "wrong-root",
    "malformed",
    "poisoner",
    SLEEPER,
];
/// One miner of each in the short form.
const SHORT: [&str; 5] = ["noise", "sign-flip", "copy-changed", "malformed", "scale-up"];
/// Miners of the bouts in which pay is held against work, and the least of their shares.
const WORKERS: usize = 12;
const LEAST_WORK: f64 = 0.25;

/// How large a suite's bouts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// Miners of a bout.
    pub miners: usize,
    /// Rounds of a bout.
    pub rounds: u64,
    /// What keys and the strategies' random numbers follow from.
    pub seed: u64,
    /// Whether it is the short form: three bouts that take a minute.
    pub short: bool,
}

impl Scale {
    /// The whole suite.
    pub const FULL: Self = Self { miners: 50, rounds: 30, seed: 1, short: false };
    /// The short form.
    pub const SHORT: Self = Self { miners: 13, rounds: 8, seed: 1, short: true };

    /// The honest miners and the others, these a share of tenths of all.
    fn split(&self, tenths: usize) -> (usize, usize) {
        let others = (self.miners * tenths).div_ceil(10);
        (self.miners.saturating_sub(others), others)
    }
}

/// What must come of a bout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// At the end the adversaries are paid at most this, relative to what their places are paid in the baseline.
    Paid(f64),
    /// At the end the adversaries are paid at most this share of all.
    Share(f64),
    /// The final held-out loss is at most this share above that of another bout.
    Loss {
        /// The share.
        most: f64,
        /// The other bout.
        than: &'static str,
    },
    /// At the end the adversaries together are paid at most what the mean honest miner of the same bout is paid.
    OneIdentity,
    /// The liar's weights move no honest miner's incentive at the end by more than this share of what it is without them.
    Swayed(f64),
    /// The liar's dividends per stake, relative to the other validators', are below those of the same validator in another bout.
    Dividends {
        /// The other bout.
        than: &'static str,
    },
    /// The rank correlation of pay at the end with work done is at least this.
    Order(f64),
}

/// A bout in words.
#[derive(Clone, Debug, PartialEq)]
pub struct Bout {
    /// Its name.
    pub name: String,
    /// Rounds to play.
    pub rounds: u64,
    /// The seed.
    pub seed: u64,
    /// Classes and how many miners each has, in the order of uids.
    pub population: Vec<(String, usize)>,
    /// The validators' stakes, in TAO.
    pub stakes: Vec<u64>,
    /// The class that the first validator favours, if it lies.
    pub favourites: Option<String>,
    /// Whether the deployed reference's test of computation and rating hold.
    pub reference: bool,
    /// Whether only a sample of the payloads is measured each round.
    pub sampled: bool,
    /// The bout that pay is held against.
    pub baseline: &'static str,
    /// The round from which adversaries are hostile.
    pub hostile_from: u64,
    /// What must come of it.
    pub bars: Vec<Bar>,
}

impl Bout {
    /// A bout before three honest validators, without a bar.
    pub fn new(name: &str, scale: &Scale, population: Vec<(String, usize)>) -> Self {
        Self {
            name: name.into(),
            rounds: scale.rounds,
            seed: scale.seed,
            population: population.into_iter().filter(|(_, count)| *count > 0).collect(),
            stakes: STAKES.to_vec(),
            favourites: None,
            reference: false,
            sampled: false,
            baseline: BASELINE,
            hostile_from: 0,
            bars: Vec::new(),
        }
    }

    /// Honest miners, and others of one kind.
    fn against(name: &str, scale: &Scale, (honest, others): (usize, usize), kind: &str) -> Self {
        Self::new(name, scale, vec![(BASELINE.into(), honest), (kind.into(), others)])
    }

    /// With bars.
    fn bars(self, bars: &[Bar]) -> Self {
        Self { bars: bars.to_vec(), ..self }
    }

    /// Before four validators, of whom the first has two fifths of the stake and favours a class, if one is named.
    pub fn before_liar(self, favourites: Option<&str>) -> Self {
        Self { stakes: STAKES_WITH_LIAR.to_vec(), favourites: favourites.map(Into::into), ..self }
    }

    /// The same with two fifths of the payloads measured each round, besides those of newcomers.
    fn sampled(self) -> Self {
        Self { name: format!("sampled-{}", self.name), sampled: true, baseline: "sampled-honest", ..self }
    }

    /// The same with the deployed reference's test of computation and rating; no bar is set for them.
    fn by_reference(self) -> Self {
        Self { name: reference_of(&self.name), reference: true, baseline: "reference-honest", bars: Vec::new(), ..self }
    }

    /// Who takes part, in words.
    pub fn population(&self) -> String {
        match self.population.as_slice() {
            population if population.len() > 4 => {
                let honest: usize = population.iter().filter(|(class, _)| class == BASELINE).map(|(_, count)| count).sum();
                let others: usize = population.iter().map(|(_, count)| count).sum::<usize>() - honest;
                if honest > 0 { format!("{honest} honest, {others} of as many kinds") } else { format!("{others} workers") }
            }
            population => population.iter().map(|(class, count)| format!("{count} {class}")).collect::<Vec<_>>().join(", "),
        }
    }

    /// All that [`crate::run`] needs, on the data set in a folder.
    ///
    /// # Errors
    /// [`ArenaError::UnknownStrategy`], or [`ArenaError::Setup`] if nobody is of the class that the liar favours.
    pub fn setup(&self, data: &Path) -> Result<Setup, ArenaError> {
        let mut setup = Setup::new(data.to_owned(), self.seed, self.rounds)?;
        setup.validators = self.stakes.iter().copied().map(Examiner::honest).collect();
        for (class, count) in &self.population {
            setup.miners.extend(contenders(class, *count)?);
        }
        if let (Some(class), Some(stake)) = (&self.favourites, self.stakes.first()) {
            let uids: Vec<u16> = (0..setup.miners.len()).filter(|&i| setup.miners[i].class == *class).map(|i| setup.uid(i)).collect();
            if uids.is_empty() {
                return Err(ArenaError::Setup(format!("the liar favours {class:?}, and no miner is of this class")));
            }
            setup.validators[0] = Examiner::favouring(*stake, uids);
        }
        if self.sampled {
            setup.config.judge.mode = JudgeMode::Sampled;
            setup.config.judge.sample = (2 * setup.miners.len() as u32).div_ceil(5);
        }
        if self.reference {
            setup.config.judge.computation = Computation::REFERENCE;
            setup.config.pay.rating = Rating::LossRating;
        }
        Ok(setup)
    }
}

/// The name of a bout by the deployed reference's rules.
pub fn reference_of(name: &str) -> String {
    format!("reference-{name}")
}

/// All bouts, in the order in which they are held.
pub fn suite(scale: &Scale) -> Vec<Bout> {
    if scale.short {
        return short(scale);
    }
    let mut bouts = vec![Bout::new(BASELINE, scale, vec![(BASELINE.into(), scale.miners)])];
    bouts.extend(SINGLE.map(|(kind, most)| single(scale, kind, Bar::Paid(most))));
    bouts.extend(FAR_COPIES.map(|kind| single(scale, kind, Bar::Paid(0.03))));
    bouts.extend(SYBILS.map(|kind| single(scale, kind, Bar::OneIdentity)));
    bouts.extend(teams(scale));
    bouts.extend(lies(scale));
    bouts.extend([1, 2, 3].map(|number| work(scale, number)));
    let kept = ["honest", "mixed"];
    let sampled: Vec<Bout> = bouts.iter().filter(|b| kept.contains(&b.name.as_str())).cloned().map(Bout::sampled).collect();
    bouts.extend(sampled);
    let ours = ["honest", "other-data", "overclaim", "work-1"];
    let theirs: Vec<Bout> = bouts.iter().filter(|b| ours.contains(&b.name.as_str())).cloned().map(Bout::by_reference).collect();
    bouts.extend(theirs);
    bouts
}

/// A fifth of the miners follows one strategy.
fn single(scale: &Scale, kind: &str, bar: Bar) -> Bout {
    let bout = Bout::against(kind, scale, scale.split(2), &strategy(scale, kind)).bars(&[bar]);
    Bout { hostile_from: if kind == SLEEPER { awake(scale) } else { 0 }, ..bout }
}

/// The round in which sleepers turn: the eleventh of 30.
fn awake(scale: &Scale) -> u64 {
    scale.rounds / 3
}

fn strategy(scale: &Scale, kind: &str) -> String {
    if kind == SLEEPER { format!("{SLEEPER}:{}", awake(scale)) } else { kind.into() }
}

/// Three tenths of the miners against the model, and the same bout without them, twice: how much a loss differs by chance.
fn teams(scale: &Scale) -> [Bout; 4] {
    let split = scale.split(3);
    let unharmed = Bar::Loss { most: 0.01, than: "absent-15" };
    let kinds = MIXED.iter().cycle().take(split.1).map(|kind| (strategy(scale, kind), 1));
    let mixed = [(BASELINE.into(), split.0)].into_iter().chain(kinds).collect();
    let absent = |name: &str| Bout::against(name, scale, (split.0, 0), BASELINE);
    [
        absent("absent-15"),
        Bout { seed: scale.seed + 1, ..absent("absent-15-2") },
        Bout::against("coalition", scale, split, "coalition").bars(&[Bar::Share(0.05), unharmed]),
        Bout::new("mixed", scale, mixed).bars(&[unharmed]),
    ]
}

/// A tenth of the miners free rides, with a validator of two fifths of the stake on its side, and without.
fn lies(scale: &Scale) -> [Bout; 3] {
    let bout = |name: &str, liar: Option<&str>| Bout::against(name, scale, scale.split(1), "zeros").before_liar(liar);
    let than = "liar-honest";
    let again = bout("liar-honest-2", None);
    [
        bout(than, None),
        Bout { seed: again.seed + 1, ..again },
        bout("liar", Some("zeros")).bars(&[Bar::Swayed(0.05), Bar::Dividends { than }]),
    ]
}

/// Miners that do, and claim, different shares of the work.
fn work(scale: &Scale, number: u64) -> Bout {
    let share = |i: usize| LEAST_WORK + (1.0 - LEAST_WORK) * i as f64 / (WORKERS - 1) as f64;
    let workers = (0..WORKERS).map(|i| (format!("work:{:.3}", share(i)), 1)).collect();
    let bout = Bout::new(&format!("work-{number}"), scale, workers).bars(&[Bar::Order(0.95)]);
    Bout { seed: scale.seed + number - 1, ..bout }
}

/// The short form: everybody honest, one adversary of each of some kinds, and a liar.
fn short(scale: &Scale) -> Vec<Bout> {
    let honest = scale.miners.saturating_sub(SHORT.len());
    let mixed = [(BASELINE.into(), honest)].into_iter().chain(SHORT.map(|kind| (kind.into(), 1))).collect();
    let liar = Bout::against("liar", scale, (honest, 2), "zeros").before_liar(Some("zeros"));
    vec![
        Bout::new(BASELINE, scale, vec![(BASELINE.into(), scale.miners)]),
        Bout::new("mixed", scale, mixed).bars(&[Bar::Paid(0.2)]),
        liar.bars(&[Bar::Paid(0.2)]),
    ]
}

/// The share of the work that a miner of the class does, in inner steps of `steps`, at least one.
pub fn work_of(class: &str, steps: u32) -> Option<f64> {
    let share: f64 = class.strip_prefix("work:")?.parse().ok()?;
    Some((f64::from(steps) * share).round().max(1.0) / f64::from(steps))
}

/// A suite's folder: what was held so far.
#[derive(Debug)]
pub struct Results {
    /// How large the bouts are.
    pub scale: Scale,
    /// What came of them, by name.
    pub outcomes: BTreeMap<String, Outcome>,
}

impl Results {
    /// Makes a folder the place of a suite of this scale.
    ///
    /// # Errors
    /// [`ArenaError::Setup`] if it holds another one.
    pub fn begin(folder: &Path, scale: Scale) -> Result<(), ArenaError> {
        fs::create_dir_all(folder)?;
        let path = folder.join(MARKER);
        if !path.exists() {
            return write(&path, &scale);
        }
        let held: Scale = read(&path)?;
        if held == scale {
            return Ok(());
        }
        Err(ArenaError::Setup(format!("{} holds a suite of another scale, {held:?}; choose another folder", folder.display())))
    }

    /// Reads what a folder holds.
    ///
    /// # Errors
    /// [`ArenaError::Setup`] if it holds no suite.
    pub fn read(folder: &Path) -> Result<Self, ArenaError> {
        let marker = folder.join(MARKER);
        if !marker.exists() {
            return Err(ArenaError::Setup(format!("{} holds no suite; `tributary arena run` makes one", folder.display())));
        }
        let scale = read(&marker)?;
        let mut outcomes = BTreeMap::new();
        for bout in suite(&scale) {
            let path = file(folder, &bout.name);
            if path.exists() {
                outcomes.insert(bout.name, read(&path)?);
            }
        }
        Ok(Self { scale, outcomes })
    }

    /// What came of a bout, if it was held.
    pub fn outcome(&self, name: &str) -> Option<&Outcome> {
        self.outcomes.get(name)
    }
}

/// The file of a bout's outcome.
pub fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

/// Writes an outcome; a file that is there is whole.
///
/// # Errors
/// [`ArenaError::Io`].
pub fn save(path: &Path, outcome: &Outcome) -> Result<(), ArenaError> {
    write(path, outcome)
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), ArenaError> {
    let bytes = serde_json::to_vec(value).map_err(|e| ArenaError::Setup(format!("{}: {e}", path.display())))?;
    let part = path.with_extension("part");
    fs::write(&part, bytes)?;
    Ok(fs::rename(part, path)?)
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, ArenaError> {
    let bytes = fs::read(path)?;
    serde_json::from_slice(&bytes).map_err(|e| ArenaError::Setup(format!("{}: {e}; remove it to have it made anew", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::strategies::NAMES;

    const FULL: Scale = Scale::FULL;

    #[test]
    fn every_bout_can_be_set_up_and_has_the_miners_it_says() {
        for bout in suite(&FULL).iter().chain(&suite(&Scale::SHORT)) {
            let setup = bout.setup(Path::new("data")).unwrap();
            assert_eq!(setup.miners.len(), bout.population.iter().map(|(_, count)| count).sum::<usize>(), "{}", bout.name);
            assert!(setup.config.judge.top as usize >= setup.miners.len(), "{}: who is not applied was judged so", bout.name);
            assert_eq!(setup.validators.iter().filter(|v| v.distortion.is_some()).count(), usize::from(bout.name == "liar"));
        }
    }

    #[test]
    fn names_are_unique_and_every_strategy_has_its_bout() {
        let names: Vec<String> = suite(&FULL).into_iter().map(|b| b.name).collect();
        assert!((1..names.len()).all(|i| !names[..i].contains(&names[i])), "{names:?}");
        for strategy in NAMES.into_iter().filter(|name| *name != "work") {
            assert!(names.iter().any(|name| name == strategy), "{strategy}");
        }
    }

    #[test]
    fn what_a_bout_is_held_against_is_held() {
        for scale in [FULL, Scale::SHORT] {
            let bouts = suite(&scale);
            let is_held = |name: &str| bouts.iter().any(|b| b.name == name);
            for bout in &bouts {
                assert!(is_held(bout.baseline), "{}", bout.name);
                for bar in &bout.bars {
                    if let Bar::Loss { than, .. } | Bar::Dividends { than } = bar {
                        assert!(is_held(than), "{}", bout.name);
                    }
                }
            }
        }
    }

    #[test]
    fn sybils_may_earn_what_one_does_and_sleepers_turn_in_time() {
        let bouts = suite(&FULL);
        let bout = |name: &str| bouts.iter().find(|b| b.name == name).unwrap();
        assert_eq!(bout("sybils").bars, [Bar::OneIdentity]);
        assert_eq!(bout("sleeper").population, [("honest".into(), 40), ("sleeper:10".into(), 10)]);
        assert_eq!((bout("sleeper").hostile_from, bout("absent-15").population.len()), (10, 1));
        assert_eq!(bout("mixed").population(), "35 honest, 15 of as many kinds");
    }

    #[test]
    fn work_is_counted_in_steps() {
        assert_eq!([work_of("work:0.25", 8), work_of("work:0.318", 8), work_of("work:0.01", 8)], [Some(0.25), Some(0.375), Some(0.125)]);
        assert_eq!([work_of("honest", 8), work_of("work:x", 8)], [None, None]);
    }

    #[test]
    fn a_folder_holds_one_suite() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Results::read(folder.path()), Err(ArenaError::Setup(_))));
        Results::begin(folder.path(), FULL).unwrap();
        Results::begin(folder.path(), FULL).unwrap();
        assert!(matches!(Results::begin(folder.path(), Scale::SHORT), Err(ArenaError::Setup(_))));
        let results = Results::read(folder.path()).unwrap();
        assert_eq!((results.scale, results.outcomes.len()), (FULL, 0));
        fs::write(file(folder.path(), "noise"), "{").unwrap();
        assert!(Results::read(folder.path()).unwrap_err().to_string().contains("noise.json"));
    }
}
