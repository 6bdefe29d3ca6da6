//! Where a run's objects lie: relative paths inside a peer's bucket, or inside the run's own folder.

use std::fmt;

use crate::Digest;

/// One object of a run. [`fmt::Display`] gives its path, relative to the bucket of whoever writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// The run manifest's canonical bytes (launcher; in the run's folder).
    Manifest,
    /// A file of the tokenized data set (launcher; in the run's folder).
    Dataset(String),
    /// A miner's signed envelope of a round.
    Envelope(u64),
    /// A miner's sealed payload of a round.
    Payload(u64),
    /// The key that opens it, once the seal list is final.
    PayloadKey(u64),
    /// A lead's seal list of a round.
    SealList(u64),
    /// A validator's score sheet of a round.
    ScoreSheet(u64),
    /// A lead's record of a round.
    Record(u64),
    /// A validator's countersignature of, or dissent from, a round's record of this digest.
    Countersign(u64, Digest),
    /// The aggregator's bundle of a record's payloads.
    Bundle(u64),
    /// A committed document as its lead published it, in the bucket of whoever keeps a copy.
    Copy {
        /// Where its lead publishes it.
        of: Box<Self>,
        /// Its digest: a lead can show other bytes under its own key at another time.
        digest: Digest,
    },
    /// A file of the snapshot of the state at a round.
    Checkpoint {
        /// The state's round.
        round: u64,
        /// File name inside the snapshot.
        file: String,
    },
}

impl ObjectKey {
    /// Where copies of the document behind `digest` lie that its lead publishes here.
    #[must_use]
    pub fn copy(&self, digest: Digest) -> Self {
        Self::Copy { of: Box::new(self.clone()), digest }
    }

    /// The key of a path, relative to a bucket; `None` for what no key names.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        // one key has one path: round numbers have one form
        Self::read(path).filter(|key| key.to_string() == path)
    }

    fn read(path: &str) -> Option<Self> {
        let (folder, rest) = match path.split_once('/') {
            None => return (path == "manifest.json").then_some(Self::Manifest),
            Some(("data", file)) => return (!file.contains('/')).then(|| Self::Dataset(file.to_owned())),
            Some(split) => split,
        };
        let (round, name) = rest.split_once('/').filter(|(_, name)| !name.contains('/'))?;
        let round = round.parse().ok()?;
        match folder {
            "rounds" => Self::of_round(round, name),
            "checkpoints" => Some(Self::Checkpoint { round, file: name.to_owned() }),
            _ => None,
        }
    }

    fn of_round(round: u64, name: &str) -> Option<Self> {
        Some(match name {
            "envelope" => Self::Envelope(round),
            "payload" => Self::Payload(round),
            "key" => Self::PayloadKey(round),
            "seal-list" => Self::SealList(round),
            "scores" => Self::ScoreSheet(round),
            "record" => Self::Record(round),
            "bundle" => Self::Bundle(round),
            _ => {
                let (of, digest) = name.rsplit_once('-')?;
                let digest = digest.parse().ok()?;
                match of {
                    "countersign" => Self::Countersign(round, digest),
                    "seal-list" | "scores" | "record" => Self::of_round(round, of)?.copy(digest),
                    _ => return None,
                }
            }
        })
    }

    /// What people call objects of this kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Dataset(_) => "data set",
            Self::Envelope(_) => "envelopes",
            Self::Payload(_) => "payloads",
            Self::PayloadKey(_) => "keys",
            Self::SealList(_) => "seal lists",
            Self::ScoreSheet(_) => "score sheets",
            Self::Record(_) => "records",
            Self::Countersign(..) => "countersignatures",
            Self::Bundle(_) => "bundles",
            Self::Copy { .. } => "copies",
            Self::Checkpoint { .. } => "snapshots",
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest => f.write_str("manifest.json"),
            Self::Dataset(file) => write!(f, "data/{file}"),
            Self::Envelope(round) => write!(f, "rounds/{round:08}/envelope"),
            Self::Payload(round) => write!(f, "rounds/{round:08}/payload"),
            Self::PayloadKey(round) => write!(f, "rounds/{round:08}/key"),
            Self::SealList(round) => write!(f, "rounds/{round:08}/seal-list"),
            Self::ScoreSheet(round) => write!(f, "rounds/{round:08}/scores"),
            Self::Record(round) => write!(f, "rounds/{round:08}/record"),
            Self::Countersign(round, record) => write!(f, "rounds/{round:08}/countersign-{record}"),
            Self::Bundle(round) => write!(f, "rounds/{round:08}/bundle"),
            Self::Copy { of, digest } => write!(f, "{of}-{digest}"),
            Self::Checkpoint { round, file } => write!(f, "checkpoints/{round:08}/{file}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_back_as_its_key() {
        let digest = Digest::of(b"document");
        let keys = [0, 7, 99_999_999, 100_000_000, u64::MAX].into_iter().flat_map(|round| {
            let documents = [ObjectKey::SealList(round), ObjectKey::ScoreSheet(round), ObjectKey::Record(round)];
            let copies = documents.each_ref().map(|key| key.copy(digest));
            let others = [
                ObjectKey::Envelope(round),
                ObjectKey::Payload(round),
                ObjectKey::PayloadKey(round),
                ObjectKey::Countersign(round, digest),
                ObjectKey::Bundle(round),
                ObjectKey::Checkpoint { round, file: "model-00001-of-00002.safetensors".into() },
            ];
            documents.into_iter().chain(copies).chain(others)
        });
        for key in keys.chain([ObjectKey::Manifest, ObjectKey::Dataset("train-00000.bin".into())]) {
            assert_eq!(ObjectKey::parse(&key.to_string()), Some(key.clone()), "{key}");
        }
    }

    #[test]
    fn what_no_key_names_is_none() {
        let digest = Digest::of(b"document");
        let bundle = format!("rounds/00000001/bundle-{digest}");
        let twice = format!("rounds/00000001/record-{digest}-{digest}");
        for path in [
            "",
            "manifest",
            "manifest.json/x",
            "data",
            "data/a/b",
            "rounds/1/payload",
            "rounds/000000001/payload",
            "rounds/+0000001/payload",
            "rounds/0000000x/payload",
            "rounds/00000001",
            "rounds/00000001/payload/x",
            "rounds/00000001/other",
            "rounds/00000001/record-",
            "rounds/00000001/record-12",
            "checkpoints/00000001",
            "checkpoints/00000001/a/b",
            "peers/00000001/payload",
            bundle.as_str(),
            twice.as_str(),
        ] {
            assert_eq!(ObjectKey::parse(path), None, "{path}");
        }
    }
}
