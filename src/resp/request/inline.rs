//! Splits inline commands: lines of words, as a user types them into telnet. respgate re-encodes them and never
//! forwards the line itself.

use super::encode::encode;
use super::error::RequestError;
use super::limits::RequestLimits;

/// Splits a line into words as the server does (sds.c, sdssplitargs) and encodes them in canonical form. Returns `None`
/// if the line has no words.
///
/// The limits on arguments for clients that have not authenticated do not apply to the words, because a line is short;
/// the server does not apply them either.
///
/// # Errors
///
/// Returns an error if quotes are unbalanced, the line contains NUL, or the request exceeds the limits.
pub fn split_inline(line: &[u8], limits: &RequestLimits) -> Result<Option<Vec<u8>>, RequestError> {
    if line.contains(&0) {
        return Err(RequestError::Nul);
    }
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // One buffer holds all words and `ends` their ends: a line may have thousands of words.
    let mut text = Vec::with_capacity(line.len());
    let mut ends = Vec::new();
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
        let start = text.len();
        word(&mut rest, &mut text)?;
        if !limits.unauthenticated && text.len() - start > limits.max_bulk {
            return Err(RequestError::Bulk);
        }
        if !limits.unauthenticated && ends.len() >= limits.max_args as usize {
            return Err(RequestError::Args);
        }
        ends.push(text.len());
    }
    if ends.is_empty() {
        return Ok(None);
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let words = starts.zip(&ends).map(|(start, end)| text.get(start..*end).unwrap_or_default());
    let words: Vec<&[u8]> = words.collect();
    let mut frame = Vec::with_capacity(line.len() + 16 * words.len());
    encode(&words, &mut frame);
    if frame.len() > limits.max_request {
        return Err(RequestError::Request(limits.max_request));
    }
    Ok(Some(frame))
}

/// Returns true if the byte separates words: the bytes of C's isspace in the server's locale.
pub(super) fn is_space(byte: u8) -> bool {
    ends_word(byte) || matches!(byte, 0x0b | 0x0c)
}

/// Returns true if the byte ends a word. A vertical tab and a form feed do not: `a\vb` is one word (observed on valkey
/// 8.0).
fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Appends one word to `text`. Quotes may begin in the middle of a word; a blank or the end of the line must follow a
/// closing quote.
fn word(rest: &mut &[u8], text: &mut Vec<u8>) -> Result<(), RequestError> {
    while let [first, tail @ ..] = *rest {
        *rest = tail;
        match first {
            byte if ends_word(*byte) => break,
            b'"' => {
                double_quoted(rest, text)?;
                return closed(rest);
            }
            b'\'' => {
                single_quoted(rest, text)?;
                return closed(rest);
            }
            byte => text.push(*byte),
        }
    }
    Ok(())
}

fn closed(rest: &[u8]) -> Result<(), RequestError> {
    match rest.first() {
        Some(next) if !is_space(*next) => Err(RequestError::Quotes),
        _ => Ok(()),
    }
}

fn double_quoted(rest: &mut &[u8], word: &mut Vec<u8>) -> Result<(), RequestError> {
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
            [] => return Err(RequestError::Quotes),
        }
    }
}

fn single_quoted(rest: &mut &[u8], word: &mut Vec<u8>) -> Result<(), RequestError> {
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
            [] => return Err(RequestError::Quotes),
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
