//! Reads the source files under `src/` and the paths to other modules that they name.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file.
pub(super) struct SourceFile {
    pub path: PathBuf,
    /// The module's path below the crate; empty for `lib.rs`.
    pub module: Vec<String>,
    /// The text with spaces in place of comments and literals, so that lines keep their numbers.
    pub text: String,
}

/// A path to another module or to an item in it.
#[derive(Debug, PartialEq)]
pub(super) struct Import {
    pub line: usize,
    /// The segments below the crate, up to the item. A glob ends in `*`.
    pub target: Vec<String>,
    /// True if the path begins with `crate::` or, in `main.rs`, with the crate's name.
    pub absolute: bool,
}

/// Reads all files under `root`.
pub(super) fn read(root: &Path) -> Vec<SourceFile> {
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(root).expect("a file under src").to_path_buf();
        SourceFile::new(&relative, &fs::read_to_string(&path).expect("a source file"))
    };
    rust_files(root).into_iter().map(read).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

impl SourceFile {
    /// Creates a file from its path below `src` and its text.
    pub(super) fn new(path: &Path, text: &str) -> Self {
        let names = path.with_extension("");
        let mut module: Vec<String> =
            names.components().map(|name| name.as_os_str().to_string_lossy().into_owned()).collect();
        module.pop_if(|last| last == "mod" || last == "lib");
        Self { path: Path::new("src").join(path), module, text: without_comments_and_literals(text) }
    }

    /// Returns the file without the items under `#[cfg(test)]`.
    pub(super) fn without_tests(&self) -> Self {
        let mut text = self.text.clone();
        while let Some(start) = text.find("#[cfg(test)]") {
            let end = end_of_item(&text, start + "#[cfg(test)]".len());
            let blank = spaces(&text[start..end]);
            text.replace_range(start..end, &blank);
        }
        Self { path: self.path.clone(), module: self.module.clone(), text }
    }

    /// Returns every path that begins with `crate`, `self`, `super`, a module that the file declares, or a name that
    /// the file imports. Paths in visibilities, such as `pub(in crate::net)`, import nothing.
    pub(super) fn imports(&self) -> Vec<Import> {
        let mut known = self.declared_modules();
        let mut imports = Vec::new();
        let mut at = 0;
        while let Some(start) = next_identifier(&self.text, at) {
            let word = identifier(&self.text[start..]);
            at = start + word.len();
            let before = self.text[..start].trim_end();
            if before.ends_with("::") || before.ends_with('.') || before.ends_with("(in") {
                continue;
            }
            let is_use = word == "use";
            if !is_use && !self.text[at..].starts_with("::") {
                continue;
            }
            let mut leaves = Vec::new();
            at = read_tree(&self.text, if is_use { at } else { start }, &[], &mut leaves);
            for leaf in leaves {
                let Some(target) = self.resolve(&leaf.segments, &known) else { continue };
                if is_use && let Some(name) = leaf.alias.as_ref().or(target.last()) {
                    known.insert(name.clone(), target.clone());
                }
                let absolute = ["crate", "respgate"].contains(&leaf.segments[0].as_str());
                imports.push(Import { line: line_of(&self.text, leaf.at), target, absolute });
            }
        }
        imports
    }

    /// Maps each module that the file declares to its path below the crate.
    fn declared_modules(&self) -> HashMap<String, Vec<String>> {
        let mut modules = HashMap::new();
        for (found, keyword) in self.text.match_indices("mod ") {
            let name = identifier(&self.text[found + keyword.len()..]);
            if self.text[found + keyword.len() + name.len()..].starts_with(';') {
                modules.insert(name.to_owned(), [&self.module[..], &[name.to_owned()]].concat());
            }
        }
        modules
    }

    /// Returns the path below the crate. Returns `None` for a path into another crate.
    fn resolve(&self, segments: &[String], known: &HashMap<String, Vec<String>>) -> Option<Vec<String>> {
        let supers = segments.iter().take_while(|segment| *segment == "super").count();
        let first = segments.first()?.as_str();
        let (mut target, rest) = match first {
            "crate" | "respgate" => (Vec::new(), &segments[1..]),
            "self" => (self.module.clone(), &segments[1..]),
            "super" => {
                (self.module[..self.module.len().saturating_sub(supers)].to_vec(), &segments[supers..])
            }
            name => (known.get(name)?.clone(), &segments[1..]),
        };
        target.extend(rest.iter().filter(|segment| *segment != "self").cloned());
        Some(target)
    }
}

/// One path of a `use` tree.
struct Leaf {
    segments: Vec<String>,
    alias: Option<String>,
    /// Where the last segment stands in the text.
    at: usize,
}

/// Reads the `use` tree, or the single path, at `at`. Returns where it ends.
fn read_tree(text: &str, mut at: usize, prefix: &[String], leaves: &mut Vec<Leaf>) -> usize {
    let mut segments = prefix.to_vec();
    loop {
        at = skip_spaces(text, at);
        if text[at..].starts_with('{') {
            at = skip_spaces(text, at + 1);
            while !text[at..].starts_with('}') && at < text.len() {
                let end = read_tree(text, at, &segments, leaves);
                at = skip_spaces(text, skip_comma(text, end).max(at + 1));
            }
            return (at + 1).min(text.len());
        }
        let start = at;
        let word = if text[at..].starts_with('*') { "*" } else { identifier(&text[at..]) };
        at += word.len();
        if !word.is_empty() {
            segments.push(word.to_owned());
        }
        let next = skip_spaces(text, at);
        if !word.is_empty() && text[next..].starts_with("::") {
            at = next + 2;
            continue;
        }
        let renamed = text[next..].strip_prefix("as ").map(|rest| identifier(rest.trim_start()).to_owned());
        if renamed.is_some() {
            at = skip_spaces(text, next + 3);
            at += identifier(&text[at..]).len();
        }
        leaves.push(Leaf { segments, alias: renamed, at: start });
        return at;
    }
}

fn skip_spaces(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start().len()
}

fn skip_comma(text: &str, at: usize) -> usize {
    let next = skip_spaces(text, at);
    if text[next..].starts_with(',') { next + 1 } else { next }
}

fn next_identifier(text: &str, from: usize) -> Option<usize> {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    let mut at = from + text[from..].find(starts)?;
    // A digit before the letter belongs to a number, such as `0u64`.
    while at > 0 && text.as_bytes()[at - 1].is_ascii_alphanumeric() {
        at += identifier(&text[at..]).len();
        at += text[at..].find(starts)?;
    }
    Some(at)
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Returns where an item ends: after its `;`, or after the `}` that closes its body.
fn end_of_item(text: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, character) in text[start..].char_indices() {
        match character {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(character, ';' | '}') {
            return start + at + 1;
        }
    }
    text.len()
}

fn without_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    while let Some(next) = text.get(out.len()..).filter(|rest| !rest.is_empty()) {
        let named = out.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        match hidden_length(next, named) {
            0 => out.extend(next.chars().next()),
            length => out.push_str(&spaces(&next[..length])),
        }
    }
    out
}

/// Returns as many bytes of spaces, with the line ends of `text`.
fn spaces(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Returns the length of the comment or literal at the start of `text`; 0 if there is none. `named` is true if an
/// identifier ends before `text`, so that an `r` there begins no raw string.
fn hidden_length(text: &str, named: bool) -> usize {
    let through =
        |from: usize, end: &str| text[from..].find(end).map_or(text.len(), |found| from + found + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return through(2, "*/");
    }
    if text.starts_with('"') {
        return quoted_length(text);
    }
    let raw = text.strip_prefix('b').unwrap_or(text).strip_prefix('r').filter(|_| !named);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let start = text.len() - raw.len() + hashes;
        return if text[start..].starts_with('"') {
            through(start + 1, &format!("\"{}", "#".repeat(hashes)))
        } else {
            0
        };
    }
    let Some(inner) = text.strip_prefix('\'') else { return 0 };
    let character = inner.chars().next().map_or(0, char::len_utf8);
    match inner.strip_prefix('\\') {
        Some(_) => through(3, "'"),
        // A lifetime has no quote after it.
        None if inner[character..].starts_with('\'') => character + 2,
        None => 0,
    }
}

/// Returns the length of the string literal at the start of `text`, with both quotes.
fn quoted_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !escaped => return at + 1,
            _ => escaped = character == '\\' && !escaped,
        }
    }
    text.len()
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let imports = |text: &str| {
        let file = SourceFile::new(Path::new("net/tls/mod.rs"), text).without_tests();
        file.imports().into_iter().map(|import| (import.line, import.target.join("::"))).collect::<Vec<_>>()
    };
    let one = |text: &str| imports(text).into_iter().map(|(_, target)| target).collect::<Vec<_>>();
    assert_eq!(one("use crate::resp::Value as Reply;"), ["resp::Value"]);
    assert_eq!(one("use super::connect::*;"), ["net::connect::*"]);
    assert_eq!(one("use super::super::topology::{self, Address};"), ["topology", "topology::Address"]);
    assert_eq!(one("pub use self::pem::chain;"), ["net::tls::pem::chain"]);
    assert_eq!(
        imports("use crate::{\n    net::{self, pem::{a, b as c}},\n    logs,\n};"),
        [(2, "net"), (2, "net::pem::a"), (2, "net::pem::b"), (3, "logs")]
            .map(|(line, target)| (line, target.to_owned()))
    );
    assert_eq!(
        one("fn f() -> crate::logs::Line { super::connect::dial() }"),
        ["logs::Line", "net::connect::dial"]
    );
    assert_eq!(
        one("use super::connect as dialer;\nfn f() { dialer::dial() }"),
        ["net::connect", "net::connect::dial"]
    );
    assert_eq!(
        one("mod pem;\nuse pem::Chain;\nfn f() { pem::read() }"),
        ["net::tls::pem::Chain", "net::tls::pem::read"]
    );
    assert_eq!(one("macro_rules! m { () => { $crate::logs::warn() } }"), ["logs::warn"]);
    for nothing in [
        "use std::{fs, io::Read};",
        "pub(in crate::net) fn f(&self) { self.a::<u8>() }",
        "// use crate::a;\n/* crate::b */ /// [`crate::c`]\n",
        r##"const A: &str = "\"crate::a"; const B: &str = r#"""crate::b"#; const C: char = '"'; const D: &[u8] = br"\";"##,
        "#[cfg(test)]\nmod tests { use super::*; fn f() { crate::a::b() } }",
        "#[cfg(test)]\nmod tests;\n#[cfg(test)]\nfn f(a: [u8; 4]) { crate::a::b() }",
    ] {
        assert_eq!(one(nothing), [""; 0], "{nothing}");
    }
    assert_eq!(one("fn f<'a>(a: &'a str) -> char { crate::a::b('\\'') }"), ["a::b"]);
}
