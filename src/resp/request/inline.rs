//! Inline commands: a line of words, as typed into telnet. They are re-encoded, never forwarded as they are.

use super::{RequestFault, RequestLimits, encode};

/// Splits a line into words as the server does (sds.c, sdssplitargs) and encodes them canonically. `None`: the
/// line has no words.
///
/// A line is short, so the bounds for clients that have not authenticated do not apply to its words; nor do they on
/// the server.
///
/// # Errors
/// Unbalanced quotes, a NUL, or a request beyond the limits.
pub fn split_inline(line: &[u8], limits: &RequestLimits) -> Result<Option<Vec<u8>>, RequestFault> {
    if line.contains(&0) {
        return Err(RequestFault::Nul);
    }
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut rest = line;
    loop {
        while let [first, tail @ ..] = rest
            && is_space(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            break;
        }
        let word = word(&mut rest)?;
        if !limits.unauthenticated && word.len() > limits.max_bulk {
            return Err(RequestFault::Bulk);
        }
        if !limits.unauthenticated && words.len() >= limits.max_args as usize {
            return Err(RequestFault::Args);
        }
        words.push(word);
    }
    if words.is_empty() {
        return Ok(None);
    }
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let mut frame = Vec::with_capacity(line.len() + 16 * words.len());
    encode(&words, &mut frame);
    if frame.len() > limits.max_request {
        return Err(RequestFault::Request(limits.max_request));
    }
    Ok(Some(frame))
}

/// What may stand between words: C's isspace in the server's locale.
pub(super) fn is_space(byte: u8) -> bool {
    ends_word(byte) || matches!(byte, 0x0b | 0x0c)
}

/// What ends a word. A vertical tab and a form feed do not: `a\vb` is one word (observed on valkey 8.0).
fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// One word. Quotes may begin in its middle; a closing quote must be followed by a blank or the end.
fn word(rest: &mut &[u8]) -> Result<Vec<u8>, RequestFault> {
    let mut word = Vec::new();
    while let [first, tail @ ..] = *rest {
        *rest = tail;
        match first {
            byte if ends_word(*byte) => break,
            b'"' => {
                double_quoted(rest, &mut word)?;
                return closed(rest, word);
            }
            b'\'' => {
                single_quoted(rest, &mut word)?;
                return closed(rest, word);
            }
            byte => word.push(*byte),
        }
    }
    Ok(word)
}

fn closed(rest: &[u8], word: Vec<u8>) -> Result<Vec<u8>, RequestFault> {
    match rest.first() {
        Some(next) if !is_space(*next) => Err(RequestFault::Quotes),
        _ => Ok(word),
    }
}

fn double_quoted(rest: &mut &[u8], word: &mut Vec<u8>) -> Result<(), RequestFault> {
    loop {
        match *rest {
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                *rest = tail;
            }
            [b'\\', escaped, tail @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                *rest = tail;
            }
            [b'"', tail @ ..] => {
                *rest = tail;
                return Ok(());
            }
            [byte, tail @ ..] => {
                word.push(*byte);
                *rest = tail;
            }
            [] => return Err(RequestFault::Quotes),
        }
    }
}

fn single_quoted(rest: &mut &[u8], word: &mut Vec<u8>) -> Result<(), RequestFault> {
    loop {
        match *rest {
            [b'\\', b'\'', tail @ ..] => {
                word.push(b'\'');
                *rest = tail;
            }
            [b'\'', tail @ ..] => {
                *rest = tail;
                return Ok(());
            }
            [byte, tail @ ..] => {
                word.push(*byte);
                *rest = tail;
            }
            [] => return Err(RequestFault::Quotes),
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}
