//! `tributary codec`: the codec on files, for tensors and payloads of whoever made them.

mod choice;
mod decode;
mod encode;
mod inspect;
mod like;
mod merge;
mod tensors;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Args, Subcommand};
use compression::{Outline, PayloadError, ReadError};

/// Options of `tributary codec`.
#[derive(Debug, Args)]
#[command(after_help = "\
Tensors are safetensors files of f32, bf16 or f16, widened to f32; what is written is f32.

A payload does not name its tensors: whatever reads one needs a file with the same names and shapes, or the manifest.json of the payload's \
run. `encode` puts them in the order of their names' bytes, a run in the order of its model.

RAYON_NUM_THREADS=1 takes one core.")]
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

/// Refuses an output in the place of another file of the same command.
fn keep_apart(option: &str, out: &Path, others: &[(&str, Option<&Path>)]) -> Result<()> {
    for (name, other) in others {
        let same = other.is_some_and(|other| place(other) == place(out));
        ensure!(!same, "{option} {} would take the place of {name}: pass another path", out.display());
    }
    Ok(())
}

/// Where a path leads, also if nothing is there yet.
fn place(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let in_folder = || Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    fs::canonicalize(&path).ok().or_else(in_folder).unwrap_or(path)
}

/// `1 tensor`, `2 tensors`.
fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
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
        PayloadError::Tensors { .. } | PayloadError::Layout => {
            "pass a file with the names and shapes that it was encoded from, or its run's manifest"
        }
        PayloadError::Codec { .. } => "pass the manifest of its own run",
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
