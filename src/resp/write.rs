//! Replies that respgate writes itself. All functions append to a buffer.

use super::Resp;

fn header(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `+OK`.
pub fn ok(out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK\r\n");
}

/// A simple string, which must not contain CR or LF.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// An integer.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    out.push(b':');
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Text: a bulk string in RESP2, a verbatim string in RESP3.
pub fn verbatim(out: &mut Vec<u8>, resp: Resp, text: &[u8]) {
    match resp {
        Resp::V2 => bulk(out, text),
        Resp::V3 => {
            header(out, b'=', text.len() + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// The absence of a value.
pub fn null(out: &mut Vec<u8>, resp: Resp) {
    out.extend_from_slice(match resp {
        Resp::V2 => b"$-1\r\n",
        Resp::V3 => b"_\r\n",
    });
}

/// The header of an array; its elements follow.
pub fn array(out: &mut Vec<u8>, elements: usize) {
    header(out, b'*', elements);
}

/// The header of a map: in RESP2 an array of twice as many elements.
pub fn map(out: &mut Vec<u8>, resp: Resp, pairs: usize) {
    match resp {
        Resp::V2 => header(out, b'*', pairs * 2),
        Resp::V3 => header(out, b'%', pairs),
    }
}

/// The header of a push: in RESP2 an array.
pub fn push(out: &mut Vec<u8>, resp: Resp, elements: usize) {
    match resp {
        Resp::V2 => header(out, b'*', elements),
        Resp::V3 => header(out, b'>', elements),
    }
}

/// An array of simple strings, as HELP replies are.
pub fn lines(out: &mut Vec<u8>, lines: &[&str]) {
    array(out, lines.len());
    lines.iter().for_each(|line| simple(out, line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_own_shapes() {
        let shape = |resp| {
            let mut out = Vec::new();
            null(&mut out, resp);
            map(&mut out, resp, 1);
            push(&mut out, resp, 3);
            verbatim(&mut out, resp, b"ab");
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shape(Resp::V2), "$-1\r\n*2\r\n*3\r\n$2\r\nab\r\n");
        assert_eq!(shape(Resp::V3), "_\r\n%1\r\n>3\r\n=6\r\ntxt:ab\r\n");
    }
}
