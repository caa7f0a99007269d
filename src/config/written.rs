//! Records which keys a file holds, so that two versions of the file can be compared key by key. It
//! keeps no value.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use toml::de::{DeTable, DeValue};

use super::schema::entry::{Table, kind_of, renamed_keys};

/// Number of parts of the longest recorded key, such as `listeners.app.address`. Deeper keys count
/// as parts of a value.
const DEPTH: usize = 3;

/// The keys of a file, each with a digest of its value. A table whose name the user chooses is a
/// key, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written(BTreeMap<String, u64>);

impl Written {
    /// Records the keys of a document whose tables `schema` declares.
    pub(super) fn of(document: &DeTable<'_>, schema: &[Table]) -> Self {
        let mut keys = BTreeMap::new();
        gather(document, schema, "", 1, &mut keys);
        Self(keys)
    }

    /// Returns true if the file has this key or this table.
    pub fn holds(&self, key: &str) -> bool {
        self.0.keys().any(|known| known == key || is_in(known, key))
    }

    /// Returns the keys whose values differ. If only one of the two files has a table, the table's
    /// own name stands for all its keys.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let differs = |key: &&String| self.0.get(*key) != other.0.get(*key);
        let mut keys: Vec<&String> = self.0.keys().chain(other.0.keys()).filter(differs).collect();
        keys.sort();
        keys.dedup();
        let within_another = |key: &&&String| keys.iter().any(|table| is_in(key, table));
        keys.iter().filter(|key| !within_another(key)).map(|key| (**key).clone()).collect()
    }
}

fn is_in(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}

fn gather(table: &DeTable<'_>, schema: &[Table], path: &str, depth: usize, keys: &mut BTreeMap<String, u64>) {
    let renamed = renamed_keys(schema, &kind_of(path));
    for (name, value) in table {
        let name = name.get_ref();
        // A deprecated name counts as the name to use, so that renaming a key changes nothing.
        let name = renamed.iter().find(|(former, _)| former == name).map_or(name.as_ref(), |(_, new)| new);
        let key = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        match value.get_ref() {
            DeValue::Table(inner) if depth < DEPTH => {
                if depth + 1 == DEPTH {
                    keys.insert(key.clone(), 0);
                }
                gather(inner, schema, &key, depth + 1, keys);
            }
            value => {
                let mut digest = DefaultHasher::new();
                note(value, &mut digest);
                keys.insert(key, digest.finish());
            }
        }
    }
}

/// Adds a value to a digest. Its position in the file does not count.
fn note(value: &DeValue<'_>, digest: &mut impl Hasher) {
    match value {
        DeValue::String(text) => ("text", text).hash(digest),
        DeValue::Array(elements) => {
            ("list", elements.len()).hash(digest);
            elements.iter().for_each(|element| note(element.get_ref(), digest));
        }
        DeValue::Table(table) => {
            let mut pairs: Vec<_> = table.iter().collect();
            pairs.sort_by(|(one, _), (other, _)| one.get_ref().cmp(other.get_ref()));
            ("table", pairs.len()).hash(digest);
            for (name, value) in pairs {
                name.get_ref().hash(digest);
                note(value.get_ref(), digest);
            }
        }
        plain => ("plain", format!("{plain:?}")).hash(digest),
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::TABLES;
    use super::*;

    fn written(text: &str) -> Written {
        Written::of(DeTable::parse(text).unwrap().get_ref(), &TABLES)
    }

    #[test]
    fn keys_differ_by_their_values_and_by_nothing_else() {
        let before = written(
            "workers = 1\n[log]\nlevel = \"info\"\n[upstreams.a]\nurl = \"redis://x\"\nnat = { b = \"1\", a = \"2\" }\nl = [1, 2]",
        );
        let moved = written(
            "# Moved.\nworkers   = 1\n[upstreams.a]\nl = [\n1, 2]\nnat = { a = \"2\", b = \"1\" }\nurl = \"redis://x\"\n\n[log]\nlevel = \"info\"",
        );
        assert_eq!(before.differences(&moved), Vec::<String>::new());
        let other = written(
            "workers = \"1\"\n[log]\nlevel = \"warn\"\n[upstreams.a]\nurl = \"redis://y\"\nnat = { b = \"1\" }\nl = [2, 1]",
        );
        assert_eq!(
            before.differences(&other),
            ["log.level", "upstreams.a.l", "upstreams.a.nat", "upstreams.a.url", "workers"]
        );
    }

    #[test]
    fn a_table_that_comes_or_goes_is_named_once() {
        let before = written("[upstreams.a]\nurl = \"1\"\n[upstreams.ab]\nurl = \"1\"");
        let after = written("[upstreams.ab]\nurl = \"2\"\nswitch = \"leader\"\n[listeners.x]");
        let expected = ["listeners.x", "upstreams.a", "upstreams.ab.switch", "upstreams.ab.url"];
        assert_eq!(before.differences(&after), expected);
        assert_eq!(after.differences(&before), expected);
        assert!(after.holds("listeners") && after.holds("listeners.x") && !after.holds("listeners.y"));
    }
}
