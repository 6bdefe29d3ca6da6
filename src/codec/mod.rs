//! `tributary codec`: the codec on files, for tensors and payloads of whoever made them.

mod choice;
mod decode;
mod encode;
mod inspect;
mod merge;
mod tensors;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Subcommand};
use compression::{Format, Layout, Outline, PayloadError, ReadError};

/// Options of `tributary codec`.
#[derive(Debug, Args)]
#[command(after_help = "\
Tensors are safetensors files of f32, bf16 or f16, widened to f32; what is written is f32. A payload's tensors are in the order of their
names' bytes, and it does not name them: whatever reads one needs a file with the same names and shapes. RAYON_NUM_THREADS=1 takes one core.")]
pub struct CodecArgs {
    #[command(subcommand)]
    command: CodecCommand,
}

#[derive(Debug, Subcommand)]
enum CodecCommand {
    /// Pseudo-gradient and error feedback in, payload out.
    Encode(encode::EncodeArgs),
    /// Payload in, dense tensors out.
    Decode(decode::DecodeArgs),
    /// Payloads and θ in, the next θ and its root out.
    Merge(merge::MergeArgs),
    /// Explain every section of a payload, and why it would be refused.
    Inspect(inspect::InspectArgs),
}

/// Runs the command.
pub fn run(args: CodecArgs) -> Result<()> {
    match args.command {
        CodecCommand::Encode(args) => encode::run(args),
        CodecCommand::Decode(args) => decode::run(args),
        CodecCommand::Merge(args) => merge::run(args),
        CodecCommand::Inspect(args) => inspect::run(args),
    }
}

/// 32 bytes of a header: a run id, a public key, a root.
type Hash = [u8; 32];

fn parse_hash(text: &str) -> Result<Hash, String> {
    let mut hash = Hash::default();
    hex::decode_to_slice(text, &mut hash).map_err(|error| format!("{error}; expected 64 hex digits"))?;
    Ok(hash)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| path.display().to_string())
}

/// The header of a payload file.
fn read_outline(path: &Path) -> Result<Outline> {
    Outline::read_from(open(path)?).map_err(|error| refused(path, error))
}

/// The format by a payload's own header, for tensors that must be its own.
fn format_of(outline: &Outline, layout: &Arc<Layout>) -> Result<Arc<Format>, PayloadError> {
    let expected = layout.tensors().len();
    if outline.tensors as usize != expected {
        return Err(PayloadError::Tensors { expected, found: outline.tensors });
    }
    let codecs = outline.runs.iter().flat_map(|&(tensors, codec)| std::iter::repeat_n(codec, tensors as usize)).collect();
    Format::new(layout.clone(), codecs).map(Arc::new).map_err(|_| PayloadError::Layout)
}

/// A file that is no payload of these tensors, and what to do about it.
fn refused(path: &Path, error: impl Into<ReadError>) -> anyhow::Error {
    let file = path.display().to_string();
    match error.into() {
        ReadError::Io(error) => anyhow::Error::new(error).context(file),
        ReadError::Payload(error) => anyhow!("{file}: {error}; {}", advice(&error)),
    }
}

fn advice(error: &PayloadError) -> &'static str {
    match error {
        PayloadError::Magic => "pass a file that `tributary codec encode` or a miner wrote",
        PayloadError::Version(_) | PayloadError::UnknownCodec(_) => "read it with the version of tributary that wrote it",
        PayloadError::Tensors { .. } | PayloadError::Layout => "pass a file with the names and shapes that it was encoded from",
        PayloadError::Truncated { .. } | PayloadError::Trailing { .. } | PayloadError::SectionHash { .. } | PayloadError::Hash => {
            "get the file anew"
        }
        _ => "it was written by a faulty encoder, or changed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_64_hex_digits() {
        assert_eq!(parse_hash(&"0a".repeat(32)), Ok([10; 32]));
        assert!([String::new(), "0a".repeat(31), "0a".repeat(33), "0g".repeat(32)].iter().all(|text| parse_hash(text).is_err()));
    }
}
