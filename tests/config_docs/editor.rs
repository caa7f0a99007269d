//! Writes `config/respgate.schema.json`: a JSON Schema by which editors complete and check a file.

use respgate::config::schema::{DefaultValue, Shape, TABLES, Table, TableKey, paragraphs};
use serde_json::{Map, Value, json};

/// Returns the whole schema. Draft 7 is what TOML language servers know.
pub fn render() -> String {
    let mut properties = Map::new();
    let mut root = Map::new();
    for table in &TABLES {
        let object = object(table);
        match table.path.split_once('.') {
            None if table.path.is_empty() => root = object,
            None => _ = properties.insert(table.path.into(), object.into()),
            Some((kind, _)) => {
                let tables = json!({
                    "description": first(table.description),
                    "type": "object",
                    "patternProperties": { "^[A-Za-z0-9_-]{1,64}$": object },
                    "additionalProperties": false,
                });
                properties.insert(kind.into(), tables);
            }
        }
    }
    let own = root["properties"].as_object_mut().unwrap();
    own.append(&mut properties);
    root.insert("$schema".into(), "http://json-schema.org/draft-07/schema#".into());
    root.insert("title".into(), "respgate configuration".into());
    root.insert("description".into(), "Written by `make config-docs` from src/config/schema.".into());
    serde_json::to_string_pretty(&root).unwrap() + "\n"
}

fn object(table: &Table) -> Map<String, Value> {
    let keys = table.keys();
    let required = keys.iter().filter(|key| matches!(key.default(), DefaultValue::Required));
    let required: Vec<&str> = required.map(|key| &*key.name).collect();
    let mut properties: Map<String, Value> =
        keys.iter().map(|key| (key.name.clone(), property(key))).collect();
    for key in &keys {
        if let Some(former) = &key.former_name {
            let mut deprecated = shape(&key.key.shape);
            deprecated["description"] = format!("Deprecated: use {}.", key.name).into();
            deprecated["deprecated"] = true.into();
            properties.insert(former.clone(), deprecated);
        }
    }
    let mut object = Map::new();
    object.insert("description".into(), first(table.description).into());
    object.insert("type".into(), "object".into());
    object.insert("properties".into(), properties.into());
    object.insert("additionalProperties".into(), false.into());
    if !required.is_empty() {
        object.insert("required".into(), required.into());
    }
    object
}

fn property(key: &TableKey) -> Value {
    let mut property = shape(&key.key.shape);
    let summary = key.paragraphs().remove(0);
    let object = property.as_object_mut().unwrap();
    match key.default() {
        DefaultValue::Value(value) => {
            let table: toml::Table = toml::from_str(&format!("value = {}", value())).unwrap();
            object.insert("default".into(), serde_json::to_value(&table["value"]).unwrap());
            object.insert("description".into(), summary.into());
        }
        _ => {
            let text = format!("{summary} Default: {}.", key.default().in_words());
            object.insert("description".into(), text.into());
        }
    }
    property
}

fn first(description: &str) -> String {
    paragraphs(description).remove(0)
}

fn shape(shape: &Shape) -> Value {
    let text = || json!({ "type": "string", "minLength": 1 });
    match shape {
        Shape::Integer => json!({ "type": "integer", "minimum": 0 }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Size => json!({ "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$" },
        ] }),
        Shape::Duration => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" }),
        Shape::Words(words) => json!({ "type": "string", "enum": words }),
        Shape::Text(_) => text(),
        Shape::OneOrMany(_) => json!({ "anyOf": [
            text(),
            { "type": "array", "items": text(), "minItems": 1 },
        ] }),
        Shape::List { of, least } => {
            json!({ "type": "array", "items": self::shape(of), "minItems": least })
        }
        Shape::Map(..) => json!({ "type": "object", "additionalProperties": text() }),
    }
}

/// Returns a TOML file as the JSON that an editor checks.
fn as_json(text: &str) -> Value {
    serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
}

#[test]
fn it_takes_every_valid_file() {
    let validator = jsonschema::validator_for(&serde_json::from_str(&render()).unwrap()).unwrap();
    let mut seen = 0;
    for folder in ["config", "tests/config/valid"] {
        for entry in std::fs::read_dir(crate::path(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let file = as_json(&std::fs::read_to_string(&path).unwrap());
                let errors: Vec<String> =
                    validator.iter_errors(&file).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "{}: {errors:?}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn it_refuses_what_respgate_refuses() {
    let validator = jsonschema::validator_for(&serde_json::from_str(&render()).unwrap()).unwrap();
    for text in [
        "bogus = 1",
        "workers = \"4\"",
        "drain-timeout = 30",
        "[log]\nformat = \"xml\"",
        "[limits]\nmax-request = \"64KB\"",
        "[limits]\naddress = \"127.0.0.1:1\"",
        "[listeners.app]\nmode = \"0700\"",
        "[listeners.\"a b\"]\naddress = \"127.0.0.1:1\"",
        "[tenants.t]\nusers = []",
        "[users.u]\ntenant = \"t\"",
        "[upstreams.main]\nurl = \"redis://db\"\nretry-reads = \"yes\"",
        "[upstreams.main]\nsentinels = \"s1\"",
    ] {
        assert!(!validator.is_valid(&as_json(text)), "{text}");
    }
}
