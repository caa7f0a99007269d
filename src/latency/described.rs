//! Describes a request for the slow log and for taps, without the secrets in it.

use std::cell::Cell;
use std::fmt::Write;

use blake2::Blake2bMac;
use blake2::digest::{FixedOutput, KeyInit, Update, consts::U8};

use super::config::ShownArguments;
use crate::command::keys::Keys;
use crate::command::{Found, Spec, TABLE, find};
use crate::resp::request::Request;

/// Number of arguments that are shown.
const MAX_ARGUMENTS: usize = 8;
/// Number of bytes of an argument that are shown.
const MAX_BYTES: usize = 64;

/// Commands whose arguments can hold a password. They are never shown.
const SECRET: [&str; 5] = ["AUTH", "HELLO", "CONFIG|SET", "ACL|SETUSER", "MIGRATE"];

/// A request without its secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// The name of the command, in upper case; `CONTAINER|SUBCOMMAND` for a subcommand.
    pub command: String,
    /// The first key: itself, or its length and the beginning of its hash. `None` if the request has no key.
    pub key: Option<String>,
    /// The arguments behind the name, each cut to 64 bytes, and 8 of them at most. Empty if they are not shown.
    pub arguments: Vec<String>,
    /// The length of the request, in bytes.
    pub bytes: usize,
}

/// A request that was looked up in the command table.
pub(super) struct Known<'a> {
    request: Request<'a>,
    spec: Option<&'static Spec>,
}

/// Finds and describes requests.
pub(super) struct Describer {
    /// Where the keys of each command of the table are, once that was looked up.
    keys: Vec<Cell<Option<Keys>>>,
    hash_secret: u128,
}

impl<'a> Known<'a> {
    /// Looks a request up. Returns `None` if the bytes are not one request.
    pub(super) fn find(request: &'a [u8]) -> Option<Self> {
        let request = Request::parse(request)?;
        let spec = match find(&request) {
            Some(Found::Spec(spec)) => Some(spec),
            Some(Found::NoSuchSubcommand(_)) | None => None,
        };
        Some(Self { request, spec })
    }

    /// Returns the command's row in the table; `None` if the table lacks it.
    pub(super) fn spec(&self) -> Option<&'static Spec> {
        self.spec
    }

    /// Returns true if the arguments may not be shown. A command that the table lacks may be a misspelt `AUTH`.
    fn is_secret(&self) -> bool {
        self.spec.is_none_or(|spec| SECRET.contains(&spec.name))
    }
}

impl Describer {
    pub(super) fn new(hash_secret: u128) -> Self {
        Self { keys: vec![Cell::new(None); TABLE.len()], hash_secret }
    }

    /// Calls `use_key` with the first key of a request that may be shown. Returns `None` if there is no such key.
    pub(super) fn with_key<T>(&self, known: &Known<'_>, use_key: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let spec = known.spec.filter(|_| !known.is_secret())?;
        let cached = self.keys.get(usize::from(spec.row));
        let keys = cached.and_then(Cell::get).unwrap_or_else(|| Keys::of(spec));
        if let Some(cached) = cached {
            cached.set(Some(keys));
        }
        let (mut use_key, mut used) = (Some(use_key), None);
        // False ends the search at the first key.
        let _ = keys.all(&known.request, |key| {
            used = use_key.take().map(|use_key| use_key(key));
            false
        });
        used
    }

    /// Describes a request.
    pub(super) fn describe(&self, known: &Known<'_>, arguments: ShownArguments) -> Described {
        let show = arguments == ShownArguments::Show;
        // What a client sends as the name of a command may be a password in the wrong place.
        let command = known.spec.map_or("(unknown)", |spec| spec.name).to_owned();
        let key = self.with_key(known, |key| if show { shown(key) } else { self.redacted(key) });
        let behind_name = 1 + usize::from(command.contains('|'));
        let arguments = match show && !known.is_secret() {
            true => known.request.args().skip(behind_name).take(MAX_ARGUMENTS).map(shown).collect(),
            false => Vec::new(),
        };
        Described { command, key, arguments, bytes: known.request.len() }
    }

    /// Returns the length of a key and the beginning of its hash, by which equal keys are recognised.
    fn redacted(&self, key: &[u8]) -> String {
        let mut text = format!("{} bytes", key.len());
        if let Ok(mut mac) = <Blake2bMac<U8> as KeyInit>::new_from_slice(&self.hash_secret.to_le_bytes()) {
            mac.update(key);
            text.push_str(" #");
            for byte in mac.finalize_fixed().iter().take(4) {
                let _ = write!(text, "{byte:02x}");
            }
        }
        text
    }
}

/// Returns the beginning of an argument in printable ASCII.
fn shown(argument: &[u8]) -> String {
    let start = argument.get(..MAX_BYTES).unwrap_or(argument);
    let rest = argument.len() - start.len();
    match rest {
        0 => start.escape_ascii().to_string(),
        _ => format!("{}... ({rest} more bytes)", start.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::encode;

    fn described(args: &[&str], arguments: ShownArguments) -> Described {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let mut request = Vec::new();
        encode(&args, &mut request);
        Describer::new(7).describe(&Known::find(&request).expect("a request"), arguments)
    }

    #[test]
    fn keys_are_redacted_and_equal_keys_are_recognised() {
        let of = |key| described(&["SET", key, "value"], ShownArguments::Redact);
        let (one, same, other) = (of("customer:1"), of("customer:1"), of("customer:2"));
        assert_eq!(one, same);
        assert_ne!(one.key, other.key);
        let key = one.key.expect("a key");
        assert!(key.starts_with("10 bytes #") && key.len() == "10 bytes #01234567".len(), "{key}");
        assert!(one.arguments.is_empty());
        assert_eq!(Describer::new(8).redacted(b"customer:1").len(), key.len());
        assert_ne!(Describer::new(8).redacted(b"customer:1"), key, "another process hashes in another way");
    }

    #[test]
    fn arguments_are_shown_in_printable_ascii_on_request() {
        let shown = described(&["set", "k<b>\r\n", &"x".repeat(100)], ShownArguments::Show);
        assert_eq!((shown.command.as_str(), shown.key.as_deref()), ("SET", Some("k<b>\\r\\n")));
        assert_eq!(shown.arguments[1], format!("{}... (36 more bytes)", "x".repeat(64)));
        let many: Vec<&str> = std::iter::once("MGET").chain(["k"; 20]).collect();
        assert_eq!(described(&many, ShownArguments::Show).arguments.len(), MAX_ARGUMENTS);
        let counted = described(&["EVAL", "return 1", "1", "key"], ShownArguments::Redact);
        assert!(counted.key.is_some_and(|key| key.starts_with("3 bytes")));
    }

    #[test]
    fn passwords_are_never_shown() {
        for args in [
            &["AUTH", "hunter2"][..],
            &["HELLO", "3", "AUTH", "default", "hunter2"],
            &["CONFIG", "SET", "requirepass", "hunter2"],
            &["config", "sett", "requirepass", "hunter2"],
            &["ACL", "SETUSER", "bob", ">hunter2"],
            &["MIGRATE", "host", "6379", "hunter2", "0", "10", "AUTH", "hunter2"],
            &["AUHT", "hunter2"],
            &["hunter2"],
        ] {
            for arguments in [ShownArguments::Redact, ShownArguments::Show] {
                let shown = format!("{:?}", described(args, arguments));
                assert!(!shown.contains("hunter2"), "{shown}");
                assert!(shown.contains("key: None"), "{shown}");
            }
        }
    }
}
