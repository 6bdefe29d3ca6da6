//! The suite's bouts as processes, a few at a time.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use ::arena::suite::{Bout, Scale, file};
use anyhow::{Result, bail};

use crate::{output, signals};

/// What all bouts of a suite have in common.
pub struct Series {
    /// How large they are.
    pub scale: Scale,
    /// The data set's folder.
    pub data: PathBuf,
    /// Where outcomes go.
    pub out: PathBuf,
}

/// Holds all bouts, `jobs` at a time. One that fails does not keep others from being held.
pub fn hold(series: &Series, bouts: Vec<Bout>, jobs: usize) -> Result<()> {
    let total = bouts.len();
    let (queue, failed) = (Mutex::new(bouts.into_iter().enumerate()), Mutex::new(Vec::new()));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((index, bout)) = next() {
            let start = Instant::now();
            match hold_one(series, &bout) {
                Ok(()) => eprintln!("{} of {total}: {} held in {}", index + 1, bout.name, output::duration(start.elapsed().as_secs())),
                Err(problem) => {
                    eprintln!("{} of {total}: {} failed: {problem}", index + 1, bout.name);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).push(bout.name);
                }
            }
        }
    };
    thread::scope(|scope| (0..jobs.min(total)).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("{} of {total} bouts failed ({}); the same command holds them again", failed.len(), failed.join(", "));
    }
    Ok(())
}

fn hold_one(series: &Series, bout: &Bout) -> Result<()> {
    let Scale { miners, rounds, seed, short } = series.scale;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["arena", "bout", &bout.name, "--data"]).arg(&series.data).arg("--save").arg(file(&series.out, &bout.name));
    command.arg(format!("--miners={miners}")).arg(format!("--rounds={rounds}")).arg(format!("--seed={seed}"));
    if short {
        command.arg("--short");
    }
    // one thread: several processes share the cores, and spinning thread pools would fight over them
    command.env("OMP_NUM_THREADS", "1").env("RAYON_NUM_THREADS", "1").stdin(Stdio::null()).stdout(Stdio::null());
    signals::end_with_this_thread(&mut command);
    let ended = command.output()?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("{}", said.lines().last().map_or_else(|| ended.status.to_string(), |line| line.trim_start_matches("tributary: ").to_owned()));
    }
    Ok(())
}
