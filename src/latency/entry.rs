//! A command as the slow log and taps show it.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::config::ShownArguments;
pub use super::described::Described;
use super::times::{Class, PARTS, Parts};

/// The client that sent a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientLabel {
    /// The client's id.
    pub id: u64,
    /// The client's address.
    pub address: String,
    /// The name by CLIENT SETNAME; empty if there is none.
    pub name: String,
    /// The client's tenant; empty if there is none.
    pub tenant: String,
    /// The name of the client's user.
    pub user: String,
}

/// A command with its times and its client.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When its reply was written.
    pub at: SystemTime,
    /// The upstream that it was meant for.
    pub upstream: Arc<str>,
    /// The client that sent it.
    pub client: ClientLabel,
    /// Its class.
    pub class: Class,
    /// What it was.
    pub described: Described,
    /// How `described` shows keys and arguments.
    pub arguments: ShownArguments,
    /// Where its time went.
    pub parts: Parts,
}

impl Entry {
    /// Returns the entry as JSON. Times are in microseconds, and `time` is in seconds since 1970.
    pub fn json(&self) -> Value {
        let time = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let parts: Map<String, Value> = PARTS
            .iter()
            .zip(self.parts.each())
            .map(|(name, micros)| ((*name).to_owned(), micros.into()))
            .collect();
        let Described { command, key, arguments, bytes } = &self.described;
        json!({
            "time": time.as_millis() as f64 / 1000.0,
            "upstream": &*self.upstream,
            "client": self.client.id,
            "address": self.client.address,
            "name": self.client.name,
            "tenant": self.client.tenant,
            "user": self.client.user,
            "class": self.class.name(),
            "command": command,
            "key": key,
            "arguments": arguments,
            "bytes": bytes,
            "total_us": self.parts.total,
            "parts_us": parts,
        })
    }
}
