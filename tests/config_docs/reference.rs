//! Writes `config/full.toml`: every key with its summary, type, default and a value.

use std::fmt::Write;

use respgate::config::schema::{Reload, TABLES, Table, TableKey, paragraphs};

use crate::example;

const WIDTH: usize = 118;

const HEAD: &str = "\
#:schema ./respgate.schema.json
# Every key of a configuration file, with its type and default. This is a reference: copy what you need.
# `make config-docs` writes this file from src/config/schema. docs/configuration.md says more about each key.
#
#   respgate check --config FILE    reports every error of a file at once
#
# A duration is a text such as \"250ms\", \"5s\", \"2m\" or \"1h\". A size is \"64KiB\", \"512MiB\", \"1GiB\" or a plain number of
# bytes. A flag wins over its environment variable, and both win over the file. Relative paths start from the folder of
# this file. A change of a \"Live\" key takes effect when the file is reloaded; any other key needs a restart.
";

/// Returns the whole file.
pub fn render() -> String {
    let mut text = HEAD.to_owned();
    for table in &TABLES {
        render_table(table, &mut text);
    }
    text
}

fn render_table(table: &Table, text: &mut String) {
    text.push('\n');
    for paragraph in paragraphs(table.description) {
        comment(&paragraph, text);
    }
    if !table.path.is_empty() {
        let _ = writeln!(text, "[{}]", table.path.replace('*', table.example));
    }
    let mut at_home = None;
    for key in table.keys() {
        if let Some(home) = key.home.filter(|home| at_home != Some(*home)) {
            comment(&format!("The keys of [{home}], for this table alone."), text);
        }
        at_home = key.home;
        render_key(&key, text);
    }
    if !table.more.is_empty() {
        let _ = write!(text, "\n{}", table.more);
    }
}

fn render_key(key: &TableKey, text: &mut String) {
    if key.home.is_none() {
        comment(&key.paragraphs().remove(0), text);
        comment(&facts(key), text);
    }
    let aside = if key.aside().is_some() { "# " } else { "" };
    let _ = writeln!(text, "{aside}{} = {}", key.name, example(key));
}

fn facts(key: &TableKey) -> String {
    let unit = key.key.unit.map(|unit| format!(" ({unit})")).unwrap_or_default();
    let live = if key.reload() == Reload::Live { " Live." } else { "" };
    let aside = key.aside().map(|aside| format!(" In a comment here: {aside}.")).unwrap_or_default();
    let words = key.key.shape.in_words();
    format!("Type: {words}{unit}. Default: {}.{live}{aside}", key.default().in_words())
}

/// Writes a comment in lines of at most [`WIDTH`].
fn comment(words: &str, text: &mut String) {
    let mut line = String::from("#");
    for word in words.replace('`', "").split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}
