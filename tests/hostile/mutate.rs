//! Damage to commands and to their bytes.

use fastrand::Rng;

use crate::grammar::Command;
use crate::words::Words;

/// The longest argument that a mutation makes, in bytes.
const LONG: usize = 256 * 1024;

/// What stands between or within frames and should not.
const PIECES: [&[u8]; 30] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"  \r\n",
    b"\0",
    b"*0\r\n",
    b"*1\r\n",
    b"*-1\r\n",
    b"*-2147483648\r\n",
    b"*1048577\r\n",
    b"*2147483648\r\n",
    b"*9223372036854775807\r\n",
    b"*+1\r\n",
    b"*01\r\n",
    b"*1\r\n*1\r\n*1\r\n",
    b"$-1\r\n",
    b"$0\r\n",
    b"$0\r\n\r\n",
    b"$536870913\r\n",
    b"$4294967297\r\n",
    b"$18446744073709551615\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"PING\r\n",
    b"SET \"a:k1\" \"\\x00\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\n\r\n",
    b"PROXY TCP4 127.0.0.9 127.0.0.1 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x09\x7f\x00\x00\x01\x00\x01\x00\x02",
    b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    b">2\r\n+invalidate\r\n_\r\n",
];

/// Damages one argument, or the list of arguments.
pub fn command(command: &mut Command, rng: &mut Rng, words: &Words) {
    let arguments = &mut command.arguments;
    let any = rng.usize(..arguments.len());
    // A command with a damaged name does nothing.
    let options: Vec<usize> =
        command.words.iter().copied().filter(|word| (1..arguments.len()).contains(word)).collect();
    let word = options.get(rng.usize(..options.len().max(1))).copied().unwrap_or(any);
    match rng.u8(..18) {
        // Servers compare words as C strings.
        0..3 | 16.. => behead(&mut arguments[word], rng),
        3 => behead(&mut arguments[any], rng),
        4 => recase(&mut arguments[word], rng),
        5 => {
            arguments.remove(any);
        }
        6 => arguments.insert(any, arguments[any].clone()),
        7 => {
            let other = rng.usize(..arguments.len());
            arguments.swap(any, other);
        }
        8 => arguments[any] = words.any_text(rng),
        9 => arguments[any] = words.any_number(rng),
        10 => arguments.push(words.any_text(rng)),
        11 => arguments.insert(any, words.key(rng)),
        12 => {
            let length = rng.usize(..arguments[any].len().max(1));
            arguments[any].truncate(length);
        }
        13 => arguments[any].extend(words.any_text(rng)),
        14 => arguments[any].extend(PIECES[rng.usize(..PIECES.len())]),
        15 => {
            let length = 1 << rng.u32(4..=LONG.trailing_zeros());
            let byte = rng.u8(..);
            arguments[any].resize(length, byte);
        }
    }
    if arguments.is_empty() {
        arguments.push(Vec::new());
    }
}

/// Ends the word for whoever compares C strings, and goes on for whoever does not.
fn behead(word: &mut Vec<u8>, rng: &mut Rng) {
    word.push(0);
    if rng.bool() {
        word.push(rng.u8(..));
    }
}

fn recase(word: &mut [u8], rng: &mut Rng) {
    for byte in word {
        if rng.bool() {
            *byte = if rng.bool() { byte.to_ascii_lowercase() } else { byte.to_ascii_uppercase() };
        }
    }
}

/// Damages the bytes of frames.
pub fn bytes(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.usize(..bytes.len());
    let end = rng.usize(at..bytes.len().min(at + 40));
    match rng.u8(..8) {
        0 => bytes[at] = rng.u8(..),
        1 => bytes[at] ^= 1 << rng.u8(..8),
        2 => {
            bytes.drain(at..=end);
        }
        3 => {
            let again = bytes[at..=end].to_vec();
            bytes.splice(at..at, again);
        }
        4 => bytes.truncate(at),
        5 => lie(bytes, rng),
        _ => {
            let piece = PIECES[rng.usize(..PIECES.len())];
            bytes.splice(at..at, piece.iter().copied());
        }
    }
}

/// Changes one of the lengths in the headers.
fn lie(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let headers: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, byte)| matches!(byte, b'*' | b'$')).map(|(at, _)| at).collect();
    let Some(&at) = headers.get(rng.usize(..headers.len().max(1))) else { return };
    let end = bytes[at..].iter().position(|byte| *byte == b'\r').map_or(bytes.len(), |length| at + length);
    let length = std::str::from_utf8(&bytes[at + 1..end]).ok().and_then(|text| text.parse::<i64>().ok());
    let lie = match rng.u8(..5) {
        0 => length.unwrap_or_default().wrapping_add(1).to_string(),
        1 => length.unwrap_or_default().wrapping_sub(1).to_string(),
        2 => format!("0{}", length.unwrap_or_default()),
        3 => format!("-{}", length.unwrap_or_default()),
        _ => rng.i64(..).to_string(),
    };
    bytes.splice(at + 1..end, lie.into_bytes());
}
