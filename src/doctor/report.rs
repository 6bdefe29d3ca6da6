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
                if run.mines { format!("yes {}", run.saving).trim_end().into() } else { "no".into() },
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
            let names: Vec<_> = workers.iter().map(|(device, _)| device.to_string()).collect();
            notes.push(format!("{} GPUs are counted together: mine with `--devices {}`.", workers.len(), names.join(",")));
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

#[cfg(test)]
mod tests {
    use super::super::machine::Pace;
    use super::*;
    use crate::check::Saving;

    const RATES: Rates = Rates { copy_bytes: 4e12, product_flops: 8e14, step_flops: 4e14 };

    fn gpu(number: u64, rates: Option<Rates>) -> Gpu {
        let (device, problem) = (format!("cuda:{number}"), rates.is_none().then(|| "python3 has no torch; install it".to_owned()));
        Gpu { device, name: "NVIDIA H200".into(), architecture: "sm_90".into(), memory_bytes: 141_000_000_000, rates, problem }
    }

    fn report(gpus: Vec<Gpu>, store: Option<Store>, load: f64) -> String {
        let run = Verdict {
            name: "run".into(),
            mines: false,
            binds: Some("memory"),
            saving: Saving::default(),
            rooms: vec![Room { of: "GPU", needed_bytes: 2_000_000_000, there_bytes: 1_000_000_000 }],
            pace: Pace { tokens_per_second: 1e5, measured: true },
            needed_tokens_per_second: None,
            inner_steps: 3,
            of_inner_steps: 30,
            training_seconds: 40.0,
            sealing_seconds: 1.0,
            applying_seconds: 2.0,
            round_seconds: 160,
            share: 0.25,
        };
        let no_gpu = gpus.is_empty().then(|| "no driver".to_owned());
        let machine = Machine { cpu: "CPU".into(), cores: 16, load, threads: 8, memory_bytes: 1 << 37, rates: RATES, gpus, no_gpu };
        let disk = Disk { write_bytes_per_second: 2e9, read_bytes_per_second: 3e9, free_bytes: 1 << 40 };
        Report { machine, home: "/srv".into(), disk, store, runs: vec![run] }.to_string()
    }

    #[test]
    fn every_gpu_has_its_rates_or_its_problem() {
        let words = report(vec![gpu(0, Some(RATES)), gpu(1, None), gpu(2, Some(RATES))], None, 0.0);
        for part in [
            "NVIDIA H200, sm_90, 141 GB",
            "product 800 TFLOP/s (bf16), inner step 400 TFLOP/s (50 % of it)",
            "python3 has no torch; install it",
            "2 GPUs are counted together: mine with `--devices cuda:0,cuda:2`.",
            "GPU 2.00 GB (!)",
            "3 of 30",
            "25.0 %",
            "--store URL",
        ] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
        assert!(!words.contains("Other work") && !words.contains("--threads"), "{words}");
    }

    #[test]
    fn without_a_gpu_the_cpu_trains_and_a_busy_machine_is_told() {
        let store = Store {
            url: "s3://alice".into(),
            round_trip_seconds: 0.05,
            up_bytes_per_second: 13_750_000.0,
            down_bytes_per_second: 62_500_000.0,
        };
        let words = report(vec![], Some(store), 16.0);
        for part in ["no driver", "110 Mbit/s up, 500 Mbit/s down, round trip 50.0 ms (s3://alice)", "load 16.0", "`--threads 8`"] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
    }
}
