//! Encodes requests.

use super::super::write;

/// Appends a request in canonical form to `out`.
pub fn encode(args: &[&[u8]], out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    out.push(b'*');
    out.extend_from_slice(digits.format(args.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
    for arg in args {
        write::bulk(out, arg);
    }
}
