//! `tributary codec encode`: pseudo-gradient and error feedback in, payload out.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use compression::{ErrorFeedback, Header, encode};
use serde::Serialize;

use super::choice::{Choice, CodecFor, parse_codec_for};
use super::tensors::{Draft, TensorFile, draft_of};
use super::{Hash, keep_apart, parse_hash};
use crate::output;

/// Options of `tributary codec encode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Sends what is largest of a = BETA * e + pseudo-gradient and keeps the rest as error feedback e. Without --feedback-in, e is zero.

Examples:
  tributary codec encode --pseudo-gradient delta.safetensors --out p.trb
  tributary codec encode --pseudo-gradient delta.safetensors --out p.trb \\
    --feedback-in e.safetensors --feedback-out e.safetensors \\
    --k 128 --codec-for '*norm*=sign2,k=64'")]
pub struct EncodeArgs {
    /// The pseudo-gradient.
    #[arg(long, value_name = "FILE")]
    pseudo_gradient: PathBuf,
    /// Error feedback of the rounds before.
    #[arg(long, value_name = "FILE")]
    feedback_in: Option<PathBuf>,
    /// Where the new error feedback goes; may be the file that it came from.
    #[arg(long, value_name = "FILE")]
    feedback_out: Option<PathBuf>,
    /// Where the payload goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    choice: Choice,
    /// Another codec for tensors whose names match a glob, as changes to the options above, e.g. '*norm*=sign1,k=128'; the first match counts.
    #[arg(long, value_name = "PATTERN=CHANGES", value_parser = parse_codec_for)]
    codec_for: Vec<CodecFor>,
    /// Decay of the error feedback, 0 to 1.
    #[arg(long, default_value_t = 0.95, value_parser = parse_beta)]
    beta: f32,
    /// The header's run id. Zeros by default, like the other fields.
    #[arg(long, value_name = "HEX", value_parser = parse_hash)]
    run: Option<Hash>,
    /// The header's round.
    #[arg(long, value_name = "N", default_value_t = 0)]
    round: u64,
    /// The header's hotkey.
    #[arg(long, value_name = "HEX", value_parser = parse_hash)]
    hotkey: Option<Hash>,
    /// The header's root of the θ that the pseudo-gradient was measured from.
    #[arg(long, value_name = "HEX", value_parser = parse_hash)]
    base_root: Option<Hash>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn parse_beta(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|beta| (0.0..=1.0).contains(beta)).ok_or_else(|| "expected a number from 0 to 1".into())
}

/// Runs the command.
pub fn run(args: EncodeArgs) -> Result<()> {
    keep_files_apart(&args)?;
    let input = TensorFile::open(&args.pseudo_gradient)?;
    let layout = input.layout().clone();
    let format = args.choice.format(&layout, &args.codec_for)?;
    let pseudo_gradient = input.read()?;
    let mut feedback = match &args.feedback_in {
        Some(path) => ErrorFeedback::from_tensors(&layout, TensorFile::open(path)?.read_like(&layout, "the pseudo-gradient")?)?,
        None => ErrorFeedback::zeros(&layout),
    };
    let header = Header {
        run: args.run.unwrap_or_default(),
        round: args.round,
        hotkey: args.hotkey.unwrap_or_default(),
        base_root: args.base_root.unwrap_or_default(),
    };
    let start = Instant::now();
    let bytes = encode(&format, &header, &mut feedback, &pseudo_gradient, args.beta)?;
    let seconds = start.elapsed().as_secs_f64();
    let mut payload = Draft::create(&args.out)?;
    payload.write(&bytes)?;
    // both files are whole before either takes its place: a payload without its error feedback would send things twice
    let feedback = args.feedback_out.map(|path| draft_of(&path, &layout, feedback.tensors())).transpose()?;
    payload.keep()?;
    feedback.map_or(Ok(()), Draft::keep)?;
    let values = (0..format.sections()).map(|section| format.plan(section).values).sum();
    let sizes = Encoded { payload: args.out, bytes: bytes.len() as u64, parameters: layout.parameters(), values, seconds };
    output::report(&sizes.with_ratios(), args.json);
    Ok(())
}

/// Only the error feedback may be replaced.
fn keep_files_apart(args: &EncodeArgs) -> Result<()> {
    let (gradient, feedback_out) = (("--pseudo-gradient", Some(&*args.pseudo_gradient)), args.feedback_out.as_deref());
    keep_apart("--out", &args.out, &[gradient, ("--feedback-in", args.feedback_in.as_deref()), ("--feedback-out", feedback_out)])?;
    feedback_out.map_or(Ok(()), |path| keep_apart("--feedback-out", path, &[gradient]))
}

#[derive(Debug, Serialize)]
struct Encoded {
    payload: PathBuf,
    bytes: u64,
    parameters: usize,
    values: u64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    encoded: Encoded,
    ratio_to_f32: f64,
    bits_per_value: f64,
    gigabytes_per_second: f64,
}

impl Encoded {
    fn with_ratios(self) -> Report {
        let dense = 4.0 * self.parameters as f64;
        Report {
            ratio_to_f32: dense / self.bytes as f64,
            bits_per_value: 8.0 * self.bytes as f64 / self.values as f64,
            gigabytes_per_second: dense / self.seconds / 1e9,
            encoded: self,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Encoded { payload, bytes, parameters, values, seconds } = &self.encoded;
        let (size, parameters, sent) = (output::bytes(*bytes), output::count(*parameters as u64), output::count(*values));
        writeln!(f, "{}: {size} for {parameters} parameters, f32 / {:.1}", payload.display(), self.ratio_to_f32)?;
        writeln!(f, "{sent} values of {:.3} bits, scales, headers and hashes included", self.bits_per_value)?;
        write!(f, "{seconds:.3} s, {:.2} GB/s of f32", self.gigabytes_per_second)
    }
}
