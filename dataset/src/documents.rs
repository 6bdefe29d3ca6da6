//! Documents: where text comes from, in which order it is read, and which of it is held out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use protocol::Digest;

use crate::{TextError, files, machine};

/// What a group's digest is for.
const HELD_OUT: &str = "tributary 2026 held-out group v1";

/// A piece of text that stands alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The crate, the book or the file that it comes from; a group is held out as a whole or not at all.
    pub group: String,
    /// The text, never only white space.
    pub text: String,
}

/// Where text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// What any machine that built a Rust project holds: the toolchain's books, then the READMEs and doc comments of
    /// permissively licensed crates.
    Machine,
    /// Files, folders (recursively) and globs.
    Paths(Vec<String>),
}

/// How documents are collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectOptions {
    /// The field of a .jsonl line and the column of a Parquet file that holds the text.
    pub text_field: String,
    /// The most bytes of text; the last document is cut at a character's end. None: all of it, which must fit into memory.
    pub max_bytes: Option<u64>,
    /// Chooses the documents' order.
    pub seed: u64,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self { text_field: "text".to_owned(), max_bytes: None, seed: 0 }
    }
}

/// Collects documents, drops exact duplicates, and puts them into an order that depends on the seed and their texts alone.
///
/// # Errors
/// [`TextError`] names the file that cannot be read, or says that there is no text.
pub fn collect(source: &Source, options: &CollectOptions) -> Result<Vec<Document>, TextError> {
    let mut collector = Collector::new(options.seed);
    let max_bytes = options.max_bytes.unwrap_or(u64::MAX);
    match source {
        Source::Machine => machine::collect(&machine::Places::of_this_machine(), max_bytes, &mut collector),
        Source::Paths(patterns) => files::collect(patterns, &options.text_field, max_bytes, &mut collector)?,
    }
    match (collector.documents.is_empty(), source) {
        (false, _) => Ok(collector.into_documents()),
        (true, Source::Machine) => Err(TextError::NoMachineText),
        (true, Source::Paths(patterns)) => Err(TextError::Empty(patterns.join(", "))),
    }
}

/// Takes documents up to a number of bytes. The map's key is a keyed hash of the text: equal texts meet, all others lie in an
/// order that is as good as shuffled.
pub(crate) struct Collector {
    key: [u8; 32],
    documents: BTreeMap<[u8; 32], Document>,
    room: u64,
}

impl Collector {
    pub(crate) fn new(seed: u64) -> Self {
        let key = Digest::derive("tributary 2026 document order v1", &[&seed.to_le_bytes()]).0;
        Self { key, documents: BTreeMap::new(), room: u64::MAX }
    }

    /// How many more bytes of text are taken.
    pub(crate) fn room(&self) -> u64 {
        self.room
    }

    pub(crate) fn set_room(&mut self, bytes: u64) {
        self.room = bytes;
    }

    /// Takes a document, cut to the room there is. Breaks when no room is left.
    pub(crate) fn push(&mut self, group: &str, text: &str) -> ControlFlow<()> {
        let text = &text[..text.floor_char_boundary(usize::try_from(self.room).unwrap_or(usize::MAX))];
        if !text.trim().is_empty() {
            let key = *blake3::keyed_hash(&self.key, text.as_bytes()).as_bytes();
            self.documents.entry(key).or_insert_with(|| {
                self.room -= text.len() as u64;
                Document { group: group.to_owned(), text: text.to_owned() }
            });
        }
        // the longest character has four bytes: with less room, the next document may not get any
        if self.room < 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub(crate) fn into_documents(self) -> Vec<Document> {
        self.documents.into_values().collect()
    }
}

/// Documents to train on and documents that nobody trains on; no group is on both sides, and no side is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splits {
    /// To train on.
    pub train: Vec<Document>,
    /// To measure on.
    pub held_out: Vec<Document>,
}

/// Holds out whole groups of up to a `share` of the text's bytes: in order of the BLAKE3 of their names, each group that fits into
/// what is left of the share. If none fits, the smallest group is held out.
///
/// # Errors
/// [`TextError::OneGroup`] if there is nothing to separate; [`TextError::HeldOutShare`] unless 0 < `share` < 1.
pub fn split(documents: Vec<Document>, share: f64) -> Result<Splits, TextError> {
    if !(share > 0.0 && share < 1.0) {
        return Err(TextError::HeldOutShare(share));
    }
    let mut sizes = BTreeMap::<&str, u64>::new();
    for document in &documents {
        *sizes.entry(&document.group).or_default() += document.text.len() as u64;
    }
    let smallest = sizes.iter().map(|(group, size)| (*size, *group)).min().map_or("", |(_, group)| group);
    if sizes.len() < 2 {
        return Err(TextError::OneGroup(smallest.to_owned()));
    }
    let mut left = (share * sizes.values().sum::<u64>() as f64) as u64;
    let mut by_digest: Vec<_> = sizes.iter().map(|(group, size)| (Digest::derive(HELD_OUT, &[group.as_bytes()]), *group, *size)).collect();
    by_digest.sort_unstable();
    let mut held_out = BTreeSet::new();
    for (_, group, size) in by_digest {
        if size <= left {
            left -= size;
            held_out.insert(group.to_owned());
        }
    }
    if held_out.is_empty() {
        held_out.insert(smallest.to_owned());
    }
    let (held_out, train) = documents.into_iter().partition(|document| held_out.contains(&document.group));
    Ok(Splits { train, held_out })
}
