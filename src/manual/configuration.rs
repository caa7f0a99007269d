//! The manual page of the configuration file, `respgate.toml(5)`, written from the configuration schema.

use clap_mangen::roff::{Roff, bold, roman};

use super::inline::inlines;
use crate::cli;
use crate::config::flags::PASSWORD_VARIABLES;
use crate::config::schema::{Reload, TABLES, Table, TableKey, paragraphs};

const INTRODUCTION: [&str; 4] = [
    "respgate reads a TOML file: `respgate --config FILE`. `respgate check --config FILE` reports every error of a file at once. \
     A flag wins over its environment variable, and both win over the file. Relative paths start from the folder of the file.",
    "A **duration** is a text: a whole number with the unit `ms`, `s`, `m` or `h`, such as `\"250ms\"` or `\"1h\"`.",
    "A **size** is a text with the unit `B`, `KiB`, `MiB` or `GiB`, such as `\"64KiB\"`, or a number of bytes.",
    "respgate looks at the file every `reload-interval` and on SIGHUP. A change of a **live** key takes effect then. Every other key \
     needs a **restart**.",
];

const EXAMPLE: &str = "\
admin = \"127.0.0.1:9121\"

[listeners.app]
address = \"127.0.0.1:6379\"

[upstreams.main]
url = \"redis-sentinel://s1:26379,s2:26379,s3:26379/0#mymaster\"";

/// Returns the whole page.
pub(super) fn page() -> String {
    let mut page = Roff::new();
    let source = concat!("respgate ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["respgate.toml", "5", "", source, "respgate"]);
    page.control("SH", ["NAME"]).text([roman("respgate.toml - the configuration file of respgate")]);
    page.control("SH", ["SYNOPSIS"]).text([bold("/etc/respgate/respgate.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    for paragraph in INTRODUCTION {
        page.control("PP", []).text(inlines(paragraph));
    }
    page.control("SH", ["EXAMPLE"]).control("nf", []).text([roman(EXAMPLE)]).control("fi", []);
    for table in &TABLES {
        render_table(table, &mut page);
    }
    page.control("SH", ["SEE ALSO"]).text([roman("respgate(1), respgate-check(1)")]);
    page.render()
}

fn render_table(table: &Table, page: &mut Roff) {
    let title = match table.path {
        "" => "TOP LEVEL".to_owned(),
        path => format!("[{}]", path.replace('*', "NAME")),
    };
    page.control("SH", [title.as_str()]);
    for paragraph in paragraphs(table.description) {
        page.control("PP", []).text(inlines(&paragraph));
    }
    let (elsewhere, own): (Vec<TableKey>, Vec<TableKey>) =
        table.keys().into_iter().partition(|key| key.home.is_some());
    for key in &own {
        render_key(table, key, page);
    }
    if let Some(home) = elsewhere.first().and_then(|key| key.home) {
        let names: Vec<String> = elsewhere.iter().map(|key| format!("`{}`", key.name)).collect();
        let text = format!("Keys of `[{home}]` that can also stand here: {}.", names.join(", "));
        page.control("PP", []).text(inlines(&text));
    }
}

fn render_key(table: &Table, key: &TableKey, page: &mut Roff) {
    let full = if table.path.is_empty() { key.name.clone() } else { format!("{}.{}", table.path, key.name) };
    page.control("TP", []).text([bold(key.name.as_str())]);
    for (at, paragraph) in key.paragraphs().iter().enumerate() {
        if at > 0 {
            page.control("IP", []);
        }
        page.text(inlines(paragraph));
    }
    let unit = key.key.unit.map(|unit| format!(" ({unit})")).unwrap_or_default();
    let change = match key.reload() {
        Reload::Live => "live",
        Reload::Restart => "restart",
    };
    let (shape, default) = (key.key.shape.in_words(), key.default().in_words());
    let mut facts = format!("Type: {shape}{unit}. Default: {default}. Change: {change}.");
    if let Some((flag, variable, _)) = cli::keys_by_flag().find(|(_, _, sets)| *sets == full) {
        facts += &format!(" Flag: `{flag}`, or `{variable}` in the environment.");
    }
    if let Some((variable, _)) = PASSWORD_VARIABLES.iter().find(|(_, sets)| *sets == full) {
        facts += &format!(" Without the key, `{variable}` in the environment can hold the password.");
    }
    if let Some(former) = &key.former_name {
        facts += &format!(" Deprecated name: `{former}`.");
    }
    page.control("IP", []).text(inlines(&facts));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_key() {
        let page = page();
        for table in &TABLES {
            for key in table.keys() {
                let name = key.name.replace('-', r"\-");
                assert!(page.contains(&format!(r"\fB{name}\fR")), "{name}");
            }
        }
    }

    #[test]
    fn the_example_is_valid() {
        let table = EXAMPLE.parse::<toml::Table>().expect("TOML");
        assert!(table.contains_key("upstreams"));
    }
}
