//! A session: what several clients do, on a fixed schedule; and its text, which can be run again.

use std::fmt::{self, Write as _};

/// A command and its arguments.
pub type Request = Vec<Vec<u8>>;

/// What one client does next. A client that is not connected, connects first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes these requests at once.
    Send { client: usize, requests: Vec<Request> },
    /// Writes the same request many times at once, before it reads the first reply.
    Bulk { client: usize, request: Request, count: usize },
    /// Ends its connection.
    Leave { client: usize },
    /// Writes one request, and leaves as soon as anything comes back, whatever that is.
    Hit { client: usize, request: Request },
}

impl Step {
    pub fn client(&self) -> usize {
        match self {
            Self::Send { client, .. }
            | Self::Bulk { client, .. }
            | Self::Leave { client }
            | Self::Hit { client, .. } => *client,
        }
    }
}

/// Several clients and their schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// For each client, whether it reaches respgate by a unix socket rather than TCP.
    pub unix: Vec<bool>,
    pub steps: Vec<Step>,
}

impl Session {
    /// Requests in it.
    pub fn commands(&self) -> usize {
        let of = |step: &Step| match step {
            Step::Send { requests, .. } => requests.len(),
            Step::Bulk { count, .. } => *count,
            Step::Leave { .. } => 0,
            Step::Hit { .. } => 1,
        };
        self.steps.iter().map(of).sum()
    }
}

/// Sessions after one another, as text.
pub fn script(sessions: &[Session]) -> String {
    sessions.iter().map(Session::to_string).collect::<Vec<_>>().join("---\n")
}

/// Reads what [`script`] wrote. Lines that begin with `#` are comments.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse_script(text: &str) -> Result<Vec<Session>, String> {
    let mut sessions = vec![Session::default()];
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line == "---" {
            sessions.push(Session::default());
            continue;
        }
        let session = sessions.last_mut().expect("one session at least");
        read_line(session, line).ok_or_else(|| format!("cannot read this line of the script: {line}"))?;
    }
    Ok(sessions)
}

fn read_line(session: &mut Session, line: &str) -> Option<()> {
    let mut words = words(line)?.into_iter();
    let first = String::from_utf8(words.next()?).ok()?;
    if first == "clients" {
        session.unix = words.map(|word| word == b"unix").collect();
        return Some(());
    }
    let client: usize = first.trim_end_matches('+').parse().ok()?;
    session.unix.resize(session.unix.len().max(client + 1), false);
    let mut rest: Vec<Vec<u8>> = words.collect();
    match &*rest.first()?.clone() {
        b"!leave" => session.steps.push(Step::Leave { client }),
        b"!hit" => session.steps.push(Step::Hit { client, request: rest.split_off(1) }),
        b"!bulk" => {
            let count = std::str::from_utf8(rest.get(1)?).ok()?.parse().ok()?;
            session.steps.push(Step::Bulk { client, request: rest.split_off(2), count });
        }
        _ => match session.steps.last_mut() {
            Some(Step::Send { client: last, requests }) if first.ends_with('+') && *last == client => {
                requests.push(rest);
            }
            _ => session.steps.push(Step::Send { client, requests: vec![rest] }),
        },
    }
    Some(())
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clients")?;
        for unix in &self.unix {
            write!(f, " {}", if *unix { "unix" } else { "tcp" })?;
        }
        writeln!(f)?;
        for step in &self.steps {
            match step {
                Step::Send { client, requests } => {
                    for (index, request) in requests.iter().enumerate() {
                        let batch = if index > 0 { "+" } else { "" };
                        writeln!(f, "{client}{batch} {}", show(request))?;
                    }
                }
                Step::Bulk { client, request, count } => {
                    writeln!(f, "{client} !bulk {count} {}", show(request))?;
                }
                Step::Leave { client } => writeln!(f, "{client} !leave")?,
                Step::Hit { client, request } => writeln!(f, "{client} !hit {}", show(request))?,
            }
        }
        Ok(())
    }
}

/// A request as a line of a script.
pub fn show(request: &Request) -> String {
    request.iter().map(|word| show_word(word)).collect::<Vec<_>>().join(" ")
}

fn show_word(word: &[u8]) -> String {
    if let Some(first) = word.first()
        && word.len() > 64
        && word.iter().all(|byte| byte == first)
        && first.is_ascii_alphanumeric()
    {
        return format!("@{}*{}", word.len(), *first as char);
    }
    let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\'@#".contains(byte);
    if !word.is_empty() && word.iter().all(plain) {
        return String::from_utf8_lossy(word).into_owned();
    }
    let mut quoted = String::from("\"");
    for byte in word {
        match byte {
            b'"' | b'\\' => {
                let _ = write!(quoted, "\\{}", *byte as char);
            }
            b' '..=b'~' => quoted.push(*byte as char),
            _ => {
                let _ = write!(quoted, "\\x{byte:02x}");
            }
        }
    }
    quoted.push('"');
    quoted
}

/// The words of a line.
fn words(line: &str) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut bytes = line.bytes().peekable();
    loop {
        while bytes.next_if_eq(&b' ').is_some() {}
        let Some(first) = bytes.next() else { return Some(words) };
        let mut word = Vec::new();
        if first == b'"' {
            loop {
                match bytes.next()? {
                    b'"' => break,
                    b'\\' => match bytes.next()? {
                        b'x' => {
                            let digits = [bytes.next()?, bytes.next()?];
                            word.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                        }
                        other => word.push(other),
                    },
                    other => word.push(other),
                }
            }
        } else {
            word.push(first);
            while let Some(byte) = bytes.next_if(|byte| *byte != b' ') {
                word.push(byte);
            }
            if first == b'@' {
                let text = String::from_utf8(word).ok()?;
                let (count, byte) = text[1..].split_once('*')?;
                word = vec![*byte.as_bytes().first()?; count.parse().ok()?];
            }
        }
        words.push(word);
    }
}
