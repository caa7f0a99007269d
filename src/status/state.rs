//! The document of `/status`, and how to read it.

use serde_json::Value;

use crate::admin_client::Endpoint;

/// The state of a running respgate.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where the document came from.
    pub(super) endpoint: Endpoint,
    document: Value,
}

impl Status {
    /// Takes a document. Returns `None` if it is not respgate's.
    pub(super) fn new(endpoint: Endpoint, document: Value) -> Option<Self> {
        let own = document["process"]["version"].is_string() && document["upstreams"].is_array();
        own.then_some(Self { endpoint, document })
    }

    /// Returns true if the running respgate can serve clients.
    pub fn ready(&self) -> bool {
        self.document["process"]["ready"] == true
    }

    /// Returns the JSON document for machines.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Returns the entries of a list of the document; none if there is no such list.
    pub(super) fn list(&self, name: &str) -> &[Value] {
        list(&self.document, name)
    }
}

/// Returns the entries of a list; none if there is no such list.
pub(super) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// Returns a text with its control characters replaced; `?` if there is none.
pub(super) fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or("?"))
}

/// Returns a number, or the sum of an object's numbers; 0 if there is none.
pub(super) fn total(value: &Value) -> f64 {
    match value {
        Value::Object(labels) => {
            labels.values().filter_map(Value::as_f64).fold(0.0, |sum, value| sum + value)
        }
        value => value.as_f64().unwrap_or_default(),
    }
}

/// Replaces control characters, which could change the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
