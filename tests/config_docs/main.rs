//! What is written from the configuration schema: `config/full.toml`, `config/respgate.schema.json` and
//! `docs/configuration.md`, and the keys that need a restart in `docs/reload.md`. `make config-docs` writes them; a file that differs from the schema fails here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failed unwrap is the test's verdict"
)]

mod editor;
mod page;
mod reference;
mod restart;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use respgate::cli;
use respgate::config::flags::PASSWORD_VARIABLES;
use respgate::config::schema::{DefaultValue, TABLES, Table, TableKey};

/// Returns a key's full name, as `listeners.*.address`.
fn full_name(table: &Table, key: &TableKey) -> String {
    if table.path.is_empty() { key.name.clone() } else { format!("{}.{}", table.path, key.name) }
}

/// Returns the value of a key in the reference, as TOML.
fn example(key: &TableKey) -> String {
    match (key.key.example, key.key.default) {
        (Some(example), _) => example.to_owned(),
        (None, DefaultValue::Value(value)) => value(),
        (None, _) => panic!("{} has neither an example nor a default that is a value", key.name),
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compares a file with what the schema says, or writes it if `CONFIG_WRITE_DOCS` is set.
fn compare(name: &str, expected: &str) {
    if std::env::var_os("CONFIG_WRITE_DOCS").is_some() {
        fs::write(path(name), expected).unwrap();
    }
    let text = fs::read_to_string(path(name)).unwrap_or_default();
    let differing = text.lines().zip(expected.lines()).find(|(is, should)| is != should);
    assert!(
        text == expected,
        "{name} differs from the configuration schema; write it with: make config-docs\n{differing:?}"
    );
}

#[test]
fn the_reference_is_the_schemas() {
    compare("config/full.toml", &reference::render());
}

#[test]
fn the_page_is_the_schemas() {
    compare("docs/configuration.md", &page::render());
}

#[test]
fn the_editors_schema_is_the_schemas() {
    compare("config/respgate.schema.json", &editor::render());
}

#[test]
fn the_list_of_restart_keys_is_the_schemas() {
    let page = fs::read_to_string(path("docs/reload.md")).unwrap();
    compare("docs/reload.md", &restart::render(&page));
}

#[test]
fn every_flag_sets_a_key_of_the_schema() {
    let keys: HashSet<String> = TABLES
        .iter()
        .flat_map(|table| table.keys().into_iter().map(move |key| full_name(table, &key)))
        .collect();
    let flags = cli::keys_by_flag().map(|(flag, _, key)| (flag, key));
    for (flag, key) in flags.chain(PASSWORD_VARIABLES) {
        assert!(keys.contains(key), "{flag} sets {key}, which the schema does not have");
    }
}
