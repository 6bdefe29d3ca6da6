//! Where documents come from, and which of them are held out.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use dataset::{CollectOptions, Document, Source, TextError, collect, split};
use parquet::basic::{ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
use parquet::schema::types::Type;

fn source(paths: &[&Path]) -> Source {
    Source::Paths(paths.iter().map(|path| path.to_str().unwrap().to_owned()).collect())
}

fn read(paths: &[&Path]) -> Result<Vec<Document>, TextError> {
    collect(&source(paths), &CollectOptions::default())
}

fn texts(documents: &[Document]) -> BTreeSet<&str> {
    documents.iter().map(|document| document.text.as_str()).collect()
}

/// A Parquet file of a number column and a nullable string column, one row group for each slice.
fn write_parquet(path: &Path, groups: &[&[Option<&str>]]) {
    let number = Type::primitive_type_builder("n", Physical::INT64).with_repetition(Repetition::REQUIRED).build().unwrap();
    let text = Type::primitive_type_builder("text", Physical::BYTE_ARRAY).with_converted_type(ConvertedType::UTF8);
    let text = text.with_repetition(Repetition::OPTIONAL).build().unwrap();
    let schema = Type::group_type_builder("schema").with_fields(vec![Arc::new(number), Arc::new(text)]).build().unwrap();
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(fs::File::create(path).unwrap(), Arc::new(schema), Arc::new(properties)).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&vec![7; rows.len()], None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = rows.iter().flatten().map(|text| ByteArray::from(*text)).collect();
        let levels: Vec<i16> = rows.iter().map(|text| i16::from(text.is_some())).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn every_kind_of_file_is_read() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("sub/deep");
    fs::create_dir_all(&deep).unwrap();
    fs::write(root.path().join("a.txt"), "plain").unwrap();
    fs::write(deep.join("b.MD"), "# markdown").unwrap();
    fs::write(deep.join("image.png"), [0xff, 0xfe]).unwrap();
    fs::write(deep.join(".hidden.txt"), "hidden").unwrap();
    fs::write(root.path().join("c.jsonl"), "{\"text\":\"one\",\"n\":1}\n\n{\"text\":\"two\"}\n{\"text\":\" \"}").unwrap();
    write_parquet(&deep.join("d.parquet"), &[&[Some("three"), None], &[Some("four"), Some("one")]]);
    let documents = read(&[root.path()]).unwrap();
    assert_eq!(texts(&documents), BTreeSet::from(["plain", "# markdown", "one", "two", "three", "four"]));
    assert_eq!(documents.len(), 6, "an exact duplicate is dropped");
    let three = documents.iter().find(|d| d.text == "three").unwrap();
    assert_eq!(three.group, deep.join("d.parquet").to_str().unwrap());
}

#[test]
fn globs_and_named_files_are_read_whatever_their_extension() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("x")).unwrap();
    fs::write(root.path().join("x/a.rs"), "fn a() {}").unwrap();
    fs::write(root.path().join("b.log"), "log").unwrap();
    let both = read(&[&root.path().join("**/*.rs"), &root.path().join("b.log")]).unwrap();
    assert_eq!(texts(&both), BTreeSet::from(["fn a() {}", "log"]));
    assert!(matches!(read(&[&root.path().join("*.none")]), Err(TextError::NoMatch(_))));
    assert!(matches!(read(&[&root.path().join("x")]), Err(TextError::NoMatch(_))));
    assert!(matches!(read(&[&root.path().join("[")]), Err(TextError::Glob { .. })));
}

#[test]
fn the_text_field_can_be_chosen() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.jsonl");
    fs::write(&path, "{\"content\":\"chosen\",\"text\":\"other\"}").unwrap();
    let options = CollectOptions { text_field: "content".into(), ..CollectOptions::default() };
    assert_eq!(texts(&collect(&source(&[&path]), &options).unwrap()), BTreeSet::from(["chosen"]));
}

#[test]
fn a_bad_line_is_named() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.jsonl");
    for bad in ["{", "[]", "{\"n\":1}", "{\"text\":1}", "{\"text\":\"\\ud800\"}"] {
        fs::write(&path, format!("{{\"text\":\"good\"}}\n{bad}\n")).unwrap();
        assert!(matches!(read(&[&path]), Err(TextError::Line { line: 2, .. })), "{bad}");
    }
}

#[test]
fn a_bad_parquet_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.parquet");
    write_parquet(&path, &[&[Some("text")]]);
    let column = |column: &str| collect(&source(&[&path]), &CollectOptions { text_field: column.into(), ..CollectOptions::default() });
    assert!(matches!(column("absent"), Err(TextError::Column { found, .. }) if found == "n, text"));
    assert!(matches!(column("n"), Err(TextError::Column { .. })));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    assert!(matches!(read(&[&path]), Err(TextError::Parquet { .. })));
}

#[test]
fn text_that_is_none_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.txt");
    fs::write(&path, " \n").unwrap();
    assert!(matches!(read(&[&path]), Err(TextError::Empty(_))));
    fs::write(&path, b"caf\xe9 au lait").unwrap();
    assert!(matches!(read(&[&path]), Err(TextError::NotUtf8(_))));
}

#[test]
fn a_cap_is_shared_by_the_files() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("large.txt"), "é".repeat(1000)).unwrap();
    fs::write(root.path().join("larger.txt"), "a".repeat(3000)).unwrap();
    fs::write(root.path().join("small.txt"), "b".repeat(100)).unwrap();
    let options = CollectOptions { max_bytes: Some(701), ..CollectOptions::default() };
    let documents = collect(&source(&[root.path()]), &options).unwrap();
    let mut sizes: Vec<_> = documents.iter().map(|d| d.text.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [100, 300, 301]);
}

#[test]
fn the_order_depends_on_the_seed_and_not_on_the_paths() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a.txt"), root.path().join("b.jsonl"));
    fs::write(&a, "first").unwrap();
    fs::write(&b, (0..50).map(|n| format!("{{\"text\":\"{n}\"}}\n")).collect::<String>()).unwrap();
    let order = |paths: &[&Path], seed| collect(&source(paths), &CollectOptions { seed, ..CollectOptions::default() }).unwrap();
    assert_eq!(order(&[&a, &b], 0), order(&[&b, &a, &b], 0));
    assert_ne!(order(&[&a, &b], 0), order(&[&a, &b], 1));
}

fn documents(groups: usize) -> Vec<Document> {
    let document = |n: usize| Document { group: format!("group {}", n % groups), text: format!("text {n}") };
    (0..groups * 3).map(document).collect()
}

#[test]
fn no_group_is_on_both_sides_and_no_side_is_empty() {
    let groups = |documents: &[Document]| documents.iter().map(|d| d.group.clone()).collect::<BTreeSet<_>>();
    for (count, share) in [(2, 1e-9), (2, 0.5), (2, 1.0 - 1e-9), (3, 0.05), (200, 0.05), (200, 0.3)] {
        let splits = split(documents(count), share).unwrap();
        let (train, held_out) = (groups(&splits.train), groups(&splits.held_out));
        assert!(train.is_disjoint(&held_out), "{count} {share}");
        assert!(!train.is_empty() && !held_out.is_empty(), "{count} {share}");
        assert_eq!(train.len() + held_out.len(), count);
        assert_eq!(splits.train.len() + splits.held_out.len(), count * 3);
        if count == 200 {
            let found = held_out.len() as f64 / count as f64;
            assert!(found > share - 0.01 && found <= share, "{found} of {share}");
        }
    }
}

#[test]
fn a_large_group_is_not_held_out() {
    for name in 0..20 {
        let document = |group: String, bytes| Document { text: "a".repeat(bytes), group };
        let documents = vec![document(format!("large {name}"), 900), document(format!("small {name}"), 100)];
        let splits = split(documents, 0.05).unwrap();
        assert_eq!(splits.held_out[0].text.len(), 100);
    }
}

#[test]
fn what_cannot_be_split_is_refused() {
    assert!(matches!(split(documents(1), 0.05), Err(TextError::OneGroup(group)) if group == "group 0"));
    assert!(matches!(split(Vec::new(), 0.05), Err(TextError::OneGroup(_))));
    for share in [0.0, 1.0, -1.0, f64::NAN] {
        assert!(matches!(split(documents(2), share), Err(TextError::HeldOutShare(_))));
    }
}
