//! Reads the tables of a TOML document, and finds every error with its line in one pass.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Place, Report, suggestion};
use super::schema::entry::{Table, known_keys, renamed_keys};
use super::setting::Setting;
use super::value::{Value, shown};

/// A file's text and name, which turn positions into lines.
#[derive(Debug)]
pub struct Source<'a> {
    /// The path as the user wrote it.
    pub path: Arc<str>,
    /// The content of the file.
    pub text: &'a str,
}

impl Source<'_> {
    /// Returns the place of a key whose value or name begins at a byte offset.
    pub fn place(&self, offset: usize, key: impl Into<String>) -> Place {
        Place::File { path: self.path.clone(), line: self.line(offset), column: None, key: key.into() }
    }

    /// Returns the place of a syntax error.
    pub fn point(&self, offset: usize) -> Place {
        let before = self.before(offset);
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place::File {
            path: self.path.clone(),
            line: self.line(offset),
            column: Some(column),
            key: String::new(),
        }
    }

    fn line(&self, offset: usize) -> usize {
        self.before(offset).bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    fn before(&self, offset: usize) -> &str {
        self.text.get(..offset).unwrap_or(self.text)
    }
}

/// Reads one table key by key. The schema says which keys the table may have.
pub struct Section<'a> {
    source: &'a Source<'a>,
    table: &'a DeTable<'a>,
    schema: &'static [Table],
    place: Place,
    path: String,
    known: Vec<String>,
    /// The deprecated names of keys, each with the name to use.
    renamed: Vec<(String, String)>,
}

impl<'a> Section<'a> {
    /// Returns the document's outermost table. `schema` declares all tables of a document.
    pub fn root(source: &'a Source<'a>, table: &'a DeTable<'a>, schema: &'static [Table]) -> Self {
        let (known, renamed) = (known_keys(schema, ""), renamed_keys(schema, ""));
        Self { source, table, schema, place: source.place(0, ""), path: String::new(), known, renamed }
    }

    /// Returns where the table begins.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Reads one setting and reports an error in it.
    pub fn read<T: Value>(&self, key: &str, report: &mut Report) -> Setting<T> {
        debug_assert!(self.knows(key), "{key} is not in the schema of {}", self.path);
        match self.value(key) {
            Some(value) => self.parse(value, self.key(key), report),
            None => Setting::Absent,
        }
    }

    /// Reads a list and reports every wrong element.
    pub fn read_list<T>(
        &self,
        key: &str,
        element: impl Fn(&str) -> Result<T, String>,
        report: &mut Report,
    ) -> Setting<Vec<T>> {
        let example = format!("{key} = [\"…\", \"…\"]");
        self.read_elements(key, &example, |value| text(value).and_then(&element), report)
    }

    /// Reads a list that may be empty; see [`Self::read_list`].
    pub fn read_any_list<T>(
        &self,
        key: &str,
        element: impl Fn(&str) -> Result<T, String>,
        report: &mut Report,
    ) -> Setting<Vec<T>> {
        match self.value(key) {
            Some(value) if matches!(value.get_ref(), DeValue::Array(elements) if elements.is_empty()) => {
                Setting::Given(Vec::new(), self.source.place(value.span().start, self.key(key)))
            }
            _ => self.read_list(key, element, report),
        }
    }

    /// Reads a list whose elements are a [`Value`]; see [`Self::read_list`].
    pub fn read_values<T: Value>(&self, key: &str, example: &str, report: &mut Report) -> Setting<Vec<T>> {
        self.read_elements(key, example, T::from_toml, report)
    }

    fn read_elements<T>(
        &self,
        key: &str,
        example: &str,
        element: impl Fn(&DeValue<'_>) -> Result<T, String>,
        report: &mut Report,
    ) -> Setting<Vec<T>> {
        let Some(value) = self.value(key) else { return Setting::Absent };
        let place = self.source.place(value.span().start, self.key(key));
        let DeValue::Array(elements) = value.get_ref() else {
            report.error(&place, format!("is not a list; write it like {example}"));
            return Setting::Invalid;
        };
        let mut list = Vec::new();
        for value in elements.iter() {
            let place = self.source.place(value.span().start, self.key(key));
            match element(value.get_ref()) {
                Ok(element) => list.push(element),
                Err(error) => report.error(&place, error),
            }
        }
        match list.len() {
            0 if elements.is_empty() => {
                report.error(&place, "is empty; name at least one");
                Setting::Invalid
            }
            length if length == elements.len() => Setting::Given(list, place),
            _ => Setting::Invalid,
        }
    }

    /// Reads a table in which all keys have one type and all values have one type. Reports every
    /// wrong pair.
    pub fn read_pairs<K, V>(
        &self,
        key: &str,
        from: impl Fn(&str) -> Result<K, String>,
        to: impl Fn(&str) -> Result<V, String>,
        report: &mut Report,
    ) -> Setting<Vec<(K, V)>> {
        let Some(value) = self.value(key) else { return Setting::Absent };
        let place = self.source.place(value.span().start, self.key(key));
        let DeValue::Table(table) = value.get_ref() else {
            report.error(&place, format!("is not a table; write it like {key} = {{ \"from\" = \"to\" }}"));
            return Setting::Invalid;
        };
        let mut pairs = Vec::new();
        for (name, value) in table {
            let place = self.source.place(name.span().start, self.key(key));
            match (from(name.get_ref()), text(value.get_ref()).and_then(&to)) {
                (Ok(from), Ok(to)) => pairs.push((from, to)),
                (from, to) => {
                    for error in [from.err(), to.err()].into_iter().flatten() {
                        report.error(&place, error);
                    }
                }
            }
        }
        if pairs.len() == table.len() { Setting::Given(pairs, place) } else { Setting::Invalid }
    }

    /// Returns the value of a key, under its name or its deprecated name.
    fn value(&self, key: &str) -> Option<&Spanned<DeValue<'a>>> {
        let former = || self.renamed.iter().find(|(_, name)| name == key).map(|(former, _)| former.as_str());
        self.table.get(key).or_else(|| self.table.get(former()?))
    }

    /// Returns true if the schema has a key of this name in the table.
    fn knows(&self, key: &str) -> bool {
        self.known.iter().any(|known| known == key)
    }

    /// Returns the table under a key of the outermost table. Returns `None` if the key is missing
    /// or is not a table.
    pub fn section(&self, key: &str, report: &mut Report) -> Option<Section<'a>> {
        debug_assert!(self.knows(key), "{key} is not in the schema of {}", self.path);
        let (name, value) = self.table.get_key_value(key)?;
        let names = (known_keys(self.schema, key), renamed_keys(self.schema, key));
        self.enter(name.span().start, value, self.key(key), names, report)
    }

    /// Returns the named tables under a key, such as `[listeners.app]`, in the order of the file.
    pub fn sections(&self, key: &str, report: &mut Report) -> Vec<(String, Section<'a>)> {
        let Some(parent) = self.section(key, report) else { return Vec::new() };
        let kind = format!("{key}.*");
        let names = (known_keys(self.schema, &kind), renamed_keys(self.schema, &kind));
        let mut children: Vec<_> = parent.table.iter().collect();
        children.sort_by_key(|(name, _)| name.span().start);
        let mut sections = Vec::new();
        for (name, value) in children {
            let path = format!("{key}.{}", name.get_ref());
            let start = name.span().start;
            let Some(section) = self.enter(start, value, path, names.clone(), report) else { continue };
            if !is_name(name.get_ref()) {
                report.error(
                    &section.place,
                    "is not a name; use letters, digits, - and _ (at most 64), since logs and metrics carry it",
                );
            }
            sections.push((name.get_ref().to_string(), section));
        }
        sections
    }

    /// Reports the keys that the schema does not allow in this table, and the tables that they
    /// belong to. Warns of deprecated names.
    pub fn refuse_unknown_keys(&self, report: &mut Report) {
        for (name, _) in self.table.iter().filter(|(name, _)| !self.knows(name.get_ref())) {
            let name_text = name.get_ref().as_ref();
            if let Some((_, new)) = self.renamed.iter().find(|(former, _)| former == name_text) {
                let place = self.source.place(name.span().start, self.key(name_text));
                if self.table.contains_key(new.as_str()) {
                    report.error(
                        &place,
                        format!("is the deprecated name of {new}, which is given too; remove it"),
                    );
                } else {
                    report.warn(
                        &place,
                        format!("is a deprecated name, which the next version refuses; write {new}"),
                    );
                }
                continue;
            }
            let homes: Vec<String> = self
                .schema
                .iter()
                .filter(|table| {
                    !table.path.is_empty() && table.keys().iter().any(|key| key.name == name_text)
                })
                .map(|table| format!("[{}]", table.path))
                .collect();
            let near = suggestion(name_text, self.known.iter().map(String::as_str));
            let hint = if name_text == "password" && self.knows("password-hash") {
                "; write password-hash, of: respgate hash-password".into()
            } else if name_text.ends_with("password") {
                format!("; write {name_text}-file or {name_text}-env: the file itself may not hold passwords")
            } else if !near.is_empty() {
                near
            } else if !homes.is_empty() {
                format!("; it belongs in {}", homes.join(" or "))
            } else {
                format!("; known are {}", self.known.join(", "))
            };
            let place = self.source.place(name.span().start, self.key(name_text));
            report.error(&place, format!("unknown key{hint}"));
        }
    }

    fn enter(
        &self,
        start: usize,
        value: &'a Spanned<DeValue<'a>>,
        path: String,
        (known, renamed): (Vec<String>, Vec<(String, String)>),
        report: &mut Report,
    ) -> Option<Section<'a>> {
        let place = self.source.place(start, path.clone());
        match value.get_ref() {
            DeValue::Table(table) => {
                Some(Section { source: self.source, table, schema: self.schema, place, path, known, renamed })
            }
            other => {
                let what = if matches!(other, DeValue::Array(_)) { "a list" } else { "a value" };
                report.error(&place, format!("is {what}, but a table is meant; write it like [{path}]"));
                None
            }
        }
    }

    fn parse<T: Value>(&self, value: &Spanned<DeValue<'_>>, key: String, report: &mut Report) -> Setting<T> {
        let place = self.source.place(value.span().start, key);
        match T::from_toml(value.get_ref()) {
            Ok(value) => Setting::Given(value, place),
            Err(error) => {
                report.error(&place, error);
                Setting::Invalid
            }
        }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }
}

fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    match value {
        DeValue::String(text) => Ok(text),
        other => Err(format!("{} is not a text in quotes", shown(other))),
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
