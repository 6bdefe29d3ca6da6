//! One bout, and what to say about it.

use std::{collections::BTreeMap, fmt, path::PathBuf, thread};

use ::arena::{
    Outcome,
    report::{END, Pay, ratio, unpaid_after},
    suite::{self, BASELINE, Bout, Scale, suite},
};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{DataArgs, ScaleArgs};
use crate::{context, output, output::Table, signals};

/// A folder in memory, on systems that have it: a bout waits for many small files to be safe on disk, which nobody needs them to be.
const MEMORY: &str = "/dev/shm";

/// Options of `tributary arena bout`.
#[derive(Debug, Args)]
pub struct BoutArgs {
    /// Strategies and how many miners follow each, e.g. honest=8 noise=2 work:0.5=1; or the name of a bout of the suite.
    #[arg(required = true, value_name = "CLASS=COUNT")]
    who: Vec<String>,
    #[command(flatten)]
    scale: ScaleArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Let the first of four validators, which has two fifths of the stake, favour this class.
    #[arg(long, value_name = "CLASS")]
    liar: Option<String>,
    /// Use the deployed reference's test of computation (an average of signs) and rating (LossRating).
    #[arg(long)]
    reference: bool,
    /// Also write the outcome to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: BoutArgs) -> Result<()> {
    let bout = args.bout()?;
    let (_, mut shutdown) = signals::stop_on_signals().context("watching for signals")?;
    let scratch = scratch()?;
    let data = args.data.prepare(scratch.path())?;
    let (sender, receiver) = oneshot::channel();
    let held = bout.clone();
    // strategies of one bout share state, so that it is set up where it is held
    thread::Builder::new().name("bout".into()).spawn(move || {
        let _ = sender.send(held.setup(&data).and_then(::arena::run));
    })?;
    let outcome = context::block_on(async {
        tokio::select! {
            outcome = receiver => Ok(outcome.map_err(|_| anyhow!("the bout panicked"))??),
            () = shutdown.wait() => bail!("stopped before the bout's end"),
        }
    })?;
    if let Some(path) = &args.save {
        suite::save(path, &outcome).with_context(|| path.display().to_string())?;
    }
    if args.json {
        output::say_json(&outcome);
    } else {
        output::say(Shown(&outcome));
    }
    Ok(())
}

impl BoutArgs {
    fn bout(&self) -> Result<Bout> {
        let scale = self.scale.scale()?;
        if let [name] = self.who.as_slice()
            && !name.contains('=')
        {
            let own = self.liar.is_some() || self.reference;
            return match suite(&scale).into_iter().find(|bout| bout.name == *name) {
                Some(_) if own => bail!("--liar and --reference go with CLASS=COUNT; what {name:?} is, the suite says"),
                Some(bout) => Ok(bout),
                None => bail!("{name:?} is no bout of the suite; one's own are written CLASS=COUNT, e.g. honest=8 {name}=2"),
            };
        }
        own(&self.who, &scale, self.liar.as_deref()).map(|bout| Bout { reference: self.reference, ..bout })
    }
}

/// A bout of CLASS=COUNT.
fn own(who: &[String], scale: &Scale, liar: Option<&str>) -> Result<Bout> {
    let class = |word: &String| {
        let parts = word.split_once('=').and_then(|(class, count)| Some((class.to_owned(), count.parse::<usize>().ok()?)));
        parts.ok_or_else(|| anyhow!("{word:?} is not CLASS=COUNT, e.g. noise=2"))
    };
    let bout = Bout::new("own", scale, who.iter().map(class).collect::<Result<_>>()?);
    Ok(if liar.is_some() { bout.before_liar(liar) } else { bout })
}

/// A folder for all that a bout writes, in memory if there is a place, gone when this process ends.
fn scratch() -> Result<TempDir> {
    let named = || tempfile::Builder::new().prefix("tributary-arena").to_owned();
    let folder = named().tempdir_in(MEMORY).or_else(|_| named().tempdir())?;
    tempfile::env::override_temp_dir(folder.path()).map_err(|other| anyhow!("temporary files already go to {}", other.display()))?;
    Ok(folder)
}

/// A bout's outcome for people.
struct Shown<'a>(&'a Outcome);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { held_out, rounds, seconds, .. } = self.0;
        writeln!(f, "{}\n", self.classes())?;
        for class in self.0.classes() {
            writeln!(f, "{class}\n  gain, 10⁻⁵   {}\n  advantage, σ {}", self.gains(class), self.advantages(class))?;
        }
        writeln!(f, "\n{}", self.validators())?;
        for validator in &self.0.validators {
            validator.warnings.iter().take(1).try_for_each(|warning| writeln!(f, "validator {}: {warning}", validator.uid))?;
        }
        let losses: Vec<String> = held_out.iter().map(|(round, loss)| format!("{round}: {loss:.3}")).collect();
        writeln!(f, "\nheld-out bits per byte by round  {}", losses.join("  "))?;
        if let Some(last) = rounds.last() {
            writeln!(f, "block {}, root {}", last.block, last.root)?;
        }
        let ::arena::Seconds { train, craft, upload, follow, wait, measure, total } = seconds;
        let parts = format!(
            "training {train:.0}, crafting {craft:.0}, uploads {upload:.0}, log {follow:.0}, validators {wait:.0}, losses {measure:.0}"
        );
        write!(f, "{total:.0} s: {parts}")
    }
}

impl Shown<'_> {
    fn classes(&self) -> Table {
        let pay = Pay::of(self.0);
        let honest = pay.places(BASELINE);
        let mut table =
            Table::new(1, &["class", "miners", "last applied", "unpaid after", "paid", "at the end", "per head of honest", "not applied"]);
        for class in self.0.classes() {
            let places = pay.places(class);
            let lasted = places.iter().map(|&place| self.0.miners[place].lasted()).sum::<u64>() as f64 / places.len() as f64;
            let at_end = pay.mean(&places, pay.last(END));
            let per_head = |places: &[usize], rounds| pay.mean(places, rounds) / places.len().max(1) as f64;
            let relative = |rounds: std::ops::Range<usize>| ratio(per_head(&places, rounds.clone()), per_head(&honest, rounds));
            let by_round: Vec<(u64, f64)> =
                (0..self.0.rounds.len()).filter_map(|round| Some((round as u64, relative(round..round + 1)?))).collect();
            let percent = |share: f64| format!("{:.2}%", 100.0 * share);
            table.row([
                class.to_owned(),
                places.len().to_string(),
                format!("{lasted:.1}"),
                unpaid_after(&by_round).map_or("never".into(), |rounds| rounds.to_string()),
                percent(self.0.payment(class).total),
                percent(at_end),
                relative(pay.last(END)).map(percent).unwrap_or_default(),
                self.fates(class),
            ]);
        }
        table
    }

    /// Why payloads of a class were not applied, and how often.
    fn fates(&self, class: &str) -> String {
        let mut fates = BTreeMap::<&str, u32>::new();
        for (fate, times) in self.0.of_class(class).flat_map(|miner| miner.refusals.iter().chain(&miner.left_out)) {
            *fates.entry(fate).or_default() += times;
        }
        fates.iter().map(|(fate, times)| format!("{fate} {times}")).collect::<Vec<_>>().join(", ")
    }

    fn gains(&self, class: &str) -> String {
        let by_round = self.0.rounds.iter().map(|round| self.mean(class, &round.gains).map(|gain| format!("{:.0}", 1e5 * gain)));
        by_round.map(|gain| gain.unwrap_or("–".into())).collect::<Vec<_>>().join(" ")
    }

    fn advantages(&self, class: &str) -> String {
        let by_round = self.0.rounds.iter().map(|round| self.mean(class, &round.advantages).map(|z| format!("{z:.1}")));
        by_round.map(|z| z.unwrap_or("–".into())).collect::<Vec<_>>().join(" ")
    }

    /// The mean of a class's figures, if any of its miners has one.
    fn mean(&self, class: &str, figures: &[(u16, f64)]) -> Option<f64> {
        let is_own = |uid: u16| self.0.of_class(class).any(|miner| miner.uid == uid);
        let own: Vec<f64> = figures.iter().filter(|(uid, _)| is_own(*uid)).map(|(_, figure)| *figure).collect();
        ratio(own.iter().sum(), own.len() as f64)
    }

    fn validators(&self) -> Table {
        let mut table = Table::new(2, &["validator", "", "stake", "led", "dissents", "dividends", "earned"]);
        let tao = |rao: u64| format!("{:.1}", rao as f64 / chain::RAO_PER_TAO as f64);
        for v in &self.0.validators {
            let [led, dissents, dividends] = [v.led, v.dissents.into(), v.dividends.into()].map(|count: u64| count.to_string());
            let lies = if v.lies { "lies" } else { "" };
            table.row([v.uid.to_string(), lies.into(), tao(v.stake), led, dissents, dividends, tao(v.emission)]);
        }
        table
    }
}
