//! Text that lies on any machine that built a Rust project.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::{env, fs, process::Command};

use serde::Deserialize;

use crate::documents::Collector;
use crate::{files, html};

/// Shorter texts say little: redirects, stubs, one-line comments.
const MIN_DOCUMENT_BYTES: usize = 200;
/// Longer sources are generated.
const MAX_SOURCE_BYTES: u64 = 600_000;
/// The toolchain's books, continuous prose first.
const BOOKS: [&str; 13] = [
    "book",
    "cargo",
    "rustc",
    "rustdoc",
    "nomicon",
    "embedded-book",
    "edition-guide",
    "clippy",
    "style-guide",
    "rust-by-example",
    "error_codes",
    "unstable-book",
    "reference",
];
/// Folders of books that repeat another in an older edition or in another language.
const REPEATING_FOLDERS: [&str; 7] = ["first-edition", "second-edition", "2018-edition", "es", "ja", "ko", "zh"];
/// Pages that repeat the others.
const REPEATING_PAGES: [&str; 4] = ["print.html", "toc.html", "404.html", "index.html"];
/// Crates of generated bindings.
const GENERATED: [&str; 4] = ["windows", "winapi", "web-sys", "js-sys"];
/// Licences that let anyone use the text.
const PERMISSIVE: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Where the text is looked for.
pub(crate) struct Places {
    /// The toolchain's HTML documentation.
    pub books: Option<PathBuf>,
    /// Cargo's folder of unpacked crates; one folder per registry below it.
    pub registries: Option<PathBuf>,
}

impl Places {
    /// Asks `rustc` for its folder, and the environment for cargo's.
    pub(crate) fn of_this_machine() -> Self {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output().ok().filter(|output| output.status.success());
        let books = sysroot.map(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("share/doc/rust/html"));
        let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
        Self { books, registries: cargo.map(|cargo| cargo.join("registry/src")) }
    }
}

/// Collects the books and then the crates, up to `max_bytes`. What cannot be read is passed over: nobody chose these files.
pub(crate) fn collect(places: &Places, max_bytes: u64, collector: &mut Collector) {
    collector.set_room(max_bytes);
    if let Some(html) = &places.books
        && BOOKS.iter().try_for_each(|book| collect_book(book, &html.join(book), collector)).is_break()
    {
        return;
    }
    for registry in places.registries.iter().flat_map(|folder| subfolders(folder)) {
        if subfolders(&registry).iter().try_for_each(|folder| collect_crate(folder, collector)).is_break() {
            return;
        }
    }
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort_unstable();
    folders
}

/// Every file below the folder whose extension is one of `extensions`, in order of their paths.
fn files_below(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let walked = files::walk(folder, &mut |file| {
        if files::extension(file).is_some_and(|e| extensions.contains(&e.as_str())) {
            found.push(file.to_owned());
        }
    });
    if let Err(error) = walked {
        tracing::debug!(%error, "passed over");
    }
    found
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn push(group: &str, text: &str, collector: &mut Collector) -> ControlFlow<()> {
    if text.len() < MIN_DOCUMENT_BYTES { ControlFlow::Continue(()) } else { collector.push(group, text) }
}

fn read(path: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

fn collect_book(book: &str, folder: &Path, collector: &mut Collector) -> ControlFlow<()> {
    let group = format!("book {book}");
    let pages = files_below(folder, &["html"]).into_iter().filter(|page| {
        let inside = page.strip_prefix(folder).unwrap_or(page);
        let repeats = inside.iter().any(|part| REPEATING_FOLDERS.iter().any(|folder| part == *folder));
        !repeats && !REPEATING_PAGES.contains(&name(page))
    });
    for page in pages {
        if let Some(text) = read(&page).as_deref().and_then(html::main_text) {
            push(&group, &text, collector)?;
        }
    }
    ControlFlow::Continue(())
}

#[derive(Deserialize)]
struct CrateManifest {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    #[serde(default)]
    license: String,
}

fn collect_crate(folder: &Path, collector: &mut Collector) -> ControlFlow<()> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).ok().and_then(|text| toml::from_str::<CrateManifest>(&text).ok());
    let wanted = |package: &Package| is_permissive(&package.license) && !GENERATED.iter().any(|name| package.name.starts_with(name));
    let Some(package) = manifest.map(|manifest| manifest.package).filter(wanted) else {
        return ControlFlow::Continue(());
    };
    // by name, not by folder: two versions of a crate are one group
    let group = format!("crate {}", package.name);
    for file in files_below(folder, &["md", "rs"]) {
        let is_source = files::extension(&file).as_deref() == Some("rs");
        let too_long = fs::metadata(&file).map_or(true, |meta| meta.len() > MAX_SOURCE_BYTES);
        if too_long || !is_source && !name(&file).to_ascii_uppercase().starts_with("README") {
            continue;
        }
        if let Some(text) = read(&file) {
            push(&group, &html::tidy(&if is_source { doc_comments(&text) } else { text }), collector)?;
        }
    }
    ControlFlow::Continue(())
}

/// The text of the `///` and `//!` comments, one paragraph for each run of lines.
fn doc_comments(source: &str) -> String {
    let mut text = String::new();
    for line in source.lines().map(str::trim_start) {
        let comment = line.strip_prefix("///").filter(|rest| !rest.starts_with('/')).or_else(|| line.strip_prefix("//!"));
        text.push_str(comment.map_or("", |comment| comment.strip_prefix(' ').unwrap_or(comment)));
        text.push('\n');
    }
    text
}

/// Whether every part of an SPDX expression joined by AND has a permissive alternative.
fn is_permissive(expression: &str) -> bool {
    let expression = expression.replace(['(', ')'], " ").replace('/', " OR ");
    expression.split(" AND ").all(|part| part.split(" OR ").any(|license| PERMISSIVE.contains(&license.trim())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_read_as_expressions() {
        for permissive in
            ["MIT", "MIT OR Apache-2.0", "MIT/Apache-2.0", "(MIT OR GPL-3.0) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
        {
            assert!(is_permissive(permissive), "{permissive}");
        }
        for other in ["", "GPL-3.0", "MIT AND GPL-3.0", "MPL-2.0", "MITX"] {
            assert!(!is_permissive(other), "{other}");
        }
    }

    #[test]
    fn doc_comments_are_the_words_alone() {
        let source = "//! Crate.\n//!\n//! More.\nuse a; // not this\n    /// Item\n    ///  code\n//// not this\nfn f() {}\n";
        assert_eq!(html::tidy(&doc_comments(source)), "Crate.\n\nMore.\n\nItem\n code\n");
    }

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn machine(root: &Path) -> Places {
        let page = |word: &str| format!("<html><main><p>{}</p></main></html>", word.repeat(100));
        let books = root.join("html");
        write(books.join("book/ch01.html"), &page("alpha "));
        write(books.join("book/print.html"), &page("printed "));
        write(books.join("book/short.html"), "<main>redirect</main>");
        write(books.join("rust-by-example/ja/ch01.html"), &page("translated "));
        write(books.join("unknown/ch01.html"), &page("unknown "));
        let registry = root.join("src/registry-1");
        for (folder, name, license) in
            [("a-1.0.0", "a", "MIT"), ("a-2.0.0", "a", "MIT"), ("b-1.0.0", "b", "GPL-3.0"), ("windows-sys-1.0.0", "windows-sys", "MIT")]
        {
            let folder = registry.join(folder);
            write(folder.join("Cargo.toml"), &format!("[package]\nname = {name:?}\nlicense = {license:?}\n"));
            write(folder.join("README.md"), &format!("{} readme", folder.display()).repeat(50));
            write(folder.join("CHANGELOG.md"), &"change ".repeat(100));
            write(folder.join("src/lib.rs"), &format!("//! {}\nfn code() {{}}\n", "doc ".repeat(100)));
        }
        Places { books: Some(books), registries: Some(root.join("src")) }
    }

    #[test]
    fn books_and_permissive_crates_are_collected_once() {
        let root = tempfile::tempdir().unwrap();
        let mut collector = Collector::new(0);
        collect(&machine(root.path()), u64::MAX, &mut collector);
        let documents = collector.into_documents();
        let mut groups: Vec<_> = documents.iter().map(|d| d.group.as_str()).collect();
        groups.sort_unstable();
        assert_eq!(groups, ["book book", "crate a", "crate a", "crate a"]);
        assert!(documents.iter().all(|d| d.text.len() >= MIN_DOCUMENT_BYTES && !d.text.contains("code()") && !d.text.contains("change")));
    }

    #[test]
    fn the_cap_is_kept_and_books_come_first() {
        let root = tempfile::tempdir().unwrap();
        let mut collector = Collector::new(0);
        collect(&machine(root.path()), 900, &mut collector);
        let documents = collector.into_documents();
        assert!(documents.iter().any(|d| d.group == "book book"));
        let bytes: usize = documents.iter().map(|d| d.text.len()).sum();
        assert!((897..=900).contains(&bytes), "{bytes}");
    }
}
