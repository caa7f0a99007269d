//! Reads the arguments of CLIENT LIST, KILL and UNBLOCK. The grammar is that of Valkey 9, whatever the server: each of
//! its forms that an older server knows means the same there. Error texts were compared with redis 7.0 and 8.0, and
//! valkey 8.0 and 9.1.

use std::collections::BTreeSet;

use super::filter::{Filter, Test, Text};
use super::row::ClientKind;
use crate::command::option_is_whole as is;
use crate::resp::error_line::ErrorLine;

/// The servers' ways to word errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Redis.
    Redis,
    /// Valkey 8.
    Valkey8,
    /// Valkey 9 and later.
    Valkey9,
}

/// A command about clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCommand {
    /// CLIENT LIST.
    List(Filter),
    /// CLIENT KILL with filters.
    Kill(Filter),
    /// CLIENT KILL with an address. The client may name itself, and gets an error if there is no such client.
    KillAddress(Filter),
    /// CLIENT UNBLOCK.
    Unblock {
        /// The id of the client to unblock.
        id: i64,
        /// True if that client gets an error, and false if its command ends as if its time were over.
        error: bool,
    },
}

const SYNTAX: &[u8] = b"-ERR syntax error";
const BAD_ID: &[u8] = b"-ERR client-id should be greater than 0";

/// The letters of the flags that a client can have (valkey 9.1).
const FLAGS: &[u8] = b"bcdeirtuxABEIMNOPRSTU";

/// The number of databases of a server that does not say how many it has.
const DATABASES: i64 = 16;

/// Reads CLIENT LIST. `words` are those behind LIST.
///
/// # Errors
/// Returns the error line.
pub fn list(words: &[&[u8]], dialect: Dialect) -> Result<ClientCommand, ErrorLine> {
    Ok(ClientCommand::List(filter(words, dialect, Form::List)?))
}

/// Reads CLIENT KILL. `words` are those behind KILL.
///
/// # Errors
/// Returns the error line.
pub fn kill(words: &[&[u8]], dialect: Dialect) -> Result<ClientCommand, ErrorLine> {
    if let [address] = words {
        let addr = Test { is: Some(Text::from(*address)), not: None };
        return Ok(ClientCommand::KillAddress(Filter { addr, skip_me: Some(false), ..Filter::default() }));
    }
    let mut filter = filter(words, dialect, Form::Kill)?;
    filter.skip_me.get_or_insert(true);
    Ok(ClientCommand::Kill(filter))
}

/// Reads CLIENT UNBLOCK. `words` are those behind UNBLOCK.
///
/// # Errors
/// Returns the error line.
pub fn unblock(words: &[&[u8]]) -> Result<ClientCommand, ErrorLine> {
    let (id, error) = match words {
        [id] => (id, false),
        [id, reason] if is(reason, "TIMEOUT") => (id, false),
        [id, reason] if is(reason, "ERROR") => (id, true),
        [_, _] => return Err(b"-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".as_slice().into()),
        _ => {
            return Err(
                b"-ERR unknown subcommand or wrong number of arguments for 'unblock'. Try CLIENT HELP."
                    .as_slice()
                    .into(),
            );
        }
    };
    let id = integer(id)
        .ok_or_else(|| ErrorLine::from(b"-ERR value is not an integer or out of range".as_slice()))?;
    Ok(ClientCommand::Unblock { id, error })
}

/// The command that has the filters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    List,
    Kill,
}

fn filter(words: &[&[u8]], dialect: Dialect, form: Form) -> Result<Filter, ErrorLine> {
    let mut filter = Filter::default();
    let mut rest = words;
    while let Some((option, behind)) = rest.split_first() {
        let (negated, name) = match option.get(..4) {
            Some(prefix) if is(prefix, "NOT-") => (true, option.get(4..).unwrap_or_default()),
            _ => (false, *option),
        };
        let Some((value, after)) = behind.split_first() else { return Err(SYNTAX.into()) };
        if is(name, "ID") {
            let ids = filter.ids.side(negated).get_or_insert_default();
            rest = read_ids(behind, ids, dialect, form)?;
            continue;
        }
        let label = String::from_utf8_lossy(option).to_ascii_uppercase();
        if let Some(text) = texts(&mut filter, name) {
            *text.side(negated) = Some(Text::from(*value));
        } else if is(name, "TYPE") {
            *filter.kind.side(negated) = Some(kind(value, dialect)?);
        } else if is(name, "FLAGS") {
            *filter.flags.side(negated) = Some(letters(value, FLAGS, "flags", negated)?);
        } else if is(name, "CAPA") {
            *filter.capa.side(negated) = Some(letters(value, b"r", "capa", negated)?);
        } else if is(name, "DB") {
            *filter.db.side(negated) = Some(database(value, &label)?);
        } else if !negated && is(name, "MAXAGE") {
            filter.max_age = Some(seconds(value, "maxage")?);
        } else if !negated && is(name, "IDLE") {
            filter.idle = Some(seconds(value, "idle")?);
        } else if !negated && is(name, "SKIPME") {
            filter.skip_me = Some(match () {
                () if is(value, "YES") => true,
                () if is(value, "NO") => false,
                () => return Err(SYNTAX.into()),
            });
        } else {
            return Err(SYNTAX.into());
        }
        rest = after;
    }
    Ok(filter)
}

impl<T> Test<T> {
    fn side(&mut self, negated: bool) -> &mut Option<T> {
        if negated { &mut self.not } else { &mut self.is }
    }
}

/// Returns the filter by a text of this name.
fn texts<'a>(filter: &'a mut Filter, name: &[u8]) -> Option<&'a mut Test<Text>> {
    Some(match () {
        () if is(name, "ADDR") => &mut filter.addr,
        () if is(name, "LADDR") => &mut filter.laddr,
        () if is(name, "IP") => &mut filter.ip,
        () if is(name, "USER") => &mut filter.user,
        () if is(name, "NAME") => &mut filter.name,
        () if is(name, "LIB-NAME") => &mut filter.lib_name,
        () if is(name, "LIB-VER") => &mut filter.lib_ver,
        () => return None,
    })
}

/// Reads ids up to the first word that is none. Returns what follows them.
fn read_ids<'a>(
    words: &'a [&'a [u8]],
    ids: &mut BTreeSet<u64>,
    dialect: Dialect,
    form: Form,
) -> Result<&'a [&'a [u8]], ErrorLine> {
    let mut rest = words;
    while let Some((id, behind)) =
        rest.split_first().and_then(|(word, behind)| Some((integer(word)?, behind)))
    {
        match u64::try_from(id) {
            Ok(id) if id > 0 => drop(ids.insert(id)),
            _ if dialect == Dialect::Valkey9 || form == Form::Kill => return Err(BAD_ID.into()),
            _ => {}
        }
        rest = behind;
    }
    // Servers before Valkey 9 take ids to the end of the request. What names a filter of Valkey 9 is none.
    let foreign_word = form == Form::List && rest.first().is_some_and(|word| !is_option(word));
    if (rest.len() == words.len() || foreign_word) && dialect != Dialect::Valkey9 {
        return Err(match form {
            Form::List => b"-ERR Invalid client ID".as_slice(),
            Form::Kill => BAD_ID,
        }
        .into());
    }
    Ok(rest)
}

/// Returns true if a word is the name of a filter.
fn is_option(word: &[u8]) -> bool {
    const NAMES: [&str; 14] = [
        "ID", "TYPE", "ADDR", "LADDR", "IP", "USER", "NAME", "LIB-NAME", "LIB-VER", "FLAGS", "CAPA", "DB",
        "MAXAGE", "IDLE",
    ];
    let word = word.get(..4).filter(|prefix| is(prefix, "NOT-")).and(word.get(4..)).unwrap_or(word);
    is(word, "SKIPME") || NAMES.iter().any(|name| is(word, name))
}

fn kind(name: &[u8], dialect: Dialect) -> Result<ClientKind, ErrorLine> {
    Ok(match () {
        () if is(name, "NORMAL") => ClientKind::Normal,
        () if is(name, "SLAVE") || is(name, "REPLICA") => ClientKind::Replica,
        () if is(name, "PUBSUB") => ClientKind::Pubsub,
        () if is(name, "MASTER") => ClientKind::Primary,
        () if is(name, "PRIMARY") && dialect != Dialect::Redis => ClientKind::Primary,
        () => return Err(repeating("-ERR Unknown client type '", name, "'")),
    })
}

/// Reads letters, all of which must be known. Returns each once: a filter of many letters must not cost more for each
/// client.
fn letters(letters: &[u8], known: &[u8], what: &str, negated: bool) -> Result<Text, ErrorLine> {
    if letters.iter().all(|letter| known.contains(letter)) {
        return Ok(known.iter().copied().filter(|letter| letters.contains(letter)).collect());
    }
    let filter = if negated { format!("NOT-{}", what.to_ascii_uppercase()) } else { "provided".to_owned() };
    Err(repeating(&format!("-ERR Unknown {what} found in the {filter} filter: "), letters, ""))
}

fn database(index: &[u8], label: &str) -> Result<u32, ErrorLine> {
    let index = integer(index)
        .ok_or_else(|| ErrorLine::from(format!("-ERR {label} is not an integer or out of range")))?;
    u32::try_from(index).map_err(|_| {
        ErrorLine::from(format!("-ERR {label} number should be between 0 and {}", DATABASES - 1))
    })
}

fn seconds(text: &[u8], label: &str) -> Result<u64, ErrorLine> {
    let seconds = integer(text)
        .ok_or_else(|| ErrorLine::from(format!("-ERR {label} is not an integer or out of range")))?;
    u64::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| format!("-ERR {label} should be greater than 0").into())
}

/// Returns the number that a text spells in the canonical way, the only one that servers accept.
pub fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let mut digits = itoa::Buffer::new();
    (digits.format(number).as_bytes() == text).then_some(number)
}

/// Returns an error line that repeats what a client wrote: up to the first NUL, and with spaces for line breaks.
fn repeating(before: &str, text: &[u8], behind: &str) -> ErrorLine {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut line = before.as_bytes().to_vec();
    line.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    line.extend_from_slice(behind.as_bytes());
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<&[u8]> {
        line.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes).collect()
    }

    fn listed(line: &str, dialect: Dialect) -> String {
        match list(&words(line), dialect) {
            Ok(_) => "ok".into(),
            Err(line) => String::from_utf8_lossy(&line).into_owned(),
        }
    }

    #[test]
    fn errors_are_those_of_valkey_9() {
        for (line, expected) in [
            ("", "ok"),
            ("TYPE normal", "ok"),
            ("type PUBSUB not-type replica", "ok"),
            ("ID 1 2 3 TYPE normal", "ok"),
            ("TYPE", "-ERR syntax error"),
            ("TYPE foo", "-ERR Unknown client type 'foo'"),
            ("ID", "-ERR syntax error"),
            ("ID x", "-ERR syntax error"),
            ("ID +1", "-ERR syntax error"),
            ("ID TYPE normal", "ok"),
            ("ID 1 0", "-ERR client-id should be greater than 0"),
            ("ID 1 TYPE", "-ERR syntax error"),
            ("FOO bar", "-ERR syntax error"),
            ("NOT-SKIPME yes", "-ERR syntax error"),
            ("NOT-IDLE 3", "-ERR syntax error"),
            ("SKIPME maybe", "-ERR syntax error"),
            ("FLAGS ZQP", "-ERR Unknown flags found in the provided filter: ZQP"),
            ("NOT-FLAGS Z", "-ERR Unknown flags found in the NOT-FLAGS filter: Z"),
            ("NOT-CAPA x", "-ERR Unknown capa found in the NOT-CAPA filter: x"),
            ("IDLE x", "-ERR idle is not an integer or out of range"),
            ("IDLE 0", "-ERR idle should be greater than 0"),
            ("MAXAGE -1", "-ERR maxage should be greater than 0"),
            ("DB x", "-ERR DB is not an integer or out of range"),
            ("not-db x", "-ERR NOT-DB is not an integer or out of range"),
            ("DB -1", "-ERR DB number should be between 0 and 15"),
            ("NAME a NAME b", "ok"),
            ("NAME a b", "-ERR syntax error"),
        ] {
            assert_eq!(listed(line, Dialect::Valkey9), expected, "{line}");
        }
    }

    #[test]
    fn older_servers_word_bad_ids_in_another_way() {
        for dialect in [Dialect::Redis, Dialect::Valkey8] {
            assert_eq!(listed("ID x", dialect), "-ERR Invalid client ID");
            assert_eq!(listed("ID 1 x", dialect), "-ERR Invalid client ID");
            assert_eq!(listed("ID 1 not-type normal", dialect), "ok");
            assert_eq!(listed("ID 0", dialect), "ok");
            let killed = kill(&words("ID x"), dialect).unwrap_err();
            assert_eq!(&*killed, b"-ERR client-id should be greater than 0");
        }
        assert_eq!(listed("TYPE primary", Dialect::Valkey8), "ok");
        assert_eq!(listed("TYPE primary", Dialect::Redis), "-ERR Unknown client type 'primary'");
    }

    #[test]
    fn kill_skips_its_own_client_unless_it_names_an_address() {
        let Ok(ClientCommand::Kill(filter)) = kill(&words("TYPE normal"), Dialect::Valkey9) else { panic!() };
        assert_eq!(filter.skip_me, Some(true));
        let Ok(ClientCommand::KillAddress(filter)) = kill(&words("ID"), Dialect::Valkey9) else { panic!() };
        assert_eq!((filter.addr.is.as_deref(), filter.skip_me), (Some(b"ID".as_slice()), Some(false)));
    }

    #[test]
    fn unblock_reads_its_reason_first() {
        let error = |line| String::from_utf8_lossy(&unblock(&words(line)).unwrap_err()).into_owned();
        assert_eq!(error("x foo"), "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
        assert_eq!(error("x"), "-ERR value is not an integer or out of range");
        assert_eq!(unblock(&words("5 error")), Ok(ClientCommand::Unblock { id: 5, error: true }));
    }

    #[test]
    fn a_filter_holds_each_letter_once() {
        let many = format!("FLAGS {}", "Pb".repeat(10_000));
        let Ok(ClientCommand::List(filter)) = list(&words(&many), Dialect::Valkey9) else { panic!() };
        assert_eq!(filter.flags.is.as_deref(), Some(b"bP".as_slice()));
    }

    #[test]
    fn errors_are_one_line() {
        let line = repeating("-ERR '", b"a\r\nb\0c", "'");
        assert_eq!(&*line, b"-ERR 'a  b'");
    }
}
