//! Which codec, by options for all tensors and by pattern for some.

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use compression::{Codec, Format, Group, Indices, Layout, Quantizer};
use glob::Pattern;
use std::sync::Arc;

/// How tensors are coded.
#[derive(Clone, Copy, Debug, PartialEq, Args)]
pub struct Choice {
    /// Which elements are sent.
    #[arg(long, value_enum, default_value_t = SelectName::TopK)]
    select: SelectName,
    /// Values of a full chunk of 4096 elements, for top-k.
    #[arg(long, default_value_t = 72, value_parser = clap::value_parser!(u16).range(1..=4096))]
    k: u16,
    /// Elements of a group, for group-max: 16, 32 or 64.
    #[arg(long, default_value = "32", value_parser = parse_group)]
    group: Group,
    /// How a value is written.
    #[arg(long, value_enum, default_value_t = QuantizerName::Sign1)]
    quantizer: QuantizerName,
    /// How places are written, for top-k.
    #[arg(long, value_enum, default_value_t = IndicesName::Golomb)]
    indices: IndicesName,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum SelectName {
    /// The largest k of a chunk.
    TopK,
    /// The largest of each group of consecutive elements.
    GroupMax,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum QuantizerName {
    /// A sign and one of two magnitudes under the chunk's scale: 2 bits.
    Sign2,
    /// A sign under the chunk's scale: 1 bit.
    Sign1,
    /// The deployed reference's four values per tensor: 2 bits.
    Reference,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum IndicesName {
    /// 12 bits each.
    Packed12,
    /// 8 bits each at k = 64, any chunk found at once.
    EliasFano,
    /// About 7.44 bits each at k = 64, the fewest.
    Golomb,
}

fn parse_group(text: &str) -> Result<Group, String> {
    text.parse().ok().and_then(Group::of).ok_or_else(|| "expected 16, 32 or 64".into())
}

/// Another codec for the tensors of a pattern.
#[derive(Clone, Debug)]
pub struct CodecFor {
    pattern: Pattern,
    changes: String,
}

/// `PATTERN=CHANGES`.
pub fn parse_codec_for(text: &str) -> Result<CodecFor, String> {
    let (pattern, changes) = text.split_once('=').ok_or("expected PATTERN=CHANGES, e.g. '*norm*=k=128,sign1'")?;
    let pattern = Pattern::new(pattern).map_err(|error| format!("{pattern:?}: {error}"))?;
    Ok(CodecFor { pattern, changes: changes.to_owned() })
}

impl Choice {
    /// Each tensor's codec: by the first pattern that it matches, or by the options alone.
    pub fn format(self, layout: &Arc<Layout>, others: &[CodecFor]) -> Result<Arc<Format>> {
        let changed = others.iter().map(|other| self.changed(&other.changes)).collect::<Result<Vec<_>>>()?;
        let matches = |name: &str| others.iter().position(|other| other.pattern.matches(name));
        for other in others {
            if !layout.tensors().iter().any(|tensor| other.pattern.matches(&tensor.name)) {
                bail!("--codec-for {}: no tensor has such a name; there is {:?}", other.pattern, layout.tensors()[0].name);
            }
        }
        let codec = |name: &str| matches(name).map_or(self, |number| changed[number]).codec();
        let codecs = layout.tensors().iter().map(|tensor| codec(&tensor.name)).collect();
        Ok(Arc::new(Format::new(layout.clone(), codecs)?))
    }

    fn codec(self) -> Codec {
        let quantizer = match self.quantizer {
            QuantizerName::Sign2 => Quantizer::Sign2,
            QuantizerName::Sign1 => Quantizer::Sign1,
            QuantizerName::Reference => Quantizer::Reference,
        };
        let indices = match self.indices {
            IndicesName::Packed12 => Indices::Packed12,
            IndicesName::EliasFano => Indices::EliasFano,
            IndicesName::Golomb => Indices::Golomb,
        };
        match self.select {
            SelectName::TopK => Codec::top_k(self.k, quantizer, indices),
            SelectName::GroupMax => Codec::group_max(self.group, quantizer),
        }
    }

    /// This choice with changes such as `k=128,sign1`: the options' values, and k and group by name.
    fn changed(mut self, changes: &str) -> Result<Self> {
        for change in changes.split(',') {
            let unknown = || {
                anyhow!("--codec-for: {change:?} is no choice; there are k=N, group=N and the values of --select, --quantizer, --indices")
            };
            if let Some(k) = change.strip_prefix("k=") {
                self.k = k.parse().map_err(|_| unknown())?;
            } else if let Some(group) = change.strip_prefix("group=") {
                self.group = parse_group(group).map_err(|error| unknown().context(error))?;
            } else if let Ok(select) = SelectName::from_str(change, false) {
                self.select = select;
            } else if let Ok(quantizer) = QuantizerName::from_str(change, false) {
                self.quantizer = quantizer;
            } else {
                self.indices = IndicesName::from_str(change, false).map_err(|_| unknown())?;
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use compression::TensorSpec;

    use super::*;

    const DEFAULT: Choice =
        Choice { select: SelectName::TopK, k: 64, group: Group::G32, quantizer: QuantizerName::Sign2, indices: IndicesName::Golomb };

    #[test]
    fn changes_are_made_one_by_one() {
        let codec = |changes| DEFAULT.changed(changes).map(Choice::codec).ok();
        assert_eq!(codec("sign1"), Some(Codec::top_k(64, Quantizer::Sign1, Indices::Golomb)));
        assert_eq!(codec("k=7,elias-fano"), Some(Codec::top_k(7, Quantizer::Sign2, Indices::EliasFano)));
        assert_eq!(codec("group-max,group=64,reference"), Some(Codec::group_max(Group::G64, Quantizer::Reference)));
        assert_eq!(["", "k=", "k=-1", "group=33", "sign3", "top-k,", "Sign1"].map(codec), [None; 7]);
    }

    #[test]
    fn the_first_pattern_that_matches_counts() {
        let layout = Arc::new(Layout::new(["a.norm", "a.up", "b.norm"].map(|name| TensorSpec::new(name, &[5])).into()).unwrap());
        let format = |texts: &[&str]| {
            let others: Vec<_> = texts.iter().map(|text| parse_codec_for(text).unwrap()).collect();
            DEFAULT.format(&layout, &others).map(|format| format.codecs().to_vec())
        };
        let k = |k| Codec::top_k(k, Quantizer::Sign2, Indices::Golomb);
        assert_eq!(format(&["a.*=k=1", "*norm=k=2"]).unwrap(), [k(1), k(1), k(2)]);
        assert!(format(&["c=k=1"]).unwrap_err().to_string().contains("no tensor"));
        assert!(format(&["a*=k=0"]).unwrap_err().to_string().contains("a.norm"));
        assert!(parse_codec_for("a*").is_err() && parse_codec_for("a***=k=1").is_err());
    }
}
