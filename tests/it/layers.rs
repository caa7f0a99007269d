//! Imports go down one list of modules only: `src/` is read, and an upward `use crate::…` fails. Inside a module, no
//! file imports itself through others.

mod cycles;
mod source;

use std::path::Path;

use source::SourceFile;

/// From the top down. A module may name those after it, and itself.
const ORDER: &[&str] = &[
    "main",
    "manual",
    "cli",
    "app",
    "upgrade",
    "heartbeat",
    "shutdown",
    "reload",
    "certificates",
    "doctor",
    "status",
    "ctl",
    "admin_client",
    "config",
    "admin",
    "operator",
    "listener",
    "worker",
    "session",
    "clients",
    "tenant",
    "upstream",
    "discovery",
    "latency",
    "command",
    "resp",
    "rotation",
    "net",
    "metrics",
    "poll_meter",
    "drain",
    "systemd",
    "timeline",
    "replica",
    "hint",
    "cluster",
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
    let mut errors = Vec::new();
    let mut seen = 0;
    for file in source::read(&root) {
        let Some(module) = file.module.first() else { continue };
        for (line, named) in named_modules(&file) {
            seen += 1;
            if let Err(why) = check(module, &named) {
                errors.push(format!("{}:{line}: {why}", file.path.display()));
            }
        }
    }
    assert!(seen > 0, "no `crate::` was found at all: this test reads the wrong folder");
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

/// Returns the modules that a file names with `crate::` or, in `main.rs`, with the crate's name, each with its line.
fn named_modules(file: &SourceFile) -> Vec<(usize, String)> {
    let absolute = file.imports().into_iter().filter(|import| import.absolute);
    let named = absolute.filter_map(|import| Some((import.line, import.target.into_iter().next()?)));
    named.filter(|(_, name)| name.starts_with(|c: char| c.is_ascii_lowercase())).collect()
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

#[test]
fn the_rule_itself() {
    let names = |text| {
        let file = SourceFile::new(Path::new("session/mod.rs"), text);
        named_modules(&file).into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    assert_eq!(
        names("use crate::{\n    net::{a, b},\n    topology::Address,\n};"),
        ["net", "net", "topology"]
    );
    assert_eq!(names("    crate::resp::Resp::V2, crate::command::Route"), ["resp", "command"]);
    assert_eq!(names("macro_rules! m { () => { $crate::Thing } }"), [""; 0]);
    assert!(check("session", "upstream").is_ok());
    assert!(check("upstream", "session").is_err());
    assert!(check("discovery", "upstream").is_err());
    assert!(check("upstream", "discovery").is_err());
    assert!(check("command", "nowhere").is_err());
}
