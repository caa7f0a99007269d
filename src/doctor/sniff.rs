//! Finds out which protocol a port speaks if it is not the configured one.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::net::connect::Dialer;
use crate::topology::Address;

/// The time limit for the first bytes of the port.
const SNIFF_TIMEOUT: Duration = Duration::from_secs(1);

/// The smallest ClientHello (RFC 5246, 7.4.1.2): TLS 1.2, one cipher suite, no extension. A TLS server answers it with
/// a handshake or an alert, and both prove that the port speaks TLS.
const CLIENT_HELLO: [u8; 50] = [
    0x16, 0x03, 0x01, 0x00, 0x2d, // record: handshake, 45 bytes
    0x01, 0x00, 0x00, 0x29, // ClientHello, 41 bytes
    0x03, 0x03, // TLS 1.2
    b'r', b'e', b's', b'p', b'g', b'a', b't', b'e', b' ', b'd', b'o', b'c', b't', b'o', b'r', b' ', //
    b'a', b's', b'k', b's', b' ', b'w', b'h', b'a', b't', b' ', b't', b'h', b'i', b's', b' ',
    b'i', // random
    0x00, // no session
    0x00, 0x02, 0xc0, 0x2f, // ECDHE_RSA_WITH_AES_128_GCM_SHA256
    0x01, 0x00, // no compression
];

/// A command that every server and Sentinel answers, at least with an error.
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Returns true if the port answers a TLS handshake with TLS.
pub(super) async fn speaks_tls(to: &Address) -> bool {
    first_bytes(to, &CLIENT_HELLO).await.is_some_and(|bytes| is_tls(&bytes))
}

/// Returns true if the port answers a plain-text command in plain text.
pub(super) async fn speaks_resp(to: &Address) -> bool {
    first_bytes(to, PING).await.is_some_and(|bytes| is_resp(&bytes))
}

/// Returns true for a handshake or an alert record of SSL 3 or any TLS.
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, ..])
}

/// Returns true for `+PONG` or an error reply.
fn is_resp(bytes: &[u8]) -> bool {
    matches!(bytes, [b'+' | b'-', b'A'..=b'Z', ..])
}

async fn first_bytes(to: &Address, question: &[u8]) -> Option<Vec<u8>> {
    let ask = async {
        let mut stream = Dialer::default().dial(to).await.ok()?;
        stream.write_all(question).await.ok()?;
        let mut bytes = vec![0; 2];
        stream.read_exact(&mut bytes).await.ok()?;
        Some(bytes)
    };
    timeout(SNIFF_TIMEOUT, ask).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn the_hello_is_as_long_as_it_says() {
        assert_eq!(usize::from(CLIENT_HELLO[4]), CLIENT_HELLO.len() - 5);
        assert_eq!(usize::from(CLIENT_HELLO[8]), CLIENT_HELLO.len() - 9);
        assert!(is_tls(&CLIENT_HELLO) && is_tls(&[0x15, 0x03]) && !is_tls(b"-ERR"));
        assert!(is_resp(b"+PONG") && is_resp(b"-NOAUTH") && !is_resp(b"HTTP/1.1") && !is_resp(b"\x15\x03"));
    }

    #[tokio::test]
    async fn the_first_bytes_decide() {
        for (says, tls, resp) in [
            (&b"\x15\x03\x03\x00"[..], true, false),
            (b"-ERR Protocol error", false, true),
            (b"", false, false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let to = Address::tcp("127.0.0.1", listener.local_addr().unwrap().port());
            let server = tokio::spawn(async move {
                for _ in 0..2 {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let _ = stream.read(&mut [0; 64]).await;
                    stream.write_all(says).await.unwrap();
                }
            });
            assert_eq!((speaks_tls(&to).await, speaks_resp(&to).await), (tls, resp));
            server.await.unwrap();
        }
    }
}
