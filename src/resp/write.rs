//! Encodes replies that respgate writes itself. All functions append to a buffer.

use super::Resp;

fn header(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends `+OK`.
pub fn ok(out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK\r\n");
}

/// Appends a simple string. `text` must not contain CR or LF.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends an integer.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    out.push(b':');
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends text: a bulk string in RESP2, a verbatim string in RESP3.
pub fn verbatim(out: &mut Vec<u8>, resp: Resp, text: &[u8]) {
    verbatim_head(out, resp, text.len());
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// Appends the beginning of [`verbatim`]. The caller appends `len` bytes of text and a CRLF.
pub fn verbatim_head(out: &mut Vec<u8>, resp: Resp, len: usize) {
    match resp {
        Resp::V2 => header(out, b'$', len),
        Resp::V3 => {
            header(out, b'=', len + 4);
            out.extend_from_slice(b"txt:");
        }
    }
}

/// Appends a null.
pub fn null(out: &mut Vec<u8>, resp: Resp) {
    out.extend_from_slice(match resp {
        Resp::V2 => b"$-1\r\n",
        Resp::V3 => b"_\r\n",
    });
}

/// Appends the header of an array, whose elements the caller appends next.
pub fn array(out: &mut Vec<u8>, elements: usize) {
    header(out, b'*', elements);
}

/// Appends the header of a map; in RESP2 that of an array with twice as many elements as the map has pairs.
pub fn map(out: &mut Vec<u8>, resp: Resp, pairs: usize) {
    match resp {
        Resp::V2 => header(out, b'*', pairs * 2),
        Resp::V3 => header(out, b'%', pairs),
    }
}

/// Appends the header of a push; in RESP2 that of an array.
pub fn push(out: &mut Vec<u8>, resp: Resp, elements: usize) {
    match resp {
        Resp::V2 => header(out, b'*', elements),
        Resp::V3 => header(out, b'>', elements),
    }
}

/// Appends an array of simple strings, the form of HELP replies.
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
