//! Imports go down one list of modules only: `src/` is read, and an upward `use crate::…` fails.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down. A module may name those after it, and itself.
const ORDER: &[&str] = &[
    "main",
    "cli",
    "app",
    "certificates",
    "reload",
    "doctor",
    "status",
    "config",
    "admin",
    "listener",
    "worker",
    "session",
    "tenant",
    "upstream",
    "discovery",
    "command",
    "resp",
    "rotation",
    "net",
    "metrics",
    "poll_meter",
    "drain",
    "timeline",
    "topology",
    "descriptors",
    "files",
    "logs",
];

/// The last one.
const BOTTOM: &str = "secret";

/// They meet in `topology` only.
const STRANGERS: [&str; 2] = ["upstream", "discovery"];

#[test]
fn imports_go_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    let mut seen = 0;
    for file in rust_files(&root) {
        let module = module_of(&root, &file);
        if module == "lib" {
            continue;
        }
        let text = without_comments(&fs::read_to_string(&file).expect("a source file"));
        for (at, named) in named_modules(&text) {
            seen += 1;
            if let Err(why) = check(&module, named) {
                let line = text[..at].lines().count();
                faults.push(format!("{}:{line}: {why}", file.display()));
            }
        }
    }
    assert!(seen > 0, "no `crate::` was found at all: this test reads the wrong folder");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn check(module: &str, named: &str) -> Result<(), String> {
    if module == named {
        return Ok(());
    }
    if STRANGERS.contains(&module) && STRANGERS.contains(&named) {
        return Err(format!("`{module}` names `{named}`: upstream and discovery meet in topology"));
    }
    match (rank(module), rank(named)) {
        (None, _) => {
            Err(format!("module `{module}` has no place in the order; give it one in tests/it/layers.rs"))
        }
        (_, None) => {
            Err(format!("module `{named}` has no place in the order; give it one in tests/it/layers.rs"))
        }
        (Some(own), Some(other)) if other < own => {
            Err(format!("`{module}` names `{named}`, which is above it"))
        }
        _ => Ok(()),
    }
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().chain([&BOTTOM]).position(|known| *known == module)
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
    files
}

/// `session` for `src/session/config.rs` and for `src/session.rs`.
fn module_of(root: &Path, file: &Path) -> String {
    let relative = file.strip_prefix(root).expect("a file under src");
    let first = relative.components().next().expect("a path").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Documentation may point upwards. Lines keep their numbers.
fn without_comments(text: &str) -> String {
    let blank = |line: &str| line.trim_start().starts_with("//");
    text.lines().map(|line| if blank(line) { "\n".to_owned() } else { format!("{line}\n") }).collect()
}

/// The modules in `crate::a…`, `respgate::a…` (main uses the library) and `crate::{a::…, b::…}`, each with its
/// place in the text.
fn named_modules(text: &str) -> Vec<(usize, &str)> {
    let mut names = Vec::new();
    for prefix in ["crate::", "respgate::"] {
        for (found, _) in text.match_indices(prefix) {
            let at = found + prefix.len();
            let rest = &text[at..];
            match rest.strip_prefix('{') {
                Some(list) => names.extend(top_level_items(list).into_iter().map(|name| (at, name))),
                None => names.push((at, identifier(rest))),
            }
        }
    }
    names.retain(|(_, name)| name.starts_with(|c: char| c.is_ascii_lowercase()));
    names
}

/// The first identifiers of a brace list's items; inner braces are passed over.
fn top_level_items(list: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut items = vec![identifier(list.trim_start())];
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(identifier(list[at + 1..].trim_start())),
            _ => {}
        }
        if depth < 0 {
            break;
        }
    }
    items
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

#[test]
fn the_rule_itself() {
    let names = |text| named_modules(text).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
    assert_eq!(names("use crate::{\n    net::{a, b},\n    topology::Address,\n};"), ["net", "topology"]);
    assert_eq!(names("    crate::resp::Resp::V2, crate::command::Route"), ["resp", "command"]);
    assert_eq!(names("macro_rules! m { () => { $crate::Thing } }"), [""; 0]);
    assert!(check("session", "upstream").is_ok());
    assert!(check("upstream", "session").is_err());
    assert!(check("discovery", "upstream").is_err());
    assert!(check("upstream", "discovery").is_err());
    assert!(check("command", "nowhere").is_err());
}
