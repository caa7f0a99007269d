//! Reads of sockets.

use std::io::{self, ErrorKind, Read};

/// Reads once. Some kernels interrupt a read with a time limit without a signal that anybody handles; then it reads again.
pub fn once(stream: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}
