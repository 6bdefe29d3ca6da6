//! `tributary codec decode`: payload in, dense tensors out, section by section.

use std::fmt;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use compression::{Format, PayloadReader, Section};
use serde::Serialize;

use super::like::Like;
use super::tensors::draft_tensors;
use super::{keep_apart, open, read_outline, refused};
use crate::output;

/// Options of `tributary codec decode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tributary codec decode p.trb --like delta.safetensors --out decoded.safetensors
  tributary codec decode p.trb --like manifest.json --out decoded.safetensors")]
pub struct DecodeArgs {
    /// The payload.
    payload: PathBuf,
    /// A safetensors file with the names and shapes of the payload's tensors, of which only the header is read, or the manifest.json of the
    /// payload's run.
    #[arg(long, value_name = "FILE")]
    like: PathBuf,
    /// Where the tensors go, with zeros for what was not sent.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: DecodeArgs) -> Result<()> {
    let start = Instant::now();
    keep_apart("--out", &args.out, &[("the payload", Some(&args.payload)), ("--like", Some(&args.like))])?;
    let like = Like::read(&args.like)?;
    let outline = read_outline(&args.payload)?;
    let refusal = |error| refused(&args.payload, error);
    let format = like.format(&outline).map_err(|error| refusal(error.into()))?;
    let mut reader = PayloadReader::new(BufReader::new(open(&args.payload)?), format.clone()).map_err(refusal)?;
    let mut draft = draft_tensors(&args.out, like.layout())?;
    let mut sent = 0;
    while let Some(section) = reader.next_section().map_err(refusal)? {
        let (elements, values) = dense(&format, &section);
        draft.write_elements(&elements)?;
        sent += values;
    }
    draft.keep()?;
    let seconds = start.elapsed().as_secs_f64();
    output::report(&Decoded { tensors: args.out, parameters: like.layout().parameters(), sent, seconds }, args.json);
    Ok(())
}

/// A section's elements, which follow those of the section before, and how many of them are not zero.
fn dense(format: &Format, section: &Section) -> (Vec<f32>, u64) {
    // first element in its tensor and first element here, of each part
    let mut starts = Vec::new();
    let mut end = 0;
    for (tensor, first_chunk, chunks) in section.parts() {
        let (grid, len) = (format.grid(tensor), format.layout().tensors()[tensor].len());
        let element = |chunk: usize| len.min(chunk / grid.band_chunks() * grid.band_elements());
        starts.push((tensor, element(first_chunk), end));
        end += element(first_chunk + chunks) - element(first_chunk);
    }
    let mut elements = vec![0.0; end];
    let (mut sent, mut part) = (0, 0);
    section.for_each_sent(|tensor, position, value| {
        while starts[part].0 != tensor {
            part += 1;
        }
        elements[starts[part].2 + position - starts[part].1] = value;
        sent += 1;
    });
    (elements, sent)
}

#[derive(Debug, Serialize)]
struct Decoded {
    tensors: PathBuf,
    parameters: usize,
    /// Values other than zero.
    sent: u64,
    seconds: f64,
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensors, parameters, sent, seconds } = self;
        let (parameters, sent) = (output::count(*parameters as u64), output::count(*sent));
        write!(f, "{}: {sent} of {parameters} parameters are not zero; {seconds:.3} s", tensors.display())
    }
}
