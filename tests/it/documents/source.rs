//! Finds the texts that `src/` holds: string literals outside comments and tests.

use std::fs;
use std::path::Path;

/// A string literal, as a document shows it: `…` stands for each value that is put in.
pub struct Literal {
    pub text: String,
    /// The path of its file below the repository.
    pub file: String,
    /// The macro that logs it, `warn` or `error`, if one does.
    pub logged: bool,
}

/// All of them.
pub fn literals() -> Vec<Literal> {
    let mut found = Vec::new();
    visit(&super::markdown::root().join("src"), &mut found);
    assert!(found.len() > 1000, "only {} literals: this test reads the wrong folder", found.len());
    found
}

fn visit(folder: &Path, found: &mut Vec<Literal>) {
    for entry in fs::read_dir(folder).expect("a folder of src") {
        let path = entry.expect("an entry").path();
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
        if path.is_dir() && !is_test {
            visit(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            let text = fs::read_to_string(&path).expect("a source file");
            let before = found.len();
            scan(text.split("#[cfg(test)]\nmod tests {").next().expect("a part"), found);
            let file = path.strip_prefix(super::markdown::root()).expect("a file of the repository");
            found[before..].iter_mut().for_each(|literal| literal.file = file.to_string_lossy().into_owned());
        }
    }
}

/// Adds the literals of `code`. Knows as much of Rust as `src/` uses: line comments, characters, raw strings.
fn scan(code: &str, found: &mut Vec<Literal>) {
    let mut rest = code;
    let mut logging = None::<usize>;
    let mut depth = 0_usize;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, next)| next);
        } else if let Some(next) = rest.strip_prefix("r#\"") {
            rest = next.split_once("\"#").map_or("", |(_, next)| next);
        } else if rest.starts_with("'\"'") || rest.starts_with("'('") || rest.starts_with("')'") {
            rest = &rest[3..];
        } else if rest.starts_with("'\\\"'") || rest.starts_with("'\\\\'") {
            rest = &rest[4..];
        } else if let Some(next) = rest.strip_prefix('"') {
            let end = end_of_string(next);
            let (text, file) = (shown(&next[..end]), String::new());
            found.push(Literal { text, file, logged: logging.is_some() });
            rest = &next[end + 1..];
        } else {
            if rest.starts_with("warn!(") || rest.starts_with("error!(") {
                logging = logging.or(Some(depth));
            }
            match first {
                '(' => depth += 1,
                ')' => {
                    depth = depth.saturating_sub(1);
                    logging = logging.filter(|outside| depth > *outside);
                }
                _ => {}
            }
            rest = &rest[first.len_utf8()..];
        }
    }
}

fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.expect("the end of a string")
}

/// Joins continued lines, and puts `…` where a value is put in.
fn shown(raw: &str) -> String {
    let mut parts = raw.split("\\\n");
    let mut joined = parts.next().unwrap_or_default().to_owned();
    parts.for_each(|part| joined.push_str(part.trim_start()));
    let joined = joined.replace("\\\"", "\"").replace("\\r\\n", "");
    let mut text = String::new();
    let mut rest = joined.as_str();
    while let Some((before, behind)) = rest.split_once('{') {
        text.push_str(before);
        match behind.split_once('}') {
            Some((_, next)) => {
                text.push('…');
                rest = next;
            }
            None => rest = behind,
        }
    }
    text + rest
}

#[test]
fn literals_are_shown_as_documents_write_them() {
    let mut found = Vec::new();
    scan(
        "// \"no\"\nf('\"', \"a {b:?} \\\"c\\\" \\\n    d\\r\\n\"); tracing::warn!(x = y(), \"lost {}\", z); g(\"e\");",
        &mut found,
    );
    let texts: Vec<_> = found.iter().map(|literal| (literal.text.as_str(), literal.logged)).collect();
    assert_eq!(texts, [("a … \"c\" d", false), ("lost …", true), ("e", false)]);
}
