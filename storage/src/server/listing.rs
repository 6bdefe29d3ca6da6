//! A bucket's objects in the order of their keys, a page at a time. What is deleted meanwhile is left out, and that is no error.

use std::fs::{self, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

/// Which objects are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    /// What their keys start with.
    pub(super) prefix: String,
    /// Keys that have it after the prefix are told once, up to and with it.
    pub(super) delimiter: Option<String>,
    /// They come after this key or common prefix.
    pub(super) after: String,
    /// The most entries of a page, at least 1.
    pub(super) limit: usize,
}

/// Something found.
#[derive(Debug)]
pub(super) enum Entry {
    /// An object.
    Object(String, Metadata),
    /// The common start of several keys, up to and with the delimiter.
    Prefix(String),
}

impl Entry {
    /// Its name, after which the next page starts.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Object(name, _) | Self::Prefix(name) => name,
        }
    }
}

/// A page.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Sorted by name.
    pub(super) entries: Vec<Entry>,
    /// Whether there are more.
    pub(super) more: bool,
}

/// One page of the objects below `folder`.
pub(super) fn list(folder: &Path, query: &Query) -> io::Result<Page> {
    let mut walk = Walk { query, page: Page::default() };
    let _ = walk.folder(folder, "")?;
    Ok(walk.page)
}

struct Walk<'a> {
    query: &'a Query,
    page: Page,
}

impl Walk<'_> {
    /// Visits a folder, whose objects' keys start with `above`, until the page is full.
    fn folder(&mut self, path: &Path, above: &str) -> io::Result<ControlFlow<()>> {
        for name in sorted_names(path)? {
            let key = format!("{above}{name}");
            let child = path.join(name.trim_end_matches('/'));
            let step = match name.ends_with('/') {
                true if self.leads_on(&key) => self.folder(&child, &key)?,
                true => ControlFlow::Continue(()),
                false => self.object(&child, key)?,
            };
            if step.is_break() {
                return Ok(step);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Whether a folder, named with its slash, can hold a key that is wanted.
    fn leads_on(&self, folder: &str) -> bool {
        let Query { prefix, after, .. } = self.query;
        let wanted = folder.starts_with(prefix) || prefix.starts_with(folder);
        let later = folder > after.as_str() || after.starts_with(folder);
        let told = matches!(self.page.entries.last(), Some(Entry::Prefix(common)) if folder.starts_with(common));
        wanted && later && !told
    }

    fn object(&mut self, path: &Path, key: String) -> io::Result<ControlFlow<()>> {
        let Query { prefix, delimiter, after, limit } = self.query;
        let Some(rest) = key.strip_prefix(prefix).filter(|_| key > *after) else { return Ok(ControlFlow::Continue(())) };
        let common = delimiter.as_ref().and_then(|by| rest.find(by).map(|at| &key[..prefix.len() + at + by.len()]));
        let last = self.page.entries.last().map(Entry::name);
        if common.is_some_and(|common| common == after || Some(common) == last) {
            return Ok(ControlFlow::Continue(()));
        }
        let entry = match common {
            Some(common) => Entry::Prefix(common.to_owned()),
            None => match fs::symlink_metadata(path) {
                Ok(meta) => Entry::Object(key, meta),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ControlFlow::Continue(())),
                Err(error) => return Err(error),
            },
        };
        if self.page.entries.len() == *limit {
            self.page.more = true;
            return Ok(ControlFlow::Break(()));
        }
        self.page.entries.push(entry);
        Ok(ControlFlow::Continue(()))
    }
}

/// Names of a folder's files and, with a slash, of its folders, in the order of the keys they make; none if it is gone.
fn sorted_names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let (Ok(name), kind) = (entry.file_name().into_string(), entry.file_type()?) else { continue };
        match name.starts_with('.') {
            false if kind.is_dir() => names.push(name + "/"),
            false if kind.is_file() => names.push(name),
            _ => {}
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(page: &Page) -> Vec<&str> {
        page.entries.iter().map(Entry::name).collect()
    }

    #[test]
    fn pages_of_any_size_tell_the_same_in_the_order_of_keys() {
        let dir = tempfile::tempdir().expect("a folder");
        let keys = ["a-b", "a.b", "a/1", "a/2/x", "a/2/y", "a0", "b/1", "é"];
        for key in keys {
            let path = dir.path().join(key);
            fs::create_dir_all(path.parent().expect("it has one")).and_then(|()| fs::write(path, key)).expect("written");
        }
        fs::create_dir_all(dir.path().join("empty/deep")).and_then(|()| fs::write(dir.path().join(".hidden"), "")).expect("written");
        let by = |prefix: &str, delimiter: Option<&str>| -> Vec<String> {
            let query = Query { prefix: prefix.into(), delimiter: delimiter.map(Into::into), after: String::new(), limit: 100 };
            let whole = list(dir.path(), &query).expect("a page");
            assert!(!whole.more);
            for limit in 1..4 {
                let (mut query, mut told) = (Query { limit, ..query.clone() }, Vec::new());
                loop {
                    let page = list(dir.path(), &query).expect("a page");
                    assert!(page.entries.len() == limit || !page.more);
                    told.extend(names(&page).into_iter().map(str::to_owned));
                    query.after = told.last().cloned().unwrap_or_default();
                    if !page.more {
                        break;
                    }
                }
                assert_eq!(told, names(&whole), "{prefix:?} {delimiter:?} {limit}");
            }
            names(&whole).into_iter().map(str::to_owned).collect()
        };
        assert_eq!(by("", None), keys);
        assert_eq!(by("", Some("/")), ["a-b", "a.b", "a/", "a0", "b/", "é"]);
        assert_eq!(by("a", None), &keys[..6]);
        assert_eq!(by("a/", Some("/")), ["a/1", "a/2/"]);
        assert_eq!(by("a/2", None), ["a/2/x", "a/2/y"]);
        assert_eq!(by("", Some("b")), ["a-b", "a.b", "a/1", "a/2/x", "a/2/y", "a0", "b", "é"]);
        assert!(by("empty", None).is_empty() && by("a/2/x/y", None).is_empty() && by("../", None).is_empty());
    }
}
