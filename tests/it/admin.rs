//! The admin listener while others hold its connections.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// A connection on which `bytes` were written, and which is not read.
fn held(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the admin listener");
    stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    // What does not fit is not needed.
    let _ = stream.write_all(bytes);
    stream
}

/// Clients that do not read, that send half a request, or that keep their connection keep no probe waiting.
#[test]
fn probes_are_answered_whoever_holds_connections() {
    let server = Server::start(Flavor::Valkey);
    let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let many = request("/metrics").repeat(500);
    for bytes in [&*many, "GET /metrics HTTP/1.1\r\nHost: x\r\n", "", &request("/livez")] {
        for count in [70, 500] {
            let address = SocketAddr::from(([127, 0, 0, 1], proxy.admin));
            let holders: Vec<_> = (0..count).map(|_| held(address, bytes.as_bytes())).collect();
            for path in ["/livez", "/readyz", "/metrics"] {
                let answer = proxy.http(path);
                assert!(
                    answer.starts_with("HTTP/1.1 200"),
                    "{path} with {count} holders of {:?}: {answer:?}",
                    bytes.get(..20)
                );
            }
            drop(holders);
        }
    }
}

/// Who sends no whole request, or takes no answer, is disconnected.
#[test]
fn a_slow_peer_loses_its_connection() {
    let server = Server::start(Flavor::Redis);
    let proxy = Proxy::start_with(
        &format!("redis://127.0.0.1:{}", server.port),
        1,
        &["--log-level", "respgate::admin=debug"],
    );
    let address = SocketAddr::from(([127, 0, 0, 1], proxy.admin));
    let connections = || proxy.log().matches("an admin connection").count();
    let many = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(500);
    let _slow: Vec<_> =
        ["GET /livez HTTP/1.1\r\n", &many].iter().map(|bytes| held(address, bytes.as_bytes())).collect();
    let limit = Duration::from_secs(60);
    wait::until_some("both to be disconnected", limit, || (connections() == 2).then_some(()));
}
