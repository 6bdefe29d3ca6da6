//! What was measured and what follows, for people and as JSON.

use std::fmt;

use serde::Serialize;

use super::disk::Disk;
use super::machine::{Gpu, Machine, Rates};
use super::store::Store;
use super::verdict::{Room, Verdict};
use crate::output::{Table, bytes, count, flops, wrapped};

/// Everything that the doctor says.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What there is, and what it does.
    pub machine: Machine,
    /// The folder whose disk was measured.
    pub home: String,
    /// That disk.
    pub disk: Disk,
    /// The store, if one was named.
    pub store: Option<Store>,
    /// One for each run.
    pub runs: Vec<Verdict>,
}

impl Report {
    fn findings(&self) -> Table {
        let Machine { cpu, cores, memory_bytes, gpus, no_gpu, .. } = &self.machine;
        let mut table = Table::new(2, &["CPU", &format!("{cpu}, {cores} cores, {}", bytes(*memory_bytes))]);
        let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
        row("", in_words(&self.machine.rates, "f32"));
        if let Some(why) = no_gpu {
            row("GPU", format!("none, so the CPU trains ({why})"));
        }
        for Gpu { device, name, architecture, memory_bytes, rates, problem } in gpus {
            row(device, format!("{name}, {architecture}, {}", bytes(*memory_bytes)));
            let rates = rates.as_ref().map(|rates| in_words(rates, "bf16"));
            row("", rates.or_else(|| problem.clone()).unwrap_or_default());
        }
        let Disk { write_bytes_per_second: write, read_bytes_per_second: read, free_bytes } = self.disk;
        row("disk", format!("{} durable, {} read, {} free ({})", rate(write), rate(read), bytes(free_bytes), self.home));
        let link = self.store.as_ref().map(|Store { url, round_trip_seconds, up_bytes_per_second, down_bytes_per_second }| {
            let [up, down] = [up_bytes_per_second, down_bytes_per_second].map(|bytes| format!("{:.0} Mbit/s", bytes / 125_000.0));
            format!("{up} up, {down} down, round trip {:.1} ms ({url})", 1e3 * round_trip_seconds)
        });
        row("store", link.unwrap_or_else(|| "not measured; --store URL, of your bucket or the run's folder, adds it".into()));
        table
    }

    fn verdicts(&self) -> Table {
        let headline = ["run", "mines", "binds", "needs", "tokens/s", "needed", "inner steps", "share of a round"];
        let mut table = Table::new(4, &headline);
        for run in &self.runs {
            let rooms = run.rooms.iter().map(|Room { of, needed_bytes, there_bytes }| {
                let fits = if needed_bytes > there_bytes { " (!)" } else { "" };
                format!("{of} {}{fits}", bytes(*needed_bytes))
            });
            let needed = run.needed_tokens_per_second.map_or_else(|| "-".into(), tokens);
            let measured = if run.pace.measured { "* " } else { "" };
            table.row([
                run.name.clone(),
                if run.mines { "yes" } else { "no" }.into(),
                run.binds.unwrap_or("-").into(),
                rooms.collect::<Vec<_>>().join(", "),
                format!("{measured}{}", tokens(run.pace.tokens_per_second)),
                needed,
                format!("{} of {}", run.inner_steps, run.of_inner_steps),
                format!("{:.1} %", 100.0 * run.share),
            ]);
        }
        table
    }

    /// How the figures came about, as far as this report has such figures.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.machine.is_busy() {
            let load = self.machine.load;
            notes.push(format!("Other work ran on this machine (load {load:.1}), so its figures are lower than they could be."));
        }
        if self.runs.iter().flat_map(|run| &run.rooms).any(|room| room.needed_bytes > room.there_bytes) {
            notes.push("(!) more than there is.".to_owned());
        }
        if self.runs.iter().any(|run| run.pace.measured) {
            notes.push("* of inner steps of the run's own model; without a star at the rate of the probe's inner steps above.".to_owned());
        }
        let workers = self.machine.workers();
        if workers.len() > 1 {
            notes.push(format!(
                "{} GPUs are counted together; a miner on one of them has its part of the memory and the tokens.",
                workers.len()
            ));
        }
        if self.machine.gpu_bytes() == 0 {
            notes.push(format!("The CPU was measured with `--threads {}`; mine with the same.", self.machine.threads));
        }
        if self.store.is_none() {
            notes.push("The store was not measured, so what goes over the link counts as nothing.".to_owned());
        }
        notes
    }
}

fn in_words(rates: &Rates, kind: &str) -> String {
    let Rates { copy_bytes, product_flops, step_flops } = *rates;
    let [product, step] = [product_flops, step_flops].map(flops);
    format!("copy {}, product {product} ({kind}), inner step {step} ({:.0} % of it)", rate(copy_bytes), 100.0 * step_flops / product_flops)
}

fn tokens(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { count(per_second as u64) }
}

fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second as u64))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}", self.findings(), self.verdicts())?;
        self.notes().iter().enumerate().try_for_each(|(number, note)| {
            let gap = if number == 0 { "\n" } else { "" };
            write!(f, "{gap}\n{}", wrapped(note, 0, 0))
        })
    }
}
