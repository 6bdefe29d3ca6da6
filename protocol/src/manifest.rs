//! The run manifest: resolved, validated, immutable. Its canonical bytes are what the run id hashes.

use std::sync::Arc;

use compression::{Codec, Format, Layout, TensorSpec};
use serde::{Deserialize, Serialize};

use crate::config::{Checkpoints, Compression, ConfigError, Inner, Outer, RoundTimes, RunConfig};
use crate::{Architecture, Digest, Hotkey, Judge, Pay, Retention, RunId};

/// The manifest format that this code reads and writes.
pub const MANIFEST_VERSION: u32 = 4;
/// The largest manifest that is read.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 10;
/// The last block at which a run may start; a chain needs a hundred thousand years to get there.
const MAX_START_BLOCK: u64 = 1 << 40;

/// The chain a run lives on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainSection {
    /// Hash of the chain's genesis block.
    pub genesis: Digest,
    /// The subnet.
    pub netuid: u16,
    /// Who launched the run and may sign amendments.
    pub launch_key: Hotkey,
    /// Block at which round 0 opens.
    pub start_block: u64,
}

/// The run's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// `bytes` or a tokenizer's name.
    pub tokenizer: String,
    /// What the tokens are, for people.
    pub source: String,
    /// BLAKE3 of the data set's manifest.
    pub digest: Digest,
    /// Tokens that miners may be assigned.
    pub train_tokens: u64,
    /// Tokens that no miner is ever assigned.
    pub held_out_tokens: u64,
}

/// What a launch adds to a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The chain, the subnet, the launcher and the start.
    pub chain: ChainSection,
    /// The data set as prepared.
    pub data: DataSection,
}

/// A run, resolved and validated: code that holds one never checks it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// What people call the run.
    pub name: String,
    /// The chain it lives on.
    pub chain: ChainSection,
    /// The transformer.
    pub model: Architecture,
    /// Its tokens.
    pub data: DataSection,
    /// Inner optimizer.
    pub inner: Inner,
    /// Outer step.
    pub outer: Outer,
    /// What miners send.
    pub compression: Compression,
    /// Lengths of a round's phases.
    pub round: RoundTimes,
    /// How contributions are measured.
    pub judge: Judge,
    /// How measured work is paid.
    pub pay: Pay,
    /// Snapshots.
    pub checkpoints: Checkpoints,
    /// How long buckets keep what is in them.
    pub retention: Retention,
    /// Root of the state at round 0.
    pub genesis_root: Digest,
}

/// Why a manifest's bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_MANIFEST_BYTES`].
    #[error("the manifest has {0} bytes, more than {MAX_MANIFEST_BYTES}")]
    TooLarge(u64),
    /// Not the JSON of a manifest of this version.
    #[error("the manifest cannot be read by this version of tributary: {0}")]
    Parse(String),
    /// A value that no run can have.
    #[error("the manifest is inconsistent: {0}")]
    Config(#[from] ConfigError),
    /// Says the same in other bytes than [`Manifest::to_bytes`] would: white space, another order, a field left out.
    #[error("the manifest is not in canonical form, so its hash is not its run id")]
    NotCanonical,
}

impl Manifest {
    /// Validates a config and joins it with what the launch knows. The genesis root follows from the seed derived of name,
    /// chain and launch key, so equal launches have equal roots everywhere.
    ///
    /// # Errors
    /// [`ConfigError`] names the section and the field.
    pub fn resolve(config: RunConfig, launch: Launch) -> Result<Self, ConfigError> {
        let mut manifest = Self::rootless(config, launch)?;
        manifest.genesis_root = Digest(crate::genesis::initial_state(&manifest).root());
        Ok(manifest)
    }

    /// Validates a config and joins it with a launch that never happens: no chain, no text, no genesis root. Good for asking what a run
    /// would cost, at any size, since no tensor is made.
    ///
    /// # Errors
    /// [`ConfigError`] names the section and the field.
    pub fn draft(config: RunConfig) -> Result<Self, ConfigError> {
        let chain = ChainSection { genesis: Digest::default(), netuid: 0, launch_key: Hotkey([0; 32]), start_block: 0 };
        let (tokenizer, source) = (config.data.tokenizer.clone(), config.data.source.clone());
        let data = DataSection { tokenizer, source, digest: Digest::default(), train_tokens: u64::MAX, held_out_tokens: u64::MAX };
        Self::rootless(config, Launch { chain, data })
    }

    fn rootless(config: RunConfig, launch: Launch) -> Result<Self, ConfigError> {
        let manifest = Self {
            version: MANIFEST_VERSION,
            name: config.name,
            chain: launch.chain,
            model: config.model,
            data: launch.data,
            inner: config.inner,
            outer: config.outer,
            compression: config.compression,
            round: config.round,
            judge: config.judge,
            pay: config.pay,
            checkpoints: config.checkpoints,
            retention: config.retention,
            genesis_root: Digest::default(),
        };
        manifest.validate()?;
        Ok(manifest)
    }

    /// Reads and validates a manifest's bytes. The genesis root is not recomputed here: whoever builds the state compares it.
    ///
    /// # Errors
    /// [`ManifestError`] says what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(bytes.len() as u64));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| ManifestError::Parse(e.to_string()))?;
        manifest.validate()?;
        if manifest.to_bytes() == bytes { Ok(manifest) } else { Err(ManifestError::NotCanonical) }
    }

    /// [`canonical_json`] of the manifest.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_json(self)
    }

    /// BLAKE3 of the canonical bytes.
    pub fn run_id(&self) -> RunId {
        Digest::of(&self.to_bytes())
    }

    /// Sequences of a round's full work: steps times batch.
    pub fn full_work(&self) -> u64 {
        u64::from(self.inner.steps) * u64::from(self.inner.batch)
    }

    /// The share of it that an envelope claims, above 0 and at most 1: at least one sequence counts, and no more than all.
    pub fn claimed_work(&self, sequences: u64) -> f64 {
        sequences.clamp(1, self.full_work()) as f64 / self.full_work() as f64
    }

    /// The model's tensors.
    pub fn layout(&self) -> Arc<Layout> {
        Arc::new(self.model.layout().expect("validated"))
    }

    /// The tensors of the run's state: the model's and, if merges are lossy, their residual.
    pub fn state_layout(&self) -> Arc<Layout> {
        let layout = self.layout();
        if self.outer.resparsify.is_none() { layout } else { Arc::new(layout.with_residual().expect("validated")) }
    }

    /// How the merged update is compressed again, if it is.
    pub fn resparsify(&self) -> Option<Codec> {
        self.outer.resparsify.map(|coding| coding.codec().expect("validated"))
    }

    /// The tensors and how each is coded, which all sizes of payloads follow from.
    pub fn format(&self) -> Arc<Format> {
        Arc::new(self.try_format().expect("validated"))
    }

    fn try_format(&self) -> Result<Format, String> {
        let c = &self.compression;
        let coding = |spec: &TensorSpec| match spec.shape.len() {
            1 => c.vectors.unwrap_or(c.matrices),
            _ if Architecture::is_embedding(&spec.name) => c.embeddings.unwrap_or(c.matrices),
            _ => c.matrices,
        };
        let layout = self.layout();
        let codecs = layout.tensors().iter().map(|spec| coding(spec).codec()).collect::<Result<_, _>>()?;
        Format::new(layout, codecs).map_err(|error| error.to_string())
    }

    /// Whether every value is one that a run can have.
    ///
    /// # Errors
    /// [`ConfigError`] names the section and the field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let err = |section, field, problem: &str| Err(ConfigError::new(section, field, problem));
        if self.version != MANIFEST_VERSION {
            return err("manifest", "version", "this version of tributary reads version 4");
        }
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(|b| b.is_ascii_graphic()) {
            return err("run", "name", "must be 1 to 64 printable ASCII characters without spaces");
        }
        if self.chain.start_block > MAX_START_BLOCK {
            return err("chain", "start_block", "lies beyond any chain's life");
        }
        self.model.validate()?;
        if self.model.layout().is_err() {
            return err("model", "layers", "the model has more parameters than can be counted");
        }
        self.validate_data()?;
        self.validate_inner()?;
        if let Some(problem) = self.outer.lr.problem() {
            return err("outer", "lr", &problem);
        }
        self.validate_compression()?;
        self.validate_rules()
    }

    fn validate_compression(&self) -> Result<(), ConfigError> {
        let c = &self.compression;
        if !(0.0..=1.0).contains(&c.beta) {
            return Err(ConfigError::new("compression", "beta", "must be between 0 and 1"));
        }
        if let Some(coding) = self.outer.resparsify {
            match coding.codec() {
                Err(problem) => return Err(ConfigError::new("outer", "resparsify", problem)),
                Ok(codec) if codec.quantizer == compression::Quantizer::Reference => {
                    return Err(ConfigError::new("outer", "resparsify", "quantizer must be sign1 or sign2"));
                }
                Ok(_) => {}
            }
        }
        let classes = [("matrices", Some(c.matrices)), ("embeddings", c.embeddings), ("vectors", c.vectors)];
        for (field, coding) in classes {
            if let Some(Err(problem)) = coding.map(|coding| coding.codec()) {
                return Err(ConfigError::new("compression", field, problem));
            }
        }
        match self.try_format() {
            Ok(_) => Ok(()),
            Err(problem) => Err(ConfigError::new("compression", "matrices", problem)),
        }
    }

    fn validate_data(&self) -> Result<(), ConfigError> {
        for (field, text, least) in [("tokenizer", &self.data.tokenizer, 1), ("source", &self.data.source, 0)] {
            if text.len() < least || text.len() > 4096 || text.contains(char::is_control) {
                return Err(ConfigError::new("data", field, format!("must have {least} to 4096 bytes and no control characters")));
            }
        }
        if self.data.tokenizer == "bytes" && self.model.vocab_size < 257 {
            return Err(ConfigError::new("model", "vocab_size", "the byte tokenizer needs 257 tokens (256 bytes and end of text)"));
        }
        let sequence = self.model.sequence_length as u64;
        if self.data.train_tokens <= sequence || self.data.held_out_tokens <= sequence {
            let problem = format!(
                "{} training and {} held-out tokens do not fill one sequence of {sequence} each; add text",
                self.data.train_tokens, self.data.held_out_tokens
            );
            return Err(ConfigError::new("data", "source", problem));
        }
        Ok(())
    }

    fn validate_inner(&self) -> Result<(), ConfigError> {
        let inner = &self.inner;
        for (field, value) in [("steps", inner.steps), ("batch", inner.batch), ("micro_batch", inner.micro_batch), ("decay", inner.decay)] {
            if value == 0 || value > 1 << 24 {
                return Err(ConfigError::new("inner", field, format!("{value} is not between 1 and {}", 1 << 24)));
            }
        }
        if !inner.batch.is_multiple_of(inner.micro_batch) {
            return Err(ConfigError::new("inner", "micro_batch", format!("{} does not divide batch = {}", inner.micro_batch, inner.batch)));
        }
        for (field, value) in [("lr", inner.lr), ("eps", inner.eps), ("clip", inner.clip)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(ConfigError::new("inner", field, format!("{value} is not a positive number")));
            }
        }
        for (field, value) in [("floor", inner.floor), ("weight_decay", inner.weight_decay)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(ConfigError::new("inner", field, format!("{value} is not between 0 and 1")));
            }
        }
        for (field, value) in [("beta1", inner.beta1), ("beta2", inner.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(ConfigError::new("inner", field, format!("{value} is not at least 0 and below 1")));
            }
        }
        Ok(())
    }

    fn validate_rules(&self) -> Result<(), ConfigError> {
        let times = &self.round;
        for (field, value) in [("train", times.train), ("reveal", times.reveal), ("judge", times.judge), ("span", times.span)] {
            if value == 0 || value > 1 << 20 {
                return Err(ConfigError::new("round", field, format!("{value} blocks is not between 1 and {}", 1 << 20)));
            }
        }
        if times.upload >= times.train {
            return Err(ConfigError::new("round", "upload", format!("{} blocks leave nothing of train = {}", times.upload, times.train)));
        }
        self.judge.validate()?;
        self.pay.validate()?;
        if self.checkpoints.every == 0 {
            return Err(ConfigError::new("checkpoints", "every", "must be at least 1 round"));
        }
        self.retention.validate(&self.checkpoints)
    }
}

/// JSON with sorted keys and shortest round-trip numbers, no white space: one value has one text, whatever this build's serde_json keeps of
/// the order of fields.
///
/// # Panics
/// For values that JSON cannot express, such as maps whose keys are no strings.
pub fn canonical_json(value: &impl Serialize) -> Vec<u8> {
    let value = serde_json::to_value(value).expect("the caller's type has string keys");
    serde_json::to_vec(&sorted(value)).expect("a JSON value can be written")
}

/// Objects with their keys in order, whatever order serde_json's map keeps in this build.
fn sorted(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let ordered: std::collections::BTreeMap<String, Value> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
