//! What to measure on, the measuring, and the table that shows it.

use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use compression::Floor;
use rayon::{ThreadPool, ThreadPoolBuilder};

const ROWS: usize = 4096;
const COLUMNS: usize = 11_008;
const QUICK_COLUMNS: usize = 2048;

/// What the command line asks for.
pub struct Options {
    /// Rows and columns of the matrix.
    pub shape: [usize; 2],
    /// The fewest runs of a row.
    runs: usize,
    /// How long a row is run again, if its runs are shorter together.
    least: Duration,
}

impl Options {
    /// Reads the command line. Without the `--bench` that `cargo bench` adds this is a test that the bench works, and quick.
    pub fn from_args(args: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let (mut args, mut quick, mut is_bench, mut elements) = (args, false, false, None);
        while let Some(arg) = args.next() {
            match &arg[..] {
                "--bench" => is_bench = true,
                "--quick" => quick = true,
                "--elements" => elements = Some(args.next().ok_or("--elements needs a number")?.parse::<usize>()?),
                _ => return Err(format!("unknown option {arg}; there are --quick and --elements N").into()),
            }
        }
        let quick = quick || !is_bench;
        let columns = elements.map_or(if quick { QUICK_COLUMNS } else { COLUMNS }, |elements| elements.div_ceil(ROWS).max(1));
        let (runs, least) = if quick { (5, Duration::from_millis(20)) } else { (7, Duration::from_millis(500)) };
        Ok(Self { shape: [ROWS, columns], runs, least })
    }
}

/// Figures of one core and of all cores: the median of the runs, and the best.
#[derive(Clone, Copy, Default)]
pub struct Figures([Option<[f64; 2]>; 2]);

impl Figures {
    fn medians(self) -> [Option<f64>; 2] {
        self.0.map(|figures| figures.map(|[median, _]| median))
    }
}

/// What is measured, with its medians of one core and of all cores.
type Medians = HashMap<String, [Option<f64>; 2]>;

/// Prints each row as soon as it is measured.
pub struct Table {
    runs: usize,
    least: Duration,
    /// Of one core and of all cores.
    pools: [ThreadPool; 2],
    /// Of the PyTorch reference.
    reference: Medians,
}

impl Table {
    /// The table's head, and the reference's rows.
    pub fn new(options: &Options) -> Result<Self, Box<dyn Error>> {
        let pools = [ThreadPoolBuilder::new().num_threads(1).build()?, ThreadPoolBuilder::new().build()?];
        let [rows, columns] = options.shape;
        let (floor, cores) = (Floor::best(), pools[1].current_num_threads());
        println!("{rows} × {columns} f32, {floor:?}, {cores} cores, median and best of {} runs or more", options.runs);
        println!("GB/s: encode, copy and merge of f32; parse, decode and BLAKE3 of the bytes they read\n");
        println!("| what | of | unit | one core | best | all cores | best | ÷ PyTorch, one and all cores | |");
        println!("|---|---|---|--:|--:|--:|--:|--:|---|");
        let reference = reference_rows(options)?;
        Ok(Self { runs: options.runs, least: options.least, pools, reference })
    }

    /// A row of one figure.
    pub fn figure(&self, what: &str, of: &str, unit: &str, value: f64, note: &str) {
        self.row(what, of, unit, Figures([Some([value; 2]), None]), note);
    }

    /// A row in GB/s: `work` reads, or makes its output from, so many bytes; what `prepare` does is not counted.
    pub fn speed<S, T: Send>(
        &self,
        what: &str,
        of: &str,
        bytes: usize,
        mut prepare: impl FnMut() -> S + Send,
        mut work: impl FnMut(&mut S) -> T + Send,
    ) -> Figures {
        let speeds = self.pools.each_ref().map(|pool| {
            let seconds = pool.install(|| self.seconds(&mut prepare, &mut work));
            Some(seconds.map(|seconds| bytes as f64 / seconds / 1e9))
        });
        self.row(what, of, "GB/s", Figures(speeds), "");
        Figures(speeds)
    }

    /// The median and the least time of the runs.
    fn seconds<S, T>(&self, prepare: &mut impl FnMut() -> S, work: &mut impl FnMut(&mut S) -> T) -> [f64; 2] {
        let mut times = Vec::new();
        // The first run, which touches memory for the first time, does not count.
        for run in 0.. {
            let mut prepared = prepare();
            let start = Instant::now();
            let made = black_box(work(&mut prepared));
            let time = start.elapsed();
            drop(made);
            if run > 0 {
                times.push(time);
            }
            if times.len() >= self.runs && times.iter().sum::<Duration>() >= self.least {
                break;
            }
        }
        times.sort_unstable();
        [times[times.len() / 2], times[0]].map(|time| time.as_secs_f64())
    }

    /// A row in percent: a speed in units of another one.
    pub fn share(&self, what: &str, of: &str, speed: Figures, unit: Figures, factor: f64) {
        let percent = |core: usize| {
            let ([median, best], [median_unit, best_unit]) = (speed.0[core]?, unit.0[core]?);
            Some([median / median_unit, best / best_unit].map(|share| 100.0 * factor * share))
        };
        self.row(what, of, "%", Figures([percent(0), percent(1)]), "");
    }

    fn row(&self, what: &str, of: &str, unit: &str, figures: Figures, note: &str) {
        let is_timed = figures.0[1].is_some();
        let cell = |figures: Option<[f64; 2]>, which: usize| {
            let shown = is_timed || which == 0;
            figures.filter(|_| shown).map_or(String::new(), |figures| short(figures[which]))
        };
        let [one, all] = figures.0;
        let cells = [cell(one, 0), cell(one, 1), cell(all, 0), cell(all, 1)].join(" | ");
        let reference = self.reference.get(what).copied().unwrap_or_default();
        let quotient = |(ours, theirs): (Option<f64>, Option<f64>)| Some(short(ours? / theirs?));
        let quotients: Vec<String> = figures.medians().into_iter().zip(reference).filter_map(quotient).collect();
        println!("| {what} | {of} | {unit} | {cells} | {} | {note} |", quotients.join(", "));
    }
}

/// Four digits or so.
fn short(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Runs `reference.py` if there is a Python for it, prints its rows and returns their medians.
fn reference_rows(options: &Options) -> Result<Medians, Box<dyn Error>> {
    let Some(python) = std::env::var_os("TRIBUTARY_PYTHON") else { return Ok(HashMap::new()) };
    let [rows, columns] = options.shape.map(|size| size.to_string());
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/reference.py"));
    command.args(["--shape", &rows, &columns, "--runs", &options.runs.to_string(), "--rows-only"]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("reference.py: {}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    print!("{text}");
    let medians = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        Some((cells.get(1)?.to_string(), [cells.get(4)?.parse().ok(), cells.get(6)?.parse().ok()]))
    };
    Ok(text.lines().filter_map(medians).collect())
}
