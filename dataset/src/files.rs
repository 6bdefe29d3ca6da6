//! Finding and reading the text files that a user names.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, reader::RowIter};
use parquet::schema::types::Type;

use crate::documents::Collector;
use crate::{FileError, TextError};

/// The longest line of a .jsonl file that is read.
const MAX_LINE_BYTES: u64 = 64 << 20;
/// What is read out of a folder; a file that is named, by itself or by a glob, is read whatever its name.
const EXTENSIONS: [&str; 8] = ["jsonl", "markdown", "md", "ndjson", "parquet", "rst", "text", "txt"];

/// Collects every file that `patterns` name, small files first. A cap of `max_bytes` is shared fairly: what small files leave of
/// their equal shares is the large ones', so that every file speaks and there is more than one group whenever there is more than
/// one file.
pub(crate) fn collect(patterns: &[String], text_field: &str, max_bytes: u64, collector: &mut Collector) -> Result<(), TextError> {
    let mut files = Vec::new();
    for pattern in patterns {
        files.extend(find(pattern)?);
    }
    let mut sized = files
        .into_iter()
        .map(|path| Ok((fs::metadata(&path).map_err(FileError::at("read", &path))?.len(), path)))
        .collect::<Result<Vec<_>, TextError>>()?;
    sized.sort();
    sized.dedup();
    let mut left = max_bytes;
    for (read, (_, path)) in sized.iter().enumerate() {
        let share = left / (sized.len() - read) as u64;
        collector.set_room(share);
        read_file(path, text_field, collector)?;
        left -= share - collector.room();
    }
    Ok(())
}

fn find(pattern: &str) -> Result<Vec<PathBuf>, TextError> {
    let path = Path::new(pattern);
    let mut found = Vec::new();
    if path.is_file() {
        found.push(path.to_owned());
    } else if path.is_dir() {
        walk(path, &mut |file| {
            if extension(file).is_some_and(|e| EXTENSIONS.contains(&e.as_str())) {
                found.push(file.to_owned());
            }
        })?;
    } else {
        let refuse = |e: glob::PatternError| TextError::Glob { glob: pattern.to_owned(), reason: e.to_string() };
        found.extend(glob::glob(pattern).map_err(refuse)?.flatten().filter(|path| path.is_file()));
    }
    if found.is_empty() {
        return Err(TextError::NoMatch(pattern.to_owned()));
    }
    Ok(found)
}

/// Calls `visit` with every file below `folder`, in order of their paths, without hidden files and without following links to folders.
pub(crate) fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) -> Result<(), FileError> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = entries.map_err(FileError::at("list", folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries.iter().filter(|e| !e.file_name().as_encoded_bytes().starts_with(b".")) {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, visit)?;
        } else if path.is_file() {
            visit(&path);
        }
    }
    Ok(())
}

/// The file name's extension in lower case.
pub(crate) fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

fn read_file(path: &Path, text_field: &str, collector: &mut Collector) -> Result<(), TextError> {
    match extension(path).as_deref() {
        Some("jsonl" | "ndjson") => read_lines(path, text_field, collector),
        Some("parquet") => read_parquet(path, text_field, collector),
        _ => read_plain(path, collector),
    }
}

fn open(path: &Path) -> Result<File, FileError> {
    File::open(path).map_err(FileError::at("open", path))
}

fn group(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn read_plain(path: &Path, collector: &mut Collector) -> Result<(), TextError> {
    let mut bytes = Vec::new();
    // one byte beyond the room tells a cut file from a whole one
    open(path)?.take(collector.room().saturating_add(1)).read_to_end(&mut bytes).map_err(FileError::at("read", path))?;
    let cut = bytes.len() as u64 > collector.room();
    let text = match str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(e) if cut && e.error_len().is_none() => str::from_utf8(&bytes[..e.valid_up_to()]).expect("valid up to there"),
        Err(_) => return Err(TextError::NotUtf8(path.to_owned())),
    };
    let _ = collector.push(&group(path), text);
    Ok(())
}

fn read_lines(path: &Path, text_field: &str, collector: &mut Collector) -> Result<(), TextError> {
    let mut reader = BufReader::new(open(path)?);
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let read = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes).map_err(FileError::at("read", path))?;
        if read == 0 {
            break;
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let text = text_of_line(&bytes, text_field).map_err(|reason| TextError::Line { path: path.to_owned(), line, reason })?;
        if collector.push(&group(path), &text).is_break() {
            break;
        }
    }
    Ok(())
}

fn text_of_line(line: &[u8], text_field: &str) -> Result<String, String> {
    if line.len() as u64 == MAX_LINE_BYTES {
        return Err(format!("longer than {MAX_LINE_BYTES} bytes"));
    }
    let mut value: serde_json::Value = serde_json::from_slice(line).map_err(|e| format!("not JSON: {e}"))?;
    match value.get_mut(text_field).map(serde_json::Value::take) {
        Some(serde_json::Value::String(text)) => Ok(text),
        Some(_) => Err(format!("its field {text_field:?} is not a string")),
        None => Err(format!("it has no field {text_field:?}")),
    }
}

fn read_parquet(path: &Path, column: &str, collector: &mut Collector) -> Result<(), TextError> {
    let refuse = |source: ParquetError| TextError::Parquet { path: path.to_owned(), source };
    let reader = SerializedFileReader::new(open(path)?).map_err(refuse)?;
    let schema = reader.metadata().file_metadata().schema();
    let no_column = || {
        let found: Vec<_> = schema.get_fields().iter().map(|field| field.name()).collect();
        TextError::Column { path: path.to_owned(), column: column.to_owned(), found: found.join(", ") }
    };
    let field = schema.get_fields().iter().find(|field| field.name() == column).ok_or_else(no_column)?;
    let projection = Type::group_type_builder(schema.name()).with_fields(vec![field.clone()]).build().map_err(refuse)?;
    for index in 0..reader.num_row_groups() {
        let rows = reader.get_row_group(index).map_err(refuse)?;
        for row in RowIter::from_row_group(Some(projection.clone()), &*rows).map_err(refuse)? {
            let row = row.map_err(refuse)?;
            let pushed = match row.get_column_iter().next() {
                Some((_, Field::Str(text))) => collector.push(&group(path), text),
                Some((_, Field::Null)) => ControlFlow::Continue(()),
                _ => return Err(no_column()),
            };
            if pushed.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}
