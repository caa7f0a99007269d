//! Commands that the static table lacks (modules, newer servers), as the server itself describes them in its
//! reply to COMMAND.

use std::collections::HashMap;

use super::Route;
use crate::resp::value::Value;

/// Names that are remembered; a server has a few hundred.
const MAX_NAMES: usize = 4096;

/// Routes by upper-case name, `CONTAINER|SUBCOMMAND` for a subcommand.
#[derive(Debug)]
pub struct Learned {
    routes: HashMap<Box<[u8]>, Route>,
    /// The server answered: a name that it did not list is nobody's.
    complete: bool,
}

impl Learned {
    /// Reads the reply to COMMAND. What is not understood is left out.
    pub fn from_reply(reply: &Value) -> Self {
        let mut learned = Self { complete: true, ..Self::nothing() };
        for command in reply.elements().unwrap_or_default() {
            learned.add(command);
        }
        learned
    }

    /// The server could not be asked, or did not answer: any command may exist and may leave state behind.
    pub fn nothing() -> Self {
        Self { routes: HashMap::new(), complete: false }
    }

    /// How a command that the static table lacks is carried; `None`: the server has no such command. A pinned
    /// route means that it may leave state on its connection.
    pub fn route(&self, name: &[u8], subcommand: Option<&[u8]>) -> Option<Route> {
        // As in the table: no command is called by the name of a subcommand's row, not even a module's.
        if name.contains(&b'|') {
            return None;
        }
        // What is too long or too odd for a subcommand is a plain argument, not worth a copy.
        let subcommand = subcommand.filter(|sub| super::printable(sub));
        let known = subcommand
            .and_then(|subcommand| self.find(&[name, b"|", subcommand].concat()))
            .or_else(|| self.find(name));
        known.or((!self.complete).then_some(Route::Pin))
    }

    /// As [`Self::route`], for a subcommand of a container that the static table has.
    pub fn subcommand_route(&self, container: &[u8], subcommand: &[u8]) -> Option<Route> {
        self.find(&[container, b"|", subcommand].concat()).or((!self.complete).then_some(Route::Pin))
    }

    fn find(&self, name: &[u8]) -> Option<Route> {
        self.routes.get(&name.to_ascii_uppercase()[..]).copied()
    }

    fn add(&mut self, command: &Value) {
        let Some(fields) = command.elements() else { return };
        let Some(name) = fields.first().and_then(Value::text) else { return };
        if self.routes.len() >= MAX_NAMES || !super::printable(name.as_bytes()) {
            return;
        }
        let flags: Vec<&str> = fields
            .get(2)
            .and_then(Value::elements)
            .unwrap_or_default()
            .iter()
            .filter_map(Value::text)
            .collect();
        let keyed = fields.get(3).and_then(Value::integer).is_some_and(|first| first != 0);
        self.routes.insert(name.to_ascii_uppercase().into_bytes().into(), route(&flags, keyed));
        for subcommand in fields.get(9).and_then(Value::elements).unwrap_or_default() {
            self.add(subcommand);
        }
    }
}

/// Shared only if it reads and does nothing to its connection, and is the server's own: a module's reply may contain
/// bytes of a user's making that split it (redis PR 15496); a write to a key goes by a lease that can be given
/// back; anything else might leave state behind, as HIMPORT PREPARE of Redis 8 does.
fn route(flags: &[&str], keyed: bool) -> Route {
    let has = |flag: &str| flags.contains(&flag);
    if has("admin") {
        Route::Admin
    } else if has("pubsub") {
        Route::Pin
    } else if has("readonly") && !has("blocking") && !has("noscript") && !has("module") {
        Route::Shared
    } else if has("readonly") || (has("write") && keyed) {
        Route::Lease
    } else {
        Route::Pin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subcommand_s_row_is_no_command() {
        let mut learned = Learned { complete: true, ..Learned::nothing() };
        learned.routes.insert(b"BOX|OPEN"[..].into(), Route::Lease);
        assert_eq!(learned.route(b"box", Some(b"open")), Some(Route::Lease));
        assert_eq!(learned.route(b"BOX|OPEN", None), None);
        assert_eq!(Learned::nothing().route(b"BOX|OPEN", None), None);
    }

    #[test]
    fn only_harmless_reads_are_shared() {
        assert_eq!(route(&["readonly", "fast"], true), Route::Shared);
        assert_eq!(route(&["readonly", "blocking"], true), Route::Lease);
        assert_eq!(route(&["write", "denyoom"], true), Route::Lease);
        assert_eq!(route(&["write"], false), Route::Pin);
        assert_eq!(route(&["admin", "readonly"], false), Route::Admin);
        assert_eq!(route(&[], false), Route::Pin);
    }
}
