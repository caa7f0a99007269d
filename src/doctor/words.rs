//! Formats numbers, lists and servers' error lines for people.

use std::time::Duration;

use crate::resp::server_error::code;
use crate::secret::Credentials;

/// The greatest number of characters of a server's line to show.
const LONGEST: usize = 200;

/// Formats a duration, as in `0.12 ms` or `250 ms`.
pub(super) fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 1.0 => format!("{ms:.2} ms"),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

/// Formats a list, as in `a, b and c`.
pub(super) fn list(items: impl IntoIterator<Item = String>) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    match (items.pop(), items.is_empty()) {
        (None, _) => String::new(),
        (Some(only), true) => only,
        (Some(last), false) => format!("{} and {last}", items.join(", ")),
    }
}

/// Formats a number with a noun, as in `1 replica` or `2 replicas`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Returns a server's error line without parts that must stay secret. Servers quote the arguments of a command that
/// they do not know, cut off at some length, and the arguments of AUTH contain a password.
pub(super) fn quoted(line: &[u8], credentials: Option<&Credentials>) -> String {
    let secret = credentials.map(|credentials| credentials.password.expose()).unwrap_or_default();
    let beginning = secret.get(..8).unwrap_or(secret);
    let leaks = !beginning.is_empty() && memchr::memmem::find(line, beginning).is_some();
    let shown = if leaks { code(line) } else { line };
    let mut text: String = shown.escape_ascii().to_string().chars().take(LONGEST).collect();
    if leaks || shown.len() > LONGEST {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn figures_and_lists() {
        let shown = |us| milliseconds(Duration::from_micros(us));
        assert_eq!([shown(120), shown(2340), shown(250_000)], ["0.12 ms", "2.3 ms", "250 ms"]);
        let of = |items: &[&str]| list(items.iter().map(|item| (*item).to_owned()));
        assert_eq!([of(&[]), of(&["a"]), of(&["a", "b", "c"])], ["", "a", "a, b and c"]);
        assert_eq!([count(1, "replica"), count(0, "replica")], ["1 replica", "0 replicas"]);
    }

    #[test]
    fn a_password_that_the_server_quotes_is_not_shown() {
        let credentials = Credentials { username: None, password: Secret::new("hunter2") };
        let line = b"ERR unknown command 'AUTH', with args beginning with: 'hunter2' ";
        assert_eq!(quoted(line, Some(&credentials)), "ERR…");
        let long = Credentials { username: None, password: Secret::new("0123456789abcdef") };
        assert_eq!(quoted(b"ERR unknown command 'AUTH', with args '0123456789a", Some(&long)), "ERR…");
        assert_eq!(quoted(b"WRONGPASS no", Some(&credentials)), "WRONGPASS no");
        assert_eq!(quoted(&[b'x'; 300], None).chars().count(), 201);
    }
}
