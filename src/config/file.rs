//! Reads the TOML file as the user typed it.

use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use toml::de::DeTable;

use super::document::{Section, Source};
use super::report::{Place, Report};
use super::schema::{Part, TABLES};
use super::setting::Setting;
use super::typed::{Named, Typed};
use super::written::Written;
use crate::files;
use crate::rotation::source::readable_by_all;

/// Size of the largest configuration file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Reads a file, reports its errors, and returns the rest. Returns `None` if nothing could be read.
pub fn read(path: &Path, report: &mut Report) -> Option<Typed> {
    let whole =
        Place::File { path: path.display().to_string().into(), line: 0, column: None, key: String::new() };
    let (text, metadata) = match open(path) {
        Ok(content) => content,
        Err(why) => {
            report.error(&whole, why);
            return None;
        }
    };
    let mut typed = parse(path, &text, report)?;
    typed.file = Some(whole);
    if readable_by_all(metadata.mode()) {
        for url in typed.upstreams.iter().map(|upstream| &upstream.keys.discovery.url) {
            if let Setting::Given(url, place) = url
                && url.password.is_some()
            {
                report.warn(
                    place,
                    "holds a password, and every user of this machine can read the file; chmod 600 it",
                );
            }
        }
    }
    Some(typed)
}

fn open(path: &Path) -> Result<(String, Metadata), String> {
    let cannot = |error: std::io::Error| format!("cannot read the file: {error}");
    let file = files::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err("the file is longer than 1MiB; is it a configuration?".into());
    }
    let text = String::from_utf8(bytes).map_err(|_| "the file is not UTF-8 text; is it a configuration?")?;
    Ok((text, metadata))
}

/// Parses a file's text. If it has syntax errors, only those are reported, because what follows a
/// syntax error is uncertain.
pub fn parse(path: &Path, text: &str, report: &mut Report) -> Option<Typed> {
    let source = Source { path: path.display().to_string().into(), text };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let rest = text.get(span.start..).unwrap_or_default();
        let message = match error.message() {
            "duplicate key" => {
                format!("{} is set here a second time", text.get(span.clone()).unwrap_or("a key"))
            }
            message if message.starts_with("string values must be quoted") => {
                match rest.starts_with(['\n', '\r']) {
                    true => "a value is missing after the =".into(),
                    false => "this is no value; write texts in quotes".into(),
                }
            }
            message => message.to_owned(),
        };
        report.error(&source.point(span.start), message);
    }
    if !errors.is_empty() {
        return None;
    }
    let root = Section::root(&source, document.get_ref(), &TABLES);
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut typed = Typed {
        written: Written::of(document.get_ref(), &TABLES),
        process: keys(&root, folder, report),
        ..Typed::default()
    };
    if let Some(section) = root.section("log", report) {
        typed.log = keys(&section, folder, report);
    }
    if let Some(section) = root.section("limits", report) {
        typed.limits = keys(&section, folder, report);
    }
    typed.listeners = tables(&root, "listeners", folder, report);
    typed.tenants = tables(&root, "tenants", folder, report);
    typed.users = tables(&root, "users", folder, report);
    typed.upstreams = tables(&root, "upstreams", folder, report);
    Some(typed)
}

/// Reads the tables of one kind, whose names the user chooses.
fn tables<K: Part>(root: &Section<'_>, kind: &str, folder: &Path, report: &mut Report) -> Vec<Named<K>> {
    let sections = root.sections(kind, report).into_iter();
    sections
        .map(|(name, section)| Named {
            name,
            place: section.place().clone(),
            keys: keys(&section, folder, report),
        })
        .collect()
}

/// Reads the keys of one table, and reports keys that it may not have.
fn keys<K: Part>(section: &Section<'_>, folder: &Path, report: &mut Report) -> K {
    section.refuse_unknown_keys(report);
    K::read(section, "", folder, report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_syntax_errors_are_reported() {
        let mut report = Report::default();
        let text = "workers =\n[log\nlevel = \"info\"\n[limits]\n\u{e9} = 1\nmax-args = 1\nmax-args = 2\n";
        assert!(parse(Path::new("x.toml"), text, &mut report).is_none());
        report.sort();
        let lines: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        assert_eq!(lines[0], "x.toml:1:10: a value is missing after the =");
        assert!(lines[1].starts_with("x.toml:2:5: "), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "x.toml:7:1: max-args is set here a second time");
    }
}
