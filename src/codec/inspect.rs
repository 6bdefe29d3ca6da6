//! `tributary codec inspect`: every section of a payload, and why it would be refused.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use compression::{Format, Frame, Inspection, Outline, PayloadError, PayloadReader, ReadError, inspect};
use serde::Serialize;

use super::like::{Like, own_format};
use super::{counted, open, refused};
use crate::output::{self, Table};

/// Options of `tributary codec inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Explains damaged files as far as they make sense, says the first thing for which nodes would refuse them, and fails then.

Without --like, the lengths and contents of sections cannot be checked, only what surrounds them: header, codecs, hashes, footer. Whether \
the codecs are those of the payload's run, only the run's manifest can tell.

Examples:
  tributary codec inspect p.trb
  tributary codec inspect p.trb --like delta.safetensors --json
  tributary codec inspect p.trb --like manifest.json")]
pub struct InspectArgs {
    /// The payload.
    payload: PathBuf,
    /// A safetensors file with the names and shapes of the payload's tensors, of which only the header is read, or the manifest.json of the
    /// payload's run.
    #[arg(long, value_name = "FILE")]
    like: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: InspectArgs) -> Result<()> {
    let like = args.like.as_deref().map(Like::read).transpose()?;
    let found = inspect(BufReader::new(open(&args.payload)?)).map_err(|error| refused(&args.payload, error))?;
    // a layout of another digest would name the wrong tensors
    let own = |outline: &&Outline| like.as_ref().is_some_and(|like| like.layout().digest() == outline.layout_digest);
    let format = like.as_ref().zip(found.outline.as_ref().filter(own)).and_then(|(like, outline)| own_format(outline, like.layout()).ok());
    let mut scale_bits = Vec::new();
    let refusal = match &like {
        Some(like) => match read_all(&args.payload, like, &mut scale_bits) {
            Ok(()) => None,
            Err(ReadError::Payload(error)) => Some(error),
            Err(error) => return Err(refused(&args.payload, error)),
        },
        None => found.refusal.clone(),
    };
    output::report(&Explained::new(&args.payload, &found, format.as_deref(), &scale_bits, refusal.as_ref()), args.json);
    refusal.map_or(Ok(()), |error| Err(refused(&args.payload, error)))
}

/// Reads the payload as a node does whose run has these tensors, and the manifest's codecs or else those that the header names; notes each
/// section's bits of scales.
fn read_all(path: &Path, like: &Like, scale_bits: &mut Vec<u64>) -> Result<(), ReadError> {
    let format = like.format(&Outline::read_from(File::open(path)?)?)?;
    let mut reader = PayloadReader::new(BufReader::new(File::open(path)?), format)?;
    while let Some(section) = reader.next_section()? {
        scale_bits.push(section.scale_bits());
    }
    Ok(())
}

/// The report.
#[derive(Debug, Serialize)]
struct Explained {
    payload: PathBuf,
    bytes: u64,
    digest: String,
    header: Option<HeaderFields>,
    sections: Vec<SectionFields>,
    refusal: Option<String>,
    /// The tensor that is refused, where the layout is known.
    refused_tensor: Option<String>,
}

#[derive(Debug, Serialize)]
struct HeaderFields {
    bytes: usize,
    run: String,
    round: u64,
    hotkey: String,
    base_root: String,
    layout_digest: String,
    tensors: u32,
    sections: u32,
    codecs: Vec<CodecRun>,
}

/// A codec and the number of consecutive tensors that it is for.
#[derive(Debug, Serialize)]
struct CodecRun {
    tensors: u32,
    codec: String,
}

#[derive(Debug, Serialize)]
struct SectionFields {
    section: usize,
    /// Of its body.
    offset: u64,
    bytes: u32,
    /// Fewer than `bytes` if the file ends before.
    present: u64,
    hash: String,
    hash_matches: bool,
    holds: Option<Content>,
}

/// What a section holds, known only with the layout.
#[derive(Debug, Serialize)]
struct Content {
    parts: Vec<PartFields>,
    values: u64,
    code_bits_per_value: f64,
    /// Unknown in a section that is refused.
    scale_bits_per_value: Option<f64>,
    index_bits_per_value: Option<f64>,
}

#[derive(Debug, Serialize)]
struct PartFields {
    tensor: String,
    first_chunk: usize,
    chunks: usize,
}

impl Explained {
    fn new(payload: &Path, found: &Inspection, format: Option<&Format>, scale_bits: &[u64], refusal: Option<&PayloadError>) -> Self {
        let holds = |number, frame| {
            let format = format.filter(|format| number < format.sections())?;
            Some(Content::new(number, frame, format, scale_bits.get(number).copied()))
        };
        let name = |(tensor, format): (usize, &Format)| Some(format.layout().tensors().get(tensor)?.name.clone());
        let section = |(number, frame)| SectionFields::new(number, frame, holds(number, frame));
        Self {
            payload: payload.to_owned(),
            bytes: found.bytes,
            digest: hex::encode(found.digest),
            header: found.outline.as_ref().map(HeaderFields::new),
            sections: found.frames.iter().enumerate().map(section).collect(),
            refusal: refusal.map(ToString::to_string),
            refused_tensor: refusal.and_then(tensor_of).zip(format).and_then(name),
        }
    }
}

/// The number of the tensor that a refusal is about.
fn tensor_of(refusal: &PayloadError) -> Option<usize> {
    match refusal {
        PayloadError::Codec { tensor, .. } | PayloadError::Chunk { tensor, .. } => Some(*tensor),
        _ => None,
    }
}

impl HeaderFields {
    fn new(outline: &Outline) -> Self {
        let header = &outline.header;
        Self {
            bytes: outline.bytes(),
            run: hex::encode(header.run),
            round: header.round,
            hotkey: hex::encode(header.hotkey),
            base_root: hex::encode(header.base_root),
            layout_digest: hex::encode(outline.layout_digest),
            tensors: outline.tensors,
            sections: outline.sections,
            codecs: outline.runs.iter().map(|&(tensors, codec)| CodecRun { tensors, codec: codec.to_string() }).collect(),
        }
    }
}

impl SectionFields {
    fn new(section: usize, frame: &Frame, holds: Option<Content>) -> Self {
        Self {
            section,
            offset: frame.offset,
            bytes: frame.length,
            present: frame.present,
            hash: hex::encode(frame.hash),
            hash_matches: frame.intact,
            holds,
        }
    }

    fn hash_verdict(&self) -> &'static str {
        match self.hash_matches {
            true => "matches",
            false if self.present < u64::from(self.bytes) => "cut short",
            false => "DIFFERS",
        }
    }
}

impl Content {
    fn new(section: usize, frame: &Frame, format: &Format, scale_bits: Option<u64>) -> Self {
        let plan = format.plan(section);
        let part = |(tensor, first_chunk, chunks): (usize, usize, usize)| PartFields {
            tensor: format.layout().tensors()[tensor].name.clone(),
            first_chunk,
            chunks,
        };
        let per_value = |bits: u64| bits as f64 / plan.values as f64;
        let (all, codes) = (8 * u64::from(frame.length), 8 * plan.code_bytes);
        Self {
            values: plan.values,
            code_bits_per_value: per_value(codes),
            scale_bits_per_value: scale_bits.map(per_value),
            index_bits_per_value: scale_bits.map(|scales| per_value(all - codes - scales)),
            parts: plan.parts.into_iter().map(part).collect(),
        }
    }

    /// The first part, and how many there are besides.
    fn parts_in_short(&self) -> String {
        let first = self
            .parts
            .first()
            .map_or(String::new(), |part| format!("{} chunks {} to {}", part.tensor, part.first_chunk, part.first_chunk + part.chunks - 1));
        if self.parts.len() > 1 { format!("{first}, {} more", self.parts.len() - 1) } else { first }
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(2, &["file", &self.payload.display().to_string()]);
        let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
        row("bytes", self.bytes.to_string());
        row("BLAKE3", self.digest.clone());
        if let Some(header) = &self.header {
            row("run", header.run.clone());
            row("round", header.round.to_string());
            row("hotkey", header.hotkey.clone());
            row("base root", header.base_root.clone());
            row("layout digest", header.layout_digest.clone());
            header.codecs.iter().for_each(|run| row("codec", format!("{} for {}", run.codec, counted(run.tensors as usize, "tensor"))));
            row("sections", format!("{}, of which {} begin in this file", header.sections, self.sections.len()));
        }
        writeln!(f, "{table}")?;
        if !self.sections.is_empty() {
            writeln!(f, "\n{}", self.section_table())?;
        }
        match (&self.refusal, &self.refused_tensor) {
            (Some(refusal), Some(name)) => write!(f, "\nrefused: {refusal}; the tensor is {name}"),
            (Some(refusal), None) => write!(f, "\nrefused: {refusal}"),
            _ if self.sections.iter().any(|section| section.holds.is_none()) => {
                f.write_str("\nheader, hashes and footer hold; pass --like to have the contents checked")
            }
            _ => f.write_str("\na node would accept it"),
        }
    }
}

impl Explained {
    fn section_table(&self) -> Table {
        let headline = ["section", "hash", "tensors", "offset", "bytes", "values", "code bits", "scale bits", "index bits"];
        let mut table = Table::new(3, &headline);
        let bits = |bits: Option<f64>| bits.map_or("?".into(), |bits| format!("{bits:.3}"));
        for section in &self.sections {
            let holds = section.holds.as_ref();
            let name = [section.section.to_string(), format!("{}… {}", &section.hash[..8], section.hash_verdict())];
            let place = [holds.map_or(String::new(), Content::parts_in_short), section.offset.to_string(), section.bytes.to_string()];
            let content = holds.map(|holds| {
                let [codes, scales, indices] = [Some(holds.code_bits_per_value), holds.scale_bits_per_value, holds.index_bits_per_value];
                [holds.values.to_string(), bits(codes), bits(scales), bits(indices)]
            });
            table.row(name.into_iter().chain(place).chain(content.into_iter().flatten()));
        }
        table
    }
}
