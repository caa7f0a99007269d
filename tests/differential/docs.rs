//! The arguments of each command, as the server's `COMMAND DOCS` names them: what random sessions are made of.

use std::collections::HashMap;

use crate::value::Value;
use crate::wire::Wire;

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Key,
    Integer,
    Double,
    UnixTime,
    PureToken,
    OneOf,
    Block,
    Pattern,
    String,
}

/// An argument, or several that belong together.
#[derive(Debug)]
pub struct Argument {
    pub name: String,
    pub kind: Kind,
    /// The option's name, which stands in front of its value.
    pub token: Option<String>,
    pub optional: bool,
    pub multiple: bool,
    /// The option's name is repeated in front of each value.
    pub repeats_token: bool,
    pub children: Vec<Argument>,
}

/// A command.
#[derive(Debug)]
pub struct Doc {
    /// `string`, `list`, `generic` …
    pub group: String,
    pub arguments: Vec<Argument>,
}

/// Every command that the server documents, by the names of respgate's table: `CLIENT|ID`.
pub fn read(control: &mut Wire) -> HashMap<String, Doc> {
    let mut docs = HashMap::new();
    let reply = control.ask(&["COMMAND", "DOCS"]);
    collect(&reply, &mut docs);
    docs
}

fn collect(commands: &Value, docs: &mut HashMap<String, Doc>) {
    for pair in commands.members().unwrap_or_default().chunks(2) {
        let [name, fields] = pair else { continue };
        let doc =
            Doc { group: field(fields, "group").map(text).unwrap_or_default(), arguments: arguments(fields) };
        docs.insert(text(name).to_ascii_uppercase(), doc);
        if let Some(subcommands) = field(fields, "subcommands") {
            collect(subcommands, docs);
        }
    }
}

fn arguments(fields: &Value) -> Vec<Argument> {
    let listed = field(fields, "arguments").and_then(Value::members).unwrap_or_default();
    listed.iter().map(argument).collect()
}

fn argument(fields: &Value) -> Argument {
    let flags: Vec<String> =
        field(fields, "flags").and_then(Value::members).unwrap_or_default().iter().map(text).collect();
    let flag = |name: &str| flags.iter().any(|flag| flag == name);
    let kind = match &*field(fields, "type").map(text).unwrap_or_default() {
        "key" => Kind::Key,
        "integer" => Kind::Integer,
        "double" => Kind::Double,
        "unix-time" => Kind::UnixTime,
        "pure-token" => Kind::PureToken,
        "oneof" => Kind::OneOf,
        "block" => Kind::Block,
        "pattern" => Kind::Pattern,
        _ => Kind::String,
    };
    Argument {
        name: field(fields, "name").map(text).unwrap_or_default(),
        kind,
        token: field(fields, "token").map(text).filter(|token| !token.is_empty()),
        optional: flag("optional"),
        multiple: flag("multiple") || flag("multiple_token"),
        repeats_token: flag("multiple_token"),
        children: arguments(fields),
    }
}

fn field<'v>(fields: &'v Value, name: &str) -> Option<&'v Value> {
    let pairs = fields.members()?.chunks(2);
    pairs.filter(|pair| pair.len() == 2 && text(&pair[0]) == name).map(|pair| &pair[1]).next()
}

fn text(value: &Value) -> String {
    String::from_utf8_lossy(value.text().unwrap_or_default()).into_owned()
}
