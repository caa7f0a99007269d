//! The declarations of tables and keys, and the keys that a list of tables has.

use super::shape::Shape;

/// One table of the file.
#[derive(Debug)]
pub struct Table {
    /// Its header: empty for the keys above all tables. `*` stands for a name that the user
    /// chooses.
    pub path: &'static str,
    /// The subject of the table.
    pub description: &'static str,
    /// The table's keys.
    pub entries: &'static [Entry],
    /// The name that `config/full.toml` shows in place of `*`; empty if there is none.
    pub example: &'static str,
    /// TOML that follows the table in `config/full.toml`: further tables of the kind.
    pub more: &'static str,
}

/// One entry of a table: a key, or the keys of another part.
#[derive(Debug)]
pub enum Entry {
    /// A key.
    Key(Key),
    /// The keys of another part.
    Group(Group),
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// The key's name, without the prefix of a group.
    pub name: &'static str,
    /// The deprecated name, without the prefix of a group. It works for one more version.
    pub former_name: Option<&'static str>,
    /// The form in which the user writes the value.
    pub shape: Shape,
    /// The unit of a whole number.
    pub unit: Option<&'static str>,
    /// The value that applies if the key is absent.
    pub default: DefaultValue,
    /// When a change takes effect.
    pub reload: Reload,
    /// The value in `config/full.toml`, as TOML. `None` shows the default.
    pub example: Option<&'static str>,
    /// Why `config/full.toml` shows the key in a comment.
    pub aside: Option<&'static str>,
    /// Paragraphs for people, in Markdown. The first is a summary.
    pub description: &'static str,
}

/// The keys of another part, as a table includes them.
#[derive(Debug)]
pub struct Group {
    /// The prefix of each name.
    pub prefix: &'static str,
    /// The declarations of the keys.
    pub entries: &'static [Entry],
    /// The meaning of the prefix. `KEY` stands for the key's name without the prefix.
    pub about: Option<&'static str>,
    /// The table that documents these keys, if it is another one.
    pub home: Option<&'static str>,
    /// When a change of these keys takes effect, if that differs.
    pub reload: Option<Reload>,
    /// Why `config/full.toml` shows all of these keys in comments.
    pub aside: Option<&'static str>,
    /// The defaults, in words, that differ from those of the keys without the prefix.
    pub defaults: &'static [(&'static str, &'static str)],
}

/// The value that applies if a key is absent.
#[derive(Clone, Copy, Debug)]
pub enum DefaultValue {
    /// This value, as TOML.
    Value(fn() -> String),
    /// A default that is described in words.
    Text(&'static str),
    /// There is no default: the key is required.
    Required,
}

impl DefaultValue {
    /// Returns the default in words, as Markdown.
    pub fn in_words(&self) -> String {
        match self {
            Self::Value(value) => format!("`{}`", value()),
            Self::Text(text) => (*text).to_owned(),
            Self::Required => "none; required".to_owned(),
        }
    }
}

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// At the next reload of the file.
    Live,
    /// At the next start of respgate.
    Restart,
}

/// A key as it appears in its table.
#[derive(Debug)]
pub struct TableKey {
    /// The name, with the prefix.
    pub name: String,
    /// The deprecated name, with the prefix.
    pub former_name: Option<String>,
    /// The key's declaration.
    pub key: &'static Key,
    /// The group with a prefix that the key comes from.
    pub group: Option<&'static Group>,
    /// The table that documents the key, if it is another one.
    pub home: Option<&'static str>,
}

impl TableKey {
    /// Returns the default, which a group may override.
    pub fn default(&self) -> DefaultValue {
        let own = self.group.and_then(|group| group.defaults.iter().find(|(name, _)| *name == self.key.name));
        own.map_or(self.key.default, |(_, text)| DefaultValue::Text(text))
    }

    /// Returns when a change takes effect, which a group may override.
    pub fn reload(&self) -> Reload {
        self.group.and_then(|group| group.reload).unwrap_or(self.key.reload)
    }

    /// Returns why `config/full.toml` shows the key in a comment; `None` if it does not.
    pub fn aside(&self) -> Option<String> {
        let prefix = self.group.map_or("", |group| group.prefix);
        let own = self.key.aside.map(|aside| aside.replacen('`', &format!("`{prefix}"), 1));
        own.or(self.group.and_then(|group| group.aside).map(str::to_owned))
    }

    /// Returns the paragraphs for people, each as one line.
    pub fn paragraphs(&self) -> Vec<String> {
        match self.group.and_then(|group| group.about) {
            Some(about) => vec![about.replace("KEY", &format!("`{}`", self.key.name))],
            None => paragraphs(self.key.description),
        }
    }
}

impl Table {
    /// Returns all keys, including those of groups.
    pub fn keys(&self) -> Vec<TableKey> {
        let mut keys = Vec::new();
        gather(self.entries, "", None, None, &mut keys);
        keys
    }
}

/// Returns the paragraphs of a description, each as one line.
pub fn paragraphs(text: &str) -> Vec<String> {
    let text: Vec<&str> = text.lines().map(str::trim).collect();
    text.split(|line| line.is_empty()).map(|lines| lines.join(" ")).filter(|text| !text.is_empty()).collect()
}

/// Returns the deprecated names that a table may hold, each with the name to use.
pub fn renamed_keys(tables: &[Table], path: &str) -> Vec<(String, String)> {
    let own = tables.iter().filter(|table| table.path == path).flat_map(Table::keys);
    own.filter_map(|key| Some((key.former_name?, key.name))).collect()
}

/// Returns the path under which a schema has a table of a file, such as `upstreams.*` for
/// `upstreams.main`.
pub fn kind_of(table: &str) -> String {
    table.split_once('.').map_or(table.to_owned(), |(kind, _)| format!("{kind}.*"))
}

/// Returns the names that a table may hold: its keys and, for the outermost table, the other
/// tables.
pub fn known_keys(tables: &[Table], path: &str) -> Vec<String> {
    let own = tables.iter().filter(|table| table.path == path).flat_map(Table::keys).map(|key| key.name);
    let inner = |path: &str| path.split('.').next().unwrap_or_default().to_owned();
    let tables = tables.iter().filter(|table| path.is_empty() && !table.path.is_empty());
    own.chain(tables.map(|table| inner(table.path))).collect()
}

fn gather(
    entries: &'static [Entry],
    prefix: &str,
    group: Option<&'static Group>,
    home: Option<&'static str>,
    keys: &mut Vec<TableKey>,
) {
    for entry in entries {
        match entry {
            Entry::Key(key) => {
                let full = |name: &str| format!("{prefix}{name}");
                let (name, former_name) = (full(key.name), key.former_name.map(full));
                keys.push(TableKey { name, former_name, key, group, home });
            }
            Entry::Group(inner) => {
                let group = if inner.prefix.is_empty() { group } else { Some(inner) };
                let prefix = format!("{prefix}{}", inner.prefix);
                gather(inner.entries, &prefix, group, inner.home.or(home), keys);
            }
        }
    }
}
