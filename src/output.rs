//! What commands print: reports for people or as JSON, figures with units, aligned tables.

use std::fmt::{self, Display};
use std::io::Write;

use serde::Serialize;

/// Prints a line as `println!` does, by [`say`].
macro_rules! say {
    ($($words:tt)*) => { $crate::output::say(format_args!($($words)*)) };
}

/// Prints a line. Whoever closed our standard output does not want to hear more, so that is no error.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a value as one line of JSON.
pub fn say_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(line) => say(line),
        Err(error) => tracing::error!(%error, "a report cannot be written as JSON"),
    }
}

/// Prints a report, as JSON or in words.
pub fn report(report: &(impl Serialize + Display), json: bool) {
    if json { say_json(report) } else { say(report) }
}

/// Bytes in SI units, to three digits: `2.01 GB`.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes, &[" B", " kB", " MB", " GB", " TB", " PB", " EB"])
}

/// A count in thousands, millions, …, to three digits: `72.7 B`.
pub fn count(count: u64) -> String {
    scaled(count, &["", " k", " M", " B", " T", " P", " E"])
}

/// Floating-point operations per second, to three digits: `376 TFLOP/s`.
pub fn flops(per_second: f64) -> String {
    let units = [" FLOP/s", " kFLOP/s", " MFLOP/s", " GFLOP/s", " TFLOP/s", " PFLOP/s", " EFLOP/s"];
    scaled(per_second as u64, &units)
}

/// Seconds in the unit that suits them: `45 s`, `28.4 min`, `2.5 h`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{:.1} min", seconds as f64 / 60.0),
        7_200..172_800 => format!("{:.1} h", seconds as f64 / 3_600.0),
        _ => format!("{:.1} days", seconds as f64 / 86_400.0),
    }
}

/// A measured figure with its sign and `digits` decimals; very large ones, which anybody may publish, as powers of ten.
pub fn figure(value: f64, digits: usize) -> String {
    if value.abs() < 1e6 { format!("{value:+.digits$}") } else { format!("{value:+.1e}") }
}

/// Somebody else's words as one printable line of 300 characters at most.
pub fn foreign(words: &str) -> String {
    let printable = words.chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = printable.take(300).collect();
    if shown.len() < words.len() { format!("{shown}…") } else { shown }
}

/// `text` in lines of at most 120 characters, the first after `first` spaces, the others after `rest`; a longer word has a line of its own.
pub fn wrapped(text: &str, first: usize, rest: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    // a figure keeps its percent sign
    for word in text.replace(" %", "\u{a0}%").split_ascii_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= 120 => line.extend([" ", word]),
            last => {
                let indent = if last.is_some() { rest } else { first };
                lines.push(format!("{:indent$}{word}", ""));
            }
        }
    }
    lines.join("\n").replace('\u{a0}', " ")
}

/// `units` ascend in steps of 1000; the last one is large enough for any u64.
fn scaled(value: u64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut unit = 0;
    // 999.5 would be rounded to 1000
    while scaled >= 999.5 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = match scaled {
        _ if unit == 0 => 0,
        s if s < 9.995 => 2,
        s if s < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{}", units[unit])
}

/// Rows under a headline, in aligned columns.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Table {
    /// An empty table; the first `left` columns are aligned to the left, the others, numbers, to the right.
    pub fn new(left: usize, headline: &[&str]) -> Self {
        Self { rows: vec![headline.iter().map(ToString::to_string).collect()], left }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        let widths: Vec<usize> = (0..columns).map(|c| self.rows.iter().map(|row| cell(row, c)).max().unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let padded = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column < self.left {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        f.write_str(&self.rows.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_the_unit_that_suits() {
        assert_eq!([0, 999, 1000, 2_006_924_320, u64::MAX].map(bytes), ["0 B", "999 B", "1.00 kB", "2.01 GB", "18.4 EB"]);
        assert_eq!([999_499, 999_500, 9_995_000, 99_949_000].map(count), ["999 k", "1.00 M", "10.0 M", "99.9 M"]);
        assert_eq!([1.5e9, 376.4e12].map(flops), ["1.50 GFLOP/s", "376 TFLOP/s"]);
        assert_eq!([0, 119, 120, 7_199, 7_200, 172_800].map(duration), ["0 s", "119 s", "2.0 min", "120.0 min", "2.0 h", "2.0 days"]);
    }

    #[test]
    fn foreign_words_and_figures_stay_short_and_printable() {
        assert_eq!(foreign("a\u{1b}[2Jb\nc"), "a [2Jb c");
        assert_eq!(foreign(&"é".repeat(400)).chars().count(), 301);
        assert_eq!([-0.01234, 2e6, f64::MAX].map(|x| figure(x, 3)), ["-0.012", "+2.0e6", "+1.8e308"]);
    }

    #[test]
    fn text_is_wrapped_at_words() {
        let text = "word ".repeat(50);
        let lines = wrapped(&text, 0, 4);
        assert!(lines.lines().all(|line| line.chars().count() <= 120), "{lines}");
        assert_eq!((lines.lines().count(), lines.split_whitespace().count()), (3, 50));
        assert!(lines.lines().skip(1).all(|line| line.starts_with("    word")) && lines.starts_with("word"));
        assert_eq!(wrapped(&format!("{}60.9 %.", "word ".repeat(23)), 0, 0).lines().last(), Some("60.9 %."));
        assert_eq!(wrapped(&"x".repeat(200), 0, 2).len(), 200);
    }

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_spaces() {
        let mut table = Table::new(1, &["name", "size", ""]);
        table.row(["é".into(), "1".into(), String::new()]);
        table.row(["longer".into(), "12345".into()]);
        assert_eq!(table.to_string(), "name     size\né           1\nlonger  12345");
    }
}
