//! Commands that the static table lacks (modules, newer servers), as the server describes them in
//! its reply to COMMAND.

use std::rc::Rc;

use super::key_specs::KeySpecs;
use super::spec::{Flags, RouteClass, Trace};
use crate::resp::value::Value;

/// Number of names that are remembered. A server has a few hundred.
const MAX_NAMES: usize = 4096;
/// Number of categories that are remembered of one command, and of bytes of a category's name.
const MAX_CATEGORIES: usize = 32;
const MAX_CATEGORY: usize = 64;

/// The commands of a server, as its reply to COMMAND describes them.
#[derive(Debug)]
pub struct Learned {
    /// The commands, sorted by upper-case name. The name of a subcommand is `CONTAINER|SUBCOMMAND`.
    commands: Vec<(Box<[u8]>, Rc<LearnedCommand>)>,
    /// True if the server answered. A name that it did not list is then no command.
    complete: bool,
}

/// One command, as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedCommand {
    /// True if the server described the command. If false, the command may not even exist.
    pub described: bool,
    /// The command's route: `Shared`, `Lease`, `Pin` or `Admin`.
    pub route: RouteClass,
    /// The state that the command can leave on the connection that ran it.
    pub trace: Trace,
    /// Those of `READONLY`, `WRITE`, `BLOCKING`, `ADMIN` and `SCRIPT` that apply.
    pub flags: Flags,
    /// True if the command is about publish and subscribe.
    pub pubsub: bool,
    /// Where the command's keys are; `None` if the server does not say where all of them are.
    pub keys: Option<KeySpecs>,
    /// The command's ACL categories, without the `@`.
    pub categories: Box<[Box<str>]>,
}

impl LearnedCommand {
    /// Returns a command of unknown properties. It may do anything to its connection.
    fn unknown() -> Self {
        Self {
            described: false,
            route: RouteClass::Pin,
            trace: Trace::Unknown,
            flags: Flags::NONE,
            pubsub: false,
            keys: None,
            categories: Box::default(),
        }
    }

    /// Returns true if the command changes nothing.
    pub fn only_reads(&self) -> bool {
        self.flags.contains(Flags::READONLY) && !self.flags.contains(Flags::WRITE)
    }

    fn read(fields: &[Value]) -> Self {
        let words = |index: usize| fields.get(index).and_then(Value::elements).unwrap_or_default();
        let has = |flag: &str| words(2).iter().any(|known| known.bytes() == Some(flag.as_bytes()));
        let keys = KeySpecs::read(fields);
        let (route, trace) = carriage(&has, keys.as_ref());
        let flags = [
            ("readonly", Flags::READONLY),
            ("write", Flags::WRITE),
            ("blocking", Flags::BLOCKING),
            ("admin", Flags::ADMIN),
            // A module's reply may hold bytes of a user's making that split it (redis/redis#15496).
            ("module", Flags::SCRIPT),
        ];
        let flags =
            flags.iter().filter(|(name, _)| has(name)).fold(Flags::NONE, |all, (_, flag)| all.and(*flag));
        let categories = words(6).iter().filter_map(Value::text).map(|name| name.trim_start_matches('@'));
        let categories = categories.filter(|name| name.len() <= MAX_CATEGORY).take(MAX_CATEGORIES);
        let categories = categories.map(|name| name.to_ascii_lowercase().into()).collect();
        Self { described: true, route, trace, flags, pubsub: has("pubsub"), keys, categories }
    }
}

/// Chooses a command's route and the state that it can leave behind.
///
/// - A server's own command that reads or writes keys which respgate can locate does not change its
///   connection. It goes to a shared connection.
/// - A module's command goes to a lease, where respgate notices an extra reply before another
///   client could get it.
/// - A command without keys that neither reads nor writes may be about its connection, as HIMPORT
///   PREPARE of Redis 8 is. It keeps its lease.
/// - Any other command runs on a lease that is closed afterwards.
fn carriage(has: &impl Fn(&str) -> bool, keys: Option<&KeySpecs>) -> (RouteClass, Trace) {
    let accesses = has("readonly") || has("write");
    let keyed = keys.is_some_and(|keys| !keys.is_empty());
    let clear = accesses && (keyed || has("readonly") && keys.is_some()) && !has("noscript");
    if has("admin") {
        (RouteClass::Admin, Trace::Unknown)
    } else if has("pubsub") || !accesses && !keyed {
        (RouteClass::Pin, Trace::Unknown)
    } else if !clear {
        (RouteClass::Lease, Trace::Unknown)
    } else if has("blocking") || has("module") {
        (RouteClass::Lease, Trace::Nothing)
    } else {
        (RouteClass::Shared, Trace::Nothing)
    }
}

impl Learned {
    /// Reads the reply to COMMAND. Skips the parts that it does not understand.
    pub fn from_reply(reply: &Value) -> Self {
        let mut learned = Self { complete: true, ..Self::nothing() };
        for command in reply.elements().unwrap_or_default() {
            learned.add(command);
        }
        learned.commands.sort_by(|(one, _), (other, _)| one.cmp(other));
        learned
    }

    /// Returns the commands of a server that could not be asked or did not answer: any command may
    /// exist, and any may leave state behind.
    pub fn nothing() -> Self {
        Self { commands: Vec::new(), complete: false }
    }

    /// Looks up a command that the static table lacks. Returns `None` if the server has no such
    /// command.
    pub fn command(&self, name: &[u8], subcommand: Option<&[u8]>) -> Option<Rc<LearnedCommand>> {
        // As in the static table, the name of a subcommand's row is not a command, not even a
        // module's.
        if name.contains(&b'|') {
            return None;
        }
        // A second word that is too long or not printable cannot be a subcommand. It is a plain
        // argument, and is not copied.
        let subcommand = subcommand.filter(|sub| super::printable(sub));
        let known = subcommand
            .and_then(|subcommand| self.find(name, Some(subcommand)))
            .or_else(|| self.find(name, None));
        known.or_else(|| self.unless_complete())
    }

    /// Looks up a subcommand, as [`Self::command`] does, of a container that the static table has.
    pub fn subcommand(&self, container: &[u8], subcommand: &[u8]) -> Option<Rc<LearnedCommand>> {
        self.find(container, Some(subcommand)).or_else(|| self.unless_complete())
    }

    fn unless_complete(&self) -> Option<Rc<LearnedCommand>> {
        (!self.complete).then(|| Rc::new(LearnedCommand::unknown()))
    }

    /// Compares byte by byte, so that a look-up allocates nothing.
    fn find(&self, name: &[u8], subcommand: Option<&[u8]>) -> Option<Rc<LearnedCommand>> {
        let rest = subcommand.map(|subcommand| b"|".iter().chain(subcommand)).into_iter().flatten();
        let wanted = name.iter().chain(rest).map(u8::to_ascii_uppercase);
        let index = self.commands.binary_search_by(|(known, _)| known.iter().copied().cmp(wanted.clone()));
        self.commands.get(index.ok()?).map(|(_, command)| command.clone())
    }

    fn add(&mut self, command: &Value) {
        let Some(fields) = command.elements() else { return };
        let Some(name) = fields.first().and_then(Value::text) else { return };
        if self.commands.len() >= MAX_NAMES || !super::printable(name.as_bytes()) {
            return;
        }
        let name = name.to_ascii_uppercase().into_bytes().into();
        self.commands.push((name, Rc::new(LearnedCommand::read(fields))));
        for subcommand in fields.get(9).and_then(Value::elements).unwrap_or_default() {
            self.add(subcommand);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned().into())
    }

    /// Returns a command with these flags. It has one key if `keyed` is true.
    fn command(name: &str, flags: &[&str], keyed: bool) -> Value {
        let texts = |words: &[&str]| Value::Array(words.iter().map(|word| text(word)).collect());
        let key = Value::Integer(i64::from(keyed));
        let categories = texts(&["@JSON", "@read"]);
        let range = [key.clone(), key.clone(), key];
        let mut fields = vec![text(name), Value::Integer(-1), texts(flags)];
        fields.extend(range);
        fields.push(categories);
        Value::Array(fields)
    }

    fn learned(flags: &[&str], keyed: bool) -> Rc<LearnedCommand> {
        let learned = Learned::from_reply(&Value::Array(vec![command("x", flags, keyed)]));
        learned.command(b"X", None).unwrap()
    }

    #[test]
    fn a_subcommand_s_row_is_no_command() {
        let learned = Learned::from_reply(&Value::Array(vec![command("box|open", &["readonly"], true)]));
        assert_eq!(learned.command(b"box", Some(b"open")).unwrap().route, RouteClass::Shared);
        assert_eq!(learned.command(b"BOX|OPEN", None), None);
        assert_eq!(Learned::nothing().command(b"BOX|OPEN", None), None);
        assert_eq!(Learned::nothing().command(b"BOX", None).unwrap().route, RouteClass::Pin);
    }

    #[test]
    fn the_way_follows_from_flags_and_keys() {
        let class = |flags: &[&str], keyed| {
            let learned = learned(flags, keyed);
            (learned.route, learned.trace)
        };
        let (shared, clean) = ((RouteClass::Shared, Trace::Nothing), (RouteClass::Lease, Trace::Nothing));
        let (closed, kept) = ((RouteClass::Lease, Trace::Unknown), (RouteClass::Pin, Trace::Unknown));
        assert_eq!(class(&["readonly", "fast"], true), shared);
        assert_eq!(class(&["readonly"], false), shared);
        assert_eq!(class(&["write", "denyoom"], true), shared);
        assert_eq!(class(&["write", "module"], true), clean);
        assert_eq!(class(&["readonly", "module"], true), clean);
        assert_eq!(class(&["write", "blocking"], true), clean);
        assert_eq!(class(&["write", "movablekeys"], false), closed);
        assert_eq!(class(&["write"], false), closed);
        assert_eq!(class(&["readonly", "noscript"], true), closed);
        assert_eq!(class(&["fast"], true), closed);
        assert_eq!(class(&["admin", "readonly"], false), (RouteClass::Admin, Trace::Unknown));
        assert_eq!(class(&["readonly", "pubsub"], false), kept);
        assert_eq!(class(&[], false), kept);
        assert!(learned(&["module"], true).flags.contains(Flags::SCRIPT));
        assert_eq!(learned(&[], true).categories, ["json".into(), "read".into()].into());
    }
}
