//! Writes `docs/configuration.md`: a heading for each table and each key.

use std::collections::HashSet;
use std::fmt::Write;

use respgate::cli;
use respgate::config::flags::PASSWORD_VARIABLES;
use respgate::config::schema::{Reload, Shape, TABLES, Table, TableKey, paragraphs};

use crate::full_name;

const HEAD: &str = r#"# Configuration

`make config-docs` writes this page from the configuration schema in `src/config/schema`. Change a description there.

respgate reads a TOML file: `respgate --config FILE`. `respgate check --config FILE` reports every error of a file at once, with its line and its key. [`config/full.toml`](../config/full.toml) is a file with every key. [`config/respgate.schema.json`](../config/respgate.schema.json) is a JSON Schema for editors; an editor with a TOML language server uses it if the file begins with `#:schema PATH-OR-URL/respgate.schema.json`.

A flag wins over its environment variable, and both win over the file. `--listen` adds a listener to those of the file. `--max-clients` and `--admin-commands` apply to every listener. `--tls-cert`, `--tls-key` and `--tls-client-ca` apply to every TCP listener that has no TLS keys of its own. `--upstream`, the flags that begin with `--upstream-` or `--sentinel-`, and the passwords in the environment apply to the upstream named `main`, or to the only one.

Relative paths start from the folder of the file.

## Values

- A **duration** is a text: a whole number with the unit `ms`, `s`, `m` or `h`, such as `"250ms"`, `"5s"`, `"2m"` or `"1h"`.
- A **size** is a text with the unit `B`, `KiB`, `MiB` or `GiB`, such as `"64KiB"`, or a number of bytes.
- A **whole number** stands without quotes. The word in parentheses says what it counts.

respgate looks at the file every [`reload-interval`](#reload-interval) and on SIGHUP. A change of a key that is marked **live** takes effect then. Every other key needs a **restart**; until then respgate keeps the former value, and logs the name of the key.

The heading of a key is its name. Where several tables have a key of the same name, the heading is the table and the name, as in [`listeners.address`](#listenersaddress).
"#;

/// Returns the whole page.
pub fn render() -> String {
    let mut text = HEAD.to_owned();
    for table in &TABLES {
        render_table(table, &mut text);
    }
    check_anchors(&text);
    text
}

fn render_table(table: &Table, text: &mut String) {
    let title = if table.path.is_empty() { "Top level".into() } else { table.path.replace('*', "NAME") };
    let _ = writeln!(text, "\n## {title}");
    for paragraph in paragraphs(table.description) {
        let _ = writeln!(text, "\n{}", linked(&paragraph, table, ""));
    }
    let (elsewhere, own): (Vec<TableKey>, Vec<TableKey>) =
        table.keys().into_iter().partition(|key| key.home.is_some());
    let _ = writeln!(text, "\nKeys: {}.", links(table, &own));
    if let Some(home) = elsewhere.first().and_then(|key| key.home) {
        let _ = writeln!(
            text,
            "\nKeys of [`[{home}]`](#{home}) that can also stand here: {}.",
            links(table, &elsewhere)
        );
    }
    for key in &own {
        render_key(table, key, text);
    }
}

fn links(table: &Table, keys: &[TableKey]) -> String {
    let links: Vec<String> = keys
        .iter()
        .map(|key| {
            let home = key.home.and_then(|home| TABLES.iter().find(|table| table.path == home));
            let heading = heading(home.unwrap_or(table), &key.name);
            format!("[`{}`](#{})", key.name, anchor(&heading))
        })
        .collect();
    links.join(", ")
}

fn render_key(table: &Table, key: &TableKey, text: &mut String) {
    let _ = writeln!(text, "\n### {}\n", heading(table, &key.name));
    let unit = key.key.unit.map(|unit| format!(" ({unit})")).unwrap_or_default();
    let words = match key.key.shape {
        Shape::Size | Shape::Duration => format!("[{}](#values)", key.key.shape.in_words()),
        _ => key.key.shape.in_words(),
    };
    let change = match key.reload() {
        Reload::Live => "live",
        Reload::Restart => "restart",
    };
    let default = linked(&key.default().in_words(), table, &key.name);
    let _ = write!(text, "**Type:** {words}{unit}. **Default:** {default}. **Change:** {change}.");
    let name = full_name(table, key);
    if let Some((flag, variable, _)) = cli::keys_by_flag().find(|(_, _, sets)| *sets == name) {
        let _ = write!(text, " **Flag:** `{flag}`, or `{variable}` in the environment.");
    }
    if let Some((variable, _)) = PASSWORD_VARIABLES.iter().find(|(_, sets)| *sets == name) {
        let _ = write!(text, " **Without the key:** `{variable}` in the environment can hold the password.");
    }
    if let Some(former) = &key.former_name {
        let _ = write!(text, " **Deprecated name:** `{former}`.");
    }
    text.push('\n');
    for paragraph in key.paragraphs() {
        let _ = writeln!(text, "\n{}", linked(&paragraph, table, &key.name));
    }
}

/// Returns the tables that document a key of this name.
fn homes(name: &str) -> Vec<&'static Table> {
    let documents = |table: &&Table| table.keys().iter().any(|key| key.name == name && key.home.is_none());
    TABLES.iter().filter(documents).collect()
}

fn heading(table: &Table, name: &str) -> String {
    match (homes(name).len(), table.path.split('.').next()) {
        (2.., Some(table)) => format!("{table}.{name}"),
        _ => name.to_owned(),
    }
}

/// Returns the anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

/// Makes links of the keys that a text names in backticks: those of the same table, and others whose name is unique. `own` is
/// the key that the text is about.
fn linked(text: &str, table: &Table, own: &str) -> String {
    let parts = text.split('`').enumerate().map(|(at, part)| {
        let inner = match at % 2 {
            0 => return part.to_owned(),
            _ => part,
        };
        let homes = homes(inner);
        let home =
            homes.iter().find(|home| home.path == table.path).or(homes.first().filter(|_| homes.len() == 1));
        match home {
            Some(home) if inner != own => format!("[`{inner}`](#{})", anchor(&heading(home, inner))),
            _ => format!("`{inner}`"),
        }
    });
    parts.collect()
}

/// Fails if two headings have one anchor, or a link has no heading.
fn check_anchors(text: &str) {
    let mut anchors = HashSet::new();
    for line in text.lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim();
        assert!(anchors.insert(anchor(heading)), "two headings have the anchor of {heading:?}");
    }
    for link in text.split("](#").skip(1) {
        let link = link.split(')').next().unwrap();
        assert!(anchors.contains(link), "no heading has the anchor {link:?}");
    }
}
