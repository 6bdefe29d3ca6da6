//! What a key commits: where its objects are read and, if there is something new to say, an announcement.
//!
//! ```text
//! field 0      RawN   version 1 ‖ bucket URL (0 to 127 bytes)
//! field 1, 2   RawN   announcement, 128 bytes each at most (absent where only the bucket is set)
//! ```
//!
//! Subtensor keeps each key's newest commitment only, so that the bucket is repeated with every announcement: everybody's buckets are one read of the
//! newest state, everybody's announcements are read from the blocks that include them.

use subxt::ext::scale_value::{At, Composite, Primitive, Value, ValueDef};

use crate::MAX_COMMITMENT;

/// The first byte of field 0.
const VERSION: u8 = 1;
/// The most bytes of one field.
const FIELD: usize = 128;
/// The longest bucket URL.
pub(super) const MAX_URL: usize = FIELD - 1;

/// A commitment of this project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Where the key's objects are read; empty if nowhere.
    pub(super) bucket: String,
    /// An [`Announcement`](crate::Commitment)'s bytes; empty if none.
    pub(super) announcement: Vec<u8>,
}

impl Record {
    /// The fields to commit.
    pub(super) fn fields(&self) -> Vec<Vec<u8>> {
        let head = [&[VERSION], self.bucket.as_bytes()].concat();
        std::iter::once(head).chain(self.announcement.chunks(FIELD).map(<[u8]>::to_vec)).collect()
    }

    /// Reads what somebody committed; `None` if it is something else.
    pub(super) fn from_fields(fields: &[Vec<u8>]) -> Option<Self> {
        let (head, rest) = fields.split_first()?;
        let (&VERSION, bucket) = head.split_first()? else { return None };
        let printable = bucket.iter().all(u8::is_ascii_graphic);
        let announcement = rest.concat();
        let fits = bucket.len() <= MAX_URL && announcement.len() <= MAX_COMMITMENT;
        (printable && fits).then(|| Self { bucket: String::from_utf8_lossy(bucket).into_owned(), announcement })
    }

    /// The argument `info` of `Commitments.set_commitment`.
    pub(super) fn to_info(&self) -> Value {
        let field = |bytes: Vec<u8>| Value::unnamed_variant(format!("Raw{}", bytes.len()), [Value::from_bytes(bytes)]);
        Value::named_composite([("fields", Value::unnamed_composite(self.fields().into_iter().map(field)))])
    }

    /// Reads an `info` as the chain stores it.
    pub(super) fn from_info(info: &Value) -> Option<Self> {
        let fields: Option<Vec<Vec<u8>>> = items(info.at("fields")?)?.into_iter().map(raw).collect();
        Self::from_fields(&fields?)
    }
}

/// The items of a sequence, through newtypes around it.
fn items(value: &Value) -> Option<Vec<&Value>> {
    match &value.value {
        ValueDef::Composite(Composite::Unnamed(items)) => match items.as_slice() {
            [inner] if matches!(&inner.value, ValueDef::Composite(Composite::Unnamed(_))) => self::items(inner),
            items => Some(items.iter().collect()),
        },
        _ => None,
    }
}

/// The bytes of a `RawN`.
fn raw(value: &Value) -> Option<Vec<u8>> {
    let ValueDef::Variant(variant) = &value.value else { return None };
    variant.name.starts_with("Raw").then_some(())?;
    let Composite::Unnamed(values) = &variant.values else { return None };
    let byte = |value: &Value| match value.value {
        ValueDef::Primitive(Primitive::U128(byte)) => u8::try_from(byte).ok(),
        _ => None,
    };
    match values.first() {
        None => Some(Vec::new()),
        Some(bytes) => match &bytes.value {
            ValueDef::Composite(Composite::Unnamed(bytes)) => bytes.iter().map(byte).collect(),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_reads_back_from_its_fields(bucket in "[!-~]{0,127}", announcement in prop::collection::vec(any::<u8>(), 0..=256)) {
            let record = Record { bucket, announcement };
            let fields = record.fields();
            prop_assert!(fields.len() <= 3 && fields.iter().all(|field| field.len() <= 128));
            prop_assert_eq!(Record::from_fields(&fields), Some(record.clone()));
            prop_assert_eq!(Record::from_info(&record.to_info()), Some(record));
        }
    }

    #[test]
    fn what_others_commit_is_no_record() {
        for fields in
            [vec![], vec![vec![]], vec![b"r2:account:key".to_vec()], vec![vec![2, b'x']], vec![vec![1, b' ']], vec![vec![1, 0xff]]]
        {
            assert_eq!(Record::from_fields(&fields), None, "{fields:?}");
        }
        assert_eq!(Record::from_fields(&[vec![1], vec![0; 257]]), None, "more than an announcement");
        let none = Value::named_composite([("fields", Value::unnamed_composite([Value::unnamed_variant("None", [])]))]);
        assert_eq!(Record::from_info(&none), None);
    }
}
