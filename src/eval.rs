//! `tributary eval`: how well a snapshot predicts a text, and what it writes itself.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{ArgGroup, Args};
use dataset::{Tokenizer, bits_per_byte};
use model::{Device, Llama};
use protocol::Digest;
use serde::Serialize;

use crate::{output, snapshot::SnapshotArgs};

/// Windows that are measured at once.
const BATCH: usize = 16;

/// Options of `tributary eval`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true), after_help = "\
Each file is one text, after an end of text. It is cut into windows as long as the model's training sequences, which do not overlap, so
the model predicts every token once; the windows' starts have little context, as in training. Bits per byte are comparable between
tokenizers.

Examples:
  tributary eval --run demo/store/RUN_ID --snapshot demo/checkpoint --text README.md
  tributary eval --run https://example.org/RUN_ID --sample 'Once upon a time' --tokens 100")]
pub struct EvalArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// UTF-8 text files to measure.
    #[arg(long, value_name = "FILE", num_args = 1.., group = "what")]
    text: Vec<PathBuf>,
    /// A prompt to go on from.
    #[arg(long, value_name = "PROMPT", group = "what")]
    sample: Option<String>,
    /// Tokens of the sample at most.
    #[arg(long, value_name = "N", default_value_t = 200)]
    tokens: usize,
    /// Temperature of the sample; 0 always takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    temperature: f64,
    /// Chooses the sample.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// cpu, cuda, or cuda:N. By default the best there is.
    #[arg(long)]
    device: Option<Device>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: EvalArgs) -> Result<()> {
    // read before the model, so that a wrong path costs nothing
    let texts = args.text.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let device = args.device.unwrap_or_else(Device::best);
    let snapshot = args.snapshot.open().await?;
    let tokenizer = snapshot.tokenizer().await?;
    let mut model = Llama::new(&snapshot.manifest.model, device)?;
    model.load(snapshot.state.model())?;
    let texts = args.text.iter().zip(&texts).map(|(path, text)| Measured::of(path, text, &model, &tokenizer)).collect::<Result<_>>()?;
    let sample = args.sample.as_deref().map(|prompt| args.write(prompt, &model, &tokenizer)).transpose()?;
    output::report(&Evaluation { round: snapshot.state.round, root: snapshot.root, texts, sample }, args.json);
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    ensure!(!text.is_empty(), "{} is empty; there is nothing to measure", path.display());
    Ok(text)
}

/// Windows of up to `length` tokens to predict, each after the token before it; the first window begins with the end of the text before.
fn windows(tokens: &[u32], end_of_text: u32, length: usize) -> Vec<Vec<u32>> {
    let before = |start: usize| start.checked_sub(1).map_or(end_of_text, |last| tokens[last]);
    let window = |(index, part): (usize, &[u32])| [&[before(index * length)], part].concat();
    tokens.chunks(length).enumerate().map(window).collect()
}

impl EvalArgs {
    fn write(&self, prompt: &str, model: &Llama, tokenizer: &Tokenizer) -> Result<Sample> {
        let end = tokenizer.end_of_text();
        let tokens = [vec![end], tokenizer.encode(prompt)?].concat();
        let written = model.generate(&tokens, self.tokens, self.temperature, self.seed, Some(end))?;
        Ok(Sample { prompt: prompt.to_owned(), text: tokenizer.decode(&written)? })
    }
}

#[derive(Debug, Serialize)]
struct Evaluation {
    round: u64,
    root: Digest,
    texts: Vec<Measured>,
    sample: Option<Sample>,
}

#[derive(Debug, Serialize)]
struct Measured {
    file: PathBuf,
    bytes: u64,
    tokens: u64,
    nats: f64,
    bits_per_byte: f64,
}

#[derive(Debug, Serialize)]
struct Sample {
    prompt: String,
    text: String,
}

impl Measured {
    fn of(file: &Path, text: &str, model: &Llama, tokenizer: &Tokenizer) -> Result<Self> {
        let tokens = tokenizer.encode(text)?;
        let windows = windows(&tokens, tokenizer.end_of_text(), model.architecture().sequence_length);
        let mut nats = 0.0;
        // only the last window may be shorter, and a batch has one length
        for batch in windows.chunk_by(|a, b| a.len() == b.len()).flat_map(|alike| alike.chunks(BATCH)) {
            nats += model.sequence_losses(batch)?.iter().sum::<f64>();
        }
        let bytes = text.len() as u64;
        Ok(Self { file: file.to_owned(), bytes, tokens: tokens.len() as u64, nats, bits_per_byte: bits_per_byte(nats, bytes) })
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot after {} rounds, root {}", self.round, self.root)?;
        if !self.texts.is_empty() {
            let mut table = output::Table::new(1, &["text", "bytes", "tokens", "bits/byte"]);
            let mut row = |name: String, bytes: u64, tokens: u64, bits: f64| {
                table.row([name, bytes.to_string(), tokens.to_string(), format!("{bits:.4}")]);
            };
            for text in &self.texts {
                row(text.file.display().to_string(), text.bytes, text.tokens, text.bits_per_byte);
            }
            if self.texts.len() > 1 {
                let sum = |figure: fn(&Measured) -> u64| self.texts.iter().map(figure).sum::<u64>();
                let (bytes, nats) = (sum(|t| t.bytes), self.texts.iter().map(|t| t.nats).sum());
                row("all".into(), bytes, sum(|t| t.tokens), bits_per_byte(nats, bytes));
            }
            write!(f, "\n\n{table}")?;
        }
        match &self.sample {
            Some(sample) => write!(f, "\n\n{}{}", sample.prompt, sample.text),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_predicted_once_after_the_one_before_it() {
        assert_eq!(windows(&[1, 2, 3, 4, 5], 9, 2), [vec![9, 1, 2], vec![2, 3, 4], vec![4, 5]]);
        assert_eq!(windows(&[1], 9, 4), [vec![9, 1]]);
        assert_eq!(windows(&[], 9, 4), Vec::<Vec<u32>>::new());
    }
}
