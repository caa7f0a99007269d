//! Reads headers of the PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt), in which a
//! load balancer names the client of a connection. It reads exactly the header, because TLS may
//! follow.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ppp::{HeaderResult, v1, v2};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Time within which the whole header must arrive.
const DEADLINE: Duration = Duration::from_secs(5);
/// Length of the shortest header, `PROXY UNKNOWN` with CRLF, in bytes.
const SHORTEST: usize = 15;
/// Length of the longest header of version 1, in bytes.
const LONGEST_V1: usize = 107;
/// Length of a version 2 header up to and including its length field, in bytes.
const FIXED_V2: usize = 16;
/// Length of the longest version 2 header that is accepted, in bytes: 216 for addresses, and the
/// rest for extensions such as a certificate's name.
const LONGEST_V2: usize = 4096;
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The two ends of a connection that a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

/// Why no header could be read.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// The peer closed the connection before it sent a byte, as health checks do.
    #[error("the peer closed the connection before it sent anything")]
    Nothing,
    /// The first bytes are not a header.
    #[error("the peer's first bytes are not a PROXY header")]
    Other,
    /// The header has no end, or violates the protocol.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(String),
    /// The header did not arrive in time.
    #[error("the peer sent no PROXY header within 5 s")]
    Late,
    /// The connection failed.
    #[error("{0}")]
    Failed(#[from] io::Error),
}

/// Reads the header at the start of a connection. Returns `None` if the connection speaks for
/// itself (`LOCAL`, `UNKNOWN`, or not TCP).
///
/// # Errors
/// Returns a [`HeaderError`] if there is no valid header. The caller must then close the
/// connection.
pub async fn read(stream: &mut TcpStream) -> Result<Option<Ends>, HeaderError> {
    let header = tokio::time::timeout(DEADLINE, header(stream)).await.map_err(|_| HeaderError::Late)??;
    parse(&header)
}

async fn header(stream: &mut TcpStream) -> Result<Vec<u8>, HeaderError> {
    // A first read of the shortest length cannot consume a byte behind the header.
    let mut header = vec![0; SHORTEST];
    let first = stream.read(&mut header).await?;
    if first == 0 {
        return Err(HeaderError::Nothing);
    }
    if !could_begin(header.get(..first).unwrap_or_default()) {
        return Err(HeaderError::Other);
    }
    stream.read_exact(header.get_mut(first..).unwrap_or_default()).await?;
    if header.starts_with(SIGNATURE_V2) {
        header.push(stream.read_u8().await?);
        let length =
            header.get(FIXED_V2 - 2..).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes);
        let whole = FIXED_V2 + usize::from(length.unwrap_or_default());
        if whole > LONGEST_V2 {
            return Err(HeaderError::Malformed(format!("{whole} bytes are more than {LONGEST_V2}")));
        }
        header.resize(whole, 0);
        stream.read_exact(header.get_mut(FIXED_V2..).unwrap_or_default()).await?;
        return Ok(header);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(HeaderError::Other);
    }
    while !header.ends_with(b"\n") {
        // A version 1 header ends at the first newline. `peek` leaves the bytes in the socket, so
        // that only those up to the newline are consumed.
        let mut ahead = [0; LONGEST_V1];
        let room = LONGEST_V1.saturating_sub(header.len());
        let seen = stream.peek(ahead.get_mut(..room).unwrap_or_default()).await?;
        if seen == 0 {
            return Err(HeaderError::Malformed(format!("{} bytes and no end", header.len())));
        }
        let seen = ahead.get(..seen).unwrap_or_default();
        let take = memchr::memchr(b'\n', seen).map_or(seen.len(), |at| at + 1);
        let from = header.len();
        header.resize(from + take, 0);
        stream.read_exact(header.get_mut(from..).unwrap_or_default()).await?;
    }
    Ok(header)
}

/// Returns true if `bytes` may be the start of a header. It lets the reader reject a client of
/// another protocol at once.
fn could_begin(bytes: &[u8]) -> bool {
    [SIGNATURE_V2, b"PROXY "].iter().any(|signature| {
        let common = signature.len().min(bytes.len());
        signature.get(..common) == bytes.get(..common)
    })
}

fn parse(header: &[u8]) -> Result<Option<Ends>, HeaderError> {
    let ends = |source: SocketAddr, destination| Some(Ends { source, destination });
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(ip) => ends(
                (ip.source_address, ip.source_port).into(),
                (ip.destination_address, ip.destination_port).into(),
            ),
            v1::Addresses::Tcp6(ip) => ends(
                (ip.source_address, ip.source_port).into(),
                (ip.destination_address, ip.destination_port).into(),
            ),
        }),
        HeaderResult::V2(Ok(header)) => Ok(match (header.command, header.addresses) {
            (v2::Command::Local, _) => None,
            (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
            (_, v2::Addresses::IPv4(ip)) => ends(
                (ip.source_address, ip.source_port).into(),
                (ip.destination_address, ip.destination_port).into(),
            ),
            (_, v2::Addresses::IPv6(ip)) => ends(
                (ip.source_address, ip.source_port).into(),
                (ip.destination_address, ip.destination_port).into(),
            ),
        }),
        HeaderResult::V1(Err(error)) => Err(HeaderError::Malformed(error.to_string())),
        HeaderResult::V2(Err(error)) => Err(HeaderError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Returns the header read from `bytes`, and the bytes after it.
    async fn reads(bytes: &[u8]) -> (Result<Option<Ends>, HeaderError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        client.write_all(bytes).await.unwrap();
        drop(client);
        let result = read(&mut stream).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        (result, rest)
    }

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = [SIGNATURE_V2, &[0x20 | command, family]].concat();
        header.extend((addresses.len() as u16).to_be_bytes());
        header.extend(addresses);
        header
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x18, 0xEB];

    #[tokio::test]
    async fn both_versions_name_the_client() {
        let expected = Ends {
            source: "192.0.2.7:12345".parse().unwrap(),
            destination: "10.0.0.1:6379".parse().unwrap(),
        };
        for header in [
            b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 6379\r\n".to_vec(),
            v2(1, 0x11, &IPV4),
            // An extension follows the addresses.
            v2(1, 0x11, &[&IPV4[..], &[4, 0, 3, 1, 2, 3]].concat()),
        ] {
            let (ends, rest) = reads(&[&header[..], b"PING\r\n"].concat()).await;
            assert_eq!(ends.unwrap(), Some(expected));
            assert_eq!(rest, b"PING\r\n", "exactly the header is read");
        }
        let (ends, _) = reads(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n").await;
        assert_eq!(ends.unwrap().unwrap().source, "[2001:db8::1]:1".parse().unwrap());
    }

    #[tokio::test]
    async fn some_speak_for_themselves() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ff ff 1 2\r\n".to_vec(),
            v2(0, 0, &[]),
            v2(0, 0x11, &IPV4),
        ] {
            let (ends, rest) = reads(&[&header[..], b"x"].concat()).await;
            assert_eq!(ends.unwrap(), None, "{}", header.escape_ascii());
            assert_eq!(rest, b"x");
        }
    }

    #[tokio::test]
    async fn anything_else_is_an_error() {
        assert!(matches!(reads(b"").await.0, Err(HeaderError::Nothing)));
        assert!(matches!(reads(b"PING\r\n").await.0, Err(HeaderError::Other)));
        assert!(matches!(reads(b"*1\r\n$4\r\nPING\r\n*1\r\n").await.0, Err(HeaderError::Other)));
        for header in [
            b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 6379\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 6379\r\n".to_vec(),
            [&b"PROXY TCP6 "[..], &b"x".repeat(200)].concat(),
            v2(1, 0x11, &IPV4[..4]),
            v2(1, 0x11, &[0; 5000]),
        ] {
            let (ends, _) = reads(&header).await;
            assert!(matches!(ends, Err(HeaderError::Malformed(_))), "{}: {ends:?}", header.escape_ascii());
        }
        assert!(matches!(reads(b"PROXY TCP4 1").await.0, Err(HeaderError::Failed(_))));
    }
}
