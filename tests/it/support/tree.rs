//! Replies as trees, for tests that ask a server about its commands.

/// A reply of RESP2, as far as COMMAND and COMMAND DOCS need it.
#[derive(Debug)]
pub enum Reply {
    Text(String),
    Many(Vec<Reply>),
}

/// Reads one reply from the front of `bytes`.
pub fn parse(bytes: &mut &[u8]) -> Reply {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a line");
    let (line, rest) = (String::from_utf8_lossy(&bytes[1..end]).into_owned(), &bytes[end + 2..]);
    let (kind, mut rest) = (bytes[0], rest);
    let reply = match kind {
        b'*' => Reply::Many((0..line.parse().expect("a count")).map(|_| parse(&mut rest)).collect()),
        b'$' => {
            let length: usize = line.parse().expect("a length");
            let text = String::from_utf8_lossy(&rest[..length]).into_owned();
            rest = &rest[length + 2..];
            Reply::Text(text)
        }
        _ => Reply::Text(line),
    };
    *bytes = rest;
    reply
}

/// The elements of an array.
#[track_caller]
pub fn many(reply: &Reply) -> &[Reply] {
    if let Reply::Many(replies) = reply { replies } else { panic!("no array: {reply:?}") }
}

/// A string.
#[track_caller]
pub fn text(reply: &Reply) -> &str {
    if let Reply::Text(text) = reply { text } else { panic!("no text: {reply:?}") }
}
